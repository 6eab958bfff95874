"""The native runner from this side: its command line, and its one line of JSON as a value.

Nothing here runs anything: the argument vector goes through a transport, and what came back is read
here. ``targets/runners/native/cpp/`` holds the runner itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge.errors import DeviceError, last_line
from edge.latency import LatencySettings
from targets.runners.line import Count, DumpName, Mask, check_starts, read_line
from targets.transports.transport import Done

__all__ = [
    "NATIVE_PRECISIONS",
    "NativeClocks",
    "NativeInput",
    "NativeNetwork",
    "NativeOutput",
    "NativePrecision",
    "NativeRun",
    "check_done",
    "finished_run",
    "mask_flags",
    "parse_runner_line",
    "read_dump",
    "runner_argv",
    "timing_flags",
    "write_input",
]

NativePrecision = Literal["fp32", "fp16", "fp16-storage", "bf16"]
NATIVE_PRECISIONS: tuple[NativePrecision, ...] = ("fp32", "fp16", "fp16-storage", "bf16")

Array = npt.NDArray[np.float32]

_SCHEMA = 1
_KIND = "edgepose-runner"
# What the runner's exit codes stand for; its line on stderr says the rest.
_EXITS = {
    2: "the runner refused its command line",
    3: "the runner cannot load the network",
    4: "the inputs do not fit the network",
    5: "the network failed in running",
    6: "the CPU mask does not hold",
    7: "the runner cannot write its results (is the storage full?)",
    126: "the runner may not be executed there (is the folder mounted noexec?)",
    127: "the runner is not there",
    132: "the runner has instructions that this CPU lacks",
    137: "the runner was killed, as the kernel does when memory runs out (close what else runs)",
    139: "the runner crashed",
}


@dataclass(frozen=True)
class NativeInput:
    """An input file on the device: raw little-endian float32 of this shape, a batch of one."""

    name: str
    path: str
    shape: tuple[int, ...]

    def word(self) -> str:
        """The runner's way to write it; ValueError where it has none."""
        if "=" in self.name or not self.name or not self.path:
            raise ValueError(f"an input's name cannot be {self.name!r}, its file {self.path!r}")
        return f"{self.name}={self.path}:{'x'.join(map(str, self.shape))}"


@dataclass(frozen=True)
class NativeNetwork:
    """A network's files on the device, its inputs, and the outputs to extract."""

    param: str
    weights: str
    inputs: tuple[NativeInput, ...]
    outputs: tuple[str, ...]

    def flags(self, prefix: str) -> list[str]:
        """The runner's options for it."""
        flags = [f"{prefix}param", self.param, f"{prefix}bin", self.weights]
        for item in self.inputs:
            flags += [f"{prefix}input", item.word()]
        return [*flags, f"{prefix}outputs", ",".join(self.outputs)]


def runner_argv(
    runner: str,
    network: NativeNetwork,
    *,
    precision: NativePrecision,
    threads: int,
    settings: LatencySettings | None = None,
    cpu_mask: str | None = None,
    dump: str | None = None,
    detector: NativeNetwork | None = None,
    interval: int = 5,
) -> list[str]:
    """The command line of one run.

    Without ``settings`` the network runs once and nothing is measured: for its answers alone.
    ``cpu_mask`` is hexadecimal. ``dump`` is a folder on the device for the outputs of the first
    inference. With a ``detector`` a sample is a frame of the pipeline: the detector in every
    ``interval``-th frame, ``network`` on each of its inputs (all of one name, one a person).
    """
    argv = [runner, *network.flags("--"), "--precision", precision, "--threads", str(threads)]
    argv += mask_flags(cpu_mask) + timing_flags(settings)
    if dump is not None:
        argv += ["--dump", dump]
    if detector is not None:
        argv += ["--pipeline", "--interval", str(interval), *detector.flags("--det-")]
    return argv


def mask_flags(cpu_mask: str | None) -> list[str]:
    """The runner's option for a mask, hexadecimal."""
    return [] if cpu_mask is None else ["--cpu-mask", cpu_mask]


def timing_flags(settings: LatencySettings | None) -> list[str]:
    """The runner's options for how to measure; without settings it does not."""
    if settings is None:
        values = {"warmup-count": "0", "warmup-ms": "0", "min-iterations": "0", "min-seconds": "0"}
    else:
        values = {
            "warmup-count": str(settings.warmup_count),
            "warmup-ms": f"{settings.warmup_duration_s * 1000:.6g}",
            "min-iterations": str(settings.min_count),
            "min-seconds": f"{settings.min_duration_s:.6g}",
            "max-seconds": f"{settings.max_duration_s:.6g}",
            "pause-ms": f"{settings.pause_s * 1000:.6g}",
        }
    return [word for name, value in values.items() for word in (f"--{name}", value)]


# --- what it printed ------------------------------------------------------------------------------


@dataclass(frozen=True)
class NativeClocks:
    """The CPUs' clocks in kHz after so many samples, at a time since the start of measuring.

    None where the system does not say.
    """

    samples: Count
    t_ns: Count
    khz: tuple[Count | None, ...]


@dataclass(frozen=True)
class NativeOutput:
    """One output: how many of its values are no finite numbers, in the first or last inference.

    ``same_in_last`` says that both gave the same bytes. ``file`` is the name of its dump.
    """

    name: str
    shape: tuple[Count, ...]
    non_finite: Count
    same_in_last: bool
    file: DumpName | None


