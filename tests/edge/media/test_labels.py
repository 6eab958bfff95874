"""Labels on drawn pictures: readable on any background, none over another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edge.keypoints import find_keypoint_set
from edge.pipeline import Pose

pytest.importorskip("cv2")


def _luminance(bgr: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """WCAG 2's relative luminance."""
    part = bgr[..., ::-1] / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("background", [0, 128, 255])
def test_a_label_is_readable_on_any_background(number: int, background: int) -> None:
    from edge.picture import draw_poses

    image = np.full((480, 640, 3), background, np.uint8)
    box = np.array([200, 200, 400, 400], np.float32)
    pose = Pose(box, 0.9, np.zeros((17, 3), np.float32), track_id=number)
    drawn = draw_poses(image, [pose], find_keypoint_set("coco17"), 0.3)
    label = drawn[:198, :]
    label = label[(label != background).any(axis=(1, 2))]
    label = label[:, (label != background).any(axis=(0, 2))]
    field, light = _luminance(label[0, 0]), _luminance(label)
    ink = max(light.max(), field), min(light.min(), field)
    assert (ink[0] + 0.05) / (ink[1] + 0.05) >= 4.5
    assert (label == label[0, 0]).all(axis=2).mean() > 0.4


def test_labels_of_a_crowd_lie_apart_and_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    import edge.picture as picture

    places: list[tuple[int, int, int, int]] = []
    free_place = picture._free_place

    def noted(*arguments: object) -> tuple[int, int, int, int]:
        places.append(free_place(*arguments))  # type: ignore[arg-type]
        return places[-1]

    monkeypatch.setattr(picture, "_free_place", noted)
    dice = np.random.default_rng(0)
    corners = dice.uniform((-20, -20), (640, 100), (30, 2))
    poses = [
        Pose(np.array([x, y, x + 90, y + 300], np.float32), 0.5, np.zeros((17, 3), np.float32))
        for x, y in corners
    ]
    image = np.zeros((480, 640, 3), np.uint8)
    picture.draw_poses(image, poses, find_keypoint_set("coco17"), 0.3)
    covered = np.zeros((480, 640), int)
    for x1, y1, x2, y2 in places:
        assert 0 <= x1 < x2 <= 640 and 0 <= y1 < y2 <= 480
        covered[y1:y2, x1:x2] += 1
    assert len(places) == 30 and covered.max() == 1
