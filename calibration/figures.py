"""Articulated people: a skeleton with joint limits, dressed in shaded volumes on a depth buffer.

A person is a tree of 17 bones posed by Euler angles (poses are mixed from families such as
standing, sitting or running), seen through a perspective camera, and drawn as elliptic tubes and
ellipsoids. Each volume is cast analytically, one depth and one shade a pixel, into a depth buffer,
so that limbs hide each other as they should and a joint's visibility can be read back.

Frames: in a bone's own frame x points to the person's left, y up and z forward. In the camera's
frame x points right, y down and z away from the camera, in metres.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2  # noqa: TID253 - host only, drawing is what this module is for
import numpy as np
from numpy.typing import NDArray

__all__ = ["Body", "Figure", "noise_window", "posed_body", "render"]

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Vec = list[float]
Pattern = Callable[[Floats, Floats], Bools]  # metres along, -1..1 across -> second colour?
Painter = Callable[[Floats, Floats, Floats], U8]  # metres left, up, forward -> material

# Bones; each rotates about its upper end. L and R are the person's own sides.
PELVIS, LUMBAR, CHEST, NECK, HEAD = 0, 1, 2, 3, 4
UPPER_ARM, FOREARM, HAND, THIGH, SHIN, FOOT = 5, 7, 9, 11, 13, 15  # +0 left, +1 right
_PARENTS = (-1, 0, 1, 2, 3, 2, 2, 5, 6, 7, 8, 0, 0, 11, 12, 13, 14)

# Palette rows: what a pixel of the figure is made of.
(SKIN, LIPS, HAIR, BROW, EYE_WHITE, IRIS, TOP, TOP2, BOTTOM, BOTTOM2, SHOES, SOLES, SOCKS, HAT,
 HAT2, BAG, GLASSES, MASK, INNER) = range(1, 20)  # fmt: skip

_FAR = np.float32(1e6)


@functools.lru_cache(maxsize=4)
def noise_tile(kind: str) -> U8:
    """A fixed (640, 896, 3) uint8 tile about 128: `white`, `cloth` (soft folds) or `hair`.

    Drawing fresh normal numbers for each picture would cost more than drawing the person; a
    window at a random place in a constant tile does as well.
    """
    rng = np.random.Generator(np.random.PCG64([0, 0xED6E, len(kind)]))
    shape = (640, 896, 3)
    if kind == "white":
        return np.clip(rng.normal(128.0, 32.0, shape), 0, 255).astype(np.uint8)
    total = np.zeros(shape, np.float32)
    for cells, weight in ((24, 1.0), (64, 0.8), (160, 0.5)):
        # Folds are longer down than across; hair is nearly all lines.
        size = (cells * 3 // 2, max(4, cells // (2 if kind == "cloth" else 6)))
        small = rng.normal(0.0, 1.0, (size[1], size[0], 3)).astype(np.float32)
        total += weight * cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    tile: U8 = np.clip(128.0 + 32.0 * total / total.std(), 0, 255).astype(np.uint8)
    return tile


def noise_window(rng: np.random.Generator, kind: str, hw: tuple[int, int]) -> U8:
    """A (h, w, 3) uint8 window at a random place of `noise_tile(kind)`, repeated if too small."""
    tile = noise_tile(kind)
    height, width = tile.shape[:2]
    if hw[0] > height or hw[1] > width:
        tile = np.tile(tile, (-(-hw[0] // height), -(-hw[1] // width), 1))
        height, width = tile.shape[:2]
    y, x = int(rng.random() * (height - hw[0] + 1)), int(rng.random() * (width - hw[1] + 1))
    return tile[y : y + hw[0], x : x + hw[1]]


# ------------------------------------------------------------------------------------- poses


class _Dice:
    """Scalar draws from a generator, in Python floats."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def u(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def n(self, mean: float, deviation: float, limit: float = 2.5) -> float:
        draw = float(self.rng.standard_normal())
        return mean + deviation * min(max(draw, -limit), limit)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, weights: tuple[float, ...]) -> int:
        draw = self.rng.random() * sum(weights)
        for place, weight in enumerate(weights):
            draw -= weight
            if draw < 0:
                return place
        return len(weights) - 1


# Arm families: ranges of shoulder flexion, abduction, inward rotation and elbow bend in degrees,
# then how often. Hanging straight down is all zeros.
_ARMS: tuple[tuple[tuple[float, float], ...], ...] = (
    ((-20, 25), (3, 20), (0, 50), (3, 45)),  # relaxed
    ((-35, -5), (30, 55), (40, 80), (80, 115)),  # hand on hip
    ((25, 50), (0, 20), (55, 85), (95, 125)),  # crossed
    ((-20, 40), (110, 175), (-60, 30), (0, 90)),  # raised sideways
    ((95, 175), (0, 30), (-20, 20), (0, 100)),  # raised forwards
    ((-20, 50), (55, 110), (-90, 60), (0, 70)),  # spread
    ((10, 60), (0, 25), (10, 50), (50, 115)),  # holding in front
    ((50, 110), (-5, 40), (-30, 40), (0, 50)),  # reaching
    ((20, 75), (10, 50), (20, 60), (110, 145)),  # hand to the face
    ((-50, -15), (5, 25), (30, 80), (10, 70)),  # behind the back
    ((-10, 30), (70, 110), (-100, -70), (60, 120)),  # waving, forearm up
    ((0, 40), (100, 140), (-95, -60), (110, 140)),  # hands behind the head
    ((-50, 150), (0, 130), (-70, 70), (0, 140)),  # anything a shoulder can do
)
_ARM_WEIGHTS = (3.2, 0.8, 0.5, 1.0, 0.8, 1.0, 1.6, 1.0, 0.8, 0.4, 0.6, 0.3, 1.6)
_LEG_WEIGHTS = (3.0, 1.6, 1.3, 1.6, 0.8, 0.6, 0.8, 0.7, 1.2, 0.4, 0.9)
(_STAND, _WALK, _RUN, _SIT, _SQUAT, _KNEEL, _WIDE, _LIE, _SPORT, _CROSSED, _BEND) = range(11)


def _arm(dice: _Dice, angles: F32, side: int, family: int) -> None:
    flexion, abduction, inward, elbow = (dice.u(*limits) for limits in _ARMS[family])
    sign = 1.0 - 2.0 * side
    angles[UPPER_ARM + side] = (sign * abduction, -flexion, -sign * inward)
    angles[FOREARM + side] = (0.0, -elbow, sign * dice.u(-60, 30))
    angles[HAND + side] = (dice.n(0, 12), dice.n(-5, 20), 0.0)


def _leg(
    angles: F32, side: int, flexion: float, abduction: float, outward: float, knee: float
) -> None:
    sign = 1.0 - 2.0 * side
    angles[THIGH + side] = (sign * abduction, -flexion, sign * outward)
    angles[SHIN + side] = (0.0, knee, 0.0)


