"""Quantised variants: the accuracy gate, float parts, what is shared and what a failure stops."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import convert as convert_module
from converters.chain import Row
from converters.conversion import ConversionRequest, Route
from converters.convert import ConvertedVariant, convert_model
from converters.formats.onnx import convert_onnx
from converters.job import Calibration, FeedSource, Job, NamedFeeds
from converters.parity.accuracy import AccuracyCheck, AccuracyReport
from converters.source import Source
from converters.tools import check_versions, locked_versions, run_shown
from edge.artifact import load_artifact
from edge.errors import AccuracyError, SpecError, ToolError
from edge.session import Session
from edge.spec import ModelSpec, Variant

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PARTS = ("backbone", "gau", "head")


@dataclass(frozen=True)
class Figure:
    """A score as an evaluator gives it."""

    value: float
    metric: str = "AP"
    images: int = 500


class Copying:
    """A quantiser that quantises nothing and keeps a diary."""

    diary: list[str]
    parts: Sequence[str] = PARTS
    fragile_parts: Sequence[str] = PARTS[1:]

    def __init__(self, job: Job, diary: list[str]) -> None:
        self.job, self.diary = replace(job, precision="fp32"), diary
        diary.append(f"calibrate {job.precision} on {len(job.feeds)}")

    def quantise(self, float_parts: Collection[str], folder: Path) -> dict[str, str]:
        self.diary.append(f"float: {', '.join(float_parts)}")
        (folder / "left over.tmp").write_text("not part of the artifact")
        return convert_onnx(replace(self.job, folder=folder))


def noise(spec: ModelSpec) -> list[NamedFeeds]:
    array = np.random.default_rng(11).normal(0, 1, (1, 3, *spec.input_hw)).astype(np.float32)
    return [NamedFeeds("noise", {spec.input.name: array})]


def calibration(spec: ModelSpec) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return [dict(noise(spec)[0].feeds)] * 8, {"count": 8, "sha256": "0" * 64}


@pytest.fixture
def diary(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """ONNX variants quantised by ``Copying``."""
    lines: list[str] = []

    def open_quantiser(job: Job) -> Copying:
        return Copying(job, lines)

    for precision in ("int8", "mixed"):
        route = Route(quantiser=open_quantiser)
        monkeypatch.setitem(convert_module.CONVERTERS, f"onnx-{precision}", route)
    return lines


def check(*values: float, max_loss: float = 1.0, images: int = 500) -> AccuracyCheck:
    """Scores in the order in which they are asked for; the reference's is the first."""
    left = list(values)

    def score(session: Session) -> Figure:
        assert session.spec.name == "tiny"
        return Figure(left.pop(0), images=images)

    return AccuracyCheck("some data", max_loss, score)


def convert(
    path: Path, out: Path, texts: str, accuracy: AccuracyCheck | None, **options: Any
) -> tuple[list[ConvertedVariant], list[Row]]:
    rows: list[Row] = []
    request = ConversionRequest(
        parity=FeedSource("noise", noise),
        calibration=Calibration("8 pictures", calibration),
        accuracy=accuracy,
        **options,
    )
    variants = [Variant.parse(text) for text in texts.split()]
    return convert_model(Source("tiny", path), variants, out, request, rows.append), rows


def test_the_artifact_says_what_quantising_cost(
    tiny_onnx: Path, tmp_path: Path, diary: list[str]
) -> None:
    (int8, mixed), rows = convert(
        tiny_onnx, tmp_path, "onnx-int8 onnx-mixed", check(0.9, 0.895, 0.901)
    )
    # Calibrated once; the reference scored once.
    assert diary == ["calibrate int8 on 8", "float: ", "float: gau, head"]
    assert [row.step for row in rows] == [
        *("prepare", "onnx-int8", "parity", "accuracy"),
        *("onnx-mixed", "parity", "accuracy"),
    ]
    artifact = load_artifact(int8.folder)
    assert sorted(path.name for path in int8.folder.iterdir()) == ["artifact.json", "tiny.onnx"]
    assert artifact.accuracy["loss_points"] == pytest.approx(0.5)
    assert artifact.accuracy["passed"] is True
    assert artifact.accuracy["inference_precision"] == "int8"
    assert artifact.quantisation == {
        "calibration": {"count": 8, "sha256": "0" * 64},
        "float_parts": [],
        "parts": 3,
    }
    better = load_artifact(mixed.folder)
    assert better.quantisation["float_parts"] == ["gau", "head"]
    assert better.accuracy["loss_points"] == pytest.approx(-0.1)
    assert "AP 0.8950, fp32 0.9000: +0.50 points lost (limit 1; 500 images)" in rows[3].verdict


