"""Heads: a skull and a jaw with a painted face, ears and nose, hair and hats."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.people.dice import Dice
from calibration.people.materials import (
    BROW,
    EYE_WHITE,
    GLASSES,
    HAIR,
    HAT,
    HAT2,
    IRIS,
    LIPS,
    MASK,
    SKIN,
)
from calibration.people.skeleton import HEAD, Body, head_centre
from calibration.people.volumes import Canvas, Painter, Vec

__all__ = ["draw_head"]

U8 = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Triple = tuple[float, float, float]

_NO_HAIR, _SHORT, _LONG_ABOUT_FACE, _LONG, _BIG, _TIED = range(6)
_NO_HAT, _CAP, _TALL_HAT, _BRIMMED, _BULKY = range(5)
_NO_WEAR, _GLASSES, _SUNGLASSES, _MASK = range(4)


def _face_painter(dice: Dice, unit: float, male: bool) -> Painter:
    """Materials on the head's front: eyes, brows, mouth, beard, glasses or a mask."""
    inverse = np.float32(1.0 / unit)
    beard = male and dice.chance(0.3)
    beard_top = np.float32(-dice.u(0.25, 0.42))
    wear = dice.pick((8.2, 0.9, 0.5, 0.25))
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
        if wear == _SUNGLASSES:
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
        if wear == _GLASSES:
            wide = square * np.float32(1 / 0.24**2) + rise * rise * np.float32(1 / 0.19**2)
            out[front & (np.abs(wide - 1) < 0.28)] = GLASSES
        if wear != _SUNGLASSES:
            bow = y - np.float32(brow_y) + np.float32(0.9) * square
            out[front & (np.abs(bow) < 0.035) & (np.abs(across) < 0.17)] = BROW
        bow = y + np.float32(0.56) - np.float32(smile) * x * x
        out[front & (x < 0.26) & (np.abs(bow) < np.float32(lips) * (1.25 - 3.6 * x))] = LIPS
        if wear == _MASK:
            out[front & (y < -0.14)] = MASK
        return out

    return paint


def _shifted(paint: Painter, up_by: float, forward_by: float) -> Painter:
    """A painter for a volume whose centre lies this far up and ahead of the painting's."""
    more_up, more_forward = np.float32(up_by), np.float32(forward_by)

    def shifted(left: Floats, up: Floats, forward: Floats) -> U8:
        return paint(left, up + more_up, forward + more_forward)

    return shifted


def _hair_painter(first: Triple, level: float) -> Painter:
    """Hair on the side of a plane where first . (left, up, forward) > level; holes elsewhere."""
    a, b, c = (np.float32(value) for value in first)

    def paint(left: Floats, up: Floats, forward: Floats) -> U8:
        kept: U8 = (left * a + up * b + forward * c > np.float32(level)).astype(np.uint8)
        return kept * np.uint8(HAIR)

    return paint


def _crown_painter(level: float) -> Painter:
    """Hat above a level that rises a little to the front; holes below."""

    def paint(_: Floats, up: Floats, forward: Floats) -> U8:
        tilt = up - np.float32(0.12) * forward
        band = tilt > np.float32(level)
        return band.astype(np.uint8) * np.uint8(HAT)

    return paint


