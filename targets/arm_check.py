"""ARM truth before the phone: an ncnn artifact's answers as a Cortex-A76 computes them.

x86 hides what half precision does: ncnn computes an fp16 network in fp32 there, and one with
activations beyond 65504 is right on x86 and NaN on a phone. Here the native runner for aarch64 runs
under QEMU's user emulation, which executes the half-precision instructions themselves, and its
answers are judged against the reference's. Where fp16 fails, bf16 and then fp32 are tried.

(ncnn's way to keep single layers out of fp16, ``31=2`` in the param file, is no remedy: it crashes
on these CPUs, ncnn 1.0.20261020.)
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.artifact import Artifact
from edge.errors import DeviceError, ToolError
from targets.native import (
    NativeInput,
    NativeNetwork,
    NativePrecision,
    finished_run,
    read_dump,
    runner_argv,
    write_input,
)
from targets.programs import ProgramTimeoutError, run_program
from targets.runner_check import emulator_argv

__all__ = [
    "CPU",
    "Answer",
    "ArmCheck",
    "ArmImage",
    "ArmTry",
    "Judge",
    "check_on_arm",
    "not_checked",
]

Array = npt.NDArray[Any]

# Half-precision arithmetic and dot products, no bf16 and no i8mm: as the big cores of a
# Snapdragon 865 (Cortex-A77) and of a Raspberry Pi 5.
CPU = "cortex-a76"
_CPU_TEXT = f"{CPU} (emulated)"
# In the order of preference: fp16 is the fastest on these CPUs, fp32 the slowest.
_PRECISIONS: tuple[NativePrecision, ...] = ("fp16", "bf16", "fp32")


@dataclass(frozen=True)
class ArmImage:
    """One image: what goes in, and what the reference answers (by output of the artifact)."""

    name: str
    feeds: Mapping[str, Array]
    reference: Mapping[str, Array]


@dataclass(frozen=True)
class Answer:
    """What the reference says of an image and what the emulated CPU says."""

    name: str
    want: Mapping[str, Array]
    got: Mapping[str, npt.NDArray[np.float32]]


Judge = Callable[[Sequence[Answer]], Sequence[str]]
"""What is beyond the limits of the artifact's precision, over all images; nothing if it passed."""


