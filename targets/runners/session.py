"""A variant on a device: a session that answers there, and that can be timed there.

What a runner is (native, Python, trtexec) ends here: parity and timing see a `DeviceSession`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from edge.latency import ColdStart, LatencySettings
from edge.session import Feeds, Session
from targets.device_state import StatePoint
from targets.result import RunnerRecord

__all__ = ["DeviceSession", "TimedRun"]


@dataclass(frozen=True)
class TimedRun:
    """What a runner measured, and what it says against that itself.

    ``affinity`` is the mask that held for every thread (hex, no 0x), the union where they differ,
    None where it is not known. ``starts_ns`` count from the first sample, or are empty.
    ``outputs_finite`` is None where the runner does not look, or where ``reasons`` say more of it.
    ``on_cpu`` False: the network ran elsewhere. ``tail_s`` is what the call still took after the
    last sample, fetching files for example. ``points`` are clocks that the runner read itself,
    on the clock of ``starts_ns``. ``reasons`` make the run invalid, ``warnings`` do not;
    ``details`` are further figures for the record, units in their names.
    """

    runner: RunnerRecord
    engine: str
    inference_precision: str
    threads: int
    affinity: str | None
    input_shape: tuple[int, ...]
    cold: ColdStart
    samples_ns: tuple[int, ...]
    starts_ns: tuple[int, ...]
    outputs_finite: bool | None
    on_cpu: bool = True
    tail_s: float = 0.0
    points: tuple[StatePoint, ...] = ()
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    details: Mapping[str, int | float | str | bool | None] = field(default_factory=dict)


class DeviceSession(Session, Protocol):
    """A session whose network runs on a device; ``machine`` names it, like ``ssh pi@10.0.0.5``.

    ``engine`` and ``inference_precision`` may say less before the first run than after it.
    """

    machine: str

    def measure(self, feeds: Feeds, settings: LatencySettings) -> TimedRun:
        """Time the network on one image; DeviceError where the runner fails."""
        ...
