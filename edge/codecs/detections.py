"""Detector files with their non-maximum suppression inside.

Format: mmdeploy's ``dets`` (N, M, 5) of x1, y1, x2, y2 in input pixels and score, best first, and
``labels`` (N, M). Such files end in padding: a row of zeros (ONNX Runtime export) or rows with
label -1 (TensorRT plugin), which go with the score threshold and the label check.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge.session import Array
from edge.spec import ModelSpec

__all__ = ["decode"]


def decode(
    outputs: Mapping[str, Array], spec: ModelSpec
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """Per image (boxes_xyxys (M, 5) float32, labels (M,) int64), best first."""
    dets, labels = (outputs[tensor.name] for tensor in spec.outputs)
    results = []
    for image_dets, image_labels in zip(dets, labels, strict=True):
        kept = (image_dets[:, 4] > spec.score_threshold) & (image_labels >= 0)
        results.append((image_dets[kept].astype(np.float32), image_labels[kept].astype(np.int64)))
    return results
