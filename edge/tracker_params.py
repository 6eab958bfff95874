"""What can be set of the tracker; names and defaults are those of mmdeploy's SDK."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from edge.errors import SpecError

__all__ = ["Mode", "TrackerParams"]

Mode = Literal["corrected", "sdk"]


@dataclass(frozen=True)
class TrackerParams:
    """All that can be set, with the SDK's names and defaults; lengths in image pixels.

    Detections: ``det_interval`` frames from one to the next (0: never by itself), of class
    ``det_label``, scored above ``det_thr``, with an area of ``det_min_bbox_size`` squared or more;
    of boxes that overlap by ``det_nms_thr`` or more one stays, a tracked person's first.

    Poses: at most ``pose_max_num_bboxes`` people a frame (-1: all). A keypoint is seen that scores
    ``pose_kpt_thr`` or more, a pose counts with ``pose_min_keypoints`` seen ones (-1: half of
    them), its box is theirs times ``pose_bbox_scale``. Tracked boxes need more area than
    ``pose_min_bbox_size`` squared. Poses alike by ``pose_nms_thr`` or more are one, by OKS with
    ``keypoint_sigmas`` and by the boxes' overlap without.

    Tracks: found again where the predicted box overlaps by ``track_iou_thr``, given up after
    ``track_max_missing`` frames, with ``track_history_size`` poses remembered. Deviations of the
    Kalman filters in proportion to a person's size, and the one-euro filter's beta, least cutoff
    and cutoff of the velocity.

    Raises SpecError for a value that makes no sense.
    """

    det_interval: int = 1
    det_label: int = 0
    det_thr: float = 0.5
    det_min_bbox_size: float = -1
    det_nms_thr: float = 0.7
    pose_max_num_bboxes: int = -1
    pose_kpt_thr: float = 0.5
    pose_min_keypoints: int = -1
    pose_bbox_scale: float = 1.25
    pose_min_bbox_size: float = 0
    pose_nms_thr: float = 0.5
    keypoint_sigmas: tuple[float, ...] = ()
    track_iou_thr: float = 0.4
    track_max_missing: int = 10
    track_history_size: int = 1
    std_weight_position: float = 1 / 20
    std_weight_velocity: float = 1 / 160
    smooth_params: tuple[float, float, float] = (0.007, 1, 1)

    def __post_init__(self) -> None:
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            if not np.isfinite(value).all():
                raise SpecError(f"{parameter.name} is {value}: give a finite number")
        for name in ("det_interval", "track_max_missing", "std_weight_velocity"):
            _at_least(self, name, 0)
        for name in ("pose_max_num_bboxes", "pose_min_keypoints"):
            _at_least(self, name, -1)
        _at_least(self, "track_history_size", 1)
        for name in ("det_nms_thr", "pose_nms_thr", "track_iou_thr"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"{name} is {getattr(self, name)}: give a share from 0 to 1")
        for name in ("pose_bbox_scale", "std_weight_position"):
            if getattr(self, name) <= 0:
                raise SpecError(f"{name} is {getattr(self, name)}: give a number above 0")
        if min(self.keypoint_sigmas, default=1) <= 0:
            raise SpecError("keypoint_sigmas are numbers above 0, one for each keypoint, or none")
        if len(self.smooth_params) != 3 or min(self.smooth_params) < 0:
            raise SpecError(f"smooth_params is {self.smooth_params}: give three numbers from 0")


def _at_least(params: TrackerParams, name: str, least: int) -> None:
    if getattr(params, name) < least:
        raise SpecError(f"{name} is {getattr(params, name)}: give {least} or more")
