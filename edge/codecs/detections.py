"""Files with their non-maximum suppression inside.

Format: mmdeploy's ``dets`` (N, M, 5) of x1, y1, x2, y2 in input pixels and score, best first, with
``labels`` (N, M), or, of a one-stage model, with ``keypoints`` (N, M, K, 3).

Detectors end in padding: a row of zeros (ONNX Runtime export) or rows with label -1 (TensorRT
plugin), which go with the score threshold and the label check. One-stage files pad by the index
of an anchor, -1 or 0, and so end in rows that look like people; each of them is a row once more or
one that the suppression in the file had taken away.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge.codecs.finite import finite_outputs, hide_lost, real_boxes
from edge.codecs.nms import suppress
from edge.session import Array
from edge.spec import ModelSpec

__all__ = ["decode", "decode_poses"]

F32 = npt.NDArray[np.float32]


def decode(
    outputs: Mapping[str, Array], spec: ModelSpec
) -> list[tuple[F32, npt.NDArray[np.int64]]]:
    """Per image (boxes_xyxys (M, 5) float32, labels (M,) int64), best first."""
    outputs = finite_outputs(outputs, spec)
    dets, labels = (outputs[tensor.name] for tensor in spec.outputs)
    results = []
    for image_dets, image_labels in zip(dets, labels, strict=True):
        kept = (image_dets[:, 4] > spec.score_threshold) & (image_labels >= 0)
        kept &= real_boxes(image_dets[:, :4])
        results.append((image_dets[kept].astype(np.float32), image_labels[kept].astype(np.int64)))
    return results


def decode_poses(outputs: Mapping[str, Array], spec: ModelSpec) -> list[tuple[F32, F32]]:
    """Per image (boxes_xyxys (M, 5), keypoints (M, K, 3)), both float32, best first.

    Keypoints are x, y in input pixels and score. Padding is told from people by doing the
    suppression again, with the file's own ``spec.nms_iou``: what passed it once passes it twice.
    """
    outputs = finite_outputs(outputs, spec)
    dets, keypoints = (outputs[tensor.name] for tensor in spec.outputs)
    results = []
    for image_dets, image_keypoints in zip(dets, keypoints, strict=True):
        likely = (image_dets[:, 4] > spec.score_threshold) & real_boxes(image_dets[:, :4])
        boxes = image_dets[likely].astype(np.float32)
        one_class = np.zeros(len(boxes), np.int64)
        kept = suppress(boxes[:, :4], boxes[:, 4], one_class, spec.nms_iou, spec.max_boxes)
        points = np.array(image_keypoints[likely][kept], np.float32)
        results.append((boxes[kept], hide_lost(points)))
    return results
