"""What people carry: a backpack, a bag or a stick in the hand, a ball."""

from __future__ import annotations

import numpy as np

from calibration.people.dice import Dice
from calibration.people.materials import BAG
from calibration.people.skeleton import CHEST, HAND, Body
from calibration.people.volumes import Canvas

__all__ = ["draw_belongings"]

_BALL, _STICK, _HANDBAG = range(3)


def draw_belongings(canvas: Canvas, body: Body, dice: Dice) -> None:
    """Now and then a backpack, and something in one hand."""
    h, torso = body.size["height"], body.size["torso"]
    if dice.chance(0.07):
        canvas.ellipsoid(
            body.at(CHEST, 0, 0.05 * torso, -0.115 * h), body.frames[CHEST],
            (0.085 * h, 0.5 * torso, 0.07 * h), BAG,
        )  # fmt: skip
    if dice.chance(0.10):
        side = int(dice.chance(0.5))
        hand = body.at(HAND + side, 0, -0.7 * body.size["hand"], 0)
        kind = dice.pick((1.0, 1.0, 1.0))
        size = dice.u(0.04, 0.09) * h
        if kind == _BALL:
            canvas.ellipsoid(hand, np.eye(3), (size, size, size), BAG)
        elif kind == _STICK:
            reach = dice.u(0.2, 0.5) * h
            far = [hand[0] + dice.u(-1, 1) * reach, hand[1] + dice.u(-1, 1) * reach, hand[2]]
            canvas.tube(hand, far, 0.008 * h, dice.u(0.006, 0.02) * h, BAG)
        else:
            low = [hand[0], hand[1] + dice.u(0.08, 0.2) * h, hand[2]]
            canvas.tube([hand[0], hand[1] + 0.03 * h, hand[2]], low, 0.05 * h, 0.08 * h, BAG,
                        cap=0.1)  # fmt: skip
