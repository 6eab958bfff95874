"""A one-stage model from an image to poses, and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact, sha256_of
from edge.cli import main
from edge.detector import Detector
from edge.errors import SpecError
from edge.keypoints import KEYPOINT_SETS, KeypointSet
from edge.onestage import OneStage
from edge.pipeline import Pose
from edge.pose import PoseEstimator
from edge.session import Array
from edge.spec import ModelSpec, TensorSpec, Variant
from tests.stand_ins.fake_sessions import FakeSession
from tests.stand_ins.specs import finished_poses_spec, rtmo_spec, yolox_spec
from tests.stand_ins.tiny_artifacts import fixed_answers_onnx
from tests.stand_ins.two_poses import two_people


def two_people_session(**changes: Any) -> FakeSession:
    return FakeSession(finished_poses_spec(**changes), lambda _: list(two_people()))


def test_poses_come_back_in_image_pixels_from_a_centred_letterbox() -> None:
    # 512x256 goes into 128x128 by a quarter, 32 rows of padding above and below.
    poses = OneStage(two_people_session())(np.zeros((256, 512, 3), np.uint8))
    assert len(poses) == 2
    first, second = poses
    np.testing.assert_allclose(first.box_xyxy, [160, 0, 320, 256], atol=1e-3)
    np.testing.assert_allclose(second.box_xyxy, [0, 0, 80, 112], atol=1e-3)
    assert (first.box_score, second.box_score) == pytest.approx((0.9, 0.6))
    want = [[160 + 32 * k, (30 + 10 * k - 32) * 4] for k in range(5)]
    np.testing.assert_allclose(first.keypoints[:, :2], want, atol=1e-3)
    np.testing.assert_allclose(first.keypoints[:, 2], 0.5 + 0.1 * np.arange(5), rtol=1e-6)
    # A keypoint may lie beside the picture, a box may not.
    np.testing.assert_allclose(second.keypoints[0, :2], (-32, 32), atol=1e-3)


def test_poses_come_back_from_a_letterbox_at_the_top_left() -> None:
    session = two_people_session(letterbox="top-left")
    (first, _) = OneStage(session)(np.zeros((256, 512, 3), np.uint8))
    np.testing.assert_allclose(first.box_xyxy, [160, 120, 320, 256], atol=1e-3)
    np.testing.assert_allclose(first.keypoints[1, :2], (48 * 4, 40 * 4), atol=1e-3)


def test_the_network_gets_its_padding_above_and_below() -> None:
    session = two_people_session(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    image = np.zeros((64, 128, 3), np.uint8)
    image[:] = (10, 20, 30)
    OneStage(session)(image)
    (batch,) = session.batches
    assert batch.shape == (1, 3, 128, 128)
    np.testing.assert_array_equal(batch[0, :, 31, 64], (114, 114, 114))
    np.testing.assert_array_equal(batch[0, :, 32, 64], (10, 20, 30))
    np.testing.assert_array_equal(batch[0, :, 95, 64], (10, 20, 30))
    np.testing.assert_array_equal(batch[0, :, 96, 64], (114, 114, 114))


def test_the_score_chooses() -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    for threshold, count in ((0.1, 3), (0.3, 2), (0.7, 1), (0.95, 0)):
        assert len(OneStage(two_people_session(), score_threshold=threshold)(image)) == count


def test_a_person_in_the_padding_is_nobody() -> None:
    def in_the_padding(_: Array) -> list[Array]:
        dets, keypoints = two_people()
        dets[0, 0, :4] = (10, 2, 90, 30)
        return [dets, keypoints]

    session = FakeSession(finished_poses_spec(), in_the_padding)
    poses = OneStage(session)(np.zeros((64, 128, 3), np.uint8))
    assert [pose.box_score for pose in poses] == pytest.approx([0.6])
    np.testing.assert_allclose(poses[0].keypoints[:, 2], 0.3)


def test_a_centred_letterbox_serves_detectors_too() -> None:
    rows = np.zeros((1, 2100, 8), np.float32)
    rows[0, 10 * 40 + 10] = (0, 0, np.log(4), np.log(4), 0.9, 0.9, 0, 0)
    session = FakeSession(yolox_spec(letterbox="center"), lambda _: [rows])
    boxes = Detector(session)(np.zeros((160, 320, 3), np.uint8))
    # (80, 80) +- 16 px of the input, 80 rows of padding above
    np.testing.assert_allclose(boxes.boxes_xyxy, [[64, 0, 96, 16]], atol=1e-3)


def test_models_of_another_task_are_refused() -> None:
    with pytest.raises(SpecError, match="takes a one-stage model"):
        OneStage(FakeSession(yolox_spec(), None))
    for wrong in (Detector, PoseEstimator):
        with pytest.raises(SpecError, match="one-stage model"):
            wrong(FakeSession(rtmo_spec(), None))


# --- drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keypoints", KEYPOINT_SETS.values(), ids=KEYPOINT_SETS)
def test_every_keypoint_set_can_be_drawn(keypoints: KeypointSet) -> None:
    pytest.importorskip("cv2")
    from edge.picture import draw_poses

    image = np.zeros((240, 320, 3), np.uint8)
    count = len(keypoints.keypoints)
    points = np.random.default_rng(0).uniform((20, 20, 0.5), (300, 220, 1), (count, 3))
    points[0, 2] = 0.1
    pose = Pose(np.array([0, 0, 1, 1], np.float32), 1.0, points.astype(np.float32))
    drawn = draw_poses(image, [pose], keypoints, 0.3)
    for x, y, _ in points[1:]:
        assert drawn[round(y), round(x)].any()
    without_links = KeypointSet(keypoints.name, keypoints.keypoints, (), (), ())
    dots = draw_poses(image, [pose], without_links, 0.3)
    assert ((drawn != 0).sum() > (dots != 0).sum()) == bool(keypoints.skeleton)


# --- the command line -----------------------------------------------------------------------------


def one_stage_artifact(folder: Path, spec: ModelSpec) -> Path:
    pytest.importorskip("onnxruntime")
    folder.mkdir()
    dets, keypoints = two_people()
    fixed_answers_onnx(folder / "poses.onnx", spec, {"dets": dets, "keypoints": keypoints})
    files = {"model": "poses.onnx"}
    hashes = {"poses.onnx": sha256_of(folder / "poses.onnx")}
    Artifact(folder, Variant("onnx", "fp32"), spec, files, hashes).write_manifest()
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "7.png"
    cv2.imwrite(str(path), np.full((256, 512, 3), 90, np.uint8))
    return path


def test_run_with_a_one_stage_model(
    tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = finished_poses_spec(
        outputs=(TensorSpec("dets", (1, 3, 5)), TensorSpec("keypoints", (1, 3, 5, 3)))
    )
    model = one_stage_artifact(tmp_path / "model", spec)
    out = tmp_path / "out"
    assert main(["run", "--model", str(model), "--out", str(out), str(picture)]) == 0
    assert "2 people" in capsys.readouterr().out
    data = json.loads((out / "poses.json").read_text())
    assert data["keypoint_set"] == "unnamed-5"
    first, second = data["pictures"][0]["people"]
    assert first["box_xyxy"] == [160, 0, 320, 256]
    assert first["keypoints"]["point_1"] == [192, 32, 0.6]
    assert second["box_score"] == 0.6
    assert (out / "7.png").is_file()
    # The COCO score of a one-stage model is the box's.
    command = ["run", "--model", str(model), "--out", str(out), "--conf", "0.1", "--json"]
    assert main([*command, str(picture)]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["score"] for result in results] == [0.9, 0.6, 0.2]
    assert {result["image_id"] for result in results} == {7}


def test_a_one_stage_model_takes_no_detector(
    tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = one_stage_artifact(tmp_path / "model", finished_poses_spec())
    out = tmp_path / "out"
    command = ["run", "--model", str(model), "--detector", str(model), "--out", str(out)]
    assert main([*command, str(picture)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == (
        "edge: rtmo is a one-stage model and finds the people itself: leave --detector out"
    )
    assert not out.exists()


def test_info_shows_constants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = rtmo_spec()
    Artifact(tmp_path, Variant("onnx", "fp32"), spec, {}, {}).write_manifest()
    assert main(["info", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for name, shape in (("dcc.periods", "[64]"), ("dcc.x.weight", "[24, 8]")):
        assert f'name = "{name}", shape = {shape}' in printed
