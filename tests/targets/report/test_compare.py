"""The comparison's statistics, against closed forms, simulation and SciPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from edge.errors import SpecError
from targets.report.compare import block_length, change_of, compare_runs, slower_probability
from targets.result import RunResult
from tests.stand_ins.synthetic_runs import (
    JETSON,
    emulated_run,
    hot_phone_run,
    latencies_ns,
    phone_run,
    pipeline_run,
    with_samples,
)

Floats = npt.NDArray[np.float64]


def autoregressive(count: int, rho: float, rng: np.random.Generator) -> Floats:
    """x[i] = rho x[i-1] + noise, with variance 1."""
    series = np.empty(count)
    last = rng.normal()
    for i, noise in enumerate(rng.normal(0, np.sqrt(1 - rho**2), count)):
        series[i] = last = rho * last + noise
    return series


def latencies(count: int, rho: float, rng: np.random.Generator, level: float = 9.0) -> Floats:
    """A series whose true median is ``level``."""
    return level * np.exp(0.05 * autoregressive(count, rho, rng))


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_block_length_is_the_optimum_of_an_autoregressive_series(rho: float) -> None:
    # Politis and White's optimum (2 G^2 / D n)^(1/3) with the sums of rho^k written out.
    rng = np.random.default_rng(2)
    optimum = (1.5 * (2 * rho / (1 - rho**2)) ** 2 * 20_000) ** (1 / 3)
    found = np.median([block_length(autoregressive(20_000, rho, rng)) for _ in range(9)])
    assert found == pytest.approx(optimum, rel=0.15)


def test_block_length_of_noise_and_of_nothing() -> None:
    rng = np.random.default_rng(3)
    assert np.median([block_length(rng.normal(size=5000)) for _ in range(9)]) <= 2
    assert block_length(np.ones(100)) == 1
    assert block_length(np.array([1.0, 2.0, 3.0])) == 1
    # A series that only rises hangs together over its whole length; blocks stay within 3 sqrt(n).
    assert 60 <= block_length(np.arange(900.0)) <= 90


def test_interval_of_independent_samples_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(4)
    old, new = latencies(400, 0.0, rng), latencies(500, 0.0, rng, 9.4)
    found = change_of([old], [new], 50, rng)

    def ratio(a: Floats, b: Floats, axis: int) -> Floats:
        return np.asarray(np.median(b, axis=axis) / np.median(a, axis=axis) - 1)

    theirs = stats.bootstrap(
        (old, new), ratio, method="percentile", n_resamples=4000, vectorized=True,
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.12 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.12 * width)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_the_interval_covers_the_truth_as_often_as_it_says(rho: float) -> None:
    rng = np.random.default_rng(6)
    hits = naive = 0
    tries = 60
    for _ in range(tries):
        old, new = latencies(400, rho, rng), latencies(400, rho, rng, 9.0 * 1.03)
        found = change_of([old], [new], 50, rng)
        hits += found.low <= 0.03 <= found.high
        # Resampled one by one, samples that hang together promise too much.
        shuffled = change_of([rng.permutation(old)], [rng.permutation(new)], 50, rng)
        naive += shuffled.low <= 0.03 <= shuffled.high
    # 95 % of 60 is 57; three standard deviations are 5.
    assert hits >= 52
    if rho:
        assert naive < 48


def test_several_runs_are_one_observation_each() -> None:
    # Within a run nothing moves, between runs much does: only their medians may count. The
    # interval of one mean of logarithms is Student's t; OLD has no spread at all.
    stats = pytest.importorskip("scipy.stats")
    medians = [9.0, 9.5, 9.2, 9.9]
    old, new = [np.full(50, 9.0)] * 3, [np.full(50, value) for value in medians]
    found = change_of(old, new, 50, np.random.default_rng(7))
    logs = np.log(medians) - np.log(9.0)
    low, high = stats.t.interval(0.95, 3, logs.mean(), stats.sem(logs))
    assert found.change == pytest.approx(np.expm1(logs.mean()))
    assert found.low == pytest.approx(np.expm1(low), abs=0.012)
    assert found.high == pytest.approx(np.expm1(high), abs=0.012)
    assert not found.sure


def test_a_constant_change_has_no_width() -> None:
    found = change_of([np.full(99, 8.0)], [np.full(99, 10.0)], 90, np.random.default_rng(8))
    assert (found.change, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.word == "slower"


def test_effect_size_is_mann_whitneys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(9)
    old = rng.integers(0, 30, 211).astype(np.float64)
    new = rng.integers(2, 33, 190).astype(np.float64)
    theirs = stats.mannwhitneyu(new, old).statistic / (old.size * new.size)
    assert slower_probability(old, new) == pytest.approx(theirs, abs=1e-12)
    assert slower_probability(old, old) == pytest.approx(0.5)


def at(level_ms: float, number: int = 1, **changes: object) -> RunResult:
    """A phone's run at a level."""
    run = replace(phone_run(number, count=700), **changes)  # type: ignore[arg-type]
    return with_samples(run, latencies_ns(700, level_ms, seed=int(level_ms * 1000) + number))


