"""Noise to lay over people and places: windows into a few constant tiles."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["noise_tile", "noise_window"]

U8 = NDArray[np.uint8]


@functools.lru_cache(maxsize=4)
def noise_tile(kind: str) -> U8:
    """A fixed (640, 896, 3) uint8 tile about 128: `white`, `cloth` (soft folds) or `hair`.

    Drawing fresh normal numbers for each picture would cost more than drawing the person; a
    window at a random place in a constant tile does as well.
    """
    rng = np.random.Generator(np.random.PCG64([0, 0xED6E, len(kind)]))
    shape = (640, 896, 3)
    if kind == "white":
        return np.clip(rng.normal(128.0, 32.0, shape), 0, 255).astype(np.uint8)
    total = np.zeros(shape, np.float32)
    for cells, weight in ((24, 1.0), (64, 0.8), (160, 0.5)):
        # Folds are longer down than across; hair is nearly all lines.
        size = (cells * 3 // 2, max(4, cells // (2 if kind == "cloth" else 6)))
        small = rng.normal(0.0, 1.0, (size[1], size[0], 3)).astype(np.float32)
        total += weight * cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    tile: U8 = np.clip(128.0 + 32.0 * total / total.std(), 0, 255).astype(np.uint8)
    return tile


def noise_window(rng: np.random.Generator, kind: str, hw: tuple[int, int]) -> U8:
    """A (h, w, 3) uint8 window at a random place of `noise_tile(kind)`, repeated if too small."""
    tile = noise_tile(kind)
    height, width = tile.shape[:2]
    if hw[0] > height or hw[1] > width:
        tile = np.tile(tile, (-(-hw[0] // height), -(-hw[1] // width), 1))
        height, width = tile.shape[:2]
    y, x = int(rng.random() * (height - hw[0] + 1)), int(rng.random() * (width - hw[1] + 1))
    return tile[y : y + hw[0], x : x + hw[1]]
