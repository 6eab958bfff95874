"""Crop, letterbox, resize and normalise (H, W, 3) uint8 images with numpy alone.

Without rotation every warp is separable, and so it is done: rows first (a gather of whole rows,
which is a memory copy, and one interpolation in 16-bit integers), columns second (a gather that
at once puts the channels apart and in order), then one multiply-add that is the column
interpolation and the normalisation together. Row weights are rounded to 1/128, so a pixel differs
from exact interpolation by at most one grey level; column weights are exact.

The large temporaries live in buffers of the calling thread and are used again: allocating
them for every picture costs more than the arithmetic.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import ImageError

__all__ = ["Normalization", "Placement", "center_letterbox", "check_image", "crop", "letterbox"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Normalization:
    """``(value - mean) / std`` of each channel, in grey levels 0..255.

    ``mean`` and ``std`` are in the order of the network's channels; ``swap_channels`` reverses the
    image's own order first (a BGR image for an RGB network).
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    swap_channels: bool = False


@dataclass(frozen=True)
class Placement:
    """Where a network's input lies in the image: image_xy = input_xy * scale_xy + offset_xy."""

    scale_xy: tuple[float, float]
    offset_xy: tuple[float, float]

    def to_image(self, points_xy: npt.ArrayLike) -> F32:
        """Points (..., 2) from input pixels to image pixels."""
        points = np.asarray(points_xy, np.float32)
        scale = np.array(self.scale_xy, np.float32)
        return np.asarray(points * scale + np.array(self.offset_xy, np.float32), np.float32)


def letterbox(
    image: U8,
    input_hw: tuple[int, int],
    pad_value: float,
    normalization: Normalization,
    *,
    out: F32 | None = None,
) -> tuple[F32, Placement]:
    """Fit a whole image into the top left of an input, the rest being ``pad_value``.

    mmdet's keep-ratio resize: s = min(W / w, H / h), new size int(w * s + 0.5) x int(h * s + 0.5),
    bilinear with half-pixel centres and repeated edges (cv2.resize INTER_LINEAR), one scale an
    axis on the way back. ``image`` is (h, w, 3) uint8; returns (3, H, W) float32, which is ``out``
    where that is given, and the placement. Raises ImageError for anything else.
    """
    check_image(image)
    height, width = input_hw
    rows, columns = image.shape[:2]
    scale = min(width / columns, height / rows)
    new_w, new_h = int(columns * scale + 0.5), int(rows * scale + 0.5)
    if new_w < 1 or new_h < 1:
        raise ImageError(
            f"an image of {rows}x{columns} (height x width) leaves nothing of a side at "
            f"{height}x{width}"
        )
    out = _output(out, input_hw)
    x, y = _resize_taps(new_w, columns), _resize_taps(new_h, rows)
    _resample(image, x, y, normalization, pad_value, out)
    return out, Placement((columns / new_w, rows / new_h), (0.0, 0.0))


def center_letterbox(
    image: U8,
    input_hw: tuple[int, int],
    pad_value: float,
    normalization: Normalization,
    *,
    out: F32 | None = None,
) -> tuple[F32, Placement]:
    """Fit a whole image into the middle of an input, the rest being ``pad_value``.

    mmpose's BottomupResize in its mode ``fit``, without UDP: s = min(W / w, H / h), dst = s *
    (src - (w, h) / 2) + (W, H) / 2 on both axes, bilinear, ``pad_value`` outside of the image.
    Arguments and results are those of ``letterbox``.
    """
    check_image(image)
    height, width = input_hw
    rows, columns = image.shape[:2]
    step = max(columns / width, rows / height)
    offset_xy = ((columns - width * step) / 2, (rows - height * step) / 2)
    return _warp(image, input_hw, (step, step), offset_xy, pad_value, normalization, out)


def crop(
    image: U8,
    box_xyxy: Sequence[float] | npt.NDArray[Any],
    input_hw: tuple[int, int],
    normalization: Normalization,
    *,
    padding: float = 1.25,
    udp: bool = False,
    out: F32 | None = None,
) -> tuple[F32, Placement]:
    """Cut a box out of an image as a top-down pose model sees it.

    mmpose's TopdownAffine without rotation: centre of the box, its size times ``padding``, widened
    or heightened to the input's aspect; dst = (src - centre + scale_w / 2) * W / scale_w, or, with
    ``udp``, * (W - 1) / scale_w; bilinear, 0 outside of the image. ``image`` is (h, w, 3) uint8,
    ``box_xyxy`` four numbers in its pixels, partly or wholly outside if need be; returns (3, H, W)
    float32, which is ``out`` where that is given, and the placement. Raises ImageError for anything
    else.
    """
    check_image(image)
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    if not all(math.isfinite(value) for value in (x1, y1, x2, y2)) or x2 <= x1 or y2 <= y1:
        raise ImageError(
            f"a box is x1, y1, x2, y2 with x1 < x2 and y1 < y2, got {[x1, y1, x2, y2]}"
        )
    height, width = input_hw
    scale_w, scale_h = (x2 - x1) * padding, (y2 - y1) * padding
    aspect = width / height
    if scale_w > scale_h * aspect:
        scale_h = scale_w / aspect
    else:
        scale_w = scale_h * aspect
    offset_xy = ((x1 + x2 - scale_w) / 2, (y1 + y2 - scale_h) / 2)
    # The box ends at the last pixel's centre (UDP), or one step behind it.
    less = 1 if udp else 0
    step_xy = (scale_w / (width - less), scale_h / (height - less))
    return _warp(image, input_hw, step_xy, offset_xy, 0.0, normalization, out)


