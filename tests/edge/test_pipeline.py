from __future__ import annotations

import numpy as np
import pytest

from edge.detector import Detector
from edge.errors import SpecError
from edge.pipeline import Pipeline, Pose
from edge.pose import PoseEstimator
from edge.session import Array
from tests.stand_ins.fake_sessions import FakeSession, bright_spot, one_person, two_class_detector
from tests.stand_ins.specs import pose_spec


@pytest.mark.parametrize("max_batch", [None, 1, 2])
def test_keypoints_come_back_in_image_pixels(max_batch: int | None) -> None:
    spots = np.array([[60, 90], [200, 50], [300, 210]])
    image = np.zeros((240, 400, 3), np.uint8)
    boxes = []
    for x, y in spots:
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
        boxes.append([x - 30, y - 40, x + 25, y + 35])
    session = FakeSession(pose_spec(), bright_spot, max_batch)
    keypoints = PoseEstimator(session)(image, np.array(boxes, np.float32))
    assert keypoints.shape == (3, 17, 3)
    # A crop is finer than the picture: the spot is found within one of its pixels.
    assert np.abs(keypoints[:, 0, :2] - spots).max() < 1.5
    np.testing.assert_allclose(keypoints[..., 2], 0.8)
    sizes = {None: [3], 1: [1, 1, 1], 2: [2, 2]}[max_batch]
    assert [len(batch) for batch in session.batches] == sizes


def test_no_boxes_ask_the_network_nothing() -> None:
    session = FakeSession(pose_spec(), bright_spot)
    image = np.zeros((40, 40, 3), np.uint8)
    assert PoseEstimator(session)(image, np.empty((0, 4), np.float32)).shape == (0, 17, 3)
    assert session.batches == []


def test_boxes_come_back_in_image_pixels() -> None:
    detector = Detector(two_class_detector(one_person(3.0)))
    boxes = detector(np.zeros((480, 640, 3), np.uint8))
    assert len(boxes) == 1
    # 640x480 goes into 320x320 by one half: everything doubles on the way back.
    np.testing.assert_allclose(boxes.boxes_xyxy, [[240, 32, 400, 352]], atol=1e-3)
    assert boxes.scores[0] == pytest.approx(1 / (1 + np.exp(-3)))


def test_boxes_are_clipped_to_the_image() -> None:
    detector = Detector(two_class_detector(one_person(3.0)))
    boxes = detector(np.zeros((150, 320, 3), np.uint8))
    np.testing.assert_allclose(boxes.boxes_xyxy, [[120, 16, 200, 150]], atol=1e-3)


def test_a_box_beside_the_image_is_dropped() -> None:
    detector = Detector(two_class_detector(one_person(3.0)))
    assert len(detector(np.zeros((15, 320, 3), np.uint8))) == 0


def test_score_and_label_choose() -> None:
    image = np.zeros((320, 320, 3), np.uint8)
    assert len(Detector(two_class_detector(one_person(0.0)), score_threshold=0.6)(image)) == 0
    assert len(Detector(two_class_detector(one_person(3.0, label=1)))(image)) == 1
    assert len(Detector(two_class_detector(one_person(3.0, label=1)), label=0)(image)) == 0


@pytest.mark.parametrize("score", [0.06, 0.1, 0.2])
def test_a_higher_threshold_only_leaves_boxes_out(score: float) -> None:
    image = np.zeros((320, 320, 3), np.uint8)

    def crowd(batch: Array) -> list[Array]:
        del batch
        rng = np.random.default_rng(7)  # the same crowd for every detector
        logits = [rng.normal(-8, 2.4, (1, 2, size, size)) for size in (40, 20, 10)]
        sides = [rng.uniform(20, 90, (1, 4, size, size)) for size in (40, 20, 10)]
        return [maps.astype(np.float32) for maps in logits + sides]

    session = two_class_detector(crowd)
    every, few = Detector(session, score_threshold=0.05), Detector(session, score_threshold=score)
    boxes, some = every(image), few(image)
    kept = boxes.scores > score
    assert 5 < len(some) < len(boxes) < session.spec.max_boxes
    np.testing.assert_array_equal(some.boxes_xyxy, boxes.boxes_xyxy[kept])
    np.testing.assert_array_equal(some.scores, boxes.scores[kept])
    np.testing.assert_array_equal(some.labels, boxes.labels[kept])


def test_the_detector_gets_bgr_with_its_padding() -> None:
    session = two_class_detector(one_person(-9.0))
    image = np.zeros((160, 320, 3), np.uint8)
    image[:] = (10, 20, 30)
    Detector(session)(image)
    (batch,) = session.batches
    mean, std = np.array(session.spec.mean), np.array(session.spec.std)
    want = (np.array([10, 20, 30]) - mean) / std
    np.testing.assert_allclose(batch[0, :, 80, 160], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(batch[0, :, 200, 160], (114 - mean) / std, rtol=1e-5, atol=1e-5)


def test_the_pose_model_gets_rgb() -> None:
    session = FakeSession(pose_spec(), bright_spot)
    image = np.zeros((100, 100, 3), np.uint8)
    image[:] = (10, 20, 30)
    PoseEstimator(session)(image, np.array([[20, 20, 80, 80]], np.float32))
    (batch,) = session.batches
    want = (np.array([30, 20, 10]) - session.spec.mean) / np.array(session.spec.std)
    np.testing.assert_allclose(batch[0, :, 128, 96], want, rtol=1e-5, atol=1e-5)


def test_pipeline_with_and_without_a_detector() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[100:104, 300:304] = 255
    pose = PoseEstimator(FakeSession(pose_spec(), bright_spot))
    (whole,) = Pipeline(pose)(image)
    np.testing.assert_array_equal(whole.box_xyxy, [0, 0, 640, 480])
    assert whole.box_score == 1
    (found,) = Pipeline(pose, Detector(two_class_detector(one_person(3.0))))(image)
    np.testing.assert_allclose(found.box_xyxy, [240, 32, 400, 352], atol=1e-3)
    assert np.abs(found.keypoints[0, :2] - 301.5).min() < 3
    assert Pipeline(pose, Detector(two_class_detector(one_person(-9.0))))(image) == []


def test_instance_score_is_mmposes_bbox_keypoint() -> None:
    keypoints = np.zeros((4, 3), np.float32)
    keypoints[:, 2] = (0.9, 0.5, 0.2, 0.1)
    assert Pose(np.zeros(4, np.float32), 0.5, keypoints).score == pytest.approx(0.5 * 0.7)
    keypoints[:, 2] = 0.1
    assert Pose(np.zeros(4, np.float32), 0.5, keypoints).score == 0


def test_models_of_the_wrong_task_are_refused() -> None:
    with pytest.raises(SpecError, match="takes a detection model"):
        Detector(FakeSession(pose_spec(), bright_spot))
    with pytest.raises(SpecError, match="takes a pose model"):
        PoseEstimator(two_class_detector(one_person(0)))
