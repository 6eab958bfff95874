"""Quantised variants, sensitivity and comparison from the command line, on the demo pose model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.artifact import load_artifact
from edge.cli import main

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("pycocotools")

pytestmark = pytest.mark.long

# Few pictures: these tests are about what is done with the figures, not about the figures.
FEW = ["--calib", "synthetic:16", "--eval-data", "synthetic:24", "--max-loss", "20"]
ONNX = ["--model", "rtmpose-t-demo", "--target", "x86"]


def ok(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = main(arguments)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``onnx-fp32`` and ``onnx-int8`` of the demo pose model."""
    out = tmp_path_factory.mktemp("quantised")
    assert (
        main(["convert", *ONNX, "--formats", "onnx-fp32,onnx-int8", "--out", str(out), *FEW]) == 0
    )
    return out


def test_the_record_of_a_quantised_artifact(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = built / "x86" / "rtmpose-t-demo-onnx-int8"
    artifact = load_artifact(folder)
    calibration = artifact.quantisation["calibration"]
    assert calibration["count"] == 16
    assert len(calibration["sha256"]) == 64
    assert any("real" in notice for notice in calibration["notices"])
    assert artifact.accuracy["images"] == 24
    assert artifact.accuracy["metric"] == "AP"
    text = ok(capsys, "info", str(folder))
    assert "quantised: calibrated on 16 crops of synthetic people" in text
    assert "accuracy: pass: AP" in text
    assert "24 images, fewer than 500" in text
    # The same again is up to date, another calibration is not.
    again = ok(capsys, "convert", *ONNX, "--formats", "onnx-int8", "--out", str(built), *FEW)
    assert "onnx-int8 up to date" in again
    fresh = ["--formats", "onnx-int8", "--out", str(built), *FEW, "--calib", "synthetic:12"]
    assert "up to date" not in ok(capsys, "convert", *ONNX, *fresh)


def test_too_much_loss_is_one_line(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--calib", "synthetic:16", "--eval-data", "synthetic:24", "--max-loss", "-50"]
    code = main(["convert", *ONNX, "--formats", "onnx-int8", "--out", str(built / "no"), *options])
    captured = capsys.readouterr()
    assert code == 1
    assert "onnx-int8 FAILED" in captured.out
    (line,) = captured.err.strip().splitlines()
    assert "(limit -50): take the mixed variant" in line
    assert not list((built / "no").rglob("artifact.json"))


def test_failures_are_summed_up(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--calib", "no such folder", "--eval-data", "synthetic:24"]
    formats = ["--formats", "onnx-int8,onnx-fp32", "--out", str(built / "sum")]
    assert main(["convert", *ONNX, *formats, *options]) == 1
    captured = capsys.readouterr()
    first, second = captured.err.strip().splitlines()
    assert first == "edge: 1 of 2 variants failed:"
    assert "rtmpose-t-demo onnx-int8" in second
    assert "no such folder" in second
    assert (built / "sum" / "x86" / "rtmpose-t-demo-onnx-fp32").is_dir()


def test_sensitivity_is_applied(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--calib", "synthetic:16", "--eval-data", "synthetic:24", "--out", str(built)]
    question = ["sensitivity", "rtmpose-t-demo", "--format", "onnx", "--pictures", "6"]
    report: dict[str, Any] = json.loads(ok(capsys, *question, *few, "--max-loss", "0.2", "--json"))
    parts = [row["name"] for row in report["ranking"]]
    assert {"backbone.stem", "gau", "cls_x"} <= set(parts)
    blames = [row["blame"] for row in report["ranking"]]
    assert blames == sorted(blames, reverse=True)
    proposal = report["proposal"]
    assert set(proposal["float_parts"]) < set(parts)
    assert proposal["accuracy"] >= report["reference"] - 0.002
    # A second run measures nothing again.
    path = built / "sensitivity" / "rtmpose-t-demo-onnx-int8.json"
    before = json.loads(path.read_text())
    again = json.loads(ok(capsys, *question, *few, "--max-loss", "0.2", "--json"))
    assert again["errors"] == before["errors"]
    assert again["accuracies"] == before["accuracies"]
    text = ok(
        capsys,
        *("convert", *ONNX, "--formats", "onnx", "--precision", "mixed", "--out", str(built), *FEW),
    )
    assert f"keeps float what {path} proposes" in text
    artifact = load_artifact(built / "x86" / "rtmpose-t-demo-onnx-mixed")
    assert artifact.quantisation["float_parts"] == proposal["float_parts"]


def test_variants_side_by_side(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = built / "report"
    options = ["--data", "synthetic:24", "--min-seconds", "0.2", "--out", str(out), "--json"]
    folders = [str(built / "x86" / f"rtmpose-t-demo-onnx-{p}") for p in ("fp32", "int8")]
    report = json.loads(ok(capsys, "compare", *folders, *options))
    float_row, int8_row = report["rows"]
    assert float_row["ratio"] == 1.0
    assert float_row["decoded_error"] == 0.0
    assert float_row["loss_points"] == 0.0
    assert int8_row["decoded_error"] > 0.0
    assert int8_row["error_unit"] == "px"
    assert int8_row["size_mb"] < 0.3 * float_row["size_mb"]
    assert all(0 < row["p50_ms"] <= row["p90_ms"] for row in report["rows"])
    assert int8_row["loss_points"] == pytest.approx(
        100 * (float_row["accuracy"] - int8_row["accuracy"])
    )
    markdown = (out / "variants.md").read_text()
    assert "| rtmpose-t-demo | onnx-int8 | int8 |" in markdown
    picture = (out / "variants.svg").read_text()
    assert "onnx-int8" in picture and "median latency in ms" in picture


def test_a_comparison_needs_its_reference(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    int8 = str(built / "x86" / "rtmpose-t-demo-onnx-int8")
    for arguments, text in (
        ([int8], "its onnx-fp32 artifact is what the others are held against"),
        ([str(tmp_path)], "no artifact here"),
        ([str(tmp_path / "none")], "no such folder"),
        ([int8, "--threads", "0"], "must be positive"),
    ):
        assert main(["compare", *arguments]) == 1
        assert text in capsys.readouterr().err


def test_precision_goes_with_bare_formats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for formats in (["--formats", "onnx-int8"], []):
        out = ["--out", str(tmp_path)]
        assert main(["convert", *ONNX, *formats, "--precision", "mixed", *out]) == 1
        assert "--precision needs --formats with formats alone" in capsys.readouterr().err
