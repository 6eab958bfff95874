"""ARM truth before the phone: an ncnn artifact's answers as a Cortex-A76 computes them.

x86 hides what half precision does: ncnn computes an fp16 network in fp32 there, and one with
activations beyond 65504 is right on x86 and NaN on a phone. Here the native runner for aarch64 runs
under QEMU's user emulation, which executes the half-precision instructions themselves, and its
answers are judged like any other session's. Where fp16 fails, slower arithmetic is tried.

(ncnn's way to keep single layers out of fp16, ``31=2`` in the param file, is no remedy: it crashes
on these CPUs, ncnn 1.0.20261020.)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge import terminal
from edge.artifact import Artifact
from edge.errors import DeviceError, ToolError, first_line, last_line
from edge.files import temporary_folder
from edge.session import Array, Feeds
from targets.runners.native.build import Say, build_runner, find_runner, is_built
from targets.runners.native.call import NATIVE_PRECISIONS, NativePrecision
from targets.runners.native.check import RunnerInfo, emulator_argv
from targets.runners.native.progress import BuildSkippedError, key_pressed
from targets.runners.native.session import NativeSession
from targets.runners.native.toolchain import PACKAGES, find_program, find_qemu, find_toolchain
from targets.transports.local import LocalTransport
from targets.transports.programs import ProgramTimeoutError, run_program
from targets.transports.transport import Done

__all__ = [
    "CPU",
    "ArmCheck",
    "ArmTry",
    "Judge",
    "arm_runner_waits",
    "check_on_arm",
    "find_arm_runner",
    "not_checked",
    "safe_arithmetic",
]

# Half-precision arithmetic and dot products, no bf16 and no i8mm: as the big cores of a
# Snapdragon 865 (Cortex-A77) and of a Raspberry Pi 5.
CPU = "cortex-a76"
# In the order of preference. fp16-storage keeps weights and activations in half the memory and
# computes in fp32, nearly as fast; bf16 has the range of fp32 and less precision than either.
_PRECISIONS: tuple[NativePrecision, ...] = ("fp16", "fp16-storage", "bf16", "fp32")
# What says nothing of the network: the runner's command line (2), a program that may not be
# executed (126) or is not there (127), an instruction that the emulated CPU lacks (132).
_NO_RUNNER = (2, 126, 127, 132)

Judge = Callable[[NativeSession], tuple[Sequence[str], str]]
"""Runs the session on some images: what is beyond the artifact's limits, and the verdict's text."""


@dataclass(frozen=True)
class ArmTry:
    """One arithmetic on the emulated CPU; ``seconds`` is the whole emulation, no latency.

    ``images`` were run: an arithmetic that breaks down on one is not asked for the next.
    """

    passed: bool
    failures: tuple[str, ...]
    summary: str
    images: int
    seconds: float


@dataclass(frozen=True)
class ArmCheck:
    """Which arithmetic is safe on ARM.

    ``safe`` is the first that passed, None where none did or nothing was checked; ``reason`` then
    says why.
    """

    checked: bool
    safe: NativePrecision | None
    tried: Mapping[NativePrecision, ArmTry] = field(default_factory=dict)
    cpu: str = ""
    runner: str = ""
    reason: str = ""

    def text(self) -> str:
        """The verdict on one line, for a table."""
        if not self.checked:
            return f"ARM: not checked ({self.reason})"
        if self.safe is None:
            return "ARM: FAIL in every arithmetic"
        failed = [precision for precision, one in self.tried.items() if not one.passed]
        if not failed:
            return f"ARM: uses {self.safe}"
        plain = f"Plain {failed[0]} was tried and is"
        several = f"{' and '.join(failed)} were tried and are"
        tried = plain if len(failed) == 1 else several
        return f"ARM: uses {self.safe}. {tried} too inaccurate (details: edge info)"

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
                    "summary": one.summary,
                    "images": one.images,
                    "seconds": round(one.seconds, 1),
                }
                for precision, one in self.tried.items()
            },
            "cpu": self.cpu,
            "runner": self.runner,
            "reason": self.reason,
        }


def not_checked(reason: str) -> ArmCheck:
    """The record of a check that did not take place."""
    return ArmCheck(checked=False, safe=None, reason=reason)


def safe_arithmetic(artifact: Artifact) -> NativePrecision | None:
    """What an artifact's record says is safe on ARM; None where it was not checked or need not."""
    for precision in NATIVE_PRECISIONS:
        if artifact.arm.get("safe") == precision:
            return precision
    return None


def arm_runner_waits(runner: Path | None = None) -> bool:
    """Whether the runner must be built before the check, which takes minutes, and can be."""
    if runner is not None or _missing_packages():
        return False
    return not is_built("aarch64")


