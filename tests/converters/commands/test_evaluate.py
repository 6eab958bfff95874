"""``edge eval`` from arguments to figures."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.commands.open_source import open_onnx
from edge.detector import Detector
from edge.errors import ImageError, SpecError
from edge.picture import read_image
from edge.session import EngineSettings
from tests.conftest import shared, tiny_simcc_model
from tests.stand_ins.command_line import run_edge

pytest.importorskip("cv2")
pytest.importorskip("pycocotools")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def edge_eval(*words: Any) -> int:
    """The command on one thread."""
    return run_edge("eval", *words, "--threads", "1")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_simcc_model(), str(path))
    return path


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def test_figures_as_a_table_and_as_json(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edge_eval(tiny, "--data", "synthetic:4") == 0
    printed = capsys.readouterr()
    assert "frames/s" not in printed.err, "no terminal, no progress"
    assert "4 synthetic crops, seed 2, variety 0.25" in printed.out
    assert "<- decides" in printed.out
    assert "4 pictures in " in printed.out
    assert edge_eval(tiny, "--data", "synthetic:4", "--json") == 0
    report = figures(capsys)
    assert (report["model"], report["metric"], report["images"]) == ("tiny", "AP", 4)
    assert report["boxes"] == "gt"
    assert len(report["data_sha256"]) == 64
    for name, value in report["figures"].items():
        shown = f"{value:.0f}" if name == "keypoints" else f"{value:.4f}"
        line = next(line for line in printed.out.splitlines() if line.split()[:1] == [name])
        assert line.split()[1] == shown


def test_predictions_name_what_the_file_names(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pictures, its annotations, and its own sha256."""
    path = shared("data/coco/test_coco.json")
    own = json.loads(path.read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    answers = tmp_path / "answers.json"
    assert edge_eval(tiny, "--data", path, "--predictions", answers) == 0
    assert f"sha256 {digest[:16]}" in capsys.readouterr().out
    image_of = {row["id"]: row["image_id"] for row in own["annotations"]}
    rows = json.loads(answers.read_text())["results"]
    assert len(rows) > 5
    assert all(image_of[row["annotation_id"]] == row["image_id"] for row in rows)
    assert edge_eval(tiny, "--data", path, "--json") == 0
    assert figures(capsys)["file_sha256"] == digest


@pytest.mark.parametrize("flip", [[], ["--flip"]])
def test_parts_merge_to_the_same_last_digit(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flip: list[str]
) -> None:
    path = shared("data/coco/test_coco.json")
    about = [tiny, "--data", path, "--json", *flip]
    edge_eval(*about)
    whole = figures(capsys)["figures"]
    halves = [tmp_path / "first.json", tmp_path / "second.json"]
    for half, part in zip(halves, ("0:1", "1:4"), strict=True):
        assert edge_eval(*about, "--range", part, "--predictions", half) == 0
    capsys.readouterr()
    assert edge_eval(*about, "--merge", *reversed(halves)) == 0
    assert figures(capsys)["figures"] == whole
    for files, words in (
        ([halves[0]], r"3 of 4 pictures are in none of the files, the first is image"),
        ([*halves, halves[0]], r"is in both .*first.json and .*first.json"),
    ):
        with pytest.raises(SpecError, match=words):
            edge_eval(*about, "--merge", *files)
    with pytest.raises(SpecError, match="its flip is"):
        edge_eval(tiny, "--data", path, *([] if flip else ["--flip"]), "--merge", *halves)
    with pytest.raises(SpecError, match="its data_sha256 is"):
        edge_eval(tiny, "--data", "synthetic:4", *flip, "--merge", *halves)
    with pytest.raises(SpecError, match="no predictions as"):
        edge_eval(*about, "--merge", path)


def test_detections_are_taken_for_boxes(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shared("data/coco/test_coco.json")
    boxes = path.with_name("test_coco_det_AP_H_56.json")
    counts = []
    for least in ("0", "0.5"):
        out = tiny.with_name("found.json")
        options = ["--boxes", boxes, "--box-score", least, "--predictions", out]
        assert edge_eval(tiny, "--data", path, *options) == 0
        counts.append(len(json.loads(out.read_text())["results"]))
    scores = [row["score"] for row in json.loads(boxes.read_text())]
    assert counts == [len(scores), int((np.array(scores) > 0.5).sum())]
    assert "boxes: test_coco_det_AP_H_56.json above 0.5" in capsys.readouterr().out


def test_the_real_detector_on_the_photos(
    rtmdet_file: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures are pycocotools' own for the boxes that the runtime finds."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    path = shared("data/coco/test_coco.json")
    assert edge_eval(rtmdet_file, "--data", path, "--json") == 0
    report = figures(capsys)["figures"]
    rows = []
    with open_onnx(str(rtmdet_file), EngineSettings(1)) as session:
        detect = Detector(session, score_threshold=session.spec.score_threshold, label=0)
        for photo in photos:
            found = detect(read_image(photo))
            for (x1, y1, x2, y2), score in zip(found.boxes_xyxy, found.scores, strict=True):
                box = [float(value) for value in (x1, y1, x2 - x1, y2 - y1)]
                row = {"image_id": int(photo.stem), "category_id": 1, "bbox": box}
                rows.append({**row, "score": float(score)})
    truth = COCO(str(path))
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert report["AP50"] > 0.85
    assert (report["AP"], report["AP50"], report["AR"]) == pytest.approx(
        (evaluation.stats[0], evaluation.stats[1], evaluation.stats[8]), abs=1e-6
    )
    for option in (["--flip"], ["--boxes", path]):
        with pytest.raises(SpecError, match="is a detection model"):
            edge_eval(rtmdet_file, "--data", path, *option)


def test_wrong_wishes_are_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, options in (
        ("--images goes with annotations", ["--data", "synthetic:2", "--images", tmp_path]),
        ("its folder does not exist", ["--data", "synthetic:2", "--predictions", "no/where.json"]),
        ("leave --predictions and --range out", ["--data", "x", "--merge", "a", "--range", "0:1"]),
        ("a data set of 2: give FIRST:END", ["--data", "synthetic:2", "--range", "1:3"]),
        ("absent.json: cannot be read", ["--data", tmp_path / "absent.json"]),
    ):
        with pytest.raises(SpecError, match=words):
            edge_eval(tiny, *options)
    with pytest.raises(SystemExit):
        edge_eval(tiny, "--data", "synthetic:2", "--range", "first")
    assert "'first' is not FIRST:END" in capsys.readouterr().err
    path = shared("data/coco/test_coco.json")
    with pytest.raises(ImageError, match="give their folder with --images"):
        edge_eval(tiny, "--data", path, "--images", tmp_path)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
