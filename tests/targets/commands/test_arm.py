"""The check on an emulated ARM CPU from the command line: rows, records, and what fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import MANIFEST, Artifact, load_artifact
from edge.cli import main
from edge.errors import ArtifactError
from tests.conftest import tiny_simcc_model
from tests.stand_ins.built_runner import built_runner
from tests.stand_ins.command_line import fails, people  # noqa: F401
from tests.stand_ins.made_artifacts import make_artifact

pytest.importorskip("cv2")
pytest.importorskip("onnx")
pytest.importorskip("ncnn")
if find_spec("pnnx") is None:
    pytest.skip("pnnx is not installed", allow_module_level=True)

from targets.commands import arm as commands_arm
from targets.runners import arm_check
from targets.runners.arm_check import ArmCheck, ArmTry, not_checked
from targets.runners.native.check import RunnerInfo

pytestmark = pytest.mark.long

Capture = pytest.CaptureFixture[str]

HALF = ArmTry(False, ("the keypoints of 0.png are 0.450 px off",), "FAIL: so", 2, 7.04)
STORAGE = ArmCheck(
    True,
    "fp16-storage",
    {"fp16": HALF, "fp16-storage": ArmTry(True, (), "pass: so", 2, 6.0)},
    "cortex-a76 (emulated)",
    "runner-1",
)
NONE = ArmCheck(True, None, {"fp16": HALF}, reason=f"fp16: {HALF.failures[0]}")


class Arm:
    """Stands for the emulated CPU: gives a verdict that the test sets, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found = STORAGE
        self.runner: RunnerInfo | ArmCheck = RunnerInfo(Path("/r"), "aarch64", None, {}, True)
        self.asked = self.looked = 0
        monkeypatch.setattr(commands_arm, "check_on_arm", self._check)
        monkeypatch.setattr(commands_arm, "find_arm_runner", self._find)
        self.waits = False
        monkeypatch.setattr(commands_arm, "arm_runner_waits", lambda _: self.waits)

    def _find(self, runner: Path | None = None) -> RunnerInfo | ArmCheck:
        del runner
        self.looked += 1
        return self.runner

    def _check(self, artifact: Artifact, judge: Any, runner: Path, **options: Any) -> ArmCheck:
        assert artifact.path("weights").is_file() and callable(judge) and runner == Path("/r")
        del options
        self.asked += 1
        return self.found


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Arm:
    return Arm(monkeypatch)


@pytest.fixture
def convert(
    tmp_path: Path,
    tiny_onnx: Path,
    people: Path,
) -> Callable[..., list[str]]:
    """The command line that converts the tiny model."""

    def command(*more: Any, model: Path = tiny_onnx) -> list[str]:
        words = ["convert", "--model", model, "--images", people, "--out", tmp_path / "build"]
        return [str(word) for word in (*words, *more)]

    return command


def rows(capsys: Capture, argv: list[str]) -> list[dict[str, Any]]:
    """The table of a command that must succeed."""
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    table: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return table


def folder(tmp_path: Path, name: str = "tiny-ncnn-fp16") -> Path:
    return tmp_path / "build" / "android-sd865" / name


def test_the_record_is_in_the_table_the_artifact_and_info(
    arm: Arm, convert: Any, tmp_path: Path, capsys: Capture
) -> None:
    table = rows(capsys, convert())
    assert [row["step"] for row in table] == ["prepare", "ncnn-fp16", "parity", "arm"]
    text = "ARM: uses fp16-storage. Plain fp16 was tried and is too inaccurate (details: edge info)"
    assert table[-1]["verdict"] == text
    artifact = load_artifact(folder(tmp_path))
    assert artifact.arm == json.loads(json.dumps(STORAGE.to_json()))
    assert arm_check.safe_arithmetic(artifact) == "fp16-storage"
    assert main(["info", str(artifact.folder)]) == 0
    shown = capsys.readouterr().out
    for line in (
        text,
        "on cortex-a76 (emulated) with runner-1",
        "tried and rejected: fp16",
        "the keypoints of 0.png are 0.450 px off",
        "fp16-storage 2 images: pass: so",
    ):
        assert line in shown
    assert "FAIL" not in shown, "a good artifact reads as one"
    # Up to date: said again, not done again.
    assert [row["step"] for row in rows(capsys, convert())] == ["ncnn-fp16 up to date", "arm"]
    assert (arm.asked, arm.looked) == (1, 1)


