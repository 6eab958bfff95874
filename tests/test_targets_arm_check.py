"""Which arithmetic is safe on ARM: the decisions with a stand-in runner, the truth under QEMU."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact
from edge.errors import ToolError
from edge.spec import Variant
from targets import arm_check
from targets.arm_check import Answer, ArmCheck, ArmImage, check_on_arm
from targets.runner_build import find_runner
from targets.runner_check import emulator_argv
from tests.conftest import tiny_simcc_model
from tests.native_networks import ncnn_files, noise, wheel_answers
from tests.test_targets_runner_native import LINE

# Stands for "qemu -cpu cortex-a76 runner": says of every precision what answers.json holds for it.
STAND_IN = """
import json, pathlib, struct, sys
here = pathlib.Path(__file__).parent
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with (here / "calls").open("a") as log:
    log.write(words["--precision"] + "\\n")
answer = json.loads((here / "answers.json").read_text())[words["--precision"]]
if isinstance(answer, int):
    print("edgepose-runner: crashed", file=sys.stderr)
    sys.exit(answer)
if answer == "slow":
    import time
    time.sleep(60)
pathlib.Path(words["--dump"]).mkdir()
(pathlib.Path(words["--dump"]) / "0-y.bin").write_bytes(struct.pack("<2f", *answer))
line = json.loads((here / "line.json").read_text())
line["precision"] = words["--precision"]
print(json.dumps(line))
"""


class Stage:
    """A stand-in runner in a folder, an artifact with one output of two values, two images."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.runner = folder / "runner.py"
        self.runner.write_text(STAND_IN)
        output = {"name": "y", "shape": [1, 2], "non_finite": 0, "same_in_last": True}
        line = LINE | {"outputs": [output | {"file": "0-y.bin"}]}
        (folder / "line.json").write_text(json.dumps(line))
        monkeypatch.setattr(arm_check, "emulator_argv", lambda _: [sys.executable])
        spec: Any = type("Spec", (), {"name": "tiny", "outputs": (type("T", (), {"name": "y"}),)})
        self.artifact = Artifact(
            folder, Variant.parse("ncnn-fp16"), spec, {"model": "m.param", "weights": "m.bin"}, {}
        )
        want = {"y": np.array([[1.0, 2.0]], np.float32)}
        feeds = {"input": np.zeros((1, 3, 2, 2), np.float32)}
        self.images = [ArmImage(name, feeds, want) for name in ("first", "second")]

    def check(self, answers: dict[str, Any], **options: Any) -> ArmCheck:
        (self.folder / "answers.json").write_text(json.dumps(answers))
        return check_on_arm(self.artifact, self.images, near, self.runner, **options)

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().split()


def near(answers: Sequence[Answer]) -> list[str]:
    """Within 1 % of the largest value."""
    wrong = []
    for answer in answers:
        for name, want in answer.want.items():
            off = np.abs(answer.got[name] - want).max() / np.abs(want).max()
            if off > 0.01:
                wrong.append(f"{name} of {answer.name} is off by {off:.3f}")
    return wrong


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


GOOD, OFF, NAN = [1.0, 2.001], [1.0, 2.5], [1.0, float("nan")]


def test_fp16_that_agrees_is_safe_and_nothing_else_is_tried(stage: Stage) -> None:
    found = stage.check({"fp16": GOOD})
    assert (found.checked, found.safe, found.text()) == (True, "fp16", "arm: fp16 is safe")
    assert stage.calls() == ["fp16", "fp16"]
    data = json.loads(json.dumps(found.to_json()))
    assert data["safe"] == "fp16" and data["cpu"] == "cortex-a76 (emulated)"
    assert data["images"] == ["first", "second"] and data["reason"] == ""
    assert data["tried"]["fp16"]["passed"] is True


@pytest.mark.parametrize(
    ("fp16", "why", "calls"),
    [
        (NAN, "y of first holds 1 values that are not finite", 1),
        (OFF, "y of first is off by 0.250", 2),
        (5, "failed in running: crashed", 1),
        (137, "memory runs out", 1),
    ],
)
def test_the_next_arithmetic_is_tried(stage: Stage, fp16: Any, why: str, calls: int) -> None:
    found = stage.check({"fp16": fp16, "bf16": GOOD})
    assert found.safe == "bf16" and found.text() == "arm: bf16 is safe"
    assert stage.calls() == ["fp16"] * calls + ["bf16", "bf16"]
    assert why in found.tried["fp16"].failures[0]
    assert found.to_json()["tried"]["fp16"]["passed"] is False


