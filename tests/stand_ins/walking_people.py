"""Rendered people who walk past each other.

``python -m tests.stand_ins.walking_people FILE.mp4`` writes them.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from calibration.people.backgrounds import background
from calibration.people.dice import Dice
from calibration.people.figures import Figure, render
from calibration.people.skeleton import (
    FOOT,
    FOREARM,
    SHIN,
    THIGH,
    UPPER_ARM,
    Body,
    bone_frames,
    coco_keypoints,
    joint_places,
    proportions,
    rotations,
)

__all__ = ["WALKERS", "Walker", "walk"]

Image = npt.NDArray[np.uint8]
_WALK_FAMILY = 1
# The share of two steps that a frame is.
_STRIDE = 0.045


@dataclass(frozen=True)
class Walker:
    """One person: ``seed`` of the looks, metres from the camera, px at the first frame and a frame.

    ``yaw_deg`` is how far the person turns from facing the camera to the picture's right.
    """

    seed: int
    distance_m: float
    start_x: float
    speed_px: float
    yaw_deg: float


# The nearest last: who is nearer hides the others.
WALKERS = (
    Walker(seed=12, distance_m=5.0, start_x=600, speed_px=-9.0, yaw_deg=-25),
    Walker(seed=5, distance_m=3.0, start_x=70, speed_px=11.0, yaw_deg=25),
)


def walk(count: int, *, image_hw: tuple[int, int] = (480, 640), seed: int = 21) -> list[Image]:
    """The frames of a video; the same arguments give the same ones."""
    place = background(np.random.Generator(np.random.PCG64([seed, 0, 9])), image_hw, 0.4)
    place = cv2.GaussianBlur(place, (0, 0), 1.5)
    return [_frame(place, frame) for frame in range(count)]


def _frame(place: Image, frame: int) -> Image:
    image = place.copy()
    for walker in WALKERS:
        figure = _figure(walker, frame, image.shape[:2])
        if figure is not None:
            x, y = figure.origin_xy
            height, width = figure.mask.shape
            window = image[y : y + height, x : x + width]
            cv2.copyTo(figure.colour_bgr, figure.mask.view(np.uint8), window)
    return image


def _figure(walker: Walker, frame: int, image_hw: tuple[int, int]) -> Figure | None:
    height, _ = image_hw
    body = _body(walker, frame * _STRIDE)
    # A camera at the height of the hips, at the middle of the picture.
    focal_px = 1.05 * height
    feet = float(body.joints[FOOT : FOOT + 2, 1].max()) / walker.distance_m
    floor_y = 0.5 * height + focal_px * 0.95 / walker.distance_m
    at = (walker.start_x + walker.speed_px * frame, floor_y - focal_px * feet)
    # The same dice in every frame: nobody changes clothes.
    rng = np.random.Generator(np.random.PCG64([walker.seed, 1]))
    light = (0.4, -0.8, -0.45)
    return render(rng, body, image_hw, focal_px, at, walker.distance_m, light)


def _body(walker: Walker, stride: float) -> Body:
    """A body in the middle of a step; ``stride`` counts whole ones, right foot to right foot."""
    size, traits = proportions(Dice(np.random.Generator(np.random.PCG64([walker.seed, 0]))))
    angles = np.zeros((17, 3), np.float32)
    for side in (0, 1):
        phase = 2 * math.pi * (stride + 0.5 * side) + 0.7
        ahead, lift = math.sin(phase), max(0.0, math.cos(phase))
        thigh, knee = 24 * ahead, (8 + 34 * lift)
        sign = 1 - 2 * side
        angles[THIGH + side] = (sign * 3, -thigh, sign * 5)
        angles[SHIN + side] = (0, knee, 0)
        angles[FOOT + side] = (0, thigh - knee + 4, 0)
        angles[UPPER_ARM + side] = (sign * 9, 26 * ahead, -sign * 20)
        angles[FOREARM + side] = (0, -18, 0)
    turns = rotations(np.concatenate([[(0, 0, walker.yaw_deg)], angles]).astype(np.float32))
    frames = bone_frames(np.diag((1.0, -1.0, -1.0)) @ turns[0], turns[1:])
    joints = joint_places(frames, size)
    return Body(frames, joints, size, traits, coco_keypoints(frames, joints, size), _WALK_FAMILY)


if __name__ == "__main__":
    from pathlib import Path

    from tests.stand_ins.moving_people import write_video

    print(write_video(Path(sys.argv[1]), walk(48), fps=12))