def find_arm_runner(runner: Path | None = None, say: Say = terminal.say) -> RunnerInfo | ArmCheck:
    """The runner that the check emulates, or the record that says why there is none.

    What is missing is found before anything is built; at a terminal the build ends early where
    ``s`` is pressed. Raises ToolError where ``runner``, the user's own, is none for aarch64.
    """
    if runner is not None:
        return _emulated(find_runner("aarch64", runner))
    missing = _missing_packages()
    install = f"install: apt-get install {' '.join(missing)}"
    if not {"cmake", "ninja-build"}.issuperset(missing):
        return not_checked(install)
    with key_pressed("s") as pressed:
        how = "press s to go on" if pressed else "--no-arm-check goes on (ARGS=--no-arm-check)"
        notes = iter(
            [
                "the check on ARM needs the native runner, which is compiled once: 6 MB to fetch, "
                f"about 3 minutes on two free cores; {how} without the check"
            ]
        )

        def tell(text: str) -> None:
            for note in notes:
                say(note)
            say(text)

        try:
            # Without cmake or ninja this gets no further than to the cache.
            return _emulated(build_runner("aarch64", tell, pressed))
        except BuildSkippedError:
            return not_checked("skipped; the next conversion goes on with it")
        except ToolError as error:
            if missing:
                return not_checked(install)
            say(str(error))
            return not_checked(first_line(error))


def _emulated(runner: RunnerInfo) -> RunnerInfo | ArmCheck:
    if find_qemu() is None:
        return not_checked(f"install: apt-get install {PACKAGES['qemu-aarch64-static']}")
    if not runner.answered:
        return not_checked(
            f"{runner.path} loads with {runner.interpreter}, which is not on this machine: give a "
            "static runner with --runner, or none"
        )
    return runner


def _missing_packages() -> list[str]:
    """Debian's names of what the check needs and is not here."""
    missing = [] if find_qemu() else [PACKAGES["qemu-aarch64-static"]]
    try:
        find_toolchain("aarch64")
    except ToolError:
        missing.append(PACKAGES["aarch64-linux-gnu-g++"])
    for name in ("cmake", "ninja"):
        try:
            find_program(name)
        except ToolError:
            missing.append(PACKAGES[name])
    return missing


def check_on_arm(
    artifact: Artifact,
    judge: Judge,
    runner: Path,
    *,
    precisions: Sequence[NativePrecision] = _PRECISIONS,
    timeout_s: float = 600.0,
    say: Say | None = None,
) -> ArmCheck:
    """Run an ncnn artifact on an emulated Cortex-A76 and have its answers judged.

    ``runner`` is the aarch64 runner. The precisions are tried in turn until one passes; one that
    crashes or gives values that are not finite has failed, whatever ``judge`` would say.
    ``timeout_s`` is for each image. Where one takes longer, or the runner does not start, the
    answer is a check that did not take place.
    """
    emulator = emulator_argv(CPU)
    if emulator is None:
        return not_checked(f"install: apt-get install {PACKAGES['qemu-aarch64-static']}")
    tried: dict[NativePrecision, ArmTry] = {}
    with temporary_folder() as folder:
        for precision in precisions:
            if say:
                say(f"{artifact.spec.name}: {precision} on an emulated {CPU}")
            session = _ArmSession(
                _Emulation(folder),
                artifact,
                program=[*emulator, str(runner.resolve())],
                folder=str(artifact.folder.resolve()),
                precision=precision,
                threads=min(os.cpu_count() or 1, 4),
                timeout_s=timeout_s,
                machine=f"{CPU} (emulated)",
            )
            try:
                tried[precision] = _try(session, judge)
            except ToolError as error:
                return not_checked(str(error))
            if tried[precision].passed:
                break
    safe = next((precision for precision, one in tried.items() if one.passed), None)
    reason = "" if safe else _failed(tried)
    return ArmCheck(True, safe, tried, f"{CPU} (emulated)", runner.name, reason)


def _failed(tried: Mapping[NativePrecision, ArmTry]) -> str:
    return "; ".join(f"{p}: {one.failures[0]}" for p, one in tried.items() if one.failures)


def _try(session: _ArmSession, judge: Judge) -> ArmTry:
    start = time.monotonic()
    failures: Sequence[str]
    try:
        failures, summary = judge(session)
    except DeviceError as error:
        failures, summary = [str(error)], "FAIL: no answers"
    seconds = time.monotonic() - start
    return ArmTry(not failures, tuple(failures), summary, session.images, seconds)


class _ArmSession(NativeSession):
    """Counts its images, and ends where an answer is not finite: every further one takes long."""

    images = 0

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs and constants; DeviceError where an output is not finite, too."""
        self.images += 1
        outputs = super().run(feeds)
        for tensor in self.spec.outputs:
            bad = int((~np.isfinite(outputs[tensor.name])).sum())
            if bad:
                raise DeviceError(f"{tensor.name} holds {bad} values that are not finite")
        return outputs


class _Emulation(LocalTransport):
    """Programs of this machine, where what is no fault of the network is a ToolError."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Done:
        """Run a program to its end."""
        try:
            done = run_program(argv, timeout_s=timeout_s, cwd=Path("/"), env=env, stdin=stdin)
        except ProgramTimeoutError:
            raise ToolError(f"an image took longer than {timeout_s:.3g} s under QEMU") from None
        if done.returncode in _NO_RUNNER:
            why = last_line(done.stderr) or "silent"
            raise ToolError(f"the runner does not start under QEMU: {why}")
        return done
