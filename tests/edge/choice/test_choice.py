"""Which variant is chosen: sessions that take a known time on a clock of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edge.choice.measure
from edge.choice import Choice, find_artifacts
from edge.errors import ArtifactError, EngineError, EngineMissingError, ParityError, SpecError
from edge.spec import ModelSpec, TensorSpec
from tests.stand_ins.choice_bench import SMALL_POSE, Bench, Cost
from tests.stand_ins.made_artifacts import edit, make_artifact
from tests.stand_ins.specs import detector_spec, finished_poses_spec, pose_spec


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(edge.choice.measure, "waiting_ns", lambda: 0)
    return Bench(tmp_path / "build")


def reasons(choice: Choice) -> dict[str, str]:
    return {one.name: one.reason for one in choice.candidates}


def test_the_fastest_is_chosen(bench: Bench) -> None:
    for variant, ms in (("onnx-fp32", 60.0), ("ncnn-fp16", 70.0), ("tflite-int8", 40.0)):
        bench.add(variant, ms)
    choice = bench.choose(threads=3)
    assert str(choice.artifact.variant) == "tflite-int8"
    assert (choice.inference_precision, choice.latency_ms) == ("fp32", 40.0)
    assert [(one.name, one.latency_ms) for one in choice.candidates] == [
        ("onnx-fp32", 60.0),
        ("ncnn-fp16", 70.0),
        ("tflite-int8", 40.0),
    ]
    assert [one.latency_4_people_ms for one in choice.candidates] == [240.0, 280.0, 160.0]
    assert reasons(choice) == {
        "onnx-fp32": "slower, x1.50",
        "ncnn-fp16": "slower, x1.75",
        "tflite-int8": "",
    }
    # In the arithmetic that each ships for, with the threads that were asked for.
    assert bench.opened == [("onnx-fp32 fp32", 3), ("ncnn-fp16 fp16", 3), ("tflite-int8 fp32", 3)]
    assert bench.open_now == 0
    assert (choice.warning, choice.remembered, choice.threads) == ("", False, 3)


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ({"tflite-int8": 98.0, "onnx-fp32": 100.0}, "onnx-fp32"),
        ({"tflite-int8": 96.0, "onnx-fp32": 100.0}, "tflite-int8"),
        ({"tflite-int8": 98.0, "openvino-fp16": 99.0, "onnx-fp32": 100.0}, "onnx-fp32"),
        ({"tflite-int8": 98.0, "openvino-fp16": 99.0, "onnx-fp32": 102.0}, "openvino-fp16"),
        ({"tflite-int8": 100.0, "tflite-mixed": 102.0}, "tflite-mixed"),
        ({"openvino-fp32": 101.0, "onnx-fp32": 100.0}, "onnx-fp32"),
    ],
)
def test_of_equals_the_more_precise_is_chosen(
    bench: Bench, times: dict[str, float], best: str
) -> None:
    for variant, ms in times.items():
        bench.add(variant, ms)
    choice = bench.choose()
    assert choice.chosen.name == best
    for name, reason in reasons(choice).items():
        near = times[name] <= 1.03 * min(times.values())
        assert reason == "" if name == best else ("as fast" in reason) == near


def test_candidates_are_timed_in_turn(bench: Bench) -> None:
    """A neighbour that slows everything sixfold for two fifths of the time changes no order."""
    names = ["onnx-fp32", "ncnn-fp16", "tflite-int8"]
    blocks: list[str] = []

    def cost(name: str) -> Cost:
        def cost_ms(people: int) -> float:
            if blocks[-1:] != [name]:
                blocks.append(name)
            # Each is opened and tried; the second and the fourth round after that are disturbed.
            busy = 6.0 if (len(blocks) - 1) // 3 in (2, 4) else 1.0
            return busy * people * (30.0 + names.index(name))

        return cost_ms

    for name in names:
        bench.add(name, cost(name))
    choice = bench.choose()
    assert choice.chosen.name == "onnx-fp32"
    # After the first, five rounds with one person and five with four.
    assert blocks == names * 11
    assert [one.latency_ms for one in choice.candidates] == [30.0, 31.0, 32.0]


def test_one_person_decides(bench: Bench) -> None:
    bench.add("onnx-fp32", lambda people: 50.0 + 50.0 * people)
    bench.add("ncnn-fp16", lambda people: 80.0 * people)
    choice = bench.choose()
    assert choice.chosen.name == "ncnn-fp16"
    found = [(one.latency_ms, one.latency_4_people_ms) for one in choice.candidates]
    assert found == [(100.0, 250.0), (80.0, 320.0)]


def test_the_slow_ones_are_given_up(bench: Bench) -> None:
    bench.add("onnx-fp32", 10.0)
    bench.add("ncnn-fp16", 1000.0)
    choice = bench.choose()
    # Once to try, and in each of two rounds two to warm up and one that counts.
    assert bench.calls.count("ncnn-fp16") == 7
    slow = choice.candidates[1]
    assert (slow.latency_ms, slow.latency_4_people_ms) == (1000.0, None)
    assert slow.reason == "slower, x100.00"


@pytest.mark.parametrize("spec", [detector_spec(), finished_poses_spec()])
def test_models_of_whole_pictures(bench: Bench, spec: ModelSpec) -> None:
    bench.add("onnx-fp32", 30.0, spec=spec)
    bench.add("ncnn-fp16", 20.0, spec=spec)
    choice = bench.choose()
    assert choice.chosen.name == "ncnn-fp16"
    assert [one.latency_ms for one in choice.candidates] == [30.0, 20.0]
    assert all(one.latency_4_people_ms is None for one in choice.candidates)


def test_what_may_not_be_chosen_however_fast_it_is(bench: Bench) -> None:
    bench.add("onnx-fp32", 100.0, accuracy={})
    batch = replace(SMALL_POSE, input=TensorSpec("input", (4, 3, 64, 48)))
    for variant, changes in (
        ("ncnn-fp16", {"failed": True}),
        ("onnx-fp16", {"parity": {}}),
        ("ncnn-fp32", {"parity": {"passed": False}}),
        ("openvino-int8", {"accuracy": {}}),
        ("openvino-fp16", {"spec": batch}),
    ):
        bench.add(variant, 1.0, **changes)
    bench.add("tflite-int8", EngineMissingError("pip install 'edgepose[tflite]'"))
    bench.add("tflite-fp32", EngineError("it cannot load this"))
    choice = bench.choose()
    assert choice.chosen.name == "onnx-fp32"
    assert reasons(choice) == {
        "onnx-fp32": "",
        "ncnn-fp16": "failed its checks",
        "onnx-fp16": "was never compared with its source",
        "ncnn-fp32": "was never compared with its source",
        "openvino-int8": "its accuracy was not measured",
        "openvino-fp16": "has a fixed batch of 4",
        "tflite-int8": "engine missing: pip install 'edgepose[tflite]'",
        "tflite-fp32": "does not run here: it cannot load this",
    }
    assert bench.open_now == 0


def test_nothing_to_choose(bench: Bench) -> None:
    with pytest.raises(SpecError, match="no artifact"):
        bench.choose()
    bench.add("ncnn-fp16", EngineMissingError("pip install 'edgepose[ncnn]'"))
    with pytest.raises(EngineMissingError, match=r"ncnn-fp16: engine missing: pip install"):
        bench.choose()
    bench.add("onnx-fp32", failed=True)
    with pytest.raises(ArtifactError, match="onnx-fp32: failed its checks"):
        bench.choose()
    assert not (bench.folder / "kept").exists()


# --- bf16 -----------------------------------------------------------------------------------------


def test_bf16_takes_a_check(bench: Bench) -> None:
    bench.add("onnx-fp32", 60.0)
    bench.add("openvino-fp16", 70.0)
    bench.costs["openvino-fp16 bf16"] = 40.0
    assert reasons(bench.choose()) == {"onnx-fp32": "", "openvino-fp16": "slower, x1.17"}
    choice = bench.choose(bench.check)
    assert choice.chosen.name == "openvino-fp16 in bf16"
    assert (choice.inference_precision, choice.latency_ms) == ("bf16", 40.0)
    assert choice.chosen.check == "pass: as good"
    assert bench.checked == ["openvino-fp16 bf16"]
    # Remembered apart: whoever cannot check does not get it from memory.
    assert bench.choose().chosen.name == "onnx-fp32"
    assert bench.choose(bench.check).chosen.check == "pass: as good"
    assert bench.checked == ["openvino-fp16 bf16"]


def test_bf16_beyond_the_limits_is_no_candidate(bench: Bench) -> None:
    for variant, ms in (("openvino-fp32", 40.0), ("openvino-fp16", 50.0), ("onnx-fp32", 90.0)):
        bench.add(variant, 95.0)
        bench.costs[f"{variant} bf16"] = ms
    bench.add("tflite-int8", 60.0)
    bench.check_error = {
        "openvino-fp32 bf16": ParityError("an eye is 4 px off"),
        "openvino-fp16 bf16": ArtifactError("its source is not there"),
    }
    choice = bench.choose(bench.check)
    assert choice.chosen.name == "tflite-int8"
    # The fastest first, and only those that would have been chosen.
    assert bench.checked == ["openvino-fp32 bf16", "openvino-fp16 bf16"]
    found = reasons(choice)
    assert found["openvino-fp32 in bf16"] == (
        "its answers are beyond the limits: an eye is 4 px off"
    )
    assert found["openvino-fp16 in bf16"] == "not checked: its source is not there"
    assert "onnx-fp32 in bf16" not in found


def test_bf16_that_is_slower_is_not_checked(bench: Bench) -> None:
    bench.add("openvino-fp16", 50.0)
    bench.costs["openvino-fp16 bf16"] = 49.0  # as fast: the more precise one is taken
    choice = bench.choose(bench.check)
    assert choice.chosen.name == "openvino-fp16"
    assert bench.checked == []


def test_a_cpu_without_bf16(bench: Bench) -> None:
    bench.has_bf16 = False
    bench.add("openvino-fp16", 50.0)
    bench.add("openvino-int8", 20.0)
    choice = bench.choose(bench.check)
    assert list(reasons(choice)) == ["openvino-fp16", "openvino-int8"]
    assert bench.open_now == 0


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("fp32", {"onnx-fp32": 50.0, "openvino-fp16 in fp32": 40.0}),
        ("fp16", {"openvino-fp16": 40.0}),
        ("bf16", {"openvino-fp16 in bf16": 30.0}),
    ],
)
def test_an_arithmetic_that_is_asked_for(bench: Bench, asked: Any, names: dict[str, float]) -> None:
    bench.add("onnx-fp32", 50.0)
    bench.add("openvino-fp16", 40.0)
    bench.costs["openvino-fp16 bf16"] = 30.0
    choice = bench.choose(bench.check, inference_precision=asked)
    timed = {one.name: one.latency_ms for one in choice.candidates if one.latency_ms}
    assert timed == names
    assert choice.inference_precision == asked


# --- what there is to choose from -----------------------------------------------------------------


def test_artifacts_of_one_model(bench: Bench) -> None:
    bench.add("onnx-fp32")
    bench.add("ncnn-fp16", spec=pose_spec(name="other"))
    with pytest.raises(SpecError, match=r"several models \(other, pose\)"):
        bench.choose()
    bench.artifacts.pop()
    bench.add("ncnn-fp16", spec=pose_spec())
    with pytest.raises(SpecError, match="name one of pose-64x48, pose-256x192"):
        bench.choose()
    bench.artifacts.pop()
    bench.add("ncnn-fp16", source={"sha256": "another"})
    with pytest.raises(SpecError, match="made of different files"):
        bench.choose()


def test_artifacts_in_a_folder(tmp_path: Path) -> None:
    make_artifact(tmp_path / "a", failed=True)
    make_artifact(tmp_path / "b", spec=pose_spec(name="pose-2"))
    make_artifact(tmp_path / "c", spec=detector_spec())
    make_artifact(tmp_path / ".d")  # somebody is making it
    make_artifact(tmp_path / "e")
    (tmp_path / "e/pose.bin").write_bytes(b"changed")
    make_artifact(tmp_path / "f")
    edit(tmp_path / "f", lambda data: data.update(schema=99))
    (tmp_path / "g").mkdir()

    def names(name: str | None = None) -> list[str]:
        return [artifact.folder.name for artifact in find_artifacts(tmp_path, name)[0]]

    assert names() == ["a", "b", "c"]
    assert names("pose") == names("pose-256x192") == ["a"]
    assert names("pose-2") == ["b"]
    assert names("detector") == names("detector-320x320") == ["c"]
    assert names("detector-640x640") == names("pos") == names("poses") == []
    _, left_out = find_artifacts(tmp_path)
    assert len(left_out) == 2
    assert "pose.bin was changed" in left_out[0]
    assert "newer edgepose" in left_out[1]
