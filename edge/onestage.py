"""An image in, poses out, by one network that finds people and their keypoints at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge.codecs import POSE_CODECS
from edge.detector import boxes_in_image, detector_feeds, spec_above
from edge.errors import SpecError
from edge.pipeline import Pose, tracked_poses
from edge.session import Session
from edge.tracker import PoseTracker

__all__ = ["OneStage"]


class OneStage:
    """A one-stage session with everything around it; ``score_threshold`` is that of the boxes.

    With a ``tracker`` people keep a number over the frames of one video, and move smoothly; every
    video needs a one-stage object and a tracker of its own.
    """

    def __init__(
        self,
        session: Session,
        *,
        score_threshold: float = 0.3,
        tracker: PoseTracker | None = None,
    ) -> None:
        if session.spec.task != "one-stage":
            raise SpecError(
                f"{session.spec.name} is a {session.spec.task} model, not a one-stage one"
            )
        self.session = session
        self.score_threshold = score_threshold
        self.tracker = tracker
        self._spec = spec_above(session.spec, score_threshold)

    def __call__(self, image_bgr: npt.NDArray[np.uint8]) -> list[Pose]:
        """The people in an (H, W, 3) uint8 BGR image, best box first; tracked ones by number.

        Boxes are clipped to the image, keypoints are not.
        """
        spec = self._spec
        feeds, placement = detector_feeds(spec, image_bgr)
        boxes, keypoints = POSE_CODECS[spec.codec](self.session.run(feeds), spec)[0]
        kept = boxes[:, 4] > self.score_threshold
        boxes, keypoints = boxes[kept], keypoints[kept]
        boxes_xyxy, real = boxes_in_image(boxes[:, :4], placement, image_bgr)
        keypoints = keypoints[real]
        keypoints[..., :2] = placement.to_image(keypoints[..., :2])
        if self.tracker:
            return tracked_poses(self.tracker.update(keypoints, image_hw=image_bgr.shape[:2]))
        return [
            Pose(box, float(score), points)
            for box, score, points in zip(boxes_xyxy, boxes[real, 4], keypoints, strict=True)
        ]
