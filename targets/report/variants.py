"""The variants of models side by side: table, Markdown, and accuracy over latency as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge.terminal import columns

__all__ = ["VariantRow", "markdown_table", "rows_json", "text_table"]


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
    return "\n".join(columns(cells, right=range(3, len(_HEAD))))


def markdown_table(rows: Sequence[VariantRow]) -> str:
    """The table as Markdown."""
    align = ["---" if column < 3 else "---:" for column in range(len(_HEAD))]
    lines = [_HEAD, align, *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def rows_json(rows: Sequence[VariantRow]) -> list[dict[str, Any]]:
    """The rows as plain values."""
    return [asdict(row) for row in rows]
