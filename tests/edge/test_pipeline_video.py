"""One image after another through both kinds of pipeline: numbers, intervals, batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge.detector import Detector
from edge.errors import SpecError
from edge.onestage import OneStage
from edge.pipeline import Pipeline
from edge.pose import PoseEstimator
from edge.tracking.tracker import PoseTracker, TrackerParams
from tests.stand_ins.moving_people import (
    detector_session,
    one_stage_session,
    picture,
    pose_session,
    walking,
)

pytest.importorskip("cv2")  # the stand-in networks find rectangles with it

HW = (240, 320)


def pipeline(**how: Any) -> tuple[Pipeline, Any, Any]:
    detector, pose = detector_session(), pose_session()
    return Pipeline(PoseEstimator(pose), Detector(detector), **how), detector, pose


@pytest.mark.parametrize("interval", [1, 3, 5])
def test_a_detector_every_nth_frame(interval: int) -> None:
    find_people, detector, pose = pipeline(det_interval=interval)
    for frame in range(10):
        people = find_people(picture(walking(frame), HW))
        assert len(detector.batch_sizes) == frame // interval + 1
        assert pose.batch_sizes[-1] == 2
        people.sort(key=lambda person: float(person.keypoints[0, 1]))
        for person, (x, y, width, height) in zip(people, walking(frame), strict=True):
            # The keypoints' corners are the rectangle's; a crop is coarser than that.
            np.testing.assert_allclose(person.keypoints[0, :2], (x, y), atol=1.5)
            np.testing.assert_allclose(person.keypoints[16, :2], (x + width, y + height), atol=1.5)
            assert person.track_id is None
            detected = frame % interval == 0
            assert person.box_score == pytest.approx(0.9 if detected else 1)


def test_the_box_in_between_is_that_of_the_last_keypoints() -> None:
    find_people, _, _ = pipeline(det_interval=4)
    image = picture(walking(0), HW)
    first = find_people(image)
    second = find_people(image)
    for before, after in zip(first, second, strict=True):
        low, high = before.keypoints[:, :2].min(axis=0), before.keypoints[:, :2].max(axis=0)
        margin = 0.125 * (high - low)
        want = np.concatenate([low - margin, high + margin]).clip(0, (320, 240, 320, 240))
        np.testing.assert_allclose(after.box_xyxy, want, atol=1e-3)


def test_who_comes_waits_for_the_next_detection_and_who_goes_is_gone() -> None:
    find_people, _, _ = pipeline(det_interval=3)
    both = walking(0)
    scenes = [both[:0], both, both, both, both[:0], both[:0], both, both[:0]]
    counts = [len(find_people(picture(boxes, HW))) for boxes in scenes]
    assert counts == [0, 0, 0, 2, 0, 0, 2, 0]


@pytest.mark.parametrize("mode", ["corrected", "sdk"])
def test_a_tracker_numbers_people(mode: Any) -> None:
    tracker = PoseTracker(TrackerParams(det_interval=4), mode=mode)
    find_people, detector, pose = pipeline(tracker=tracker)
    for frame in range(13):
        people = find_people(picture(walking(frame), HW))
        assert [person.track_id for person in people] == [0, 1]
        assert [person.box_score for person in people] == [1, 1]
        # The one above walks to the right. Smoothed places lag a little behind.
        by_height = sorted(people, key=lambda person: float(person.box_xyxy[1]))
        for person, (x, y, width, height) in zip(by_height, walking(frame), strict=True):
            centre = person.keypoints[:, :2].mean(axis=0)
            np.testing.assert_allclose(centre, (x + width / 2, y + height / 2), atol=4)
    assert detector.batch_sizes == [1] * 4
    # A detected box and a tracked one of the same person may both be asked, in one batch.
    assert len(pose.batch_sizes) == 13
    assert [size for frame, size in enumerate(pose.batch_sizes) if frame % 4] == [2] * 9


def test_numbers_follow_a_person_and_not_a_place_in_the_list() -> None:
    find_people, _, _ = pipeline(tracker=PoseTracker())
    first = {p.track_id: p.box_xyxy for p in find_people(picture(walking(0), HW))}
    for frame in range(1, 30):
        last = {p.track_id: p.box_xyxy for p in find_people(picture(walking(frame), HW))}
    assert set(first) == set(last) == {0, 1}
    for number in (0, 1):
        assert abs(first[number][1] - last[number][1]) < 5
        assert abs(first[number][0] - last[number][0]) > 60


def test_fifty_people_are_batched_as_the_session_takes_them() -> None:
    boxes = [(12 + 62 * (n % 10), 10 + 92 * (n // 10), 24, 60) for n in range(50)]
    image = picture(boxes, (480, 640))
    for max_batch, want in ((None, [50]), (8, [8] * 7), (1, [1] * 50)):
        pose = pose_session(max_batch)
        find_people = Pipeline(
            PoseEstimator(pose), Detector(detector_session()), tracker=PoseTracker()
        )
        people = find_people(image)
        assert [person.track_id for person in people] == list(range(50))
        assert pose.batch_sizes == want
        centres = sorted(tuple(np.rint(p.keypoints[:, :2].mean(axis=0))) for p in people)
        want_centres = sorted((x + 12, y + 30) for x, y, _, _ in boxes)
        np.testing.assert_allclose(centres, want_centres, atol=1.5)
        assert [p.track_id for p in find_people(image)] == list(range(50))


def test_a_one_stage_model_follows_behind_the_same_call() -> None:
    session = one_stage_session()
    alone, find_people = OneStage(session), OneStage(session, tracker=PoseTracker())
    assert find_people(np.zeros((*HW, 3), np.uint8)) == []
    for frame in range(8):
        image = picture(walking(frame), HW)
        people = find_people(image)
        assert [person.track_id for person in people] == [0, 1]
        assert [person.track_id for person in alone(image)] == [None, None]
        for person, plain in zip(
            sorted(people, key=lambda p: float(p.box_xyxy[1])),
            sorted(alone(image), key=lambda p: float(p.box_xyxy[1])),
            strict=True,
        ):
            np.testing.assert_allclose(person.keypoints, plain.keypoints, atol=6)


def test_frames_of_another_size_are_followed_too() -> None:
    find_people, _, _ = pipeline(tracker=PoseTracker())
    for image_hw in (HW, HW, (300, 500), (200, 290), HW):
        people = find_people(picture(walking(0), image_hw))
        assert [person.track_id for person in people] == [0, 1]


def test_contradictions_are_refused() -> None:
    pose = PoseEstimator(pose_session())
    detector = Detector(detector_session())
    with pytest.raises(SpecError, match="without a detector"):
        Pipeline(pose, det_interval=2)
    with pytest.raises(SpecError, match="without a detector"):
        Pipeline(pose, tracker=PoseTracker())
    with pytest.raises(SpecError, match="of 1 or more"):
        Pipeline(pose, detector, det_interval=0)
    with pytest.raises(SpecError, match="interval of its own"):
        Pipeline(pose, detector, det_interval=2, tracker=PoseTracker())