def test_a_regression_and_an_improvement() -> None:
    worse = compare_runs([at(9.0)], [at(9.9)])
    (row,) = worse.rows
    assert row.p50
    assert row.p50.change == pytest.approx(0.1, abs=0.01)
    assert row.p50.word == "slower"
    assert worse.past(row)
    assert not worse.passed
    assert row.p90
    assert row.slower
    assert row.slower > 0.9
    assert compare_runs([at(9.0)], [at(9.9)], max_regression=0.12).passed
    better = compare_runs([at(9.9)], [at(9.0)])
    assert better.passed
    assert better.rows[0].p50
    assert better.rows[0].p50.word == "faster"


def test_the_same_runs_show_no_change() -> None:
    same = compare_runs([at(9.0)], [at(9.0)])
    assert same.passed
    assert same.rows[0].p50
    assert same.rows[0].p50.change == 0
    assert same.rows[0].p50.word == "no change shown"
    assert any("one run on a side" in note for note in same.rows[0].notes)


def test_invalid_runs_are_left_out_and_an_invalid_side_is_refused() -> None:
    spoiled = at(20.0, 2, valid=False, reasons=("throttled",))
    kept = compare_runs([at(9.0)], [at(9.0), spoiled])
    assert kept.rows[0].runs == (1, 1)
    assert kept.passed
    assert any("throttled" in text for text in kept.left_out)
    refused = compare_runs([at(9.0)], [spoiled])
    assert not refused.passed
    assert refused.rows[0].p50 is None
    assert refused.rows[0].refused == "no valid run in NEW (throttled)"
    asked = compare_runs([at(9.0)], [spoiled], include_invalid=True)
    assert asked.rows[0].p50
    assert "INVALID runs are in it" in asked.rows[0].notes


def test_emulated_runs_never_enter() -> None:
    with pytest.raises(SpecError, match=r"nothing to compare.*emulated: not a latency"):
        compare_runs([emulated_run()], [emulated_run()], include_invalid=True, any_device=True)
    mixed = compare_runs([at(9.0), emulated_run()], [at(9.0), emulated_run()])
    assert len(mixed.rows) == 1
    assert sum("emulated: not a latency" in text for text in mixed.left_out) == 2


def test_devices_must_be_the_same_unless_asked() -> None:
    other = at(9.0, device=replace(at(9.0).device, name="adb 99ffee"))
    with pytest.raises(SpecError, match=r"adb 1a2b3c4d .*adb 99ffee .*--any-device"):
        compare_runs([at(9.0)], [other])
    asked = compare_runs([at(9.0)], [at(9.0, device=JETSON)], any_device=True)
    assert any(note.startswith("device: ") for note in asked.rows[0].notes)
    updated = at(9.0, device=replace(at(9.0).device, os="Android 13"))
    (row,) = compare_runs([at(9.0)], [updated]).rows
    assert "operating system: Android 12 -> Android 13" in row.notes


def test_matching_and_mixing() -> None:
    threads = at(9.0, threads=1)
    comparison = compare_runs([at(9.0), threads], [at(9.0)])
    assert comparison.left_out == (
        "only in OLD: android-sd865 rtmpose-t ncnn-fp16, 1 thread, burst",
    )
    with pytest.raises(SpecError, match="nothing to compare"):
        compare_runs([threads], [at(9.0)])
    upgraded = at(9.0, 2, engine="ncnn 1.0.20261101")
    with pytest.raises(SpecError, match=r"OLD holds runs of .* more than one engine"):
        compare_runs([at(9.0), upgraded], [at(9.0)])
    (row,) = compare_runs([at(9.0)], [upgraded]).rows
    assert "engine: ncnn 1.0.20261020 -> ncnn 1.0.20261101" in row.notes


def test_a_run_too_short_for_its_wandering_is_told() -> None:
    rng = np.random.default_rng(11)
    waves = 9.0 + np.repeat(rng.normal(0, 0.2, 8), 40)
    short = with_samples(phone_run(), tuple(int(ms * 1e6) for ms in waves))
    (row,) = compare_runs([at(9.0)], [short]).rows
    assert "NEW is short for how it wanders: its interval is too narrow" in row.notes
    assert not any(note.startswith("OLD is short") for note in row.notes)


def test_throttled_twins_are_refused() -> None:
    assert compare_runs([hot_phone_run(700)], [hot_phone_run(700)]).rows[0].refused


def test_pipelines_match_where_their_frames_hold_the_same_work() -> None:
    old, new = pipeline_run(1), pipeline_run(2)
    (row,) = compare_runs([old], [new, pipeline_run(3, people=2)]).rows
    assert row.model == "rtmdet-nano-person+rtmpose-t (detector 1 in 5, 1 person)"
    assert row.runs == (1, 1)
    with pytest.raises(SpecError, match="nothing to compare"):
        compare_runs([old], [pipeline_run(2, interval=10)])
    pipeline = new.artifact.pipeline
    assert pipeline
    other = replace(pipeline, detector_key="another")
    new = replace(new, artifact=replace(new.artifact, pipeline=other))
    (row,) = compare_runs([old], [new]).rows
    assert "detector: ncnn-fp16 de7ec7 -> ncnn-fp16 another" in row.notes
