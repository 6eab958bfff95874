"""Pictures of runs as SVG: they take their colours from the page, so that light and dark both work.

Series of thousands of samples are drawn as buckets, a band from least to greatest and a line at the
median of each; nothing that was measured falls out of sight without a mark that says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from targets.device_state import StatePoint
from targets.report.svg import (
    Floats,
    Scale,
    above_mark,
    apart,
    bar,
    decimals,
    drawing,
    linear,
    log_ticks,
    milliseconds,
    round_ticks,
    shortest,
    stroke,
    whole_ticks,
    words,
    x_axis,
    y_axis,
)
from targets.result import RunResult

__all__ = [
    "FORMATS", "Box", "Figure", "Point", "histogram", "marker", "over_time", "scatter",
    "state_over_time",
]  # fmt: skip

# The place of a format is its shape, in every picture.
FORMATS = ("onnx", "ncnn", "openvino", "tflite", "tensorrt")
_BUCKETS = 240
_LEAST_IN_BUCKET = 10
_MOST_POINTS = 300
# Colours and dashes repeat together, so a line is known without its colour.
_DASHES = ("", "6 3", "2 3", "9 3 2 3", "1 4", "12 4")


@dataclass(frozen=True)
class Figure:
    """An SVG element, its heading, and what must be said of it."""

    svg: str
    title: str
    caption: str


@dataclass(frozen=True)
class Point:
    """One dot of the scatter: ``colour`` and ``shape`` are indices, ``text`` is its full story."""

    latency_ms: float
    accuracy: float
    label: str
    text: str
    colour: int
    shape: int


def histogram(run: RunResult, stamp: str = "") -> Figure:
    """How often each latency came, with the percentiles; what lies far out is one bar apart."""
    samples_ms = np.asarray(run.samples_ns, np.float64) / 1e6
    width, height, left, right, top, bottom = 560, 240, 52, 14, 26, 26
    low = float(samples_ms.min())
    cut = float(np.quantile(samples_ms, 0.995, method="inverted_cdf"))
    high = cut if samples_ms.max() - low > 1.3 * (cut - low) else float(samples_ms.max())
    if high <= low:
        low, high = low * 0.99, max(low * 1.01, low + 1e-6)
    inside = samples_ms[samples_ms <= high]
    outside = samples_ms[samples_ms > high]
    counts, edges = np.histogram(inside, bins=_bin_count(inside), range=(low, high))
    tail_width = 34 if outside.size else 0
    x = linear(low, high, left, width - right - tail_width - (8 if tail_width else 0))
    most = max(int(counts.max()), int(outside.size))
    y = linear(0, most, height - bottom, top)
    counted = whole_ticks(most)
    parts = [y_axis(counted, y, left, width - right, decimals(counted))]
    for count, first, last in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            parts.append(
                bar(x(first), x(last), y(int(count)), y(0), "bar",
                     f"{first:.3f} to {last:.3f} ms: {count} samples")
            )  # fmt: skip
    ticks = round_ticks(low, high, 5)
    parts.append(x_axis(ticks, x, height - bottom, decimals(ticks), ""))
    whole = f"{milliseconds(low)} to {milliseconds(float(samples_ms.max()))} ms"
    caption = f"{samples_ms.size} samples, {whole}."
    if outside.size:
        said = f"{outside.size} above {high:.2f} ms, up to {outside.max():.2f} ms"
        parts.append(
            bar(width - right - tail_width, width - right, y(outside.size), y(0), "bar tail", said)
        )
        parts.append(words(width - right - tail_width / 2, height - bottom + 17, "above", "mid"))
        caption += f" The bar apart: {said}."
    figures = run.summary
    marks = [("p50", figures.p50_ms), ("p90", figures.p90_ms), ("p99", figures.p99_ms)]
    spots = [(name, x(value)) for name, value in marks if value is not None and value <= high]
    for (name, spot), label in zip(spots, apart([spot for _, spot in spots], 42), strict=True):
        parts.append(stroke(spot, top - 6, spot, height - bottom, f"mark {name}"))
        parts.append(words(label, top - 12, name, "mid strong"))
    if too_few := [name for name, value in marks if value is None]:
        caption += f" Too few samples for {' and '.join(too_few)}."
    said = ", ".join(f"{name} {value:.2f} ms" for name, value in marks if value is not None)
    svg = drawing(width, height, parts, f"Histogram of the latency: {said}", stamp)
    return Figure(svg, "Distribution, samples by ms", caption)


def _bin_count(samples: Floats) -> int:
    """Freedman and Diaconis's rule, within what can be seen."""
    quarter, three = np.quantile(samples, [0.25, 0.75])
    step = 2 * (three - quarter) / samples.size ** (1 / 3)
    span = float(samples.max() - samples.min())
    # One far sample makes the step too wide for the rest: the root of the count is the least.
    least = min(max(8, math.ceil(math.sqrt(samples.size))), 56)
    return int(np.clip(span / step if step > 0 else 1, least, 56))


