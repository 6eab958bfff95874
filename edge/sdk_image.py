"""Images as mmdeploy's SDK prepares them, bit for bit: to compare with an app that runs on it.

The SDK rounds where mmpose and mmdet interpolate: it cuts whole pixels out, resizes them by
OpenCV's 11-bit fixed point and pads. A pose model sees grey levels that differ by a few from those
of ``edge.image.crop``, which is what models were trained with and what this kit uses by default.

Formulas: ``csrc/mmdeploy`` of mmdeploy 1.3.1 (``TopDownAffine`` with its crop, resize and pad in
one, ``Resize``, ``Pad``) and ``cv::resize`` of OpenCV 4 with ``INTER_LINEAR`` on 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.codecs import BOX_CODECS
from edge.detector import Boxes, normalization_of
from edge.errors import ImageError, SpecError
from edge.image import Normalization, Placement, check_image
from edge.session import Array, Session
from edge.spec import ModelSpec

__all__ = [
    "resize_bilinear_u8",
    "sdk_crop",
    "sdk_detect",
    "sdk_detector_feeds",
    "sdk_letterbox",
    "sdk_pose_feeds",
]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


def sdk_pose_feeds(
    spec: ModelSpec, image_bgr: U8, boxes_xyxy: npt.NDArray[np.float32]
) -> tuple[dict[str, Array], list[Placement]]:
    """As ``edge.pose.pose_feeds``, by the SDK's crop; SpecError for UDP, which it does not do."""
    if spec.udp:
        raise SpecError(f"{spec.name} is cropped by UDP, which the SDK's crop does not know")
    cut = [
        sdk_crop(image_bgr, box, spec.input_hw, normalization_of(spec), padding=spec.box_padding)
        for box in boxes_xyxy
    ]
    batch = np.stack([pixels for pixels, _ in cut]) if cut else np.empty((0, 3, *spec.input_hw))
    return {spec.input.name: batch.astype(np.float32)}, [placement for _, placement in cut]


def sdk_detector_feeds(spec: ModelSpec, image_bgr: U8) -> tuple[dict[str, Array], Placement]:
    """As ``edge.detector.detector_feeds``, by the SDK's resize."""
    if spec.letterbox != "top-left":
        raise SpecError(f"{spec.name} centres the image, which the SDK's Resize and Pad do not")
    pixels, placement = sdk_letterbox(
        image_bgr, spec.input_hw, spec.pad_value, normalization_of(spec)
    )
    return {spec.input.name: pixels[None]}, placement


def sdk_detect(session: Session, image_bgr: U8, *, score_threshold: float = 0.3) -> Boxes:
    """What the SDK's Detector finds in an (H, W, 3) uint8 BGR image, best first.

    Beside the resize, the SDK clips to the last pixel's centre, (W - 1, H - 1), where
    ``edge.Detector`` clips to the image's rim; what has no area left then goes.
    """
    spec = session.spec
    feeds, placement = sdk_detector_feeds(spec, image_bgr)
    boxes, labels = BOX_CODECS[spec.codec](session.run(feeds), spec)[0]
    kept = boxes[:, 4] > score_threshold
    corners = placement.to_image(boxes[kept, :4].reshape(-1, 2, 2))
    height, width = image_bgr.shape[:2]
    corners = np.clip(corners, 0, np.array([width - 1, height - 1], np.float32))
    real = (corners[:, 1] > corners[:, 0]).all(axis=1)
    return Boxes(corners[real].reshape(-1, 4), boxes[kept, 4][real], labels[kept][real])


def sdk_crop(
    image: U8,
    box_xyxy: Sequence[float] | npt.NDArray[Any],
    input_hw: tuple[int, int],
    normalization: Normalization,
    *,
    padding: float = 1.25,
) -> tuple[F32, Placement]:
    """Cut a box out of an image (h, w, 3) as the SDK does: (3, H, W) float32 and its placement.

    The box, grown and fitted to the input's aspect in float32, is rounded to whole pixels; its part
    within the image is resized by one factor, rounded again, and what is left becomes 0. Where the
    two roundings disagree, the axes' factors of the way back are those of the parts. Raises
    ImageError for a box without area and for one beside the image, of which nothing is left.
    """
    check_image(image)
    x1, y1, x2, y2 = (np.float32(value) for value in box_xyxy)
    width, height = x2 - x1, y2 - y1
    if not (width > 0 and height > 0 and np.isfinite([x1, y1, x2, y2]).all()):
        raise ImageError(f"a box is x1, y1, x2, y2 with x1 < x2 and y1 < y2, got {list(box_xyxy)}")
    size_wh = input_hw[::-1]
    centre = (x1 + width * np.float32(0.5), y1 + height * np.float32(0.5))
    aspect = np.float32(size_wh[0] / size_wh[1])
    if width > aspect * height:
        height = width / aspect
    else:
        width = height * aspect
    grown = [
        length / np.float32(200) * np.float32(padding) * np.float32(200)
        for length in (width, height)
    ]
    factor = np.float32(size_wh[0]) / grown[0]
    spans = [
        _span(centre[axis], grown[axis], image.shape[1 - axis], factor, size_wh[axis])
        for axis in (0, 1)
    ]
    if any(source[1] < 1 or target[1] < 1 for source, target in spans):
        raise ImageError(f"the box {[float(value) for value in box_xyxy]} lies beside the image")
    ((left, columns), (to_left, to_columns)), ((top, rows), (to_top, to_rows)) = spans
    pixels = np.zeros((*input_hw, 3), np.uint8)
    pixels[to_top : to_top + to_rows, to_left : to_left + to_columns] = resize_bilinear_u8(
        image[top : top + rows, left : left + columns], (to_rows, to_columns)
    )
    # The middles of both parts lie on each other.
    scale = (columns / to_columns, rows / to_rows)
    offset = (
        left + (columns - 1) / 2 - (to_left + (to_columns - 1) / 2) * scale[0],
        top + (rows - 1) / 2 - (to_top + (to_rows - 1) / 2) * scale[1],
    )
    return _normalized(pixels, normalization), Placement(scale, offset)


