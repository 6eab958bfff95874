"""How much boxes overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["iou"]

Boxes = npt.NDArray[np.number[Any]]


def iou(boxes_xyxy: Boxes, others_xyxy: Boxes) -> npt.NDArray[np.float64]:
    """Intersection over union (N, M) of boxes (N, 4+) with others (M, 4+) as x1, y1, x2, y2.

    Further columns are ignored. A box without an area overlaps with nothing.
    """
    one, other = (np.asarray(side, np.float64)[:, :4] for side in (boxes_xyxy, others_xyxy))
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    overlap = np.maximum(high - low, 0).prod(axis=2)
    areas = [np.maximum(side[:, 2:] - side[:, :2], 0).prod(axis=1) for side in (one, other)]
    union = areas[0][:, None] + areas[1] - overlap
    share: npt.NDArray[np.float64] = np.zeros_like(overlap)
    np.divide(overlap, union, out=share, where=union > 0)
    return share
