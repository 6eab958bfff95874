"""The skeleton: 17 bones with human proportions, from their turns to joints and COCO keypoints.

A person is a tree of bones; each rotates about its upper end. In a bone's own frame x points to
the person's left, y up and z forward. In the camera's frame x points right, y down and z away
from the camera, in metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.people.dice import Dice

__all__ = [
    "CHEST", "FOOT", "FOREARM", "HAND", "HEAD", "LUMBAR", "NECK", "PELVIS", "SHIN", "THIGH",
    "UPPER_ARM", "Body", "bone_frames", "coco_keypoints", "head_centre", "inside_trunk",
    "joint_places", "proportions", "rotations",
]  # fmt: skip

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Bones; L and R are the person's own sides.
PELVIS, LUMBAR, CHEST, NECK, HEAD = 0, 1, 2, 3, 4
UPPER_ARM, FOREARM, HAND, THIGH, SHIN, FOOT = 5, 7, 9, 11, 13, 15  # +0 left, +1 right
_PARENTS = (-1, 0, 1, 2, 3, 2, 2, 5, 6, 7, 8, 0, 0, 11, 12, 13, 14)

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


@dataclass(frozen=True)
class Body:
    """A posed body in the camera's axes, its pelvis at the origin.

    `frames` (17, 3, 3) float64: columns are each bone's left, up and forward axes; `joints`
    (17, 3) float64: where each bone begins, metres; `size`: named lengths in metres; `traits`:
    unitless shape; `coco_xyz` (17, 3) float64 the COCO keypoints; `family` the leg family.
    """

    frames: F64
    joints: F64
    size: dict[str, float]
    traits: dict[str, float]
    coco_xyz: F64
    family: int

    def at(self, bone: int, left: float, up: float, forward: float) -> list[float]:
        """A point in a bone's frame, metres from its joint, as camera coordinates."""
        point = self.joints[bone] + self.frames[bone] @ (left, up, forward)
        return [float(point[0]), float(point[1]), float(point[2])]


def proportions(dice: Dice) -> tuple[dict[str, float], dict[str, float]]:
    """A random person's `size` and `traits`, as in `Body`."""
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


def rotations(degrees: F32) -> F64:
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


def bone_frames(root: F64, turns: F64) -> F64:
    """Each bone's axes (17, 3, 3): its turn after its parent's, the pelvis's after `root`."""
    frames = np.empty((17, 3, 3))
    for bone, parent in enumerate(_PARENTS):
        frames[bone] = (root if parent < 0 else frames[parent]) @ turns[bone]
    return frames


def joint_places(frames: F64, size: dict[str, float]) -> F64:
    """Where each bone begins, (17, 3) metres from the pelvis."""
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


def inside_trunk(frames: F64, joints: F64, size: dict[str, float]) -> bool:
    """Whether an elbow, a wrist or a hand sinks into the chest or the belly."""
    hands = joints[9:11] - frames[9:11, :, 1] * (0.7 * size["hand"])
    points = np.concatenate([joints[7:11], hands]) - joints[CHEST]
    x, y, z = (points @ frames[CHEST]).T / size["height"]
    return bool(np.any((x / 0.085) ** 2 + (y / 0.16) ** 2 + (z / 0.055) ** 2 < 1.0))


def head_centre(frames: F64, joints: F64, size: dict[str, float]) -> F64:
    """The middle of the head, (3,): above the joint it turns about, and a little ahead."""
    centre: F64 = joints[HEAD] + frames[HEAD] @ (0.0, 0.92 * size["head"], 0.16 * size["head"])
    return centre


def coco_keypoints(frames: F64, joints: F64, size: dict[str, float]) -> F64:
    """COCO's 17 keypoints, (17, 3) metres: five on the face, then twelve joints."""
    coco = np.empty((17, 3))
    coco[:5] = head_centre(frames, joints, size) + (_FACE * size["head"]) @ frames[HEAD].T
    coco[5:] = joints[[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]]
    return coco