Span = tuple[int, int]  # first pixel and count


def _span(
    centre: np.float32, length: np.float32, limit: int, factor: np.float32, target_limit: int
) -> tuple[Span, Span]:
    """Along one axis: what is cut out of an image of ``limit`` pixels, and where it goes."""
    start, count = _round(centre - length * np.float32(0.5)), _round(length)
    source = _within(start, count, limit)
    target = _within(
        _round(np.float32(source[0] - start) * factor),
        _round(np.float32(source[1]) * factor),
        target_limit,
    )
    return source, target


def _within(start: int, count: int, limit: int) -> Span:
    first, last = max(start, 0), min(start + count, limit)
    return first, max(last - first, 0)


def _round(value: np.float32) -> int:
    """To the next whole number, halves away from 0 (C's ``round``)."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))


def sdk_letterbox(
    image: U8, input_hw: tuple[int, int], pad_value: int, normalization: Normalization
) -> tuple[F32, Placement]:
    """Fit an image (h, w, 3) into the top left of an input, as the SDK's Resize and Pad do.

    Sizes and placement are those of ``edge.image.letterbox``; the grey levels are OpenCV's.
    """
    check_image(image)
    height, width = input_hw
    rows, columns = image.shape[:2]
    scale = min(width / columns, height / rows)
    new_hw = int(rows * scale + 0.5), int(columns * scale + 0.5)
    if min(new_hw) < 1:
        raise ImageError(
            f"an image of {rows}x{columns} (height x width) leaves nothing of a side at "
            f"{height}x{width}"
        )
    pixels = np.full((*input_hw, 3), pad_value, np.uint8)
    pixels[: new_hw[0], : new_hw[1]] = resize_bilinear_u8(image, new_hw)
    placement = Placement((columns / new_hw[1], rows / new_hw[0]), (0.0, 0.0))
    return _normalized(pixels, normalization), placement


def resize_bilinear_u8(image: U8, new_hw: tuple[int, int]) -> U8:
    """``cv::resize`` of an (h, w, 3) uint8 image with INTER_LINEAR, bit for bit.

    Weights are multiples of 1/2048; rows are summed in 32 bits, of which the vertical pass drops
    4 before and 16 after its product, then 2 with rounding.
    """
    rows, columns = image.shape[:2]
    index0, index1, weight0, weight1 = _taps(new_hw[1], columns, clamp=True)
    wide = image.astype(np.int32)
    lines = wide[:, index0] * weight0[:, None] + wide[:, index1] * weight1[:, None]
    index0, index1, weight0, weight1 = _taps(new_hw[0], rows, clamp=False)
    upper = (weight0[:, None, None] * (lines[index0] >> 4)) >> 16
    lower = (weight1[:, None, None] * (lines[index1] >> 4)) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


Ints = npt.NDArray[np.int32]


def _taps(count: int, source: int, *, clamp: bool) -> tuple[Ints, Ints, Ints, Ints]:
    """Two indices and two weights of 1/2048 an output. ``clamp``: at the ends, all of one pixel."""
    step = 1.0 / (count / source)
    position = ((np.arange(count) + 0.5) * step - 0.5).astype(np.float32)
    floor = np.floor(position).astype(np.int32)
    part = (position - floor).astype(np.float32)
    if clamp:
        part[(floor < 0) | (floor >= source - 1)] = 0
    weight0 = np.rint((np.float32(1) - part) * np.float32(2048)).astype(np.int32)
    weight1 = np.rint(part * np.float32(2048)).astype(np.int32)
    last = source - 1
    return np.clip(floor, 0, last), np.clip(floor + 1, 0, last), weight0, weight1


def _normalized(pixels_bgr: U8, normalization: Normalization) -> F32:
    pixels = pixels_bgr[..., ::-1] if normalization.swap_channels else pixels_bgr
    gain = 1 / np.array(normalization.std, np.float64)
    values = (pixels - np.array(normalization.mean, np.float64)) * gain
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)
