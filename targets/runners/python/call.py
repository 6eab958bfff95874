"""The Python runner from this side: its command line, and its one line of JSON as a value.

Nothing here runs anything. `edge.runner` is the runner's own side and says what its line holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge.errors import DeviceError
from edge.latency import LatencySettings
from edge.runner import KIND, SCHEMA
from edge.session import InferencePrecision
from targets.runners.line import Count, DumpName, Mask, Time, check_starts, read_line
from targets.transports.transport import Done

__all__ = [
    "PythonOutput",
    "PythonRun",
    "finished_python_run",
    "parse_python_line",
    "python_argv",
]

_EXITS = {
    2: "the Python runner refused its command line (is edgepose there another version?)",
    126: "Python may not be executed there",
    127: "there is no Python at that path",
    132: "the engine has instructions that this CPU lacks",
    134: "the engine gave up in the middle",
    136: "the engine crashed",
    137: "the Python runner was killed, as the kernel does when memory runs out",
    139: "the engine crashed",
}


def python_argv(
    python: Sequence[str],
    artifact_folder: str,
    inputs: Sequence[str],
    *,
    threads: int,
    settings: LatencySettings | None = None,
    cpu_mask: str | None = None,
    inference_precision: InferencePrecision | None = None,
    dump: str | None = None,
    allow_failed: bool = False,
) -> list[str]:
    """The command line of one run; without ``settings`` it is for the answers alone.

    ``python`` starts an interpreter with ``edge`` in it; ``inputs`` and ``dump`` are paths there.
    """
    argv = [*python, "-m", "edge", "bench", artifact_folder, "--json", "--threads", str(threads)]
    for path in inputs:
        argv += ["--input", path]
    if cpu_mask is not None:
        argv += ["--cpu-mask", cpu_mask]
    if inference_precision is not None:
        argv += ["--inference-precision", inference_precision]
    if dump is not None:
        argv += ["--dump", dump]
    if allow_failed:
        argv.append("--allow-failed")
    if settings is None:
        return [*argv, "--answer-only"]
    values = {
        "mode": settings.mode,
        "warmup-count": str(settings.warmup_count),
        "warmup-seconds": f"{settings.warmup_duration_s:.6g}",
        "min-count": str(settings.min_count),
        "min-seconds": f"{settings.min_duration_s:.6g}",
        "max-seconds": f"{settings.max_duration_s:.6g}",
        "pause-ms": f"{settings.pause_s * 1000:.6g}",
    }
    for name, value in values.items():
        argv += [f"--{name}", value]
    return argv


# --- what it printed ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PythonOutput:
    """One output for one image; see `edge.runner.BenchOutput`."""

    image: Count
    name: str
    shape: tuple[Count, ...]
    non_finite: Count
    file: DumpName | None


@dataclass(frozen=True)
class PythonRun:
    """One run of the Python runner, the keys of its line that are used here.

    See `edge.runner.BenchRun`. No samples: the answers alone.
    """

    edge: str
    python: str
    numpy: str
    engine: str
    inference_precision: str
    threads: Count
    affinity: tuple[Mask, ...]
    affinity_after: tuple[Mask, ...]
    load_ms: Time
    first_inference_ms: Time
    input_shape: tuple[Count, ...]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    peak_memory_kb: Count | None
    clocks_khz_after: Mapping[str, Count]
    outputs: tuple[PythonOutput, ...]
    samples_ns: tuple[Count, ...]
    starts_ns: tuple[Count, ...]

    def __post_init__(self) -> None:
        check_starts(self.samples_ns, self.starts_ns)

    @property
    def masks(self) -> tuple[str, ...]:
        """The masks of all threads, before and after."""
        return (*self.affinity, *self.affinity_after)


def finished_python_run(done: Done, device: str) -> PythonRun:
    """The run that a finished runner printed; DeviceError with the runner's own reason otherwise.

    A run whose figure is not valid exits with 1 and is a run all the same.
    """
    text = done.stdout.decode(errors="replace")
    if done.returncode == 0 or (done.returncode == 1 and text.strip()):
        return parse_python_line(text, device)
    what = _EXITS.get(done.returncode, "the Python runner failed")
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    # Engines write warnings to stderr as well; the command line's own error is one line, the last.
    own = [line for line in lines if line.startswith("edge: ")] or lines
    why = f": {own[-1].removeprefix('edge: ')}" if own else f" (exit {done.returncode})"
    raise DeviceError(f"{device}: {what}{why}")


def parse_python_line(text: str, device: str) -> PythonRun:
    """The value of the runner's line; DeviceError for anything else, garbage and half lines too."""
    return read_line(
        text,
        PythonRun,
        kind=KIND,
        schema=SCHEMA,
        device=device,
        runner="the Python runner",
        fix="install the edgepose that belongs to it",
    )
