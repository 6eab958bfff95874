"""Runs and comparisons as tables for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from targets.report_compare import Change, Comparison
from targets.report_svg import milliseconds
from targets.result import RunResult
from targets.result_json import plain_values

__all__ = [
    "Group",
    "comparison_json",
    "comparison_markdown",
    "comparison_text",
    "group_runs",
    "markdown",
    "report_json",
    "run_notes",
    "text_report",
]

NOTHING = "-"


@dataclass(frozen=True)
class Group:
    """Runs of one thing measured in one way on one device.

    ``used`` are those whose figures count: neither invalid nor emulated. ``p50_ms`` is the median
    of their medians, None where there is none.
    """

    runs: tuple[RunResult, ...]

    @property
    def used(self) -> tuple[RunResult, ...]:
        """The runs that count."""
        return tuple(run for run in self.runs if run.comparable)

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


def group_runs(runs: Sequence[RunResult]) -> list[Group]:
    """Runs that repeat each other, together; in order of their first."""
    groups: dict[object, list[RunResult]] = {}
    for run in runs:
        key = (
            (run.target, run.device.name, run.device.model, run.device.soc),
            (run.artifact.model, run.artifact.variant, run.artifact.key, run.input_shape),
            (run.engine, run.inference_precision, run.threads, run.cpu_mask, run.mode),
            (run.emulated, run.published),
        )
        groups.setdefault(key, []).append(run)
    return [Group(tuple(repeats)) for repeats in groups.values()]


def _ms(value: float | None) -> str:
    return NOTHING if value is None else milliseconds(value)


_HEAD = (
    "target", "model", "variant", "computes in", "threads", "mode", "samples", "p50 ms", "p90 ms",
    "p99 ms", "load ms", "first ms", "published", "ratio", "accuracy", "loss", "verdict",
)  # fmt: skip
_LEFT = {0, 1, 2, 3, 5, 16}


def run_cells(run: RunResult) -> tuple[str, ...]:
    """The row of a run, as `_HEAD` names its columns.

    Figures of invalid runs stand in brackets, those of emulated ones are not shown.
    """
    figures, accuracy = run.summary, run.artifact.accuracy

    def shown(value: float | None) -> str:
        if run.emulated or value is None:
            return NOTHING
        return _ms(value) if run.valid else f"({_ms(value)})"

    def percentile(value: float | None) -> str:
        return "too few" if value is None and figures.count and not run.emulated else shown(value)

    ratio = Group((run,)).ratio
    return (
        run.target,
        run.artifact.model,
        run.artifact.variant,
        run.inference_precision,
        str(run.threads),
        run.mode,
        str(figures.count),
        shown(figures.p50_ms),
        percentile(figures.p90_ms),
        percentile(figures.p99_ms),
        shown(run.cold.load_ms),
        shown(run.cold.first_inference_ms),
        _ms(run.published.latency_ms) if run.published else NOTHING,
        NOTHING if ratio is None else f"{ratio:.2f}",
        f"{accuracy.metric} {accuracy.value:.4f}" if accuracy else NOTHING,
        NOTHING if not accuracy or accuracy.loss_points is None else f"{accuracy.loss_points:+.2f}",
        run.verdict,
    )


def run_notes(run: RunResult) -> list[str]:
    """What a reader must know of a run beyond its figures."""
    notes = [f"INVALID: {reason}" for reason in run.reasons]
    notes += [f"warning: {warning}" for warning in run.warnings]
    if run.parity is None:
        notes.append("warning: answers not checked on the device")
    elif not run.parity.passed:
        notes.append(f"answers differ from the reference: {run.parity.summary}")
    return notes


_REPEATS_HEAD = (
    "target", "model", "variant", "threads", "mode", "runs", "left out", "median p50 ms",
    "lowest", "highest",
)  # fmt: skip


def repeat_cells(runs: Sequence[RunResult]) -> list[tuple[str, ...]]:
    """A row for everything that was measured more than once; invalid runs are left out of it."""
    rows: list[tuple[str, ...]] = []
    for group in group_runs(runs):
        if len(group.runs) == 1 or group.runs[0].emulated:
            continue
        run, p50s = group.runs[0], group.p50s_ms
        rows.append(
            (
                *(run.target, run.artifact.model, run.artifact.variant, str(run.threads), run.mode),
                str(len(group.runs)),
                str(len(group.runs) - len(group.used)),
                _ms(group.p50_ms),
                _ms(p50s[0] if p50s else None),
                _ms(p50s[-1] if p50s else None),
            )
        )
    return rows


def text_report(runs: Sequence[RunResult]) -> str:
    """The table for a terminal, what speaks against single runs, and what repeats came to."""
    lines = [_text_table(_HEAD, [run_cells(run) for run in runs], _LEFT)]
    for run in runs:
        notes = run_notes(run)
        if notes:
            lines += [f"\n{run.run_id}", *(f"  {note}" for note in notes)]
    repeats = repeat_cells(runs)
    if repeats:
        lines += ["\nrepeated runs, without invalid ones"]
        lines.append(_text_table(_REPEATS_HEAD, repeats, {0, 1, 2, 4}))
    return "\n".join(lines)


def markdown(runs: Sequence[RunResult]) -> str:
    """The same as Markdown."""
    lines = [_markdown_table(_HEAD, [run_cells(run) for run in runs], _LEFT)]
    notes = [(run.run_id, note) for run in runs for note in run_notes(run)]
    if notes:
        lines += ["", *(f"- `{run_id}`: {_escaped(note)}" for run_id, note in notes)]
    repeats = repeat_cells(runs)
    if repeats:
        lines += ["", "Repeated runs, without invalid ones:", ""]
        lines.append(_markdown_table(_REPEATS_HEAD, repeats, {0, 1, 2, 4}))
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
_COMPARE_LEFT = {0, 1, 2, 4, 12}


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
    table = _text_table(_COMPARE_HEAD, _compare_cells(comparison), _COMPARE_LEFT)
    return "\n".join([table, *_compare_notes(comparison), _compare_verdict(comparison)])


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown."""
    lines = [_markdown_table(_COMPARE_HEAD, _compare_cells(comparison), _COMPARE_LEFT), ""]
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


def _text_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    align = ["---" if column in left else "---:" for column in range(len(head))]
    cells = [head, align, *([_escaped(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    for special in "\\|*_`<>[]":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())
