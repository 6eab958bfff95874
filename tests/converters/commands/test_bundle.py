"""``edge bundle`` from arguments to what is printed and what lies there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from converters.sdk.archive import read_sdk
from edge.artifact import load_artifact
from edge.errors import ArtifactError, SpecError
from edge.spec import Variant
from tests.stand_ins.command_line import run_edge as edge
from tests.stand_ins.sdk_artifacts import detector_artifact, pose_artifact

pytest.importorskip("cv2")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def pose(tmp_path: Path) -> Path:
    return pose_artifact(tmp_path / "pose").folder


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return detector_artifact(tmp_path / "detector").folder


def test_one_model_becomes_the_folder(
    tmp_path: Path, pose: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edge("bundle", pose, "--sdk", "-o", tmp_path / "new/sdk") == 0
    assert read_sdk(tmp_path / "new/sdk", "poser", tmp_path).spec == load_artifact(pose).spec
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"poser: {tmp_path / 'new/sdk'}, 0.")
    assert said[1].startswith("  answers as the artifact does on 8 pictures: synthetic")


def test_one_model_becomes_the_zip(
    tmp_path: Path, detector: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "finder.zip"
    assert edge("bundle", detector, "--sdk", "-o", out, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["bundles"]
    assert (row["model"], row["task"], row["path"]) == ("finder", "detection", str(out))
    assert row["size_bytes"] == out.stat().st_size
    assert read_sdk(out, "finder", tmp_path / "unpacked").spec.codec == "detections"


def test_several_models_get_a_folder_each(tmp_path: Path, pose: Path, detector: Path) -> None:
    assert edge("bundle", detector, pose, "--sdk", "-o", tmp_path / "sdk") == 0
    assert sorted(path.name for path in (tmp_path / "sdk").iterdir()) == ["finder", "poser"]
    assert (tmp_path / "sdk/poser/end2end.onnx").is_file()


def test_pictures_of_ones_own(
    tmp_path: Path, detector: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2
    import numpy as np

    (tmp_path / "pictures").mkdir()
    noise = np.random.default_rng(2).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "pictures/noise.png"), noise)
    words = ("--images", tmp_path / "pictures")
    assert edge("bundle", detector, "--sdk", "-o", tmp_path / "sdk", *words) == 0
    assert "answers as the artifact does on 1 picture: " in capsys.readouterr().out


def test_nothing_is_written_where_one_of_them_cannot_be(
    tmp_path: Path, pose: Path, detector: Path
) -> None:
    out = tmp_path / "sdk"
    artifact = load_artifact(detector)
    replace(artifact, variant=Variant("ncnn", "fp16")).write_manifest()
    with pytest.raises(SpecError, match="finder: ncnn-fp16 is not written"):
        edge("bundle", pose, detector, "--sdk", "-o", out)
    artifact.write_manifest()
    (out / "finder").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"sdk/finder: exists already; remove it or choose"):
        edge("bundle", pose, detector, "--sdk", "-o", out)
    assert [path.name for path in out.iterdir()] == ["finder"]
    with pytest.raises(SpecError, match=r"sdk.zip: the SDK reads one model of a zip"):
        edge("bundle", pose, detector, "--sdk", "-o", tmp_path / "sdk.zip")
    with pytest.raises(SpecError, match="two of the artifacts are of poser"):
        edge("bundle", pose, pose, "--sdk", "-o", tmp_path / "twice")
    assert not (tmp_path / "sdk.zip").exists() and not (tmp_path / "twice").exists()


def test_a_failed_artifact_is_bundled_on_demand_alone(tmp_path: Path, pose: Path) -> None:
    replace(load_artifact(pose), failed=True).write_manifest()
    with pytest.raises(ArtifactError, match="--allow-failed"):
        edge("bundle", pose, "--sdk", "-o", tmp_path / "sdk")
    assert edge("bundle", pose, "--sdk", "-o", tmp_path / "sdk", "--allow-failed") == 0


def test_the_sdk_is_the_default_and_a_place_is_needed(tmp_path: Path, pose: Path) -> None:
    assert edge("bundle", pose, "-o", tmp_path / "sdk") == 0
    assert (tmp_path / "sdk/deploy.json").is_file()
    with pytest.raises(SystemExit) as ended:
        edge("bundle", pose)
    assert ended.value.code == 2
