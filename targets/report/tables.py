"""Runs and comparisons as tables for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edge.printable import printable
from edge.records import plain_values
from edge.terminal import columns
from targets.report.compare import Change, Comparison
from targets.report.svg import milliseconds
from targets.result import RunResult

__all__ = [
    "Group",
    "comparison_json",
    "comparison_markdown",
    "comparison_text",
    "group_runs",
    "markdown",
    "power_mode",
    "report_json",
    "run_notes",
    "text_report",
]

NOTHING = "-"


@dataclass(frozen=True)
class Group:
    """Runs of one thing measured in one way on one device: each repeats the others.

    ``used`` are those whose figures count: neither invalid nor emulated. ``p50_ms`` is the median
    of their medians, None where there is none.
    """

    runs: tuple[RunResult, ...]

    @property
    def used(self) -> tuple[RunResult, ...]:
        """The runs that count."""
        return tuple(run for run in self.runs if run.comparable)

    @property
    def emulated(self) -> bool:
        """Whether they are emulated, all of them then."""
        return self.runs[0].emulated

    @property
    def p50s_ms(self) -> tuple[float, ...]:
        """The median of each run that counts, ascending."""
        return tuple(sorted(run.summary.p50_ms for run in self.used if run.summary.p50_ms))

    @property
    def p50_ms(self) -> float | None:
        """The median of the runs' medians."""
        return statistics.median(self.p50s_ms) if self.p50s_ms else None

    @property
    def ratio(self) -> float | None:
        """Measured over published median, above 1 where it is slower; None without both."""
        published = self.runs[0].published
        return self.p50_ms / published.latency_ms if self.p50_ms and published else None

    def middle(self, value: Callable[[RunResult], float | None]) -> float | None:
        """Median of a figure over the runs that count; where none does, over all of them.

        None where one of them lacks it: a p99 of some could lie below the p90 of all.
        """
        values = [value(run) for run in self.used or self.runs]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known and len(known) == len(values) else None

    @property
    def verdict(self) -> str:
        """In a word, and by numbers where the runs differ."""
        bad = len(self.runs) - len(self.used)
        if self.emulated or not bad or not self.used:
            return self.runs[0].verdict
        return f"{len(self.used)} valid, {bad} INVALID"


def group_runs(runs: Sequence[RunResult]) -> list[Group]:
    """Runs that repeat each other, together; in order of their first."""
    groups: dict[object, list[RunResult]] = {}
    for run in runs:
        artifact = run.artifact
        key = (
            (run.target, run.device.name, run.device.model, run.device.soc, power_mode(run)),
            (artifact.title, artifact.variant, artifact.key, artifact.pipeline, run.input_shape),
            (run.engine, run.runner, run.inference_precision, run.threads, run.cpu_mask, run.mode),
            (run.emulated, run.published),
        )
        groups.setdefault(key, []).append(run)
    return [Group(tuple(repeats)) for repeats in groups.values()]


def power_mode(run: RunResult) -> str | None:
    """The power mode in which the run began."""
    return run.state_before.power_mode if run.state_before else None


def _ms(value: float | None) -> str:
    return NOTHING if value is None else milliseconds(value)


_HEAD = (
    "target", "device", "power mode", "model", "variant", "runner", "computes in", "threads",
    "mode", "runs", "p50 ms", "spread", "p90 ms", "p99 ms", "load ms", "first ms", "published",
    "ratio", "accuracy", "loss", "verdict",
)  # fmt: skip
_LEFT = frozenset(_HEAD) - {
    "threads", "runs", "p50 ms", "spread", "p90 ms", "p99 ms", "load ms", "first ms", "published",
    "ratio", "accuracy", "loss",
}  # fmt: skip


