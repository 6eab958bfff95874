"""People keep their number from frame to frame, and their keypoints move smoothly.

The pose tracker of mmdeploy's SDK 1.3.1 (``csrc/mmdeploy/codebase/mmpose/pose_tracker``), with all
of its parameters. Two of its defects change what it does, and ``corrected`` has neither of them:

* Which keypoints agree with a track's prediction is worked out and then looked up in the wrong
  place: each keypoint's Kalman filter begins anew in every frame, and never learns a velocity.
* When a lost person is found again, the smoothing filter of the box takes the new place for a
  velocity, and the box jumps.

Beside these two, ``corrected`` keeps numbers apart where people meet: of two people who now have
one pose between them, the one who was expected there has it, not the one with the surer scores;
and somebody out of sight keeps their size, instead of shrinking on as they did when they went. It
clears a keypoint's filter wholly when it begins anew, smooths a box that shrinks like one that
grows, asks for boxes to the fraction of a pixel, takes a pose without width or height for nobody,
follows frames that change their size, and keeps a keypoint that was not seen at all, of score 0,
where it was expected. What is not finite counts as not seen. ``sdk`` answers as the SDK does,
number for number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from edge.arguments import check_whole, check_words
from edge.detector import Boxes
from edge.errors import ArgumentError, SpecError
from edge.records import shown
from edge.tracking.matching import areas, assign, boxes_of, iou, oks, suppress
from edge.tracking.params import Mode, TrackerParams
from edge.tracking.track import Track

__all__ = ["Mode", "PoseTracker", "TrackedPose", "TrackerParams"]

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# The value that a chi-squared variable of two degrees of freedom stays below 95 times in 100.
_GATE = np.float32(5.9915)
# What a pair scores that must not be, and the least that one may score by its keypoints.
_NEVER = np.float32(-1000)
_LEAST_AGREEMENT = -100.0


@dataclass(frozen=True)
class TrackedPose:
    """One person in one frame.

    ``track_id`` counts from 0 and is never used again; ``box_xyxy`` (4,) and the x and y of
    ``keypoints`` (K, 3) are smoothed, in image pixels, float32; their scores are the model's.
    """

    track_id: int
    box_xyxy: F32
    keypoints: F32


class PoseTracker:
    """The people of one video; a new video needs a new one.

    Either call it with a frame and the two models, or, where these run elsewhere, give it the
    frame's detections with `boxes` and then the keypoints in those boxes with `update`. A model
    that finds people and keypoints at once needs `update` alone, with ``image_hw``.
    """

    def __init__(self, params: TrackerParams | None = None, *, mode: Mode = "corrected") -> None:
        check_words("mode", mode, *get_args(Mode))
        if not isinstance(params, TrackerParams | None):
            raise ArgumentError(f"params must be TrackerParams(...), got {shown(params)}")
        self.params = params or TrackerParams()
        self.mode = mode
        self.frame_index = 0
        self._tracks: list[Track] = []
        self._next_id = 0
        self._image_hw = (0, 0)
        # For each box that was given out last: the track it comes from, None for a detection.
        self._origins: list[Track | None] = []

    def __call__(
        self,
        image_bgr: npt.NDArray[np.uint8],
        detect: Callable[[npt.NDArray[np.uint8]], Boxes],
        estimate: Callable[[npt.NDArray[np.uint8], F32], F32],
        *,
        detect_now: bool | None = None,
    ) -> list[TrackedPose]:
        """The tracked people in the next frame, an (H, W, 3) image.

        ``detect`` is asked every ``det_interval`` frames, or as ``detect_now`` says, and
        ``estimate`` once with all boxes (N, 4), or not at all; it gives keypoints (N, K, 3).
        """
        due = self.detection_due if detect_now is None else detect_now
        height, width = image_bgr.shape[:2]
        boxes_xyxy = self.boxes((height, width), detect(image_bgr) if due else None)
        if not len(boxes_xyxy):
            return self.update(np.empty((0, 1, 3), np.float32))
        return self.update(estimate(image_bgr, boxes_xyxy))

    @property
    def detection_due(self) -> bool:
        """Whether the next frame is one to detect in."""
        interval = self.params.det_interval
        return interval > 0 and self.frame_index % interval == 0

    def history(self, track_id: int) -> list[F32]:
        """A living track's last poses (K, 3), oldest first, not smoothed; none of any other.

        Where the person was missing these are predictions, with scores of 0.
        """
        found = [track for track in self._tracks if track.track_id == track_id]
        return list(found[0].history) if found else []

    def boxes(self, image_hw: tuple[int, int], detections: Boxes | None) -> F32:
        """Where to look for poses in the next frame: boxes (N, 4) xyxy, the likeliest first.

        From the detections, if there are any, and from where tracked people ought to be.
        """
        params = self.params
        self._see(_checked_hw(image_hw))
        found = np.empty((0, 4), np.float32)
        if detections is not None:
            if not isinstance(detections, Boxes):
                raise ArgumentError(f"detections must be Boxes or None, got {shown(detections)}")
            found = np.asarray(detections.boxes_xyxy, np.float32).reshape(-1, 4)
            kept = np.isfinite(found).all(axis=1)
            kept &= (detections.labels == params.det_label) & (detections.scores > params.det_thr)
            found = found[kept & (areas(found) >= params.det_min_bbox_size**2)]
        tracks, tracked = self._tracked_boxes()
        boxes_xyxy = np.concatenate([found, tracked])
        origins: list[Track | None] = [*([None] * len(found)), *tracks]
        # Whoever was seen in the last frame comes before detections, and these before the missing.
        rank = np.array([1 if track is None else 0 if track.missing else 2 for track in origins])
        order = np.lexsort((-areas(boxes_xyxy), -rank))
        if len(order) > 1:
            every = np.ones(len(order), np.bool_)
            stays = suppress(order, iou(boxes_xyxy, boxes_xyxy), every, params.det_nms_thr)
            order = order[stays[order]]
        if params.pose_max_num_bboxes >= 0:
            order = order[: params.pose_max_num_bboxes]
        self._origins = [origins[index] for index in order]
        boxes_xyxy = boxes_xyxy[order]
        return _to_whole_pixels(boxes_xyxy) if self.mode == "sdk" else boxes_xyxy

    def update(
        self, keypoints: npt.ArrayLike, *, image_hw: tuple[int, int] | None = None
    ) -> list[TrackedPose]:
        """End the frame with the keypoints (N, K, 3) of x, y, score in the boxes given out.

        With ``image_hw`` the poses are of a model that needs no boxes. Raises ArgumentError for
        another number of poses than of boxes, and SpecError for another number of keypoints than
        of ``keypoint_sigmas``.
        """
        poses = _finite_poses(keypoints)
        if image_hw is not None:
            self._see(_checked_hw(image_hw))
            self._origins = [None] * len(poses)
        if len(poses) != len(self._origins):
            raise ArgumentError(f"{len(poses)} poses for {len(self._origins)} boxes")
        if len(poses) and len(self.params.keypoint_sigmas) not in (0, poses.shape[1]):
            raise SpecError(
                f"keypoint_sigmas has {len(self.params.keypoint_sigmas)} numbers and a pose "
                f"{poses.shape[1]} keypoints: give as many"
            )
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            self._follow(poses)
        self._origins = []
        self.frame_index += 1
        return [
            TrackedPose(track.track_id, *track.smoothed)
            for track in self._tracks
            if not track.missing
        ]

    def _see(self, image_hw: tuple[int, int]) -> None:
        # The SDK keeps to the size of the first frame.
        if self.mode == "corrected" or self.frame_index == 0:
            self._image_hw = image_hw

    def _boxes_of(self, poses: F32) -> tuple[F32, Mask]:
        boxes_xyxy, enough = boxes_of(
            poses,
            self._image_hw,
            score_threshold=self.params.pose_kpt_thr,
            least_keypoints=self._least_keypoints(poses.shape[1]),
            scale=self.params.pose_bbox_scale,
        )
        if self.mode == "corrected":
            # A person without a size has no place in a filter whose noise is in proportion to it.
            enough &= _have_size(boxes_xyxy)
        return boxes_xyxy, enough

    def _least_keypoints(self, count: int) -> int:
        least = self.params.pose_min_keypoints
        return least if least >= 0 else (count + 1) // 2

    def _tracked_boxes(self) -> tuple[list[Track], F32]:
        """The tracks that may be in the picture, and boxes (N, 4) where they are expected."""
        if not self._tracks:
            return [], np.empty((0, 4), np.float32)
        expected, enough = self._boxes_of(np.array([track.expected_pose for track in self._tracks]))
        missing = np.array([track.missing > 0 for track in self._tracks])
        predicted = np.array([track.predicted_box for track in self._tracks])
        boxes_xyxy = np.where(missing[:, None], predicted, expected)
        height, width = self._image_hw
        limit = np.array([width, height, width, height], np.float32)
        inside = _have_size(np.minimum(np.maximum(boxes_xyxy, np.float32(0)), limit))
        kept = inside & (enough | missing) & (areas(boxes_xyxy) > self.params.pose_min_bbox_size**2)
        return [self._tracks[index] for index in np.flatnonzero(kept)], boxes_xyxy[kept]

    def _follow(self, poses: F32) -> None:
        """Give each pose to a track of its own, and move all tracks on."""
        boxes_xyxy, open_poses = self._boxes_of(poses)
        agreement, overlap, gates = self._similarity(poses, boxes_xyxy)
        open_poses = self._without_doubles(poses, boxes_xyxy, agreement, open_poses)
        missing = np.array([track.missing > 0 for track in self._tracks], np.bool_)
        # First the people of the last frame by their keypoints, then all others by their boxes.
        open_tracks = ~missing
        kept = assign(agreement, open_poses, open_tracks, _LEAST_AGREEMENT)
        open_tracks |= missing
        found = assign(overlap, open_poses, open_tracks, self.params.track_iou_thr)
        for row, column in kept:
            self._tracks[column].follow(boxes_xyxy[row], poses[row], gates[row, column])
        for row, column in found:
            self._tracks[column].recover(boxes_xyxy[row], poses[row])
        for column, unseen in enumerate(open_tracks):
            if unseen:
                self._tracks[column].miss()
        for row, unclaimed in enumerate(open_poses):
            if unclaimed and self._origins[row] is None:
                track = Track(self._next_id, boxes_xyxy[row], poses[row], self.params, self.mode)
                self._tracks.append(track)
                self._next_id += 1
        self._tracks = [
            track for track in self._tracks if track.missing <= self.params.track_max_missing
        ]
        for track in self._tracks:
            track.predict()

    def _without_doubles(self, poses: F32, boxes_xyxy: F32, agreement: F32, counts: Mask) -> Mask:
        """Which of the poses that count stay when of two alike one goes.

        Those of people seen in the last frame are the best, then those with the highest scores;
        but two people of the last frame who now have one pose between them have come to overlap,
        and the scores are no clue whose it is: ``corrected`` asks who was expected there.
        """
        if len(poses) < 2:
            return counts
        if self.params.keypoint_sigmas:
            similarity = oks(poses[..., :2], boxes_xyxy, self.params.keypoint_sigmas)
        else:
            similarity = iou(boxes_xyxy, boxes_xyxy)
        visible = np.array([bool(t and not t.missing) for t in self._origins], np.bool_)
        expected = np.zeros(len(poses), np.float32)
        if self.mode == "corrected" and self._tracks:
            # In the row of a tracked pose all others' entries are lower still.
            expected[visible] = agreement[visible].max(axis=1)
        order = np.lexsort((-poses[..., 2].sum(axis=1), -expected, ~visible))
        return suppress(order, similarity, counts, self.params.pose_nms_thr)

    def _similarity(self, poses: F32, boxes_xyxy: F32) -> tuple[F32, F32, Mask]:
        """For each pose and track: how keypoints agree, how boxes overlap, which points agree.

        (N, M), (N, M) and (N, M, K). A pose in a track's box is that track's or nobody's.
        """
        count = poses.shape[1]
        shape = (len(poses), len(self._tracks))
        if 0 in shape:
            none = np.empty(shape, np.float32)
            return none, none, np.empty((*shape, count), np.bool_)
        distance = np.stack([track.distance(poses[..., :2]) for track in self._tracks], axis=1)
        gates = distance < _GATE
        gated = gates.sum(axis=2).astype(np.float32)
        agreement = gated / count - np.where(gates, distance, 0).sum(axis=2) / gated
        agreement[gated < self._least_keypoints(count)] = _NEVER
        overlap = iou(boxes_xyxy, np.array([track.predicted_box for track in self._tracks]))
        for row, origin in enumerate(self._origins):
            if origin is not None:
                others = np.array([track is not origin for track in self._tracks])
                agreement[row, others] = overlap[row, others] = _NEVER
        return agreement.astype(np.float32), overlap, gates


def _checked_hw(image_hw: Any) -> tuple[int, int]:
    if not isinstance(image_hw, (tuple, list)) or len(image_hw) != 2:
        raise ArgumentError(f"image_hw must be (height, width), got {shown(image_hw)}")
    return check_whole("image_hw", image_hw[0], 1), check_whole("image_hw", image_hw[1], 1)


def _finite_poses(keypoints: Any) -> F32:
    """Poses (N, K, 3); a keypoint that is not finite has the score 0."""
    try:
        poses = np.asarray(keypoints, np.float32)
    except (TypeError, ValueError):
        raise ArgumentError(
            f"keypoints are (N, K, 3) of x, y and score, got {shown(keypoints)}"
        ) from None
    if poses.ndim != 3 or poses.shape[2] != 3:
        raise ArgumentError(f"keypoints are (N, K, 3) of x, y and score, got {poses.shape}")
    lost = ~np.isfinite(poses).all(axis=2)
    if lost.any():
        poses = poses.copy()
        poses[lost] = 0
    return poses


def _have_size(boxes_xyxy: F32) -> Mask:
    """Which of the boxes (N, 4) are neither empty nor inside out."""
    x1, y1, x2, y2 = boxes_xyxy.T
    return np.asarray((x2 > x1) & (y2 > y1), np.bool_)


def _to_whole_pixels(boxes_xyxy: F32) -> F32:
    """Corner and size rounded, halves to even, as OpenCV turns rectangles into whole ones.

    No side is less than 1 px: the SDK would crop about a line, which no crop here does.
    """
    corner = np.minimum(boxes_xyxy[:, :2], boxes_xyxy[:, 2:])
    size = np.maximum(boxes_xyxy[:, :2], boxes_xyxy[:, 2:]) - corner
    corner, size = np.rint(corner), np.maximum(np.rint(size), 1)
    return np.concatenate([corner, corner + size], axis=1)
