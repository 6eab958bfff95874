"""The tracker as a pipeline uses it: what it asks the models, and whom it keeps."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge.detector import Boxes
from edge.errors import SpecError
from edge.tracking.tracker import Mode, PoseTracker, TrackerParams
from tests.stand_ins.tracked_people import F32, HW, around, detections, ids, person, step

IMAGE = np.zeros((480, 640, 3), np.uint8)


# --- parameters -----------------------------------------------------------------------------------


def test_defaults_are_the_sdk_s() -> None:
    assert vars(TrackerParams()) == {
        "det_interval": 1,
        "det_label": 0,
        "det_thr": 0.5,
        "det_min_bbox_size": -1,
        "det_nms_thr": 0.7,
        "pose_max_num_bboxes": -1,
        "pose_kpt_thr": 0.5,
        "pose_min_keypoints": -1,
        "pose_bbox_scale": 1.25,
        "pose_min_bbox_size": 0,
        "pose_nms_thr": 0.5,
        "keypoint_sigmas": (),
        "track_iou_thr": 0.4,
        "track_max_missing": 10,
        "track_history_size": 1,
        "std_weight_position": 0.05,
        "std_weight_velocity": 0.00625,
        "smooth_params": (0.007, 1, 1),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("det_interval", -1),
        ("det_thr", float("nan")),
        ("pose_max_num_bboxes", -2),
        ("pose_min_keypoints", -2),
        ("pose_bbox_scale", 0),
        ("pose_nms_thr", 1.5),
        ("track_iou_thr", -0.1),
        ("track_max_missing", -1),
        ("track_history_size", 0),
        ("std_weight_position", 0),
        ("keypoint_sigmas", (0.1, 0.0)),
        ("smooth_params", (0.007, 1)),
        ("smooth_params", (0.007, -1, 1)),
    ],
)
def test_senseless_parameters_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SpecError, match=name):
        TrackerParams(**{name: value})


def test_an_unknown_mode_is_refused() -> None:
    mode: Any = "better"
    with pytest.raises(SpecError, match="one of corrected, sdk"):
        PoseTracker(mode=mode)


# --- the seam -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "frames"), [(1, [0, 1, 2, 3, 4, 5]), (3, [0, 3]), (0, []), (4, [0, 4])]
)
def test_it_detects_at_the_interval_and_estimates_once_a_frame(
    interval: int, frames: list[int]
) -> None:
    tracker = PoseTracker(TrackerParams(det_interval=interval, pose_bbox_scale=1))
    detected, batches = [], []

    def detect(_: npt.NDArray[np.uint8]) -> Boxes:
        detected.append(tracker.frame_index)
        return detections((100, 100, 200, 200), (300, 100, 400, 200))

    def estimate(_: npt.NDArray[np.uint8], boxes_xyxy: F32) -> F32:
        batches.append(len(boxes_xyxy))
        return np.stack([person(float(box[:3:2].mean()) - 50) for box in boxes_xyxy])

    people = [tracker(IMAGE, detect, estimate) for _ in range(6)]
    assert detected == frames
    assert batches == ([2] * 6 if frames else [])
    assert [ids(frame) for frame in people] == [[0, 1] if frames else []] * 6


def test_detection_can_be_called_for_and_called_off() -> None:
    tracker = PoseTracker(TrackerParams(det_interval=2))
    asked = []

    def detect(_: npt.NDArray[np.uint8]) -> Boxes:
        asked.append(tracker.frame_index)
        return detections()

    def estimate(_: npt.NDArray[np.uint8], boxes_xyxy: F32) -> F32:
        raise AssertionError(f"asked about {len(boxes_xyxy)} boxes")

    for detect_now in (False, True, None, None):
        assert tracker(IMAGE, detect, estimate, detect_now=detect_now) == []
    assert asked == [1, 2]


def test_which_detections_count() -> None:
    params = TrackerParams(det_label=3, det_thr=0.5, det_min_bbox_size=20)
    found = detections(
        *(
            (0, 0, 50, 50),
            (100, 0, 150, 50),
            (200, 0, 250, 50),
            (300, 0, 319, 20),
            (400, 0, 420, 20),
        ),
        scores=[0.6, 0.5, 0.9, 0.9, 0.9],
        labels=[3, 3, 0, 3, 3],
    )
    assert PoseTracker(params).boxes(HW, found).tolist() == [[0, 0, 50, 50], [400, 0, 420, 20]]


def test_the_likeliest_boxes_come_first_and_doubles_go() -> None:
    tracker = PoseTracker(TrackerParams(pose_bbox_scale=1))
    step(
        tracker,
        person(100),
        person(300),
        found=detections((100, 100, 200, 200), (300, 100, 400, 200)),
    )
    step(tracker, person(100))
    found = detections(
        (500, 100, 520, 120),  # small
        (105, 100, 200, 200),  # the one that is tracked
        (310, 100, 400, 200),  # the one that is missing, who is expected a little further left
        (450, 300, 600, 470),
    )
    np.testing.assert_allclose(
        tracker.boxes(HW, found),
        [[100, 100, 200, 200], [450, 300, 600, 470], [310, 100, 400, 200], [500, 100, 520, 120]],
        atol=1e-3,
    )
    # 100 wide against 90: the missing one overlaps by 0.9 and goes.


def test_no_more_people_than_asked_for() -> None:
    tracker = PoseTracker(TrackerParams(pose_max_num_bboxes=2))
    found = detections((0, 0, 50, 50), (100, 0, 200, 100), (300, 0, 370, 70))
    assert tracker.boxes(HW, found).tolist() == [[100, 0, 200, 100], [300, 0, 370, 70]]
    nobody = PoseTracker(TrackerParams(pose_max_num_bboxes=0))
    assert nobody.boxes(HW, found).shape == (0, 4)


def test_poses_that_do_not_fit_the_boxes_are_refused() -> None:
    tracker = PoseTracker()
    tracker.boxes(HW, around(100))
    with pytest.raises(ValueError, match="2 poses for 1 boxes"):
        tracker.update(np.zeros((2, 4, 3)))
    with pytest.raises(ValueError, match=re.escape("(1, 4, 2)")):
        tracker.update(np.zeros((1, 4, 2)))
    tracker = PoseTracker(TrackerParams(keypoint_sigmas=(0.1,) * 17))
    tracker.boxes(HW, around(100))
    with pytest.raises(SpecError, match="17 numbers and a pose 4"):
        tracker.update(np.zeros((1, 4, 3)))


def test_a_model_of_one_stage_gives_poses_alone() -> None:
    tracker = PoseTracker()
    for shift in range(0, 40, 4):
        poses = np.stack([person(300 - shift), person(100 + shift)])
        people = tracker.update(poses, image_hw=HW)
        assert ids(people) == [0, 1]
    np.testing.assert_allclose(people[1].keypoints[:, :2], person(136)[:, :2], atol=3)
    assert tracker.update(np.empty((0, 4, 3)), image_hw=HW) == []


# --- who is who -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["corrected", "sdk"])
def test_numbers_last_as_long_as_people_and_are_never_used_again(mode: Mode) -> None:
    tracker = PoseTracker(TrackerParams(track_max_missing=3, pose_bbox_scale=1), mode=mode)
    assert ids(step(tracker, person(100), found=around(100))) == [0]
    for _ in range(3):
        assert step(tracker) == []
    assert ids(step(tracker, person(100))) == [0]
    for _ in range(4):
        assert step(tracker) == []
    # Given up: nobody is looked for any more, and who comes is new.
    assert tracker.boxes(HW, None).shape == (0, 4)
    tracker.update(np.empty((0, 4, 3)))
    assert ids(step(tracker, person(100), found=around(100))) == [1]
    assert ids(step(tracker, person(100), person(400), found=around(400))) == [1, 2]


def test_a_pose_counts_with_enough_keypoints_seen() -> None:
    pose = person(100)
    pose[1:3, 2] = 0.4
    for least, threshold, counts in ((-1, 0.5, True), (3, 0.5, False), (3, 0.4, True)):
        tracker = PoseTracker(TrackerParams(pose_min_keypoints=least, pose_kpt_thr=threshold))
        assert ids(step(tracker, pose, found=around(100))) == ([0] if counts else [])


@pytest.mark.parametrize("sigmas", [(), (0.1,) * 4])
def test_two_poses_of_one_person_are_one(sigmas: tuple[float, ...]) -> None:
    tracker = PoseTracker(TrackerParams(keypoint_sigmas=sigmas))
    found = detections((100, 100, 200, 200), (160, 100, 260, 200))
    people = step(tracker, person(103, score=0.8), found=found)
    assert ids(people) == [0]
    tracker = PoseTracker(TrackerParams(keypoint_sigmas=sigmas, pose_nms_thr=1))
    tracker.boxes(HW, found)
    assert ids(tracker.update(np.stack([person(100), person(103)]))) == [0, 1]


def test_a_pose_without_a_size_or_not_a_number_is_nobody() -> None:
    for pose in (person(100, size=0), np.full((4, 3), np.nan, np.float32)):
        tracker = PoseTracker()
        tracker.boxes(HW, around(100))
        assert tracker.update(pose[None]) == []


def test_scores_are_the_model_s_and_boxes_are_grown() -> None:
    tracker = PoseTracker()
    (found,) = step(tracker, person(100, score=0.625), found=around(100))
    assert found.keypoints[:, 2].tolist() == [0.625] * 4
    np.testing.assert_allclose(found.keypoints[:, :2], person(100)[:, :2])
    np.testing.assert_allclose(found.box_xyxy, [87.5, 87.5, 212.5, 212.5])
    assert found.keypoints.dtype == found.box_xyxy.dtype == np.float32


def test_the_last_poses_are_remembered() -> None:
    tracker = PoseTracker(TrackerParams(track_history_size=3, pose_bbox_scale=1))
    step(tracker, person(100), found=around(100))
    for x in (101.0, 102, 103):
        step(tracker, person(x))
    step(tracker)
    poses = tracker.history(0)
    assert [pose[0, 2] for pose in poses] == pytest.approx([0.9, 0.9, 0])
    assert poses[0][0, 0] < poses[1][0, 0] < poses[2][0, 0]
    assert tracker.history(7) == []


def test_a_pose_that_is_elsewhere_is_neither_this_person_s_nor_a_new_one_s() -> None:
    tracker = PoseTracker(TrackerParams(pose_bbox_scale=1))
    for _ in range(5):
        step(tracker, person(100), found=around(100))
    (box,) = tracker.boxes(HW, None)
    np.testing.assert_allclose(box, [100, 100, 200, 200], atol=1e-3)
    # One corner of four is where it was, and the boxes overlap by a ninth.
    assert tracker.update(person(100, size=300)[None]) == []
    assert ids(step(tracker, person(100))) == [0]


def test_a_keypoint_that_jumps_begins_anew_and_the_others_are_weighed() -> None:
    tracker = PoseTracker(TrackerParams(pose_bbox_scale=1))
    x = 50.0
    step(tracker, person(x), found=around(x))
    for _ in range(20):
        x += 12
        step(tracker, person(x))
    (expected,) = tracker.boxes(HW, None)
    pose = person(x + 16)  # four more than expected
    pose[3, :2] += (60, -40)
    assert ids(tracker.update(pose[None])) == [0]
    (kept,) = tracker.history(0)
    np.testing.assert_allclose(kept[3], pose[3])
    assert expected[0] < kept[0, 0] < pose[0, 0] - 0.5
    # It has no velocity yet: the box's right side, which is that point, stays.
    (box,) = tracker.boxes(HW, None)
    assert box[2] == pytest.approx(pose[3, 0], abs=1e-3)
    assert box[0] > kept[0, 0] + 10


def test_nobody_is_looked_for_beside_the_picture_or_where_they_are_too_small() -> None:
    tracker = PoseTracker(TrackerParams(pose_bbox_scale=1))
    x = 200.0
    step(tracker, person(x), found=around(x))
    while x > 20:
        x -= 20
        assert ids(step(tracker, person(x))) == [0]
    looked_for = []
    for _ in range(9):
        looked_for.append(len(tracker.boxes(HW, None)))
        tracker.update(np.zeros((looked_for[-1], 4, 3)))
    assert looked_for[0] == 1
    assert looked_for[-1] == 0
    for size, count in ((100, 0), (99, 1)):
        tracker = PoseTracker(TrackerParams(pose_bbox_scale=1, pose_min_bbox_size=size))
        step(tracker, person(100), found=around(100))
        assert len(tracker.boxes(HW, None)) == count


def test_boxes_are_whole_pixels_in_the_sdk_alone() -> None:
    thin = detections((10, 10, 10.25, 60))
    assert PoseTracker(mode="sdk").boxes(HW, thin).tolist() == [[10, 10, 11, 60]]
    found = detections((10.5, 11.5, 99.25, 80.75))
    # Corner and size, halves to even: 10, 12, and 88.75 and 69.25 of size.
    assert PoseTracker(mode="sdk").boxes(HW, found).tolist() == [[10, 12, 99, 81]]
    assert PoseTracker().boxes(HW, found).tolist() == [[10.5, 11.5, 99.25, 80.75]]


def test_fifty_people_and_none() -> None:
    tracker = PoseTracker()
    corners = [(60.0 * (i % 10), 90.0 * (i // 10)) for i in range(50)]
    found = detections(*((x, y, x + 50, y + 80) for x, y in corners))
    poses = [person(x + 5, y + 5, 40) for x, y in corners]
    for _ in range(3):
        boxes = tracker.boxes(HW, found)
        nearest = [
            min(poses, key=lambda pose: float(np.abs(pose[0, :2] - 5 - box[:2]).sum()))
            for box in boxes
        ]
        assert ids(tracker.update(np.stack(nearest))) == list(range(50))
    assert step(tracker) == []
