"""What detectors share: which cells are worth decoding, and which boxes are kept."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge.session import Array

__all__ = ["least_logit", "pick", "sigmoid", "suppress"]


def least_logit(score: float) -> float:
    """The logit whose sigmoid is a score; minus infinity where every logit will do.

    Cells are picked on logits: a sigmoid of the few that remain instead of all.
    """
    return math.log(score / (1 - score)) if 0 < score < 1 else -math.inf


def pick(values: Array, least: float, count: int) -> npt.NDArray[np.intp]:
    """Indices of a (n,) array's values above ``least``, in order; of too many, the best first."""
    picked = np.flatnonzero(values > least)
    if len(picked) > count:
        picked = picked[np.argsort(-values[picked], kind="stable")[:count]]
    return picked


def sigmoid(values: Array) -> npt.NDArray[np.float32]:
    """1 / (1 + exp(-x)) as float32."""
    with np.errstate(over="ignore"):  # exp(89) is infinite, and its reciprocal right
        return np.asarray(1 / (1 + np.exp(-values.astype(np.float32))), np.float32)


def suppress(
    boxes_xyxy: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    iou_limit: float,
    count: int,
) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression within each class; indices of the kept, best first.

    A box goes when its intersection over union with a better one of its class exceeds
    ``iou_limit``. Ties in score go to the first. ``boxes_xyxy`` is (M, 4) in any unit.
    """
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = boxes_xyxy[order].T
    area = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
    label = labels[order]
    several_classes = bool((label != label[:1]).any())
    alive = np.ones(len(order), bool)
    kept: list[int] = []
    for index in range(len(order)):
        if not alive[index]:
            continue
        kept.append(index)
        if len(kept) == count:
            break
        rest = slice(index + 1, None)
        width = np.minimum(x2[index], x2[rest]) - np.maximum(x1[index], x1[rest])
        height = np.minimum(y2[index], y2[rest]) - np.maximum(y1[index], y1[rest])
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        # overlap / union > limit without the division: an empty union suppresses nothing
        goes = overlap > iou_limit * (area[index] + area[rest] - overlap)
        if several_classes:
            goes &= label[rest] == label[index]
        alive[rest] &= ~goes
    return order[kept]
