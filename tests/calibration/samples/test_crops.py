from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2")

from calibration.people.synthetic import Scene, crop_scene
from calibration.samples.crops import AugmentSettings, RecentScenes, SyntheticCrops, crop_matrix
from edge.image import Normalization, crop
from edge.spec import KEYPOINT_SETS

RGB = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), swap_channels=True)


def test_the_plain_crop_is_the_device_s() -> None:
    """Evaluation must see what the runtime feeds: same pixels, same way back."""
    crops = SyntheticCrops(seed=5, count=4, augmented=False)
    for index in range(4):
        image, keypoints = crops[index]
        made = crop_scene(5, index)
        want, placement = crop(made.image_bgr, made.people[0].box_xyxy, (256, 192), RGB)
        # Two roundings to grey levels, divided by a standard deviation of about 57.
        assert np.abs(image - want).max() <= 2.0 / 57
        seen = keypoints[:, 2] > 0
        back = placement.to_image(keypoints[seen, :2])
        np.testing.assert_allclose(back, made.people[0].keypoints_xyv[seen, :2], rtol=0, atol=0.01)


def marked(seed: int, index: int, *, point: tuple[float, float]) -> Scene:
    """A scene whose picture is black but for one white spot, where every keypoint lies."""
    made = crop_scene(seed, index)
    image = np.zeros_like(made.image_bgr)
    x, y = (int(value) for value in point)
    image[y - 2 : y + 3, x - 2 : x + 3] = 255
    person = made.people[0]
    keypoints = np.full((17, 3), 2.0, np.float32)
    keypoints[:, :2] = (x, y)
    box = np.array([40, 40, 200, 280], np.float32)
    return Scene(image, (type(person)(keypoints, box, person.area_px),))


def test_keypoints_follow_their_pixels_through_every_augmentation() -> None:
    settings = AugmentSettings(
        rotation_probability=1.0,
        half_body_probability=0.0,
        erase_probability=0.0,
        grayscale_probability=0.0,
        blur_probability=0.0,
        noise_probability=0.0,
    )
    crops = SyntheticCrops(
        seed=1,
        count=40,
        augmented=True,
        settings=settings,
        scene_of=partial(marked, point=(110, 150)),
    )
    for index in range(40):
        image, keypoints = crops[index]
        assert (keypoints[:, 2] > 0).all()
        rows, columns = np.nonzero(image.sum(0) > 0.5 * (image.sum(0).max() + image.sum(0).min()))
        np.testing.assert_allclose(
            [columns.mean(), rows.mean()], keypoints[0, :2], rtol=0, atol=1.0
        )


def test_a_mirrored_crop_exchanges_left_and_right() -> None:
    always = SyntheticCrops(
        1, 8, True, settings=AugmentSettings(0, (1, 1), 0, 0, flip_probability=1.0)
    )
    never = SyntheticCrops(
        1, 8, True, settings=AugmentSettings(0, (1, 1), 0, 0, flip_probability=0.0)
    )
    order = np.arange(17)
    for left, right in KEYPOINT_SETS["coco17"].flip_pairs:
        order[[left, right]] = order[[right, left]]
    for index in range(8):
        flipped, plain = always[index][1], never[index][1]
        both = (flipped[order, 2] > 0) & (plain[:, 2] > 0)
        np.testing.assert_allclose(191 - flipped[order][both, 0], plain[both, 0], atol=1e-3)
        np.testing.assert_allclose(flipped[order][both, 1], plain[both, 1], atol=1e-3)


def test_samples_depend_on_seed_and_index_alone() -> None:
    first, second = SyntheticCrops(1, 5, True), SyntheticCrops(1, 5, True)
    _ = second[0]
    for got, want in zip(first[3], second[3], strict=True):
        np.testing.assert_array_equal(got, want)
    assert not np.array_equal(first[3][0], SyntheticCrops(2, 5, True)[3][0])
    with pytest.raises(IndexError):
        first[5]


def test_keypoints_out_of_the_crop_count_as_absent() -> None:
    crops = SyntheticCrops(
        1,
        10,
        True,
        settings=AugmentSettings(shift=0.4),
        scene_of=partial(marked, point=(45, 45)),
    )
    states = {bool(crops[i][1][0, 2] > 0) for i in range(10)}
    assert states == {True, False}


def test_matrix_of_a_plain_crop_is_the_published_one() -> None:
    matrix = crop_matrix(np.array([100.0, 80.0]), np.array([96.0, 128.0]), (256, 192))
    np.testing.assert_allclose(matrix @ [100, 80, 1], [96, 128])
    np.testing.assert_allclose(matrix @ [52, 16, 1], [0, 0], atol=1e-9)


def test_recent_scenes_are_used_again() -> None:
    rendered: list[int] = []

    def render(seed: int, index: int) -> Any:
        rendered.append(index)
        return (seed, index)

    source = RecentScenes(render, size=50, uses=3)
    given = [source(1, index) for index in range(600)]
    # The pool fills first; from then on every third call renders.
    assert rendered[:50] == list(range(50))
    assert len(rendered) == pytest.approx(50 + 550 / 3, abs=2)
    assert len(set(map(str, given[-300:]))) > 100
    with pytest.raises(ValueError, match="at least 1"):
        RecentScenes(render, uses=0)
