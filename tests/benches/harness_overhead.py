"""What `edge.latency` itself costs a call, by a device that only waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from edge.latency import LatencySettings, measure


@dataclass(frozen=True)
class HarnessOverhead:
    """What measuring itself costs a call of ``call_ns``.

    ``sample_ns`` is in every sample and not the call's own (the median over many); ``gap_ns``
    passes between two samples and is in none.
    """

    call_ns: int
    sample_ns: float
    gap_ns: float

    @property
    def share(self) -> float:
        """The part of a sample that is the harness's own."""
        return self.sample_ns / self.call_ns


def harness_overhead(
    call_ns: int = 1_000_000,
    count: int = 300,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> HarnessOverhead:
    """Measure a null device: one that only waits, on the clock, until ``call_ns`` have passed.

    What a sample holds beyond the time that the device itself saw pass is the harness's own.
    """
    inside: list[int] = []

    def null_device() -> None:
        start = now = clock_ns()
        while now - start < call_ns:
            now = clock_ns()
        inside.append(now - start)

    settings = LatencySettings(5, 0.0, count, 0.0, max(60.0, 4e-9 * call_ns * count))
    result = measure(null_device, settings, clock_ns)
    own = [sample - seen for sample, seen in zip(result.samples_ns, inside[-count:], strict=True)]
    gaps = [
        after - before - sample
        for before, after, sample in zip(
            result.starts_ns, result.starts_ns[1:], result.samples_ns, strict=False
        )
    ]
    return HarnessOverhead(call_ns, float(median(own)), float(median(gaps)))
