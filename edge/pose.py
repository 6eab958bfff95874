"""An image and boxes in, keypoints out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edge.arguments import check_boxes, check_session
from edge.codecs import KEYPOINT_CODECS
from edge.codecs.finite import count_lost
from edge.detector import normalization_of
from edge.errors import ArgumentError
from edge.image import Placement, check_image, crop
from edge.records import shown
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
    as an app on mmdeploy's SDK does, ``edge.sdk_image.sdk_pose_feeds``. ``lost_count`` is the
    number of keypoints, over all calls, for which the network gave no finite numbers; they have the
    score 0.
    """

    def __init__(self, session: Session, *, find_feeds: PoseFeeds = pose_feeds) -> None:
        check_session(session, "pose", "PoseEstimator")
        if not callable(find_feeds):
            raise ArgumentError(f"find_feeds must be a function, got {shown(find_feeds)}")
        self.session = session
        self.lost_count = 0
        self.find_feeds = find_feeds

    def __call__(
        self, image_bgr: npt.NDArray[np.uint8], boxes_xyxy: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Keypoints (N, K, 3) of x, y in image pixels and score, for N boxes (N, 4) xyxy.

        All people are one batch where the session takes any batch; otherwise they go in as many
        batches of its fixed size as needed, the last one filled up with its first person.
        """
        spec = self.session.spec
        boxes_xyxy = check_boxes(boxes_xyxy)
        check_image(image_bgr)
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
            outputs = self.session.run({spec.input.name: part})
            if count < size:  # nobody asked for the answers of what fills up
                outputs |= {tensor.name: outputs[tensor.name][:count] for tensor in spec.outputs}
            self.lost_count += count_lost(outputs, spec)
            parts.append(decode(outputs, spec))
        keypoints = np.concatenate(parts)
        for person, placement in zip(keypoints, placements, strict=True):
            person[:, :2] = placement.to_image(person[:, :2])
        return keypoints
