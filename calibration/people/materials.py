"""What a pixel of a person is made of: the materials, their colours, and patterns of cloth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.people.dice import Dice
from calibration.people.volumes import Pattern

__all__ = [
    "BAG", "BOTTOM", "BOTTOM2", "BROW", "EYE_WHITE", "GLASSES", "HAIR", "HAT", "HAT2", "INNER",
    "IRIS", "LIPS", "MASK", "SHOES", "SKIN", "SOCKS", "SOLES", "TOP", "TOP2", "palette",
    "random_pattern",
]  # fmt: skip

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

# Rows of the palette; 0 is nothing.
(SKIN, LIPS, HAIR, BROW, EYE_WHITE, IRIS, TOP, TOP2, BOTTOM, BOTTOM2, SHOES, SOLES, SOCKS, HAT,
 HAT2, BAG, GLASSES, MASK, INNER) = range(1, 20)  # fmt: skip

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


def _cloth(dice: Dice) -> F32:
    """A garment's colour, red green blue in 0..255."""
    if dice.chance(0.55):
        base = _CLOTHS[dice.pick((1.6, 2, 1, 1.5, 1.5, 0.8, 1, 0.7, 0.6, 0.6, 0.7, 1))]
        lighter: F32 = base + np.float32(dice.n(0, 12))
        return lighter
    hue, saturation, value = dice.u(0, 6), dice.u(0.15, 1.0) ** 0.8, dice.u(0.2, 1.0)
    ramp = [max(0.0, min(k, 4.0 - k, 1.0)) for k in ((n + hue) % 6.0 for n in (5.0, 3.0, 1.0))]
    return np.array([255.0 * value * (1.0 - saturation * k) for k in ramp], np.float32)


def palette(dice: Dice) -> U8:
    """A random person's colours: (256, 1, 3) uint8 in blue, green, red by material."""
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


def random_pattern(dice: Dice) -> Pattern | None:
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
