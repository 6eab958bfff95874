"""People who move through a video: where they are, and what two models would say of them.

A scene is known exactly. It can be asked as a detector and a pose model would answer, with all
that goes wrong where people hide each other, or be rendered, with the detector's answers written
into its pixels for a network that reads them there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edge.detector import Boxes

__all__ = ["SCENES", "Scene", "grown", "keypoint_boxes"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# A standing figure of height 1 and its feet at the origin, in COCO's order.
_FIGURE = np.array(
    [
        *((0.00, -0.93), (0.02, -0.95), (-0.02, -0.95), (0.05, -0.94), (-0.05, -0.94)),
        *((0.12, -0.81), (-0.12, -0.81), (0.16, -0.64), (-0.16, -0.64), (0.17, -0.48)),
        *((-0.17, -0.48), (0.08, -0.50), (-0.08, -0.50), (0.09, -0.27), (-0.09, -0.27)),
        *((0.09, -0.03), (-0.09, -0.03)),
    ]
)
# How far a stride swings each of them to and fro.
_SWING = np.zeros(17)
_SWING[[7, 8, 9, 10, 13, 14, 15, 16]] = (0.05, -0.05, 0.11, -0.11, -0.06, 0.06, -0.13, 0.13)


@dataclass(frozen=True)
class Scene:
    """P people in T frames, and how well they are seen.

    ``feet_xy`` (T, P, 2) and ``height_px`` (P,) say where they are, ``present`` (T, P) when. Who
    has the larger ``nearness`` (P,) hides the other, as do ``walls``, spans (x1, x2) of the
    picture. A detection is missing as often as ``missed`` says, and a keypoint's error is
    ``noise`` times the person's height.
    """

    name: str
    seed: int
    feet_xy: F64
    height_px: F64
    present: npt.NDArray[np.bool_]
    nearness: F64
    walls: tuple[tuple[float, float], ...] = ()
    missed: float = 0.0
    noise: float = 0.008
    det_interval: int = 1
    image_hw: tuple[int, int] = (480, 640)

    def __len__(self) -> int:
        return len(self.feet_xy)

    @cached_property
    def keypoints_xy(self) -> F64:
        """Where all keypoints are, (T, P, 17, 2)."""
        frames, people = self.present.shape
        phase = np.arange(frames)[:, None] * 0.55 + np.arange(people) * 1.7
        figure = np.broadcast_to(_FIGURE, (frames, people, 17, 2)).copy()
        figure[..., 0] += np.sin(phase)[..., None] * _SWING
        return figure * self.height_px[:, None, None] + self.feet_xy[:, :, None]

    @cached_property
    def hidden(self) -> npt.NDArray[np.bool_]:
        """Which keypoints a nearer person, a wall or the picture's rim hides, (T, P, 17)."""
        points = self.keypoints_xy
        low, high = points.min(axis=2), points.max(axis=2)
        # A body fills about the middle two thirds of its box.
        middle, half = (low + high) / 2, (high - low) / 2 * np.array([0.7, 1.0])
        hidden = np.zeros(points.shape[:3], np.bool_)
        for other in range(points.shape[1]):
            within = (
                np.abs(points - middle[:, other, None, None]) <= half[:, other, None, None]
            ).all(-1)
            behind = self.nearness < self.nearness[other]
            hidden |= within & behind[:, None] & self.present[:, other, None, None]
        for left, right in self.walls:
            hidden |= (points[..., 0] > left) & (points[..., 0] < right)
        height, width = self.image_hw
        inside = (points >= 0).all(axis=-1) & (points < np.array([width, height])).all(axis=-1)
        return np.asarray(hidden | ~inside)

    @cached_property
    def seen(self) -> F64:
        """The share of each person that shows, (T, P); 0 of whoever is absent."""
        return np.where(self.present, 1 - self.hidden.mean(axis=2), 0.0)

    def truth(self, frame: int) -> tuple[list[int], F64]:
        """Numbers and boxes (N, 4) of the people of whom at least half shows."""
        people = np.flatnonzero(self.seen[frame] >= 0.5)
        return people.tolist(), keypoint_boxes(self.keypoints_xy[frame, people], self.image_hw)

    def detect(self, frame: int) -> Boxes:
        """As a detector: nobody of whom little shows, one of two in nearly the same place."""
        rng = np.random.default_rng([self.seed, frame])
        points = self.keypoints_xy[frame]
        boxes: list[F64] = []
        scores: list[float] = []
        for person in np.argsort(-self.nearness):
            drawn = rng.random(2), rng.normal(0, 0.02, 4)
            low, high = points[person].min(axis=0), points[person].max(axis=0)
            margin = 0.06 * (high - low)
            box = np.concatenate([low - margin, high + margin])
            box += drawn[1] * np.tile(high - low, 2)
            box = np.clip(box, 0, np.tile(self.image_hw[::-1], 2))
            if self.seen[frame, person] < 0.35 or drawn[0][0] < self.missed:
                continue
            if any(_overlap(box, other) > 0.65 for other in boxes):
                continue
            boxes.append(box)
            scores.append(0.5 + 0.5 * self.seen[frame, person] * (0.7 + 0.3 * drawn[0][1]))
        return Boxes(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(scores, np.float32),
            np.zeros(len(boxes), np.int64),
        )

    def estimate(self, frame: int, boxes_xyxy: F32) -> F32:
        """As a pose model: in each box (N, 4) whoever fits it best and shows most, (N, 17, 3)."""
        points = self.keypoints_xy[frame]
        low, high = points.min(axis=1), points.max(axis=1)
        bodies = np.concatenate([low - 0.1 * (high - low), high + 0.1 * (high - low)], axis=1)
        answers = np.zeros((len(boxes_xyxy), 17, 3), np.float32)
        for box, answer in zip(np.asarray(boxes_xyxy, np.float64), answers, strict=True):
            rng = np.random.default_rng([self.seed, frame, *np.rint(np.abs(box)).astype(int)])
            noise, drawn = rng.normal(0, 1, (17, 2)), rng.random(17)
            fits = np.array([_overlap(box, body) for body in bodies])
            fits *= np.where(self.seen[frame] > 0, 0.2 + 0.8 * self.seen[frame], 0)
            person = int(fits.argmax())
            if fits[person] < 0.05:
                # Nobody there: anything, and the model knows it.
                answer[:, :2] = box[:2] + rng.random((17, 2)) * (box[2:] - box[:2])
                answer[:, 2] = 0.25 * drawn
                continue
            hidden = self.hidden[frame, person]
            spread = np.where(hidden, 0.05, self.noise) * self.height_px[person]
            answer[:, :2] = points[person] + noise * spread[:, None]
            answer[:, 2] = np.where(hidden, 0.1 + 0.3 * drawn, 0.6 + 0.35 * drawn)
        return answers


