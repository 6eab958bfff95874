"""Two people as a one-stage model gives them."""

from __future__ import annotations

import numpy as np

from edge.session import Array

__all__ = ["two_people"]


def two_people() -> tuple[Array, Array]:
    """In 128x128 input pixels: one in the middle, a weaker one at the left rim, one in doubt."""
    dets = [[40, 30, 80, 100, 0.9], [-10, 20, 20, 60, 0.6], [90, 90, 120, 120, 0.2]]
    keypoints = np.zeros((3, 5, 3))
    keypoints[0] = [[40 + 8 * k, 30 + 10 * k, 0.5 + 0.1 * k] for k in range(5)]
    keypoints[1] = [[-8 + 4 * k, 40, 0.3] for k in range(5)]
    return np.array([dets], np.float32), keypoints[None].astype(np.float32)
