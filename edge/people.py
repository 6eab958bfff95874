"""The people of a picture: a pipeline put together from sessions, and its answers as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from edge.classes import find_labels
from edge.detector import Detector
from edge.errors import SpecError
from edge.onestage import OneStage
from edge.pipeline import Pipeline, Pose
from edge.pose import PoseEstimator
from edge.session import Session
from edge.tracking.tracker import PoseTracker

__all__ = ["build_pipeline", "people_json", "rounded", "seen_or_zero"]


def build_pipeline(
    session: Session,
    detector: Session | None = None,
    *,
    score_threshold: float,
    classes: str | None = None,
    tracker: PoseTracker | None = None,
    det_interval: int = 1,
) -> Pipeline | OneStage:
    """What finds people in images: a one-stage model, or a pose model with or without a detector.

    ``classes`` are those of the detector that count, by number or name; ``score_threshold`` is the
    least score of a box. Without a detector the whole image is one person's box, and nobody is
    followed. Raises SpecError for classes without a detector.
    """
    if session.spec.task == "one-stage":
        return OneStage(session, score_threshold=score_threshold, tracker=tracker)
    if detector is None:
        if classes is not None:
            raise SpecError("--classes are those of a --detector: add one, or leave --classes out")
        return Pipeline(PoseEstimator(session))
    labels = find_labels(classes, detector.spec)
    finder = Detector(detector, score_threshold=score_threshold, label=labels)
    return Pipeline(PoseEstimator(session), finder, det_interval=det_interval, tracker=tracker)


def people_json(poses: Sequence[Pose], names: Sequence[str]) -> list[dict[str, Any]]:
    """The people of one image, as `edge run` and the service on a board write them.

    ``box_xyxy`` and the keypoints by name (x, y, score) are in pixels of the image. ``track_id`` is
    None where nobody is followed. A keypoint that is not finite is one that was not seen: zeros.
    """
    return [
        {
            "track_id": pose.track_id,
            "box_xyxy": rounded(pose.box_xyxy, 2),
            "box_score": rounded([pose.box_score], 4)[0],
            "keypoints": {
                name: [*rounded(point[:2], 2), *rounded(point[2:], 4)]
                for name, point in zip(names, seen_or_zero(pose.keypoints), strict=True)
            },
        }
        for pose in poses
    ]


def seen_or_zero(keypoints: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Keypoints (K, 3) of which each that is not finite is not seen: all 0."""
    return np.where(np.isfinite(keypoints).all(axis=1, keepdims=True), keypoints, 0)


def rounded(values: Iterable[Any], digits: int) -> list[float]:
    """Values as JSON has them, which has no word for what is not finite: 0."""
    return [round(float(value), digits) if np.isfinite(value) else 0.0 for value in values]
