"""Which boxes and poses are alike, which of them stay, and which belongs to which track.

Formulas: mmdeploy SDK 1.3.1, ``csrc/mmdeploy/codebase/mmpose/pose_tracker``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["areas", "assign", "boxes_of", "iou", "oks", "squared_length", "suppress"]

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def areas(boxes_xyxy: F32) -> F32:
    """Width times height (...,) of boxes (..., 4) in px^2."""
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return np.asarray(sides[..., 0] * sides[..., 1], np.float32)


def squared_length(vectors: F32) -> F32:
    """x^2 + y^2 (...,) of vectors (..., 2); numpy's sum takes several times as long for two."""
    x, y = vectors[..., 0], vectors[..., 1]
    return np.asarray(x * x + y * y, np.float32)


def iou(boxes_xyxy: F32, others_xyxy: F32) -> F32:
    """Intersection over union (N, M) of boxes (N, 4) with others (M, 4); 0 of two empty ones."""
    one, other = boxes_xyxy[:, None], others_xyxy[None]
    low = np.maximum(one[..., :2], other[..., :2])
    high = np.minimum(one[..., 2:], other[..., 2:])
    sides = np.maximum(high - low, 0)
    overlap = sides[..., 0] * sides[..., 1]
    union = areas(one) + areas(other) - overlap
    # Without a union there is no overlap either.
    return np.asarray(overlap / np.where(union == 0, np.float32(1), union), np.float32)


def oks(keypoints_xy: F32, boxes_xyxy: F32, sigmas: Sequence[float]) -> F32:
    """Similarity (N, N) of poses (N, K, 2) with each other, from 0 to 1.

    The mean over the keypoints of exp(-d^2 / (2 s^2 sigma^2)), where s, unlike COCO's, is the mean
    of the two boxes' diagonals.
    """
    squared = squared_length(keypoints_xy[:, None] - keypoints_xy[None])
    diagonal = np.sqrt(squared_length(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]))
    scale = (diagonal[:, None] + diagonal[None]) / 2
    spread = 2 * np.square(scale[..., None] * np.asarray(sigmas, np.float32))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.exp(-squared / spread).mean(axis=-1), np.float32)


def suppress(order: npt.NDArray[np.intp], similarity: F32, stays: Mask, limit: float) -> Mask:
    """Of those that ``stays`` (N,) has: the ones without a better one as similar as ``limit``.

    ``order`` (N,) lists the best first; ``similarity`` is (N, N).
    """
    stays = stays.copy()
    for place, best in enumerate(order):
        if stays[best]:
            rest = order[place + 1 :]
            stays[rest[similarity[best, rest] >= limit]] = False
    return stays


def assign(scores: F32, rows: Mask, columns: Mask, least: float) -> list[tuple[int, int]]:
    """Pairs of a row and a column, the highest of ``scores`` (N, M) first, each used once.

    Greedy, down to ``least``; of equal scores the first one in reading order. Takes the pairs out
    of ``rows`` (N,) and ``columns`` (M,), which say what may be used.
    """
    open_scores = np.where(rows[:, None] & columns & ~np.isnan(scores), scores, -np.inf)
    pairs: list[tuple[int, int]] = []
    while open_scores.size:
        row, column = divmod(int(open_scores.argmax()), open_scores.shape[1])
        best = open_scores[row, column]
        if best == -np.inf or best < least:
            break
        pairs.append((row, column))
        rows[row] = columns[column] = False
        open_scores[row] = open_scores[:, column] = -np.inf
    return pairs


def boxes_of(
    keypoints: F32,
    image_hw: tuple[int, int],
    *,
    score_threshold: float,
    least_keypoints: int,
    scale: float,
) -> tuple[F32, Mask]:
    """Boxes (N, 4) about the keypoints (N, K, 3) that score enough, and which poses have enough.

    The tight box grown ``scale`` times about its centre and clipped to the image.
    """
    height, width = image_hw
    limit = np.array([width, height, width, height], np.float32)
    seen = keypoints[..., 2] >= score_threshold
    points = np.where(seen[..., None], keypoints[..., :2], np.float32(np.nan))
    # fmin and fmax pass over what is not a number.
    low = np.fmin(np.fmin.reduce(points, axis=1), limit[:2])
    high = np.fmax(np.fmax.reduce(points, axis=1), np.float32(0))
    half = np.float32(0.5)
    centre, side = half * (low + high), (high - low) * np.float32(scale)
    boxes = np.concatenate([centre - half * side, centre + half * side], axis=1)
    boxes = np.minimum(np.maximum(boxes, np.float32(0)), limit)
    enough = seen.sum(axis=1) >= least_keypoints
    boxes[~enough] = 0
    return boxes, enough