def group_cells(group: Group) -> tuple[str, ...]:
    """The row of runs that repeat each other, as `_HEAD` names its columns.

    Every figure is the median over the runs that count. Where none does, figures stand in brackets,
    and those of emulated runs are not shown. The spread is from the lowest p50 to the highest.
    """
    run, accuracy, p50s = group.runs[0], group.runs[0].artifact.accuracy, group.p50s_ms
    measured = any(run.samples_ns for run in group.runs)

    def shown(value: Callable[[RunResult], float | None]) -> str:
        figure = group.middle(value)
        if group.emulated or figure is None:
            return NOTHING
        return _ms(figure) if group.used else f"({_ms(figure)})"

    def percentile(value: Callable[[RunResult], float | None]) -> str:
        too_few = measured and not group.emulated and group.middle(value) is None
        return "too few" if too_few else shown(value)

    return (
        run.target,
        run.device.name,
        power_mode(run) or NOTHING,
        run.artifact.title,
        run.artifact.variant,
        run.runner.name,
        run.inference_precision,
        str(run.threads),
        run.mode,
        str(len(group.runs)),
        shown(lambda run: run.summary.p50_ms),
        f"{_ms(p50s[0])}-{_ms(p50s[-1])}" if len(p50s) > 1 else NOTHING,
        percentile(lambda run: run.summary.p90_ms),
        percentile(lambda run: run.summary.p99_ms),
        shown(lambda run: run.cold.load_ms),
        shown(lambda run: run.cold.first_inference_ms),
        _ms(run.published.latency_ms) if run.published else NOTHING,
        NOTHING if group.ratio is None else f"{group.ratio:.2f}",
        f"{accuracy.metric} {accuracy.value:.4f}" if accuracy else NOTHING,
        NOTHING if not accuracy or accuracy.loss_points is None else f"{accuracy.loss_points:+.2f}",
        group.verdict,
    )


