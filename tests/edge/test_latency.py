from __future__ import annotations

import random
import re
import statistics
from dataclasses import replace

import numpy as np
import pytest

from edge.latency import (
    P90_SAMPLES,
    P99_SAMPLES,
    LatencySettings,
    measure,
    measure_cold,
    measure_in_turn,
    spread_reasons,
    summarise,
)
from tests.benches.harness_overhead import harness_overhead


class FakeClock:
    """A clock that only the measured call, sleeping and (where asked for) reading it move."""

    def __init__(self, *durations_ns: int, reading_ns: int = 0) -> None:
        self.now = 0
        self.durations_ns = list(durations_ns)
        self.calls = 0
        self.reading_ns = reading_ns
        self.readings = 0

    def __call__(self) -> int:
        self.now += self.reading_ns
        self.readings += 1
        return self.now

    def work(self) -> None:
        self.now += self.durations_ns[self.calls % len(self.durations_ns)]
        self.calls += 1

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


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


def test_summary_agrees_with_numpy() -> None:
    rng = random.Random(3)
    samples = [rng.randrange(1, 10**8) for _ in range(1001)]
    summary = summarise(samples)
    for got, percent in ((summary.p50_ms, 50), (summary.p90_ms, 90), (summary.p99_ms, 99)):
        assert got == np.percentile(samples, percent, method="inverted_cdf") / 1e6
    assert summary.mean_ms == pytest.approx(np.mean(samples) / 1e6, rel=1e-12)
    assert (summary.min_ms, summary.max_ms) == (min(samples) / 1e6, max(samples) / 1e6)
    assert summary.count == 1001
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


def two_beyond(count: int, percent: int) -> float:
    """How likely fewer than two of so many samples lie beyond the percentile."""
    tail = 1 - percent / 100
    return (1 - tail) ** count + count * tail * (1 - tail) ** (count - 1)


@pytest.mark.parametrize(("percent", "fewest"), [(90, P90_SAMPLES), (99, P99_SAMPLES)])
def test_too_few_samples_make_no_percentile(percent: int, fewest: int) -> None:
    # The counts are the smallest at which the binomial tail is below 1 %.
    assert two_beyond(fewest, percent) <= 0.01 < two_beyond(fewest - 1, percent)
    field = f"p{percent}_ms"
    assert getattr(summarise([MS] * (fewest - 1)), field) is None
    assert getattr(summarise([MS] * fewest), field) == 1.0


def test_starts_lie_on_one_axis() -> None:
    clock = FakeClock(2 * MS)
    result = measure(clock.work, LatencySettings(3, 0.0, 4, 0.0, 9.0), clock)
    assert result.starts_ns == (0, 2 * MS, 4 * MS, 6 * MS)
    clock = FakeClock(2 * MS)
    first, second = measure_in_turn(
        [clock.work, clock.work], LatencySettings(1, 0.0, 4, 0.0, 9.0), rounds=2, clock_ns=clock
    )
    # Turns of 1 to warm up and 2 samples: a at 2, 4; b at 8, 10; a at 14, 16; b at 20, 22 ms.
    assert first.starts_ns == (0, 2 * MS, 12 * MS, 14 * MS)
    assert second.starts_ns == (6 * MS, 8 * MS, 18 * MS, 20 * MS)


def test_a_pause_is_between_the_samples_and_in_none() -> None:
    clock = FakeClock(2 * MS)
    settings = LatencySettings(0, 0.0, 5, 0.0, 9.0, pause_s=0.01)
    result = measure(clock.work, settings, clock, clock.sleep)
    assert result.samples_ns == (2 * MS,) * 5
    assert np.diff(result.starts_ns).tolist() == [12 * MS] * 4


