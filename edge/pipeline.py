"""An image in, poses out: a detector and a pose model, or a pose model on the whole image.

A one-stage model does the same alone, in ``edge.onestage``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge.detector import Boxes, Detector
from edge.pose import PoseEstimator

__all__ = ["Pipeline", "Pose"]


@dataclass(frozen=True)
class Pose:
    """One person: box (4,) xyxy in image pixels with its score, keypoints (K, 3) x, y, score."""

    box_xyxy: npt.NDArray[np.float32]
    box_score: float
    keypoints: npt.NDArray[np.float32]

    @property
    def score(self) -> float:
        """Instance score: box score times the mean of the keypoint scores above 0.2.

        mmpose's ``bbox_keypoint`` mode of COCO evaluation; 0 when no keypoint scores that much.
        """
        scores = self.keypoints[:, 2]
        kept = scores[scores > 0.2]
        return self.box_score * float(kept.mean()) if len(kept) else 0.0


class Pipeline:
    """A pose estimator behind an optional detector; without one the image is one box."""

    def __init__(self, pose: PoseEstimator, detector: Detector | None = None) -> None:
        self.pose = pose
        self.detector = detector

    def __call__(self, image_bgr: npt.NDArray[np.uint8]) -> list[Pose]:
        """The people in an (H, W, 3) uint8 BGR image, best box first."""
        boxes = self.detector(image_bgr) if self.detector else _whole_image(image_bgr)
        keypoints = self.pose(image_bgr, boxes.boxes_xyxy)
        return [
            Pose(box, float(score), points)
            for box, score, points in zip(boxes.boxes_xyxy, boxes.scores, keypoints, strict=True)
        ]


def _whole_image(image_bgr: npt.NDArray[np.uint8]) -> Boxes:
    height, width = image_bgr.shape[:2]
    return Boxes(
        np.array([[0, 0, width, height]], np.float32),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
    )
