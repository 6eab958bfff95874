"""Letterboxed scenes are the device's, and boxes stay on their people."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.people.synthetic import Person, Scene, scene
from calibration.samples.scenes import MAX_BOXES, LetterboxedScenes, PictureSettings, varied_scene

cv2 = pytest.importorskip("cv2")

MEAN = np.array([103.53, 116.28, 123.675])
STD = np.array([57.375, 57.12, 58.395])


def one_block(seed: int, index: int) -> Scene:
    """A white block of whole pixels on black."""
    del seed
    image = np.zeros((120, 160, 3), np.uint8)
    left, top = 20 + 4 * index, 30
    image[top : top + 48, left : left + 40] = 255
    box = np.array([left, top, left + 40, top + 48], np.float32)
    return Scene(image, (Person(np.zeros((17, 3), np.float32), box, 40.0 * 48),))


def test_the_plain_picture_is_the_letterbox() -> None:
    made = scene(3, 0)
    image, rows = LetterboxedScenes(3, 5, augmented=False)[0]
    assert image.shape == (3, 320, 320)
    assert rows.shape == (MAX_BOXES, 5)
    shown = cv2.resize(made.image_bgr, (320, 240), interpolation=cv2.INTER_LINEAR)
    levels = image.transpose(1, 2, 0) * STD + MEAN
    # The runtime's resize may be a grey level off OpenCV's.
    assert np.abs(levels[:240] - shown).max() <= 1.01
    np.testing.assert_allclose(levels[240:], 114, atol=1e-3)
    boxes = np.stack([person.box_xyxy for person in made.people])
    np.testing.assert_allclose(rows[: len(boxes), :4], boxes / 2, atol=1e-4)
    assert rows[:, 4].tolist() == [1.0] * len(boxes) + [0.0] * (MAX_BOXES - len(boxes))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_augmented_boxes_stay_on_what_they_enclose(flip: float) -> None:
    """Bright pixels and the box agree to within the blur of the resampling."""
    settings = PictureSettings(scale_range=(0.5, 1.0), flip_probability=flip)
    data = LetterboxedScenes(4, 12, augmented=True, settings=settings, scene_of=one_block)
    for index in range(12):
        image, rows = data[index]
        (box,) = rows[rows[:, 4] > 0]
        levels = (image.transpose(1, 2, 0) * STD + MEAN).mean(axis=2)
        # A threshold between the block and everything else (black, or the padding).
        bright = levels > (levels.max() + 114 * 1.3) / 2
        y, x = np.nonzero(bright)
        found = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        assert np.abs(found - box[:4]).max() < 4, index


def test_people_who_are_cut_away_are_no_answer() -> None:
    settings = PictureSettings(scale_range=(8.0, 8.0), flip_probability=0.0, visible_min=0.9)
    data = LetterboxedScenes(4, 6, augmented=True, settings=settings, scene_of=one_block)
    for index in range(6):
        assert not data[index][1].any()


def test_samples_depend_on_their_number_alone() -> None:
    data = LetterboxedScenes(9, 4, augmented=True, scene_of=varied_scene)
    first = data[2]
    data[1]
    again = LetterboxedScenes(9, 40, augmented=True, scene_of=varied_scene)[2]
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (LetterboxedScenes(10, 4, augmented=True, scene_of=varied_scene)[2][0] != first[0]).any()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        LetterboxedScenes(1, 0, augmented=False)
    with pytest.raises(IndexError, match="sample 3 of 3"):
        LetterboxedScenes(1, 3, augmented=False)[3]


def test_a_calm_scene_hides_fewer_people() -> None:
    def hidden(variety: float) -> float:
        people = [p for i in range(30) for p in scene(5, i, variety=variety).people]
        seen = [(p.keypoints_xyv[:, 2] == 2).mean() for p in people]
        return 1 - float(np.mean(seen))

    assert hidden(0.0) < 0.8 * hidden(1.0)
    with pytest.raises(ValueError, match="variety is 2"):
        scene(5, 0, variety=2)
