"""Latency of a call, and whether the figure may be believed.

In scope: a callable and a clock. Out of scope: models, engines, devices and their state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

__all__ = ["LatencyResult", "LatencySettings", "measure", "measure_in_turn"]


@dataclass(frozen=True)
class LatencySettings:
    """How long to warm up and to measure.

    Warm-up lasts until both its count and its duration are reached; measuring until both minima
    are, and never beyond ``max_duration_s``, which then makes the result invalid.
    """

    warmup_count: int = 5
    warmup_duration_s: float = 0.2
    min_count: int = 50
    min_duration_s: float = 1.0
    max_duration_s: float = 60.0

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {self.min_count}")
        if self.max_duration_s < self.min_duration_s:
            raise ValueError(
                f"max_duration_s {self.max_duration_s} is below "
                f"min_duration_s {self.min_duration_s}"
            )


@dataclass(frozen=True)
class LatencyResult:
    """Every sample in ns, in order, and the verdict with its reasons."""

    settings: LatencySettings
    samples_ns: tuple[int, ...]
    reasons: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether nothing speaks against the figure."""
        return not self.reasons

    def percentile_ms(self, percent: float) -> float:
        """The smallest sample that at least ``percent`` % of the samples do not exceed, in ms."""
        if not 0 < percent <= 100:
            raise ValueError(f"a percentile lies in (0, 100], got {percent}")
        ordered = sorted(self.samples_ns)
        return ordered[math.ceil(percent / 100 * len(ordered)) - 1] / 1e6

    @property
    def mean_ms(self) -> float:
        """Mean of the samples in ms."""
        return sum(self.samples_ns) / len(self.samples_ns) / 1e6


def measure(
    call: Callable[[], object],
    settings: LatencySettings | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> LatencyResult:
    """Call until the settings are met; every call is one sample."""
    settings = settings or LatencySettings()
    start = clock_ns()
    warmed = 0
    while (
        warmed < settings.warmup_count or clock_ns() - start < settings.warmup_duration_s * 1e9
    ) and clock_ns() - start < settings.max_duration_s * 1e9:
        call()
        warmed += 1

    samples: list[int] = []
    start = now = clock_ns()
    while len(samples) < settings.min_count or now - start < settings.min_duration_s * 1e9:
        if samples and now - start >= settings.max_duration_s * 1e9:
            break
        before = clock_ns()
        call()
        now = clock_ns()
        samples.append(now - before)
    reasons = []
    if len(samples) < settings.min_count:
        reasons.append(
            f"only {len(samples)} of {settings.min_count} samples within "
            f"{settings.max_duration_s:g} s: raise max_duration_s"
        )
    if min(samples) <= 0:
        reasons.append("the clock is too coarse: a sample took 0 ns")
    return LatencyResult(settings, tuple(samples), tuple(reasons))


def measure_in_turn(
    calls: Sequence[Callable[[], object]],
    settings: LatencySettings | None = None,
    rounds: int = 5,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> list[LatencyResult]:
    """Measure several calls in turns, A B C A B C, so that a drifting machine hits all alike.

    Every round of every call is warmed up in full and takes its share of the other settings.
    """
    settings = settings or LatencySettings()
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    share = replace(
        settings,
        min_count=math.ceil(settings.min_count / rounds),
        min_duration_s=settings.min_duration_s / rounds,
        max_duration_s=settings.max_duration_s / rounds,
    )
    turns = [[measure(call, share, clock_ns) for call in calls] for _ in range(rounds)]
    return [
        LatencyResult(
            settings,
            tuple(sample for result in results for sample in result.samples_ns),
            tuple(dict.fromkeys(reason for result in results for reason in result.reasons)),
        )
        for results in zip(*turns, strict=True)
    ]