@dataclass(frozen=True)
class ArmTry:
    """One arithmetic on the emulated CPU; ``seconds`` is the whole emulation, no latency."""

    passed: bool
    failures: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class ArmCheck:
    """Which arithmetic is safe on ARM.

    ``safe`` is the first of fp16, bf16 and fp32 whose answers are within the limits, None where
    none is or nothing was checked; ``reason`` then says why.
    """

    checked: bool
    safe: NativePrecision | None
    tried: Mapping[NativePrecision, ArmTry] = field(default_factory=dict)
    cpu: str = ""
    images: tuple[str, ...] = ()
    runner: str = ""
    reason: str = ""

    def text(self) -> str:
        """The verdict in a few words, for a table."""
        if not self.checked:
            return "arm: not checked"
        return f"arm: {self.safe} is safe" if self.safe else "arm: FAIL in every arithmetic"

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``artifact.json``."""
        return {
            "checked": self.checked,
            "safe": self.safe,
            "text": self.text(),
            "tried": {
                precision: {
                    "passed": one.passed,
                    "failures": list(one.failures[:3]),
                    "seconds": round(one.seconds, 1),
                }
                for precision, one in self.tried.items()
            },
            "cpu": self.cpu,
            "images": list(self.images),
            "runner": self.runner,
            "reason": self.reason,
        }


def not_checked(reason: str) -> ArmCheck:
    """The record of a check that did not take place."""
    return ArmCheck(checked=False, safe=None, reason=reason)


def check_on_arm(
    artifact: Artifact,
    images: Sequence[ArmImage],
    judge: Judge,
    runner: Path | None,
    *,
    precisions: Sequence[NativePrecision] = _PRECISIONS,
    timeout_s: float = 600.0,
    say: Callable[[str], None] | None = None,
) -> ArmCheck:
    """Run an ncnn artifact on an emulated Cortex-A76 and judge its answers.

    ``runner`` is the aarch64 runner. The precisions are tried in turn until one passes; one that
    crashes or gives values that are not finite has failed, whatever ``judge`` would say.
    ``timeout_s`` is for each image and precision. Where QEMU or the runner is absent, or one takes
    longer, the answer is a check that did not take place. Raises ValueError for fewer than two
    images.
    """
    if len(images) < 2:
        raise ValueError(f"the check on ARM takes two images or more, got {len(images)}")
    emulator = emulator_argv(CPU)
    if emulator is None:
        return not_checked("QEMU is not installed: apt-get install qemu-user-static")
    if runner is None:
        return not_checked("there is no native runner for aarch64")
    tried: dict[NativePrecision, ArmTry] = {}
    safe = None
    names = tuple(image.name for image in images)
    for precision in precisions:
        if say:
            say(f"{artifact.spec.name}: {len(images)} images in {precision} on {_CPU_TEXT}")
        start = time.monotonic()
        try:
            failures = _failures(
                [*emulator, str(runner)], artifact, images, precision, judge, timeout_s
            )
        except (ProgramTimeoutError, _NoRunnerError) as error:
            return not_checked(str(error))
        tried[precision] = ArmTry(not failures, tuple(failures), time.monotonic() - start)
        if not failures:
            safe = precision
            break
    reason = "" if safe else "; ".join(f"{p}: {one.failures[0]}" for p, one in tried.items())
    return ArmCheck(True, safe, tried, _CPU_TEXT, names, runner.name, reason)


class _NoRunnerError(ToolError):
    """The runner itself does not start: this says nothing of the network."""


def _failures(
    program: Sequence[str],
    artifact: Artifact,
    images: Sequence[ArmImage],
    precision: NativePrecision,
    judge: Judge,
    timeout_s: float,
) -> list[str]:
    """What is wrong with the answers in one precision; images after a broken one are not run."""
    answers = []
    for image in images:
        try:
            got = _run_one(program, artifact, image, precision, timeout_s)
        except DeviceError as error:
            return [f"{image.name}: {error}"]
        bad = {name: int((~np.isfinite(array)).sum()) for name, array in got.items()}
        if any(bad.values()):
            name = next(name for name, count in bad.items() if count)
            return [f"{name} of {image.name} holds {bad[name]} values that are not finite"]
        answers.append(Answer(image.name, image.reference, got))
    return list(judge(answers))


def _run_one(
    program: Sequence[str],
    artifact: Artifact,
    image: ArmImage,
    precision: NativePrecision,
    timeout_s: float,
) -> dict[str, npt.NDArray[np.float32]]:
    """One image's answers; DeviceError where the emulated runner fails on this network."""
    with tempfile.TemporaryDirectory(prefix="edgepose-arm-") as text:
        folder = Path(text)
        inputs = []
        for number, (name, array) in enumerate(image.feeds.items()):
            path = folder / f"input{number}.bin"
            write_input(path, array)
            inputs.append(NativeInput(name, str(path), tuple(array.shape)))
        network = NativeNetwork(
            str(artifact.path("model")),
            str(artifact.path("weights")),
            tuple(inputs),
            tuple(tensor.name for tensor in artifact.spec.outputs),
        )
        argv = runner_argv(
            program[-1],
            network,
            precision=precision,
            threads=min(os.cpu_count() or 1, 4),
            dump=str(folder / "out"),
        )
        done = run_program([*program[:-1], *argv], timeout_s=timeout_s)
        # 2: its command line, 126 and 127: no such program. None of it is the network's fault.
        if done.returncode in (2, 126, 127):
            why = done.stderr.decode(errors="replace").strip()
            raise _NoRunnerError(f"the runner does not start under QEMU: {why}")
        run = finished_run(done, _CPU_TEXT)
        arrays = read_dump(run.outputs, folder / "out", _CPU_TEXT)
        return {name: found[0] for name, found in arrays.items()}
