"""`edge bench` on this machine as a target: from a model to files, and what it refuses."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edge.artifact import MANIFEST
from edge.cli import main
from targets.result import read_runs
from tests.conftest import ROOT

cv2 = pytest.importorskip("cv2")
pytest.importorskip("onnx")
if find_spec("pnnx") is None:
    pytest.skip("pnnx is not installed", allow_module_level=True)

pytestmark = [pytest.mark.long, pytest.mark.alone]

SHORT = (
    *("--repeat", "2", "--min-count", "3", "--min-seconds", "0", "--warmup-count", "1"),
    *("--warmup-seconds", "0", "--no-cooldown", "--threads", "1"),
)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A folder with two rendered pictures."""
    from calibration.people.synthetic import crop_scene

    folder = tmp_path / "people"
    folder.mkdir()
    for index in range(2):
        cv2.imwrite(str(folder / f"{index}.png"), crop_scene(3, index).image_bgr)
    return folder


def bench(folder: Path, *argv: Any) -> int:
    return main(["bench", "--target", "x86", "--out", str(folder / "out"), *map(str, argv)])


def test_from_a_model_to_a_file_a_run(
    tmp_path: Path, tiny_onnx: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--model", tiny_onnx, "--formats", "onnx-fp32,onnx-fp16", "--images", people)
    # A run of three samples is valid unless they are wrong: their spread says nothing yet.
    assert bench(tmp_path, *common, *SHORT, "--json") == 0
    printed = capsys.readouterr()
    runs = read_runs([tmp_path / "out/results"])
    by_id = {run.run_id: run.to_json() for run in runs}
    assert {run["run_id"]: run for run in json.loads(printed.out)} == by_id
    assert [run["artifact"]["variant"] for run in json.loads(printed.out)] == [
        *("onnx-fp32", "onnx-fp16", "onnx-fp32", "onnx-fp16")
    ], "in turn"
    for run in runs:
        assert run.valid, run.reasons
        assert (run.target, run.transport, run.runner.name) == ("x86", "local", "python")
        assert not run.emulated
        assert run.parity is not None
        assert run.parity.summary.startswith("pass: ")
        assert (run.threads, run.summary.count) == (1, 3)
        assert run.engine.startswith("onnxruntime ")
        assert run.settings["min_count"] == 3
        assert run.state_before is not None
        assert run.state_before.load_1m is not None
    assert "run 4 of 4" in printed.err

    # The second time nothing is converted, and the table is for people.
    assert bench(tmp_path, *common, *SHORT) == 0
    printed = capsys.readouterr()
    assert "up to date" in printed.err
    assert "onnx-fp16" in printed.out
    assert "too few" in printed.out
    assert len(read_runs([tmp_path / "out/results"])) == 8
    assert main(["report", str(tmp_path / "out/results")]) == 0


def test_an_artifact_without_its_source_is_timed_with_a_warning(
    tmp_path: Path, tiny_onnx: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--model", tiny_onnx, "--formats", "onnx-fp32", "--images", people)
    assert bench(tmp_path, *common, *SHORT) == 0
    (artifact,) = (path.parent for path in tmp_path.glob(f"out/x86/*/{MANIFEST}"))
    tiny_onnx.unlink()
    capsys.readouterr()
    assert bench(tmp_path / "again", artifact, *SHORT) == 0
    assert "cannot be compared" in capsys.readouterr().err
    run = read_runs([tmp_path / "again/out/results"])[0]
    assert run.parity is None
    assert "its answers were not compared on the device" in run.warnings


def test_a_profile_of_one_s_own(
    tmp_path: Path, tiny_onnx: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "targets/profiles/x86.toml").read_text()
    profile = tmp_path / "mine.toml"
    profile.write_text(
        f'{text}\npublished_source = "a guess"\n[published_ms]\n"tiny/onnx-fp32" = 5.0\n'
    )
    common = ("--model", tiny_onnx, "--formats", "onnx-fp32", "--images", people, *SHORT)
    argv = ["bench", "--profile", profile, "--out", tmp_path / "out", *common]
    assert main([str(word) for word in argv]) == 0
    run = read_runs([tmp_path / "out/results"])[0]
    assert run.target == "mine"
    assert run.published is not None
    assert run.published.latency_ms == 5.0
    profile.write_text(f"{text}\ncool_down = 3\n")
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 1
    assert "unknown key 'cool_down'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["bench"], "name one ARTIFACT"),
        (["bench", "--target", "toaster"], "unknown target 'toaster'"),
        (["bench", "--target", "raspberry-pi"], "HOST"),
        (["bench", "--target", "x86", "--serial", "1a"], "no serial number"),
        (["bench", "--target", "android", "--host", "pi@board"], "leave --host pi@board out"),
        (["bench", "--target", "x86", "--lock-clocks", "{artifact}"], "is for a Jetson"),
        (["bench", "--target", "x86", "--pipeline", "{artifact}"], "one pose model and one detec"),
        (["bench", "--target", "x86", "--networks-alone", "{artifact}"], "is for --pipeline"),
        (["bench", "--target", "x86", "{artifact}", "{artifact}"], "is named twice"),
        (["bench", "--target", "x86", "{artifact}", "--min-seconds", "9999"], "max_duration_s"),
        (
            ["bench", "--target", "x86", "{artifact}", "--mode", "sustained", "--pause-ms", "5"],
            "60",
        ),
        (["bench", "--target", "x86", "{folder}"], "artifact.json"),
    ],
)
def test_what_is_refused_in_one_line(
    tmp_path: Path,
    tiny_onnx: Path,
    people: Path,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    words: str,
) -> None:
    if "{artifact}" in argv:
        convert = ["convert", "--target", "x86", "--model", tiny_onnx, "--formats", "onnx-fp32"]
        convert += ["--images", people, "--out", tmp_path]
        assert main([str(word) for word in convert]) == 0
    (tmp_path / "empty").mkdir()
    names = {"artifact": tmp_path / "x86/tiny-onnx-fp32", "folder": tmp_path / "empty"}
    capsys.readouterr()
    given = [word.format(**names) for word in argv]
    assert main([*given, "--out", str(tmp_path / "out")]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edge: ")]
    assert len(errors) == 1, errors
    assert words in errors[0]
    assert not list(tmp_path.glob("out/results/*"))
