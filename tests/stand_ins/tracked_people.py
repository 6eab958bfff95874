"""People for trackers, and steps of a tracker."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge.detector import Boxes
from edge.tracking.tracker import PoseTracker, TrackedPose

__all__ = ["F32", "HW", "around", "detections", "ids", "person", "step"]

F32 = npt.NDArray[np.float32]
HW = (480, 640)


def detections(*boxes: tuple[float, float, float, float], **columns: list[float]) -> Boxes:
    return Boxes(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(columns.get("scores", [0.9] * len(boxes)), np.float32),
        np.array(columns.get("labels", [0] * len(boxes)), np.int64),
    )


def person(x: float, y: float = 100, size: float = 100, score: float = 0.9) -> F32:
    """Four corners of a square, (4, 3)."""
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]]) + np.array([x, y])
    return np.concatenate([corners, np.full((4, 1), score)], axis=1).astype(np.float32)


def step(tracker: PoseTracker, *poses: F32, found: Boxes | None = None) -> list[TrackedPose]:
    """A frame in which the pose model sees these people, each in the box nearest to them."""
    boxes = tracker.boxes(HW, found)
    answers = np.zeros((len(boxes), 4, 3), np.float32)
    for box, answer in zip(boxes, answers, strict=True):
        centre = (box[:2] + box[2:]) / 2
        away = [float(np.abs(pose[:, :2].mean(axis=0) - centre).max()) for pose in poses]
        if away and min(away) < 60:
            answer[...] = poses[int(np.argmin(away))]
    return tracker.update(answers)


def ids(people: list[TrackedPose]) -> list[int]:
    return [person.track_id for person in people]


def around(x: float, size: float = 100) -> Boxes:
    return detections((x, 100, x + size, 100 + size))