def grown(boxes_xyxy: F64, scale: float, image_hw: tuple[int, int]) -> F64:
    """Boxes (N, 4) grown about their centres and clipped to the image."""
    centre = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    half = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) / 2 * scale
    corners = np.concatenate([centre - half, centre + half], axis=1)
    return np.asarray(np.clip(corners, 0, np.tile(image_hw[::-1], 2)))


def keypoint_boxes(keypoints_xy: F64, image_hw: tuple[int, int]) -> F64:
    """Boxes (N, 4) of all keypoints (N, K, 2), 1.25 times as large, clipped to the image."""
    tight = np.concatenate([keypoints_xy.min(axis=1), keypoints_xy.max(axis=1)], axis=1)
    return grown(tight, 1.25, image_hw)


def _overlap(one: F64, other: F64) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    both = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]))
    return shared / max(both - shared, 1e-9)


# --- the scenes -----------------------------------------------------------------------------------


def _scene(name: str, seed: int, feet_xy: F64, height_px: F64, nearness: F64) -> Scene:
    present = np.ones(feet_xy.shape[:2], np.bool_)
    return Scene(name, seed, feet_xy, height_px, present, nearness)


def _walks(
    start_xy: Sequence[tuple[float, float]], step_xy: Sequence[tuple[float, float]], frames: int
) -> F64:
    """Straight walks (T, P, 2)."""
    when = np.arange(frames)[:, None, None]
    return np.asarray(np.array(start_xy)[None] + when * np.array(step_xy)[None])


def crossing(seed: int) -> Scene:
    """Three pass each other at a walk, the near ones before the far ones."""
    rng = np.random.default_rng([seed, 1])
    start = [(60 + 30 * rng.random(), 430), (580 - 30 * rng.random(), 400), (320, 370)]
    pace = 7 + 4 * rng.random(3)
    steps = [(pace[0], 0), (-pace[1], 0), (pace[2] * rng.choice([-0.1, 0.1]), 0)]
    feet = _walks(start, steps, 75)
    return _scene("crossing", seed, feet, np.array([260.0, 230, 210]), np.array([3.0, 2, 1]))


