"""Rendered people as top-down training crops: plain for evaluation, augmented for training.

The plain crop is the one that RTMPose is fed on the device: centre and size of the box, the size
times 1.25, widened or heightened to the input's aspect, a pure scale about the centre (linear,
border 0), RGB, mean and std subtracted and divided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.people.synthetic import Scene, crop_scene
from edge.spec import KEYPOINT_SETS

BOX_PADDING = 1.25
MEAN_RGB = np.array([123.675, 116.28, 103.53], np.float32)
STD_RGB = np.array([58.395, 57.12, 57.375], np.float32)
# COCO's 17 keypoints with left and right exchanged.
_EXCHANGED = {a: b for pair in KEYPOINT_SETS["coco17"].flip_pairs for a, b in (pair, pair[::-1])}
_MIRRORED_KEYPOINTS = [_EXCHANGED.get(index, index) for index in range(17)]
_UPPER_BODY = list(range(11))
_LOWER_BODY = list(range(11, 17))


@dataclass(frozen=True)
class AugmentSettings:
    """How far a training crop departs from the plain one; the defaults are the demo model's."""

    shift: float = 0.05
    """Largest shift of the box's centre, a fraction of the padded box's size."""
    scale_range: tuple[float, float] = (0.9, 1.15)
    rotation_probability: float = 0.15
    rotation_max_deg: float = 15.0
    flip_probability: float = 0.5
    half_body_probability: float = 0.0
    grayscale_probability: float = 0.02
    blur_probability: float = 0.03
    noise_probability: float = 0.03
    erase_probability: float = 0.02
    replicate_probability: float = 0.3
    """Of continuing the picture's rim outside of it, rather than the device's zeros."""


