"""Which of a model's variants runs here: the fastest on this machine within the accuracy limit.

Candidates are artifacts that passed their checks, in the arithmetic that they ship for, and, where
somebody can check its answers, OpenVINO's floats in bf16 as well. Each is timed as a whole, from
image to boxes or keypoints, in turns; what was chosen is remembered.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import edge
from edge.artifact import MANIFEST, Artifact, load_artifact, read_manifest
from edge.choice.measure import TIE, Candidate, Check, MeasureOptions, decide, manifest_sha256
from edge.choice.record import installed, machine, read_record, record_path, write_record
from edge.errors import EdgeError, SpecError
from edge.records import number, plain_values
from edge.records import read_record as read_values
from edge.session import EngineSettings, InferencePrecision, Session, open_session

__all__ = ["TIE", "Candidate", "Check", "Choice", "ChoiceSettings", "choose", "find_artifacts"]

# For so long a choice stands that was measured while others were busy.
_WARNED_HOLDS_S = 3600.0


@dataclass(frozen=True)
class ChoiceSettings:
    """``threads`` 0: the default. ``inference_precision``: only candidates that may compute in it.

    ``again`` measures even what is remembered, ``folder`` is where that is (default: ``choices`` in
    the kit's cache).
    """

    threads: int = 0
    inference_precision: InferencePrecision | None = None
    again: bool = False
    folder: Path | None = None


@dataclass(frozen=True)
class Choice:
    """What to run: an artifact, the arithmetic to open it with, and all that there was.

    ``latency_ms`` is that of the chosen candidate, ``warning`` says by what it was disturbed; empty
    where by nothing. ``remembered``: read from ``file``, not measured just now;
    ``file`` is None where this user has no folder for it.
    """

    artifact: Artifact
    inference_precision: InferencePrecision
    latency_ms: float
    candidates: tuple[Candidate, ...]
    threads: int
    measured_utc: str
    warning: str
    remembered: bool
    file: Path | None

    @property
    def chosen(self) -> Candidate:
        """The candidate that was chosen."""
        return next(one for one in self.candidates if not one.reason)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for people and programs."""
        return {
            "model": self.artifact.spec.name,
            "measured_utc": self.measured_utc,
            "doubt": self.warning,
            "threads": self.threads,
            "chosen": self.chosen.name,
            "artifact": str(self.artifact.folder),
            "latency_ms": self.latency_ms,
            "candidates": [one.to_json() for one in self.candidates],
        }


def _quiet(line: str) -> None:
    del line


def choose(
    artifacts: Sequence[Artifact],
    settings: ChoiceSettings | None = None,
    *,
    check: Check | None = None,
    say: Callable[[str], None] = _quiet,
    progress: Callable[[str], None] = _quiet,
    open_artifact: Callable[[Artifact, EngineSettings], Session] = open_session,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Choice:
    """Choose among the artifacts of one model, by memory or by measuring.

    The fastest with one person is chosen (with one picture, where the model takes whole pictures);
    of those that are as fast within `TIE` the most precise. Without ``check`` bf16 is no candidate;
    with it, it is asked only of a candidate that would be chosen. A choice that was measured
    while others were busy is remembered for an hour. ``say`` gets notes, ``progress`` what is going
    on.

    Raises SpecError for artifacts of different models, ArtifactError where none can run here (and
    EngineMissingError where that is only for want of an engine).
    """
    settings = settings or ChoiceSettings()
    artifacts = list({manifest_sha256(one): one for one in artifacts}.values())
    model = _one_model(artifacts)
    threads = EngineSettings(settings.threads).thread_count
    identity = {
        "edgepose": edge.__version__,
        "machine": machine(),
        "threads": threads,
        "engines": installed(one.variant.format for one in artifacts),
        "artifacts": sorted(manifest_sha256(one) for one in artifacts),
        "inference_precision": settings.inference_precision,
        "bf16_can_be_checked": check is not None,
    }
    try:
        path = record_path(settings.folder, model, identity)
    except EdgeError as error:
        path = None
        say(f"{model}: the choice cannot be remembered ({error})")
    if path and not settings.again:
        try:
            data = read_record(path, identity)
            known = None if data is None else _remembered(data, artifacts, threads, path)
            if known and not (known.warning and _age_s(known) > _WARNED_HOLDS_S):
                return known
        except (SpecError, ValueError, KeyError) as error:
            say(f"{path}: damaged ({error}); measured anew")
    options = MeasureOptions(
        threads, settings.inference_precision, check, progress, open_artifact, clock_ns
    )
    candidates, warning = decide(artifacts, options)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    choice = _choice(candidates, threads, now, warning, path, remembered=False)
    try:
        if path:
            write_record(path, {**choice.to_json(), "depends_on": identity})
    except OSError as error:
        say(f"{path}: the choice cannot be remembered ({error.strerror or error})")
    return choice


def find_artifacts(folder: Path, name: str | None = None) -> tuple[list[Artifact], list[str]]:
    """The artifacts in a folder's folders, failed ones too, and what is left out with the reason.

    ``name`` keeps to a model, ``NAME`` or ``NAME-HxW``. A file that was changed since its
    conversion, or a manifest that cannot be read, leaves its artifact out.
    """
    found, left_out = [], []
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        if path.parent.name.startswith("."):  # still in work
            continue
        try:
            spec = read_manifest(path.parent).get("spec")
            if name is not None and (
                not isinstance(spec, dict) or not name.startswith(str(spec.get("name")))
            ):
                continue
            artifact = load_artifact(path.parent, allow_failed=True)
            height, width = artifact.spec.input_hw
            if name in (None, artifact.spec.name, f"{artifact.spec.name}-{height}x{width}"):
                found.append(artifact)
        except EdgeError as error:
            left_out.append(str(error))
    return found, left_out


def _one_model(artifacts: Sequence[Artifact]) -> str:
    """The model's name; SpecError where it is not one model's artifacts."""
    if not artifacts:
        raise SpecError("there is no artifact to choose from")
    names = sorted({one.spec.name for one in artifacts})
    if len(names) > 1:
        raise SpecError(f"artifacts of several models ({', '.join(names)}): choose for each alone")
    sizes = sorted({one.spec.input_hw for one in artifacts})
    if len(sizes) > 1:
        ways = ", ".join(f"{names[0]}-{height}x{width}" for height, width in sizes)
        raise SpecError(f"{names[0]} is there in several input sizes: name one of {ways}")
    if len({str(one.source.get("sha256")) for one in artifacts}) > 1:
        raise SpecError(
            f"artifacts called {names[0]} were made of different files: convert it anew, or name "
            "an artifact's own folder"
        )
    return names[0]


_Latency = Annotated[float, number(above=0)]


@dataclass(frozen=True)
class _Row:
    """A candidate as its record has it."""

    manifest_sha256: str
    inference_precision: InferencePrecision
    computes_in: str
    engine: str
    latency_ms: _Latency | None
    latency_4_people_ms: _Latency | None
    check: str
    reason: str


@dataclass(frozen=True)
class _Record:
    """What a file remembers of a choice, besides what it depends on."""

    measured_utc: str
    doubt: str
    candidates: tuple[_Row, ...]


def _remembered(
    data: dict[str, Any], artifacts: Sequence[Artifact], threads: int, path: Path
) -> Choice:
    """A record as a choice again; KeyError, SpecError or ValueError where it is damaged."""
    by_sha256 = {manifest_sha256(one): one for one in artifacts}
    found = read_values(_Record, data, other=True)
    candidates = []
    for row in found.candidates:
        values = plain_values(row)
        candidates.append(Candidate(by_sha256[values.pop("manifest_sha256")], **values))
    chosen = [one.latency_ms for one in candidates if not one.reason]
    if len(chosen) != 1 or chosen[0] is None:
        raise ValueError(f"{len(chosen)} candidates are chosen")
    return _choice(candidates, threads, found.measured_utc, found.doubt, path, remembered=True)


def _age_s(choice: Choice) -> float:
    """Seconds since it was measured; infinite where the clock was set back meanwhile."""
    when = datetime.fromisoformat(choice.measured_utc.replace("Z", "+00:00"))
    age_s = (datetime.now(timezone.utc) - when).total_seconds()
    return age_s if age_s >= 0 else math.inf


def _choice(
    candidates: Sequence[Candidate],
    threads: int,
    when: str,
    warning: str,
    path: Path | None,
    *,
    remembered: bool,
) -> Choice:
    chosen = next(one for one in candidates if not one.reason)
    assert chosen.latency_ms
    return Choice(
        artifact=chosen.artifact,
        inference_precision=chosen.inference_precision,
        latency_ms=chosen.latency_ms,
        candidates=tuple(candidates),
        threads=threads,
        measured_utc=when,
        warning=warning,
        remembered=remembered,
        file=path,
    )
