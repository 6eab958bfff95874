"""An image and boxes in, keypoints out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edge.codecs import KEYPOINT_CODECS
from edge.detector import normalization_of
from edge.errors import SpecError
from edge.image import Placement, crop
from edge.session import Array, Session
from edge.spec import ModelSpec

__all__ = ["PoseEstimator", "PoseFeeds", "pose_feeds"]

# A spec, a BGR image and boxes (N, 4): the feeds (N, 3, H, W), and each one's way back.
PoseFeeds = Callable[
    [ModelSpec, npt.NDArray[np.uint8], npt.NDArray[np.float32]],
    tuple[dict[str, Array], list[Placement]],
]


def pose_feeds(
    spec: ModelSpec, image_bgr: npt.NDArray[np.uint8], boxes_xyxy: npt.NDArray[np.float32]
) -> tuple[dict[str, Array], list[Placement]]:
    """The feeds (N, 3, H, W) of N boxes (N, 4), and each one's way back to image pixels."""
    height, width = spec.input_hw
    batch = np.empty((len(boxes_xyxy), 3, height, width), np.float32)
    normalization = normalization_of(spec)
    placements = [
        crop(
            image_bgr,
            box,
            (height, width),
            normalization,
            padding=spec.box_padding,
            udp=spec.udp,
            out=batch[index],
        )[1]
        for index, box in enumerate(boxes_xyxy)
    ]
    return {spec.input.name: batch}, placements


class PoseEstimator:
    """A top-down pose session with everything around it.

    ``find_feeds`` cuts the people out: as mmpose does, with which models are trained, or, to answer
    as an app on mmdeploy's SDK does, ``edge.sdk_image.sdk_pose_feeds``.
    """

    def __init__(self, session: Session, *, find_feeds: PoseFeeds = pose_feeds) -> None:
        if session.spec.task != "pose":
            raise SpecError(f"{session.spec.name} is a {session.spec.task} model, no pose model")
        self.session = session
        self.find_feeds = find_feeds

    def __call__(
        self, image_bgr: npt.NDArray[np.uint8], boxes_xyxy: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Keypoints (N, K, 3) of x, y in image pixels and score, for N boxes (N, 4) xyxy.

        All people are one batch where the session takes any batch; otherwise they go in as many
        batches of its fixed size as needed, the last one filled up with its first person.
        """
        spec = self.session.spec
        boxes_xyxy = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
        if len(boxes_xyxy) == 0:
            return np.empty((0, len(spec.keypoints.keypoints), 3), np.float32)
        feeds, placements = self.find_feeds(spec, image_bgr, boxes_xyxy)
        decode = KEYPOINT_CODECS[spec.codec]
        (batch,) = feeds.values()
        size = self.session.max_batch or len(batch)
        parts = []
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            count = len(part)
            if count < size:
                part = np.concatenate([part, np.repeat(part[:1], size - count, axis=0)])
            parts.append(decode(self.session.run({spec.input.name: part}), spec)[:count])
        keypoints = np.concatenate(parts)
        for person, placement in zip(keypoints, placements, strict=True):
            person[:, :2] = placement.to_image(person[:, :2])
        return keypoints
