"""Which classes of a detector count, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact, sha256_of
from edge.classes import COCO_CLASSES, class_names, find_labels, others_text
from edge.cli import main
from edge.detector import Detector
from edge.errors import SpecError
from edge.pipeline import Pipeline, Pose
from edge.pose import PoseEstimator
from edge.session import Array
from edge.spec import KeypointSet, ModelSpec, TensorSpec, Variant
from edge.tracking.tracker import PoseTracker
from targets.app.manifest import manifest_of
from targets.deploy.service import serve_argv
from tests.stand_ins.fake_sessions import FakeSession, one_person, two_class_detector
from tests.stand_ins.made_artifacts import make_artifact
from tests.stand_ins.specs import detector_spec, maps, pose_spec
from tests.stand_ins.tiny_artifacts import fixed_answers_onnx


def of_classes(count: int, **changes: Any) -> ModelSpec:
    return detector_spec(outputs=maps((8, 16, 32), 320, count, 4), **changes)


def test_classes_by_number_and_by_name() -> None:
    coco = of_classes(80)
    assert len(COCO_CLASSES) == 80 and COCO_CLASSES[79] == "toothbrush"
    assert find_labels(None, coco) == (0,)
    assert find_labels("16", coco) == find_labels("dog", coco) == find_labels("Dog", coco) == (16,)
    assert find_labels("dog, 0 ,cat,dog", coco) == (16, 0, 15)
    own = of_classes(3, class_names=("car", "Person", "bus"))
    assert find_labels(None, own) == (1,)
    assert find_labels("bus", own) == (2,)
    assert find_labels(None, of_classes(2, class_names=("cat", "dog"))) == (0,)
    assert class_names(of_classes(17)) == ()
    assert ModelSpec.from_json(own.to_json()) == own


@pytest.mark.parametrize(
    ("text", "count", "words"),
    [
        ("17", 17, "has the classes 0 to 16"),
        ("dog", 17, "give their numbers, 0 to 16, or name them in its spec as 'class_names'"),
        ("unicorn", 80, "no class of detector; it has person, bicycle"),
        ("²", 17, "give their numbers"),
        ("-1", 80, "no class"),
        ("", 80, "no class"),
        ("1,,2", 80, "no class"),
    ],
)
def test_classes_that_are_none(text: str, count: int, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        find_labels(text, of_classes(count))


def test_names_are_as_many_as_classes() -> None:
    with pytest.raises(SpecError, match=r"'class_names' has 2 names.* 3 classes"):
        of_classes(3, class_names=("a", "b"))


def test_the_line_about_other_classes() -> None:
    assert others_text({16: 4, 2: 1}, of_classes(80)) == (
        "5 boxes of other classes (4 of 16 'dog', 1 of 2 'car'); --classes 16 takes them"
    )
    assert others_text({3: 1}, of_classes(17)).startswith("1 box of other classes (1 of 3);")


def spread(batch: Array) -> tuple[Array, Array]:
    """Keypoints from one corner of the crop to the other."""
    x, y = np.zeros((len(batch), 17, 384), np.float32), np.zeros((len(batch), 17, 512), np.float32)
    points = np.arange(17)
    x[:, points, 100 + 10 * points] = y[:, points, 100 + 15 * points] = 0.9
    return x, y


def test_a_tracker_follows_the_classes_that_the_detector_chose() -> None:
    image = np.zeros((240, 400, 3), np.uint8)
    for label in (0, 1):
        detect = Detector(two_class_detector(one_person(3.0, label=1)), label=label)
        pose = PoseEstimator(FakeSession(pose_spec(), spread))
        find = Pipeline(pose, detect, tracker=PoseTracker())
        find(image)
        assert len(find(image)) == label


# --- the command line -----------------------------------------------------------------------------


def saved(folder: Path, spec: ModelSpec, answers: dict[str, Any]) -> Path:
    folder.mkdir()
    fixed_answers_onnx(folder / "m.onnx", spec, answers)
    hashes = {"m.onnx": sha256_of(folder / "m.onnx")}
    Artifact(folder, Variant("onnx", "fp32"), spec, {"model": "m.onnx"}, hashes).write_manifest()
    return folder


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """A pose model of which one keypoint is NaN, and a detector of two dogs."""
    pytest.importorskip("onnxruntime")
    x, y = np.zeros((1, 17, 384), np.float32), np.zeros((1, 17, 512), np.float32)
    x[:, :, 90] = y[:, :, 200] = 0.9
    x[:, 5, 3] = np.nan
    outputs = (TensorSpec("simcc_x", (1, 17, 384)), TensorSpec("simcc_y", (1, 17, 512)))
    spec = pose_spec(input=TensorSpec("input", (1, 3, 256, 192)), outputs=outputs)
    pose = saved(tmp_path / "pose", spec, {"simcc_x": x, "simcc_y": y})
    dets = np.array([[[10, 10, 90, 200, 0.9], [150, 20, 220, 210, 0.8]]], np.float32)
    outputs = (TensorSpec("dets", (1, 2, 5)), TensorSpec("labels", (1, 2)))
    finder = detector_spec(codec="detections", outputs=outputs, strides=())
    labels = np.full((1, 2), 16, np.float32)
    return pose, saved(tmp_path / "finder", finder, {"dets": dets, "labels": labels})


def picture(folder: Path, name: str = "a.png") -> str:
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(folder / name), np.full((240, 320, 3), 90, np.uint8))
    return str(folder / name)


def test_run_says_which_other_classes_there_were(
    tmp_path: Path, models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pose, finder = models
    out = tmp_path / "out"
    command = ["run", "--model", str(pose), "--detector", str(finder), "--out", str(out)]
    command.append(picture(tmp_path))
    assert main(command) == 0
    said = capsys.readouterr()
    assert "0 people" in said.out
    assert "2 boxes of other classes (2 of 16); --classes 16 takes them" in said.err
    assert main([*command, "--classes", "16"]) == 0
    said = capsys.readouterr()
    assert "2 people" in said.out and "other classes" not in said.err
    # One keypoint of both people; JSON stays JSON.
    assert "2 answers of the network were not finite" in said.err
    text = (out / "poses.json").read_text()
    data = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    (one, two) = data["pictures"][0]["people"]
    assert one["keypoints"]["left_shoulder"][2] == two["keypoints"]["left_shoulder"][2] == 0
    assert one["keypoints"]["nose"][2] == 0.9
    assert main([*command, "--classes", "dog"]) == 1
    assert "does not say what its classes are called" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--conf", "--keypoint-score"])
@pytest.mark.parametrize("value", ["30", "-0.1", "nan", "a lot"])
def test_scores_are_no_percent(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--model", "x", "--out", "y", option, value, "z.png"])
    assert f"argument {option}" in capsys.readouterr().err


def test_classes_without_a_detector_are_refused(
    tmp_path: Path, models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--model", str(models[0]), "--out", str(tmp_path / "out"), "--classes", "1"]
    assert main([*command, picture(tmp_path)]) == 1
    assert "--classes are those of a --detector" in capsys.readouterr().err


# --- devices and apps -----------------------------------------------------------------------------


def test_an_apps_manifest_has_the_labels(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", spec=of_classes(80))
    assert manifest_of(artifact)["labels"] == [0]
    manifest = manifest_of(artifact, classes="dog,17")
    assert manifest["labels"] == [16, 17] and manifest["class_names"][16] == "dog"
    assert "labels" not in manifest_of(make_artifact(tmp_path / "b"))
    with pytest.raises(SpecError, match="unicorn"):
        manifest_of(artifact, classes="unicorn")


def test_the_service_is_told_the_classes() -> None:
    argv = serve_argv(["python3"], "m", "d", "0", 2, "16,dog")
    assert argv[argv.index("--classes") + 1] == "16,dog"
    assert "--classes" not in serve_argv(["python3"], "m", "d", "0", 2)


def test_drawing_passes_over_what_is_no_number() -> None:
    pytest.importorskip("cv2")
    from edge.picture import draw_poses

    points = np.full((17, 3), np.nan, np.float32)
    points[0] = (30, 30, 1)
    keypoints = KeypointSet("x", tuple(f"p{i}" for i in range(17)), ((0, 1), (1, 2)), (), ())
    image = np.zeros((60, 60, 3), np.uint8)
    poses = [
        Pose(np.array([5, 5, 50, 50], np.float32), 1.0, points),
        Pose(np.array([5, np.nan, 50, np.inf], np.float32), 1.0, points),
    ]
    drawn = draw_poses(image, poses, keypoints, 0.0)
    assert drawn[30, 30].any() and not image.any()
