"""Clothed bodies: trunk, arms and legs in a random wardrobe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.people.dice import Dice
from calibration.people.materials import (
    BOTTOM,
    BOTTOM2,
    INNER,
    SHOES,
    SKIN,
    SOCKS,
    SOLES,
    TOP,
    TOP2,
    random_pattern,
)
from calibration.people.skeleton import (
    CHEST,
    FOOT,
    HAND,
    HEAD,
    LUMBAR,
    NECK,
    PELVIS,
    SHIN,
    UPPER_ARM,
    Body,
)
from calibration.people.volumes import Canvas, Flat, Pattern, Vec

__all__ = ["draw_clothed"]

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

_BARE, _SHOES, _BOOTS = range(3)


@dataclass(frozen=True)
class _Wardrobe:
    """What a person wears on trunk, arms and thighs; lengths in metres.

    `sleeve` and `leg` are shares of the whole limb, 1 reaching the wrist or ankle; `skirt` is a
    share of the thigh, over 1 below the knee, 0 for none; `dress`: a skirt in one with the top;
    `ease` and `leg_ease`: how loose top and trousers are.
    """

    sleeve: float
    leg: float
    skirt: float
    dress: bool
    ease: float
    leg_ease: float
    pattern: Pattern | None
    leg_pattern: Pattern | None


def _wardrobe(dice: Dice, body: Body) -> _Wardrobe:
    h, feminine = body.size["height"], body.traits["feminine"]
    sleeve = (0.0, dice.u(0.22, 0.42), dice.u(0.6, 0.8), 0.97)[
        dice.pick((0.10 + 0.12 * feminine, 0.42, 0.06, 0.42))
    ]
    leg = (dice.u(0.1, 0.25), dice.u(0.28, 0.5), dice.u(0.6, 0.8), 0.97)[
        dice.pick((0.06 + 0.08 * feminine, 0.24, 0.06, 0.62))
    ]
    skirt = dice.u(0.45, 1.4) if dice.chance(0.30 * feminine) else 0.0
    dress = skirt > 0 and dice.chance(0.5)
    ease = dice.u(0.0, 1.0) ** 1.5 * 0.013 * h
    leg_ease = (0.1 + dice.u(0.0, 1.0) ** 1.5) * 0.013 * h
    pattern = random_pattern(dice)
    leg_pattern = random_pattern(dice) if dice.chance(0.3) else None
    if skirt:
        leg = 0.97 if dice.chance(0.15) else 0.0
    return _Wardrobe(sleeve, leg, skirt, dress, ease, leg_ease, pattern, leg_pattern)


@dataclass(frozen=True)
class _Legwear:
    """Below the knee: how far trousers widen, metres; footwear; socks as a share of the shin."""

    flare: float
    footwear: int
    socks: float


def _legwear(dice: Dice, h: float) -> _Legwear:
    flare = (dice.u(-0.3, 0.4) if dice.chance(0.7) else dice.u(0.4, 1.2)) * 0.014 * h
    footwear = dice.pick((1.0, 5.0, 1.0))
    return _Legwear(flare, footwear, dice.u(0.05, 0.45) if dice.chance(0.4) else 0.0)


@dataclass(frozen=True)
class _Girths:
    """Half widths of hip, waist and chest, half depths of trunk and belly, in metres."""

    hip: float
    waist: float
    chest: float
    deep: float
    fat: float


def _girths(body: Body) -> _Girths:
    h, k, feminine = body.size["height"], body.traits["build"], body.traits["feminine"]
    return _Girths(
        hip=(body.size["hip"] + 0.040 * h * k) * (1 + 0.04 * feminine),
        waist=0.074 * h * k**1.15 * (1 - 0.10 * feminine),
        chest=(0.78 * body.size["shoulder"] + 0.012 * h * k) * (1 - 0.03 * feminine),
        deep=0.062 * h * k,
        fat=0.058 * h * k**1.35,
    )


class _Dresser:
    """Draws one body with one random wardrobe on a canvas."""

    def __init__(self, canvas: Canvas, body: Body, dice: Dice) -> None:
        self.canvas, self.body, self.dice = canvas, body, dice
        self.h = body.size["height"]
        self.k = body.traits["build"]
        # Small figures go without thumbs, soles and calves.
        self.fine = self.h * canvas.focal_px / canvas.distance > 220
        self.joints = body.joints
        self.frames = body.frames
        self.at = body.at
        self.girths = _girths(body)
        self.wear = _wardrobe(dice, body)
        self.bottom = TOP if self.wear.dress else BOTTOM
        # How squarely the chest faces the camera: 1 from the front, -1 from behind.
        self.facing = float(-self.frames[CHEST][2, 2])

    def draw(self) -> None:
        tucked = self.hips()
        self.top(tucked)
        self.shoulders()
        self.neck()
        self.arm(0)
        legwear = _legwear(self.dice, self.h)
        self.leg(0, legwear)
        self.arm(1)
        self.leg(1, legwear)
        if self.wear.skirt:
            self.skirt()

    def flat(self, bone: int, da: float, db: float) -> Flat:
        frame = self.frames[bone]
        return frame[:, 0].tolist(), frame[:, 2].tolist(), da, db

    def hips(self) -> bool:
        """Crotch to hip, with the seat; whether the top is tucked in and the waist drawn too."""
        torso, tube = self.body.size["torso"], self.canvas.tube
        hip, deep = self.girths.hip, self.girths.deep
        crotch, low = self.at(PELVIS, 0, -0.17 * torso, 0), self.at(PELVIS, 0, 0.03 * torso, 0)
        tube(crotch, low, 0.72 * hip, hip, self.bottom, cap=0.4,
             flat=self.flat(PELVIS, 0.85 * deep, 1.08 * deep))  # fmt: skip
        tucked = self.dice.chance(0.35)
        if tucked:
            tube(low, self.at(LUMBAR, 0, 0, 0), hip, self.girths.waist, self.bottom, cap=0.25,
                 flat=self.flat(PELVIS, 1.08 * deep, self.girths.fat))  # fmt: skip
        # Buttocks fill the seat; from the front they cannot show.
        seat_shows = self.frames[PELVIS][2, 2] > -0.6 and not self.wear.skirt
        for sign in (1.0, -1.0) if seat_shows else ():
            seat = self.at(PELVIS, sign * 0.48 * hip, -0.04 * torso, -0.42 * deep)
            self.canvas.ellipsoid(
                seat, self.frames[PELVIS], (0.54 * hip, 0.19 * torso, 0.66 * deep), self.bottom
            )
        return tucked

    def top_pattern(self) -> tuple[Pattern | None, int]:
        """The top's pattern and its second colour: the wardrobe's, or an open or buttoned front."""
        dice = self.dice
        panel = dice.pick((5.0, 1.0, 0.8))  # none, open, buttoned
        if not panel or self.wear.pattern is not None or self.facing <= 0:
            return self.wear.pattern, TOP2
        # A strip down the front, slid round by the turn.
        centre = np.float32(self.frames[CHEST][0, 2])
        half = np.float32((dice.u(0.15, 0.45) if panel == 1 else 0.05) * self.facing)

        def strip(_: Floats, across: Floats) -> Bools:
            inked: Bools = np.abs(across - centre) < half
            return inked

        return strip, INNER

    def top(self, tucked: bool) -> None:
        """The top from its hem to the shoulders."""
        h, dice, size, ease = self.h, self.dice, self.body.size, self.wear.ease
        torso, girths = size["torso"], self.girths
        hip, waist, chest, deep, fat = (
            girths.hip, girths.waist, girths.chest, girths.deep, girths.fat
        )  # fmt: skip
        hem_drop = 0.0 if tucked else dice.u(-0.10, 0.12) * torso
        hem = self.at(PELVIS, 0, 0.20 * torso if tucked else -hem_drop, 0)
        lumbar, mid = self.at(LUMBAR, 0, 0, 0), self.at(CHEST, 0, 0.10 * torso, 0)
        collar = self.at(CHEST, 0, 0.375 * torso, 0)
        pattern, other = self.top_pattern()

        def cloth(a: Vec, b: Vec, wa: float, wb: float, da: float, db: float, bone: int,
                  cap: float) -> None:  # fmt: skip
            self.canvas.tube(
                a, b, wa + ease, wb + ease, TOP, cap=cap, pattern=pattern, other=other,
                flat=self.flat(bone, da + 0.8 * ease, db + 0.8 * ease),
            )  # fmt: skip

        loose = dice.u(0.0, 0.6) if not tucked else 0.0
        waist_out = waist + loose * max(0.0, min(hip, chest) - waist)
        if tucked:
            cloth(hem, lumbar, 0.5 * (hip + waist), waist_out, deep, fat, PELVIS, 0.1)
        else:
            cloth(hem, lumbar, hip + 0.004 * h, waist_out, 1.1 * deep, fat, PELVIS, 0.06)
        cloth(lumbar, mid, waist_out, chest, fat, 1.08 * deep, LUMBAR, 0.3)
        cloth(mid, collar, chest, 0.74 * size["shoulder"], 1.08 * deep, 0.70 * deep, CHEST, 0.25)
        # Rounder where the cloth is plain; a pattern would stop at the bulge.
        if pattern is None:
            self.bulges()

    def bulges(self) -> None:
        """Bust and belly under a plain top."""
        h, k, torso, girths = self.h, self.k, self.body.size["torso"], self.girths
        if self.body.traits["feminine"] > 0.5:
            bust = self.dice.u(0.7, 1.1) * 0.036 * h * k**0.5
            for sign in (1.0, -1.0) if self.facing > -0.6 else ():
                self.canvas.ellipsoid(
                    self.at(CHEST, sign * 0.44 * girths.chest, 0.11 * torso, 0.70 * girths.deep),
                    self.frames[CHEST], (1.2 * bust, 1.25 * bust, bust), TOP,
                )  # fmt: skip
        if k > 1.12:
            self.canvas.ellipsoid(
                self.at(LUMBAR, 0, 0, 0.32 * girths.fat), self.frames[LUMBAR],
                (0.96 * girths.waist, 0.40 * torso, 0.88 * girths.fat), TOP,
            )  # fmt: skip

    def shoulders(self) -> None:
        """The slopes from the neck to the shoulders."""
        h, k = self.h, self.k
        bare = self.wear.sleeve == 0.0 and self.dice.chance(0.5)
        for side in (0, 1):
            inner = self.at(NECK, (0.25 - 0.5 * side) * self.body.size["shoulder"], -0.012 * h, 0)
            outer = self.joints[UPPER_ARM + side].tolist()
            self.canvas.tube(
                inner, outer, 0.034 * h * k**0.5, 0.031 * h * k**0.6, SKIN if bare else TOP
            )

    def neck(self) -> None:
        """The neck, with a neckline and perhaps a collar."""
        h, k, dice, tube = self.h, self.k, self.dice, self.canvas.tube
        neck = 0.031 * h * k**0.5 * (1 - 0.12 * self.body.traits["feminine"])
        base = self.at(NECK, 0, -0.02 * h, 0.0)
        skull = self.at(HEAD, 0, 0.35 * self.body.size["head"], 0)
        if dice.chance(0.75) and self.facing > -0.5:
            # A neckline; the neck's foot shows in front.
            opening = self.at(NECK, 0, -dice.u(0.01, 0.05) * h, 0.022 * h)
            tube(opening, base, 0.6 * neck, 1.25 * neck, SKIN)
        if dice.pick((3.0, 1.0)):
            collar = self.at(NECK, 0, dice.u(0.005, 0.03) * h, 0.004 * h)
            tube(base, collar, 1.5 * neck, 1.22 * neck, TOP, cap=0.1)
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
        h, k, wear = self.h, self.k, self.wear
        thin = 1 - 0.12 * self.body.traits["feminine"]
        shoulder, elbow, wrist = (self.joints[b + side].tolist() for b in (5, 7, 9))
        ra, rb, rc = (r * h * k**p * thin for r, p in ((0.030, 0.8), (0.0225, 0.6), (0.0155, 0.4)))
        first = wear.sleeve * 2.0
        self.limb(shoulder, elbow, (ra, rb), 0.002 * h, first, TOP, wear.ease + 0.002 * h,
                  wear.pattern, TOP2, 0.3 * wear.ease)  # fmt: skip
        self.limb(elbow, wrist, (rb * 1.03, rc), 0.004 * h, first - 1.0, TOP,
                  0.7 * wear.ease + 0.003 * h, wear.pattern, TOP2)  # fmt: skip
        self.hand(side, wrist, rc)

    def hand(self, side: int, wrist: Vec, wrist_radius: float) -> None:
        bone = HAND + side
        hand, sign = self.body.size["hand"], 1.0 - 2.0 * side
        tube = self.canvas.tube
        # The palm's flat side faces the body: thin along left, wide along forward.
        knuckles = self.at(bone, 0, -0.45 * hand, 0)
        tube(wrist, knuckles, 0.62 * wrist_radius, 0.105 * hand, SKIN, cap=0.5,
             flat=self.flat(bone, 0.95 * wrist_radius, 0.23 * hand))  # fmt: skip
        curl = self.dice.u(0.0, 0.7)
        tips = self.at(bone, -sign * curl * 0.5 * hand, -(0.95 - 0.3 * curl) * hand, 0)
        tube(knuckles, tips, 0.10 * hand, 0.05 * hand, SKIN, cap=0.7,
             flat=self.flat(bone, 0.21 * hand, 0.12 * hand))  # fmt: skip
        if self.fine:
            root = self.at(bone, 0, -0.15 * hand, 0)
            tip = self.at(bone, 0, -0.5 * hand, 0.34 * hand)
            tube(root, tip, 0.085 * hand, 0.06 * hand, SKIN)

    def leg(self, side: int, legwear: _Legwear) -> None:
        h, k, size, wear = self.h, self.k, self.body.size, self.wear
        hip, knee, ankle = (self.joints[b + side].tolist() for b in (11, 13, 15))
        ra, rb, rc = (r * h * k**p for r, p in ((0.053, 0.85), (0.033, 0.6), (0.0205, 0.4)))
        first = wear.leg * 2.0
        self.limb(hip, knee, (ra, rb), 0.004 * h, first, BOTTOM, wear.leg_ease,
                  wear.leg_pattern, BOTTOM2, max(legwear.flare, 0.0) * 0.5)  # fmt: skip
        calf = self.at(SHIN + side, 0, -0.30 * size["shin"], -0.010 * h)
        covered = first - 1.0
        if covered < 0.9 and self.fine:
            # The calf's muscle sits high and behind.
            self.canvas.ellipsoid(
                calf, self.frames[SHIN + side], (0.95 * rb, 0.30 * size["shin"], rb), SKIN
            )
        self.limb(knee, ankle, (rb, rc), 0.002 * h, covered, BOTTOM, 0.8 * wear.leg_ease,
                  wear.leg_pattern, BOTTOM2, legwear.flare)  # fmt: skip
        self.foot(side, legwear, rc)
        if covered < 0.9:
            self.boot_or_sock(side, legwear, (rb, rc))

    def foot(self, side: int, legwear: _Legwear, ankle_radius: float) -> None:
        bone, foot = FOOT + side, self.body.size["foot"]
        tube, frame = self.canvas.tube, self.frames[bone]
        axes = (frame[:, 0].tolist(), frame[:, 1].tolist())
        sole = 0.032 * self.h
        heel = self.at(bone, 0, -0.55 * sole, -0.20 * foot)
        toe = self.at(bone, 0, -0.74 * sole, 0.82 * foot)
        cloth, bulk = (SKIN, 1.0) if legwear.footwear == _BARE else (SHOES, 1.13)
        wide = 0.022 * self.h * bulk
        ankle, instep = self.at(bone, 0, 0, 0), self.at(bone, 0, -0.5 * sole, 0.1 * foot)
        tube(ankle, instep, ankle_radius * 1.1, wide, cloth)
        tube(heel, toe, wide, wide, cloth, cap=0.9, belly=0.12 * wide,
             flat=(*axes, 0.58 * sole * bulk, 0.34 * sole * bulk))  # fmt: skip
        if legwear.footwear != _BARE and self.fine:
            back = self.at(bone, 0, -0.95 * sole, -0.22 * foot)
            front = self.at(bone, 0, -0.98 * sole, 0.84 * foot)
            tube(back, front, 1.05 * wide, wide, SOLES, cap=0.9,
                 flat=(*axes, 0.18 * sole, 0.18 * sole))  # fmt: skip

    def boot_or_sock(self, side: int, legwear: _Legwear, radii: tuple[float, float]) -> None:
        """What goes up a shin that trousers leave free; `radii` of knee and ankle."""
        shin, (rb, rc) = self.body.size["shin"], radii
        ankle = self.at(FOOT + side, 0, 0, 0)
        if legwear.footwear == _BOOTS:
            shaft = self.at(SHIN + side, 0, -shin * 0.55, 0)
            self.canvas.tube(shaft, ankle, rb * 1.05, rc * 1.4, SHOES, cap=0.3)
        elif legwear.footwear == _SHOES and legwear.socks:
            high = self.at(SHIN + side, 0, -shin * (1 - legwear.socks), 0)
            wide = rc + (rb - rc) * legwear.socks + 0.004 * self.h
            self.canvas.tube(high, ankle, wide, rc + 0.003 * self.h, SOCKS, cap=0.3)

    def skirt(self) -> None:
        """A cone from the waist about both thighs to a hem part of the way down."""
        h, k, wear = self.h, self.k, self.wear
        pattern, other = (wear.pattern, TOP2) if wear.dress else (wear.leg_pattern, BOTTOM2)
        waist = self.at(PELVIS, 0, 0.2 * self.body.size["torso"], 0)
        wide = 0.085 * h * k
        hips, knees, ankles = (0.5 * (self.joints[b] + self.joints[b + 1]) for b in (11, 13, 15))
        apart = 0.5 * float(np.linalg.norm(self.joints[13] - self.joints[14]))
        share = min(wear.skirt, 1.0)
        end = hips + (knees - hips) * share + (ankles - knees) * (0.9 * max(wear.skirt - 1.0, 0.0))
        spread = max(0.10 * h * k, apart * share + 0.05 * h) * (1.0 + self.dice.u(0, 0.3))
        self.canvas.tube(
            waist, end.tolist(), wide, spread, self.bottom, cap=0.12, pattern=pattern, other=other,
            belly=0.02 * h, flat=self.flat(PELVIS, 0.065 * h * k, 0.75 * spread),
        )  # fmt: skip


def draw_clothed(canvas: Canvas, body: Body, dice: Dice) -> None:
    """Draw the body up to the neck in random clothes."""
    _Dresser(canvas, body, dice).draw()