def test_a_check_that_did_not_take_place_is_made_up_for(
    arm: Arm, convert: Any, tmp_path: Path, capsys: Capture
) -> None:
    assert rows(capsys, convert("--no-arm-check"))[-1]["verdict"] == (
        "ARM: not checked (left out with --no-arm-check)"
    )
    assert arm.looked == 0
    before = json.loads((folder(tmp_path) / MANIFEST).read_text())
    assert before["arm"]["checked"] is False
    arm.runner = not_checked("install: apt-get install cmake")
    table = rows(capsys, convert())
    assert [row["step"] for row in table] == ["ncnn-fp16 up to date", "arm"]
    assert table[-1]["verdict"] == "ARM: not checked (install: apt-get install cmake)"
    arm.runner = RunnerInfo(Path("/r"), "aarch64", None, {}, True)
    assert "uses fp16-storage" in rows(capsys, convert())[-1]["verdict"]
    after = json.loads((folder(tmp_path) / MANIFEST).read_text())
    assert after["arm"]["safe"] == "fp16-storage"
    assert {**after, "arm": None} == {**before, "arm": None}
    assert sorted(path.name for path in folder(tmp_path).iterdir()) == [
        *("artifact.json", "tiny.bin", "tiny.param"),
    ]


def test_a_runner_that_must_be_built_comes_last(
    arm: Arm, convert: Any, tmp_path: Path, capsys: Capture
) -> None:
    arm.waits = True
    other = tmp_path / "other.onnx"
    shutil.copy(tmp_path / "tiny.onnx", other)
    pair = ("--detector", other)
    table = rows(capsys, convert(*pair))
    done = ["prepare", "ncnn-fp16", "parity"]
    assert [row["step"] for row in table] == [*done, *done, "arm", "arm"]
    assert [row["model"] for row in table] == ["tiny"] * 3 + ["other"] * 3 + ["tiny", "other"]
    assert (arm.asked, arm.looked) == (2, 1)
    for name in ("tiny", "other"):
        assert load_artifact(folder(tmp_path, f"{name}-ncnn-fp16")).arm["safe"] == "fp16-storage"
    # With --force as well everything is made once.
    table = rows(capsys, convert(*pair, "--force"))
    assert [row["step"] for row in table] == [*done, *done, "arm", "arm"]
    # What fails at the end fails as it does in between.
    arm.found = NONE
    assert main(convert(*pair, "--force")) == 1
    errors = capsys.readouterr().err
    assert "2 of 2 variants failed" in errors
    assert errors.count("beyond the limits in every arithmetic") == 2
    assert not folder(tmp_path).exists()


def test_what_only_the_check_can_judge_does_not_wait(
    arm: Arm, convert: Any, tmp_path: Path, capsys: Capture
) -> None:
    arm.waits = True
    arm.found = replace(STORAGE, safe="bf16")
    table = rows(capsys, convert(model=huge_onnx(tmp_path / "huge.onnx")))
    assert [row["step"] for row in table] == ["prepare", "ncnn-fp16", "parity", "arm"]
    assert arm.asked == 1


def test_no_safe_arithmetic_is_a_failed_artifact(
    arm: Arm, convert: Any, tmp_path: Path, capsys: Capture
) -> None:
    arm.found = NONE
    line = fails(capsys, *convert())
    assert "step arm" in line and "beyond the limits in every arithmetic" in line
    assert HALF.failures[0] in line
    assert not folder(tmp_path).exists()
    line = fails(capsys, *convert("--keep-failed"))
    assert f"Kept, marked as failed: {folder(tmp_path)}" in line
    with pytest.raises(ArtifactError, match="failed its checks"):
        load_artifact(folder(tmp_path))
    kept = load_artifact(folder(tmp_path), allow_failed=True)
    assert kept.arm["text"] == "ARM: FAIL in every arithmetic" and kept.parity["passed"]


