"""Timing a model's candidates on this machine, and picking one; `edge.choice` remembers it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.artifact import Artifact
from edge.detector import Detector
from edge.errors import ArtifactError, EdgeError, EngineMissingError, ParityError
from edge.latency import LatencySettings, measure_in_turn, percentile_ms
from edge.onestage import OneStage
from edge.pose import PoseEstimator
from edge.session import (
    EngineSettings,
    InferencePrecision,
    Session,
    lower_precisions,
    shipped_precision,
)
from edge.spec import QUANTISED

__all__ = ["TIE", "Candidate", "Check", "MeasureOptions", "decide", "manifest_sha256"]

# Nearer than this to the fastest is as fast: what two measurements of the same may differ by.
TIE = 0.03
_ROUNDS = 5
_SECONDS = 0.25  # for each candidate and number of people, in all rounds together
# Before each block, in calls that do not count: the threads of the engine before may still spin
# (ONNX Runtime 1.31.1 slows the next engine's calls for 50 ms, whether these come at once or not).
_SETTLE_S = 0.06
_WAITED = 0.05  # more than this share of the time: others were busy
_HOPELESS, _TRIED = 2.0, 2  # times the fastest, after that many rounds: not timed any further
# From the most to the least precise, of weights and arithmetic alike.
_PRECISE = ["fp32", "fp16-storage", "fp16", "bf16", "w8a16", "mixed", "dynamic-range", "int8"]

Check = Callable[[Artifact, Session], str]
"""Compares a session's answers with the artifact's reference; a summary, ParityError beyond it."""


@dataclass(frozen=True)
class Candidate:
    """An artifact with the arithmetic that it is allowed, and what became of it.

    ``computes_in`` is the arithmetic that held. ``latency_ms`` is the median time of a whole call
    with one person (a detector's or one-stage model's: one picture), ``latency_4_people_ms`` that
    with four, of those that are at most twice as slow as the fastest with one; None where it was
    not measured. ``check`` says what a comparison made for this choice gave, ``reason`` why it is
    not the one; empty for the one that is.
    """

    artifact: Artifact
    inference_precision: InferencePrecision
    computes_in: str = ""
    engine: str = ""
    latency_ms: float | None = None
    latency_4_people_ms: float | None = None
    check: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """The variant, with the arithmetic where that is not its own."""
        shipped = self.inference_precision == shipped_precision(self.artifact)
        return f"{self.artifact.variant}{'' if shipped else f' in {self.inference_precision}'}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, of which a record's candidate is made again."""
        return {
            "artifact": str(self.artifact.folder),
            "manifest_sha256": manifest_sha256(self.artifact),
            "variant": str(self.artifact.variant),
            "inference_precision": self.inference_precision,
            "computes_in": self.computes_in,
            "engine": self.engine,
            "latency_ms": self.latency_ms,
            "latency_4_people_ms": self.latency_4_people_ms,
            "check": self.check,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class MeasureOptions:
    """How candidates are opened, timed and compared; ``progress`` gets what is going on."""

    threads: int
    inference_precision: InferencePrecision | None
    check: Check | None
    progress: Callable[[str], None]
    open_artifact: Callable[[Artifact, EngineSettings], Session]
    clock_ns: Callable[[], int]


def manifest_sha256(artifact: Artifact) -> str:
    """Hash of all that an artifact's manifest says: it holds the hashes of its files."""
    return hashlib.sha256(json.dumps(artifact.to_json(), sort_keys=True).encode()).hexdigest()


def decide(artifacts: Sequence[Artifact], options: MeasureOptions) -> tuple[list[Candidate], str]:
    """All candidates of one model, measured, with the reasons against all but one; and a warning.

    The warning says how busy others kept the machine; empty where they did not. Raises
    ArtifactError where no candidate can run here, EngineMissingError where that is only for want of
    an engine.
    """
    with ExitStack() as stack:
        rows: list[tuple[Candidate, Session | None]] = []
        for artifact in artifacts:
            options.progress(f"{artifact.spec.name}: opening {artifact.variant}")
            rows += _opened(artifact, options, stack)
        candidates = [candidate for candidate, _ in rows]
        sessions = {n: session for n, (_, session) in enumerate(rows) if session is not None}
        warning = _measure(candidates, sessions, options) if sessions else ""
        left = set(sessions)
        while left:
            best = _pick(candidates, left)
            if candidates[best].inference_precision == "bf16":
                candidates[best] = _checked(candidates[best], sessions[best], options)
            if not candidates[best].reason:
                return _with_reasons(candidates, left, best), warning
            left.remove(best)
    raise _none(candidates)


def _opened(
    artifact: Artifact, options: MeasureOptions, stack: ExitStack
) -> list[tuple[Candidate, Session | None]]:
    """An artifact's candidates."""
    asked = options.inference_precision
    wanted = _wanted(artifact, asked, may_check=options.check is not None)
    if not wanted:
        reason = f"was not compared in {asked}"
        return [(Candidate(artifact, shipped_precision(artifact), reason=reason), None)]
    found = [_open(artifact, precision, options, stack) for precision in wanted]
    # A CPU without bf16 computes in fp32: that is a candidate already.
    return [
        (candidate, session)
        for candidate, session in found
        if candidate.inference_precision != "bf16" or candidate.computes_in == "bf16"
    ] or found[:1]


def _wanted(
    artifact: Artifact, asked: InferencePrecision | None, *, may_check: bool
) -> list[InferencePrecision]:
    """What an artifact may compute in: as it was compared, with floats, and in bf16 if checked."""
    wanted = [shipped_precision(artifact)]
    if may_check:
        wanted += lower_precisions(artifact)
    if asked == "fp32":
        return ["fp32"]
    return [one for one in wanted if asked in (None, one)]


def _open(
    artifact: Artifact,
    precision: InferencePrecision,
    options: MeasureOptions,
    stack: ExitStack,
) -> tuple[Candidate, Session | None]:
    """A candidate, and its session where it can run: it ran once."""
    candidate = Candidate(artifact, precision)
    reason = _unfit(artifact)
    if reason:
        return replace(candidate, reason=reason), None
    try:
        settings = EngineSettings(options.threads, precision)
        session = stack.enter_context(options.open_artifact(artifact, settings))
        candidate = replace(
            candidate, computes_in=session.inference_precision, engine=session.engine
        )
        if session.starts_process:
            return replace(candidate, reason="starts a process for every call"), None
        _call(session, 1)()
    except EngineMissingError as error:
        return replace(candidate, reason=f"engine missing: {error}"), None
    except (EdgeError, OSError) as error:
        return replace(candidate, reason=f"does not run here: {error}"), None
    return candidate, session


def _unfit(artifact: Artifact) -> str:
    """Why an artifact may not be chosen, however fast it is; "" where it may."""
    if artifact.failed:
        return "failed its checks"
    if not artifact.parity.get("passed"):
        return "was never compared with its source"
    if artifact.variant.precision in QUANTISED and not artifact.accuracy.get("passed"):
        return "its accuracy was not measured"
    batch = artifact.spec.input.shape[0]
    return "" if batch in (None, 1) else f"has a fixed batch of {batch}"


def _measure(
    candidates: list[Candidate], sessions: dict[int, Session], options: MeasureOptions
) -> str:
    """Put the median latencies into the candidates that have a session; what speaks against them.

    What tells is the time that this thread could compute and had no CPU: of Linux, elsewhere 0.
    """
    began_ns, waited_ns = options.clock_ns(), waiting_ns()
    spec = next(iter(sessions.values())).spec
    samples = _time(spec.name, sessions, 1, options)
    for number, one in samples.items():
        candidates[number] = replace(candidates[number], latency_ms=percentile_ms(one, 50))
    if spec.task == "pose":
        left = {n: session for n, session in sessions.items() if not _hopeless(n, samples)}
        for number, one in _time(spec.name, left, 4, options).items():
            candidates[number] = replace(
                candidates[number], latency_4_people_ms=percentile_ms(one, 50)
            )
    waited = (waiting_ns() - waited_ns) / max(1, options.clock_ns() - began_ns)
    return f"a CPU was waited for {waited:.0%} of the time" if waited > _WAITED else ""


def waiting_ns() -> int:
    """How long this thread has waited for a CPU since it began: Linux's ``schedstat``."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _time(
    model: str, sessions: dict[int, Session], people: int, options: MeasureOptions
) -> dict[int, list[int]]:
    """Samples in ns by the sessions' numbers; those of the hopelessly slow ones are fewer.

    In rounds, so that a busy neighbour hits all alike.
    """
    share = LatencySettings(
        warmup_count=2, warmup_duration_s=_SETTLE_S, min_count=1, min_duration_s=_SECONDS / _ROUNDS
    )
    samples: dict[int, list[int]] = {number: [] for number in sessions}
    for turn in range(_ROUNDS):
        numbers = [n for n in sessions if turn < _TRIED or not _hopeless(n, samples)]
        options.progress(
            f"{model}: timing {len(numbers)} candidates on {people} "
            f"{'person' if people == 1 else 'people'}, round {turn + 1} of {_ROUNDS}"
        )
        calls = [_call(sessions[number], people) for number in numbers]
        results = measure_in_turn(calls, share, 1, options.clock_ns)
        for number, result in zip(numbers, results, strict=True):
            samples[number] += result.samples_ns
    return samples


def _hopeless(number: int, samples: dict[int, list[int]]) -> bool:
    """Whether even the best of its samples is far from the fastest candidate's median."""
    if not samples[number]:
        return False
    return min(samples[number]) / 1e6 > _HOPELESS * min(
        percentile_ms(one, 50) for one in samples.values()
    )


def _call(session: Session, people: int) -> Callable[[], object]:
    """A whole call on a neutral picture: what is around the network differs by engine too."""
    image, boxes = _picture()
    if session.spec.task == "pose":
        estimate = PoseEstimator(session)
        return lambda: estimate(image, boxes[:people])
    find = Detector(session) if session.spec.task == "detection" else OneStage(session)
    return lambda: find(image)


def _picture() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Patches of seeded grey levels, (480, 640, 3), and boxes (4, 4) of the size of people."""
    patches = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    x1 = np.array([200, 20, 360, 500], np.float32)
    y1 = np.array([60, 100, 80, 120], np.float32)
    return patches.repeat(16, 0).repeat(16, 1), np.stack([x1, y1, x1 + 120, y1 + 340], 1)


def _pick(candidates: Sequence[Candidate], numbers: set[int]) -> int:
    """The most precise of the fastest."""
    times = {number: candidates[number].latency_ms or math.inf for number in numbers}
    limit = min(times.values()) * (1 + TIE)
    ties = [number for number in numbers if times[number] <= limit]
    return min(ties, key=lambda number: (_coarseness(candidates[number]), times[number]))


def _coarseness(candidate: Candidate) -> int:
    words = (candidate.artifact.variant.precision, candidate.computes_in)
    return max(_PRECISE.index(word) if word in _PRECISE else len(_PRECISE) for word in words)


def _checked(candidate: Candidate, session: Session, options: MeasureOptions) -> Candidate:
    """A candidate in bf16 with what a comparison of its answers gave, or the reason against it."""
    assert options.check  # without one nothing may compute in bf16
    options.progress(f"{candidate.artifact.spec.name}: comparing the answers of {candidate.name}")
    try:
        return replace(candidate, check=options.check(candidate.artifact, session))
    except ParityError as error:
        return replace(candidate, reason=f"its answers are beyond the limits: {error}")
    except EdgeError as error:
        return replace(candidate, reason=f"not checked: {error}")


def _with_reasons(candidates: list[Candidate], left: set[int], best: int) -> list[Candidate]:
    """The same, with a reason against each that was measured but is not the best."""
    fastest = min(candidates[number].latency_ms or math.inf for number in left)
    best_ms = candidates[best].latency_ms
    assert best_ms
    for number in left - {best}:
        latency = candidates[number].latency_ms or math.inf
        reason = (
            f"as fast within {TIE:.0%}, not more precise"
            if latency <= fastest * (1 + TIE)
            else f"slower, x{latency / best_ms:.2f}"
        )
        candidates[number] = replace(candidates[number], reason=reason)
    return candidates


def _none(candidates: Sequence[Candidate]) -> EdgeError:
    """What to raise where nothing can run."""
    reasons = "; ".join(f"{one.name}: {one.reason}" for one in candidates)
    text = f"{candidates[0].artifact.spec.name}: none of its artifacts can be chosen: {reasons}"
    if all(one.reason.startswith("engine missing") for one in candidates):
        return EngineMissingError(text)
    return ArtifactError(text)
