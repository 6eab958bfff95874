"""Object keypoint similarity, and what mmpose does with it before COCO's evaluation.

Formulas: mmpose ``evaluation/functional/nms.py``, ``oks_iou`` and ``oks_nms``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["OKS_LIMIT", "oks", "suppress_by_oks"]

F64 = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]

OKS_LIMIT = 0.9
"""Of two answers in one picture that are more alike than this, the lower one goes."""


def oks(one_xy: Floats, others_xy: Floats, areas: Floats, sigmas: Sequence[float]) -> F64:
    """Similarity (N,) of keypoints (K, 2) with others (N, K, 2), from 0 to 1.

    exp(-d^2 / (2 (2 sigma)^2 area)), the mean over all keypoints; distances in px, ``areas`` (N,)
    in px^2.
    """
    squared = np.square(others_xy - one_xy).sum(axis=-1, dtype=np.float64)
    spread = 2 * np.square(2 * np.asarray(sigmas, np.float64))
    area = np.asarray(areas, np.float64)[:, None] + np.spacing(1)
    return np.asarray(np.exp(-squared / (spread * area)).mean(axis=-1), np.float64)


def suppress_by_oks(
    keypoints_xy: Floats,
    scores: Floats,
    areas: Floats,
    sigmas: Sequence[float],
    limit: float = OKS_LIMIT,
) -> list[int]:
    """Which of one picture's answers (N, K, 2) stay, best score first.

    Greedy: an answer goes where its similarity to a better one is above ``limit``. The area of a
    pair is the mean of both; of two equal scores the first one counts as better.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        pair_areas = (areas[best] + areas[order]) / 2
        alike = oks(keypoints_xy[best], keypoints_xy[order], pair_areas, sigmas)
        order = order[alike <= limit]
    return kept
