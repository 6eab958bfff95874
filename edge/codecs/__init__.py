"""How raw outputs become boxes or keypoints; one file a codec.

Keypoint codecs: ``decode(outputs, spec) -> keypoints (N, K, 3)`` as x, y in input pixels and score.
Box codecs: ``decode(outputs, spec) -> [(boxes_xyxys (M, 5), labels (M,)), ...]``, one pair an
image, x1, y1, x2, y2 in input pixels and score, best first.
Pose codecs, of one-stage models: ``-> [(boxes_xyxys (M, 5), keypoints (M, K, 3)), ...]`` likewise.

``outputs`` is what ``Session.run`` returns: the network's outputs and the spec's constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edge.codecs import detections, heatmap, rtmdet, rtmo, simcc, yolox
from edge.session import Array
from edge.spec import Codec, ModelSpec

__all__ = ["BOX_CODECS", "KEYPOINT_CODECS", "KEYPOINT_SHORTFALLS", "POSE_CODECS"]

F32 = npt.NDArray[np.float32]
BoxDecoder = Callable[
    [Mapping[str, Array], ModelSpec],
    list[tuple[F32, npt.NDArray[np.int64]]],
]
KeypointDecoder = Callable[[Mapping[str, Array], ModelSpec], F32]
PoseDecoder = Callable[[Mapping[str, Array], ModelSpec], list[tuple[F32, F32]]]

BOX_CODECS: dict[Codec, BoxDecoder] = {
    "rtmdet": rtmdet.decode,
    "yolox": yolox.decode,
    "detections": detections.decode,
}
KEYPOINT_CODECS: dict[Codec, KeypointDecoder] = {
    "simcc": simcc.decode,
    "heatmap": heatmap.decode,
}
POSE_CODECS: dict[Codec, PoseDecoder] = {
    "rtmo": rtmo.decode,
    "detections": detections.decode_poses,
}

# What parity asks beyond: how much less outputs give to other points than to their own answer.
KEYPOINT_SHORTFALLS: dict[Codec, Callable[[Mapping[str, Array], ModelSpec, F32], F32]] = {
    "simcc": simcc.shortfall,
    "heatmap": heatmap.shortfall,
}