def behind_a_wall(seed: int) -> Scene:
    """Two go behind a wall, one after the other, and come out on its other side."""
    rng = np.random.default_rng([seed, 2])
    pace = 9 + 4 * rng.random(3)
    start = [(40, 430), (-70 - 60 * rng.random(), 410), (600, 360)]
    feet = _walks(start, [(pace[0], 0), (pace[1], 0), (-0.7 * pace[2], 0)], 70)
    scene = _scene("behind a wall", seed, feet, np.array([240.0, 230, 200]), np.array([3.0, 2, 1]))
    left = 250 + 60 * rng.random()
    return replace(scene, walls=((left, left + 40),))


def running(seed: int) -> Scene:
    """Four run both ways; the camera is slow and detects in every fifth frame alone."""
    rng = np.random.default_rng([seed, 3])
    pace = 22 + 10 * rng.random(4)
    start = [(20, 450), (620, 430), (-120, 400), (760, 380)]
    steps = [(pace[0], 0), (-pace[1], 0), (pace[2], 0), (-pace[3], 0)]
    feet = _walks(start, steps, 40)
    heights = 150.0 + 60 * rng.random(4)
    scene = _scene("running", seed, feet, heights, np.array([4.0, 3, 2, 1]))
    return replace(scene, det_interval=5)


def missed_detections(seed: int) -> Scene:
    """Five stroll about; every tenth frame is one to detect in, and finds three of five."""
    rng = np.random.default_rng([seed, 4])
    frames, people = 100, 5
    turn = np.cumsum(rng.normal(0, 0.25, (frames, people)), axis=0) + rng.random(people) * 6.3
    steps = (
        np.stack([np.cos(turn), 0.25 * np.sin(turn)], axis=-1)
        * (3 + 5 * rng.random(people))[:, None]
    )
    feet = np.cumsum(steps, axis=0) + np.stack(
        [90 + 115 * np.arange(people), 330 + 120 * rng.random(people)], axis=-1
    )
    feet = np.clip(feet, (30, 250), (610, 470))
    order = feet[0, :, 1].argsort().argsort().astype(np.float64)
    scene = _scene("missed detections", seed, feet, 150.0 + 15 * order, order)
    return replace(scene, missed=0.4, det_interval=10)


def crowd(seed: int) -> Scene:
    """Nine walk both ways in three lanes."""
    rng = np.random.default_rng([seed, 5])
    lane = np.arange(9) % 3
    pace = (4 + 5 * rng.random(9)) * rng.choice([-1, 1], 9)
    x = np.where(pace > 0, -40 + 260 * rng.random(9), 680 - 260 * rng.random(9))
    start = [(float(x[i]), 300.0 + 70 * lane[i] + 10 * (i // 3)) for i in range(9)]
    feet = _walks(start, [(float(step), 0.0) for step in pace], 100)
    near = lane + np.arange(9) * 0.1
    heights = np.array([140.0, 180, 220])[lane]
    scene = _scene("crowd", seed, feet, heights, near)
    return replace(scene, missed=0.1, det_interval=3)


def turning(seed: int) -> Scene:
    """Two meet behind a third, and turn back."""
    rng = np.random.default_rng([seed, 6])
    frames = 90
    when = np.arange(frames)
    reach = 215 + 40 * rng.random(2)
    speed = 30 + 8 * rng.random(2)
    left = 70 + reach[0] * np.exp(-(((when - 45) / speed[0] * 2) ** 2))
    right = 570 - reach[1] * np.exp(-(((when - 45) / speed[1] * 2) ** 2))
    feet = np.stack(
        [
            np.stack([left, np.full(frames, 410.0)], axis=-1),
            np.stack([right, np.full(frames, 420.0)], axis=-1),
            np.stack([330 + 20 * np.sin(when / 9), np.full(frames, 450.0)], axis=-1),
        ],
        axis=1,
    )
    return _scene("turning", seed, feet, np.array([220.0, 225, 290]), np.array([1.0, 2, 3]))


SCENES: tuple[Callable[[int], Scene], ...] = (
    *(crossing, behind_a_wall, running, missed_detections, crowd, turning),
)
