"""Shaded volumes on a depth buffer: the canvas that tubes and ellipsoids are cast on.

Each volume is cast analytically, one depth and one shade a pixel, so that limbs hide each other
as they should and a joint's visibility can be read back. Points are in the camera's frame: x
right, y down, z away from the camera, in metres, the person's pelvis at the origin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FAR", "Canvas", "Flat", "Painter", "Pattern", "Vec"]

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Pair = tuple[float, float]

Vec = list[float]
Pattern = Callable[[Floats, Floats], Bools]  # metres along, -1..1 across -> second colour?
Painter = Callable[[Floats, Floats, Floats], U8]  # metres left, up, forward -> material
Flat = tuple[Vec, Vec, float, float]  # left axis, forward axis, depth radius at a, at b

FAR = np.float32(1e6)  # the depth where nothing was drawn


def _section(
    radii: Pair, scales: Pair, flat: Flat | None, direction: Pair, cap: float
) -> tuple[Pair, Pair, Pair]:
    """A tube's half width in px, half depth in metres and rounding in px, each at its two ends.

    `scales` are pixels a metre, `direction` the unit vector from end to end in the picture.
    """
    (ra, rb), (sa, sb) = radii, scales
    if flat is None:
        wide_a, wide_b = ra * sa, rb * sb
        return (wide_a, wide_b), radii, (wide_a * cap, wide_b * cap)
    ux, uy = direction
    (lx, ly, lz), (fx, fy, fz), da, db = flat

    def reach(left: float, forward: float) -> Pair:
        # The ellipse's half width along a direction with these squared shares of its axes.
        return (
            math.sqrt(left * ra * ra + forward * da * da),
            math.sqrt(left * rb * rb + forward * db * db),
        )

    across_a, across_b = reach((ly * ux - lx * uy) ** 2, (fy * ux - fx * uy) ** 2)
    wide_a, wide_b = sa * across_a, sb * across_b
    bulges = reach(lz * lz, fz * fz)
    # Seen end on, the cut end itself shows.
    along_a, along_b = reach((lx * ux + ly * uy) ** 2, (fx * ux + fy * uy) ** 2)
    ends = (max(sa * along_a, cap * wide_a), max(sb * along_b, cap * wide_b))
    return (wide_a, wide_b), bulges, ends


def _tube_lighting(
    direction: Pair, rise: float, run: float, light: Vec
) -> tuple[float, float, float]:
    """How much light the parts of a tube's surface normal catch: across, along and towards us.

    The normal spans the picture's across direction and the one that faces the camera square to
    the axis; the axis goes `rise` metres deeper over `run` metres of the picture.
    """
    ux, uy = direction
    norm = math.hypot(rise, run)
    mx, my, mz = ux * rise / norm, uy * rise / norm, -run / norm
    lx, ly, lz = light
    return ux * ly - uy * lx, ux * lx + uy * ly, mx * lx + my * ly + mz * lz


@dataclass
class Canvas:
    """Depth, shade and material of the nearest surface at each pixel.

    `depth` (H, W) float32 metres from the pelvis, `FAR` where empty; `shade` (H, W) float32;
    `part` (H, W) uint8 a row of `calibration.people.materials`, 0 where empty.
    """

    image_hw: tuple[int, int]
    focal_px: float
    centre_xy: tuple[float, float]
    distance: float
    light: Vec  # camera axes; its length is the strength
    depth: F32 = field(init=False)
    shade: F32 = field(init=False)
    part: U8 = field(init=False)

    def __post_init__(self) -> None:
        self.depth = np.full(self.image_hw, FAR, np.float32)
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
        flat: Flat | None = None, cap: float = 1.0, pattern: Pattern | None = None, other: int = 0,
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
        (wide_a, wide_b), (bulge_a, bulge_b), (end_a, end_b) = _section(
            (ra, rb), (sa, sb), flat, (ux, uy), cap
        )
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
        # Where each pixel lies: 0..1 along the axis, past its ends, and -1..1 across.
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
        # How far the surface stands out towards the camera, as a share of the half depth.
        front = across * across
        front += beyond * beyond
        np.subtract(1.0, front, out=front)
        inside = front > 0.0
        np.maximum(front, 0.0, out=front)
        np.sqrt(front, out=front)
        rise = b[2] - a[2]
        z = along * rise
        z += a[2]
        z -= front * (0.5 * (bulge_a + bulge_b))
        run = max(length / (0.5 * (sa + sb)), 1e-4)
        lit_across, lit_beyond, lit_front = _tube_lighting((ux, uy), rise, run, self.light)
        shade = across * lit_across
        beyond *= lit_beyond
        shade += beyond
        shade += front * lit_front
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
        # The quadratic a x² + b y² + c z² + 2 (d x y + e x z + f y z) = 1, solved for the nearer z.
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
