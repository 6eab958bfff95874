"""What can be set of the tracker; names and defaults are those of mmdeploy's SDK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge.errors import ArgumentError
from edge.records import Rule, check, list_of, number, share, whole

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
        for key, rule in PARAMETERS.items():
            check(rule, getattr(self, key), key, error=ArgumentError)


_SIGNED = number(-1, 10**6)
PARAMETERS: dict[str, Rule] = {
    "det_interval": whole(0),
    "det_label": whole(0),
    "det_thr": number(),
    "det_min_bbox_size": _SIGNED,
    "det_nms_thr": share(),
    "pose_max_num_bboxes": whole(-1),
    "pose_kpt_thr": number(),
    "pose_min_keypoints": whole(-1),
    "pose_bbox_scale": number(above=0),
    "pose_min_bbox_size": _SIGNED,
    "pose_nms_thr": share(),
    "keypoint_sigmas": list_of(number(above=0), "numbers above 0, one for each keypoint, or none"),
    "track_iou_thr": share(),
    "track_max_missing": whole(0),
    "track_history_size": whole(1),
    "std_weight_position": number(above=0),
    "std_weight_velocity": number(0),
    "smooth_params": list_of(number(0), "three numbers from 0", least=3, most=3),
}
"""What each parameter may be."""
