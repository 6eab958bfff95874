from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from targets.device_state import BatteryRecord, DeviceState, StatePoint
from targets.profile import Requirements
from targets.verdict import Evidence, Verdict, judge, mask_held, standing_reasons

MS = 1_000_000
QUIET = [10 * MS + (index * 7919) % 100_000 for index in range(200)]
CLOCKS = {f"cpu{core}": 2_841_600 if core == 7 else 2_419_200 for core in range(4, 8)}
STATE = DeviceState(
    governors={"cpu4": "schedutil"},
    clocks_khz=CLOCKS,
    max_clocks_khz=CLOCKS,
    thermal_status=0,
    temperatures_c={"CPU": 40.0},
    battery=BatteryRecord(level_percent=80, powered=True, saver=False),
)


def verdict(before: DeviceState = STATE, after: DeviceState | None = None, **more: Any) -> Verdict:
    given: dict[str, Any] = {
        "samples_ns": QUIET,
        "parity_passed": True,
        "outputs_finite": True,
        "cpu_mask": "f0",
        "affinity": "f0",
        "threads": 4,
        "required": Requirements(powered=True, battery_percent=50),
    }
    return judge(Evidence(before, before if after is None else after, **given | more))


def only_reason(found: Verdict) -> str:
    assert not found.valid
    assert len(found.reasons) == 1, found.reasons
    return found.reasons[0]


def points(*clocks: int, name: str = "cpu4", rest: int = 2_419_200) -> list[StatePoint]:
    others = {f"cpu{core}": rest for core in range(5, 8)}
    return [
        StatePoint(t_s=float(index), clocks_khz={**others, name: clock})
        for index, clock in enumerate(clocks)
    ]


def test_a_fair_run_counts() -> None:
    found = verdict(points=points(2_419_200, 2_419_200, 2_419_200))
    assert found == Verdict((), ())
    assert found.valid


def test_reasons_of_the_measurement_come_first() -> None:
    found = verdict(harness_reasons=("only 4 of 50 samples",), outputs_finite=False)
    assert found.reasons[0] == "only 4 of 50 samples"
    assert len(found.reasons) == 2
    assert only_reason(verdict(samples_ns=[])) == "it has no samples"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"outputs_finite": False}, "not finite"),
        ({"parity_passed": False}, "not in parity"),
        ({"affinity": "ff"}, "mask f0 did not hold: threads ran on ff"),
        ({"affinity": "0"}, "did not hold"),
        ({"affinity": "garbage"}, "did not hold"),
        ({"samples_ns": [MS, 2 * MS] * 50}, "something else was running"),
    ],
)
def test_answers_mask_and_spread(given: dict[str, Any], words: str) -> None:
    assert words in only_reason(verdict(**given))


def test_what_is_not_known_is_a_warning() -> None:
    found = verdict(affinity=None, parity_passed=None, outputs_finite=None)
    assert found.valid
    assert len(found.warnings) == 2
    assert verdict(cpu_mask=None, affinity="ff").warnings == ()


@pytest.mark.parametrize(
    ("mask", "affinity", "held"),
    [("f0", "f0", True), ("f0", "80", True), ("f0", "0x70", True), ("f0", "f1", False),
     ("f0", "ffffffff,000000f0", False), ("f,00000000", "8,00000000", True), ("f0", "", False)],
)  # fmt: skip
def test_a_mask_holds_while_no_thread_leaves_it(mask: str, affinity: str, held: bool) -> None:
    assert mask_held(mask, affinity) == held


def test_heat() -> None:
    after = replace(STATE, thermal_status=1)
    assert "rose from 0 (none) to 1 (light)" in only_reason(verdict(STATE, after))
    # It rose in mid-run and was back at the end.
    series = [StatePoint(0.0, thermal_status=0), StatePoint(1.0, thermal_status=2)]
    assert "to 2 (moderate)" in only_reason(verdict(points=[*series, StatePoint(2.0)]))
    warm = replace(STATE, thermal_status=1)
    found = verdict(warm)
    assert found.valid and "1 (light) from the start" in found.warnings[0]
    # It was warm, and cooled down.
    assert verdict(warm, STATE).valid
    assert verdict(replace(STATE, thermal_status=None), replace(STATE, thermal_status=3)).valid


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (0, 0x4, "appeared: throttled (0x4)"),
        (0, 0x50000, "appeared: under-voltage, at some time, throttled, at some time (0x50000)"),
        (0x50000, 0xD0000, "appeared: the soft temperature limit holds, at some time (0x80000)"),
        (0x20002, 0x20002, "from the start: the clock is capped"),
        (0, 0x100, "bits 0x100"),
    ],
)
def test_throttle_bits(before: int, after: int, words: str) -> None:
    found = verdict(replace(STATE, throttle_bits=before), replace(STATE, throttle_bits=after))
    assert words in only_reason(found)


def test_throttle_bits_in_mid_run_and_of_old() -> None:
    cool = replace(STATE, throttle_bits=0)
    series = [StatePoint(0.0, throttle_bits=0x8), StatePoint(1.0, throttle_bits=0)]
    assert "soft temperature limit" in only_reason(verdict(cool, points=series))
    old = replace(STATE, throttle_bits=0x50000)
    found = verdict(old)
    assert found.valid
    assert "since it was switched on: under-voltage, throttled; such an event" in found.warnings[0]