def box_to_centre_size(
    box_xyxy: NDArray[np.float64], input_hw: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre (2,) and size (2,) of the padded, aspect-fixed crop of a box (4,), picture px."""
    aspect = input_hw[1] / input_hw[0]
    centre = (box_xyxy[:2] + box_xyxy[2:]) / 2
    width, height = (box_xyxy[2:] - box_xyxy[:2]) * BOX_PADDING
    if width > height * aspect:
        height = width / aspect
    else:
        width = height * aspect
    return centre, np.array([width, height])


def crop_matrix(
    centre: NDArray[np.float64],
    size: NDArray[np.float64],
    input_hw: tuple[int, int],
    rotation_deg: float = 0.0,
    flip: bool = False,
) -> NDArray[np.float64]:
    """The (2, 3) matrix from picture px to crop px.

    Without rotation and flip: crop = (picture - centre) * W / width + (W / 2, H / 2). A rotation
    turns about the centre; a flip mirrors the crop, x -> W - 1 - x.
    """
    height, width = input_hw
    angle = np.deg2rad(rotation_deg)
    scale = width / size[0]
    matrix = np.zeros((2, 3))
    matrix[:, :2] = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    matrix[:, 2] = np.array([width / 2, height / 2]) - matrix[:, :2] @ centre
    if flip:
        matrix[0] *= -1
        matrix[0, 2] += width - 1
    return matrix


def normalise(image_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) uint8 BGR -> (3, H, W) float32 RGB, (value - mean) / std."""
    image = (image_bgr[..., ::-1].astype(np.float32) - MEAN_RGB) / STD_RGB
    return np.ascontiguousarray(image.transpose(2, 0, 1))


class SyntheticCrops:
    """A map-style data set of rendered people, each cropped as a top-down model sees it.

    Sample `i` depends on `seed` and `i` alone: the same in every process and in every order.

    Args:
        seed: of the scenes and of the augmentation.
        count: number of samples.
        augmented: False gives the plain centred crop (evaluation), True the augmented one.
        input_hw: height and width of the crop in px.
        settings: how strongly to augment.
        scene_of: (seed, index) -> scene whose `people[0]` is the subject.
    """

    def __init__(
        self,
        seed: int,
        count: int,
        augmented: bool,
        input_hw: tuple[int, int] = (256, 192),
        settings: AugmentSettings | None = None,
        scene_of: Callable[[int, int], Scene] = crop_scene,
    ) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        self.seed, self.count, self.augmented = seed, count, augmented
        self.input_hw = input_hw
        self.settings = settings or AugmentSettings()
        self.scene_of = scene_of

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sample `index`: image (3, H, W) float32 normalised RGB, keypoints (17, 3) float32.

        Keypoints are (x, y) in crop px and a visibility; absent ones (0) lie anywhere, and one
        that augmentation moved out of the crop is absent too.

        Raises:
            IndexError: `index` lies outside of the data set.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"sample {index} of {self.count}")
        scene = self.scene_of(self.seed, index)
        person = scene.people[0]
        keypoints = np.array(person.keypoints_xyv, np.float64)
        box = np.array(person.box_xyxy, np.float64)
        if not self.augmented:
            matrix = crop_matrix(*box_to_centre_size(box, self.input_hw), self.input_hw)
            return normalise(self._warp(scene, matrix)), self._map(keypoints, matrix)
        rng = np.random.default_rng((self.seed, index))
        matrix, flip = self._random_matrix(keypoints, box, rng)
        if flip:
            keypoints = keypoints[_MIRRORED_KEYPOINTS]
        replicate = bool(rng.random() < self.settings.replicate_probability)
        crop = recolour(self._warp(scene, matrix, replicate), self.settings, rng)
        return normalise(crop), self._map(keypoints, matrix)

    def _random_matrix(
        self, keypoints: NDArray[np.float64], box: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], bool]:
        settings = self.settings
        if rng.random() < settings.half_body_probability:
            box = _half_body_box(keypoints, box, rng)
        centre, size = box_to_centre_size(box, self.input_hw)
        centre = centre + rng.uniform(-settings.shift, settings.shift, 2) * size
        size = size * rng.uniform(*settings.scale_range)
        rotation_deg = 0.0
        if rng.random() < settings.rotation_probability:
            rotation_deg = rng.uniform(-settings.rotation_max_deg, settings.rotation_max_deg)
        flip = bool(rng.random() < settings.flip_probability)
        return crop_matrix(centre, size, self.input_hw, rotation_deg, flip), flip

    def _warp(
        self, scene: Scene, matrix: NDArray[np.float64], replicate: bool = False
    ) -> NDArray[np.uint8]:
        import cv2

        height, width = self.input_hw
        warped: NDArray[np.uint8] = cv2.warpAffine(
            scene.image_bgr,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE if replicate else cv2.BORDER_CONSTANT,
        )
        return warped

    def _map(
        self, keypoints: NDArray[np.float64], matrix: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        height, width = self.input_hw
        mapped = keypoints.astype(np.float32)
        mapped[:, :2] = keypoints[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        inside = np.all((mapped[:, :2] >= 0) & (mapped[:, :2] <= (width - 1, height - 1)), axis=1)
        mapped[~inside, 2] = 0
        return mapped


class RecentScenes:
    """A source of scenes that uses each about `uses` times: rendering costs more than training.

    Called as (seed, index) -> Scene, it renders every `uses`-th time and otherwise gives one of the
    last `size` scenes at random, which a crop's own augmentation makes a new picture of. What it
    gives depends on the calls before, so it suits training and never a test set.
    """

    def __init__(
        self, render: Callable[[int, int], Scene] = crop_scene, *, size: int = 3000, uses: int = 3
    ) -> None:
        if size < 1 or uses < 1:
            raise ValueError(f"size and uses are at least 1, got {size} and {uses}")
        self._render, self._size, self._uses = render, size, uses
        self._scenes: list[Scene] = []

    def __call__(self, seed: int, index: int) -> Scene:
        """A scene for sample `index`, new or used before."""
        if index % self._uses and len(self._scenes) > min(300, self._size - 1):
            place = np.random.default_rng((seed, index, 99)).integers(len(self._scenes))
            return self._scenes[int(place)]
        made = self._render(seed, index)
        if len(self._scenes) < self._size:
            self._scenes.append(made)
        else:
            self._scenes[(index // self._uses) % self._size] = made
        return made


def _half_body_box(
    keypoints: NDArray[np.float64], box: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The box of the upper or the lower half's keypoints, padded by half; or the whole box."""
    joints = keypoints[_UPPER_BODY if rng.random() < 0.6 else _LOWER_BODY]
    joints = joints[joints[:, 2] > 0, :2]
    if len(joints) < 4:
        return box
    low, high = joints.min(axis=0), joints.max(axis=0)
    # At least a quarter of the person, so that a thin half does not become a huge zoom.
    half = np.maximum((high - low) * 0.75, 0.125 * (box[2:] - box[:2]).max())
    centre = (low + high) / 2
    return np.concatenate((centre - half, centre + half))


def recolour(
    image_bgr: NDArray[np.uint8], settings: AugmentSettings, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Gain, contrast, gamma and tint through one table a channel; then grey, blur, noise, erase."""
    import cv2

    levels = np.arange(256) / 255
    gamma = np.exp(rng.uniform(-0.2, 0.2))
    contrast, brightness = rng.uniform(0.8, 1.2), rng.uniform(-0.08, 0.08)
    tint = rng.uniform(0.88, 1.12, (3, 1))
    table = ((levels**gamma - 0.5) * contrast + 0.5 + brightness) * tint
    table_u8 = (np.clip(table, 0, 1).T * 255).astype(np.uint8).reshape(1, 256, 3)
    image: Any = cv2.LUT(image_bgr, table_u8)
    if rng.random() < settings.grayscale_probability:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if rng.random() < settings.blur_probability:
        image = cv2.GaussianBlur(image, (5, 5), rng.uniform(0.4, 1.6))
    if rng.random() < settings.noise_probability:
        noise = np.empty(image.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(2**31 - 1)))
        deviation = rng.uniform(2, 14)
        cv2.randn(noise, (0.0,) * 3, (deviation,) * 3)
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
    if rng.random() < settings.erase_probability:
        height, width = image.shape[:2]
        erase_h, erase_w = rng.integers(16, 56, 2)
        top, left = rng.integers(height - erase_h), rng.integers(width - erase_w)
        image[top : top + erase_h, left : left + erase_w] = rng.integers(0, 256, 3)
    result: NDArray[np.uint8] = image
    return result
