"""YOLOX: class scores, boxes and objectness of each cell.

Formula: Megvii's ``demo_postprocess`` and mmdet's ``YOLOXHead``: box centre = (cell + (dx, dy)) *
stride with cells counted from 0, box size = exp(log w, log h) * stride, score = objectness *
the best class's score, which gives the label; then non-maximum suppression within each class.
mmdeploy's files take every class of a cell that is above the threshold (``multiclass_nms``), which
is ``spec.several_labels``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from edge.codecs.finite import finite_outputs, real_boxes
from edge.codecs.nms import least_logit, pick, sigmoid, suppress
from edge.session import Array
from edge.spec import ModelSpec

__all__ = ["decode"]

Cells = npt.NDArray[np.intp]


def decode(
    outputs: Mapping[str, Array], spec: ModelSpec
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """Per image (boxes_xyxys (M, 5) float32, labels (M,) int64), best first, in input pixels.

    ``outputs`` holds in the order of ``spec.outputs`` either one array (N, A, 5 + C) of dx, dy,
    log w, log h (in strides), objectness and class scores of every cell, level by level and row
    by row, or the class logits (N, C, Hs, Ws) of every stride, then in the same way boxes
    (N, 4, Hs, Ws) and objectness logits (N, 1, Hs, Ws).
    """
    outputs = finite_outputs(outputs, spec)
    tensors = [outputs[tensor.name] for tensor in spec.outputs]
    levels = _levels_of_rows if len(tensors) == 1 else _levels_of_maps
    return [
        _decode_image(levels([tensor[image] for tensor in tensors], spec), spec)
        for image in range(len(tensors[0]))
    ]


def _levels_of_rows(tensors: list[Array], spec: ModelSpec) -> Iterator[tuple[Cells, Array]]:
    """For each level the cells that may count and their rows (n, 5 + C), scores as scores."""
    start = 0
    for stride in spec.strides:
        height, width = (-(-size // stride) for size in spec.input_hw)
        rows = tensors[0][start : start + height * width]
        start += height * width
        # No score is above its objectness, so that alone tells most cells off.
        cells = np.flatnonzero(rows[:, 4] > spec.score_threshold)
        yield cells, rows[cells]


def _levels_of_maps(tensors: list[Array], spec: ModelSpec) -> Iterator[tuple[Cells, Array]]:
    levels = len(spec.strides)
    least = least_logit(spec.score_threshold)
    for level in range(levels):
        classes, boxes, objectness = (
            maps.reshape(len(maps), -1) for maps in tensors[level::levels]
        )
        cells = np.flatnonzero(objectness[0] > least)
        scores = sigmoid(np.concatenate([objectness[:, cells], classes[:, cells]]))
        yield cells, np.concatenate([boxes[:, cells], scores]).T


def _decode_image(
    levels: Iterator[tuple[Cells, Array]], spec: ModelSpec
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    all_boxes, all_scores, all_labels = [], [], []
    for stride, (cells, rows) in zip(spec.strides, levels, strict=True):
        if spec.several_labels:
            classes = rows.shape[1] - 5
            scores = (rows[:, 4:5] * rows[:, 5:]).reshape(-1)
            picked = pick(scores, spec.score_threshold, spec.nms_candidates_per_level)
            row, label = np.divmod(picked, classes)
        else:
            labels = rows[:, 5:].argmax(axis=1)
            scores = rows[:, 4] * rows[np.arange(len(rows)), 5 + labels]
            picked = row = pick(scores, spec.score_threshold, spec.nms_candidates_per_level)
            label = labels[picked]
        y, x = np.divmod(cells[row], -(-spec.input_hw[1] // stride))
        centre = (rows[row, :2] + np.stack([x, y], axis=1)) * stride
        with np.errstate(over="ignore"):  # infinite boxes go below
            half = np.exp(rows[row, 2:4]) * (stride / 2)
        all_boxes.append(np.concatenate([centre - half, centre + half], axis=1))
        all_scores.append(scores[picked])
        all_labels.append(label)
    boxes = np.concatenate(all_boxes).astype(np.float32)
    scores = np.concatenate(all_scores).astype(np.float32)
    labels = np.concatenate(all_labels)
    real = real_boxes(boxes)
    boxes, scores, labels = boxes[real], scores[real], labels[real]
    kept = suppress(boxes, scores, labels, spec.nms_iou, spec.max_boxes)
    return np.concatenate([boxes[kept], scores[kept, None]], axis=1), labels[kept]
