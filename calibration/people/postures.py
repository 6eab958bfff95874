"""Random postures within the joints' limits, and the bodies that take them.

Arms and legs are thrown from families such as standing, sitting or running; `posed_body` lays
the angles on a skeleton under a random view.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.people.dice import Dice
from calibration.people.skeleton import (
    CHEST,
    FOOT,
    FOREARM,
    HAND,
    HEAD,
    LUMBAR,
    NECK,
    PELVIS,
    SHIN,
    THIGH,
    UPPER_ARM,
    Body,
    bone_frames,
    coco_keypoints,
    inside_trunk,
    joint_places,
    proportions,
    rotations,
)

__all__ = ["posed_body"]

F32 = NDArray[np.float32]

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
_RELAXED = 0
_LEG_WEIGHTS = (3.0, 1.6, 1.3, 1.6, 0.8, 0.6, 0.8, 0.7, 1.2, 0.4, 0.9)
(_STAND, _WALK, _RUN, _SIT, _SQUAT, _KNEEL, _WIDE, _LIE, _SPORT, _CROSSED, _BEND) = range(11)
_CALM = (_STAND, _WALK, _WIDE)


def _arm(dice: Dice, angles: F32, side: int, family: int) -> None:
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


def _legs(dice: Dice, angles: F32, family: int, front: int) -> tuple[float, float | None]:
    """Set both legs, `front` leading; the trunk's pitch, and how far the arms swing, if they do."""
    u = dice.u
    back = 1 - front
    pitch = dice.n(3, 5)
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
    return pitch, swing


def _spine(dice: Dice, angles: F32, family: int, pitch: float) -> None:
    u, n = dice.u, dice.n
    angles[PELVIS] = (n(0, 4), pitch, 0.0)
    bend = u(0, 30) if family == _BEND else n(4, 7)
    angles[LUMBAR] = (n(0, 5), bend, n(0, 8))
    angles[CHEST] = (n(0, 5), bend * 0.6, n(0, 8))
    # A head mostly stays upright whatever the trunk does, and looks about.
    upright = -0.5 * (pitch + 1.6 * bend)
    angles[NECK] = (n(0, 5), upright * u(0.2, 0.8) + n(4, 7), n(0, 12))
    angles[HEAD] = (n(0, 6), upright * u(0.0, 0.4) + n(2, 9), n(0, 18))


def _arms(dice: Dice, angles: F32, family: int, front: int, swing: float | None) -> None:
    if swing is not None and dice.chance(0.8):
        # The arm swings against the leg of its own side.
        elbow = dice.u(60, 115) if family == _RUN else dice.u(5, 55)
        for side, sign in ((1 - front, 1.0), (front, -0.8)):
            _arm(dice, angles, side, _RELAXED)
            angles[UPPER_ARM + side, 1] = -sign * swing
            angles[FOREARM + side, 1] = -(elbow + dice.u(-15, 15))
    else:
        shared = dice.pick(_ARM_WEIGHTS)
        alike = dice.chance(0.45)
        for side in (0, 1):
            _arm(dice, angles, side, shared if alike else dice.pick(_ARM_WEIGHTS))


def _feet(dice: Dice, angles: F32, family: int, pitch: float) -> None:
    for side in (0, 1):
        # Feet stay flat on the floor where the ankle allows it.
        lean = float(angles[THIGH + side, 1] + angles[SHIN + side, 1]) + pitch
        loose = family in (_LIE, _RUN, _SPORT, _KNEEL)
        flat = dice.u(0, 45) if loose else min(max(-lean, -30.0), 45.0)
        angles[FOOT + side] = (0.0, flat + dice.n(0, 5), 0.0)


def _posture(dice: Dice, variety: float) -> tuple[F32, int]:
    """Euler angles in degrees, (17, 3) as z, x, y of Rz Rx Ry, and the leg family."""
    angles = np.zeros((17, 3), np.float32)
    weights = (
        weight * (1.0 if family in _CALM else variety) for family, weight in enumerate(_LEG_WEIGHTS)
    )
    family = dice.pick(tuple(weights))
    front = int(dice.chance(0.5))  # which leg leads, where that matters
    pitch, swing = _legs(dice, angles, family, front)
    _spine(dice, angles, family, pitch)
    _arms(dice, angles, family, front, swing)
    _feet(dice, angles, family, pitch)
    return angles * np.float32(0.4 + 0.6 * variety), family


def _view(dice: Dice, camera_deg: tuple[float, float] | None, family: int, variety: float) -> F32:
    """Angles z, x, y in degrees of the camera, the person's yaw and, if lying, the lying down."""
    front_back_any = (0.42, 0.18 * variety, 0.40 * variety)
    yaw = (dice.n(0, 32), dice.n(180, 35), dice.u(-180, 180))[dice.pick(front_back_any)]
    if camera_deg is None:
        tilt = min(max(dice.n(7, 11), -25.0), 45.0)
        if dice.chance(0.06 * variety):
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
    return view


def posed_body(
    rng: np.random.Generator,
    *,
    camera_deg: tuple[float, float] | None = None,
    variety: float = 1.0,
) -> Body:
    """A random person in a random posture under a random view.

    `camera_deg` fixes how far the camera looks down on the person and its roll, for scenes whose
    people share one floor; otherwise both are random. The person's yaw always is. `variety` below
    1 makes other postures than standing and walking, and other views than from the front, rarer in
    proportion, and every angle smaller.
    """
    dice = Dice(rng)
    size, traits = proportions(dice)
    # An arm through the trunk is thrown again, but not for ever.
    for _ in range(4):
        angles, family = _posture(dice, variety)
        view = _view(dice, camera_deg, family, variety)
        turns = rotations(np.concatenate([view, angles]))
        # From up and forward to the camera's down and away: yaw 0 faces the camera.
        root = np.diag((1.0, -1.0, -1.0)) @ turns[0] @ turns[1]
        if family == _LIE:
            root = root @ turns[2]
        frames = bone_frames(root, turns[len(view) :])
        joints = joint_places(frames, size)
        if not inside_trunk(frames, joints, size):
            break
    return Body(frames, joints, size, traits, coco_keypoints(frames, joints, size), family)