@pytest.mark.parametrize("refused", ["pictures", "quantiser"])
def test_a_refused_calibration_is_told_once_and_does_not_stop_the_others(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    tries: list[str] = []

    def refuse(*_: Any) -> Any:
        tries.append(refused)
        raise SpecError("8 pictures are too few")

    if refused == "quantiser":
        for precision in ("int8", "mixed"):
            route = Route(quantiser=refuse)
            monkeypatch.setitem(convert_module.CONVERTERS, f"onnx-{precision}", route)
    rows: list[Row] = []
    load = refuse if refused == "pictures" else calibration
    request = ConversionRequest(FeedSource("noise", noise), Calibration("8", load), check())
    variants = [Variant("onnx", precision) for precision in ("int8", "mixed", "fp32")]
    made = convert_model(Source("tiny", tiny_onnx), variants, tmp_path, request, rows.append)
    assert [str(one.error) for one in made] == [
        "tiny, step onnx-int8 (after prepare): 8 pictures are too few",
        "the same as onnx-int8",
        "None",
    ]
    assert tries == [refused]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["tiny-onnx-fp32"]


def test_too_much_loss_leaves_nothing_and_does_not_stop_the_others(
    tiny_onnx: Path, tmp_path: Path, diary: list[str]
) -> None:
    made, rows = convert(
        tiny_onnx, tmp_path, "onnx-int8 onnx-mixed onnx-fp32", check(0.9, 0.8899, 0.8901)
    )
    assert [one.error is None for one in made] == [False, True, True]
    assert isinstance(made[0].error, AccuracyError)
    text = str(made[0].error)
    assert "AP fell from 0.9000 to 0.8899, 1.01 points (limit 1)" in text
    assert "mixed" in text and "--calib" in text and "--max-loss" in text
    assert [row.step for row in rows if "FAILED" in row.step] == ["onnx-int8 FAILED"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "tiny-onnx-fp32",
        "tiny-onnx-mixed",
    ]
    assert diary[-1] == "float: gau, head"


def test_a_kept_failure_is_marked(tiny_onnx: Path, tmp_path: Path, diary: list[str]) -> None:
    (made,), _ = convert(tiny_onnx, tmp_path, "onnx-int8", check(0.9, 0.5), keep_failed=True)
    assert "Kept, marked as failed" in str(made.error)
    kept = load_artifact(made.folder, allow_failed=True)
    assert kept.failed and kept.parity["passed"] and not kept.accuracy["passed"]
    assert diary


@pytest.mark.parametrize(
    ("values", "max_loss", "fails"),
    [((0.9, 0.85), 5.1, False), ((0.9, 0.85), 4.9, True), ((0.9, 0.95), 0.0, False)],
)
def test_the_limit_is_the_users(
    tiny_onnx: Path,
    tmp_path: Path,
    diary: list[str],
    values: tuple[float, ...],
    max_loss: float,
    fails: bool,
) -> None:
    (made,), _ = convert(tiny_onnx, tmp_path, "onnx-int8", check(*values, max_loss=max_loss))
    assert (made.error is not None) == fails
    assert diary


def test_a_blind_reference_proves_nothing(
    tiny_onnx: Path, tmp_path: Path, diary: list[str]
) -> None:
    (made,), _ = convert(tiny_onnx, tmp_path, "onnx-int8", check(0.02, 0.02))
    assert isinstance(made.error, AccuracyError)
    assert "the reference itself has AP 0.0200 on some data" in str(made.error)
    assert "--eval-data" in str(made.error)
    assert diary


def test_few_pictures_are_called_few() -> None:
    report = AccuracyReport("AP", 0.9, 0.9, 1.0, 20, "data", "fp32")
    assert report.summary().endswith("20 images, fewer than 500)")
    assert json.loads(json.dumps(report.to_json()))["images"] == 20


def test_named_parts_stay_float(tiny_onnx: Path, tmp_path: Path, diary: list[str]) -> None:
    floats = {"onnx": ("backbone",)}
    (made,), rows = convert(tiny_onnx, tmp_path, "onnx-mixed", check(0.9, 0.9), float_parts=floats)
    assert made.error is None
    assert diary[-1] == "float: backbone"
    assert rows[1].verdict == "float: backbone"
    # Other parts, another artifact.
    _, again = convert(tiny_onnx, tmp_path, "onnx-mixed", check(0.9, 0.9), float_parts=floats)
    assert [row.step for row in again] == ["onnx-mixed up to date"]
    _, others = convert(tiny_onnx, tmp_path, "onnx-mixed", check(0.9, 0.9))
    assert others[1].verdict == "float: gau, head"
    (wrong,), _ = convert(
        tiny_onnx, tmp_path, "onnx-mixed", check(0.9), float_parts={"onnx": ("neck",)}
    )
    assert "no part 'neck' in onnx; its parts: backbone, gau, head" in str(wrong.error)


def test_quantising_needs_its_data(tiny_onnx: Path, tmp_path: Path, diary: list[str]) -> None:
    (made,), _ = convert(tiny_onnx, tmp_path, "onnx-int8", None)
    assert isinstance(made.error, SpecError)
    assert "accuracy check" in str(made.error)
    assert diary


def test_a_size_of_ones_own_has_a_folder_of_its_own(tmp_path: Path) -> None:
    from tests.conftest import tiny_simcc_model

    onnx = pytest.importorskip("onnx")
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_simcc_model(), str(path))
    rows: list[Row] = []
    source = Source("tiny", path, input_hw=(64, 48))
    request = ConversionRequest(parity=FeedSource("noise", noise))
    (made,) = convert_model(source, [Variant("onnx", "fp32")], tmp_path, request, rows.append)
    assert made.folder.name == "tiny-64x48-onnx-fp32"
    assert made.folder.is_dir()