def test_a_sustained_run_lasts_a_minute() -> None:
    clock = FakeClock(100 * MS)
    settings = LatencySettings(2, 0.0, 5, 60.0, 90.0, mode="sustained")
    result = measure(clock.work, settings, clock)
    assert len(result.samples_ns) == 600
    for seconds, pause_s in ((59.0, 0.0), (60.0, 0.1)):
        with pytest.raises(ValueError, match="sustained run measures for 60 s"):
            LatencySettings(
                min_duration_s=seconds, max_duration_s=90.0, pause_s=pause_s, mode="sustained"
            )
    with pytest.raises(ValueError, match="not interrupted"):
        measure_in_turn([clock.work], settings, clock_ns=clock)


@pytest.mark.parametrize("name", ["warmup_count", "warmup_duration_s", "min_duration_s", "pause_s"])
def test_negative_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(LatencySettings(), **{name: -1})  # type: ignore[arg-type]


def test_the_cold_start_is_told_apart() -> None:
    clock = FakeClock(30 * MS, 7 * MS, 5 * MS)

    def load() -> str:
        clock.work()
        return "network"

    loaded, cold = measure_cold(load, lambda _: clock.work(), clock)
    assert (loaded, clock.calls) == ("network", 2)
    assert (cold.load_ms, cold.first_inference_ms) == (30.0, 7.0)


def test_the_harness_costs_less_than_a_percent_of_a_millisecond() -> None:
    """Counted, not timed: a sample holds one reading of the clock, and two are made around it."""
    clock = FakeClock(MS, reading_ns=100)
    result = measure(clock.work, LatencySettings(0, 0.0, 50, 0.0, 9.0), clock)
    assert set(result.samples_ns) == {MS + 100}
    # Three more before the first.
    assert clock.readings == 2 * 50 + 3
    # A clock as slow as 5 us a reading would still do.
    overhead = harness_overhead(count=40, clock_ns=FakeClock(reading_ns=5000))
    assert overhead.sample_ns == 2 * 5000
    assert overhead.share <= 0.01
    assert overhead.gap_ns <= 2 * 5000


def normal_samples(count: int, deviation: float, seed: int = 1) -> list[int]:
    rng = np.random.default_rng(seed)
    return [max(1, int(x)) for x in 10 * MS * (1 + deviation * rng.standard_normal(count))]


def test_a_quiet_run_has_no_spread() -> None:
    samples = normal_samples(600, 0.05)
    assert spread_reasons(samples) == ()
    # A few outliers of many samples, however far, are no reason.
    assert spread_reasons([*samples[:300], 500 * MS, 500 * MS, *samples[300:]]) == ()
    assert spread_reasons([MS] * 100) == ()


@pytest.mark.parametrize(("deviation", "flagged"), [(0.08, False), (0.13, True)])
def test_scatter_is_a_robust_standard_deviation(deviation: float, flagged: bool) -> None:
    for seed in range(5):
        reasons = spread_reasons(normal_samples(2000, deviation, seed))
        assert bool(reasons) == flagged
        if reasons:
            said = re.search(r"scatter by (\d+)%", reasons[0])
            # The deviation that the samples were drawn with.
            assert said and abs(int(said[1]) - 100 * deviation) <= 1.5


def test_time_that_others_took_is_found() -> None:
    """Time slices of 4 ms, taken from 2 % of calls of 50 us: the median knows nothing of them."""
    samples = [50_000] * 3000
    for index in range(0, 3000, 50):
        samples[index] += 4 * MS
    (reason,) = spread_reasons(samples)
    taken = 60 * 4 * MS / (60 * 4 * MS + 3000 * 50_000)
    assert "60 of 3000 samples" in reason and f"{taken:.0%} of the time" in reason


def test_a_drift_is_found_but_is_the_finding_of_a_sustained_run() -> None:
    samples = [round(MS * (1 + 0.2 * index / 299)) for index in range(300)]
    (reason,) = spread_reasons(samples)
    assert "not in a steady state" in reason
    assert spread_reasons(samples, "sustained") == ()
    middle = [*[MS] * 100, *[round(1.12 * MS)] * 100, *[MS] * 100]
    assert "moved by 12%" in spread_reasons(middle)[0]


def test_few_samples_are_not_judged() -> None:
    assert spread_reasons([MS, 9 * MS] * 14) == ()
    assert spread_reasons([MS, 9 * MS] * 15) != ()
