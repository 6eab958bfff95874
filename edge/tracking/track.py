"""One tracked person: where they are expected, and what they do smoothly.

Formulas: mmdeploy SDK 1.3.1, ``tracking_filter.cpp``, ``smoothing_filter.cpp`` and ``track.cpp`` of
its pose tracker; ``sdk`` keeps their defects.

All that moves of a person is one array (K + 2, 2): the keypoints, the box's centre, and its width
and height. One filter does for all of it.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import numpy.typing as npt

from edge.tracking.motion import ConstantVelocity, OneEuro
from edge.tracking.params import Mode, TrackerParams

__all__ = ["Track"]

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_HALF = np.float32(0.5)


class Track:
    """One person with a number, from their first pose (K, 3) and its box (4,) xyxy on.

    ``predicted_box`` (4,) and ``expected_pose`` (K, 3), the latter with the last scores, are of the
    next frame; `predict` has to be called before they are looked at.
    """

    predicted_box: F32
    expected_pose: F32

    def __init__(
        self, track_id: int, box_xyxy: F32, pose: F32, params: TrackerParams, mode: Mode
    ) -> None:
        self.track_id = track_id
        self.params = params
        self.mode = mode
        self.missing = 0
        self.history: deque[F32] = deque(maxlen=params.track_history_size)
        state = _state(box_xyxy, pose)
        self._begin(state)
        self._smoothing = OneEuro(state, params.smooth_params, signed=mode == "sdk")
        self._add(state, pose[:, 2:])

    def follow(self, box_xyxy: F32, pose: F32, gate: Mask) -> None:
        """The pose of this person in this frame; ``gate`` (K,) has the points as expected."""
        again = np.zeros(len(pose), np.bool_)
        if self.mode == "corrected":
            pose, again = self._without_lost(pose)
        state, size = _state(box_xyxy, pose), self._size()
        corrected = np.ones(len(state), np.bool_)
        corrected[:-2] = gate & (self.mode == "corrected")
        self._motion.correct(corrected, state, size)
        if not corrected.all():
            self._motion.restart(~corrected, state, size, forget_velocity=self.mode == "corrected")
        self._smoothing.restart(np.append(again & ~gate, [False, False]), state)
        self._add(self._filtered(), pose[:, 2:])

    def _without_lost(self, pose: F32) -> tuple[F32, Mask]:
        """The pose with points that were not seen at all, of score 0, where they are expected.

        And which points (K,) are seen again: their last place is an old one or none at all.
        """
        lost = pose[:, 2] <= 0
        if lost.any():
            pose = pose.copy()
            pose[lost, :2] = self._motion.position[:-2][lost]
        return pose, np.asarray(~lost & (self.history[-1][:, 2] <= 0), np.bool_)

    def recover(self, box_xyxy: F32, pose: F32) -> None:
        """The pose of this person, found again where they were expected, or thereabouts."""
        state = _state(box_xyxy, pose)
        self._begin(state)
        old = self._smoothing.values
        self._smoothing.reset(state)
        if self.mode == "sdk":
            self._smoothing.values[-2:] = old[-2:]
            self._smoothing.velocity[-2:] = state[-2:]
        self._add(state, pose[:, 2:])
        self.missing = 0

    def miss(self) -> None:
        """No pose in this frame: the prediction has to do."""
        self.missing += 1
        if self.mode == "corrected":
            # Who goes out of sight bit by bit has seemed to shrink, and would go on to nothing.
            self._motion.velocity[-1] = 0
        if self.missing <= self.params.track_max_missing:
            self._add(self._filtered(), np.zeros_like(self.expected_pose[:, 2:]))

    def predict(self) -> None:
        """Move on to the next frame."""
        self._motion.predict(self._size())
        position = self._motion.position
        self.predicted_box = _box(position)
        self.expected_pose = np.concatenate([position[:-2], self.history[-1][:, 2:]], axis=1)

    def distance(self, poses_xy: F32) -> F32:
        """Squared Mahalanobis distances (N, K) of poses (N, K, 2) from the prediction."""
        return self._motion.distance(poses_xy, self._size())

    @property
    def smoothed(self) -> tuple[F32, F32]:
        """Box (4,) and pose (K, 3)."""
        state = self._smoothing.values
        return _box(state), np.concatenate([state[:-2], self.history[-1][:, 2:]], axis=1)

    def _begin(self, state: F32) -> None:
        self._motion = ConstantVelocity(
            state,
            _mean_size(state, self.mode),
            self.params.std_weight_position,
            self.params.std_weight_velocity,
        )

    def _size(self) -> float:
        return _mean_size(self._motion.position, self.mode)

    def _filtered(self) -> F32:
        """What the Kalman filter says now; the SDK carries the box on as corners, and rounds."""
        position = self._motion.position
        return _state(_box(position), position[:-2]) if self.mode == "sdk" else position

    def _add(self, state: F32, scores: F32) -> None:
        self.history.append(np.concatenate([state[:-2], scores], axis=1))
        self._smoothing.step(state)


def _mean_size(state: F32, mode: Mode) -> float:
    """sqrt(w * h)."""
    width, height = state[-1].tolist()
    if mode == "corrected":
        # A prediction may shrink a person to nothing.
        width, height = max(width, 1.0), max(height, 1.0)
    return math.sqrt(width * height) if width * height >= 0 else math.nan


def _state(box_xyxy: F32, pose: F32) -> F32:
    """Keypoints, centre and size of a pose (K, 2 or 3) and its box."""
    low, high = box_xyxy[:2], box_xyxy[2:]
    return np.concatenate([pose[:, :2], [_HALF * (low + high), high - low]])


def _box(state: F32) -> F32:
    centre, half = state[-2], _HALF * state[-1]
    return np.concatenate([centre - half, centre + half])
