"""An image in, poses out: a detector and a pose model, or a pose model on the whole image.

A one-stage model does the same alone, in ``edge.onestage``. With a tracker both follow the
people of one video.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge.arguments import check_callable, check_whole
from edge.detector import Boxes, Detector
from edge.errors import ArgumentError, SpecError
from edge.pose import PoseEstimator
from edge.records import shown
from edge.tracking.matching import boxes_of
from edge.tracking.tracker import PoseTracker, TrackedPose

__all__ = ["Pipeline", "Pose", "check_tracker", "tracked_poses"]

# Of an untracked person's next box: what keypoints must score, and how much wider than they it is.
_SEEN, _SCALE = 0.3, 1.25


@dataclass(frozen=True)
class Pose:
    """One person: box (4,) xyxy in image pixels with its score, keypoints (K, 3) x, y, score.

    ``track_id`` is the person's number in a video that is tracked, else None. The box of a person
    who was not detected in this frame, and of everybody tracked, comes from the keypoints and has
    the score 1.
    """

    box_xyxy: npt.NDArray[np.float32]
    box_score: float
    keypoints: npt.NDArray[np.float32]
    track_id: int | None = None

    @property
    def score(self) -> float:
        """Instance score: box score times the mean of the keypoint scores above 0.2.

        mmpose's ``bbox_keypoint`` mode of COCO evaluation; 0 when no keypoint scores that much.
        """
        scores = self.keypoints[:, 2]
        kept = scores[scores > 0.2]
        return self.box_score * float(kept.mean()) if len(kept) else 0.0


class Pipeline:
    """A pose estimator behind an optional detector; without one the image is one box.

    For the frames of a video, one pipeline each. With a ``det_interval`` of N the detector looks at
    every N-th frame only; in between people are sought where their keypoints were, and found again
    where half of these are seen. With a ``tracker`` they also keep a number and move smoothly; the
    interval is then that of its parameters, and a detector that has chosen classes by ``label`` is
    taken at its word, whatever their ``det_label``. Raises SpecError for an interval or a
    tracker without a detector, and for both.
    """

    def __init__(
        self,
        pose: PoseEstimator,
        detector: Detector | None = None,
        *,
        det_interval: int = 1,
        tracker: PoseTracker | None = None,
    ) -> None:
        _check_roles(pose, detector)
        check_tracker(tracker)
        check_whole("det_interval", det_interval, 1)
        if detector is None and (tracker or det_interval > 1):
            raise SpecError("without a detector the image is one box: nobody is there to follow")
        if tracker and det_interval > 1:
            raise SpecError("a tracker has an interval of its own: set det_interval in its params")
        self.pose = pose
        self.detector = detector
        self.det_interval = det_interval
        self.tracker = tracker
        self._chosen = getattr(detector, "labels", None)
        self._frame_index = 0
        self._last: list[Pose] | None = None

    def __call__(self, image_bgr: npt.NDArray[np.uint8]) -> list[Pose]:
        """The people in an (H, W, 3) uint8 BGR image, best box first; tracked ones by number."""
        if self.tracker and self.detector:
            find = self.detector if self._chosen is None else self._people
            return tracked_poses(self.tracker(image_bgr, find, self.pose))
        boxes, sought = self._boxes(image_bgr)
        keypoints = self.pose(image_bgr, boxes.boxes_xyxy)
        people = [
            Pose(box, float(score), points)
            for box, score, points in zip(boxes.boxes_xyxy, boxes.scores, keypoints, strict=True)
            if not sought or _enough_seen(points)
        ]
        self._frame_index += 1
        self._last = people if self.det_interval > 1 else None
        return people

    @property
    def lost_count(self) -> int:
        """Answers of both networks, over all calls, that were not finite and count as not there."""
        return sum(getattr(one, "lost_count", 0) for one in (self.pose, self.detector))

    def _people(self, image_bgr: npt.NDArray[np.uint8]) -> Boxes:
        """The boxes of a detector that has chosen classes, under the label that is followed."""
        assert self.detector and self.tracker
        boxes = self.detector(image_bgr)
        return replace(boxes, labels=np.full_like(boxes.labels, self.tracker.params.det_label))

    def _boxes(self, image_bgr: npt.NDArray[np.uint8]) -> tuple[Boxes, bool]:
        """Where people are, and whether they are only sought there, as they were there before."""
        height, width = image_bgr.shape[:2]
        if self.detector is None:
            return _certain(np.array([[0, 0, width, height]], np.float32)), False
        if self._last is None or self._frame_index % self.det_interval == 0:
            return self.detector(image_bgr), False
        if not self._last:
            return _certain(np.empty((0, 4), np.float32)), True
        boxes_xyxy, enough = boxes_of(
            np.stack([pose.keypoints for pose in self._last]),
            (height, width),
            score_threshold=_SEEN,
            least_keypoints=1,
            scale=_SCALE,
        )
        enough &= (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(axis=1)
        return _certain(boxes_xyxy[enough]), True


def _check_roles(pose: object, detector: object) -> None:
    if isinstance(pose, Detector) or isinstance(detector, PoseEstimator):
        raise ArgumentError("Pipeline takes the pose estimator first and then the detector")
    check_callable("pose", pose, PoseEstimator, "a PoseEstimator(session)")
    if detector is not None:
        check_callable("detector", detector, Detector, "a Detector(session)")


def check_tracker(tracker: object) -> None:
    """Raise ArgumentError unless this is a tracker, or None for none."""
    if not isinstance(tracker, PoseTracker | None):
        raise ArgumentError(f"tracker must be a PoseTracker(...) or None, got {shown(tracker)}")


def _enough_seen(keypoints: npt.NDArray[np.float32]) -> bool:
    return int((keypoints[:, 2] >= _SEEN).sum()) >= (len(keypoints) + 1) // 2


def tracked_poses(people: Iterable[TrackedPose]) -> list[Pose]:
    """A tracker's answer as poses."""
    return [Pose(one.box_xyxy, 1.0, one.keypoints, one.track_id) for one in people]


def _certain(boxes_xyxy: npt.NDArray[np.float32]) -> Boxes:
    count = len(boxes_xyxy)
    return Boxes(boxes_xyxy, np.ones(count, np.float32), np.zeros(count, np.int64))