def _pose(dice: _Dice) -> tuple[F32, int]:
    """Euler angles in degrees, (17, 3) as z, x, y of Rz Rx Ry, and the leg family."""
    u, n = dice.u, dice.n
    angles = np.zeros((17, 3), np.float32)
    family = dice.pick(_LEG_WEIGHTS)
    front = int(dice.chance(0.5))  # which leg leads, where that matters
    back = 1 - front
    pitch = n(3, 5)
    swing: float | None = None
    if family == _STAND:
        for side in (0, 1):
            _leg(angles, side, u(-8, 10), u(0, 11), u(0, 25), u(0, 9))
        if dice.chance(0.5):
            bend = u(5, 45)
            _leg(angles, front, bend * u(0.4, 0.9), u(2, 16), u(0, 35), bend)
    elif family == _WALK:
        _leg(angles, front, u(10, 38), u(-2, 8), u(-5, 15), u(0, 30))
        _leg(angles, back, u(-28, -4), u(-2, 8), u(-5, 15), u(5, 55))
        swing = u(5, 45)
    elif family == _RUN:
        pitch = u(0, 25)
        _leg(angles, front, u(35, 100), u(-4, 12), u(-5, 15), u(30, 115))
        _leg(angles, back, u(-35, 5), u(-4, 12), u(-5, 15), u(8, 115))
        swing = u(20, 70)
    elif family == _SIT:
        pitch = u(-18, 22)
        spread, knee = u(-3, 22), u(60, 115)
        for side in (0, 1):
            _leg(angles, side, u(72, 102) + pitch, spread + u(-4, 8), u(-12, 12), knee + u(-15, 15))
    elif family == _SQUAT:
        pitch = u(8, 45)
        spread, depth = u(3, 32), u(50, 125)
        for side in (0, 1):
            _leg(angles, side, depth + pitch * 0.6, spread, spread * 0.6, depth + u(-5, 18))
    elif family == _KNEEL:
        _leg(angles, back, u(-8, 25), u(0, 15), u(-5, 10), u(80, 130))
        if dice.chance(0.5):
            _leg(angles, front, u(70, 105), u(0, 20), u(-5, 20), u(70, 105))
        else:
            _leg(angles, front, u(-8, 35), u(0, 15), u(-5, 10), u(80, 130))
    elif family == _WIDE:
        for side in (0, 1):
            _leg(angles, side, u(-5, 35), u(12, 38), u(0, 30), u(0, 45))
    elif family == _LIE:
        for side in (0, 1):
            _leg(angles, side, u(-8, 60), u(-2, 25), u(-10, 30), u(0, 90))
    elif family == _SPORT:
        pitch = u(-15, 45)
        for side in (0, 1):
            _leg(angles, side, u(-30, 105), u(-5, 45), u(-15, 35), u(0, 125))
    elif family == _CROSSED:
        for side in (0, 1):
            _leg(angles, side, u(80, 105), u(25, 50), u(30, 60), u(95, 130))
    else:
        pitch = u(20, 85)
        for side in (0, 1):
            _leg(angles, side, pitch + u(-5, 15), u(0, 15), u(0, 20), u(0, 25))
    angles[PELVIS] = (n(0, 4), pitch, 0.0)
    bend = u(0, 30) if family == _BEND else n(4, 7)
    angles[LUMBAR] = (n(0, 5), bend, n(0, 8))
    angles[CHEST] = (n(0, 5), bend * 0.6, n(0, 8))
    # A head mostly stays upright whatever the trunk does, and looks about.
    upright = -0.5 * (pitch + 1.6 * bend)
    angles[NECK] = (n(0, 5), upright * u(0.2, 0.8) + n(4, 7), n(0, 12))
    angles[HEAD] = (n(0, 6), upright * u(0.0, 0.4) + n(2, 9), n(0, 18))

    if swing is not None and dice.chance(0.8):
        elbow = u(60, 115) if family == _RUN else u(5, 55)
        for side, sign in ((back, 1.0), (front, -0.8)):
            _arm(dice, angles, side, 0)
            angles[UPPER_ARM + side, 1] = -sign * swing
            angles[FOREARM + side, 1] = -(elbow + u(-15, 15))
    else:
        shared = dice.pick(_ARM_WEIGHTS)
        alike = dice.chance(0.45)
        for side in (0, 1):
            _arm(dice, angles, side, shared if alike else dice.pick(_ARM_WEIGHTS))

    for side in (0, 1):
        # Feet stay flat on the floor where the ankle allows it.
        lean = float(angles[THIGH + side, 1] + angles[SHIN + side, 1]) + pitch
        loose = family in (_LIE, _RUN, _SPORT, _KNEEL)
        flat = u(0, 45) if loose else min(max(-lean, -30.0), 45.0)
        angles[FOOT + side] = (0.0, flat + n(0, 5), 0.0)
    return angles, family


def _rotations(degrees: F32) -> NDArray[np.float64]:
    """Rz Rx Ry for each row of (N, 3) angles z, x, y in degrees -> (N, 3, 3)."""
    radians = np.deg2rad(degrees.astype(np.float64))
    (cz, cx, cy), (sz, sx, sy) = np.cos(radians).T, np.sin(radians).T
    out = np.empty((len(degrees), 3, 3))
    out[:, 0, 0] = cz * cy - sz * sx * sy
    out[:, 0, 1] = -sz * cx
    out[:, 0, 2] = cz * sy + sz * sx * cy
    out[:, 1, 0] = sz * cy + cz * sx * sy
    out[:, 1, 1] = cz * cx
    out[:, 1, 2] = sz * sy - cz * sx * cy
    out[:, 2, 0] = -cx * sy
    out[:, 2, 1] = sx
    out[:, 2, 2] = cx * cy
    return out


@dataclass(frozen=True)
class Body:
    """A posed body in the camera's axes, its pelvis at the origin.

    `frames` (17, 3, 3) float64: columns are each bone's left, up and forward axes; `joints`
    (17, 3) float64: where each bone begins, metres; `size`: named lengths in metres; `traits`:
    unitless shape; `coco_xyz` (17, 3) float64 the COCO keypoints; `family` the leg family.
    """

    frames: NDArray[np.float64]
    joints: NDArray[np.float64]
    size: dict[str, float]
    traits: dict[str, float]
    coco_xyz: NDArray[np.float64]
    family: int


def _proportions(dice: _Dice) -> tuple[dict[str, float], dict[str, float]]:
    u, n = dice.u, dice.n
    child = u(0.15, 1.0) if dice.chance(0.16) else 0.0
    feminine = dice.u(0.6, 1.0) if dice.chance(0.5) else u(0.0, 0.3)
    feminine *= 1.0 - child
    height = (1.78 - 0.13 * feminine + n(0, 0.07)) * (1.0 - 0.42 * child)
    build = min(max(math.exp(n(0.02, 0.17)), 0.76), 1.55)
    size = {
        "height": height,
        "head": height * (0.0665 + 0.026 * child) * (1 + n(0, 0.04)),  # half of chin to crown
        "shoulder": height * (0.107 - 0.012 * feminine) * (1 + n(0, 0.05)) * build**0.15,
        "hip": height * (0.056 + 0.004 * feminine) * (1 + n(0, 0.06)) * build**0.1,
        "torso": height * 0.285 * (1 + n(0, 0.04)),
        "neck": height * (0.050 - 0.012 * child) * (1 + n(0, 0.1)),
        "upper_arm": height * (0.170 - 0.012 * child) * (1 + n(0, 0.04)),
        "forearm": height * (0.147 - 0.010 * child) * (1 + n(0, 0.04)),
        "hand": height * 0.100 * (1 + n(0, 0.06)),
        "thigh": height * (0.243 - 0.020 * child) * (1 + n(0, 0.04)),
        "shin": height * (0.240 - 0.020 * child) * (1 + n(0, 0.04)),
        "foot": height * 0.125 * (1 + n(0, 0.06)),
    }
    return size, {"child": child, "feminine": feminine, "build": build}


# Head landmarks in units of half the head's height, from its centre: COCO's first five.
_FACE = np.array(
    [
        (0.0, -0.22, 0.93),
        (0.29, 0.03, 0.68),
        (-0.29, 0.03, 0.68),
        (0.70, -0.06, -0.08),
        (-0.70, -0.06, -0.08),
    ]
)


