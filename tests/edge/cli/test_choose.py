"""`edge choose`, and names of models in `edge run`: real artifacts of a tiny model."""

from __future__ import annotations

import json
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge.cli.choose
from edge.artifact import load_artifact
from edge.cli import main
from edge.cli.choose import bf16_check
from edge.errors import ArtifactError, EdgeError, ParityError, SpecError
from edge.session import open_session
from tests.conftest import tiny_simcc_model
from tests.stand_ins.command_line import run_edge

cv2 = pytest.importorskip("cv2")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ncnn")
if find_spec("pnnx") is None or find_spec("onnxslim") is None:
    pytest.skip("pnnx or onnxslim is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as after `make convert TARGET=x86`, with a photo beside it."""
    from calibration.people.synthetic import crop_scene

    folder = tmp_path_factory.mktemp("converted")
    onnx.save(tiny_simcc_model(scale_norm=True), str(folder / "tiny.onnx"))
    (folder / "people").mkdir()
    for index in range(2):
        cv2.imwrite(str(folder / f"people/{index}.png"), crop_scene(3, index).image_bgr)
    command = ["convert", "--target", "x86", "--formats", "onnx-fp32,ncnn-fp16"]
    command += ["--model", str(folder / "tiny.onnx"), "--out", str(folder / "build")]
    assert main([*command, "--images", str(folder / "people")]) == 0
    return folder


@pytest.fixture
def home(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of one's own with that, and a cache of its own, on x86-64."""
    shutil.copytree(converted / "build", tmp_path / "build")
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    # A twentieth of the time: which of the two is faster does not matter here.
    monkeypatch.setattr("edge.choice.measure._SECONDS", 0.015)
    monkeypatch.setattr("edge.choice.measure._SETTLE_S", 0.0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(converted: Path, model: str, out: str, *more: str) -> int:
    photo = str(converted / "people/0.png")
    return main(["run", "--model", model, "--out", out, "--threads", "1", *more, photo])


def poses(out: str) -> Any:
    return json.loads(Path(out, "poses.json").read_text())["pictures"]


def choose(*words: str) -> int:
    return run_edge("choose", *words, "--threads", "1")


def refuses(kind: type[EdgeError], *words: str) -> str:
    with pytest.raises(kind) as caught:
        choose(*words)
    return str(caught.value)


def test_run_takes_the_fastest_artifact_of_a_name(
    converted: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(converted, "tiny", "named") == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "keypoints -> named/poses.json"
    first, line = said.err.strip().splitlines()
    assert first == "tiny: timing its variants on this machine, which is done once"
    (kept,) = (home / "cache/choices").iterdir()
    data = json.loads(kept.read_text())
    assert line.startswith(f"tiny: {data['chosen']}, {data['latency_ms']:.1f} ms (measured 20")
    assert "edge choose" in line
    times = {one["variant"]: one["latency_ms"] for one in data["candidates"]}
    assert set(times) == {"onnx-fp32", "ncnn-fp16"}
    assert times[data["chosen"]] == data["latency_ms"] <= 1.04 * min(times.values())
    # The answers are those of that artifact, and the second time nothing is timed.
    assert run(converted, f"build/x86/tiny-{data['chosen']}", "folder") == 0
    assert capsys.readouterr().err == ""
    assert run(converted, "tiny", "again") == 0
    assert capsys.readouterr().err.strip() == line
    assert poses("named") == poses("folder") == poses("again")


def test_a_folder_of_artifacts_and_a_build_folder(
    converted: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "build").rename(home / "elsewhere")
    assert run(converted, "elsewhere/x86", "a") == 0
    assert run(converted, "tiny-64x48", "b", "--build", "elsewhere/x86") == 0
    assert poses("a") == poses("b")
    capsys.readouterr()
    assert run(converted, "tinny", "c", "--build", "elsewhere/x86") == 1
    line = capsys.readouterr().err
    assert "elsewhere/x86: no artifact of tinny in it; it has tiny" in line
    assert run(converted, "tiny", "c", "--build", "nowhere") == 1
    assert capsys.readouterr().err == "edge: nowhere: no such folder\n"
    assert not (home / "c").exists()


def test_a_folder_with_several_models_needs_a_name(
    converted: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = home / "build/x86/tiny-onnx-fp32/artifact.json"
    manifest.write_text(manifest.read_text().replace('"name": "tiny"', '"name": "other"'))
    assert run(converted, "build/x86", "out") == 1
    line = capsys.readouterr().err
    assert "--model other --build build/x86 or --model tiny --build build/x86" in line
    assert run(converted, "other", "out") == 0
    assert "other: onnx-fp32, " in capsys.readouterr().err


def test_an_artifact_that_is_named_itself_is_not_weighed(
    converted: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: Any, **more: Any) -> None:
        raise AssertionError(f"chosen: {words} {more}")

    monkeypatch.setattr(edge.cli.choose, "choose", refuse)
    assert run(converted, "build/x86/tiny-ncnn-fp16", "a") == 0
    assert run(converted, str(converted / "tiny.onnx"), "b") == 0
    assert not (home / "cache").exists()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_without_artifacts_the_onnx_file_runs(
    converted: Path,
    home: Path,
    machine: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On another machine nothing was built for it by default, whatever lies there."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    if machine == "aarch64":
        # Artifacts of that name, in the folder for x86.
        for path in (home / "build/x86").glob("*/artifact.json"):
            path.write_text(path.read_text().replace('"tiny"', '"rtmpose-t-demo"'))
    assert run(converted, "rtmpose-t-demo", "out") == 0
    lines = capsys.readouterr().err.strip().splitlines()
    (line,) = (one for one in lines if "the ONNX file runs as it is; " in one)
    assert line.startswith("note: rtmpose-t-demo: ")
    assert ("`make convert TARGET=x86`" in line) == (machine == "x86_64")
    assert ("--build DIR" in line) == (machine == "aarch64")
    assert len(poses("out")[0]["people"]) == 1
    assert not (home / "cache/choices").exists()


def test_what_is_damaged_is_left_out(
    converted: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "build/x86/tiny-onnx-fp32/tiny.onnx").write_bytes(b"changed")
    assert run(converted, "tiny", "out") == 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0].startswith("left out: build/x86/tiny-onnx-fp32: tiny.onnx was changed")
    assert lines[-1].startswith("tiny: ncnn-fp16, ")


def test_choose_shows_all(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = home / "build/x86/tiny-ncnn-fp16/artifact.json"
    (home / "build/x86/broken").mkdir()
    for path in manifest.parent.iterdir():
        shutil.copy(path, home / "build/x86/broken" / path.name)
    broken = home / "build/x86/broken/artifact.json"
    text = broken.read_text().replace('"failed": false', '"failed": true')
    broken.write_text(text.replace("ncnn-fp16", "ncnn-fp32"))
    assert choose() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny, 64x48, 1 thread, measured 20")
    assert lines[1].split("  ")[0] == "variant"
    rows = {line.split()[0]: line for line in lines[2:5]}
    assert set(rows) == {"onnx-fp32", "ncnn-fp16", "ncnn-fp32"}
    assert rows["ncnn-fp32"].endswith("failed its checks")
    assert sum(line.endswith("chosen") for line in rows.values()) == 1
    for name in ("onnx-fp32", "ncnn-fp16"):
        assert rows[name].count(" ms ") >= 1
        assert "pass: " in rows[name]
    assert lines[-1].startswith("kept in ")

    assert choose() == 0
    assert "(remembered)" in capsys.readouterr().out
    assert choose("tiny", "--again", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["choices"]
    assert (found["model"], found["threads"]) == ("tiny", 1)
    assert {one["variant"] for one in found["candidates"]} == set(rows)
    chosen = load_artifact(found["artifact"])
    assert str(chosen.variant) == found["chosen"]


def test_choose_takes_folders(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose("build/x86/tiny-ncnn-fp16", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["choices"]
    assert [one["variant"] for one in found["candidates"]] == ["ncnn-fp16"]
    assert choose("build/x86", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["choices"]
    assert len(found["candidates"]) == 2
    assert "no artifact of x in it; it has tiny" in refuses(
        ArtifactError, "x", "--build", "build/x86"
    )
    assert "`make convert TARGET=x86 MODEL=x` makes" in refuses(ArtifactError, "x")
    assert "neither an artifact folder" in refuses(ArtifactError, "nowhere/x")
    shutil.rmtree(home / "build/x86")
    assert "`make convert TARGET=x86` makes" in refuses(ArtifactError)
    (home / "build/x86").mkdir()
    assert "no artifacts to choose from in build/x86" in refuses(ArtifactError)


def test_artifacts_of_two_files_are_not_weighed(home: Path) -> None:
    manifest = home / "build/x86/tiny-onnx-fp32/artifact.json"
    sha256 = load_artifact(manifest.parent).source["sha256"]
    manifest.write_text(manifest.read_text().replace(sha256, "0" * 64))
    assert "made of different files" in refuses(SpecError)


def test_answers_are_compared_with_the_source(
    converted: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = bf16_check()
    assert check
    artifact = load_artifact(converted / "build/x86/tiny-onnx-fp32")
    with open_session(artifact) as session:
        assert check(artifact, session).startswith("pass: ")
        answer = session.run

        def changed(feeds: Any) -> dict[str, Any]:
            return {name: np.roll(value, 9, axis=-1) for name, value in answer(feeds).items()}

        monkeypatch.setattr(session, "run", changed)
        with pytest.raises(ParityError, match="px off"):
            check(artifact, session)
        (home / "tiny.onnx").write_bytes(b"another file")
        artifact.source["path"] = str(home / "tiny.onnx")
        with pytest.raises(ArtifactError, match="not the file"):
            check(artifact, session)


def test_an_installed_wheel_cannot_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert bf16_check() is None
