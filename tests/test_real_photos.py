"""The real RTMDet-nano on real photos, from the untouched file to drawn pictures."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edge import Detector, load_artifact, open_session
from edge.cli import main
from edge.detector import Boxes
from edge.picture import read_image
from edge.session import Session

cv2 = pytest.importorskip("cv2")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("ncnn")
if find_spec("pnnx") is None:
    pytest.skip("pnnx is not installed", allow_module_level=True)

pytestmark = pytest.mark.long


# Of every kept box: the least overlap, the largest change of its score.
LIMITS = {
    "onnx-fp32": (0.995, 0.01),
    "ncnn-fp16": (0.98, 0.02),
    "openvino-fp32": (0.995, 0.01),
    "openvino-fp16": (0.98, 0.02),
}


def untouched(path: Path) -> Session:
    from converters.graph.file import load_onnx
    from converters.graph.recognise import recognise
    from edge.engines.onnxruntime import OnnxRuntimeSession
    from edge.session import EngineSettings

    spec = recognise(load_onnx(path), path, "rtmdet").source_spec
    return OnnxRuntimeSession(path, spec, EngineSettings())


@pytest.fixture(scope="module")
def built(rtmdet_file: Path, photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some variants of the detector and of the demo pose model, compared on the photos."""
    out = tmp_path_factory.mktemp("build")
    command = ["convert", "--target", "android", "--detector", str(rtmdet_file)]
    command += ["--formats", ",".join(LIMITS), "--images", str(photos[0].parent)]
    # Minutes under QEMU for a network of this size.
    command += ["--no-arm-check"]
    assert main([*command, "--out", str(out)]) == 0
    return out / "android-sd865"


def test_the_untouched_file_answers_as_mmdeploys_own_runtime_does(
    rtmdet_file: Path, photos: list[Path]
) -> None:
    """The figures are those of mmdeploy-runtime 1.3.1 with the same model file and photo."""
    assert photos[0].name == "000000000785.jpg"
    with untouched(rtmdet_file) as session:
        boxes = Detector(session, score_threshold=0.5)(read_image(photos[0]))
    assert len(boxes) == 1
    want = [279.912, 41.595, 499.725, 383.955]
    np.testing.assert_allclose(boxes.boxes_xyxy[0], want, rtol=0, atol=0.5)
    assert boxes.scores[0] == pytest.approx(0.8592, abs=0.005)
    assert boxes.labels[0] == 0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    size = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    overlap = float(np.prod(np.maximum(size, 0)))
    return overlap / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - overlap)


@pytest.mark.parametrize(
    ("variant", "least_iou", "score_limit"), [(name, *limits) for name, limits in LIMITS.items()]
)
def test_every_box_is_kept_and_none_is_new(
    built: Path,
    rtmdet_file: Path,
    photos: list[Path],
    variant: str,
    least_iou: float,
    score_limit: float,
) -> None:
    artifact = load_artifact(built / f"rtmdet-nano-person-{variant}")
    assert artifact.spec.input_hw == (320, 320)
    assert artifact.spec.codec == "rtmdet"
    total = 0
    with untouched(rtmdet_file) as reference, open_session(artifact) as session:
        for photo in photos:
            image = read_image(photo)
            want: Boxes = Detector(reference, score_threshold=0.3)(image)
            got = Detector(session, score_threshold=0.3)(image)
            assert len(got) == len(want), photo.name
            total += len(want)
            for box, score in zip(want.boxes_xyxy, want.scores, strict=True):
                ious = [iou(box, other) for other in got.boxes_xyxy]
                best = int(np.argmax(ious))
                assert ious[best] >= least_iou, photo.name
                assert abs(got.scores[best] - score) <= score_limit, photo.name
    assert total == 12


@pytest.mark.parametrize("variant", LIMITS)
def test_photos_end_as_pictures_and_json(
    built: Path, photos: list[Path], tmp_path: Path, variant: str
) -> None:
    command = ["run", "--model", str(built / f"rtmpose-t-demo-{variant}")]
    command += ["--detector", str(built / f"rtmdet-nano-person-{variant}")]
    out = tmp_path / "out"
    assert main([*command, "--out", str(out), *map(str, photos)]) == 0
    data = json.loads((out / "poses.json").read_text())
    people = {picture["file"]: len(picture["people"]) for picture in data["pictures"]}
    assert people["000000000785.jpg"] == 1
    assert all(count >= 1 for count in people.values())
    for photo in photos:
        drawn, image = cv2.imread(str(out / photo.name)), cv2.imread(str(photo))
        assert drawn.shape == image.shape
        assert np.abs(drawn.astype(int) - image).max() > 100
    person = data["pictures"][0]["people"][0]
    x1, y1, x2, y2 = person["box_xyxy"]
    points = np.array([point[:2] for point in person["keypoints"].values()])
    # Whatever the demo model thinks of a real person, its crop bounds the answers.
    margin = 0.5 * max(x2 - x1, y2 - y1)
    assert (points > [x1 - margin, y1 - margin]).all()
    assert (points < [x2 + margin, y2 + margin]).all()


def test_results_load_as_coco_results(built: Path, photos: list[Path], tmp_path: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    annotations = photos[0].parent / "test_coco.json"
    if not annotations.exists():
        pytest.skip("shared/data/coco/test_coco.json is not beside this checkout")
    command = ["run", "--model", str(built / "rtmpose-t-demo-onnx-fp32"), "--json"]
    command += ["--detector", str(built / "rtmdet-nano-person-onnx-fp32")]
    assert main([*command, "--out", str(tmp_path / "out"), *map(str, photos)]) == 0
    results = coco_module.COCO(str(annotations)).loadRes(str(tmp_path / "out/coco_results.json"))
    assert len(results.getAnnIds()) == 12


def test_a_picture_too_thin_for_the_detector_is_named(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "thin.png"), np.zeros((2, 3000, 3), np.uint8))
    command = ["run", "--model", str(built / "rtmpose-t-demo-onnx-fp32")]
    command += ["--detector", str(built / "rtmdet-nano-person-onnx-fp32")]
    assert main([*command, "--out", str(tmp_path / "out"), str(tmp_path / "thin.png")]) == 1
    assert "thin.png: an image of 2x3000 (height x width) leaves nothing" in capsys.readouterr().err