@dataclass(frozen=True)
class NativeCpu:
    """The device's cores, the big ones of them, and its features as ncnn sees them."""

    count: Count
    big: Count
    features: Mapping[str, bool]


@dataclass(frozen=True)
class NativeFrames:
    """What was timed as frames: the detector in every ``interval``-th, and people in each.

    ``networks_ns`` is the networks' part of each sample where pictures were timed, else empty;
    ``detector_computes_in`` is then as the run's ``computes_in``, of a detector.
    """

    interval: Count
    people: Count
    networks_ns: tuple[Count, ...] = ()
    detector_computes_in: NativePrecision | None = None


@dataclass(frozen=True)
class NativeRun:
    """One run of the native runner, key by key as its line has it.

    ``build`` says what is compiled in (``ncnn`` its version, ``kernels``, ``compiler``, ``arch``).
    ``computes_in`` is what ncnn makes of ``precision`` on this CPU. ``affinity`` and
    ``affinity_after`` hold one mask a thread. ``pipeline`` is None where one network was timed.
    ``clocks`` were read before the first sample and after every block of samples. ``complete`` is
    False where the time ran out first. ``usage`` is the process's in the measured part:
    ``user_ns``, ``system_ns``, ``involuntary_switches``, ``major_faults``.
    """

    build: Mapping[str, Any]
    precision: NativePrecision
    computes_in: NativePrecision
    threads: Count
    cpu_mask: str | None
    affinity: tuple[Mask, ...]
    affinity_after: tuple[Mask, ...]
    cpu: NativeCpu
    openmp_environment: tuple[str, ...]
    load_ns: Count
    first_inference_ns: Count
    pipeline: NativeFrames | None
    warmup_count: Count
    warmup_ns: Count
    complete: bool
    clocks: tuple[NativeClocks, ...]
    usage: Mapping[str, Count]
    peak_memory_kb: Count | None
    outputs: tuple[NativeOutput, ...]
    samples_ns: tuple[Count, ...]
    starts_ns: tuple[Count, ...]

    def __post_init__(self) -> None:
        check_starts(self.samples_ns, self.starts_ns)
        parts = len(self.pipeline.networks_ns) if self.pipeline else 0
        if parts not in (0, len(self.samples_ns)):
            raise ValueError(f"the networks' part of {parts} samples")

    @property
    def engine(self) -> str:
        """Like ``ncnn 1.0.20261020``."""
        return f"ncnn {self.build.get('ncnn', 'of an unknown version')}"

    def reasons(self) -> list[str]:
        """What makes the figures invalid, but for what is judged of every run: mask and spread."""
        reasons = []
        if not self.complete:
            reasons.append("the time ran out before the least number of samples was taken")
        if len(self.affinity_after) < self.threads:
            ran = len(self.affinity_after)
            reasons.append(f"{ran} of {self.threads} threads ran; is OMP_THREAD_LIMIT set?")
        for output in self.outputs:
            if output.non_finite:
                reasons.append(
                    f"output {output.name} holds {output.non_finite} values that are not finite"
                )
            elif not output.same_in_last:
                reasons.append(f"output {output.name} was another one in the last inference")
        if self.samples_ns and min(self.samples_ns) <= 0:
            reasons.append("the clock is too coarse: a sample took 0 ns")
        return reasons


def check_done(done: Done, device: str) -> None:
    """DeviceError with the runner's own reason unless it ended well.

    ``device`` is for the message, like ``adb 1a2b3c``.
    """
    if done.returncode != 0:
        what = _EXITS.get(done.returncode, f"the runner exited with {done.returncode}")
        said = last_line(done.stderr)
        why = f": {said.removeprefix(f'{_KIND}: ')}" if said else ""
        raise DeviceError(f"{device}: {what}{why}")


def finished_run(done: Done, device: str) -> NativeRun:
    """The run that a finished runner printed; DeviceError as `check_done` otherwise."""
    check_done(done, device)
    return parse_runner_line(done.stdout.decode(errors="replace"), device)


def parse_runner_line(text: str, device: str) -> NativeRun:
    """The value of the runner's line; DeviceError for anything else, garbage and half lines too."""
    return read_line(
        text,
        NativeRun,
        kind=_KIND,
        schema=_SCHEMA,
        device=device,
        runner="the runner",
        fix="use the runner that belongs to it",
    )


# --- files ----------------------------------------------------------------------------------------


def write_input(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Write an array as the runner reads it: raw little-endian float32 in C order."""
    path.write_bytes(np.ascontiguousarray(array, dtype="<f4").tobytes())


def read_dump(outputs: Sequence[NativeOutput], folder: Path, device: str) -> dict[str, list[Array]]:
    """The dumped outputs by name, each a list of one array, in a pipeline of one a person.

    DeviceError where a file is missing or of another size than the run says.
    """
    arrays: dict[str, list[Array]] = {}
    for output in outputs:
        path = folder / (output.file or "no dump")
        try:
            values = np.fromfile(path, dtype="<f4")
        except OSError as error:
            raise DeviceError(
                f"{device}: the dump of {output.name} cannot be read: {error.strerror}"
            ) from None
        if values.size != math.prod(output.shape):
            raise DeviceError(
                f"{device}: the dump of {output.name} holds {values.size} values, not "
                f"{math.prod(output.shape)}"
            )
        arrays.setdefault(output.name, []).append(values.astype(np.float32).reshape(output.shape))
    return arrays