class _Head:
    """Draws one head; lengths are in units of half its height, from its centre."""

    def __init__(self, canvas: Canvas, body: Body, dice: Dice) -> None:
        self.canvas, self.dice = canvas, dice
        self.unit, self.frame = body.size["head"], body.frames[HEAD]
        self.origin = head_centre(body.frames, body.joints, body.size)
        self.feminine, self.child = body.traits["feminine"], body.traits["child"]

    def at(self, left: float, up: float, forward: float) -> Vec:
        unit = self.unit
        point = self.origin + self.frame @ (left * unit, up * unit, forward * unit)
        return [float(point[0]), float(point[1]), float(point[2])]

    def blob(self, centre: Triple, axes: Triple, part: int, paint: Painter | None = None) -> None:
        a, b, c = (self.unit * value for value in axes)
        self.canvas.ellipsoid(self.at(*centre), self.frame, (a, b, c), part, paint=paint)

    def tube(self, a: Triple, b: Triple, ra: float, rb: float, part: int) -> None:
        self.canvas.tube(self.at(*a), self.at(*b), ra * self.unit, rb * self.unit, part)

    def draw(self) -> None:
        self.face()
        style = self.dice.pick(
            (0.05 + 0.05 * (1 - self.feminine), 1.3 - self.feminine, 0.25 + self.feminine,
             0.5 * self.feminine, 0.12, 0.35 * self.feminine)
        )  # fmt: skip
        hat = self.dice.pick((7.6, 1.0, 0.6, 0.5, 0.4))
        volume = self.dice.u(1.05, 1.17)  # hair, and a hat over it, as shares of the skull
        if style != _NO_HAIR:
            self.hair(style, volume)
        if hat != _NO_HAT:
            self.hat(hat, volume)

    def face(self) -> None:
        unit, sideways, towards = self.unit, self.frame[2, 0], self.frame[2, 2]
        paint = _face_painter(self.dice, unit, self.feminine < 0.4 and self.child < 0.3)
        jaw = self.dice.u(0.54, 0.62)
        seen = towards < 0.8  # else only the back of the head shows
        on_skull = _shifted(paint, 0.22 * unit, -0.08 * unit) if seen else None
        on_jaw = _shifted(paint, -0.25 * unit, 0.10 * unit) if seen else None
        self.blob((0, 0.22, -0.08), (0.70, 0.78, 0.86), SKIN, on_skull)
        self.blob((0, -0.25, 0.10), (jaw, 0.75, 0.72), SKIN, on_jaw)
        if seen:
            self.tube((0, 0.02, 0.72), (0, -0.20, 0.84), 0.06, 0.105, SKIN)
        for sign in (1.0, -1.0):
            if sign * sideways < 0.6:  # else on the far side
                self.blob((sign * 0.69, -0.06, -0.08), (0.08, 0.20, 0.13), SKIN)

    def hair(self, style: int, volume: float) -> None:
        dice, unit = self.dice, self.unit
        # Hair grows behind a plane from the forehead to the nape.
        line = (dice.u(-0.03, 0.06) if dice.chance(0.85) else dice.u(0.1, 0.35)) * unit
        parting = dice.n(0, 0.12)
        level = line - 0.24 * unit * 0.76 - 0.10 * unit * 0.65
        grow = volume if style != _BIG else dice.u(1.25, 1.6)
        self.blob((0, 0.24, -0.10), (0.70 * grow, 0.78 * grow, 0.86 * grow), HAIR,
                  _hair_painter((parting, 0.76, -0.65), level))  # fmt: skip
        if style in (_LONG_ABOUT_FACE, _LONG):
            # Long hair falls behind, and may frame the face.
            drop = dice.u(0.6, 1.5)
            wide = dice.u(0.55, 0.8)
            self.blob((0, 0.25 - 0.75 * drop, -0.50), (wide, 0.85 * drop, 0.42), HAIR)
            if style == _LONG_ABOUT_FACE or dice.chance(0.4):
                length = dice.u(0.5, 1.0) * drop
                for sign in (1.0, -1.0):
                    self.blob(
                        (sign * 0.66, 0.3 - 0.7 * length, -0.14), (0.17, 0.8 * length, 0.34), HAIR
                    )
        if style == _TIED:
            if dice.chance(0.5):
                self.blob((0, dice.u(0.3, 1.0), -0.95), (0.33, 0.33, 0.33), HAIR)
            else:
                length = dice.u(0.6, 1.5)
                end = (dice.n(0, 0.2), 0.2 - length, -1.15)
                self.tube((0, 0.35, -0.92), end, 0.2, 0.08, HAIR)

    def hat(self, kind: int, volume: float) -> None:
        dice, unit = self.dice, self.unit
        brow = dice.u(0.38, 0.55) * unit
        grow = volume + (0.05 if kind != _BULKY else 0.15)
        tall = 0.78 * grow * (1.0 if kind != _TALL_HAT else dice.u(1.0, 1.25))
        self.blob((0, 0.24, -0.10), (0.70 * grow, tall, 0.86 * grow), HAT,
                  _crown_painter(brow - 0.24 * unit))  # fmt: skip
        level = brow / unit
        if kind == _CAP:
            self.blob((0, level + 0.03, 0.85), (0.52, 0.06, 0.55), HAT2)
        elif kind == _BRIMMED:
            wide = dice.u(1.15, 1.7)
            self.blob((0, level + 0.02, -0.08), (wide, 0.09, wide), HAT)


def draw_head(canvas: Canvas, body: Body, dice: Dice) -> None:
    """Draw a random face, hair and perhaps a hat on the body's head."""
    _Head(canvas, body, dice).draw()