# --- tools of the lock ----------------------------------------------------------------------------


def test_the_lock_is_read() -> None:
    import onnxruntime

    assert locked_versions()["onnxruntime"] == onnxruntime.__version__
    assert locked_versions(Path("no such lock")) == {}


def test_another_version_than_the_locks_is_refused(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_versions(["onnx", "edgepose"])
    with pytest.raises(ToolError, match=r"no-such-tool is not installed: run `make setup`"):
        check_versions(["no-such-tool"])
    monkeypatch.setattr("converters.tools.locked_versions", lambda: {"onnx": "0.1"})
    with pytest.raises(ToolError, match=r"onnx is \d.*, the lock has 0\.1.*--any-version"):
        check_versions(["onnx"])
    (made,), _ = convert(tiny_onnx, tmp_path, "onnx-fp32", None)
    assert isinstance(made.error, ToolError)
    source, request = (
        Source("tiny", tiny_onnx),
        ConversionRequest(parity=FeedSource("noise", noise)),
    )
    rows: list[Row] = []
    (good,) = convert_model(
        source, [Variant("onnx", "fp32")], tmp_path, request, rows.append, any_version=True
    )
    assert good.error is None


def test_a_program_that_tells_what_it_does_is_heard(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_shown(["sh", "-c", "echo said; echo complained >&2"], tmp_path, 20.0)
    shown = capfd.readouterr()
    assert shown.out == "" and sorted(shown.err.split()) == ["complained", "said"]
    with pytest.raises(ToolError, match="exited with 3, as said above"):
        run_shown(["sh", "-c", "exit 3"], tmp_path, 20.0)
    with pytest.raises(ToolError, match=r"did not end within 0\.2 s"):
        run_shown(["sleep", "60"], tmp_path, 0.2)
    with pytest.raises(ToolError, match="no-such: no such program"):
        run_shown(["no-such"], tmp_path, 1.0)