def _warp(
    image: U8,
    input_hw: tuple[int, int],
    step_xy: tuple[float, float],
    offset_xy: tuple[float, float],
    fill: float,
    normalization: Normalization,
    out: F32 | None,
) -> tuple[F32, Placement]:
    """The image at ``step * k + offset``, ``fill`` beyond its ends (cv2.warpAffine)."""
    out = _output(out, input_hw)
    height, width = input_hw
    rows, columns = image.shape[:2]
    x = _taps(width, step_xy[0], offset_xy[0], columns)
    y = _taps(height, step_xy[1], offset_xy[1], rows)
    _resample(image, x, y, normalization, fill, out)
    if fill:
        _blend_rim(x, y, fill / np.array(normalization.std, np.float64), out)
    return out, Placement(step_xy, offset_xy)


def _blend_rim(x: _Taps, y: _Taps, level: npt.NDArray[np.float64], out: F32) -> None:
    """Add what lies beyond the image, ``level`` (3,), to the pixels that reach over its ends.

    Such a pixel has weights that sum to less than 1; the sum of a row and a column is the product.
    """
    target = out[:, y.start : y.stop, x.start : x.stop]
    have_x, have_y = x.weight0 + x.weight1, y.weight0 + y.weight1
    whole = 1 - 1e-9  # but for rounding
    for row in np.flatnonzero(have_y < whole):
        target[:, row] += (level * (1 - have_y[row])).astype(np.float32)[:, None]
    for column in np.flatnonzero(have_x < whole):
        missing = np.outer(level * (1 - have_x[column]), have_y)
        target[:, :, column] += missing.astype(np.float32)


# --- resampling -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Taps:
    """Linear interpolation along one axis.

    Output ``start + k`` is ``weight0[k] * source[index0[k]] + weight1[k] * source[index1[k]]``;
    outputs before and after have no source at all.
    """

    start: int
    index0: npt.NDArray[np.intp]
    index1: npt.NDArray[np.intp]
    weight0: npt.NDArray[np.float64]
    weight1: npt.NDArray[np.float64]

    @property
    def stop(self) -> int:
        return self.start + len(self.index0)


def _taps(
    count: int, step: float, offset: float, source: int, *, repeat_edges: bool = False
) -> _Taps:
    """Taps of ``count`` outputs at source positions ``step * k + offset``.

    Beyond its ends the source is repeated (``repeat_edges``) or 0.
    """
    position = np.arange(count) * step + offset
    if repeat_edges:
        position = np.clip(position, 0, source - 1)
    inside = np.flatnonzero((position > -1) & (position < source))
    start, stop = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
    position = position[start:stop]
    floor = np.floor(position)
    weight1 = position - floor
    weight0 = 1 - weight1
    index0 = floor.astype(np.intp)
    index1 = index0 + 1
    if not repeat_edges:
        weight0[index0 < 0] = 0
        weight1[index1 >= source] = 0
    return _Taps(start, np.maximum(index0, 0), np.minimum(index1, source - 1), weight0, weight1)


@functools.lru_cache(maxsize=8)  # the frames of a video have one size
def _resize_taps(count: int, source: int) -> _Taps:
    """Taps of a resize with half-pixel centres: (k + 0.5) * source / count - 0.5."""
    step = source / count
    return _taps(count, step, 0.5 * step - 0.5, source, repeat_edges=True)


