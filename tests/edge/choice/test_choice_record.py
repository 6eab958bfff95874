"""What was chosen is remembered, as long as nothing changes that it depends on."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edge.choice.choice
import edge.choice.measure
from edge.artifact import Artifact
from edge.choice import find_artifacts
from edge.choice.record import installed
from edge.session import EngineSettings, Session
from tests.stand_ins.choice_bench import Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(edge.choice.measure, "waiting_ns", lambda: 0)
    return Bench(tmp_path / "build")


def forbid(bench: Bench) -> None:
    def refuse(artifact: Artifact, settings: EngineSettings) -> Session:
        raise AssertionError(f"{artifact.folder} was opened with {settings}")

    bench.open = refuse  # type: ignore[method-assign]


def test_a_choice_is_remembered(bench: Bench) -> None:
    bench.add("onnx-fp32", 60.0)
    bench.add("tflite-int8", 40.0)
    bench.add("ncnn-fp16", failed=True)
    first = bench.choose()
    (path,) = (bench.folder / "kept").iterdir()
    assert first.file == path
    assert re.fullmatch(r"pose-[0-9a-f]{16}\.json", path.name)
    data = json.loads(path.read_text())
    assert (data["model"], data["chosen"]) == ("pose", "tflite-int8")
    assert [one["latency_ms"] for one in data["candidates"]] == [60.0, 40.0, None]
    assert data["depends_on"]["machine"]["cpus"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", data["measured_utc"])
    forbid(bench)
    second = bench.choose()
    assert second.remembered
    assert second.candidates == first.candidates
    assert (second.artifact, second.latency_ms) == (first.artifact, first.latency_ms)
    assert second.measured_utc == first.measured_utc
    # The order in which a folder is read says nothing.
    bench.artifacts.reverse()
    assert bench.choose().artifact == first.artifact
    with pytest.raises(AssertionError, match="was opened"):
        bench.choose(again=True)


def test_moved_artifacts_are_the_same(bench: Bench, tmp_path: Path) -> None:
    bench.add("onnx-fp32", 60.0)
    bench.add("tflite-int8", 40.0)
    bench.choose()
    kept = tmp_path / "kept"
    (bench.folder / "kept").rename(kept)
    bench.folder.rename(tmp_path / "moved")
    bench.artifacts, left_out = find_artifacts(tmp_path / "moved")
    assert left_out == []
    (tmp_path / "build").mkdir()
    kept.rename(tmp_path / "build/kept")
    forbid(bench)
    assert bench.choose().artifact.folder == tmp_path / "moved/tflite-int8"


@pytest.mark.parametrize(
    "change", ["threads", "artifact", "failed", "machine", "engines", "version", "asked", "check"]
)
def test_whatever_changes_is_measured_anew(
    bench: Bench, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add("onnx-fp32", 60.0)
    bench.add("tflite-int8", 40.0)
    bench.choose(threads=1)
    count = len(bench.opened)
    settings: dict[str, Any] = {"threads": 1}
    if change == "threads":
        settings = {"threads": 2}
    elif change == "artifact":
        bench.add("ncnn-fp16", 50.0)
    elif change == "failed":
        bench.artifacts.pop()
        bench.add("tflite-int8", 40.0, failed=True)
    elif change == "machine":
        monkeypatch.setattr(edge.choice.choice, "machine", lambda: {"cpu": "another"})
    elif change == "engines":
        monkeypatch.setattr(edge.choice.choice, "installed", lambda _: {"onnx": "onnxruntime-9"})
    elif change == "version":
        monkeypatch.setattr(edge, "__version__", "9.9")
    elif change == "asked":
        settings["inference_precision"] = "fp32"
    choice = bench.choose(bench.check if change == "check" else None, **settings)
    assert not choice.remembered
    assert len(bench.opened) > count
    assert len(list((bench.folder / "kept").iterdir())) == 2
    assert bench.said == []


def _edited(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def edited(content: bytes) -> bytes:
        data = json.loads(content)
        change(data)
        return json.dumps(data).encode()

    return edited


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda content: content[:-40],
    "no text": lambda _: b"\xff\xfe\x00",
    "a list": lambda _: b"[]",
    "nothing in it": lambda _: b"{}",
    "no candidates": _edited(lambda data: data.pop("candidates")),
    "of another": _edited(lambda data: data.update(depends_on={})),
    "none left": _edited(lambda data: data.update(candidates=[])),
    "a word": _edited(lambda data: data.update(candidates=["x"])),
    "a time in words": _edited(lambda data: data["candidates"][0].update(latency_ms="fast")),
    "no time": _edited(lambda data: data["candidates"][1].update(latency_ms=None)),
    "two chosen": _edited(lambda data: data["candidates"][0].update(reason="")),
    "none chosen": _edited(lambda data: data["candidates"][1].update(reason="slower")),
    "unknown precision": _edited(
        lambda data: data["candidates"][1].update(inference_precision="int8")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_memory_is_measured_anew(bench: Bench, damage: Callable[[bytes], bytes]) -> None:
    bench.add("onnx-fp32", 60.0)
    bench.add("tflite-int8", 40.0)
    path = bench.choose().file
    assert path
    path.write_bytes(damage(path.read_bytes()))
    choice = bench.choose()
    assert not choice.remembered
    assert choice.chosen.name == "tflite-int8"
    (said,) = bench.said
    assert said.startswith(f"{path}: damaged (")
    assert said.endswith("; measured anew")
    assert bench.choose().remembered


def test_no_room_to_remember(bench: Bench) -> None:
    bench.add("onnx-fp32", 60.0)
    (bench.folder / "kept").write_text("a file where the folder should be")
    assert bench.choose().chosen.name == "onnx-fp32"
    (said,) = bench.said
    assert "cannot be remembered" in said


def test_a_busy_machine_is_told_of(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add("onnx-fp32", 60.0)
    waited = iter([0, 10**12])
    monkeypatch.setattr(edge.choice.measure, "waiting_ns", lambda: next(waited))
    doubt = bench.choose().warning
    assert doubt.startswith("a CPU was waited for ")
    assert bench.choose().warning == doubt
    waited = iter([7, 7])
    assert bench.choose(again=True).warning == ""
    assert bench.choose().warning == ""


@pytest.mark.parametrize("when", ["2026-01-01T00:00:00Z", "2199-01-01T00:00:00Z", "yesterday"])
def test_a_doubt_does_not_stay(bench: Bench, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add("onnx-fp32", 60.0)
    waited = iter([0, 10**12, 0, 0])
    monkeypatch.setattr(edge.choice.measure, "waiting_ns", lambda: next(waited))
    path = bench.choose().file
    assert path
    assert bench.choose().remembered
    edited = _edited(lambda data: data.update(measured_utc=when))
    path.write_bytes(edited(path.read_bytes()))
    choice = bench.choose()
    assert (choice.remembered, choice.warning) == (False, "")
    assert [line.endswith("measured anew") for line in bench.said] == [True] * (when[0] == "y")
    # What nobody disturbed stays for as long as nothing changes.
    path.write_bytes(edited(path.read_bytes()))
    assert bench.choose().measured_utc == when


def test_waiting_is_told_by_the_system() -> None:
    first = edge.choice.measure.waiting_ns()
    assert 0 <= first <= edge.choice.measure.waiting_ns()


def test_engines_are_told_apart_without_loading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    (packages / "onnxruntime").mkdir(parents=True)
    (packages / "onnxruntime/__init__.py").write_text("raise AssertionError('it was loaded')")
    (packages / "onnxruntime_gpu-9.1.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(packages)])
    for name in ("onnxruntime", "tensorrt"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert installed(["onnx", "tensorrt"]) == {"onnx": "onnxruntime_gpu-9.1", "tensorrt": ""}
    (packages / "onnxruntime_gpu-9.1.dist-info").rename(packages / "onnxruntime-9.2.dist-info")
    assert installed(["onnx"]) == {"onnx": "onnxruntime-9.2"}
