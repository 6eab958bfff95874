"""Points of accuracy lost over the median latency of variants, a panel a model, as an SVG file."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from html import escape
from statistics import median

from targets.report.plots import FORMATS, Box, marker
from targets.report.svg import (
    decimals,
    linear,
    log_ticks,
    milliseconds,
    round_ticks,
    shortest,
    stroke,
    words,
    x_axis,
    y_axis,
)  # fmt: skip
from targets.report.variants import VariantRow

__all__ = ["plot_svg"]

_WIDTH, _PANEL, _LEFT, _TOP, _BOTTOM, _LINE = 860, 430, 56, 34, 50, 18
# A variant this many times as slow as the middle one is named below and not drawn.
_FAR = 5
_STYLE = (
    "text{font:13px sans-serif;fill:#222}.end{text-anchor:end}.mid{text-anchor:middle}"
    ".head{font-weight:bold;font-size:15px}.grid{stroke:#ddd}.axis,.zero,.lead{stroke:#888}"
    ".shape{stroke:#0b62a8;stroke-width:1.6;fill:#0b62a8}.hollow .shape{fill:#fff}"
)


def plot_svg(rows: Sequence[VariantRow], caption: str) -> bytes:
    """The picture, UTF-8, of one row or more. The shape is the format, as in the report."""
    parts, top = [], 0
    for model in dict.fromkeys(row.model for row in rows):
        panel, height = _panel([row for row in rows if row.model == model])
        parts.append(f'<g transform="translate(0 {top})">{panel}</g>')
        top += height
    used = [name for name in FORMATS if any(row.variant.startswith(f"{name}-") for row in rows)]
    for number, name in enumerate(used):
        at = _LEFT + 8 + 110 * number
        parts += [marker(FORMATS.index(name), at, top + 8), words(at + 12, top + 12, name, "")]
    note = "Lower left is better. The shape is the format; a hollow one computes in bf16."
    lines = [note, *textwrap.wrap(caption, 115)]
    parts += [words(_LEFT, top + 36 + _LINE * i, line, "") for i, line in enumerate(lines)]
    height = top + 36 + _LINE * len(lines)
    told = "; ".join(f"{row.model} {_told(row)}" for row in rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'aria-labelledby="title desc"><title id="title">Points of accuracy lost over the median '
        f'latency in ms</title><desc id="desc">{escape(note)} {escape(told)}.</desc>'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}'
        "</svg>\n"
    ).encode()


def _name(row: VariantRow) -> str:
    return row.variant + (" (bf16)" if row.computes_in == "bf16" else "")


def _told(row: VariantRow) -> str:
    return f"{_name(row)}: {milliseconds(row.p50_ms)} ms, {row.loss_points:+.2f} points"


def _panel(rows: Sequence[VariantRow]) -> tuple[str, int]:
    """A model's points with their axes, and the height in user units."""
    limit = _FAR * median(row.p50_ms for row in rows)
    shown = [row for row in rows if row.p50_ms <= limit]
    low, high = min(r.p50_ms for r in shown) / 1.2, max(r.p50_ms for r in shown) * 1.3
    losses = [0.0, *(row.loss_points for row in shown)]
    margin = max((max(losses) - min(losses)) * 0.2, 0.02)
    least, most = min(losses) - margin, max(losses) + margin
    floor, right = _PANEL - _BOTTOM, _WIDTH - 16
    across = linear(math.log(low), math.log(high), _LEFT, right)
    y = linear(least, most, floor, _TOP)
    ticks = round_ticks(least, most, 6)
    parts = [
        words(_LEFT, 18, f"{rows[0].model}: points of {rows[0].metric} lost", "head"),
        y_axis(ticks, y, _LEFT, right, decimals(ticks)),
        x_axis(log_ticks(low, high, 9), lambda v: across(math.log(v)), floor, shortest, ""),
        words(right, _PANEL - 14, "median latency in ms", "end"),
        stroke(_LEFT, y(0), right, y(0), "zero"),
    ]
    spots = [(across(math.log(row.p50_ms)), y(row.loss_points)) for row in shown]
    taken = [Box(x - 8, at - 8, 16, 16) for x, at in spots]
    frame = Box(_LEFT, _TOP, right - _LEFT, floor - _TOP)
    for row, (x, at) in zip(shown, spots, strict=True):
        parts.append(_label((x, at), _name(row), taken, frame))
        kind = FORMATS.index(row.variant.partition("-")[0])
        hollow = "hollow" if row.computes_in == "bf16" else "full"
        parts.append(
            f'<g class="{hollow}"><title>{escape(_told(row))}</title>{marker(kind, x, at)}</g>'
        )
    far = [f"Not drawn, far slower: {_told(row)}." for row in rows if row not in shown]
    parts += [words(_LEFT, _PANEL + 4 + _LINE * i, text, "") for i, text in enumerate(far)]
    return "".join(parts), _PANEL + 14 + _LINE * len(far)


def _label(spot: tuple[float, float], text: str, taken: list[Box], frame: Box) -> str:
    """The name at the nearest free place, with a line to its point where that is far."""
    x, y = spot
    width = 7.4 * len(text)
    for radius in range(12, 400, 8):
        for turn in range(24):
            angle = turn * math.pi / 12
            dx, dy = radius * math.cos(angle), radius * math.sin(angle)
            box = Box(x + dx - (width if dx < -1e-9 else 0), y + dy - 8, width, 16)
            if frame.holds(box) and not any(box.hits(other) for other in taken):
                taken.append(box)
                lead = stroke(x, y, x + dx, y + dy, "lead") if radius > 20 else ""
                return lead + words(box.x + 1, box.y + 12, text, "")
    return ""
