"""RTMDet's raw heads: class logits and side distances of each level.

Formula: mmdet ``RTMDetHead``: priors at (column * stride, row * stride), score = sigmoid(logit),
box = (x - left, y - top, x + right, y + bottom) with distances in input pixels; per level at most
``nms_candidates_per_level`` cells above ``score_threshold``, then non-maximum suppression within
each class and the ``max_boxes`` best. With ``cut_at_rim`` boxes end at the input's rim before the
suppression, as ``DistancePointBBoxCoder`` has it, and those without an area go: two that differ
beyond the rim alone are one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge.codecs.finite import finite_outputs, real_boxes
from edge.codecs.nms import least_logit, pick, sigmoid, suppress
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
    outputs = finite_outputs(outputs, spec)
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
    least = least_logit(spec.score_threshold)
    all_boxes, all_logits, all_labels = [], [], []
    for level_logits, level_distances, stride in zip(logits, distances, spec.strides, strict=True):
        _, height, width = level_logits.shape
        flat = level_logits.reshape(-1)
        picked = pick(flat, least, spec.nms_candidates_per_level)
        if not len(picked):
            continue
        label, cell = np.divmod(picked, height * width)
        left, top, right, bottom = level_distances.reshape(4, -1)[:, cell]
        y, x = np.divmod(cell, width)
        x, y = x * np.float32(stride), y * np.float32(stride)
        all_boxes.append(np.stack([x - left, y - top, x + right, y + bottom], axis=1))
        all_logits.append(flat[picked])
        all_labels.append(label)
    if not all_boxes:
        return np.empty((0, 5), np.float32), np.empty(0, np.int64)
    scores = sigmoid(np.concatenate(all_logits))
    boxes = np.concatenate(all_boxes).astype(np.float32)
    labels = np.concatenate(all_labels)
    real = real_boxes(boxes)
    if spec.cut_at_rim:
        height, width = spec.input_hw
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        real &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores, labels = boxes[real], scores[real], labels[real]
    kept = suppress(boxes, scores, labels, spec.nms_iou, spec.max_boxes)
    return np.concatenate([boxes[kept], scores[kept, None]], axis=1), labels[kept]
