"""Whether a run counts: what the device's state, its answers and the samples say against it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from edge.latency import NOT_COMPARED, Mode, load_warnings, spread_reasons
from targets.device_state import DeviceState, StatePoint
from targets.devices.raspberry_pi import THROTTLE_BITS
from targets.profile import Requirements

__all__ = ["Verdict", "judge", "mask_held", "standing_reasons"]

_CLOCK_FALL = 0.10
_THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_CORE = re.compile(r"cpu(\d{1,9})")


@dataclass(frozen=True)
class Verdict:
    """Why a run does not count (nothing: it does), and what a reader should know besides."""

    reasons: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether the run counts."""
        return not self.reasons


@dataclass(frozen=True)
class _Watch:
    """Whose clocks matter to a run: the cores of ``mask`` (-1: all), or the GPU."""

    on_cpu: bool
    mask: int
    each_core: bool

    @classmethod
    def of(cls, cpu_mask: str | None, threads: int, on_cpu: bool) -> _Watch:
        valid = cpu_mask is not None and re.fullmatch("[0-9a-fA-F]+", cpu_mask)
        mask = int(cpu_mask, 16) if cpu_mask and valid else -1
        # Idle cores slow down as they like.
        return cls(on_cpu, mask, mask > 0 and threads >= mask.bit_count())

    def matters(self, name: str) -> bool:
        core = _CORE.fullmatch(name)
        if core:
            return self.on_cpu and bool(self.mask >> int(core[1]) & 1)
        # "arm" is the cores' clock as a Raspberry Pi's firmware has it; memory's follows its load.
        return name == ("arm" if self.on_cpu else "gpu")


def judge(
    *,
    before: DeviceState,
    after: DeviceState,
    series: Sequence[StatePoint] = (),
    samples_ns: Sequence[int],
    mode: Mode = "burst",
    required: Requirements | None = None,
    cpu_mask: str | None = None,
    affinity: str | None = None,
    threads: int = 0,
    parity_passed: bool | None = None,
    outputs_finite: bool | None = None,
    on_cpu: bool = True,
    harness_reasons: Sequence[str] = (),
) -> Verdict:
    """Judge one run.

    ``series`` are states while the run was under way, in order. ``cpu_mask`` is what was asked for
    and ``affinity`` what held, hexadecimal (None: not asked, not known). Where ``threads`` fill the
    mask, each of its cores must keep its clock; otherwise the fastest must, for the busy one may
    change. ``on_cpu`` False: the network ran elsewhere, and clocks of cores say nothing.
    ``harness_reasons`` are those of the measurement itself, such as too few samples.
    """
    reasons = list(harness_reasons)
    warnings: list[str] = []
    required = required or Requirements()
    _judge_answers(parity_passed, outputs_finite, reasons, warnings)
    _judge_mask(cpu_mask, affinity, reasons, warnings)
    _judge_heat(before, after, series, reasons, warnings)
    _judge_throttling(before, after, series, reasons, warnings)
    _judge_clocks(before, after, series, _Watch.of(cpu_mask, threads, on_cpu), reasons)
    _judge_power(before, after, required, reasons, warnings)
    cores = int(cpu_mask, 16).bit_count() if cpu_mask else 0
    if cores and threads > cores:
        warnings.append(f"{threads} threads had {cores} cores of the mask {cpu_mask} to run on")
    if not samples_ns:
        reasons.append("it has no samples")
    reasons += spread_reasons(samples_ns, mode)
    warnings += load_warnings(before.load_1m)
    missing = dict.fromkeys((*before.unreadable, *after.unreadable))
    if missing:
        warnings.append(f"could not be read: {'; '.join(missing)}")
    return Verdict(tuple(dict.fromkeys(reasons)), tuple(dict.fromkeys(warnings)))


def standing_reasons(state: DeviceState, required: Requirements) -> tuple[str, ...]:
    """What makes every run on a device in this state invalid: to be told before the first."""
    reasons: list[str] = []
    _judge_throttling(state, state, (), reasons, [])
    _judge_power(state, state, required, reasons, [])
    return tuple(reasons)


def mask_held(cpu_mask: str, affinity: str) -> bool:
    """Whether no thread could run outside the mask; both hexadecimal, with commas or 0x or none."""
    try:
        asked, held = (int(text.replace(",", ""), 16) for text in (cpu_mask, affinity))
    except ValueError:
        return False
    return held != 0 and held & ~asked == 0


def _judge_answers(
    parity_passed: bool | None, outputs_finite: bool | None, reasons: list[str], warnings: list[str]
) -> None:
    if outputs_finite is False:
        reasons.append("its outputs are not finite")
    if parity_passed is False:
        reasons.append("its answers on the device are not in parity with the reference")
    elif parity_passed is None:
        warnings.append(NOT_COMPARED)


def _judge_mask(
    cpu_mask: str | None, affinity: str | None, reasons: list[str], warnings: list[str]
) -> None:
    if not cpu_mask:
        return
    if affinity is None:
        warnings.append(f"whether the cpu mask {cpu_mask} held is not known")
    elif not mask_held(cpu_mask, affinity):
        reasons.append(f"the cpu mask {cpu_mask} did not hold: threads ran on {affinity}")


