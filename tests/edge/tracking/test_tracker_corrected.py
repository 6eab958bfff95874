"""What `corrected` does otherwise than `sdk`, one defect after the other."""

from __future__ import annotations

import numpy as np
import pytest

from edge.tracking.tracker import Mode, PoseTracker, TrackerParams
from tests.stand_ins.tracked_people import HW, around, detections, ids, person, step


def expected_left(mode: Mode, pace: float) -> float:
    """Where the left side of a steady walker's next box is looked for, behind the last one."""
    tracker = PoseTracker(TrackerParams(pose_bbox_scale=1), mode=mode)
    x = 50.0
    step(tracker, person(x), found=around(x))
    for _ in range(25):
        x += pace
        assert ids(step(tracker, person(x))) == [0]
    return float(tracker.boxes(HW, None)[0, 0]) - x


def test_a_walker_is_expected_further_on() -> None:
    assert expected_left("corrected", 12) == pytest.approx(12, abs=0.5)
    # The SDK looks where they were.
    assert expected_left("sdk", 12) == pytest.approx(0, abs=0.5)


def found_again(mode: Mode) -> float:
    """How far the box of somebody found again is from where they are."""
    tracker = PoseTracker(TrackerParams(pose_bbox_scale=1), mode=mode)
    for _ in range(5):
        step(tracker, person(300), found=around(300))
    step(tracker)
    (people,) = step(tracker, person(310), found=around(310))
    assert people.track_id == 0
    truth = np.array([310, 100, 410, 200])
    return float(np.abs(people.box_xyxy - truth).max())


def test_the_box_of_somebody_found_again_does_not_jump() -> None:
    assert found_again("corrected") < 1e-3
    assert found_again("sdk") > 1


def test_somebody_out_of_sight_keeps_their_size() -> None:
    widths = {}
    modes: tuple[Mode, Mode] = ("corrected", "sdk")
    for mode in modes:
        tracker = PoseTracker(TrackerParams(pose_bbox_scale=1), mode=mode)
        size = 150.0
        step(tracker, person(200, size=size), found=around(200, size))
        for _ in range(8):
            size -= 8
            step(tracker, person(200, size=size))
        before = tracker.boxes(HW, None)
        tracker.update(np.zeros((len(before), 4, 3)))
        for _ in range(5):
            boxes = tracker.boxes(HW, None)
            tracker.update(np.zeros((len(boxes), 4, 3)))
        (box,) = tracker.boxes(HW, None)
        widths[mode] = float(box[2] - box[0])
    assert widths["corrected"] > widths["sdk"] + 20


@pytest.mark.parametrize(("mode", "alike"), [("corrected", True), ("sdk", False)])
def test_a_box_is_smoothed_alike_whether_it_grows_or_shrinks(mode: Mode, alike: bool) -> None:
    params = TrackerParams(pose_bbox_scale=1, smooth_params=(0.05, 0.1, 1), std_weight_position=1)
    lag = []
    for change in (30, -30):
        tracker = PoseTracker(params, mode=mode)
        step(tracker, person(200), found=around(200))
        (people,) = step(tracker, person(200, size=100 + change))
        lag.append(abs(float(people.box_xyxy[2] - people.box_xyxy[0]) - 100))
    assert (lag[0] == pytest.approx(lag[1], rel=1e-3)) is alike


def test_somebody_who_shrinks_to_a_point_leaves_numbers_behind() -> None:
    tracker = PoseTracker(TrackerParams(pose_bbox_scale=1, track_max_missing=3))
    size = 100.0
    step(tracker, person(200, size=size), found=around(200))
    while size > 2:
        size -= 12
        step(tracker, person(200, size=max(size, 1)))
    for _ in range(3):
        boxes = tracker.boxes(HW, None)
        assert np.isfinite(boxes).all()
        people = step(tracker, person(200, size=1))
        assert all(np.isfinite(one.box_xyxy).all() for one in people)


def test_of_two_who_overlap_the_one_who_was_expected_there_stays() -> None:
    """Two meet; both boxes show the one in front, and the other's box gives the surer scores."""
    kept = {}
    modes: tuple[Mode, Mode] = ("corrected", "sdk")
    for mode in modes:
        tracker = PoseTracker(TrackerParams(pose_bbox_scale=1), mode=mode)
        left, right = 100.0, 240.0
        found = detections((left, 100, left + 100, 200), (right, 100, right + 100, 200))
        step(tracker, person(left), person(right), found=found)
        while right - left > 40:
            left, right = left + 5, right - 5
            assert sorted(ids(step(tracker, person(left), person(right)))) == [0, 1]
        boxes = tracker.boxes(HW, None)
        left += 5
        front = np.stack([person(left, score=0.9)] * 2)
        behind = int(boxes[:, 0].argmax())
        front[behind, :, 2] = 0.95
        kept[mode] = ids(tracker.update(front))
    assert kept == {"corrected": [0], "sdk": [1]}


def test_frames_may_change_their_size() -> None:
    kept = {}
    modes: tuple[Mode, Mode] = ("corrected", "sdk")
    for mode in modes:
        tracker = PoseTracker(TrackerParams(pose_bbox_scale=1), mode=mode)
        tracker.boxes((150, 150), None)
        tracker.update(np.empty((0, 4, 3)))
        tracker.boxes((1000, 1000), detections((600, 600, 700, 700)))
        assert ids(tracker.update(person(600, 600)[None])) == [0]
        kept[mode] = len(tracker.boxes((1000, 1000), None))
    # The SDK goes by the first frame, in which nobody can be there.
    assert kept == {"corrected": 1, "sdk": 0}
