"""One measured run: a frozen value and a JSON file, with nothing in between.

A file holds one object. Its keys are ``schema`` (1), ``kind`` (``edgepose-run``) and the fields of
`RunResult`; nested objects are the dataclasses named there, key by key. Every key is present;
``null`` stands where a type admits None. Reading is strict: a key that is unknown, missing or of
the wrong type is named, and so is a summary that its samples contradict. Durations are integers in
ns of the device's monotonic clock; every other quantity carries its unit in its name.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from edge import latency
from edge.errors import SpecError
from edge.files import write_bytes
from edge.latency import ColdStart, LatencySummary, Mode
from edge.records import plain_values, read_record
from edge.texts import parse_json, read_text
from targets.device_state import DeviceRecord, DeviceState, StatePoint

__all__ = [
    "EMULATED",
    "KIND",
    "RUNNERS",
    "SCHEMA",
    "AccuracyFigure",
    "ArtifactRecord",
    "ParityRecord",
    "PipelineRecord",
    "PublishedFigure",
    "RunResult",
    "RunnerRecord",
    "read_runs",
    "summarise",
    "write_run",
]

SCHEMA = 1
KIND = "edgepose-run"
EMULATED = "emulated: not a latency"
RUNNERS = ("native", "python", "trtexec")

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class AccuracyFigure:
    """Accuracy of the variant; ``loss_points`` is what it lost, points of 0.01."""

    metric: str
    value: float
    loss_points: float | None


@dataclass(frozen=True)
class PipelineRecord:
    """A detector before the pose model, as a video is worked on.

    The detector runs in every ``interval``-th frame, the pose model on ``people`` people in each. A
    sample is the mean frame of ``interval`` frames in a row: of ``whole`` ones, from pixels to
    keypoints, or of the networks alone.
    """

    detector: str
    detector_variant: str
    detector_key: str
    interval: int
    people: int
    whole: bool


@dataclass(frozen=True)
class ArtifactRecord:
    """The artifact that was timed; ``key`` is its content address.

    Of a pipeline ``model`` is "detector+pose model" and ``size_bytes`` that of both; all else is
    the pose model's.
    """

    model: str
    variant: str
    key: str
    size_bytes: int
    accuracy: AccuracyFigure | None
    pipeline: PipelineRecord | None = None

    @property
    def title(self) -> str:
        """The model for a reader, of a pipeline with the work that a frame has."""
        if self.pipeline is None:
            return self.model
        people = f"{self.pipeline.people} {'person' if self.pipeline.people == 1 else 'people'}"
        alone = "" if self.pipeline.whole else ", networks alone"
        return f"{self.model} (detector 1 in {self.pipeline.interval}, {people}{alone})"


@dataclass(frozen=True)
class RunnerRecord:
    """The program that timed: ``native``, ``python`` or ``trtexec``."""

    name: str
    version: str


@dataclass(frozen=True)
class ParityRecord:
    """Whether the device gave the reference's answers, in words as well."""

    passed: bool
    summary: str


@dataclass(frozen=True)
class PublishedFigure:
    """The latency that the model's authors published for such a device."""

    latency_ms: float
    source: str


