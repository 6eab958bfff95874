"""What the command line says of models that it had to make assumptions about, and takes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.cli import main
from tests.conftest import tiny_simcc_model
from tests.stand_ins.command_line import fails
from tests.stand_ins.sdk_bundles import in_folder, simcc_files

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Noise in which the tiny network's answers are far apart."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(4).integers(0, 256, (128, 96, 3), np.uint8)
    cv2.imwrite(str(folder / "noise.png"), noise)
    return folder


def converted(out: Path, *argv: Any) -> dict[str, Any]:
    target = ("--target", "x86", "--formats", "onnx-fp32", "--out", out)
    assert main([str(value) for value in ("convert", *target, *argv)]) == 0
    (manifest,) = out.glob("x86/*/artifact.json")
    data: dict[str, Any] = json.loads(manifest.read_text())
    return data


def test_a_conversion_says_what_it_assumed_and_keeps_it(
    tiny_onnx: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = converted(tmp_path / "out", "--model", tiny_onnx, "--images", photos)
    shown = capsys.readouterr().out
    assert made["spec"]["keypoint_set"] == "coco17"
    for words in ("17 keypoints fit coco17, ap10k17", "how pixels become its input"):
        assert sum(words in line for line in shown.splitlines()) == 1
        assert any(words in note for note in made["source"]["notes"])
    assert main(["info", str(next(tmp_path.glob("out/x86/*")))]) == 0
    assert "note: 17 keypoints fit" in capsys.readouterr().out


def test_an_answer_to_the_question_is_taken(
    tiny_onnx: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ("--model", tiny_onnx, "--images", photos, "--keypoint-set", "ap10k17")
    assert converted(tmp_path / "out", *said)["spec"]["keypoint_set"] == "ap10k17"
    assert "coco17" not in capsys.readouterr().out
    wrong = fails(capsys, "convert", "--model", tiny_onnx, "--keypoint-set", "hand21")
    assert "21" in wrong
    unknown = fails(capsys, "convert", "--model", tiny_onnx, "--keypoint-set", "cats")
    assert "'cats' is none of coco17" in unknown


def test_a_bare_file_and_a_folder_of_mmdeploy_run(
    tiny_onnx: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = in_folder(tmp_path / "sdk", simcc_files([48, 64]), tiny_simcc_model(scale_norm=True))
    points = []
    for model in (tiny_onnx, folder):
        out = tmp_path / f"run-{model.name}"
        assert main(["run", "--model", str(model), str(photos), "--out", str(out)]) == 0
        assert "note: " in capsys.readouterr().err
        points.append(json.loads((out / "poses.json").read_text())["pictures"][0]["people"])
    assert points[0] == points[1]