def posed_body(rng: np.random.Generator, *, camera_deg: tuple[float, float] | None = None) -> Body:
    """A random person in a random pose under a random view.

    `camera_deg` fixes how far the camera looks down on the person and its roll, for scenes whose
    people share one floor; otherwise both are random. The person's yaw always is.
    """
    dice = _Dice(rng)
    size, traits = _proportions(dice)
    for _ in range(4):
        angles, family = _pose(dice)
        yaw = (dice.n(0, 32), dice.n(180, 35), dice.u(-180, 180))[dice.pick((0.42, 0.18, 0.40))]
        if camera_deg is None:
            tilt = min(max(dice.n(7, 11), -25.0), 45.0)
            if dice.chance(0.06):
                tilt = dice.u(-30, 60)
            roll = dice.n(0, 6)
        else:
            tilt, roll = camera_deg
        view = np.array([(roll, tilt, 0.0), (0.0, 0.0, yaw)], np.float32)
        if family == _LIE:
            # On the back, the front or a side; often seen from above.
            down = ((0.0, -90.0, 0.0), (0.0, 90.0, 0.0), (90.0, 0.0, 0.0), (-90.0, 0.0, 0.0))
            if camera_deg is None:
                view[0, 1] += dice.u(0, 45)
            lay = np.array([down[dice.pick((0.4, 0.25, 0.2, 0.2))]], np.float32)
            view = np.concatenate([view, lay + dice.n(0, 8)])
        turns = _rotations(np.concatenate([view, angles]))
        root = np.diag((1.0, -1.0, -1.0)) @ turns[0] @ turns[1]
        if family == _LIE:
            root = root @ turns[2]
        local = turns[len(view) :]
        frames = np.empty((17, 3, 3))
        for bone, parent in enumerate(_PARENTS):
            frames[bone] = (root if parent < 0 else frames[parent]) @ local[bone]
        joints = _joints(frames, size)
        if not _inside_trunk(frames, joints, size):
            break
    head = joints[HEAD] + frames[HEAD] @ (0.0, 0.92 * size["head"], 0.16 * size["head"])
    coco = np.empty((17, 3))
    coco[:5] = head + (_FACE * size["head"]) @ frames[HEAD].T
    coco[5:] = joints[[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]]
    return Body(frames, joints, size, traits, coco, family)


def _joints(frames: NDArray[np.float64], size: dict[str, float]) -> NDArray[np.float64]:
    torso = size["torso"]
    joints = np.zeros((17, 3))
    joints[LUMBAR] = frames[PELVIS] @ (0.0, 0.36 * torso, 0.0)
    joints[CHEST] = joints[LUMBAR] + frames[LUMBAR] @ (0.0, 0.26 * torso, 0.0)
    joints[NECK] = joints[CHEST] + frames[CHEST] @ (0.0, 0.40 * torso, 0.0)
    joints[HEAD] = joints[NECK] + frames[NECK] @ (0.0, size["neck"], 0.0)
    for side, sign in ((0, 1.0), (1, -1.0)):
        # The shoulder blade carries the joint up and in as the arm rises.
        rise = max(0.0, 0.5 - 0.5 * float(frames[CHEST][:, 1] @ frames[UPPER_ARM + side][:, 1]))
        rise *= rise * size["height"]
        place = (sign * (size["shoulder"] - 0.022 * rise), -0.01 * size["height"] + 0.05 * rise, 0)
        joints[UPPER_ARM + side] = joints[NECK] + frames[CHEST] @ place
        joints[THIGH + side] = frames[PELVIS] @ (sign * size["hip"], 0.0, 0.0)
        for bone, length in (
            (UPPER_ARM, "upper_arm"),
            (FOREARM, "forearm"),
            (THIGH, "thigh"),
            (SHIN, "shin"),
        ):
            down = frames[bone + side][:, 1] * -size[length]
            joints[bone + side + 2] = joints[bone + side] + down
    return joints


def _inside_trunk(
    frames: NDArray[np.float64], joints: NDArray[np.float64], size: dict[str, float]
) -> bool:
    """Whether an elbow, a wrist or a hand sinks into the chest or the belly."""
    hands = joints[9:11] - frames[9:11, :, 1] * (0.7 * size["hand"])
    points = np.concatenate([joints[7:11], hands]) - joints[CHEST]
    x, y, z = (points @ frames[CHEST]).T / size["height"]
    return bool(np.any((x / 0.085) ** 2 + (y / 0.16) ** 2 + (z / 0.055) ** 2 < 1.0))


# ----------------------------------------------------------------------------------- drawing


