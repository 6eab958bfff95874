"""Two sets of runs side by side: the change of the latency, and how sure it is.

Latencies that follow each other are alike, so they must not be resampled one by one. Where a side
has one run, its samples are resampled in blocks (the circular block bootstrap of Politis and
Romano, 1992), which is valid for quantiles of dependent series (Sun and Lahiri, "Bootstrapping the
sample quantile of a weakly dependent sequence", Sankhya 68, 2006). The block length is the
automatic one of Politis and White, "Automatic block-length selection for the dependent bootstrap",
Econometric Reviews 23, 2004, as corrected by Patton, Politis and White, ibid. 28, 2009; it is
chosen on the series "this sample is above the quantile", whose mean the quantile follows.

Runs differ by more than their samples show (Kalibera and Jones, "Rigorous benchmarking in
reasonable time", ISMM 2013). So where a side has several runs each is one observation, and the
error of their mean follows Student's t: the interval of the difference of two such means is that of
Behrens and Fisher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edge.errors import SpecError
from targets.result import EMULATED, RunResult

__all__ = [
    "Change",
    "Comparison",
    "Row",
    "block_length",
    "change_of",
    "compare_runs",
    "slower_probability",
]

Floats = npt.NDArray[np.float64]

_DRAWS = 2000
# A nanosecond: what a clock too coarse calls 0 has no logarithm.
_LEAST_MS = 1e-6
_CONFIDENCE = 0.95
# Simulated 95 % intervals hold the truth 92 times of 100 from so many blocks, 87 times from 16.
_LEAST_BLOCKS = 20
# Indices of so many draws at once: a run of 100,000 samples must fit into memory.
_CHUNK = 1_000_000


@dataclass(frozen=True)
class Change:
    """Relative change of a quantile, 0.05 for 5 % slower, with its 95 % interval."""

    old_ms: float
    new_ms: float
    change: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval leaves no change out."""
        return self.low > 0 or self.high < 0

    @property
    def word(self) -> str:
        """``slower``, ``faster``, or that neither is shown."""
        return ("slower" if self.low > 0 else "faster") if self.sure else "no change shown"


@dataclass(frozen=True)
class Row:
    """One target, model, variant, thread count and mode on both sides.

    ``slower`` is the probability that a sample of NEW takes longer than one of OLD, a half where
    nothing changed: an effect size. ``refused`` says why the sides were not compared; then there
    are no figures.
    """

    target: str
    model: str
    variant: str
    threads: int
    mode: str
    runs: tuple[int, int]
    p50: Change | None
    p90: Change | None
    slower: float | None
    notes: tuple[str, ...]
    refused: str | None = None


@dataclass(frozen=True)
class Comparison:
    """All that was matched, and what was left out and why."""

    rows: tuple[Row, ...]
    max_regression: float
    left_out: tuple[str, ...]

    def past(self, row: Row) -> bool:
        """Whether the median is slower by more than it may."""
        return row.p50 is not None and row.p50.change > self.max_regression

    @property
    def passed(self) -> bool:
        """Whether everything that was matched could be compared and is not past the limit."""
        return not any(row.refused or self.past(row) for row in self.rows)


Key = TypeVar("Key")


def compare_runs(
    old: Sequence[RunResult],
    new: Sequence[RunResult],
    *,
    max_regression: float = 0.05,
    include_invalid: bool = False,
    any_device: bool = False,
    seed: int = 1,
) -> Comparison:
    """Match runs by target, model, variant, threads and mode, and compare their medians.

    Emulated runs are left out, invalid ones too unless ``include_invalid`` is set; a match with
    nothing else on one side becomes a refused row. Raises SpecError where nothing matches, where
    one side mixes devices or ways to measure, and, unless ``any_device`` is set, where the sides'
    devices differ.
    """
    left_out = []
    sides: list[dict[tuple[str, str, str, int, str], list[RunResult]]] = []
    for name, runs in (("OLD", old), ("NEW", new)):
        emulated = [run for run in runs if run.emulated]
        left_out += [f"{name} {run.run_id}: {EMULATED}" for run in emulated]
        sides.append(_by(_match_key, [run for run in runs if not run.emulated]))
    for here, there, name in ((sides[0], sides[1], "OLD"), (sides[1], sides[0], "NEW")):
        left_out += [f"only in {name}: {_key_text(key)}" for key in here if key not in there]
    shared = [key for key in sides[0] if key in sides[1]]
    if not shared:
        raise SpecError(
            "nothing to compare: no run of OLD has the target, model, variant, threads and mode of "
            f"one of NEW{''.join(f'; {text}' for text in left_out[:4])}"
        )
    rows = []
    for key in shared:
        row, invalid = _row(
            key,
            sides[0][key],
            sides[1][key],
            include_invalid,
            any_device,
            np.random.default_rng(seed),
        )
        rows.append(row)
        left_out += invalid
    return Comparison(tuple(rows), max_regression, tuple(left_out))


