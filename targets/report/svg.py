"""What the pictures of a report are drawn with: scales, ticks, axes, marks, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = [
    "Floats",
    "Scale",
    "above_mark",
    "apart",
    "bar",
    "decimals",
    "drawing",
    "linear",
    "log_ticks",
    "milliseconds",
    "round_ticks",
    "shortest",
    "stroke",
    "whole_ticks",
    "words",
    "x_axis",
    "y_axis",
]

Floats = npt.NDArray[np.float64]
Scale = Callable[[float], float]


def drawing(
    width: int, height: int, parts: Sequence[str], label: str, stamp: str, role: str = "img"
) -> str:
    """An SVG element of the parts, in user units; ``stamp`` is written across all of it."""
    across = f'<text class="stamp" x="{width / 2}" y="{height / 2}">{escape(stamp)}</text>'
    return (
        f'<svg viewBox="0 0 {width} {height}" role="{role}" aria-label="{escape(label)}">'
        f"{''.join(parts)}{across if stamp else ''}</svg>"
    )


def linear(first: float, last: float, at_first: float, at_last: float) -> Scale:
    """The map of values from first to last onto user units."""
    return lambda value: at_first + (value - first) / ((last - first) or 1) * (at_last - at_first)


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Round values from low to high, at most so many and one."""
    raw = (high - low) / most
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def whole_ticks(most: int) -> list[float]:
    """Round counts from 0 to ``most``."""
    return sorted({float(round(tick)) for tick in round_ticks(0, most, 4)})


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Values of the form 1, 2 or 5 times a power of ten, thinned until they are few enough."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    # Within less than a factor of two, round steps say more.
    return ticks if len(ticks) > 1 else round_ticks(low, high, min(most, 5))


def decimals(ticks: Sequence[float]) -> Callable[[float], str]:
    """Ticks with the decimals that tell them apart."""
    for places in range(6):
        if all(abs(tick - round(tick, places)) < 1e-9 * max(1, abs(tick)) for tick in ticks):
            break
    return lambda tick: f"{tick:.{places}f}"


def shortest(value: float) -> str:
    """A number with no more digits than it needs."""
    return f"{value:g}"


def _ms(value: float) -> str:
    return f"{value:.{3 if value < 1 else 2}f}"


def milliseconds(value: float) -> str:
    """A duration in ms with three or four digits that say something."""
    return f"{value:.{3 if value < 1 else 2 if value < 100 else 1}f}"


def apart(spots: Sequence[float], least: float, reach: float = math.inf) -> list[float]:
    """The spots, pushed apart in their order so that labels do not overlap, none beyond reach."""
    order = sorted(range(len(spots)), key=spots.__getitem__)
    placed = list(spots)
    for before, i in pairwise(order):
        placed[i] = max(placed[i], placed[before] + least)
    limit = reach
    for i in reversed(order):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - least
    return placed


def y_axis(
    ticks: Sequence[float], y: Scale, left: float, right: float, text: Callable[[float], str]
) -> str:
    """Grid lines with their values at the left."""
    return "".join(
        stroke(left, y(tick), right, y(tick), "grid")
        + words(left - 6, y(tick) + 4, text(tick), "end")
        for tick in ticks
    )


def x_axis(
    ticks: Sequence[float], x: Scale, at: float, text: Callable[[float], str], unit: str
) -> str:
    """Values along the bottom, the last with the unit."""
    marks = []
    for tick in ticks:
        label = f"{text(tick)} {unit}".rstrip() if tick == ticks[-1] else text(tick)
        marks.append(stroke(x(tick), at, x(tick), at + 4, "axis"))
        marks.append(words(x(tick), at + 18, label, "mid"))
    return "".join(marks)


def stroke(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def bar(x1: float, x2: float, y1: float, y2: float, kind: str, title: str) -> str:
    """A bar that tells its figures when pointed at."""
    size = f'width="{max(0.5, x2 - x1 - 0.6):.1f}" height="{y2 - y1:.1f}"'
    return (
        f'<rect class="{kind}" x="{x1:.1f}" y="{y1:.1f}" {size}>'
        f"<title>{escape(title)}</title></rect>"
    )


def above_mark(x: float, y: float) -> str:
    """A small triangle: something lies above the frame here."""
    return f'<path class="above" d="M{x:.1f} {y - 7:.1f}l3.5 7h-7Z"/>'


def words(x: float, y: float, text: str, kind: str) -> str:
    """A text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'
