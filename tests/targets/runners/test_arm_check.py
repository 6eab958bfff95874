"""Which arithmetic is safe on ARM: the decisions with a stand-in runner, the truth under QEMU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact
from edge.errors import ToolError
from edge.spec import TensorSpec, Variant
from targets.runners import arm_check
from targets.runners.arm_check import (
    ArmCheck,
    arm_runner_waits,
    check_on_arm,
    find_arm_runner,
    not_checked,
    safe_arithmetic,
)
from targets.runners.native.build import find_runner
from targets.runners.native.call import NATIVE_PRECISIONS
from targets.runners.native.check import RunnerInfo, emulator_argv
from targets.runners.native.progress import BuildSkippedError
from targets.runners.native.session import NativeSession
from tests.conftest import tiny_simcc_model
from tests.stand_ins.built_runner import built_runner, skip_or_raise
from tests.stand_ins.made_artifacts import make_artifact
from tests.stand_ins.native_networks import ncnn_files, noise, wheel_answers
from tests.stand_ins.runner_output import LINE
from tests.stand_ins.specs import pose_spec

# Stands for "qemu -cpu cortex-a76 runner": of every precision it gives the value that answers.json
# holds for it, everywhere, or exits with that code.
STAND_IN = """
import json, pathlib, struct, sys, time
here = pathlib.Path(__file__).parent
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with (here / "calls").open("a") as log:
    log.write(words["--precision"] + "\\n")
answer = json.loads((here / "answers.json").read_text())[words["--precision"]]
if isinstance(answer, int):
    print("edgepose-runner: as the test wants it", file=sys.stderr)
    sys.exit(answer)
if answer == "slow":
    time.sleep(60)
line = json.loads((here / "line.json").read_text())
line["precision"] = line["computes_in"] = words["--precision"]
pathlib.Path(words["--dump"]).mkdir()
for output in line["outputs"]:
    count = output["shape"][1] * output["shape"][2]
    data = struct.pack(f"<{count}f", *[answer] * count)
    (pathlib.Path(words["--dump"]) / output["file"]).write_bytes(data)
print(json.dumps(line))
"""

SPEC = pose_spec(
    input=TensorSpec("input", (1, 3, 64, 48)),
    outputs=(TensorSpec("simcc_x", (1, 17, 96)), TensorSpec("simcc_y", (1, 17, 128))),
)


class Stage:
    """A stand-in runner in a folder, and an artifact whose outputs should all be 1."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.runner = folder / "runner.py"
        self.runner.write_text(STAND_IN)
        outputs = [
            {"name": tensor.name, "shape": tensor.shape, "non_finite": 0, "same_in_last": True}
            | {"file": f"{tensor.name}.bin"}
            for tensor in SPEC.outputs
        ]
        (folder / "line.json").write_text(json.dumps(LINE | {"outputs": outputs}))
        monkeypatch.setattr(arm_check, "emulator_argv", lambda _: [sys.executable])
        self.artifact = make_artifact(folder / "artifact", spec=SPEC)

    def check(self, answers: dict[str, Any], **options: Any) -> ArmCheck:
        (self.folder / "answers.json").write_text(json.dumps(answers))
        return check_on_arm(self.artifact, near_one, self.runner, **options)

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().split()


def near_one(session: NativeSession) -> tuple[Sequence[str], str]:
    """Two images, each within 1 %."""
    wrong = []
    for name in ("first", "second"):
        answers = session.run({"input": np.zeros((1, 3, 64, 48), np.float32)})
        off = max(float(np.abs(value - 1).max()) for value in answers.values())
        if off > 0.01:
            wrong.append(f"{name} is off by {off:.3f}")
    assert session.machine == "cortex-a76 (emulated)"
    return wrong, f"{session.inference_precision}, {len(wrong)} wrong"


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


GOOD, OFF, NAN = 1.001, 1.25, float("nan")


def test_fp16_that_agrees_is_safe_and_nothing_else_is_tried(stage: Stage) -> None:
    found = stage.check({"fp16": GOOD})
    assert (found.checked, found.safe, found.text()) == (True, "fp16", "ARM: uses fp16")
    assert stage.calls() == ["fp16", "fp16"]
    data = json.loads(json.dumps(found.to_json()))
    assert data["safe"] == "fp16" and data["cpu"] == "cortex-a76 (emulated)"
    assert data["runner"] == "runner.py" and data["reason"] == ""
    one = data["tried"]["fp16"]
    assert one["passed"] is True and one["images"] == 2 and one["summary"] == "fp16, 0 wrong"


