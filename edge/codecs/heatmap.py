"""Heatmaps: each keypoint as one map of scores, coarser than the input.

Formulas: mmpose ``get_heatmap_maximum``, then one of

- ``shift``: ``refine_keypoints``, a quarter of a cell towards the higher neighbour on each axis
- ``dark``: ``refine_keypoints_dark``, the maximum of a parabola through the logarithm of the
  blurred map, with derivatives over two cells (DARK, arXiv:1910.06278)
- ``dark-udp``: ``refine_keypoints_dark_udp``, the same with derivatives over one cell
  (UDP, arXiv:1911.07524)
- ``megvii``: ``MegviiHeatmap.decode`` (MSPN, arXiv:1901.00148), the maximum of the blurred map,
  half a cell on and a quarter towards the higher neighbour; its score is the maximum / 255 + 0.5

and ``MSRAHeatmap.decode``'s scale W / w from cells to input pixels, or ``UDPHeatmap.decode``'s
(W - 1) / (w - 1) where the crop is the unbiased one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edge.codecs.finite import finite_outputs, hide_lost
from edge.session import Array
from edge.spec import HeatmapRefinement, ModelSpec

__all__ = ["blur", "decode", "shortfall"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Cells = npt.NDArray[np.intp]


def decode(outputs: Mapping[str, Array], spec: ModelSpec) -> F32:
    """Keypoints (N, K, 3) float32: x and y in input pixels, score.

    ``outputs`` holds one array (N, K, h, w), raw: the score is the maximum and may exceed 1. Ties
    go to the first cell, row by row. A maximum of 0 or less puts the keypoint at cell (-1, -1), and
    what is not finite likewise, with the score 0.
    """
    (tensor,) = spec.outputs
    lost = ~np.isfinite(outputs[tensor.name]).all(axis=(2, 3)).reshape(-1)
    outputs = finite_outputs(outputs, spec)
    count, keypoints, height, width = outputs[tensor.name].shape
    maps = np.asarray(outputs[tensor.name], np.float32).reshape(-1, height, width)
    megvii = spec.heatmap_refinement == "megvii"
    if megvii:
        maps = blur(maps, spec.heatmap_blur_kernel)
    flat = maps.reshape(len(maps), -1)
    best = flat.argmax(axis=1)
    score = flat[np.arange(len(flat)), best]
    cells = np.stack([best % width, best // width], axis=1)
    seen = np.flatnonzero(score > 0)
    places = np.full((len(maps), 2), -1, np.float64)
    places[seen] = cells[seen]
    refine = _REFINEMENTS[spec.heatmap_refinement]
    if len(seen):
        places[seen] += refine(maps[seen], cells[seen, 0], cells[seen, 1], spec.heatmap_blur_kernel)
    decoded = np.empty((len(maps), 3), np.float32)
    decoded[:, :2] = places * _scale_xy(spec, height, width)
    decoded[:, 2] = score / 255 + 0.5 if megvii else score
    decoded[lost, 2] = 0
    return hide_lost(decoded).reshape(count, keypoints, 3)


def shortfall(outputs: Mapping[str, Array], spec: ModelSpec, points_xy: F32) -> F32:
    """How much less the maps hold at points (N, K, 2), input pixels, than at their maxima.

    (N, K) float32, by the nearest cell; about 0 where a point is as good an answer as the decoded
    one, be it far away. Points beyond the input count as its rim.
    """
    (tensor,) = spec.outputs
    maps = outputs[tensor.name]
    height, width = maps.shape[2:]
    cells = np.rint(points_xy / _scale_xy(spec, height, width)).astype(np.intp)
    cells = np.clip(cells, 0, [width - 1, height - 1])
    flat = maps.reshape(*maps.shape[:2], -1)
    index = cells[..., 1] * width + cells[..., 0]
    there = np.take_along_axis(flat, index[..., None], axis=2)[..., 0]
    return np.asarray(flat.max(axis=2) - there, np.float32)


def _scale_xy(spec: ModelSpec, height: int, width: int) -> F64:
    input_height, input_width = spec.input_hw
    less = 1 if spec.udp else 0
    return np.array(
        [(input_width - less) / (width - less), (input_height - less) / (height - less)]
    )


# --- refinements: offsets (M, 2) in cells of maxima at (x, y) of maps (M, h, w) -------------------


def _no_shift(maps: F32, x: Cells, y: Cells, kernel: int) -> F64:
    del maps, y, kernel
    return np.zeros((len(x), 2))


def _shift(maps: F32, x: Cells, y: Cells, kernel: int) -> F64:
    del kernel
    height, width = maps.shape[1:]
    along_x = (x > 1) & (x < width - 1) & (y > 0)
    along_y = (y > 1) & (y < height - 1) & (x > 0)
    offsets = np.zeros((len(maps), 2))
    for axis, (m, (dx, dy)) in enumerate(
        ((np.flatnonzero(along_x), (1, 0)), (np.flatnonzero(along_y), (0, 1)))
    ):
        above, below = maps[m, y[m] + dy, x[m] + dx], maps[m, y[m] - dy, x[m] - dx]
        offsets[m, axis] = 0.25 * np.sign(above - below)
    return offsets


def _dark(maps: F32, x: Cells, y: Cells, kernel: int) -> F64:
    height, width = maps.shape[1:]
    offsets = np.zeros((len(maps), 2))
    inner = np.flatnonzero((x > 1) & (x < width - 2) & (y > 1) & (y < height - 2))
    logs = np.log(np.maximum(blur(maps[inner], kernel), np.float32(1e-10)))
    m, x, y = np.arange(len(inner)), x[inner], y[inner]

    def at(dx: int, dy: int) -> F64:
        return logs[m, y + dy, x + dx].astype(np.float64)

    offsets[inner] = _peak(
        0.5 * (at(1, 0) - at(-1, 0)),
        0.5 * (at(0, 1) - at(0, -1)),
        0.25 * (at(2, 0) - 2 * at(0, 0) + at(-2, 0)),
        0.25 * (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)),
        0.25 * (at(0, 2) - 2 * at(0, 0) + at(0, -2)),
    )
    return offsets


def _dark_udp(maps: F32, x: Cells, y: Cells, kernel: int) -> F64:
    logs = np.log(np.clip(blur(maps, kernel), np.float32(1e-3), np.float32(50)))
    logs = np.pad(logs, ((0, 0), (1, 1), (1, 1)), mode="edge")
    m = np.arange(len(maps))

    def at(dx: int, dy: int) -> F64:
        return logs[m, y + 1 + dy, x + 1 + dx].astype(np.float64)

    here, tiny = at(0, 0), float(np.finfo(np.float32).eps)
    return _peak(
        0.5 * (at(1, 0) - at(-1, 0)),
        0.5 * (at(0, 1) - at(0, -1)),
        at(1, 0) - 2 * here + at(-1, 0) + tiny,
        0.5 * (at(1, 1) - at(1, 0) - at(0, 1) + 2 * here - at(-1, 0) - at(0, -1) + at(-1, -1)),
        at(0, 1) - 2 * here + at(0, -1) + tiny,
    )


def _megvii(maps: F32, x: Cells, y: Cells, kernel: int) -> F64:
    del kernel
    height, width = maps.shape[1:]
    offsets = np.zeros((len(maps), 2))
    inner = np.flatnonzero((x > 1) & (x < width - 1) & (y > 1) & (y < height - 1))
    x, y = x[inner], y[inner]
    for axis, (dx, dy) in enumerate(((1, 0), (0, 1))):
        rise = maps[inner, y + dy, x + dx] - maps[inner, y - dy, x - dx]
        offsets[inner, axis] = 0.25 * np.sign(rise) + 0.5
    return offsets


_REFINEMENTS: dict[HeatmapRefinement, Callable[[F32, Cells, Cells, int], F64]] = {
    "none": _no_shift,
    "shift": _shift,
    "dark": _dark,
    "dark-udp": _dark_udp,
    "megvii": _megvii,
}

# cv2.getGaussianKernel has these for small sizes, as parts of their sum (9 since OpenCV 5).
_SMALL_BELLS = {
    3: (1, 2, 1),
    5: (1, 4, 6, 4, 1),
    7: (2, 7, 14, 18, 14, 7, 2),
    9: (4, 13, 30, 51, 60, 51, 30, 13, 4),
}


def _peak(dx: F64, dy: F64, dxx: F64, dxy: F64, dyy: F64) -> F64:
    """Where the parabola of these derivatives (M,) is flat, (M, 2); 0 where it has no such place.

    Newton's step -H^-1 g, the inverse of the 2x2 matrix H written out.
    """
    determinant = dxx * dyy - dxy * dxy
    found = determinant != 0
    determinant = np.where(found, determinant, 1)
    steps = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=1) / determinant[:, None]
    return np.asarray(np.where(found[:, None], steps, 0), np.float64)


def blur(maps: F32, kernel: int) -> F32:
    """Maps (M, h, w) blurred over ``kernel`` x ``kernel`` cells, each scaled to its old maximum.

    mmpose ``gaussian_blur``: cv2.GaussianBlur with sigma 0.3 * ((kernel - 1) / 2 - 1) + 0.8, or
    OpenCV's own filter for small kernels, zero beyond the rim.
    """
    # Separable: a product with one banded matrix an axis.
    blurred = _band(maps.shape[1], kernel) @ maps @ _band(maps.shape[2], kernel)
    peak = blurred.max(axis=(1, 2), keepdims=True)
    # Where all is below 0 as well: the score of a map without a peak is its old maximum, too.
    gain = np.divide(
        maps.max(axis=(1, 2), keepdims=True),
        peak,
        out=np.ones_like(peak),
        where=np.abs(peak) > np.finfo(np.float32).tiny,
    )
    return np.asarray(blurred * gain, np.float32)


def _band(size: int, kernel: int) -> F32:
    """The (size, size) matrix that blurs along an axis; it is symmetric."""
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    bell = np.exp(-np.square(np.arange(kernel) - kernel // 2) / (2 * sigma**2))
    if kernel in _SMALL_BELLS:
        bell = np.array(_SMALL_BELLS[kernel], np.float64)
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    reach = kernel // 2
    weights = bell[reach + np.minimum(distance, reach)] / bell.sum()
    return np.where(distance <= reach, weights, 0).astype(np.float32)
