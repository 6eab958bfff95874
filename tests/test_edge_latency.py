from __future__ import annotations

import statistics

import pytest

from edge.latency import LatencySettings, measure, measure_in_turn


class FakeClock:
    """A clock that only the measured call moves."""

    def __init__(self, *durations_ns: int) -> None:
        self.now = 0
        self.durations_ns = list(durations_ns)
        self.calls = 0

    def __call__(self) -> int:
        return self.now

    def work(self) -> None:
        self.now += self.durations_ns[self.calls % len(self.durations_ns)]
        self.calls += 1


MS = 1_000_000


def test_every_call_after_the_warm_up_is_a_sample() -> None:
    clock = FakeClock(2 * MS, 4 * MS)
    settings = LatencySettings(
        warmup_count=4, warmup_duration_s=0, min_count=10, min_duration_s=0, max_duration_s=10
    )
    result = measure(clock.work, settings, clock)
    assert clock.calls == 14
    assert result.samples_ns == (2 * MS, 4 * MS) * 5
    assert result.valid
    assert result.mean_ms == 3
    assert result.percentile_ms(50) == 2
    assert result.percentile_ms(51) == 4


def test_percentiles_agree_with_the_standard_library() -> None:
    durations = [(7919 * i) % 1009 * MS + 1 for i in range(1, 200)]
    clock = FakeClock(*durations)
    settings = LatencySettings(0, 0.0, len(durations), 0.0, 1e9)
    result = measure(clock.work, settings, clock)
    want = statistics.median_low(durations) / 1e6
    assert result.percentile_ms(50) == want
    assert result.percentile_ms(100) == max(durations) / 1e6


def test_minimum_duration_holds() -> None:
    clock = FakeClock(10 * MS)
    settings = LatencySettings(0, 0.05, 1, 1.0, 5.0)
    result = measure(clock.work, settings, clock)
    assert clock.calls == 5 + 100
    assert len(result.samples_ns) == 100


def test_too_slow_a_call_ends_and_is_invalid() -> None:
    clock = FakeClock(900 * MS)
    settings = LatencySettings(0, 0.0, 50, 0.1, 3.0)
    result = measure(clock.work, settings, clock)
    assert len(result.samples_ns) == 4
    assert not result.valid
    assert "only 4 of 50 samples" in result.reasons[0]


def test_a_stopped_clock_is_invalid() -> None:
    clock = FakeClock(0)
    result = measure(clock.work, LatencySettings(0, 0.0, 3, 0.0, 1.0), clock)
    assert not result.valid
    assert "0 ns" in result.reasons[0]


def test_contradictory_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="min_count"):
        LatencySettings(min_count=0)
    with pytest.raises(ValueError, match="max_duration_s"):
        LatencySettings(min_duration_s=2, max_duration_s=1)


def test_calls_in_turns_meet_the_same_machine() -> None:
    """A machine that gets 1 ms slower every 10 calls: both calls see the same drift."""
    clock = FakeClock(*[(1 + i // 10) * MS for i in range(400)])
    order: list[str] = []

    def call(name: str) -> None:
        order.append(name)
        clock.work()

    settings = LatencySettings(2, 0.0, 12, 0.0, 1e6)
    first, second = measure_in_turn(
        [lambda: call("a"), lambda: call("b")], settings, rounds=3, clock_ns=clock
    )
    # Each round: two to warm up, a third of the samples.
    assert "".join(order) == ("a" * 6 + "b" * 6) * 3
    assert len(first.samples_ns) == len(second.samples_ns) == 12
    assert first.valid
    one_round = sum(clock.durations_ns[:6]) / 6
    assert second.mean_ms - first.mean_ms < 1.0 < clock.durations_ns[35] / MS
    assert one_round < first.mean_ms * MS


def test_turns_take_their_share_of_the_time() -> None:
    clock = FakeClock(10 * MS)
    settings = LatencySettings(0, 0.0, 5, 1.0, 1e6)
    (result,) = measure_in_turn([clock.work], settings, rounds=4, clock_ns=clock)
    assert len(result.samples_ns) == 100
    slow = FakeClock(100 * MS)
    (late,) = measure_in_turn([slow.work], LatencySettings(0, 0.0, 50, 0.5, 1.0), 5, slow)
    assert not late.valid
    assert len(late.reasons) == 1
    with pytest.raises(ValueError, match="at least 1"):
        measure_in_turn([clock.work], settings, rounds=0)
