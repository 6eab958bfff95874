"""RTMDet's raw heads: class logits and side distances of each level.

Formula: mmdet ``RTMDetHead``: priors at (column * stride, row * stride), score = sigmoid(logit),
box = (x - left, y - top, x + right, y + bottom) with distances in input pixels; per level at most
``nms_candidates_per_level`` cells above ``score_threshold``, then non-maximum suppression within
each class and the ``max_boxes`` best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge.session import Array
from edge.spec import ModelSpec

__all__ = ["decode", "suppress"]


def decode(
    outputs: Mapping[str, Array], spec: ModelSpec
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """Per image (boxes_xyxys (M, 5) float32, labels (M,) int64), best first.

    ``outputs`` holds in the order of ``spec.outputs`` the logits (N, C, Hs, Ws) of every stride and
    then the distances (N, 4, Hs, Ws) of every stride.
    """
    tensors = [outputs[tensor.name] for tensor in spec.outputs]
    levels = len(spec.strides)
    return [
        _decode_image(
            [tensor[image] for tensor in tensors[:levels]],
            [tensor[image] for tensor in tensors[levels:]],
            spec,
        )
        for image in range(len(tensors[0]))
    ]


def _decode_image(
    logits: list[Array], distances: list[Array], spec: ModelSpec
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    # Cells are picked on the logits: a sigmoid of the few that remain instead of all.
    threshold = spec.score_threshold
    least = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else -math.inf
    all_boxes, all_logits, all_labels = [], [], []
    for level_logits, level_distances, stride in zip(logits, distances, spec.strides, strict=True):
        _, height, width = level_logits.shape
        flat = level_logits.reshape(-1)
        picked = np.flatnonzero(flat > least)
        if len(picked) > spec.nms_candidates_per_level:
            best = np.argsort(-flat[picked], kind="stable")[: spec.nms_candidates_per_level]
            picked = picked[best]
        label, cell = np.divmod(picked, height * width)
        left, top, right, bottom = level_distances.reshape(4, -1)[:, cell]
        y, x = np.divmod(cell, width)
        x, y = x * np.float32(stride), y * np.float32(stride)
        all_boxes.append(np.stack([x - left, y - top, x + right, y + bottom], axis=1))
        all_logits.append(flat[picked])
        all_labels.append(label)
    kept_logits = np.concatenate(all_logits).astype(np.float32)
    scores = (1 / (1 + np.exp(-kept_logits))).astype(np.float32)
    boxes = np.concatenate(all_boxes).astype(np.float32)
    labels = np.concatenate(all_labels)
    kept = suppress(boxes, scores, labels, spec.nms_iou, spec.max_boxes)
    return np.concatenate([boxes[kept], scores[kept, None]], axis=1), labels[kept]


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