def over_time(run: RunResult, stamp: str = "") -> Figure:
    """The latency as the run went on, by seconds or, where no starts are known, by number."""
    samples_ms = np.asarray(run.samples_ns, np.float64) / 1e6
    timed = len(run.starts_ns) == samples_ms.size
    at: Floats = np.arange(1.0, samples_ms.size + 1)
    if timed:
        at = np.asarray(run.starts_ns, np.float64) / 1e9
    width, height, left, right, top, bottom = 560, 240, 52, 100, 26, 26
    begin, end = _span(run) if timed else (1.0, max(2.0, float(samples_ms.size)))
    x = linear(begin, end, left, width - right)
    low, high = _clipped(samples_ms)
    y = linear(low, high, height - bottom, top)
    ticks, x_ticks = round_ticks(low, high, 5), round_ticks(begin, end, 6)
    unit = "s" if timed else "inference"
    parts = [
        y_axis(ticks, y, left, width - right, decimals(ticks)),
        x_axis(x_ticks, x, height - bottom, decimals(x_ticks), unit),
    ]
    if samples_ms.size <= _MOST_POINTS:
        caption = f"Each of {samples_ms.size} samples is a dot."
        shown = samples_ms <= high
        spots = zip(at[shown], samples_ms[shown], strict=True)
        dots = "".join(f"M{x(t):.1f} {y(value):.1f}h0" for t, value in spots)
        parts.append(f'<path class="dots" d="{dots}"/>')
    else:
        count = min(_BUCKETS, samples_ms.size // _LEAST_IN_BUCKET)
        caption = (
            f"{samples_ms.size} samples in {count} buckets of equal "
            f"{'time' if timed else 'number'}: the band goes from the least to the greatest of a "
            "bucket, the line through its medians."
        )
        parts += _buckets(at, samples_ms, count, (begin, end), x, y, high)
    above = samples_ms[samples_ms > high]
    if above.size:
        parts += [
            above_mark(x(t), top) for t in _thinned(at[samples_ms > high], (end - begin) / 120)
        ]
        caption += (
            f" {above.size} above the frame, marked by triangles: up to {above.max():.2f} ms."
        )
    if run.summary.p50_ms is not None:
        spot = y(min(run.summary.p50_ms, high))
        parts.append(stroke(left, spot, width - right, spot, "mark p50"))
        parts.append(
            words(width - right + 6, spot + 4, f"p50 {milliseconds(run.summary.p50_ms)}", "strong")
        )
    svg = drawing(width, height, parts, "Latency over the run", stamp)
    return Figure(svg, "Over the run, ms", caption)


def _buckets(
    at: Floats,
    samples_ms: Floats,
    count: int,
    span: tuple[float, float],
    x: Scale,
    y: Scale,
    high: float,
) -> list[str]:
    """Band and median line; an empty bucket, such as a pause, interrupts both."""
    begin, step = span[0], (span[1] - span[0]) / count
    index = np.clip(((at - begin) / step).astype(int), 0, count - 1)
    stretches: list[list[tuple[float, float, float, float]]] = [[]]
    for bucket in range(count):
        inside = samples_ms[index == bucket]
        if not inside.size:
            stretches.append([])
            continue
        middle = x(begin + (bucket + 0.5) * step)
        least, median, most = (min(float(f(inside)), high) for f in (np.min, np.median, np.max))
        stretches[-1].append((middle, y(least), y(median), y(most)))
    half = (x(begin + step) - x(begin)) / 2
    parts = []
    for stretch in (one for one in stretches if one):
        wide = [(stretch[0][0] - half, *stretch[0][1:]), *stretch]
        wide.append((stretch[-1][0] + half, *stretch[-1][1:]))
        there = " ".join(f"{p:.1f} {most:.1f}" for p, _, _, most in wide)
        back = " ".join(f"{p:.1f} {least:.1f}" for p, least, _, _ in reversed(wide))
        line = " ".join(f"{p:.1f} {median:.1f}" for p, _, median, _ in wide)
        parts += [f'<path class="band" d="M{there} {back}Z"/>', f'<path class="line" d="M{line}"/>']
    return parts


def _clipped(samples_ms: Floats) -> tuple[float, float]:
    """The frame for a series: all of it, unless single samples would flatten the rest."""
    low, most = float(samples_ms.min()), float(samples_ms.max())
    first, last = np.quantile(samples_ms, [0.01, 0.99], method="inverted_cdf")
    usual = float(last - first)
    high = float(last) + usual / 4 if most - last > usual > 0 else most
    margin = max((high - low) * 0.06, high * 0.002, 1e-6)
    return max(0.0, low - margin), high + margin


def _span(run: RunResult) -> tuple[float, float]:
    """First and last second of a run, the same for all that is drawn over its time."""
    times = [0.0, *(sample.t_s for sample in run.state_series)]
    if run.starts_ns:
        times.append((run.starts_ns[-1] + run.samples_ns[-1]) / 1e9)
    return min(times), max(*times, min(times) + 1e-3)


def state_over_time(run: RunResult, stamp: str = "") -> list[Figure]:
    """Temperature, clocks and power over the time of a run: a figure for each that was read."""
    kinds: list[tuple[str, str, Callable[[StatePoint], Mapping[str, float]]]] = [
        ("Temperature", "°C", lambda sample: sample.temperatures_c),
        ("Clock", "GHz", lambda s: {name: khz / 1e6 for name, khz in s.clocks_khz.items()}),
        ("Power", "W", lambda s: {} if s.power_mw is None else {"power": s.power_mw / 1e3}),
    ]
    figures = []
    for title, unit, values in kinds:
        series: dict[str, list[tuple[float, float]]] = {}
        for sample in run.state_series:
            for name, value in values(sample).items():
                series.setdefault(name, []).append((sample.t_s, float(value)))
        if series:
            figures.append(_lines(series, title, unit, _span(run), stamp))
    return figures


def _lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    unit: str,
    span: tuple[float, float],
    stamp: str,
) -> Figure:
    width, height, left, right, top, bottom = 560, 150, 52, 100, 10, 26
    together: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for name, points in series.items():
        together.setdefault(tuple(points), []).append(name)
    values = [value for points in together for _, value in points]
    margin = max((max(values) - min(values)) * 0.1, abs(max(values)) * 0.02, 0.01)
    low, high = min(values) - margin, max(values) + margin
    x, y = linear(*span, left, width - right), linear(low, high, height - bottom, top)
    ticks, x_ticks = round_ticks(low, high, 4), round_ticks(*span, 6)
    parts = [
        y_axis(ticks, y, left, width - right, decimals(ticks)),
        x_axis(x_ticks, x, height - bottom, decimals(x_ticks), "s"),
    ]
    title, caption = f"{title}, {unit}", ""
    if len(together) > len(_DASHES):
        caption = f"{len(series)} series: the band holds them all, the line is their median."
        parts += _bundle(list(series.values()), x, y)
        parts.append(words(width - right + 6, y(values[-1]) + 4, f"{len(series)} series", "strong"))
        return Figure(drawing(width, height, parts, f"{title} over the run", stamp), title, caption)
    ends = [y(points[-1][1]) for points in together]
    for i, (points, names) in enumerate(together.items()):
        path = " ".join(f"{x(t):.1f} {y(value):.1f}" for t, value in points)
        parts.append(f'<path class="line s{i}" stroke-dasharray="{_DASHES[i]}" d="M{path}h.01"/>')
        label = apart(ends, 14, reach=height - bottom)[i]
        parts.append(words(width - right + 6, label + 4, _joined(names), f"strong t{i}"))
    return Figure(drawing(width, height, parts, f"{title} over the run", stamp), title, caption)


