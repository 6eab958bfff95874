"""Rendered people: a posed body dressed, drawn and coloured, with its keypoints in the picture.

`postures` poses a body on `skeleton`; here it is drawn, as seen through a perspective camera, from
the volumes of `clothing`, `heads` and `belongings`, and given colour. `skeleton` says which frames
body and camera have.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.people.belongings import draw_belongings
from calibration.people.clothing import draw_clothed
from calibration.people.dice import Dice
from calibration.people.heads import draw_head
from calibration.people.materials import TOP, TOP2, palette
from calibration.people.noise import noise_window
from calibration.people.skeleton import Body
from calibration.people.volumes import FAR, Canvas

__all__ = ["Figure", "render"]

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Bools = NDArray[np.bool_]

# How far, in shares of the person's height, the body's own surface may lie before a joint's
# centre and the joint still count as seen.
_COVER = np.array([0.02] + [0.012] * 2 + [0.02] * 2 + [0.062] * 2 + [0.045] * 2 + [0.04] * 2
                  + [0.095] * 2 + [0.065] * 2 + [0.05] * 2)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A rendered person.

    `colour_bgr` (h, w, 3) uint8 and `mask` (h, w) bool cover the window `origin_xy`.. of the
    picture; `keypoints_xy` (17, 2) float32 pixels; `hidden` (17,) bool: clearly covered by the
    person's own body.
    """

    colour_bgr: U8
    mask: Bools
    origin_xy: tuple[int, int]
    keypoints_xy: F32
    hidden: Bools


def render(
    rng: np.random.Generator, body: Body, image_hw: tuple[int, int], focal_px: float,
    centre_xy: tuple[float, float], distance: float, light: tuple[float, float, float],
) -> Figure | None:  # fmt: skip
    """Draw `body`, its pelvis `distance` metres off at `centre_xy` px; None if outside the image.

    `light` points from the person to the lamp in the camera's axes (unit length).
    """
    dice = Dice(rng)
    ambient = dice.u(0.45, 0.85)
    strength, rim = 1.2 - ambient, dice.u(0.05, 0.30)
    lamp = [light[0] * strength, light[1] * strength, light[2] * strength - rim]
    canvas = Canvas(image_hw, focal_px, centre_xy, distance, lamp)
    colours = palette(dice)
    draw_clothed(canvas, body, dice)
    draw_head(canvas, body, dice)
    draw_belongings(canvas, body, dice)

    columns = np.flatnonzero(canvas.part.any(axis=0))
    rows = np.flatnonzero(canvas.part.any(axis=1))
    if not len(columns):
        return None
    window = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    keypoints = np.array([canvas.project(point) for point in body.coco_xyz.tolist()])[:, :2]
    return Figure(
        colour_bgr=_colour(
            canvas, window, colours, ambient - 0.6 * rim + 0.06, body.size["height"], dice
        ),
        mask=canvas.part[window] > 0,
        origin_xy=(window[1].start, window[0].start),
        keypoints_xy=keypoints.astype(np.float32),
        hidden=_hidden(canvas, body, keypoints),
    )


def _colour(
    canvas: Canvas, window: tuple[slice, slice], colours: U8, ambient: float, height_m: float,
    dice: Dice,
) -> U8:  # fmt: skip
    """The window's materials in their colours, lit, darkened in depth and woven."""
    part, depth = canvas.part[window], canvas.depth[window]
    # Depth darkening (Luft et al. 2006): what lies behind a nearer edge is in its shade.
    near = np.minimum(depth, np.float32(0.6 * height_m))
    radius = max(3, int(0.02 * canvas.focal_px * height_m / canvas.distance)) | 1
    behind = near - cv2.blur(near, (radius, radius))
    np.clip(behind, 0.0, 0.12, out=behind)
    tone = canvas.shade[window] + np.float32(ambient)
    tone -= behind * np.float32(dice.u(1.0, 3.2))
    weave = noise_window(dice.rng, "hair" if dice.chance(0.3) else "cloth", part.shape)
    tone += (weave[..., 0] - np.float32(128.0)) * np.float32(dice.u(0.0005, 0.0026))
    np.maximum(tone, 0.12, out=tone)
    if dice.chance(0.15):
        # A printed cloth: blots of the second colour.
        blots = weave[..., 1] > 128 + dice.n(0, 25)
        part = np.where(blots & (part == TOP), np.uint8(TOP2), part)
    flat = cv2.applyColorMap(np.ascontiguousarray(part), colours)
    colour: U8 = cv2.multiply(flat, cv2.merge([tone] * 3), dtype=cv2.CV_8U)
    return colour


def _hidden(canvas: Canvas, body: Body, keypoints: NDArray[np.float64]) -> Bools:
    """Which keypoints (17, 2) px lie deeper under the body's own surface than they should."""
    height, width = canvas.image_hw
    x, y = np.floor(keypoints + 0.5).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    surface = canvas.depth[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    nearer = body.coco_xyz[:, 2] - surface > _COVER * body.size["height"]
    hidden: Bools = inside & nearer & (surface < FAR / 2)
    return hidden
