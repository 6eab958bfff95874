"""Runs beside each other, as parts of the HTML page: latencies on one axis, and accuracy over them.

Only what counts is shown here: no invalid run and no emulated one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from targets.report.plots import FORMATS, Point, marker, scatter
from targets.report.svg import log_ticks, milliseconds, shortest
from targets.report.tables import Group
from targets.result import RunResult

__all__ = ["at_a_glance", "threads_text", "trade_off"]

_COLOURS = 6


def at_a_glance(groups: Sequence[Group]) -> str:
    """Median to 99th percentile of everything that counts, and what was published, on one axis."""
    shown = [group for group in groups if group.p50_ms]
    if not shown:
        return ""
    shown.sort(key=lambda group: (group.runs[0].target, group.p50_ms or 0))
    values = [group.p50_ms or 0 for group in shown]
    # Not every run has samples enough for a p99: the axis reaches to whatever is drawn.
    drawn = (_median(group, name) for group in shown for name in ("p90_ms", "p99_ms"))
    values += [value for value in drawn if value]
    values += [value for group in shown for value in group.p50s_ms]
    values += [g.runs[0].published.latency_ms for g in shown if g.runs[0].published]
    low, high = min(values) / 1.15, max(values) * 1.15

    def at(value: float) -> str:
        return f"{math.log(value / low) / math.log(high / low) * 100:.2f}%"

    ticks = log_ticks(low, high, 8)
    grid = "".join(f'<i class="tick" style="left:{at(tick)}"></i>' for tick in ticks)
    axis = "".join(f'<span style="left:{at(tick)}">{shortest(tick)}</span>' for tick in ticks)
    rows = "".join(_glance_row(group, at, grid) for group in shown)
    out = sum(len(group.runs) - len(group.used) for group in groups)
    left_out = "" if not out else (
        f" {out} {'run is' if out == 1 else 'runs are'} not in it: INVALID or emulated."
    )  # fmt: skip
    return (
        '<section aria-labelledby="glance"><h2 id="glance">Latency at a glance</h2>'
        '<p class="dim"><span class="key dot"></span> median, <span class="key one"></span> each '
        'of several runs, <span class="key thick"></span> to '
        'p90, <span class="key thin"></span> to p99, <span class="key diamond"></span> published. '
        f"Milliseconds, logarithmic; left is faster.{left_out}</p>"
        f'<div class="glance"><ol>{rows}</ol>'
        f'<div class="axis" aria-hidden="true"><div class="ticks">{axis}</div></div></div>'
        "</section>"
    )


def _median(group: Group, name: str) -> float | None:
    return group.middle(lambda run: getattr(run.summary, name)) if group.used else None


def _glance_row(group: Group, at: Callable[[float], str], grid: str) -> str:
    run, p50 = group.runs[0], group.p50_ms or 0.0
    p90, p99 = _median(group, "p90_ms"), _median(group, "p99_ms")
    marks = [grid]
    for value, kind in ((p99, "thin"), (p90, "thick")):
        if value:
            marks.append(
                f'<i class="{kind}" style="left:{at(p50)};right:calc(100% - {at(value)})"></i>'
            )
    said = f"median {milliseconds(p50)} ms"
    right = f"<b>{milliseconds(p50)}</b> ms"
    if run.published:
        marks.append(f'<i class="diamond" style="left:{at(run.published.latency_ms)}"></i>')
        said += f", published {milliseconds(run.published.latency_ms)} ms ({run.published.source})"
        right += f' <span class="dim">{group.ratio:.2f} of published</span>'
    marks.append(f'<i class="dot" style="left:{at(p50)}"></i>')
    repeats = ""
    if len(group.used) > 1:
        repeats = f", {len(group.used)} runs"
        said += f", the runs {' '.join(milliseconds(value) for value in group.p50s_ms)} ms"
        marks += [f'<i class="one" style="left:{at(value)}"></i>' for value in group.p50s_ms]
    return (
        f'<li title="{escape(said)}"><span class="what">{escape(run.artifact.title)} '
        f"<b>{escape(run.artifact.variant)}</b>"
        f'<span class="dim">{escape(run.target)}, {escape(run.device.name)}, {threads_text(run)}, '
        f"{escape(run.mode)}, {escape(run.runner.name)}{repeats}</span></span>"
        f'<span class="track" aria-hidden="true">{"".join(marks)}</span>'
        f'<span class="figure">{right}</span></li>'
    )


def trade_off(groups: Sequence[Group]) -> str:
    """Accuracy over latency, a picture a metric."""
    shown = [g for g in groups if g.p50_ms and g.runs[0].artifact.accuracy]
    if not shown:
        return ""
    targets = list(dict.fromkeys(group.runs[0].target for group in shown))
    formats = [*FORMATS, "other"]
    parts = []
    for metric in dict.fromkeys(_metric(group) for group in shown):
        points = [_point(group, targets, formats) for group in shown if _metric(group) == metric]
        wide, narrow = scatter(points, metric), scatter(points, metric, narrow=True)
        parts.append(
            f'<figure class="card"><div class="on-wide">{wide.svg}</div>'
            f'<div class="on-narrow">{narrow.svg}</div><figcaption>{escape(wide.caption)}'
            "</figcaption></figure>"
        )
    colours = "".join(
        f'<li><svg class="swatch" viewBox="-9 -9 18 18" aria-hidden="true"><path class="shape '
        f'f{i % _COLOURS}" d="M-6-6h12v12h-12Z"/></svg>{escape(name)}</li>'
        for i, name in enumerate(targets)
    )
    used = dict.fromkeys(_format(group) for group in shown)
    shapes = "".join(
        f'<li><svg class="swatch plain" viewBox="-9 -9 18 18" aria-hidden="true">'
        f"{marker(formats.index(name), 0, 0)}</svg>{escape(name)}</li>"
        for name in used
    )
    return (
        '<section aria-labelledby="trade"><h2 id="trade">Accuracy against latency</h2>'
        f'<ul class="legend">{colours}{shapes}</ul>{"".join(parts)}</section>'
    )


def _metric(group: Group) -> str:
    accuracy = group.runs[0].artifact.accuracy
    return accuracy.metric if accuracy else ""


def _format(group: Group) -> str:
    name = group.runs[0].artifact.variant.partition("-")[0]
    return name if name in FORMATS else "other"


def _point(group: Group, targets: Sequence[str], formats: Sequence[str]) -> Point:
    run, accuracy = group.runs[0], group.runs[0].artifact.accuracy
    assert accuracy and group.p50_ms
    precision = run.artifact.variant.partition("-")[2]
    return Point(
        latency_ms=group.p50_ms,
        accuracy=accuracy.value,
        label=f"{run.artifact.title} {precision}",
        text=f"{run.artifact.title} {run.artifact.variant} on {run.target}, {threads_text(run)}, "
        f"{run.mode}, {run.runner.name}: {milliseconds(group.p50_ms)} ms, {accuracy.metric} "
        f"{accuracy.value:.4f}",
        colour=targets.index(run.target) % _COLOURS,
        shape=formats.index(_format(group)),
    )


def threads_text(run: RunResult) -> str:
    """``1 thread``, ``4 threads``."""
    return f"{run.threads} thread{'' if run.threads == 1 else 's'}"
