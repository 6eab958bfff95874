"""The variants of models side by side: table, Markdown, and accuracy over latency as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

__all__ = ["VariantRow", "markdown_table", "plot_svg", "rows_json", "text_table"]


@dataclass(frozen=True)
class VariantRow:
    """One variant of one model, measured.

    ``computes_in`` is what the engine says of its arithmetic; ``ratio`` is the median latency over
    that of the model's ``onnx-fp32`` in the same run; ``decoded_error`` is against the FP32
    reference in ``error_unit``; a point is 0.01 of ``metric``. ``pck`` is PCK@0.05, of pose models.
    """

    model: str
    variant: str
    computes_in: str
    size_mb: float
    p50_ms: float
    p90_ms: float | None
    ratio: float | None
    decoded_error: float
    error_unit: str
    metric: str
    accuracy: float
    loss_points: float
    pck: float | None = None
    float_parts: tuple[str, ...] = ()


_HEAD = ("model", "variant", "computes in", "MB", "p50 ms", "p90 ms", "x onnx-fp32", "error",
         "accuracy", "loss", "PCK@0.05")  # fmt: skip


def _cells(row: VariantRow) -> tuple[str, ...]:
    return (
        row.model,
        row.variant,
        row.computes_in,
        f"{row.size_mb:.2f}",
        f"{row.p50_ms:.2f}",
        "too few" if row.p90_ms is None else f"{row.p90_ms:.2f}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        f"{row.decoded_error:.3g} {row.error_unit}",
        f"{row.metric} {row.accuracy:.4f}",
        f"{row.loss_points:+.2f}",
        "" if row.pck is None else f"{row.pck:.4f}",
    )


def text_table(rows: Sequence[VariantRow]) -> str:
    """The table for a terminal."""
    cells = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = []
    for line in cells:
        padded = [
            text.ljust(width) if column < 3 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def markdown_table(rows: Sequence[VariantRow]) -> str:
    """The table as Markdown."""
    align = ["---" if column < 3 else "---:" for column in range(len(_HEAD))]
    lines = [_HEAD, align, *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def rows_json(rows: Sequence[VariantRow]) -> list[dict[str, Any]]:
    """The rows as plain values."""
    return [asdict(row) for row in rows]


# Colour-blind safe (Okabe and Ito), one a format.
_COLOURS = {
    "onnx": "#0072B2",
    "ncnn": "#009E73",
    "openvino": "#D55E00",
    "tflite": "#CC79A7",
    "tensorrt": "#56B4E9",
}
_MARKERS = {"fp32": "o", "fp16": "s", "dynamic-range": "v", "int8": "D", "mixed": "P", "w8a16": "X"}


def plot_svg(rows: Sequence[VariantRow], caption: str) -> bytes:
    """Points lost over the median latency, a panel a model, as an SVG picture."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row.model for row in rows))
    # Text stays text, and the same rows give the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgepose"}):
        figure = Figure(figsize=(6.0 * len(models), 5.4), layout="constrained")
        handles: dict[str, Any] = {}
        for panel, model in enumerate(models, start=1):
            axes = figure.add_subplot(1, len(models), panel)
            shown = [row for row in rows if row.model == model]
            for row in shown:
                kind, _, precision = row.variant.partition("-")
                label = row.variant + (" (bf16)" if row.computes_in == "bf16" else "")
                (handles[label],) = axes.plot(
                    row.p50_ms,
                    row.loss_points,
                    _MARKERS[precision],
                    color=_COLOURS[kind],
                    fillstyle="none" if row.computes_in == "bf16" else "full",
                    markersize=8,
                )
            _label_axes(axes, shown)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5,
                      fontsize=8, frameon=False)  # fmt: skip
        figure.suptitle(caption, fontsize=8, color="#555555")
        stream = BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _label_axes(axes: Any, rows: Sequence[VariantRow]) -> None:
    """Latency on a logarithmic axis: the slowest variant may take a hundred times the fastest's."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(
        title=rows[0].model,
        xlabel="median latency in ms",
        ylabel=f"points of {rows[0].metric} lost",
        xscale="log",
    )
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.grid(visible=True, color="#dddddd", linewidth=0.5)
