"""How raw outputs become boxes or keypoints; one file a codec.

Pose codecs: ``decode(outputs, spec) -> keypoints (N, K, 3)`` as x, y in input pixels and score.
Detector codecs: ``decode(outputs, spec) -> [(boxes_xyxys (M, 5), labels (M,)), ...]``, one pair an
image, x1, y1, x2, y2 in input pixels and score, best first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edge.codecs import detections, rtmdet, simcc
from edge.session import Array
from edge.spec import Codec, ModelSpec

__all__ = ["BOX_CODECS", "KEYPOINT_CODECS", "KEYPOINT_SHORTFALLS"]

BoxDecoder = Callable[
    [Mapping[str, Array], ModelSpec],
    list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]],
]
KeypointDecoder = Callable[[Mapping[str, Array], ModelSpec], npt.NDArray[np.float32]]

BOX_CODECS: dict[Codec, BoxDecoder] = {"rtmdet": rtmdet.decode, "detections": detections.decode}
KEYPOINT_CODECS: dict[Codec, KeypointDecoder] = {"simcc": simcc.decode}

# What parity asks beyond: how much less outputs give to other points than to their own answer.
KEYPOINT_SHORTFALLS = {"simcc": simcc.shortfall}