@pytest.mark.parametrize(
    ("fp16", "why", "calls"),
    [
        (NAN, "simcc_x holds 1632 values that are not finite", 1),
        (OFF, "first is off by 0.250", 2),
        (5, "failed in running: as the test wants it", 1),
        (137, "memory runs out", 1),
        (139, "the runner crashed", 1),
    ],
)
def test_the_next_arithmetic_is_tried(stage: Stage, fp16: Any, why: str, calls: int) -> None:
    found = stage.check({"fp16": fp16, "fp16-storage": GOOD})
    assert found.safe == "fp16-storage"
    assert stage.calls() == ["fp16"] * calls + ["fp16-storage"] * 2
    tried = found.tried["fp16"]
    assert why in tried.failures[0] and not tried.passed and tried.images == calls
    assert found.text() == (
        "ARM: uses fp16-storage. Plain fp16 was tried and is too inaccurate (details: edge info)"
    )


def test_fp32_is_the_last_resort(stage: Stage) -> None:
    wrong = {"fp16": NAN, "fp16-storage": NAN, "bf16": OFF}
    found = stage.check(wrong | {"fp32": GOOD})
    assert found.safe == "fp32" and list(found.tried) == ["fp16", "fp16-storage", "bf16", "fp32"]
    assert stage.check(wrong | {"bf16": GOOD}).safe == "bf16"
    none = stage.check(wrong | {"fp32": OFF})
    assert none.checked and none.safe is None
    assert none.text() == "ARM: FAIL in every arithmetic"
    for words in ("fp16: simcc_x holds", "bf16: first is off", "fp32: first is off"):
        assert words in none.reason
    only = stage.check({"fp32": GOOD}, precisions=("fp32",))
    assert only.safe == "fp32" and list(only.tried) == ["fp32"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("slow", "an image took longer than 0."),
        (127, "the runner does not start under QEMU: edgepose-runner: as the test wants it"),
        (132, "the runner does not start under QEMU"),
        (2, "the runner does not start under QEMU"),
    ],
)
def test_what_is_not_the_networks_fault_is_no_verdict(stage: Stage, answer: Any, why: str) -> None:
    found = stage.check({"fp16": answer}, timeout_s=0.5 if answer == "slow" else 60.0)
    assert not found.checked and found.safe is None and why in found.reason
    assert len(stage.calls()) == 1
    assert found.text() == f"ARM: not checked ({found.reason})"


def test_without_qemu_nothing_is_checked(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arm_check, "emulator_argv", lambda _: None)
    found = stage.check({"fp16": GOOD})
    assert found.text() == "ARM: not checked (install: apt-get install qemu-user-static)"
    assert found.to_json() == {
        "checked": False,
        "safe": None,
        "text": found.text(),
        "tried": {},
        "cpu": "",
        "runner": "",
        "reason": "install: apt-get install qemu-user-static",
    }