def _resample(
    image: U8, x: _Taps, y: _Taps, normalization: Normalization, fill: float, out: F32
) -> None:
    """Fill ``out`` (3, H, W): the image by its taps, ``fill`` elsewhere, all of it normalised."""
    gain = 1 / np.array(normalization.std, np.float64)
    bias = (-np.array(normalization.mean, np.float64) * gain).astype(np.float32)
    row_count, column_count = len(y.index0), len(x.index0)
    if (row_count, column_count) != out.shape[1:]:
        out[...] = (bias + np.float32(fill) * gain.astype(np.float32))[:, None, None]
    if not row_count or not column_count:
        return

    left, right = int(x.index0[0]), int(x.index1[-1]) + 1
    lines, unit = _interpolated_rows(image, y, left, right)
    channels = [2, 1, 0] if normalization.swap_channels else [0, 1, 2]
    target = out[:, y.start : y.stop, x.start : x.stop]
    step = _pair_step(x)
    if step:
        pixels = lines.view(np.uint16).reshape(row_count, -1, 3)
        pair = _buffer("pair", (row_count, column_count), np.uint16)
        for channel, plane in enumerate(target):
            source = pixels[:, :, channels[channel]]
            np.add(source[:, :-1:step], source[:, 1::step], out=pair)  # at most 65280
            plane[...] = pair
            plane *= np.float32(gain[channel] / (2 * unit))
            plane += bias[channel]
        return

    # Positions of the source columns in a line, all of one channel before the next.
    order = np.array(channels)[:, None]
    shape = (row_count, 3 * column_count)
    taken = _buffer("taken", shape, np.int16)
    near, far = _buffer("near", shape, np.float32), _buffer("far", shape, np.float32)
    for index, weight, result in ((x.index0, x.weight0, near), (x.index1, x.weight1, far)):
        # mode="clip" because "raise" would buffer; no index is out of range.
        lines.take(((index - left) * 3 + order).ravel(), axis=1, out=taken, mode="clip")
        result[...] = taken
        result *= (weight * gain[:, None] / unit).astype(np.float32).ravel()
    near += far
    np.add(
        near.reshape(row_count, 3, column_count).transpose(1, 0, 2),
        bias[:, None, None],
        out=target,
    )


def _pair_step(x: _Taps) -> int:
    """The step of taps that are the mean of two neighbours everywhere, 0 for any others.

    So it is in every reduction by an even factor, a 640x480 picture in a 320x320 letterbox for
    one; slices then do what needs a gather otherwise, in a third of its time.
    """
    steps = np.diff(x.index0)
    regular = len(steps) > 0 and bool((steps == steps[0]).all()) and int(steps[0]) >= 2
    halves = bool((x.weight0 == 0.5).all() and (x.weight1 == 0.5).all())
    return int(steps[0]) if regular and halves else 0


def _interpolated_rows(
    image: U8, y: _Taps, left: int, right: int
) -> tuple[npt.NDArray[np.int16], int]:
    """Rows (len(y), 3 * columns) of the interpolated grey level times a unit, and that unit.

    The unit is 128, so that the largest value is 32640, or 2 where a mean of two rows is all.
    """
    count, width = len(y.index0), 3 * (right - left)
    upper = _buffer("upper", (count, width), np.int16)
    lower = _buffer("lower", (count, width), np.int16)
    top, bottom = int(y.index0[0]), int(y.index1[-1]) + 1
    if bottom - top < 2 * count or not image.flags["C_CONTIGUOUS"]:
        # Enlarging: widen each source row once, then gather.
        source = _buffer("source", (bottom - top, width), np.int16)
        source.reshape(bottom - top, right - left, 3)[...] = image[top:bottom, left:right]
        source.take(y.index0 - top, axis=0, out=upper, mode="clip")
        source.take(y.index1 - top, axis=0, out=lower, mode="clip")
    else:
        # Reducing: gather the rows that count, then widen those.
        flat = image.reshape(image.shape[0], -1)
        picked = _buffer("picked", (count, flat.shape[1]), np.uint8)
        for index, result in ((y.index0, upper), (y.index1, lower)):
            flat.take(index, axis=0, out=picked, mode="clip")
            result[...] = picked[:, 3 * left : 3 * right]
    if _pair_step(y):
        upper += lower
        return upper, 2
    weight1 = np.rint(y.weight1 * 128).astype(np.int16)
    # Where both taps count, they sum to 128: a plain area keeps its level exactly.
    both = (y.weight0 > 0) & (y.weight1 > 0)
    weight0 = np.where(both, 128 - weight1, np.rint(y.weight0 * 128)).astype(np.int16)
    upper *= weight0[:, None]
    lower *= weight1[:, None]
    upper += lower
    return upper, 128


class _Buffers(threading.local):
    """Scratch memory of one thread, by purpose; it grows to the largest picture and stays."""

    def __init__(self) -> None:
        self.by_name: dict[str, npt.NDArray[Any]] = {}


_buffers = _Buffers()


def _buffer(name: str, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    size = math.prod(shape)
    memory = _buffers.by_name.get(name)
    if memory is None or memory.size < size:
        memory = _buffers.by_name[name] = np.empty(size, dtype)
    return memory[:size].reshape(shape)


def check_image(image: Any) -> None:
    """Raise ImageError unless this is a (h, w, 3) uint8 array with something in it."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"an image is a uint8 array, got {got}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"an image is (height, width, 3) and not empty, got {image.shape}")


def _output(out: F32 | None, input_hw: tuple[int, int]) -> F32:
    if out is None:
        return np.empty((3, *input_hw), np.float32)
    if out.dtype != np.float32 or out.shape != (3, *input_hw):
        raise ImageError(
            f"out must be float32 of shape {(3, *input_hw)}, got {out.dtype} of {out.shape}"
        )
    return out