@dataclass(frozen=True)
class RunResult:
    """One run on one device.

    ``samples_ns`` are all timed inferences in order; ``starts_ns`` when each began, counted from
    the first of them (of runs measured in turn, the first of all), or empty where the runner does
    not say. ``cpu_mask`` is what was asked for and ``affinity`` what held (hex, no 0x; None: not
    set, not known). ``emulated`` runs are no latencies. ``reasons`` is what makes a run invalid:
    ``valid`` says that there are none.

    Raises SpecError where the values contradict each other.
    """

    run_id: str
    started_utc: str
    target: str
    transport: str
    emulated: bool
    device: DeviceRecord
    artifact: ArtifactRecord
    runner: RunnerRecord
    engine: str
    inference_precision: str
    threads: int
    cpu_mask: str | None
    affinity: str | None
    input_shape: tuple[int, ...]
    mode: str
    settings: Mapping[str, int | float | str | bool | None]
    cold: ColdStart
    samples_ns: tuple[int, ...]
    starts_ns: tuple[int, ...]
    summary: LatencySummary
    state_before: DeviceState | None
    state_after: DeviceState | None
    state_series: tuple[StatePoint, ...]
    parity: ParityRecord | None
    published: PublishedFigure | None
    valid: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]

    def __post_init__(self) -> None:
        for problem, found in (
            (f"run_id {self.run_id!r} is no file name", not _RUN_ID.fullmatch(self.run_id)),
            (f"started_utc {self.started_utc!r} is no time in UTC", not _is_utc(self.started_utc)),
            (f"threads is {self.threads}", self.threads < 1),
            (
                f"mode is {self.mode!r}, not one of {', '.join(get_args(Mode))}",
                self.mode not in get_args(Mode),
            ),
            (
                f"runner.name is {self.runner.name!r}, not one of {', '.join(RUNNERS)}",
                self.runner.name not in RUNNERS,
            ),
            ("'valid' is true beside reasons against it", self.valid and bool(self.reasons)),
            ("'valid' is false without a reason", not self.valid and not self.reasons),
            (
                "'valid' is true though the answers differ from the reference",
                self.valid and self.parity is not None and not self.parity.passed,
            ),
            ("'valid' is true without a sample", self.valid and not self.samples_ns),
            ("a sample is negative", any(sample < 0 for sample in self.samples_ns)),
            (
                f"{len(self.starts_ns)} starts for {len(self.samples_ns)} samples",
                len(self.starts_ns) not in (0, len(self.samples_ns)),
            ),
            ("'starts_ns' goes backwards", _backwards(self.starts_ns)),
            ("'state_series' goes backwards", _backwards([s.t_s for s in self.state_series])),
            (
                "the published latency is not positive",
                self.published is not None and self.published.latency_ms <= 0,
            ),
        ):
            if found:
                raise SpecError(problem)
        for field in dataclasses.fields(LatencySummary):
            stated = getattr(self.summary, field.name)
            actual = getattr(summarise(self.samples_ns), field.name)
            # Half a microsecond for whoever rounds.
            if (stated is None) != (actual is None) or (
                stated is not None and not math.isclose(stated, actual, abs_tol=5.1e-4)
            ):
                raise SpecError(
                    f"summary.{field.name} is {_json(stated)}, its samples say {_json(actual)}"
                )

    @property
    def comparable(self) -> bool:
        """Whether the figures are latencies that may stand beside others."""
        return self.valid and not self.emulated

    @property
    def verdict(self) -> str:
        """In a word; what is emulated is nothing else."""
        return EMULATED if self.emulated else "valid" if self.valid else "INVALID"

    def to_json(self) -> dict[str, Any]:
        """The content of the run's file as plain values."""
        return {"schema": SCHEMA, "kind": KIND, **plain_values(self)}

    @classmethod
    def from_json(cls, data: object) -> RunResult:
        """The run of a file's content; SpecError names the key that is wrong."""
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise SpecError(f"no run: its key 'kind' is not {KIND!r}")
        schema = data.get("schema")
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise SpecError(f"'schema' is {_json(schema)}, not a number from 1")
        if schema > SCHEMA:
            raise SpecError(
                f"written by a newer edgepose (schema {schema}, this one reads up to {SCHEMA}); "
                "upgrade edgepose"
            )
        fields = {key: value for key, value in data.items() if key not in ("schema", "kind")}
        return read_record(cls, fields)


def summarise(samples_ns: Sequence[int]) -> LatencySummary:
    """Figures of samples in ns, which may be none at all."""
    if not samples_ns:
        return LatencySummary(None, None, None, None, None, None, 0)
    return latency.summarise(samples_ns)


def write_run(result: RunResult, folder: Path) -> Path:
    """Write a run to ``folder/RUN_ID.json``, whole or not at all; refuses to replace another."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.run_id}.json"
    if path.exists():
        raise SpecError(f"{path}: exists already, and a run is never overwritten; move it away")
    # One key a line: a reader finds their way, and thousands of samples do not fill the screen.
    lines = (f"{json.dumps(key)}: {_json(value)}" for key, value in result.to_json().items())
    write_bytes(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    return path


def read_runs(paths: Iterable[str | Path]) -> tuple[RunResult, ...]:
    """The runs of files, of folders (every .json in them) and of glob patterns, each once.

    Raises SpecError in one line that names every file that is missing, damaged or no run.
    """
    files = list(dict.fromkeys(file for path in paths for file in _files(path)))
    runs: dict[str, tuple[Path, RunResult]] = {}
    damaged = []
    for file in files:
        try:
            data = parse_json(read_text(file), str(file), large=True)
        except SpecError as error:
            damaged.append(str(error))
            continue
        try:
            run = RunResult.from_json(data)
        except SpecError as error:
            damaged.append(f"{file}: {error}")
            continue
        first, known = runs.setdefault(run.run_id, (file, run))
        if known != run:
            damaged.append(f"{file}: another run called {run.run_id} is in {first}")
    if damaged:
        more = f" (and {len(damaged) - 3} more files)" if len(damaged) > 3 else ""
        raise SpecError("; ".join(damaged[:3]) + more)
    return tuple(run for _, run in runs.values())


def _files(path: str | Path) -> list[Path]:
    given = Path(path)
    if given.is_dir():
        found = sorted(given.glob("*.json"))
        if not found:
            raise SpecError(f"{given}: no .json file in this folder; `edge bench` writes them")
        return found
    if given.exists() or not glob.has_magic(str(path)):
        return [given]
    # Path.glob takes no absolute pattern.
    found = sorted(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207
    if not found:
        raise SpecError(f"{path}: no file has such a name")
    return found


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def _is_utc(text: str) -> bool:
    try:
        return text.endswith("Z") and datetime.fromisoformat(text).year > 0
    except ValueError:
        return False


def _backwards(times: Sequence[float]) -> bool:
    return any(later < earlier for earlier, later in pairwise(times))