def _match_key(run: RunResult) -> tuple[str, str, str, int, str]:
    return run.target, run.artifact.title, run.artifact.variant, run.threads, run.mode


def _key_text(key: tuple[str, str, str, int, str]) -> str:
    target, model, variant, threads, mode = key
    return f"{target} {model} {variant}, {threads} thread{'s' * (threads != 1)}, {mode}"


def _by(key: Callable[[RunResult], Key], runs: Sequence[RunResult]) -> dict[Key, list[RunResult]]:
    groups: dict[Key, list[RunResult]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def _row(
    key: tuple[str, str, str, int, str],
    old: Sequence[RunResult],
    new: Sequence[RunResult],
    include_invalid: bool,
    any_device: bool,
    rng: np.random.Generator,
) -> tuple[Row, list[str]]:
    """The comparison of what has one key, and the invalid runs that it left out."""
    text = _key_text(key)
    kept, invalid, refused = [], [], []
    for name, runs in (("OLD", old), ("NEW", new)):
        usable = [run for run in runs if run.samples_ns and (run.valid or include_invalid)]
        left = [run for run in runs if run not in usable]
        invalid += [f"{name} {run.run_id}: INVALID, {'; '.join(run.reasons)}" for run in left]
        if not usable:
            refused.append(f"no valid run in {name} ({'; '.join(left[0].reasons)})")
        mixed = [what for what, values in _facts(usable).items() if len(values) > 1]
        if mixed:
            raise SpecError(
                f"{name} holds runs of {text} with more than one {mixed[0]} "
                f"({', '.join(_facts(usable)[mixed[0]])}); name the files of one"
            )
        kept.append(usable)
    if refused:
        counts = (len(kept[0]), len(kept[1]))
        return Row(*key, counts, None, None, None, (), "; ".join(refused)), []
    before, after = (_facts(runs) for runs in kept)
    if before["device"] != after["device"] and not any_device:
        raise SpecError(
            f"{text}: OLD ran on {next(iter(before['device']))}, NEW on "
            f"{next(iter(after['device']))}; say --any-device to compare devices"
        )
    notes = [
        f"{what}: {next(iter(before[what]))} -> {next(iter(after[what]))}"
        for what in before
        if before[what] != after[what]
    ]
    if include_invalid and not all(run.valid for run in (*kept[0], *kept[1])):
        notes.append("INVALID runs are in it")
    if min(len(kept[0]), len(kept[1])) == 1:
        notes.append("one run on a side: how runs differ from each other is not in its interval")
    samples = [[np.asarray(run.samples_ns, np.float64) / 1e6 for run in runs] for runs in kept]
    for name, side in zip(("OLD", "NEW"), samples, strict=True):
        if len(side) == 1 and side[0].size < _LEAST_BLOCKS * _length(side[0], 50):
            notes.append(f"{name} is short for how it wanders: its interval is too narrow")
    enough = all(run.summary.p90_ms is not None for runs in kept for run in runs)
    row = Row(
        *key,
        runs=(len(kept[0]), len(kept[1])),
        p50=change_of(samples[0], samples[1], 50, rng),
        p90=change_of(samples[0], samples[1], 90, rng) if enough else None,
        slower=slower_probability(np.concatenate(samples[0]), np.concatenate(samples[1])),
        notes=tuple(notes),
    )
    return row, invalid


def _facts(runs: Sequence[RunResult]) -> Mapping[str, set[str]]:
    """What must be alike on one side, and is worth a note where the sides differ."""
    return {
        "device": {_device_text(run) for run in runs},
        "operating system": {str(run.device.os) for run in runs},
        "engine": {run.engine for run in runs},
        "inference precision": {run.inference_precision for run in runs},
        "cpu mask": {run.cpu_mask or "none" for run in runs},
        "input shape": {"x".join(map(str, run.input_shape)) for run in runs},
        "runner": {f"{run.runner.name} {run.runner.version}" for run in runs},
        "artifact": {run.artifact.key[:12] for run in runs},
        "detector": {
            f"{pipeline.detector_variant} {pipeline.detector_key[:12]}" if pipeline else "none"
            for pipeline in (run.artifact.pipeline for run in runs)
        },
        "power mode": {
            str(run.state_before.power_mode if run.state_before else None) for run in runs
        },
    }


def _device_text(run: RunResult) -> str:
    device = run.device
    facts = [device.model, device.soc, device.arch, device.cores and f"{device.cores} cores"]
    return f"{device.name} ({', '.join(str(fact) for fact in facts if fact)})"


def change_of(
    old: Sequence[Floats], new: Sequence[Floats], percent: int, rng: np.random.Generator
) -> Change:
    """Change of a percentile from old to new runs, each an array of samples in one unit."""
    old_value, old_draws = _side(old, percent, rng)
    new_value, new_draws = _side(new, percent, rng)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(new_draws - old_draws, [tail, 1 - tail])
    return Change(
        old_ms=math.exp(old_value),
        new_ms=math.exp(new_value),
        change=math.expm1(new_value - old_value),
        low=math.expm1(low),
        # A mean of two runs may have no upper end to speak of.
        high=math.expm1(min(high, 700.0)),
    )


def _side(runs: Sequence[Floats], percent: int, rng: np.random.Generator) -> tuple[float, Floats]:
    """Logarithm of a side's percentile, and draws from its distribution."""
    logs = np.log([max(_nearest_rank(run, percent), _LEAST_MS) for run in runs])
    if len(runs) > 1:
        error = float(np.std(logs, ddof=1)) / math.sqrt(len(runs))
        return float(np.mean(logs)), np.mean(logs) + error * rng.standard_t(len(runs) - 1, _DRAWS)
    samples = runs[0]
    drawn = _bootstrap(samples, percent, _length(samples, percent), rng)
    return float(logs[0]), np.log(np.maximum(drawn, _LEAST_MS))


def _length(samples: Floats, percent: int) -> int:
    """Block length for a percentile: that of the series which says what lies above it."""
    return block_length((samples > _nearest_rank(samples, percent)).astype(np.float64))


def _nearest_rank(samples: Floats, percent: int) -> float:
    rank = -(-percent * samples.size // 100) - 1
    return float(np.partition(samples, rank)[rank])


def _bootstrap(samples: Floats, percent: int, length: int, rng: np.random.Generator) -> Floats:
    """Percentile of each of many series that are put together of circular blocks."""
    count = samples.size
    rank = -(-percent * count // 100) - 1
    blocks = np.lib.stride_tricks.sliding_window_view(
        np.concatenate([samples, samples[: length - 1]]), length
    )
    at_once = max(1, _CHUNK // count)
    drawn = []
    for first in range(0, _DRAWS, at_once):
        starts = rng.integers(0, count, (min(_DRAWS - first, at_once), -(-count // length)))
        series = blocks[starts].reshape(len(starts), -1)[:, :count]
        drawn.append(np.partition(series, rank, axis=1)[:, rank])
    return np.concatenate(drawn)


def block_length(series: Floats) -> int:
    """Block length of the circular block bootstrap for the mean of a series, 1 if it is noise.

    Section 3.2 of Politis and White (2004), with the correction of 2009: the flat-top lag window of
    width 2m, m being the lag after which autocorrelations stay below 2 sqrt(log10(n) / n).
    """
    count = series.size
    centred = series - series.mean()
    variance = float(np.mean(centred**2))
    longest = math.ceil(min(3 * math.sqrt(count), count / 3))
    if count < 8 or variance == 0:
        return 1
    quiet = max(5, math.ceil(math.sqrt(math.log10(count))))
    most_lags = min(count - 1, math.ceil(math.sqrt(count)) + quiet)
    # Wiener and Khinchin, padded so that the end does not wrap onto the beginning.
    power = np.abs(np.fft.rfft(centred, 2 * count)) ** 2
    covariance = np.fft.irfft(power, 2 * count)[: most_lags + 1] / count
    loud = np.abs(covariance[1:] / variance) > 2 * math.sqrt(math.log10(count) / count)
    m = next(
        (lag for lag in range(most_lags - quiet + 1) if not loud[lag : lag + quiet].any()),
        most_lags - quiet + 1,
    )
    if m == 0:
        return 1
    lags = np.arange(1, min(2 * m, most_lags) + 1)
    window = np.clip(2 * (1 - lags / (2 * m)), 0, 1)
    long_run = variance + 2 * float((window * covariance[lags]).sum())
    slope = 2 * float((window * lags * covariance[lags]).sum())
    if long_run <= 0:
        return longest
    optimum = float(1.5 * (slope / long_run) ** 2 * count) ** (1 / 3)
    return int(min(longest, max(1, round(optimum))))


def slower_probability(old: Floats, new: Floats) -> float:
    """Probability that a sample of ``new`` is above one of ``old``, ties counted half.

    Mann and Whitney's U over the number of pairs: the effect size A of Vargha and Delaney, "A
    critique and improvement of the CL common language effect size statistics" (2000).
    """
    ordered = np.sort(old)
    below = np.searchsorted(ordered, new, side="left")
    up_to = np.searchsorted(ordered, new, side="right")
    return float((below + up_to).sum() / 2 / (old.size * new.size))
