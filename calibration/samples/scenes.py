"""Rendered scenes as a detector sees them: letterboxed, and augmented for training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.people.synthetic import Scene, scene
from calibration.samples.crops import AugmentSettings, recolour
from edge.image import Normalization, letterbox

__all__ = ["MAX_BOXES", "LetterboxedScenes", "PictureSettings", "varied_scene"]

MAX_BOXES = 8
MEAN_BGR, STD_BGR = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
PAD_VALUE = 114
_NORMALIZATION = Normalization(MEAN_BGR, STD_BGR, swap_channels=False)
# Shapes of pictures, height and width, and how often each comes.
_SHAPES = ((480, 640), (480, 640), (480, 640), (640, 480), (480, 480))


@dataclass(frozen=True)
class PictureSettings:
    """How far a training picture departs from the letterboxed one."""

    scale_range: tuple[float, float] = (0.6, 1.5)
    """Of the letterbox's own scale."""
    flip_probability: float = 0.5
    visible_min: float = 0.3
    """A person of whom less of the box's area is left in the picture is no answer."""


def varied_scene(seed: int, index: int, *, variety: float = 1.0) -> Scene:
    """A scene of nobody to six people, in a lying, upright or square picture."""
    rng = np.random.default_rng((seed, index, 5))
    shape = _SHAPES[int(rng.integers(len(_SHAPES)))]
    people = (0, 0) if rng.random() < 0.05 else (1, 6)
    return scene(seed, index, image_hw=shape, people=people, variety=variety)


class LetterboxedScenes:
    """A map-style data set of rendered scenes, each letterboxed as the device does it.

    Sample `i` depends on `seed` and `i` alone (as far as `scene_of` does).

    Args:
        seed: of the scenes and of the augmentation.
        count: number of samples.
        augmented: True scales, shifts, mirrors and recolours.
        input_hw: height and width of the network's input in px.
        settings: how strongly to augment.
        scene_of: (seed, index) -> scene.
    """

    def __init__(
        self,
        seed: int,
        count: int,
        augmented: bool,
        input_hw: tuple[int, int] = (320, 320),
        settings: PictureSettings | None = None,
        scene_of: Callable[[int, int], Scene] = scene,
    ) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        self.seed, self.count, self.augmented = seed, count, augmented
        self.input_hw = input_hw
        self.settings = settings or PictureSettings()
        self.scene_of = scene_of

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sample `index`: image (3, H, W) float32 normalised BGR, boxes (MAX_BOXES, 5) float32.

        Rows are x1, y1, x2, y2 in input px and 1; the rest is 0.

        Raises:
            IndexError: `index` lies outside of the data set.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"sample {index} of {self.count}")
        made = self.scene_of(self.seed, index)
        boxes = np.array([person.box_xyxy for person in made.people], np.float32).reshape(-1, 4)
        if self.augmented:
            return self._augmented(made, boxes, np.random.default_rng((self.seed, index, 6)))
        image, placement = letterbox(made.image_bgr, self.input_hw, PAD_VALUE, _NORMALIZATION)
        corners = (boxes.reshape(-1, 2, 2) - placement.offset_xy) / placement.scale_xy
        return image, _rows(corners.reshape(-1, 4))

    def _augmented(
        self, made: Scene, boxes: NDArray[np.float32], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        import cv2

        height, width = self.input_hw
        rows, columns = made.image_bgr.shape[:2]
        low, high = self.settings.scale_range
        scale = min(width / columns, height / rows) * np.exp(rng.uniform(np.log(low), np.log(high)))
        # Where the picture is smaller than the input it lies anywhere in it, else it is cut.
        shift_x = rng.uniform(min(0, width - columns * scale), max(0, width - columns * scale))
        shift_y = rng.uniform(min(0, height - rows * scale), max(0, height - rows * scale))
        matrix = np.array([[scale, 0, shift_x], [0, scale, shift_y]])
        if rng.random() < self.settings.flip_probability:
            matrix[0] *= -1
            matrix[0, 2] += width
        # Boxes end at the edges of pixels, OpenCV counts from their centres.
        centres = matrix.copy()
        centres[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
        warped: NDArray[np.uint8] = cv2.warpAffine(
            made.image_bgr, centres, (width, height), borderValue=(PAD_VALUE,) * 3
        )
        picture = recolour(warped, AugmentSettings(), rng)
        image, _ = letterbox(picture, self.input_hw, PAD_VALUE, _NORMALIZATION)
        corners = boxes.reshape(-1, 2, 2) @ matrix[:, :2].T + matrix[:, 2]
        low_xy, high_xy = corners.min(axis=1), corners.max(axis=1)
        whole = np.prod(high_xy - low_xy, axis=1)
        low_xy, high_xy = (np.clip(side, 0, (width, height)) for side in (low_xy, high_xy))
        left = np.prod(high_xy - low_xy, axis=1)
        kept = left > self.settings.visible_min * whole
        return image, _rows(np.concatenate([low_xy, high_xy], axis=1)[kept])


def _rows(boxes_xyxy: NDArray[np.floating]) -> NDArray[np.float32]:
    rows = np.zeros((MAX_BOXES, 5), np.float32)
    rows[: len(boxes_xyxy), :4] = boxes_xyxy[:MAX_BOXES]
    rows[: len(boxes_xyxy), 4] = 1
    return rows
