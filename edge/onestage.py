"""An image in, poses out, by one network that finds people and their keypoints at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge.arguments import check_session, check_share
from edge.codecs import POSE_CODECS
from edge.codecs.finite import count_lost
from edge.detector import boxes_in_image, detector_feeds, spec_above
from edge.pipeline import Pose, check_tracker, tracked_poses
from edge.session import Session
from edge.tracking.tracker import PoseTracker

__all__ = ["OneStage"]


class OneStage:
    """A one-stage session with everything around it; ``score_threshold`` is that of the boxes.

    With a ``tracker`` people keep a number over the frames of one video, and move smoothly; every
    video needs a one-stage object and a tracker of its own. ``lost_count`` is the number of
    answers, over all calls, that were not finite and count as not there.
    """

    def __init__(
        self,
        session: Session,
        *,
        score_threshold: float = 0.3,
        tracker: PoseTracker | None = None,
    ) -> None:
        check_session(session, "one-stage", "OneStage")
        check_tracker(tracker)
        self.session = session
        self.score_threshold = check_share("score_threshold", score_threshold)
        self.tracker = tracker
        self.lost_count = 0
        self._spec = spec_above(session.spec, self.score_threshold)

    def __call__(self, image_bgr: npt.NDArray[np.uint8]) -> list[Pose]:
        """The people in an (H, W, 3) uint8 BGR image, best box first; tracked ones by number.

        Boxes are clipped to the image, keypoints are not.
        """
        spec = self._spec
        feeds, placement = detector_feeds(spec, image_bgr)
        outputs = self.session.run(feeds)
        self.lost_count += count_lost(outputs, spec)
        boxes, keypoints = POSE_CODECS[spec.codec](outputs, spec)[0]
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
