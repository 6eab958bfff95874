"""Whether a run counts: what the device's state, its answers and the samples say against it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from edge.latency import NOT_COMPARED, Mode, load_warnings, spread_reasons
from targets.device_state import DeviceState, StatePoint
from targets.devices.raspberry_pi import THROTTLE_BITS
from targets.profile import Requirements

__all__ = ["RULES", "Evidence", "Finding", "Verdict", "judge", "mask_held", "standing_reasons"]

_CLOCK_FALL = 0.10
_NOTHING_REQUIRED = Requirements()
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
class Evidence:
    """What is known of a run.

    ``points`` are states while it was under way, in order. ``cpu_mask`` is what was asked for and
    ``affinity`` what held, hexadecimal (None: not asked, not known). Where ``threads`` fill the
    mask, each of its cores must keep its clock; otherwise the fastest must, for the busy one may
    change. ``on_cpu`` False: the network ran elsewhere, and clocks of cores say nothing.
    ``harness_reasons`` are those of the measurement itself, such as too few samples.
    """

    before: DeviceState
    after: DeviceState
    points: Sequence[StatePoint] = ()
    samples_ns: Sequence[int] = ()
    mode: Mode = "burst"
    required: Requirements = _NOTHING_REQUIRED
    cpu_mask: str | None = None
    affinity: str | None = None
    threads: int = 0
    parity_passed: bool | None = None
    outputs_finite: bool | None = None
    on_cpu: bool = True
    harness_reasons: Sequence[str] = ()

    @property
    def mask(self) -> int:
        """The cores that were asked for, a bit each; all of them where none were."""
        valid = self.cpu_mask and re.fullmatch("[0-9a-fA-F]+", self.cpu_mask)
        return int(self.cpu_mask, 16) if self.cpu_mask and valid else -1

    def has_clock(self, name: str) -> bool:
        """Whether the clock of this name drives the run."""
        core = _CORE.fullmatch(name)
        if core:
            return self.on_cpu and bool(self.mask >> int(core[1]) & 1)
        # "arm" is the cores' clock as a Raspberry Pi's firmware has it; memory's follows its load.
        return name == ("arm" if self.on_cpu else "gpu")


@dataclass(frozen=True)
class Finding:
    """What a rule found: it makes the run invalid, or is a warning."""

    text: str
    invalid: bool = True


def judge(evidence: Evidence) -> Verdict:
    """Judge one run by all rules."""
    return _verdict(evidence, RULES)


def standing_reasons(state: DeviceState, required: Requirements) -> tuple[str, ...]:
    """What makes every run on a device in this state invalid: to be told before the first."""
    return _verdict(Evidence(state, state, required=required), (_throttling, _power)).reasons


def _verdict(evidence: Evidence, rules: Sequence[Rule]) -> Verdict:
    found = list(dict.fromkeys(finding for rule in rules for finding in rule(evidence)))
    return Verdict(
        tuple(finding.text for finding in found if finding.invalid),
        tuple(finding.text for finding in found if not finding.invalid),
    )


def mask_held(cpu_mask: str, affinity: str) -> bool:
    """Whether no thread could run outside the mask; both hexadecimal, with commas or 0x or none."""
    try:
        asked, held = (int(text.replace(",", ""), 16) for text in (cpu_mask, affinity))
    except ValueError:
        return False
    return held != 0 and held & ~asked == 0


# --- rules ----------------------------------------------------------------------------------------


def _harness(evidence: Evidence) -> Iterator[Finding]:
    yield from map(Finding, evidence.harness_reasons)


def _answers(evidence: Evidence) -> Iterator[Finding]:
    if evidence.outputs_finite is False:
        yield Finding("its outputs are not finite")
    if evidence.parity_passed is False:
        yield Finding("its answers on the device are not in parity with the reference")
    elif evidence.parity_passed is None:
        yield Finding(NOT_COMPARED, invalid=False)


def _mask(evidence: Evidence) -> Iterator[Finding]:
    mask, held = evidence.cpu_mask, evidence.affinity
    if not mask:
        return
    if held is None:
        yield Finding(f"whether the cpu mask {mask} held is not known", invalid=False)
    elif not mask_held(mask, held):
        yield Finding(f"the cpu mask {mask} did not hold: threads ran on {held}")
    cores = int(mask, 16).bit_count()
    if cores and evidence.threads > cores:
        text = f"{evidence.threads} threads had {cores} cores of the mask {mask} to run on"
        yield Finding(text, invalid=False)


def _heat(evidence: Evidence) -> Iterator[Finding]:
    before = evidence.before.thermal_status
    if before is None:
        return
    later = [point.thermal_status for point in evidence.points]
    known = (before, *later, evidence.after.thermal_status)
    most = max(status for status in known if status is not None)
    if most > before:
        yield Finding(f"the thermal status rose from {_status(before)} to {_status(most)}")
    if before > 0:
        yield Finding(f"the thermal status was {_status(before)} from the start", invalid=False)


def _throttling(evidence: Evidence) -> Iterator[Finding]:
    counted, before = evidence.before.throttle_counts, evidence.before.throttle_bits
    for name, count in evidence.after.throttle_counts.items():
        events = count - counted.get(name, count)
        if events > 0:
            yield Finding(f"it was throttled: {events} more events of {name}")
    if before is None:
        return
    later = evidence.after.throttle_bits or 0
    for point in evidence.points:
        later |= point.throttle_bits or 0
    new = later & ~before
    if new:
        yield Finding(f"a throttle bit appeared: {_bits(new)} (0x{new:x})")
    # What holds now slows the run from its first sample on.
    held = before & 0xF
    if held:
        yield Finding(f"it was throttled from the start: {_bits(held)}")
    latched = (before & ~held << 16) >> 16 & 0xF
    if latched:
        yield Finding(
            f"since it was switched on: {_bits(latched)}; such an event during the run would not "
            "show: reboot it, and mend its power supply or cooling",
            invalid=False,
        )


def _clocks(evidence: Evidence) -> Iterator[Finding]:
    for name, limit in evidence.before.max_clocks_khz.items():
        now = evidence.after.max_clocks_khz.get(name, limit)
        if evidence.has_clock(name) and _fell(limit, now):
            yield Finding(f"the limit of {name}'s clock fell from {_mhz(limit)} to {_mhz(now)}")
    # Idle cores slow down as they like.
    each_core = evidence.mask > 0 and evidence.threads >= evidence.mask.bit_count()
    tracks: dict[str, list[int]] = {}
    for point in evidence.points:
        clocks = {name: khz for name, khz in point.clocks_khz.items() if evidence.has_clock(name)}
        cores = [name for name in clocks if _CORE.fullmatch(name)]
        if cores and not each_core:
            clocks["the fastest core"] = max([clocks.pop(name) for name in cores])
        for name, clock in clocks.items():
            tracks.setdefault(name, []).append(clock)
    for name, track in tracks.items():
        third = max(1, len(track) // 3)
        first, last = median(track[:third]), median(track[-third:])
        if len(track) > 1 and _fell(first, last):
            yield Finding(f"the clock of {name} fell from {_mhz(first)} to {_mhz(last)}")


def _power(evidence: Evidence) -> Iterator[Finding]:
    before, after, required = evidence.before, evidence.after, evidence.required
    batteries = [state.battery for state in (before, after) if state.battery is not None]
    if any(battery.saver for battery in batteries):
        yield Finding("the battery saver is on: switch it off")
    if required.powered:
        if any(battery.powered is False for battery in batteries):
            yield Finding("it is not powered: plug it in")
        elif not any(battery.powered for battery in batteries):
            yield Finding("whether it is powered is not known", invalid=False)
    levels = [battery.level_percent for battery in batteries if battery.level_percent is not None]
    if required.battery_percent:
        if levels and min(levels) < required.battery_percent:
            yield Finding(
                f"its battery holds {min(levels)} %, the target asks for "
                f"{required.battery_percent} %: charge it"
            )
        elif not levels:
            yield Finding("how full its battery is is not known", invalid=False)
    if before.power_mode != after.power_mode and before.power_mode and after.power_mode:
        yield Finding(f"the power mode changed from {before.power_mode} to {after.power_mode}")
    for core, governor in before.governors.items():
        now = after.governors.get(core, governor)
        if now != governor:
            yield Finding(f"the governor of {core} changed from {governor} to {now}")


def _samples(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.samples_ns:
        yield Finding("it has no samples")
    yield from map(Finding, spread_reasons(evidence.samples_ns, evidence.mode))


def _load(evidence: Evidence) -> Iterator[Finding]:
    for text in load_warnings(evidence.before.load_1m):
        yield Finding(text, invalid=False)


def _unreadable(evidence: Evidence) -> Iterator[Finding]:
    missing = dict.fromkeys((*evidence.before.unreadable, *evidence.after.unreadable))
    if missing:
        yield Finding(f"could not be read: {'; '.join(missing)}", invalid=False)


Rule = Callable[[Evidence], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    *(_harness, _answers, _mask, _heat, _throttling, _clocks, _power),
    *(_samples, _load, _unreadable),
)
"""What a run is judged by, in the order of its reasons."""


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
