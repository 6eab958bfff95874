"""A device and its state as records: what is read from it, and what a run's file says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["BatteryRecord", "DeviceRecord", "DeviceState", "StatePoint"]


@dataclass(frozen=True)
class DeviceRecord:
    """The device that ran: how it is called, what it is, how many cores it has."""

    name: str
    model: str | None
    soc: str | None
    os: str | None
    arch: str | None
    cores: int | None


@dataclass(frozen=True)
class BatteryRecord:
    """A battery: charge, whether it is being charged, whether power saving is on."""

    level_percent: int | None
    powered: bool | None
    saver: bool | None


@dataclass(frozen=True)
class DeviceState:
    """The state of a device at one moment; what could not be read is None or empty.

    ``max_clocks_khz`` are the limits that hold now, which heat lowers on many devices.
    ``throttle_counts`` are counters of throttling events. ``unreadable`` says what is missing and
    why.
    """

    governors: Mapping[str, str] = field(default_factory=dict)
    clocks_khz: Mapping[str, int] = field(default_factory=dict)
    max_clocks_khz: Mapping[str, int] = field(default_factory=dict)
    thermal_status: int | None = None
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    throttle_bits: int | None = None
    throttle_counts: Mapping[str, int] = field(default_factory=dict)
    battery: BatteryRecord | None = None
    power_mode: str | None = None
    power_mw: float | None = None
    load_1m: float | None = None
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class StatePoint:
    """State while a run was under way, ``t_s`` after the start of its first timed inference."""

    t_s: float
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    clocks_khz: Mapping[str, int] = field(default_factory=dict)
    power_mw: float | None = None
    thermal_status: int | None = None
    throttle_bits: int | None = None
