"""Latency of a call, and whether the figure may be believed.

In scope: a callable and a clock. Out of scope: models, engines, devices and their state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal, TypeVar, get_args

from edge.errors import ArgumentError
from edge.records import check, choice, number, shown, whole

__all__ = [
    "NOT_COMPARED",
    "P90_SAMPLES",
    "P99_SAMPLES",
    "ColdStart",
    "LatencyResult",
    "LatencySettings",
    "LatencySummary",
    "Mode",
    "load_warnings",
    "measure",
    "measure_cold",
    "measure_in_turn",
    "percentile_ms",
    "spread_reasons",
    "summarise",
]

# burst: as fast as it goes while cool; sustained: long enough for heat to show.
Mode = Literal["burst", "sustained"]
_T = TypeVar("_T")

# The fewest samples of which two lie beyond the percentile with 99 % confidence: MLPerf's early
# stopping (mlcommons.org, inference rules, "Early Stopping").
P90_SAMPLES = 64
P99_SAMPLES = 662

_SUSTAINED_S = 60.0

# When a run was disturbed. The limits are those that pyperf warns at (pyperf.readthedocs.io,
# "Analyze benchmark results": a standard deviation of 10 % of the mean, a maximum of 150 % of it),
# held against statistics that a few outliers of thousands of samples do not move: the distance of
# the quartiles (1.349 standard deviations of a normal distribution; Tukey, Exploratory Data
# Analysis, 1977), the time that samples beyond the second limit cost, and the medians of the
# thirds. They cannot find what slows every call alike.
_SPREAD_SAMPLES = 30
_MAX_DEVIATION = 0.10
_FAR = 1.5
_MAX_LOST = 0.10
_FEWEST_FAR = 3
_MAX_DRIFT = 0.10
_BUSY_LOAD = 1.0
NOT_COMPARED = "its answers were not compared on the device"


@dataclass(frozen=True)
class LatencySettings:
    """How long to warm up and to measure.

    Warm-up lasts until both its count and its duration are reached; measuring until both minima
    are, and never beyond ``max_duration_s``, which then makes the result invalid. ``pause_s`` lies
    before every measured call, as between the frames of a camera. A ``sustained`` run has no pauses
    and measures for 60 s or more.
    """

    warmup_count: int = 5
    warmup_duration_s: float = 0.2
    min_count: int = 50
    min_duration_s: float = 1.0
    max_duration_s: float = 60.0
    pause_s: float = 0.0
    mode: Mode = "burst"

    def __post_init__(self) -> None:
        for name, least in (("warmup_count", 0), ("min_count", 1)):
            check(whole(least, 10**9), getattr(self, name), name, error=ArgumentError)
        for name in ("warmup_duration_s", "min_duration_s", "max_duration_s", "pause_s"):
            check(number(0), getattr(self, name), name, error=ArgumentError)
        check(choice(*get_args(Mode)), self.mode, "mode", error=ArgumentError)
        if self.max_duration_s < self.min_duration_s:
            raise ArgumentError(
                f"max_duration_s {self.max_duration_s} is below "
                f"min_duration_s {self.min_duration_s}"
            )
        if self.mode == "sustained" and (self.min_duration_s < _SUSTAINED_S or self.pause_s):
            raise ArgumentError(
                f"a sustained run measures for {_SUSTAINED_S:g} s or more without pauses, got "
                f"min_duration_s {self.min_duration_s:g} and pause_s {self.pause_s:g}"
            )


@dataclass(frozen=True)
class LatencySummary:
    """Figures of a run in ms, None where the samples are too few.

    A percentile is the smallest sample that at least so many percent do not exceed.
    """

    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    mean_ms: float | None
    min_ms: float | None
    max_ms: float | None
    count: int


@dataclass(frozen=True)
class LatencyResult:
    """Every sample in ns, in order, and what speaks against them.

    ``starts_ns`` says when each began, counted from the first of them; of calls measured in turn
    from the first sample of all, so that their series lie on one axis.
    """

    settings: LatencySettings
    samples_ns: tuple[int, ...]
    reasons: tuple[str, ...]
    starts_ns: tuple[int, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether nothing speaks against the figure; see also ``spread_reasons``."""
        return not self.reasons

    @property
    def summary(self) -> LatencySummary:
        """The figures."""
        return summarise(self.samples_ns)

    @property
    def mean_ms(self) -> float:
        """Mean of the samples in ms."""
        return sum(self.samples_ns) / len(self.samples_ns) / 1e6

    def percentile_ms(self, percent: float) -> float:
        """The percentile in ms, however few the samples."""
        return percentile_ms(self.samples_ns, percent)