@dataclass
class _Canvas:
    """Depth, shade and material of the nearest surface at each pixel."""

    image_hw: tuple[int, int]
    focal_px: float
    centre_xy: tuple[float, float]
    distance: float
    light: Vec  # camera axes; its length is the strength
    depth: F32 = field(init=False)
    shade: F32 = field(init=False)
    part: U8 = field(init=False)

    def __post_init__(self) -> None:
        self.depth = np.full(self.image_hw, _FAR, np.float32)
        self.shade = np.zeros(self.image_hw, np.float32)
        self.part = np.zeros(self.image_hw, np.uint8)
        self._xs = np.arange(self.image_hw[1], dtype=np.float32)[None, :]
        self._ys = np.arange(self.image_hw[0], dtype=np.float32)[:, None]

    def project(self, point: Vec) -> tuple[float, float, float]:
        """Picture x, y and pixels a metre at a camera-frame point."""
        scale = self.focal_px / max(point[2] + self.distance, 0.25)
        return (
            self.centre_xy[0] + point[0] * scale,
            self.centre_xy[1] + point[1] * scale,
            scale,
        )

    def _window(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[slice, slice] | None:
        x0, x1 = max(int(left), 0), min(int(right) + 2, self.image_hw[1])
        y0, y1 = max(int(top), 0), min(int(bottom) + 2, self.image_hw[0])
        return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None

    def _put(
        self, window: tuple[slice, slice], inside: Bools, z: Floats, shade: Floats,
        part: int | U8,
    ) -> None:  # fmt: skip
        depth = self.depth[window]
        inside &= z < depth
        np.copyto(depth, z, where=inside)
        np.copyto(self.shade[window], shade, where=inside)
        np.copyto(self.part[window], part, where=inside)

    def tube(
        self, a: Vec, b: Vec, ra: float, rb: float, part: int, *, belly: float = 0.0,
        flat: tuple[Vec, Vec, float, float] | None = None, cap: float = 1.0,
        pattern: Pattern | None = None, other: int = 0,
    ) -> None:  # fmt: skip
        """A tube from `a` to `b`, its radius going from `ra` to `rb` metres.

        `belly` adds to the radius half way; `flat` = (left axis, forward axis, depth radius at a,
        at b) makes the section an ellipse with `ra`, `rb` along the left axis; `cap` rounds the
        ends (1 a half sphere, 0 cut). `pattern(along metres, across -1..1)` chooses `other`.
        """
        xa, ya, sa = self.project(a)
        xb, yb, sb = self.project(b)
        ux, uy = xb - xa, yb - ya
        length = math.hypot(ux, uy)
        if length < 0.5:
            ux, uy, length = 0.0, 1.0, 0.5
        else:
            ux, uy = ux / length, uy / length
        if flat is None:
            wide_a, wide_b, bulge_a, bulge_b = ra * sa, rb * sb, ra, rb
            end_a, end_b = wide_a * cap, wide_b * cap
        else:
            (lx, ly, lz), (fx, fy, fz), da, db = flat
            left, forward = (ly * ux - lx * uy) ** 2, (fy * ux - fx * uy) ** 2
            wide_a = sa * math.sqrt(left * ra * ra + forward * da * da)
            wide_b = sb * math.sqrt(left * rb * rb + forward * db * db)
            left, forward = lz * lz, fz * fz
            bulge_a = math.sqrt(left * ra * ra + forward * da * da)
            bulge_b = math.sqrt(left * rb * rb + forward * db * db)
            # Seen end on, the cut end itself shows.
            left, forward = (lx * ux + ly * uy) ** 2, (fx * ux + fy * uy) ** 2
            end_a = sa * math.sqrt(left * ra * ra + forward * da * da)
            end_b = sb * math.sqrt(left * rb * rb + forward * db * db)
            end_a, end_b = max(end_a, cap * wide_a), max(end_b, cap * wide_b)
        end_a, end_b = max(end_a, 0.6), max(end_b, 0.6)
        wide_a, wide_b = max(wide_a, 0.7), max(wide_b, 0.7)
        extra = belly * 0.5 * (sa + sb)
        reach_a = max(wide_a + max(extra, 0.0), end_a)
        reach_b = max(wide_b + max(extra, 0.0), end_b)
        window = self._window(
            min(xa - reach_a, xb - reach_b), min(ya - reach_a, yb - reach_b),
            max(xa + reach_a, xb + reach_b), max(ya + reach_a, yb + reach_b),
        )  # fmt: skip
        if window is None:
            return
        xs, ys = self._xs[:, window[1]] - xa, self._ys[window[0]] - ya
        along = xs * (ux / length) + ys * (uy / length)
        beyond = along.copy()
        np.maximum(along, 0.0, out=along)
        np.minimum(along, 1.0, out=along)
        beyond -= along
        beyond *= 2.0 * length / (end_a + end_b)
        width = along * (wide_b - wide_a)
        width += wide_a
        if extra:
            width += along * ((4.0 * extra) * (1.0 - along))
        across = xs * (-uy) + ys * ux
        across /= width
        front = across * across
        front += beyond * beyond
        np.subtract(1.0, front, out=front)
        inside = front > 0.0
        np.maximum(front, 0.0, out=front)
        np.sqrt(front, out=front)
        z = along * (b[2] - a[2])
        z += a[2]
        z -= front * (0.5 * (bulge_a + bulge_b))
        # The surface normal spans the picture's across direction and the one facing the camera
        # square to the axis.
        dz = b[2] - a[2]
        run = max(length / (0.5 * (sa + sb)), 1e-4)
        norm = math.hypot(dz, run)
        mx, my, mz = ux * dz / norm, uy * dz / norm, -run / norm
        lx, ly, lz = self.light
        shade = across * (ux * ly - uy * lx)
        beyond *= ux * lx + uy * ly
        shade += beyond
        shade += front * (mx * lx + my * ly + mz * lz)
        material: int | U8 = part
        if pattern is not None:
            metres = along * (math.dist(a, b))
            material = np.where(pattern(metres, across), np.uint8(other), np.uint8(part))
        self._put(window, inside, z, shade, material)

    def ellipsoid(
        self, centre: Vec, frame: NDArray[np.float64], axes: tuple[float, float, float], part: int,
        *, paint: Painter | None = None,
    ) -> None:  # fmt: skip
        """An ellipsoid; `axes` are half lengths along the frame's columns, in metres.

        `paint(left, up, forward)` maps metres from the centre to materials; 0 is a hole.
        """
        x, y, scale = self.project(centre)
        square = np.array(axes) ** 2
        spread = (frame * square) @ frame.T
        half_x, half_y = scale * math.sqrt(spread[0, 0]), scale * math.sqrt(spread[1, 1])
        window = self._window(x - half_x, y - half_y, x + half_x, y + half_y)
        if window is None:
            return
        (a, d, e), (_, b, f), (_, _, c) = ((frame / square) @ frame.T).tolist()
        xs = (self._xs[:, window[1]] - x) / scale
        ys = (self._ys[window[0]] - y) / scale
        linear = xs * e + ys * f
        root = linear * linear
        root -= (xs * xs * a - 1.0) * c
        root -= ys * ys * (b * c)
        root -= xs * (ys * (2.0 * d * c))
        inside = root > 0.0
        np.maximum(root, 0.0, out=root)
        np.sqrt(root, out=root)
        z = linear
        z += root
        z /= -c
        gx = xs * a + ys * d + z * e
        gy = xs * d + ys * b + z * f
        size = gx * gx + gy * gy
        size += root * root
        np.sqrt(size, out=size)
        lx, ly, lz = self.light
        gx *= lx
        gx += gy * ly
        gx -= root * lz
        gx /= np.maximum(size, 1e-6)
        material: int | U8 = part
        if paint is not None:
            m = frame.astype(np.float32)
            local = [xs * m[0, k] + ys * m[1, k] + z * m[2, k] for k in range(3)]
            material = paint(local[0], local[1], local[2])
            inside &= material > 0
        z += centre[2]
        self._put(window, inside, z, gx, material)


@dataclass(frozen=True)
class Figure:
    """A rendered person.

    `colour_bgr` (h, w, 3) uint8 and `mask` (h, w) bool cover the window `origin_xy`.. of the
    picture; `keypoints_xy` (17, 2) float32 pixels; `hidden` (17,) bool: clearly covered by the
    person's own body; `foot_y` the lowest drawn point, pixels, unclipped.
    """

    colour_bgr: U8
    mask: Bools
    origin_xy: tuple[int, int]
    keypoints_xy: F32
    hidden: Bools
    foot_y: float


# ---------------------------------------------------------------------------------- clothing

# Skin from light to dark, and hair and usual cloth colours, as red, green, blue.
_SKINS = np.array(
    [(250, 218, 196), (238, 196, 164), (222, 170, 132), (196, 138, 98), (150, 98, 66),
     (104, 66, 46), (66, 42, 32)], np.float32,
)  # fmt: skip
_HAIRS = np.array(
    [(24, 20, 18), (40, 28, 22), (66, 44, 30), (100, 68, 42), (150, 110, 66), (206, 172, 112),
     (128, 58, 30), (150, 148, 146), (222, 220, 216), (150, 60, 130)], np.float32,
)  # fmt: skip
_CLOTHS = np.array(
    [(22, 22, 24), (238, 238, 236), (120, 122, 126), (30, 38, 70), (62, 84, 124), (110, 134, 170),
     (190, 172, 138), (222, 210, 186), (70, 74, 50), (92, 62, 44), (150, 30, 34), (60, 62, 66)],
    np.float32,
)  # fmt: skip


def _cloth(dice: _Dice) -> F32:
    """A garment's colour, red green blue in 0..255."""
    if dice.chance(0.55):
        base = _CLOTHS[dice.pick((1.6, 2, 1, 1.5, 1.5, 0.8, 1, 0.7, 0.6, 0.6, 0.7, 1))]
        lighter: F32 = base + np.float32(dice.n(0, 12))
        return lighter
    hue, saturation, value = dice.u(0, 6), dice.u(0.15, 1.0) ** 0.8, dice.u(0.2, 1.0)
    ramp = [max(0.0, min(k, 4.0 - k, 1.0)) for k in ((n + hue) % 6.0 for n in (5.0, 3.0, 1.0))]
    return np.array([255.0 * value * (1.0 - saturation * k) for k in ramp], np.float32)


def _palette(dice: _Dice) -> U8:
    """(256, 1, 3) uint8 colours in blue, green, red by material."""
    table = np.zeros((256, 3), np.float32)
    tone = dice.u(0, 5.99)
    low = int(tone)
    skin = _SKINS[low] + (_SKINS[low + 1] - _SKINS[low]) * np.float32(tone - low)
    skin = skin + np.array([dice.n(0, 5), dice.n(0, 5), dice.n(0, 6)], np.float32)
    fair = (4, 3, 2, 1, 1.2, 1.2, 0.5, 0.7, 0.5, 0.15)
    dark = (6, 3, 1, 0.3, 0.1, 0.1, 0.1, 0.5, 0.3, 0.1)
    hair = _HAIRS[dice.pick(fair if tone < 2.5 else dark)] * np.float32(dice.u(0.8, 1.2))
    table[SKIN] = skin
    table[LIPS] = skin * np.array([0.82, 0.58, 0.58], np.float32)
    table[HAIR] = hair
    table[BROW] = 0.55 * hair + 0.2 * skin
    table[EYE_WHITE] = 0.8 * np.array([235, 232, 228]) * (0.55 + 0.45 * skin.mean() / 220)
    table[IRIS] = (38, 26, 20) if dice.chance(0.75) else (70, 90, 110)
    for material in (TOP, TOP2, BOTTOM, BOTTOM2, SHOES, HAT, HAT2, BAG, INNER):
        table[material] = _cloth(dice)
    if dice.chance(0.35):
        table[BOTTOM] = _CLOTHS[dice.pick((1, 0, 0, 1, 2, 1, 0.6))]
    table[SOLES] = (230, 228, 222) if dice.chance(0.5) else table[SHOES] * 0.4
    table[SOCKS] = (235, 235, 235) if dice.chance(0.6) else _cloth(dice)
    table[GLASSES] = (18, 18, 20)
    table[MASK] = (225, 230, 232) if dice.chance(0.5) else (120, 170, 205)
    return np.clip(table[:, None, ::-1], 4, 250).astype(np.uint8)


def _pattern(dice: _Dice) -> Pattern | None:
    """Stripes or checks on a tube, or none."""
    kind = dice.pick((6.0, 1.4, 0.6, 0.7))
    if kind == 0:
        return None
    period, share, shift = dice.u(0.035, 0.16), dice.u(0.2, 0.6), dice.u(0, 1)
    along_k, share_k = np.float32(1.0 / period), np.float32(share)
    across_k = np.float32(dice.u(1.5, 5.0))

    def rings(along: Floats, _: Floats) -> Bools:
        step = along * along_k + np.float32(shift)
        inked: Bools = (step - np.floor(step)) < share_k
        return inked

    def lines(_: Floats, across: Floats) -> Bools:
        step = across * across_k + np.float32(shift)
        inked: Bools = (step - np.floor(step)) < share_k
        return inked

    def checks(along: Floats, across: Floats) -> Bools:
        return rings(along, across) ^ lines(along, across)

    return (rings, lines, checks)[kind - 1]


def _face_painter(dice: _Dice, unit: float, male: bool) -> Painter:
    """Materials on the head's front: eyes, brows, mouth, beard, glasses or a mask."""
    inverse = np.float32(1.0 / unit)
    beard = male and dice.chance(0.3)
    beard_top = np.float32(-dice.u(0.25, 0.42))
    wear = dice.pick((8.2, 0.9, 0.5, 0.25))  # nothing, glasses, sunglasses, mask
    closed = dice.chance(0.06)
    smile = dice.u(-0.15, 0.5)
    lips = dice.u(0.045, 0.10)
    brow_y = dice.u(0.17, 0.25)
    eye_h = dice.u(0.055, 0.085)

    def paint(left: Floats, up: Floats, forward: Floats) -> U8:
        x, y = np.abs(left) * inverse, up * inverse
        out = np.full(x.shape, SKIN, np.uint8)
        front = forward > np.float32(0.1 * unit)
        if beard:
            out[front & (y < beard_top) & (y + np.float32(0.75) * x < 0.1)] = HAIR
        across = x - np.float32(0.29)
        square = across * across
        rise = y - np.float32(0.03)
        eye = square * np.float32(1 / 0.15**2) + rise * rise * np.float32(1 / eye_h**2)
        if wear == 2:
            wide = square * np.float32(1 / 0.25**2) + rise * rise * np.float32(1 / 0.17**2)
            out[front & ((wide < 1) | ((np.abs(rise) < 0.05) & (x < 0.72)))] = GLASSES
        elif not closed:
            out[front & (eye < 1)] = EYE_WHITE
            pupil = square + rise * rise < np.float32(0.07**2)
            out[front & pupil & (eye < 1)] = IRIS
            lash = (eye < 1.9) & (eye >= 0.9) & (rise > 0)
            out[front & lash] = BROW
        else:
            out[front & (eye < 1) & (np.abs(rise) < 0.025)] = BROW
        if wear == 1:
            wide = square * np.float32(1 / 0.24**2) + rise * rise * np.float32(1 / 0.19**2)
            out[front & (np.abs(wide - 1) < 0.28)] = GLASSES
        if wear != 2:
            bow = y - np.float32(brow_y) + np.float32(0.9) * square
            out[front & (np.abs(bow) < 0.035) & (np.abs(across) < 0.17)] = BROW
        bow = y + np.float32(0.56) - np.float32(smile) * x * x
        out[front & (x < 0.26) & (np.abs(bow) < np.float32(lips) * (1.25 - 3.6 * x))] = LIPS
        if wear == 3:
            out[front & (y < -0.14)] = MASK
        return out

    return paint


def _below(first: tuple[float, float, float], level: float) -> Painter:
    """A painter that keeps the side of a plane where first . (left, up, forward) > level."""
    a, b, c = (np.float32(value) for value in first)

    def paint(left: Floats, up: Floats, forward: Floats) -> U8:
        kept: U8 = (left * a + up * b + forward * c > np.float32(level)).astype(np.uint8)
        return kept

    return paint


class _Dresser:
    """Draws one body with one random wardrobe on a canvas."""

    def __init__(self, canvas: _Canvas, body: Body, dice: _Dice) -> None:
        self.canvas, self.body, self.dice = canvas, body, dice
        self.h = body.size["height"]
        self.k = body.traits["build"]
        # Small figures go without thumbs, soles and calves.
        self.fine = self.h * canvas.focal_px / canvas.distance > 220
        self.joints = body.joints
        self.frames = body.frames

    def at(self, bone: int, left: float, up: float, forward: float) -> Vec:
        """A point in a bone's frame, metres from its joint, as camera coordinates."""
        point = self.joints[bone] + self.frames[bone] @ (left, up, forward)
        return [float(point[0]), float(point[1]), float(point[2])]

    def flat(self, bone: int, da: float, db: float) -> tuple[Vec, Vec, float, float]:
        frame = self.frames[bone]
        return frame[:, 0].tolist(), frame[:, 2].tolist(), da, db

    def draw(self) -> None:
        dice, body = self.dice, self.body
        feminine = body.traits["feminine"]
        # Sleeves and legs as a share of the whole limb; 1 reaches the wrist or ankle.
        self.sleeve = (0.0, dice.u(0.22, 0.42), dice.u(0.6, 0.8), 0.97)[
            dice.pick((0.10 + 0.12 * feminine, 0.42, 0.06, 0.42))
        ]
        self.leg = (dice.u(0.1, 0.25), dice.u(0.28, 0.5), dice.u(0.6, 0.8), 0.97)[
            dice.pick((0.06 + 0.08 * feminine, 0.24, 0.06, 0.62))
        ]
        self.skirt = dice.u(0.45, 1.4) if dice.chance(0.30 * feminine) else 0.0
        self.dress = self.skirt > 0 and dice.chance(0.5)
        self.ease = dice.u(0.0, 1.0) ** 1.5 * 0.013 * self.h  # how loose the top is
        self.leg_ease = (0.1 + dice.u(0.0, 1.0) ** 1.5) * 0.013 * self.h
        self.pattern = _pattern(dice)
        self.leg_pattern = _pattern(dice) if dice.chance(0.3) else None
        self.bottom = TOP if self.dress else BOTTOM
        if self.skirt:
            self.leg = 0.97 if dice.chance(0.15) else 0.0
        self.trunk()
        for side in (0, 1):
            self.arm(side)
            self.legs(side)
        if self.skirt:
            self.draw_skirt()
        self.head()
        self.extras()

    def trunk(self) -> None:
        h, k, dice, tube = self.h, self.k, self.dice, self.canvas.tube
        size, feminine = self.body.size, self.body.traits["feminine"]
        torso, ease = size["torso"], self.ease
        hip = (size["hip"] + 0.040 * h * k) * (1 + 0.04 * feminine)
        waist = 0.074 * h * k**1.15 * (1 - 0.10 * feminine)
        chest = (0.78 * size["shoulder"] + 0.012 * h * k) * (1 - 0.03 * feminine)
        deep, fat = 0.062 * h * k, 0.058 * h * k**1.35
        crotch, low = self.at(PELVIS, 0, -0.17 * torso, 0), self.at(PELVIS, 0, 0.03 * torso, 0)
        lumbar, mid = self.at(LUMBAR, 0, 0, 0), self.at(CHEST, 0, 0.10 * torso, 0)
        top = self.at(CHEST, 0, 0.375 * torso, 0)
        tube(crotch, low, 0.72 * hip, hip, self.bottom, cap=0.4,
             flat=self.flat(PELVIS, 0.85 * deep, 1.08 * deep))  # fmt: skip
        tucked = dice.chance(0.35)
        if tucked:
            tube(low, lumbar, hip, waist, self.bottom, cap=0.25,
                 flat=self.flat(PELVIS, 1.08 * deep, fat))  # fmt: skip
        # Buttocks fill the seat; from the front they cannot show.
        for sign in (1.0, -1.0) if self.frames[PELVIS][2, 2] > -0.6 and not self.skirt else ():
            seat = self.at(PELVIS, sign * 0.48 * hip, -0.04 * torso, -0.42 * deep)
            self.canvas.ellipsoid(
                seat, self.frames[PELVIS], (0.54 * hip, 0.19 * torso, 0.66 * deep), self.bottom
            )
        hem_drop = 0.0 if tucked else dice.u(-0.10, 0.12) * torso
        hem = self.at(PELVIS, 0, 0.20 * torso if tucked else -hem_drop, 0)
        pattern, other = self.pattern, TOP2
        panel = dice.pick((5.0, 1.0, 0.8))
        front = float(-self.frames[CHEST][2, 2])
        if panel and pattern is None and front > 0:
            # An open jacket or a row of buttons: a strip down the front, slid round by the turn.
            centre = np.float32(self.frames[CHEST][0, 2])
            half = np.float32((dice.u(0.15, 0.45) if panel == 1 else 0.05) * front)
            other = INNER

            def pattern(_: Floats, across: Floats) -> Bools:
                inked: Bools = np.abs(across - centre) < half
                return inked

        def shirt(a: Vec, b: Vec, wa: float, wb: float, da: float, db: float, bone: int,
                  cap: float) -> None:  # fmt: skip
            tube(a, b, wa + ease, wb + ease, TOP, cap=cap, pattern=pattern, other=other,
                 flat=self.flat(bone, da + 0.8 * ease, db + 0.8 * ease))  # fmt: skip

        loose = dice.u(0.0, 0.6) if not tucked else 0.0
        waist_out = waist + loose * max(0.0, min(hip, chest) - waist)
        if tucked:
            shirt(hem, lumbar, 0.5 * (hip + waist), waist_out, deep, fat, PELVIS, 0.1)
        else:
            shirt(hem, lumbar, hip + 0.004 * h, waist_out, 1.1 * deep, fat, PELVIS, 0.06)
        shirt(lumbar, mid, waist_out, chest, fat, 1.08 * deep, LUMBAR, 0.3)
        shirt(mid, top, chest, 0.74 * size["shoulder"], 1.08 * deep, 0.70 * deep, CHEST, 0.25)
        # Rounder where the cloth is plain; a pattern would stop at the bulge.
        if feminine > 0.5 and pattern is None:
            bust = dice.u(0.7, 1.1) * 0.036 * h * k**0.5
            for sign in (1.0, -1.0) if front > -0.6 else ():
                self.canvas.ellipsoid(
                    self.at(CHEST, sign * 0.44 * chest, 0.11 * torso, 0.70 * deep),
                    self.frames[CHEST], (1.2 * bust, 1.25 * bust, bust), TOP,
                )  # fmt: skip
        if k > 1.12 and pattern is None:
            self.canvas.ellipsoid(
                self.at(LUMBAR, 0, 0, 0.32 * fat), self.frames[LUMBAR],
                (0.96 * waist, 0.40 * torso, 0.88 * fat), TOP,
            )  # fmt: skip
        bare = self.sleeve == 0.0 and dice.chance(0.5)
        for side in (0, 1):
            # The slope from neck to shoulder.
            inner = self.at(NECK, (0.25 - 0.5 * side) * size["shoulder"], -0.012 * h, 0)
            outer = self.joints[UPPER_ARM + side].tolist()
            tube(inner, outer, 0.034 * h * k**0.5, 0.031 * h * k**0.6, SKIN if bare else TOP)
        neck = 0.031 * h * k**0.5 * (1 - 0.12 * feminine)
        base, skull = self.at(NECK, 0, -0.02 * h, 0.0), self.at(HEAD, 0, 0.35 * size["head"], 0)
        if dice.chance(0.75) and front > -0.5:
            # A neckline; the neck's foot shows in front.
            opening = self.at(NECK, 0, -dice.u(0.01, 0.05) * h, 0.022 * h)
            tube(opening, base, 0.6 * neck, 1.25 * neck, SKIN)
        collar = dice.pick((3.0, 1.0))
        if collar:
            lift = self.at(NECK, 0, dice.u(0.005, 0.03) * h, 0.004 * h)
            tube(base, lift, 1.5 * neck, 1.22 * neck, TOP, cap=0.1)
        tube(base, skull, 1.1 * neck, neck, SKIN)

    def limb(
        self, a: Vec, b: Vec, radii: tuple[float, float], belly: float, cover: float, cloth: int,
        ease: float, pattern: Pattern | None, other: int, flare: float = 0.0,
    ) -> None:  # fmt: skip
        """One limb segment in skin, its first `cover` share in cloth."""
        tube = self.canvas.tube
        share = min(max(cover, 0.0), 1.0)
        end = [p + (q - p) * share for p, q in zip(a, b, strict=True)]
        if cover < 1.0:
            start = radii[0] + (radii[1] - radii[0]) * share
            tube(end, b, start, radii[1], SKIN, belly=belly * (1.0 - share))
        if cover > 0.0:
            last = radii[0] + (radii[1] - radii[0]) * share + ease + flare
            # A hem is cut; a joint under cloth is round.
            tube(a, end, radii[0] + 0.7 * ease, last, cloth, belly=belly * share,
                 cap=1.0 if cover >= 1.0 else 0.45, pattern=pattern, other=other)  # fmt: skip

    def arm(self, side: int) -> None:
        h, k, size = self.h, self.k, self.body.size
        thin = 1 - 0.12 * self.body.traits["feminine"]
        shoulder, elbow, wrist = (self.joints[b + side].tolist() for b in (5, 7, 9))
        ra, rb, rc = (r * h * k**p * thin for r, p in ((0.030, 0.8), (0.0225, 0.6), (0.0155, 0.4)))
        first = self.sleeve * 2.0
        self.limb(shoulder, elbow, (ra, rb), 0.002 * h, first, TOP, self.ease + 0.002 * h,
                  self.pattern, TOP2, 0.3 * self.ease)  # fmt: skip
        self.limb(elbow, wrist, (rb * 1.03, rc), 0.004 * h, first - 1.0, TOP,
                  0.7 * self.ease + 0.003 * h, self.pattern, TOP2)  # fmt: skip
        bone = HAND + side
        hand, sign = size["hand"], 1.0 - 2.0 * side
        frame = self.frames[bone]
        # The palm's flat side faces the body: thin along left, wide along forward.
        skin = SKIN
        knuckles = self.at(bone, 0, -0.45 * hand, 0)
        tube = self.canvas.tube
        tube(wrist, knuckles, 0.62 * rc, 0.105 * hand, skin, cap=0.5,
             flat=(frame[:, 0].tolist(), frame[:, 2].tolist(), 0.95 * rc, 0.23 * hand))  # fmt: skip
        curl = self.dice.u(0.0, 0.7)
        tips = self.at(bone, -sign * curl * 0.5 * hand, -(0.95 - 0.3 * curl) * hand, 0)
        axes = (frame[:, 0].tolist(), frame[:, 2].tolist())
        tube(knuckles, tips, 0.10 * hand, 0.05 * hand, skin, cap=0.7,
             flat=(*axes, 0.21 * hand, 0.12 * hand))  # fmt: skip
        if self.fine:
            root, tip = (
                self.at(bone, 0, -0.15 * hand, 0),
                self.at(bone, 0, -0.5 * hand, 0.34 * hand),
            )
            tube(root, tip, 0.085 * hand, 0.06 * hand, skin)

    def legs(self, side: int) -> None:
        h, k, size, dice = self.h, self.k, self.body.size, self.dice
        hip, knee, ankle = (self.joints[b + side].tolist() for b in (11, 13, 15))
        ra, rb, rc = (r * h * k**p for r, p in ((0.053, 0.85), (0.033, 0.6), (0.0205, 0.4)))
        first = self.leg * 2.0
        if side == 0:
            self.flare = (dice.u(-0.3, 0.4) if dice.chance(0.7) else dice.u(0.4, 1.2)) * 0.014 * h
        self.limb(hip, knee, (ra, rb), 0.004 * h, first, BOTTOM, self.leg_ease,
                  self.leg_pattern, BOTTOM2, max(self.flare, 0.0) * 0.5)  # fmt: skip
        calf = self.at(SHIN + side, 0, -0.30 * size["shin"], -0.010 * h)
        covered = first - 1.0
        if covered < 0.9 and self.fine:
            # The calf's muscle sits high and behind.
            self.canvas.ellipsoid(
                calf, self.frames[SHIN + side], (0.95 * rb, 0.30 * size["shin"], rb), SKIN
            )
        self.limb(knee, ankle, (rb, rc), 0.002 * h, covered, BOTTOM, 0.8 * self.leg_ease,
                  self.leg_pattern, BOTTOM2, self.flare)  # fmt: skip
        bone, foot = FOOT + side, size["foot"]
        if side == 0:
            self.footwear = dice.pick((1.0, 5.0, 1.0))  # bare, shoes, boots
            self.socks = dice.u(0.05, 0.45) if dice.chance(0.4) else 0.0
        frame = self.frames[bone]
        sole = 0.032 * h
        heel = self.at(bone, 0, -0.55 * sole, -0.20 * foot)
        toe = self.at(bone, 0, -0.74 * sole, 0.82 * foot)
        cloth = SKIN if self.footwear == 0 else SHOES
        bulk = 1.0 if self.footwear == 0 else 1.13
        tube = self.canvas.tube
        ankle_point = self.at(bone, 0, 0, 0)
        wide = 0.022 * h * bulk
        axes = (frame[:, 0].tolist(), frame[:, 1].tolist())
        tube(ankle_point, self.at(bone, 0, -0.5 * sole, 0.1 * foot), rc * 1.1, wide, cloth)
        tube(heel, toe, wide, wide, cloth, cap=0.9, belly=0.12 * wide,
             flat=(*axes, 0.58 * sole * bulk, 0.34 * sole * bulk))  # fmt: skip
        if self.footwear and self.fine:
            low, lower = (
                self.at(bone, 0, -0.95 * sole, -0.22 * foot),
                self.at(bone, 0, -0.98 * sole, 0.84 * foot),
            )
            tube(low, lower, 1.05 * wide, wide, SOLES, cap=0.9,
                 flat=(*axes, 0.18 * sole, 0.18 * sole))  # fmt: skip
        high = self.at(SHIN + side, 0, -size["shin"] * (1 - self.socks), 0)
        if self.footwear == 2 and covered < 0.9:
            shaft = self.at(SHIN + side, 0, -size["shin"] * 0.55, 0)
            tube(shaft, ankle_point, rb * 1.05, rc * 1.4, SHOES, cap=0.3)
        elif self.footwear == 1 and self.socks and covered < 0.9:
            wide_sock = rc + (rb - rc) * self.socks + 0.004 * h
            tube(high, ankle_point, wide_sock, rc + 0.003 * h, SOCKS, cap=0.3)

    def draw_skirt(self) -> None:
        """A cone from the waist about both thighs to a hem part of the way down."""
        h, k, size = self.h, self.k, self.body.size
        material = TOP if self.dress else BOTTOM
        pattern, other = (self.pattern, TOP2) if self.dress else (self.leg_pattern, BOTTOM2)
        waist = self.at(PELVIS, 0, 0.2 * size["torso"], 0)
        wide = 0.085 * h * k
        hips, knees, ankles = (0.5 * (self.joints[b] + self.joints[b + 1]) for b in (11, 13, 15))
        apart = 0.5 * float(np.linalg.norm(self.joints[13] - self.joints[14]))
        share = min(self.skirt, 1.0)
        end = hips + (knees - hips) * share + (ankles - knees) * (0.9 * max(self.skirt - 1.0, 0.0))
        spread = max(0.10 * h * k, apart * share + 0.05 * h) * (1.0 + self.dice.u(0, 0.3))
        self.canvas.tube(
            waist, end.tolist(), wide, spread, material, cap=0.12, pattern=pattern, other=other,
            belly=0.02 * h, flat=self.flat(PELVIS, 0.065 * h * k, 0.75 * spread),
        )  # fmt: skip

    def head(self) -> None:
        dice, size, canvas = self.dice, self.body.size, self.canvas
        unit, frame = size["head"], self.frames[HEAD]
        feminine = self.body.traits["feminine"]
        child = self.body.traits["child"]
        origin = self.joints[HEAD] + frame @ (0.0, 0.92 * unit, 0.16 * unit)

        def at(left: float, up: float, forward: float) -> Vec:
            point = origin + frame @ (left * unit, up * unit, forward * unit)
            return [float(point[0]), float(point[1]), float(point[2])]

        def blob(centre: tuple[float, float, float], axes: tuple[float, float, float], part: int,
                 paint: Painter | None = None) -> None:  # fmt: skip
            a, b, c = (unit * value for value in axes)
            canvas.ellipsoid(at(*centre), frame, (a, b, c), part, paint=paint)

        base = _face_painter(dice, unit, feminine < 0.4 and child < 0.3)
        shift_up, shift_out = np.float32(0.25 * unit), np.float32(0.10 * unit)
        top_up, top_out = np.float32(0.22 * unit), np.float32(0.08 * unit)

        def face(left: Floats, up: Floats, forward: Floats) -> U8:
            return base(left, up - shift_up, forward + shift_out)

        def skull(left: Floats, up: Floats, forward: Floats) -> U8:
            return base(left, up + top_up, forward - top_out)

        jaw = dice.u(0.54, 0.62)
        seen = frame[2, 2] < 0.8  # else only the back of the head shows
        blob((0, 0.22, -0.08), (0.70, 0.78, 0.86), SKIN, skull if seen else None)
        blob((0, -0.25, 0.10), (jaw, 0.75, 0.72), SKIN, face if seen else None)
        if seen:
            canvas.tube(at(0, 0.02, 0.72), at(0, -0.20, 0.84), 0.06 * unit, 0.105 * unit,
                        SKIN)  # fmt: skip
        for sign in (1.0, -1.0):
            if sign * frame[2, 0] < 0.6:  # else on the far side
                blob((sign * 0.69, -0.06, -0.08), (0.08, 0.20, 0.13), SKIN)

        style = dice.pick(
            (0.05 + 0.05 * (1 - feminine), 1.3 - feminine, 0.25 + feminine, 0.5 * feminine, 0.12,
             0.35 * feminine)
        )  # fmt: skip
        hat = dice.pick((7.6, 1.0, 0.6, 0.5, 0.4))
        volume = dice.u(1.05, 1.17)
        if style:
            # Hair grows behind a plane from the forehead to the nape.
            line = (dice.u(-0.03, 0.06) if dice.chance(0.85) else dice.u(0.1, 0.35)) * unit
            part = dice.n(0, 0.12)
            keep = _below((part, 0.76, -0.65), line - 0.24 * unit * 0.76 - 0.10 * unit * 0.65)

            def hair(left: Floats, up: Floats, forward: Floats) -> U8:
                return keep(left, up, forward) * np.uint8(HAIR)

            grow = volume if style != 4 else dice.u(1.25, 1.6)
            blob((0, 0.24, -0.10), (0.70 * grow, 0.78 * grow, 0.86 * grow), HAIR, hair)
        if style in (2, 3):
            # Long hair falls behind, and may frame the face.
            drop = dice.u(0.6, 1.5)
            wide = dice.u(0.55, 0.8)
            blob((0, 0.25 - 0.75 * drop, -0.50), (wide, 0.85 * drop, 0.42), HAIR)
            if style == 2 or dice.chance(0.4):
                length = dice.u(0.5, 1.0) * drop
                for sign in (1.0, -1.0):
                    blob((sign * 0.66, 0.3 - 0.7 * length, -0.14), (0.17, 0.8 * length, 0.34), HAIR)
        if style == 5:
            if dice.chance(0.5):
                blob((0, dice.u(0.3, 1.0), -0.95), (0.33, 0.33, 0.33), HAIR)
            else:
                length = dice.u(0.6, 1.5)
                canvas.tube(at(0, 0.35, -0.92), at(dice.n(0, 0.2), 0.2 - length, -1.15),
                            0.2 * unit, 0.08 * unit, HAIR)  # fmt: skip
        if hat:
            brow = dice.u(0.38, 0.55) * unit

            def crown(_: Floats, up: Floats, forward: Floats) -> U8:
                tilt = up - np.float32(0.12) * forward
                band = tilt > np.float32(brow - 0.24 * unit)
                return band.astype(np.uint8) * np.uint8(HAT)

            grow = volume + (0.05 if hat != 4 else 0.15)
            tall = 0.78 * grow * (1.0 if hat != 2 else dice.u(1.0, 1.25))
            blob((0, 0.24, -0.10), (0.70 * grow, tall, 0.86 * grow), HAT, crown)
            level = brow / unit
            if hat == 1:
                blob((0, level + 0.03, 0.85), (0.52, 0.06, 0.55), HAT2)
            elif hat == 3:
                wide = dice.u(1.15, 1.7)
                blob((0, level + 0.02, -0.08), (wide, 0.09, wide), HAT)

    def extras(self) -> None:
        """Now and then a backpack, a bag at the hand or a ball."""
        dice, h, canvas = self.dice, self.h, self.canvas
        torso = self.body.size["torso"]
        if dice.chance(0.07):
            canvas.ellipsoid(
                self.at(CHEST, 0, 0.05 * torso, -0.115 * h), self.frames[CHEST],
                (0.085 * h, 0.5 * torso, 0.07 * h), BAG,
            )  # fmt: skip
        if dice.chance(0.10):
            side = int(dice.chance(0.5))
            hand = self.at(HAND + side, 0, -0.7 * self.body.size["hand"], 0)
            kind = dice.pick((1.0, 1.0, 1.0))
            size = dice.u(0.04, 0.09) * h
            if kind == 0:
                canvas.ellipsoid(hand, np.eye(3), (size, size, size), BAG)
            elif kind == 1:
                reach = dice.u(0.2, 0.5) * h
                far = [hand[0] + dice.u(-1, 1) * reach, hand[1] + dice.u(-1, 1) * reach, hand[2]]
                canvas.tube(hand, far, 0.008 * h, dice.u(0.006, 0.02) * h, BAG)
            else:
                low = [hand[0], hand[1] + dice.u(0.08, 0.2) * h, hand[2]]
                canvas.tube([hand[0], hand[1] + 0.03 * h, hand[2]], low, 0.05 * h, 0.08 * h, BAG,
                            cap=0.1)  # fmt: skip


def render(
    rng: np.random.Generator, body: Body, image_hw: tuple[int, int], focal_px: float,
    centre_xy: tuple[float, float], distance: float, light: tuple[float, float, float],
) -> Figure | None:  # fmt: skip
    """Draw `body`, its pelvis `distance` metres off at `centre_xy` px; None if outside the image.

    `light` points from the person to the lamp in the camera's axes (unit length).
    """
    dice = _Dice(rng)
    ambient = dice.u(0.45, 0.85)
    strength, rim = 1.2 - ambient, dice.u(0.05, 0.30)
    lamp = [light[0] * strength, light[1] * strength, light[2] * strength - rim]
    canvas = _Canvas(image_hw, focal_px, centre_xy, distance, lamp)
    palette = _palette(dice)
    _Dresser(canvas, body, dice).draw()

    columns = np.flatnonzero(canvas.part.any(axis=0))
    rows = np.flatnonzero(canvas.part.any(axis=1))
    if not len(columns):
        return None
    window = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    part, depth, shade = canvas.part[window], canvas.depth[window], canvas.shade[window]
    mask = part > 0
    height, width = part.shape

    # Depth darkening (Luft et al. 2006): what lies behind a nearer edge is in its shade.
    far = np.float32(0.6 * body.size["height"])
    near = np.minimum(depth, far)
    radius = max(3, int(0.02 * focal_px * body.size["height"] / distance)) | 1
    behind = near - cv2.blur(near, (radius, radius))
    np.clip(behind, 0.0, 0.12, out=behind)
    tone = shade + np.float32(ambient - 0.6 * rim + 0.06)
    tone -= behind * np.float32(dice.u(1.0, 3.2))
    weave = noise_window(rng, "hair" if dice.chance(0.3) else "cloth", (height, width))
    tone += (weave[..., 0] - np.float32(128.0)) * np.float32(dice.u(0.0005, 0.0026))
    np.maximum(tone, 0.12, out=tone)
    if dice.chance(0.15):
        # A printed cloth: blots of the second colour.
        blots = weave[..., 1] > 128 + dice.n(0, 25)
        part = np.where(blots & (part == TOP), np.uint8(TOP2), part)
    colour = cv2.applyColorMap(np.ascontiguousarray(part), palette)
    colour = cv2.multiply(colour, cv2.merge([tone] * 3), dtype=cv2.CV_8U)
    keypoints = np.array([canvas.project(point) for point in body.coco_xyz.tolist()])[:, :2]
    return Figure(
        colour_bgr=colour,
        mask=mask,
        origin_xy=(window[1].start, window[0].start),
        keypoints_xy=keypoints.astype(np.float32),
        hidden=_hidden(canvas, body, keypoints),
        foot_y=max(canvas.project(point)[1] for point in body.joints[15:17].tolist()),
    )


# How far, in shares of the person's height, the body's own surface may lie before a joint's
# centre and the joint still count as seen.
_COVER = np.array([0.02] + [0.012] * 2 + [0.02] * 2 + [0.062] * 2 + [0.045] * 2 + [0.04] * 2
                  + [0.095] * 2 + [0.065] * 2 + [0.05] * 2)  # fmt: skip


def _hidden(canvas: _Canvas, body: Body, keypoints: NDArray[np.float64]) -> Bools:
    height, width = canvas.image_hw
    x, y = np.floor(keypoints + 0.5).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    surface = canvas.depth[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    nearer = body.coco_xyz[:, 2] - surface > _COVER * body.size["height"]
    hidden: Bools = inside & nearer & (surface < _FAR / 2)
    return hidden
