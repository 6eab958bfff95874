"""The official RTMDet-nano with 8 bits: who FP32 finds on real photos is found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.parity.limits import KEPT_BOX_SCORE
from edge.artifact import load_artifact
from edge.boxes import iou
from edge.cli import main
from edge.detector import Detector
from edge.picture import read_image
from edge.session import EngineSettings, open_session
from tests.conftest import ROOT, shared

pytest.importorskip("pycocotools")

# What `edge sensitivity` proposes for the file within one point; TFLite takes its own default.
FLOAT_PARTS = {
    "onnx": "Conv_32..Conv_68,Conv_71..Conv_105,Conv_108..Conv_145,Conv_148..Conv_188",
    "openvino": "Conv_32..Conv_68",
    "tflite": None,
}
NEEDS = {"onnx": "onnxruntime", "openvino": "nncf", "tflite": "ai_edge_quantizer"}


def found(folder: Path, photos: list[Path]) -> list[NDArray[np.float32]]:
    """Boxes and scores (N, 5) of people on each photo, however low their score."""
    with open_session(load_artifact(folder), EngineSettings(1)) as session:
        detect = Detector(session, score_threshold=0.05, label=0)
        boxes = [detect(read_image(photo)) for photo in photos]
    return [np.column_stack([one.boxes_xyxy, one.scores]) for one in boxes]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino", "tflite"])
def test_mixed_keeps_the_people(kind: str, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS[kind])
    if kind == "tflite" and not (ROOT / ".venv-onnx2tf" / ".ready").exists():
        pytest.skip("needs `make setup-onnx2tf`")
    source = shared("data/rtmdet-nano-person/end2end.onnx")
    photos = sorted(shared("data/coco").rglob("*.jpg"))
    options = ["--target", "x86", "--model", str(source), "--name", "real", "--out", str(tmp_path)]
    floats = FLOAT_PARTS[kind]
    if floats:
        options += ["--float-parts", floats]
    assert main(["convert", *options, "--formats", f"onnx-fp32,{kind}-mixed"]) == 0
    want = found(tmp_path / "x86" / "real-onnx-fp32", photos)
    got = found(tmp_path / "x86" / f"real-{kind}-mixed", photos)
    people = 0
    for references, answers in zip(want, got, strict=True):
        likely = answers[answers[:, 4] > KEPT_BOX_SCORE - 0.1]
        for box in references[references[:, 4] > KEPT_BOX_SCORE]:
            people += 1
            assert iou(box[None], likely).max() >= 0.9, box
        # Nobody new: who is clearly there has been seen by FP32, if only dimly.
        for box in answers[answers[:, 4] > KEPT_BOX_SCORE + 0.1]:
            assert iou(box[None], references).max() >= 0.7, box
    assert people == 12