def _bundle(series: Sequence[Sequence[tuple[float, float]]], x: Scale, y: Scale) -> list[str]:
    at: dict[float, list[float]] = {}
    for points in series:
        for t, value in points:
            at.setdefault(t, []).append(value)
    at = dict(sorted(at.items()))
    there = " ".join(f"{x(t):.1f} {y(max(values)):.1f}" for t, values in at.items())
    back = " ".join(f"{x(t):.1f} {y(min(values)):.1f}" for t, values in reversed(at.items()))
    line = " ".join(f"{x(t):.1f} {y(float(np.median(v))):.1f}" for t, v in at.items())
    return [f'<path class="band" d="M{there} {back}Z"/>', f'<path class="line" d="M{line}h.01"/>']


def _joined(names: Sequence[str]) -> str:
    """``cpu0-3`` for cpu0, cpu1, cpu2, cpu3; else the first and how many more."""
    split = [re.fullmatch(r"(.*?)(\d{1,9})", name) for name in names]
    if len(names) > 1 and all(split):
        stems = {match[1] for match in split if match}
        numbers = sorted(int(match[2]) for match in split if match)
        if len(stems) == 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            return f"{stems.pop()}{numbers[0]}-{numbers[-1]}"
    name = names[0] if len(names[0]) < 14 else f"{names[0][:12]}.."
    return name if len(names) == 1 else f"{name} +{len(names) - 1}"