@pytest.mark.parametrize("keep", [False, True])
def test_what_was_up_to_date_may_fail_later(
    arm: Arm, convert: Any, tmp_path: Path, capsys: Capture, keep: bool
) -> None:
    rows(capsys, convert("--no-arm-check"))
    arm.found = NONE
    fails(capsys, *convert(*["--keep-failed"] * keep))
    assert folder(tmp_path).exists() is keep
    if keep:
        assert load_artifact(folder(tmp_path), allow_failed=True).failed


def test_other_variants_and_targets_have_no_such_row(
    arm: Arm, convert: Any, tmp_path: Path, capsys: Capture
) -> None:
    table = rows(capsys, convert("--formats", "ncnn-fp32,onnx-fp16"))
    table += rows(capsys, convert("--target", "x86", "--formats", "ncnn-fp16"))
    assert "arm" not in [row["step"] for row in table]
    for path in tmp_path.glob("build/*/*"):
        assert load_artifact(path).arm == {}
        assert main(["info", str(path)]) == 0
        assert "arm" not in capsys.readouterr().out.split("parity:")[1]
    assert (arm.asked, arm.looked) == (0, 0)


def test_a_wrong_runner_is_refused_before_the_conversion(
    convert: Any, tmp_path: Path, tiny_onnx: Path, capsys: Capture
) -> None:
    line = fails(capsys, *convert("--runner", tiny_onnx))
    assert f"{tiny_onnx}: no 64-bit executable" in line
    assert not (tmp_path / "build").exists()


def huge_onnx(path: Path) -> Path:
    """FP16 holds weights and answers: activations of some 1e6 are divided by their own norm."""
    import onnx
    from onnx import numpy_helper

    model = tiny_simcc_model(scale_norm=True)
    for tensor in model.graph.initializer:
        if tensor.name == "conv.w":
            value = numpy_helper.to_array(tensor) * np.float32(2e4)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(model, str(path))
    return path


def test_overflow_without_a_check_fails_and_says_both(
    arm: Arm, convert: Any, tmp_path: Path, capsys: Capture
) -> None:
    model = huge_onnx(tmp_path / "huge.onnx")
    arm.runner = not_checked("install: apt-get install qemu-user-static")
    line = fails(capsys, *convert(model=model))
    assert "beyond FP16's 65504: it overflows" in line
    assert "it was not run on one (install: apt-get install qemu-user-static)" in line
    assert not folder(tmp_path, "huge-ncnn-fp16").exists()


def test_overflow_is_caught_and_another_arithmetic_is_named(
    convert: Any, tmp_path: Path, capsys: Capture
) -> None:
    """The emulated CPU itself; the engine of this machine sees nothing wrong."""
    runner = built_runner()
    model = huge_onnx(tmp_path / "huge.onnx")
    verdict = rows(capsys, convert("--runner", runner, model=model))[-1]["verdict"]
    built = folder(tmp_path, "huge-ncnn-fp16")
    artifact = load_artifact(built)
    assert artifact.parity["passed"] and artifact.parity["failures"] == []
    assert artifact.parity["fp16_peak"]["max_abs"] > 65504
    assert artifact.arm["safe"] in ("bf16", "fp32")
    assert verdict == artifact.arm["text"]
    for precision in ("fp16", "fp16-storage"):
        one = artifact.arm["tried"][precision]
        assert not one["passed"] and "values that are not finite" in one["failures"][0]
        assert precision in verdict
    passed = artifact.arm["tried"][artifact.arm["safe"]]
    assert passed["images"] == 2 and passed["summary"].startswith("pass: ")
    assert main(["verify", str(built), "--images", str(model.parent / "people")]) == 0


def test_a_new_manifest_takes_its_place_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make_artifact(tmp_path / "a", arm={"checked": False})
    before = sorted(path.read_bytes() for path in artifact.folder.iterdir())

    def full(path: Path, data: bytes) -> int:
        path.write_text(data[:10].decode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        artifact.write_manifest()
    assert sorted(path.read_bytes() for path in artifact.folder.iterdir()) == before
    assert load_artifact(artifact.folder).arm == {"checked": False}