def test_what_the_record_says_is_safe(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a")
    assert safe_arithmetic(artifact) is None
    assert safe_arithmetic(replace(artifact, arm=not_checked("why").to_json())) is None
    for precision in NATIVE_PRECISIONS:
        record = ArmCheck(True, precision).to_json()
        assert safe_arithmetic(replace(artifact, arm=record)) == precision
    assert safe_arithmetic(replace(artifact, arm=ArmCheck(True, None).to_json())) is None


# --- the runner, without which there is no check ------------------------------------------------


class Machine:
    """What is installed on a machine, and whether its cache has a runner."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs = {"qemu-aarch64-static", "aarch64-linux-gnu-g++", "cmake", "ninja"}
        self.built: list[str] = []
        self.cached = False
        self.error = "`ninja` exited with 1:\n    no space left"
        self.runner = RunnerInfo(Path("/r/runner"), "aarch64", None, {}, answered=True)
        monkeypatch.setattr(arm_check, "find_qemu", lambda: self._here("qemu-aarch64-static"))
        monkeypatch.setattr(arm_check, "find_toolchain", lambda _: self._need(f"{_}-linux-gnu-g++"))
        monkeypatch.setattr(arm_check, "find_program", self._need)
        monkeypatch.setattr(arm_check, "find_runner", lambda *_: self.runner)
        monkeypatch.setattr(arm_check, "build_runner", self._build)
        monkeypatch.setattr(arm_check, "is_built", lambda _: self.cached)

    def _here(self, name: str) -> str | None:
        return name if name in self.programs else None

    def _need(self, name: str) -> str:
        if name not in self.programs:
            raise ToolError(f"{name} is not installed")
        return name

    def _build(self, arch: str, say: Any, skip: Any) -> RunnerInfo:
        assert arch == "aarch64"
        if self.cached:
            return self.runner
        self._need("cmake")
        say("building ncnn")
        self.built.append(arch)
        if skip and skip():
            raise BuildSkippedError("skipped")
        raise ToolError(self.error)


@pytest.mark.parametrize(
    ("missing", "packages"),
    [
        ({"qemu-aarch64-static"}, "qemu-user-static"),
        ({"aarch64-linux-gnu-g++"}, "g++-aarch64-linux-gnu"),
        ({"cmake"}, "cmake"),
        (
            {"qemu-aarch64-static", "aarch64-linux-gnu-g++", "cmake", "ninja"},
            "qemu-user-static g++-aarch64-linux-gnu cmake ninja-build",
        ),
    ],
)
def test_what_is_missing_is_found_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, missing: set[str], packages: str
) -> None:
    machine = Machine(monkeypatch)
    machine.programs -= missing
    said: list[str] = []
    found = find_arm_runner(say=said.append)
    assert isinstance(found, ArmCheck)
    assert found.text() == f"ARM: not checked (install: apt-get install {packages})"
    assert machine.built == [] and said == []


def test_a_runner_in_the_cache_needs_no_build_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.cached = True
    machine.programs -= {"cmake", "ninja"}
    said: list[str] = []
    assert find_arm_runner(say=said.append) is machine.runner
    assert said == []


def test_a_build_says_how_long_it_takes_and_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    said: list[str] = []
    found = find_arm_runner(say=said.append)
    assert "3 minutes" in said[0] and said[1:] == ["building ncnn", machine.error]
    # Nobody sits at a terminal here: an option takes the place of the key.
    assert "--no-arm-check" in said[0] and "press" not in said[0]
    assert isinstance(found, ArmCheck)
    assert found.text() == "ARM: not checked (`ninja` exited with 1:)"


def test_a_build_is_skipped_by_the_key_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch)

    @contextmanager
    def typed(key: str) -> Iterator[Callable[[], bool]]:
        assert key == "s"
        yield lambda: True

    monkeypatch.setattr(arm_check, "key_pressed", typed)
    said: list[str] = []
    found = find_arm_runner(say=said.append)
    assert "press s to go on without the check" in said[0]
    assert isinstance(found, ArmCheck)
    assert found.text() == "ARM: not checked (skipped; the next conversion goes on with it)"


def test_only_a_runner_that_can_be_built_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    assert arm_runner_waits() and not arm_runner_waits(Path("/own"))
    machine.cached = True
    assert not arm_runner_waits()
    machine.cached = False
    machine.programs -= {"cmake"}
    assert not arm_runner_waits()


def test_ones_own_runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    with pytest.raises(ToolError, match="no 64-bit executable"):
        find_arm_runner(tmp_path / "text")
    machine = Machine(monkeypatch)
    machine.programs -= {"aarch64-linux-gnu-g++", "cmake", "ninja"}
    own = tmp_path / "own"
    assert find_arm_runner(own) is machine.runner
    loader = "/system/bin/linker64"
    machine.runner = replace(machine.runner, interpreter=loader, answered=False)
    found = find_arm_runner(own)
    assert isinstance(found, ArmCheck) and loader in found.reason
    machine.programs.clear()
    found = find_arm_runner(own)
    assert isinstance(found, ArmCheck) and "apt-get install qemu-user-static" in found.reason


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


def overflow_is_caught(tmp_path: Path, kind: str, runner: Path) -> None:
    for module in ("onnx", "ncnn", "onnxruntime"):
        pytest.importorskip(module)
    if find_spec("pnnx") is None:
        pytest.skip("pnnx is not installed")
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
        images.append((image, want))

    def within_bf16(session: NativeSession) -> tuple[Sequence[str], str]:
        """Within 4 % of the largest value: what a few layers in 8 bits of mantissa change."""
        wrong = []
        for image, want in images:
            got = session.run({"input": image})
            for name in names:
                off = float(np.abs(got[name] - want[name]).max() / np.abs(want[name]).max())
                if off > 0.04:
                    wrong.append(f"{name} is off by {off:.3f}")
        assert session.inference_precision == session.precision
        return wrong, ""

    files = {"model": param.name, "weights": weights.name}
    artifact = Artifact(param.parent, Variant.parse("ncnn-fp16"), spec, files, {})
    found = check_on_arm(artifact, within_bf16, runner)
    assert found.checked
    if kind == "tame":
        assert found.safe == "fp16"
    else:
        assert found.safe == "bf16"
        for precision in ("fp16", "fp16-storage"):
            assert "values that are not finite" in found.tried[precision].failures[0]
    assert check_on_arm(artifact, within_bf16, runner, precisions=("fp32",)).safe == "fp32"


@pytest.mark.parametrize("kind", ["tame", "huge"])
def test_overflow_that_x86_hides_is_caught(tmp_path: Path, kind: str) -> None:
    """One network whose activations exceed 65504, and one whose do not."""
    overflow_is_caught(tmp_path, kind, built_runner())


@pytest.mark.slow
def test_overflow_is_caught_by_the_runner_that_belongs_to_this_version(tmp_path: Path) -> None:
    try:
        runner = find_runner("aarch64")
    except ToolError as error:
        skip_or_raise(error)
    if emulator_argv() is None:
        pytest.skip("QEMU is not installed")
    overflow_is_caught(tmp_path, "huge", runner.path)
