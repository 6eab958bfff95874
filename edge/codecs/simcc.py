"""SimCC: each keypoint as one distribution along x and one along y.

Formula: mmpose ``get_simcc_maximum`` and ``SimCCLabel.decode`` without flip test or DARK.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge.codecs.finite import finite_outputs
from edge.session import Array
from edge.spec import ModelSpec

__all__ = ["decode", "shortfall"]


def decode(outputs: Mapping[str, Array], spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Keypoints (N, K, 3) float32: x and y in input pixels, score.

    ``outputs`` holds simcc_x (N, K, W * ratio) and simcc_y (N, K, H * ratio), in the order of
    ``spec.outputs``, raw: the score, the smaller one of both maxima, may exceed 1. Ties go to the
    first bin. A score of 0 or less puts the keypoint at bin -1; what is not finite has the
    score 0.
    """
    outputs = finite_outputs(outputs, spec)
    simcc_x, simcc_y = (outputs[tensor.name] for tensor in spec.outputs)
    count, keypoints = simcc_x.shape[:2]
    rows = np.arange(count * keypoints)
    flat_x = simcc_x.reshape(len(rows), -1)
    flat_y = simcc_y.reshape(len(rows), -1)
    bin_x = flat_x.argmax(axis=1)
    bin_y = flat_y.argmax(axis=1)
    score = np.minimum(flat_x[rows, bin_x], flat_y[rows, bin_y])
    decoded = np.empty((len(rows), 3), np.float32)
    decoded[:, 0] = bin_x
    decoded[:, 1] = bin_y
    decoded[score <= 0, :2] = -1
    decoded[:, :2] /= spec.simcc_split_ratio
    decoded[:, 2] = score
    return decoded.reshape(count, keypoints, 3)


def shortfall(
    outputs: Mapping[str, Array], spec: ModelSpec, points_xy: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """How much less the outputs give to points (N, K, 2), input pixels, than to their own maxima.

    (N, K) float32, the larger one of both axes; about 0 where a point is as good an answer as the
    decoded one, be it far away. Points beyond the input count as its rim.
    """
    losses = []
    for axis, tensor in enumerate(spec.outputs):
        values = outputs[tensor.name]
        bins = np.rint(points_xy[..., axis] * spec.simcc_split_ratio).astype(np.intp)
        bins = np.clip(bins, 0, values.shape[2] - 1)
        there = np.take_along_axis(values, bins[..., None], axis=2)[..., 0]
        losses.append(values.max(axis=2) - there)
    return np.asarray(np.maximum(*losses), np.float32)