def scatter(points: Sequence[Point], metric: str, *, narrow: bool = False) -> Figure:
    """Accuracy over the median latency, which is drawn by its logarithm."""
    width, height, left, right, top, bottom = (
        (380, 380, 50, 20, 12, 26) if narrow else (940, 430, 60, 30, 12, 28)
    )
    latencies = [point.latency_ms for point in points]
    accuracies = [point.accuracy for point in points]
    low, high = min(latencies) / 1.25, max(latencies) * 1.25
    margin = max((max(accuracies) - min(accuracies)) * 0.1, 0.002)
    bottom_value, top_value = min(accuracies) - margin, max(accuracies) + margin
    across = linear(math.log(low), math.log(high), left, width - right)
    y = linear(bottom_value, top_value, height - bottom, top)

    def x(value: float) -> float:
        return across(math.log(value))

    ticks = round_ticks(bottom_value, top_value, 6)
    parts = [
        y_axis(ticks, y, left, width - right, decimals(ticks)),
        x_axis(log_ticks(low, high, 4 if narrow else 9), x, height - bottom, shortest,
                "ms"),
    ]  # fmt: skip
    taken = [Box(x(p.latency_ms) - 8, y(p.accuracy) - 8, 16, 16) for p in points]
    for point in points:
        spot = x(point.latency_ms), y(point.accuracy)
        label = _placed(spot, point.label, taken, Box(left, 0, width - left, height - bottom))
        text = escape(point.text)
        parts.append(
            f'<g class="point f{point.colour}" tabindex="0" role="img" aria-label="{text}">'
            f"<title>{text}</title>{marker(point.shape, *spot)}{label}</g>"
        )
    caption = "Up and to the left is better. Colour is the target, shape the format."
    svg = drawing(width, height, parts, f"{metric} over latency", "", role="group")
    return Figure(svg, f"{metric} over the median latency", caption)


@dataclass(frozen=True)
class Box:
    """A rectangle in user units."""

    x: float
    y: float
    width: float
    height: float

    def hits(self, other: Box) -> bool:
        """Whether the two share an area."""
        across = self.x < other.x + other.width and other.x < self.x + self.width
        return across and self.y < other.y + other.height and other.y < self.y + self.height

    def holds(self, other: Box) -> bool:
        """Whether the other lies within."""
        across = self.x <= other.x and other.x + other.width <= self.x + self.width
        return across and self.y <= other.y and other.y + other.height <= self.y + self.height


def _placed(spot: tuple[float, float], label: str, taken: list[Box], frame: Box) -> str:
    """The label beside its point where it hides nothing; none if there is no such place."""
    x, y = spot
    width = 7.2 * len(label)
    for at, top, anchor in (
        (x + 11, y - 8, ""), (x - 11, y - 8, "end"), (x, y - 25, "mid"), (x, y + 10, "mid"),
        (x + 9, y - 21, ""), (x + 9, y + 6, ""), (x - 9, y - 21, "end"), (x - 9, y + 6, "end"),
    ):  # fmt: skip
        left = at - {"": 0, "mid": width / 2, "end": width}[anchor]
        box = Box(left, top, width, 16)
        if frame.holds(box) and not any(box.hits(other) for other in taken):
            taken.append(box)
            return words(at, top + 12, label, anchor)
    return ""


def marker(kind: int, x: float, y: float) -> str:
    """Circle, square, diamond, two triangles, cross: told apart without colour."""
    outlines = (
        f"M{x - 6:.1f} {y:.1f}a6 6 0 1 0 12 0a6 6 0 1 0-12 0Z",
        f"M{x - 5.5:.1f} {y - 5.5:.1f}h11v11h-11Z",
        f"M{x:.1f} {y - 7.5:.1f}l7.5 7.5l-7.5 7.5l-7.5-7.5Z",
        f"M{x:.1f} {y - 7:.1f}l7 12.5h-14Z",
        f"M{x:.1f} {y + 7:.1f}l7-12.5h-14Z",
        f"M{x - 2.3:.1f} {y - 7:.1f}h4.6v4.7h4.7v4.6h-4.7v4.7h-4.6v-4.7h-4.7v-4.6h4.7Z",
    )
    return f'<path class="shape" d="{outlines[kind % len(outlines)]}"/>'


def _thinned(times: Floats, least: float) -> list[float]:
    kept: list[float] = []
    for time in times:
        if not kept or time - kept[-1] >= least:
            kept.append(float(time))
    return kept