def test_fp32_is_the_last_resort(stage: Stage) -> None:
    assert stage.check({"fp16": NAN, "bf16": OFF, "fp32": GOOD}).safe == "fp32"
    none = stage.check({"fp16": NAN, "bf16": OFF, "fp32": OFF})
    assert none.checked and none.safe is None and "FAIL" in none.text()
    assert "fp16: y of first holds" in none.reason and "fp32: y of first is off" in none.reason


def test_the_caller_may_ask_for_one_arithmetic(stage: Stage) -> None:
    found = stage.check({"fp32": GOOD}, precisions=("fp32",))
    assert found.safe == "fp32" and stage.calls() == ["fp32", "fp32"]


def test_what_is_missing_is_said_and_no_error(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_runner = check_on_arm(stage.artifact, stage.images, near, None)
    assert no_runner.text() == "arm: not checked" and "no native runner" in no_runner.reason
    late = stage.check({"fp16": "slow"}, timeout_s=0.5)
    assert not late.checked and "did not end within 0.5 s" in late.reason
    broken = stage.check({"fp16": 127})
    assert not broken.checked and "does not start under QEMU" in broken.reason
    monkeypatch.setattr(arm_check, "emulator_argv", lambda _: None)
    no_qemu = stage.check({"fp16": GOOD})
    assert not no_qemu.checked and "apt-get install qemu-user-static" in no_qemu.reason
    assert no_qemu.to_json() == {
        "checked": False,
        "safe": None,
        "text": "arm: not checked",
        "tried": {},
        "cpu": "",
        "images": [],
        "runner": "",
        "reason": no_qemu.reason,
    }


def test_one_image_proves_too_little(stage: Stage) -> None:
    with pytest.raises(ValueError, match="two images or more, got 1"):
        check_on_arm(stage.artifact, stage.images[:1], near, stage.runner)


# --- the truth ------------------------------------------------------------------------------------


def huge_onnx(path: Path) -> Path:
    """Weights and answers that FP16 holds, with activations in between that it does not."""
    import onnx
    from onnx import numpy_helper

    model = tiny_simcc_model()
    for tensor in model.graph.initializer:
        factor = {"conv.w": 3e3, "w_x": 0.05, "w_y": 0.05}.get(tensor.name)
        if factor:
            value = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    onnx.save(model, str(path))
    return path


def onnx_answers(path: Path, image: Any, names: Sequence[str]) -> dict[str, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), {"input": image}), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tame", "huge"])
def test_overflow_that_x86_hides_is_caught(tmp_path: Path, kind: str) -> None:
    """One network whose activations exceed 65504, and one whose do not."""
    for module in ("onnx", "ncnn", "onnxruntime"):
        pytest.importorskip(module)
    if find_spec("pnnx") is None:
        pytest.skip("pnnx is not installed")
    try:
        runner = find_runner("aarch64")
    except ToolError as error:
        pytest.skip(str(error))
    if emulator_argv() is None:
        pytest.skip("QEMU is not installed")
    import onnx

    source = tmp_path / f"{kind}.onnx"
    if kind == "huge":
        huge_onnx(source)
    else:
        onnx.save(tiny_simcc_model(scale_norm=True), str(source))
    param, weights, spec = ncnn_files(source, tmp_path / "ncnn")
    names = [tensor.name for tensor in spec.outputs]
    images = []
    for seed in (1, 2):
        image = noise((1, *spec.input.shape[1:]), seed)
        want = onnx_answers(source, image, names)
        # x86 sees nothing of it, whatever it is asked for.
        for name, value in wheel_answers(param, weights, {"input": image}, names).items():
            np.testing.assert_allclose(value, want[name], rtol=0, atol=2e-3 * np.abs(value).max())
        images.append(ArmImage(f"noise {seed}", {"input": image}, want))
    files = {"model": param.name, "weights": weights.name}
    artifact = Artifact(param.parent, Variant.parse("ncnn-fp16"), spec, files, {})
    found = check_on_arm(artifact, images, within_bf16, runner.path)
    assert found.checked
    if kind == "tame":
        assert found.safe == "fp16"
    else:
        assert found.safe == "bf16"
        assert "values that are not finite" in found.tried["fp16"].failures[0]
    forced = check_on_arm(
        artifact, images, within_bf16, runner.path, precisions=("bf16", "fp32")[::-1]
    )
    assert forced.safe == "fp32"


def within_bf16(answers: Sequence[Answer]) -> list[str]:
    """Within 4 % of the largest value: what a few layers in 8 bits of mantissa change."""
    assert [answer.name for answer in answers] == ["noise 1", "noise 2"]
    wrong = []
    for answer in answers:
        for name, want in answer.want.items():
            off = float(np.abs(answer.got[name] - want).max() / np.abs(want).max())
            if off > 0.04:
                wrong.append(f"{name} of {answer.name} is off by {off:.3f}")
    return wrong
