"""Boxes by the definition, one at a time."""

from __future__ import annotations

from edge.session import Array

__all__ = ["naive_iou"]


def naive_iou(a: Array, b: Array) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return float(w * h / (areas - w * h))