@dataclass(frozen=True)
class ColdStart:
    """What the first answer costs, apart from the steady state; None where it is not known."""

    load_ms: float | None
    first_inference_ms: float | None


def percentile_ms(samples_ns: Sequence[int], percent: float) -> float:
    """The smallest sample that at least ``percent`` % of the samples do not exceed, in ms."""
    if not 0 < percent <= 100:
        raise ArgumentError(f"a percentile lies in (0, 100], got {percent}")
    ordered = sorted(samples_ns)
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1] / 1e6


def summarise(samples_ns: Sequence[int]) -> LatencySummary:
    """The figures of a run; ValueError where it has no sample."""
    if not samples_ns:
        raise ArgumentError("no samples to summarise")
    count = len(samples_ns)
    return LatencySummary(
        p50_ms=percentile_ms(samples_ns, 50),
        p90_ms=percentile_ms(samples_ns, 90) if count >= P90_SAMPLES else None,
        p99_ms=percentile_ms(samples_ns, 99) if count >= P99_SAMPLES else None,
        mean_ms=sum(samples_ns) / count / 1e6,
        min_ms=min(samples_ns) / 1e6,
        max_ms=max(samples_ns) / 1e6,
        count=count,
    )


def spread_reasons(samples_ns: Sequence[int], mode: Mode = "burst") -> tuple[str, ...]:
    """What in the samples says that something else was running; empty below 30 samples.

    Of a sustained run, a drift is the finding and no disturbance.
    """
    count = len(samples_ns)
    if count < _SPREAD_SAMPLES:
        return ()
    middle = median(samples_ns)
    reasons = []
    ordered = sorted(samples_ns)
    deviation = (ordered[count * 3 // 4] - ordered[count // 4]) / 1.349
    if deviation > _MAX_DEVIATION * middle:
        reasons.append(
            f"the samples scatter by {deviation / middle:.0%} of their median (limit "
            f"{_MAX_DEVIATION:.0%}): something else was running"
        )
    far = [sample for sample in samples_ns if sample > _FAR * middle]
    lost = sum(sample - middle for sample in far) / max(sum(samples_ns), 1)
    if lost > _MAX_LOST and len(far) >= _FEWEST_FAR:
        reasons.append(
            f"{len(far)} of {count} samples took over {_FAR:g} times the median and {lost:.0%} of "
            f"the time (limit {_MAX_LOST:.0%}): something else was running"
        )
    if mode == "burst" and not reasons:
        third = count // 3
        thirds = (samples_ns[:third], samples_ns[third : count - third], samples_ns[-third:])
        medians = [median(part) for part in thirds]
        drift = max(medians) / max(min(medians), 1) - 1
        if drift > _MAX_DRIFT:
            shown = ", ".join(f"{value / 1e6:.3g}" for value in medians)
            reasons.append(
                f"the median moved by {drift:.0%} within the run (thirds: {shown} ms, limit "
                f"{_MAX_DRIFT:.0%}): the device was not in a steady state"
            )
    return tuple(reasons)


def _settings(settings: LatencySettings | None) -> LatencySettings:
    if not isinstance(settings, LatencySettings | None):
        raise ArgumentError(f"settings must be LatencySettings(...), got {shown(settings)}")
    return settings or LatencySettings()


def load_warnings(load_1m: float | None) -> tuple[str, ...]:
    """What the system's load before a run says, of the last minute (None: not known)."""
    if load_1m is None or load_1m < _BUSY_LOAD:
        return ()
    return (f"the load before the run was {load_1m:g}: something else may have been running",)


def measure(
    call: Callable[[], object],
    settings: LatencySettings | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> LatencyResult:
    """Call until the settings are met; every call after the warm-up is one sample."""
    settings = _settings(settings)
    if not callable(call):
        raise ArgumentError(
            f"measure takes what can be called without arguments, got {shown(call)}"
        )
    _warm_up(call, settings, clock_ns)
    return _from_first(_sample(call, settings, clock_ns, sleep))


def measure_in_turn(
    calls: Sequence[Callable[[], object]],
    settings: LatencySettings | None = None,
    rounds: int = 5,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> list[LatencyResult]:
    """Measure several calls in turns, A B C A B C, so that a drifting machine hits all alike.

    Every round of every call is warmed up in full and takes its share of the other settings. A
    sustained run cannot be cut into turns: ValueError.
    """
    settings = _settings(settings)
    if rounds < 1:
        raise ArgumentError(f"rounds must be at least 1, got {rounds}")
    if settings.mode == "sustained":
        raise ArgumentError("a sustained run is not interrupted: measure each call alone")
    share = replace(
        settings,
        min_count=math.ceil(settings.min_count / rounds),
        min_duration_s=settings.min_duration_s / rounds,
        max_duration_s=settings.max_duration_s / rounds,
    )
    turns: list[list[LatencyResult]] = []
    for _ in range(rounds):
        turns.append([])
        for call in calls:
            _warm_up(call, share, clock_ns)
            turns[-1].append(_sample(call, share, clock_ns, sleep))
    origin = turns[0][0].starts_ns[0] if calls else 0
    return [
        LatencyResult(
            settings,
            tuple(sample for result in results for sample in result.samples_ns),
            tuple(dict.fromkeys(reason for result in results for reason in result.reasons)),
            tuple(start - origin for result in results for start in result.starts_ns),
        )
        for results in zip(*turns, strict=True)
    ]


def measure_cold(
    load: Callable[[], _T],
    first: Callable[[_T], object],
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> tuple[_T, ColdStart]:
    """Load something and call it once; what ``load`` gave, and the two times."""
    start = clock_ns()
    loaded = load()
    ready = clock_ns()
    first(loaded)
    end = clock_ns()
    return loaded, ColdStart((ready - start) / 1e6, (end - ready) / 1e6)


def _warm_up(
    call: Callable[[], object], settings: LatencySettings, clock_ns: Callable[[], int]
) -> None:
    start = clock_ns()
    warmed = 0
    while (
        warmed < settings.warmup_count or clock_ns() - start < settings.warmup_duration_s * 1e9
    ) and clock_ns() - start < settings.max_duration_s * 1e9:
        call()
        warmed += 1


def _sample(
    call: Callable[[], object],
    settings: LatencySettings,
    clock_ns: Callable[[], int],
    sleep: Callable[[float], None],
) -> LatencyResult:
    """The samples, their starts as the clock has them, and what is wrong with them."""
    samples: list[int] = []
    starts: list[int] = []
    begin = now = clock_ns()
    while len(samples) < settings.min_count or now - begin < settings.min_duration_s * 1e9:
        if samples and now - begin >= settings.max_duration_s * 1e9:
            break
        if settings.pause_s:
            sleep(settings.pause_s)
        before = clock_ns()
        call()
        now = clock_ns()
        starts.append(before)
        samples.append(now - before)
    reasons = []
    if len(samples) < settings.min_count:
        reasons.append(
            f"only {len(samples)} of {settings.min_count} samples within "
            f"{settings.max_duration_s:g} s: raise max_duration_s"
        )
    if min(samples) <= 0:
        reasons.append("the clock is too coarse: a sample took 0 ns")
    return LatencyResult(settings, tuple(samples), tuple(reasons), tuple(starts))


def _from_first(result: LatencyResult) -> LatencyResult:
    first = result.starts_ns[0]
    return replace(result, starts_ns=tuple(start - first for start in result.starts_ns))