def test_counted_throttling() -> None:
    before = replace(STATE, throttle_counts={"cpu0 core": 7, "cpu0 package": 1})
    after = replace(STATE, throttle_counts={"cpu0 core": 9, "cpu0 package": 1, "new": 5})
    assert only_reason(verdict(before, after)) == "it was throttled: 2 more events of cpu0 core"


@pytest.mark.parametrize(
    ("last", "fell"), [(2_419_200, False), (2_177_280, False), (2_177_279, True), (1_000, True)]
)
def test_a_clock_may_fall_by_a_tenth(last: int, fell: bool) -> None:
    found = verdict(points=points(2_419_200, 2_419_200, last))
    assert found.valid == (not fell)
    if fell:
        assert "the clock of cpu4 fell from 2419 MHz" in only_reason(found)
    limits = {**CLOCKS, "cpu4": last}
    assert verdict(STATE, replace(STATE, max_clocks_khz=limits)).valid == (not fell)


def test_one_low_reading_is_no_fall() -> None:
    assert verdict(points=points(*[2_419_200] * 4, 800_000, *[2_419_200] * 4)).valid
    assert verdict(points=points(800_000)).valid


def test_idle_cores_may_slow_down() -> None:
    # Outside the mask.
    outside = points(1_804_800, 1_804_800, 300_000, name="cpu0")
    assert verdict(points=outside).valid
    limits = {**CLOCKS, "cpu0": 1_804_800}
    before = replace(STATE, max_clocks_khz=limits)
    assert verdict(before, replace(STATE, max_clocks_khz={**limits, "cpu0": 1})).valid
    # One thread in a mask of four: the fastest stands for the busy one.
    one = points(2_419_200, 2_419_200, 700_000)
    assert verdict(points=one, threads=1).valid
    assert not verdict(points=one, threads=4).valid
    falling = [
        StatePoint(float(index), clocks_khz={"cpu4": clock, "cpu5": 600_000, "cpu0": 9_000_000})
        for index, clock in enumerate((2_400_000, 1_500_000, 1_500_000))
    ]
    assert "the fastest core fell from 2400" in only_reason(verdict(points=falling, threads=1))


def test_the_clock_that_counts_is_the_one_that_computes() -> None:
    gpu = [StatePoint(float(i), clocks_khz={"gpu": c, "emc": c}) for i, c in enumerate((900, 500))]
    assert verdict(points=gpu).valid
    found = verdict(points=gpu, on_cpu=False, cpu_mask=None)
    assert only_reason(found) == "the clock of gpu fell from 1 MHz to 0 MHz"
    cores = points(2_419_200, 1_000_000)
    assert verdict(points=cores, on_cpu=False, cpu_mask=None).valid
    arm = [StatePoint(float(i), clocks_khz={"arm": c}) for i, c in enumerate((2400, 1500))]
    assert not verdict(points=arm, cpu_mask=None).valid


def test_power() -> None:
    def with_battery(**given: Any) -> DeviceState:
        battery = BatteryRecord(level_percent=80, powered=True, saver=False)
        return replace(STATE, battery=replace(battery, **given))

    assert "battery saver is on" in only_reason(verdict(STATE, with_battery(saver=True)))
    assert "not powered: plug it in" in only_reason(verdict(with_battery(powered=False), STATE))
    low = verdict(STATE, with_battery(level_percent=49))
    assert "holds 49 %, the target asks for 50 %" in only_reason(low)
    assert verdict(STATE, with_battery(level_percent=50)).valid
    bare = verdict(replace(STATE, battery=None))
    assert bare.valid and len(bare.warnings) == 2
    free = verdict(with_battery(powered=False, level_percent=3), required=Requirements())
    assert free == Verdict((), ())


def test_what_changed_under_the_run() -> None:
    before = replace(STATE, power_mode="MAXN")
    assert "from MAXN to 15W" in only_reason(verdict(before, replace(STATE, power_mode="15W")))
    assert verdict(before, replace(STATE, power_mode=None)).valid
    after = replace(STATE, governors={"cpu4": "powersave"})
    assert "cpu4 changed from schedutil to powersave" in only_reason(verdict(STATE, after))


def test_a_busy_machine_and_missing_readings_are_told() -> None:
    found = verdict(replace(STATE, load_1m=1.9, unreadable=("clocks: denied",)))
    assert found.valid
    assert "the load before the run was 1.9" in found.warnings[0]
    assert found.warnings[1] == "could not be read: clocks: denied"
    assert verdict(replace(STATE, load_1m=0.4)).warnings == ()


def test_a_sustained_run_may_get_slower() -> None:
    samples = [round(10 * MS * (1 + 0.2 * index / 199)) for index in range(200)]
    assert not verdict(samples_ns=samples).valid
    assert verdict(samples_ns=samples, mode="sustained").valid


def test_what_will_make_every_run_invalid_is_known_before_the_first() -> None:
    required = Requirements(powered=True, battery_percent=50)
    assert standing_reasons(STATE, required) == ()
    low = replace(STATE, battery=BatteryRecord(20, False, True))
    battery, power, level = standing_reasons(low, required)
    assert "battery saver" in battery
    assert "not powered" in power
    assert "20 %" in level
    assert (
        "throttled from the start"
        in standing_reasons(replace(STATE, throttle_bits=0x4), Requirements())[0]
    )
