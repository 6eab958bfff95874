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
from targets.runners.line import check_starts, dump_name, read_line, text_of, whole
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
    pause_ms: float = 0.0,
    block_size: int = 64,
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
    argv += mask_flags(cpu_mask) + timing_flags(settings, pause_ms, block_size)
    if dump is not None:
        argv += ["--dump", dump]
    if detector is not None:
        argv += ["--pipeline", "--interval", str(interval), *detector.flags("--det-")]
    return argv


def mask_flags(cpu_mask: str | None) -> list[str]:
    """The runner's option for a mask, hexadecimal."""
    return [] if cpu_mask is None else ["--cpu-mask", cpu_mask]


def timing_flags(settings: LatencySettings | None, pause_ms: float, block_size: int) -> list[str]:
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
        }
    values |= {"pause-ms": f"{pause_ms:.6g}", "block-size": str(block_size)}
    return [word for name, value in values.items() for word in (f"--{name}", value)]


# --- what it printed ------------------------------------------------------------------------------


@dataclass(frozen=True)
class NativeClocks:
    """The CPUs' clocks in kHz after so many samples, at a time since the start of measuring.

    None where the system does not say.
    """

    samples: int
    t_ns: int
    khz: tuple[int | None, ...]


@dataclass(frozen=True)
class NativeOutput:
    """One output: how many of its values are no finite numbers, in the first or last inference.

    ``same_in_last`` says that both gave the same bytes. ``file`` is the name of its dump.
    """

    name: str
    shape: tuple[int, ...]
    non_finite: int
    same_in_last: bool
    file: str | None


@dataclass(frozen=True)
class NativeRun:
    """One run of the native runner.

    ``build`` says what is compiled in (``ncnn`` its version, ``kernels``, ``compiler``, ``arch``).
    ``computes_in`` is what ncnn makes of ``precision`` on this CPU. ``affinity`` and
    ``affinity_after`` hold one mask a thread. ``features`` are the CPU's as ncnn sees them.
    ``networks_ns`` is the networks' part of each sample where pictures were timed, else empty;
    ``detector_computes_in`` is then as ``computes_in``, of a detector.
    ``clocks`` were read before the first sample and after every block of samples. ``complete`` is
    False where the time ran out first. ``usage`` is the process's in the measured part:
    ``user_ns``, ``system_ns``, ``involuntary_switches``, ``major_faults``.
    """

    build: Mapping[str, Any]
    precision: NativePrecision
    computes_in: NativePrecision
    threads: int
    cpu_mask: str | None
    affinity: tuple[str, ...]
    affinity_after: tuple[str, ...]
    cpus: int
    big_cpus: int
    features: Mapping[str, bool]
    openmp_environment: tuple[str, ...]
    load_ns: int
    first_inference_ns: int
    pipeline_interval: int | None
    pipeline_people: int | None
    detector_computes_in: NativePrecision | None
    networks_ns: tuple[int, ...]
    warmup_count: int
    warmup_ns: int
    complete: bool
    clocks: tuple[NativeClocks, ...]
    usage: Mapping[str, int]
    peak_memory_kb: int | None
    outputs: tuple[NativeOutput, ...]
    samples_ns: tuple[int, ...]
    starts_ns: tuple[int, ...]

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
        _run,
        kind=_KIND,
        schema=_SCHEMA,
        device=device,
        runner="the runner",
        fix="use the runner that belongs to it",
    )


def _run(data: Mapping[str, Any]) -> NativeRun:
    pipeline = data["pipeline"]
    run = NativeRun(
        build=dict(data["build"]),
        precision=_precision(data["precision"]),
        computes_in=_precision(data["computes_in"]),
        threads=whole(data["threads"]),
        cpu_mask=None if data["cpu_mask"] is None else text_of(data["cpu_mask"]),
        affinity=tuple(map(text_of, data["affinity"])),
        affinity_after=tuple(map(text_of, data["affinity_after"])),
        cpus=whole(data["cpu"]["count"]),
        big_cpus=whole(data["cpu"]["big"]),
        features={text_of(name): _flag(has) for name, has in data["cpu"]["features"].items()},
        openmp_environment=tuple(map(text_of, data["openmp_environment"])),
        load_ns=whole(data["load_ns"]),
        first_inference_ns=whole(data["first_inference_ns"]),
        pipeline_interval=None if pipeline is None else whole(pipeline["interval"]),
        pipeline_people=None if pipeline is None else whole(pipeline["people"]),
        detector_computes_in=_detector_precision(pipeline),
        networks_ns=tuple(map(whole, (pipeline or {}).get("networks_ns", ()))),
        warmup_count=whole(data["warmup_count"]),
        warmup_ns=whole(data["warmup_ns"]),
        complete=_flag(data["complete"]),
        clocks=tuple(
            NativeClocks(
                whole(item["samples"]),
                whole(item["t_ns"]),
                tuple(None if khz is None else whole(khz) for khz in item["khz"]),
            )
            for item in data["clocks"]
        ),
        usage={text_of(name): whole(value) for name, value in data["usage"].items()},
        peak_memory_kb=None if data["peak_memory_kb"] is None else whole(data["peak_memory_kb"]),
        outputs=tuple(map(_output, data["outputs"])),
        samples_ns=tuple(map(whole, data["samples_ns"])),
        starts_ns=tuple(map(whole, data["starts_ns"])),
    )
    check_starts(run.samples_ns, run.starts_ns)
    if len(run.networks_ns) not in (0, len(run.samples_ns)):
        raise ValueError(f"the networks' part of {len(run.networks_ns)} samples")
    return run


def _output(item: Mapping[str, Any]) -> NativeOutput:
    return NativeOutput(
        text_of(item["name"]),
        tuple(map(whole, item["shape"])),
        whole(item["non_finite"]),
        _flag(item["same_in_last"]),
        dump_name(item["file"], ".bin"),
    )


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} where true or false should be")
    return value


def _precision(value: object) -> NativePrecision:
    for precision in NATIVE_PRECISIONS:
        if value == precision:
            return precision
    raise ValueError(f"{value!r} where a precision should be")


def _detector_precision(pipeline: Mapping[str, Any] | None) -> NativePrecision | None:
    found = (pipeline or {}).get("detector_computes_in")
    return None if found is None else _precision(found)


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