def _report_table(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Head and rows; columns that say nothing here are left out.

    A device and its power mode are named where a target has more than one.
    """
    rows = [group_cells(group) for group in groups]
    kept = []
    for column, name in enumerate(_HEAD):
        values = {row[column] for row in rows}
        if name in ("device", "power mode"):
            pairs = {(row[0], row[column]) for row in rows}
            useful = len(pairs) > len({target for target, _ in pairs})
        else:
            useful = values != {NOTHING}
        if useful:
            kept.append(column)
    return [_HEAD[column] for column in kept], [[row[column] for column in kept] for row in rows]


def run_notes(run: RunResult) -> list[str]:
    """What a reader must know of a run beyond its figures."""
    notes = [f"INVALID: {reason}" for reason in run.reasons]
    notes += [f"warning: {warning}" for warning in run.warnings]
    if run.parity is None:
        notes.append("warning: answers not checked on the device")
    elif not run.parity.passed:
        notes.append(f"answers differ from the reference: {run.parity.summary}")
    return notes


def _notes(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Notes with whose they are: one that all repeats have is told once."""
    found = []
    for group in groups:
        notes = [(run, run_notes(run)) for run in group.runs]
        shared = [note for note in notes[0][1] if all(note in own for _, own in notes)]
        several = len(notes) > 1
        of_all = f"{group.runs[0].run_id} and its repeats" if several else group.runs[0].run_id
        found += [(of_all, note) for note in shared]
        found += [(run.run_id, note) for run, own in notes for note in own if note not in shared]
    return found


def text_report(runs: Sequence[RunResult]) -> str:
    """The table for a terminal, a row for what was measured alike, and what speaks against runs."""
    groups = group_runs(runs)
    head, rows = _report_table(groups)
    lines = [_text_table(head, rows)]
    last = None
    for run_id, note in _notes(groups):
        if run_id != last:
            lines.append(f"\n{run_id}")
        lines.append(f"  {printable(note)}")
        last = run_id
    return "\n".join(lines)


def markdown(runs: Sequence[RunResult]) -> str:
    """The same as Markdown."""
    groups = group_runs(runs)
    lines = [_markdown_table(*_report_table(groups))]
    notes = _notes(groups)
    if notes:
        lines += ["", *(f"- `{run_id}`: {_escaped(note)}" for run_id, note in notes)]
    return "\n".join(lines) + "\n"


def report_json(runs: Sequence[RunResult]) -> dict[str, Any]:
    """Runs without their samples, and groups of repeated ones, as plain values."""
    bulky = ("schema", "kind", "samples_ns", "starts_ns", "state_series")
    return {
        "schema": 1,
        "kind": "edgepose-report",
        "runs": [
            {key: value for key, value in run.to_json().items() if key not in bulky}
            | {"verdict": run.verdict, "ratio": Group((run,)).ratio}
            for run in runs
        ],
        "groups": [
            {
                "runs": [run.run_id for run in group.runs],
                "used": [run.run_id for run in group.used],
                "verdict": group.verdict,
                "p50_ms": group.p50_ms,
                "p50_min_ms": group.p50s_ms[0] if group.p50s_ms else None,
                "p50_max_ms": group.p50s_ms[-1] if group.p50s_ms else None,
                "ratio": group.ratio,
            }
            for group in group_runs(runs)
        ],
    }


_COMPARE_HEAD = (
    "target", "model", "variant", "threads", "mode", "runs", "OLD p50 ms", "NEW p50 ms", "change",
    "95 % interval", "p90 change", "P(NEW slower)", "verdict",
)  # fmt: skip


def _compare_cells(comparison: Comparison) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for row in comparison.rows:
        p50, p90 = row.p50, row.p90
        verdict = "REFUSED" if p50 is None else p50.word
        if p50 and comparison.past(row):
            verdict = "REGRESSION" if p50.sure else "REGRESSION, not sure"
        rows.append(
            (
                *(row.target, row.model, row.variant, str(row.threads), row.mode),
                f"{row.runs[0]} / {row.runs[1]}",
                _ms(p50.old_ms) if p50 else NOTHING,
                _ms(p50.new_ms) if p50 else NOTHING,
                _percent(p50.change) if p50 else NOTHING,
                _interval(p50) if p50 else NOTHING,
                _percent(p90.change) if p90 else NOTHING,
                NOTHING if row.slower is None else f"{row.slower:.2f}",
                verdict,
            )
        )
    return rows


def _compare_notes(comparison: Comparison) -> list[str]:
    notes = []
    for row in comparison.rows:
        where = f"{row.target} {row.model} {row.variant}"
        notes += [f"{where}: {note}" for note in row.notes]
        if row.refused:
            notes.append(f"{where}: REFUSED, {row.refused}")
        elif row.p50 and comparison.past(row) and not row.p50.sure:
            notes.append(f"{where}: may be chance; measure longer, or three runs a side")
        elif row.p50 and not comparison.past(row) and row.p50.high > comparison.max_regression:
            notes.append(f"{where}: up to {_percent(row.p50.high)} is not ruled out")
    return notes + [f"left out: {text}" for text in comparison.left_out]


def _compare_verdict(comparison: Comparison) -> str:
    limit = _percent(comparison.max_regression)
    past = sum(comparison.past(row) for row in comparison.rows)
    refused = sum(row.refused is not None for row in comparison.rows)
    compared = len(comparison.rows) - refused
    text = f"{past} of {compared} compared are past the limit of {limit} on the median"
    return f"{text}; {refused} could not be compared" if refused else text


def comparison_text(comparison: Comparison) -> str:
    """The comparison for a terminal."""
    table = _text_table(_COMPARE_HEAD, _compare_cells(comparison))
    notes = (printable(note) for note in _compare_notes(comparison))
    return "\n".join([table, *notes, _compare_verdict(comparison)])


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown."""
    lines = [_markdown_table(_COMPARE_HEAD, _compare_cells(comparison)), ""]
    lines += [f"- {_escaped(note)}" for note in _compare_notes(comparison)]
    return "\n".join([*lines, "", f"{_compare_verdict(comparison)}."]) + "\n"


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values."""
    rows = [plain_values(row) | {"past": comparison.past(row)} for row in comparison.rows]
    return {
        "schema": 1,
        "kind": "edgepose-comparison",
        "passed": comparison.passed,
        "max_regression": comparison.max_regression,
        "confidence": 0.95,
        "rows": rows,
        "left_out": list(comparison.left_out),
    }


def _percent(value: float) -> str:
    return f"{value:+.1%}" if value < 10 else "over +1000%"


def _interval(change: Change) -> str:
    return f"{_percent(change.low)} to {_percent(change.high)}"


def _text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, *([printable(text) for text in row] for row in rows)]
    right = [place for place, name in enumerate(head) if name not in _LEFT]
    return "\n".join(columns(lines, right))


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ["---" if name in _LEFT else "---:" for name in head]
    cells = [head, align, *([_escaped(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    for special in "\\|*_`<>[]":
        text = text.replace(special, f"\\{special}")
    return printable(" ".join(text.split()))