def _judge_heat(
    before: DeviceState,
    after: DeviceState,
    series: Sequence[StatePoint],
    reasons: list[str],
    warnings: list[str],
) -> None:
    if before.thermal_status is None:
        return
    later = [point.thermal_status for point in series] + [after.thermal_status]
    known = [status for status in later if status is not None]
    if known and max(known) > before.thermal_status:
        reasons.append(
            f"the thermal status rose from {_status(before.thermal_status)} to "
            f"{_status(max(known))}"
        )
    if before.thermal_status > 0:
        warnings.append(f"the thermal status was {_status(before.thermal_status)} from the start")


def _judge_throttling(
    before: DeviceState,
    after: DeviceState,
    series: Sequence[StatePoint],
    reasons: list[str],
    warnings: list[str],
) -> None:
    for name, count in after.throttle_counts.items():
        events = count - before.throttle_counts.get(name, count)
        if events > 0:
            reasons.append(f"it was throttled: {events} more events of {name}")
    if before.throttle_bits is None:
        return
    later = 0
    for bits in (*(point.throttle_bits for point in series), after.throttle_bits):
        later |= bits or 0
    new = later & ~before.throttle_bits
    if new:
        reasons.append(f"a throttle bit appeared: {_bits(new)} (0x{new:x})")
    # What holds now slows the run from its first sample on.
    held = before.throttle_bits & 0xF
    if held:
        reasons.append(f"it was throttled from the start: {_bits(held)}")
    latched = (before.throttle_bits & ~held << 16) >> 16 & 0xF
    if latched:
        warnings.append(
            f"since it was switched on: {_bits(latched)}; such an event during the run would not "
            "show: reboot it, and mend its power supply or cooling"
        )


def _judge_clocks(
    before: DeviceState,
    after: DeviceState,
    series: Sequence[StatePoint],
    watch: _Watch,
    reasons: list[str],
) -> None:
    for name, limit in before.max_clocks_khz.items():
        now = after.max_clocks_khz.get(name, limit)
        if watch.matters(name) and _fell(limit, now):
            reasons.append(f"the limit of {name}'s clock fell from {_mhz(limit)} to {_mhz(now)}")
    tracks: dict[str, list[int]] = {}
    for point in series:
        clocks = {name: clock for name, clock in point.clocks_khz.items() if watch.matters(name)}
        cores = [name for name in clocks if _CORE.fullmatch(name)]
        if cores and not watch.each_core:
            fastest = max(clocks.pop(name) for name in cores)
            clocks["the fastest core"] = fastest
        for name, clock in clocks.items():
            tracks.setdefault(name, []).append(clock)
    for name, track in tracks.items():
        third = max(1, len(track) // 3)
        first, last = median(track[:third]), median(track[-third:])
        if len(track) > 1 and _fell(first, last):
            reasons.append(f"the clock of {name} fell from {_mhz(first)} to {_mhz(last)}")


def _judge_power(
    before: DeviceState,
    after: DeviceState,
    required: Requirements,
    reasons: list[str],
    warnings: list[str],
) -> None:
    batteries = [state.battery for state in (before, after) if state.battery is not None]
    if any(battery.saver for battery in batteries):
        reasons.append("the battery saver is on: switch it off")
    if required.powered:
        if any(battery.powered is False for battery in batteries):
            reasons.append("it is not powered: plug it in")
        elif not any(battery.powered for battery in batteries):
            warnings.append("whether it is powered is not known")
    levels = [battery.level_percent for battery in batteries if battery.level_percent is not None]
    if required.battery_percent:
        if levels and min(levels) < required.battery_percent:
            reasons.append(
                f"its battery holds {min(levels)} %, the target asks for "
                f"{required.battery_percent} %: charge it"
            )
        elif not levels:
            warnings.append("how full its battery is is not known")
    if before.power_mode != after.power_mode and before.power_mode and after.power_mode:
        reasons.append(f"the power mode changed from {before.power_mode} to {after.power_mode}")
    for core, governor in before.governors.items():
        if after.governors.get(core, governor) != governor:
            reasons.append(
                f"the governor of {core} changed from {governor} to {after.governors[core]}"
            )


def _fell(first: float, last: float) -> bool:
    return last < (1 - _CLOCK_FALL) * first


def _mhz(khz: float) -> str:
    return f"{khz / 1000:.0f} MHz"


def _status(value: int) -> str:
    return f"{value} ({_THERMAL[value]})" if 0 <= value < len(_THERMAL) else str(value)


def _bits(bits: int) -> str:
    names = [text for bit, text in THROTTLE_BITS.items() if bits >> bit & 1]
    names += [
        f"{text}, at some time" for bit, text in THROTTLE_BITS.items() if bits >> 16 + bit & 1
    ]
    return ", ".join(names) or f"bits 0x{bits:x}"
