"""Placeholder while the fast version is being written (integration only)."""

from __future__ import annotations
from dataclasses import dataclass
from typing import Any
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Normalization:
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    swap_channels: bool = False


@dataclass(frozen=True)
class Placement:
    scale_xy: tuple[float, float]
    offset_xy: tuple[float, float]

    def to_image(self, points_xy: Any) -> npt.NDArray[np.float32]:
        return (
            points_xy * np.asarray(self.scale_xy, np.float32)
            + np.asarray(self.offset_xy, np.float32)
        ).astype(np.float32)


def letterbox(
    image: Any,
    input_hw: tuple[int, int],
    pad_value: int,
    normalization: Normalization,
    *,
    out: Any = None,
) -> tuple[Any, Placement]:
    import cv2

    h, w = image.shape[:2]
    H, W = input_hw
    s = min(W / w, H / h)
    nw, nh = int(w * s + 0.5), int(h * s + 0.5)
    canvas = np.full((H, W, 3), pad_value, np.uint8)
    canvas[:nh, :nw] = cv2.resize(image, (nw, nh), interpolation=cv2.INTER_LINEAR)
    return _norm(canvas, normalization, out), Placement((w / nw, h / nh), (0.0, 0.0))


def crop(
    image: Any,
    box_xyxy: Any,
    input_hw: tuple[int, int],
    normalization: Normalization,
    *,
    padding: float = 1.25,
    out: Any = None,
) -> tuple[Any, Placement]:
    import cv2

    H, W = input_hw
    x1, y1, x2, y2 = (float(v) for v in box_xyxy)
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    w, h = (x2 - x1) * padding, (y2 - y1) * padding
    ar = W / H
    if w > ar * h:
        h = w / ar
    else:
        w = h * ar
    k = W / w
    m = np.array([[k, 0, W / 2 - cx * k], [0, k, H / 2 - cy * k]])
    c = cv2.warpAffine(image, m, (W, H), flags=cv2.INTER_LINEAR)
    return _norm(c, normalization, out), Placement((w / W, h / H), (cx - w / 2, cy - h / 2))


def _norm(image: Any, n: Normalization, out: Any) -> Any:
    if n.swap_channels:
        image = image[..., ::-1]
    v = (
        (image.astype(np.float32) - np.array(n.mean, np.float32)) / np.array(n.std, np.float32)
    ).transpose(2, 0, 1)
    if out is None:
        return np.ascontiguousarray(v)
    out[:] = v
    return out
