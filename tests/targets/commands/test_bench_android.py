"""`edge bench --target android` from end to end, over the real adb to a phone that is played.

The native runner for aarch64 runs there under QEMU. The phone says itself that it is emulated;
where a verdict decides the exit code, it is told to say otherwise.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from edge.cli import main
from targets.result import EMULATED
from tests.conftest import tiny_simcc_model
from tests.stand_ins.adb_device import NEW_ANDROID, OLD_ANDROID
from tests.stand_ins.bench_phone import (
    ANSWERING,
    FEW,
    STAY_ON,
    WORK,
    Stage,
    Studio,
    converted,
    open_studio,
    overflowing_model,
    take_mask_away,
)

pytest.importorskip("onnx")
pytest.importorskip("ncnn")
if find_spec("pnnx") is None:  # importing it would need PyTorch
    pytest.skip("pnnx is not installed", allow_module_level=True)

pytestmark = [pytest.mark.long, pytest.mark.alone]

# Of the files that stay: the others go with each call.
PUSHED = rf"mv -f \S*{WORK}/((?:runner|artifacts)/\S+)\.part"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with open_studio(tmp_path_factory.mktemp) as studio:
        yield studio


@pytest.fixture
def stage(studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Stage]:
    with studio.stage(tmp_path, capsys) as stage:
        yield stage


# --- what goes well -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "features",
    [
        pytest.param(NEW_ANDROID, id="new"),
        pytest.param(OLD_ANDROID, id="old", marks=pytest.mark.slow),
    ],
)
def test_from_a_phone_to_figures(
    features: tuple[str, ...], studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    onnx.save(tiny_simcc_model(scale_norm=True), str(tmp_path / "tiny.onnx"))
    shutil.rmtree(studio.root / WORK, ignore_errors=True)
    with studio.stage(tmp_path, capsys, features) as stage:
        knobs, out = stage.phone.knobs, ["--out", str(stage.out)]
        seen: list[tuple[str | None, str | None]] = []
        stage.when_measuring(
            lambda: seen.append((knobs.setting("global", STAY_ON), knobs.fixed_performance))
        )
        argv = ["bench", "--target", "android", "--model", str(tmp_path / "tiny.onnx"), *FEW, *out]
        argv += ["--images", str(stage.pictures), "--repeat", "2"]
        first = stage.outcome(argv)
        assert first.code == 0, first.lines
        assert EMULATED in "\n".join(first.lines) and "pass: 17 keypoints" in "\n".join(first.lines)
        # All of it is on the phone, and was put back after it had been set for the run.
        assert seen == [("7", "true")]
        assert (knobs.setting("global", STAY_ON), knobs.fixed_performance) == ("1", "false")
        assert len(stage.on_device("runner/*")) == 1
        (manifest,) = stage.on_device("artifacts/*/artifact.json")
        names = {path.name for path in manifest.parent.iterdir()}
        assert names == {"artifact.json", "tiny.bin", "tiny.param"}
        for run in first.runs:
            assert (run.emulated, run.valid, run.reasons) == (True, True, ())
            assert (run.transport, run.target) == ("adb", "android-sd865")
            assert (run.device.name, run.device.soc) == (f"adb {stage.phone.serial}", "SM8250")
            assert run.parity and run.parity.passed
            assert (run.inference_precision, run.threads) == ("fp32", 1)
            assert (run.cpu_mask, run.affinity, len(run.samples_ns)) == ("1", "1", 3)
            for state in (run.state_before, run.state_after):
                assert state and state.battery and state.battery.level_percent == 85
                assert (state.thermal_status, state.temperatures_c["CPU4"]) == (0, 38.0)
                assert (state.governors["cpu7"], state.max_clocks_khz["cpu7"]) == (
                    "schedutil",
                    2_841_600,
                )
        assert {run.settings["repeat"] for run in first.runs} == {1, 2}

        # What lies there is not pushed again.
        assert len(re.findall(PUSHED, "\n".join(stage.phone.commands))) == 4
        stage.phone.commands.clear()
        (made,) = (stage.out / "android-sd865").glob("tiny-*")
        assert stage.bench(artifacts=(made,)).code == 0
        assert not re.search(PUSHED, "\n".join(stage.phone.commands))
        assert len(stage.runs()) == 3

        assert main(["report", str(stage.out / "results")]) == 0
        table = capsys.readouterr().out
        assert EMULATED in table and "tiny" in table and "ms" not in table.split("\n\n")[0]
        serial = ["--serial", stage.phone.serial]
        assert main(["clean", "--target", "android", *serial]) == 0
        assert f"removed /{WORK}" in capsys.readouterr().out
        assert not list((stage.phone.root / "data/local/tmp").iterdir())


def test_settings_are_left_alone_where_asked(stage: Stage) -> None:
    stage.phone.knobs.forget_calls()
    assert stage.bench("--leave-settings").code == 0
    assert stage.phone.knobs.calls() == []


def test_what_a_linker_prints_is_not_the_runner_s(stage: Stage) -> None:
    stage.phone.garbage = b"WARNING: linker: unsupported flags DT_FLAGS_1=0x8000001\n"
    outcome = stage.bench()
    assert outcome.code == 0 and len(outcome.runs) == 1


def test_a_phone_that_refuses_a_setting_is_used_as_it_is(stage: Stage) -> None:
    refusal = stage.phone.root / "sim/no_fixed_performance"
    stage.phone.knobs.no_fixed_performance()
    try:
        outcome = stage.bench()
    finally:
        refusal.unlink()
    (run,) = outcome.runs
    assert outcome.code == 0 and run.valid
    assert "fixed-performance mode: refused (Failed to set" in str(run.settings["prepared"])


@pytest.mark.slow
def test_detector_and_pose_model_as_a_pipeline(stage: Stage, studio: Studio) -> None:
    finder = studio.models / "build/x86/rtmdet-nano-demo-96x96-ncnn-fp16"
    argv = ["convert", "--target", "x86", "--formats", "ncnn-fp16", "--model", "rtmdet-nano-demo"]
    assert main([*argv, "--size", "96x96", "--out", str(studio.models / "build")]) == 0
    argv = ["bench", str(stage.artifact), str(finder), "--target", "android", *FEW, "--pipeline"]
    argv += ["--serial", stage.phone.serial, "--out", str(stage.out), "--repeat", "1"]
    argv += ["--networks-alone"]
    outcome = stage.outcome([*argv, "--interval", "2", "--people", "3"])
    assert outcome.code == 0, outcome.lines
    (run,) = outcome.runs
    assert run.valid and run.artifact.model == "rtmdet-nano-demo+tiny"
    pipeline = run.artifact.pipeline
    assert pipeline and (pipeline.interval, pipeline.people, pipeline.whole) == (2, 3, False)
    assert run.parity and "68 keypoints" in run.parity.summary and "boxes" in run.parity.summary
    # Three pairs of frames, of which the first of each has the detector in it.
    assert len(run.samples_ns) == 3
    with_detector, without = (run.settings[f"{k}_frame_ms"] for k in ("detector", "other"))
    assert isinstance(with_detector, float) and isinstance(without, float)
    assert with_detector > 5 * without > 0
    assert run.summary.min_ms and run.summary.max_ms
    assert run.summary.min_ms <= (with_detector + without) / 2 <= run.summary.max_ms
    alone = stage.outcome([*argv[:1], *argv[2:]])
    assert alone.code == 1 and "one pose model and one detector" in alone.error


# --- runs that do not count -----------------------------------------------------------------------


def rejected(stage: Stage, reason: str, *more: str) -> None:
    """The run is stored as INVALID for this reason; on a phone that counts, the bench fails."""
    stage.phone.knobs.set_property("ro.kernel.qemu", "0")
    outcome = stage.bench(*more)
    (run,) = outcome.runs
    assert (run.emulated, run.valid) == (False, False)
    assert any(re.search(reason, text) for text in run.reasons), run.reasons
    assert outcome.code == 1
    assert "no valid run" in outcome.error and re.search(reason, outcome.error)


def test_it_gets_hot_in_a_run(stage: Stage) -> None:
    stage.when_measuring(lambda: stage.phone.knobs.thermal(2), after_s=0.2)
    rejected(stage, r"thermal status rose from 0 \(none\) to 2 \(moderate\)", "--min-seconds", "1")


@pytest.mark.slow
def test_it_is_hot_in_between_only(stage: Stage) -> None:
    thermal = stage.phone.knobs.thermal
    stage.when_measuring(lambda: thermal(3), after_s=0.2)
    stage.when_measuring(lambda: thermal(0), after_s=2.2)
    rejected(stage, r"thermal status rose from 0 \(none\) to 3 \(severe\)", "--min-seconds", "3")


def test_its_clocks_are_capped_in_a_run(stage: Stage) -> None:
    stage.when_measuring(lambda: stage.phone.knobs.clock_limits(0.85), after_s=0.2)
    rejected(
        stage, r"the limit of cpu0's clock fell from 1805 MHz to 1534 MHz", "--min-seconds", "1"
    )


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (lambda stage: stage.phone.knobs.battery_saver(), "battery saver is on: switch it off"),
        (lambda stage: stage.phone.knobs.battery(level=20), "holds 20 %, .* 50 %: charge it"),
        (lambda stage: stage.phone.knobs.battery(powered=False), "not powered: plug it in"),
    ],
    ids=["saver", "empty", "unplugged"],
)
def test_its_battery(stage: Stage, turn: Callable[[Stage], None], reason: str) -> None:
    turn(stage)
    rejected(stage, reason)


def test_a_mask_that_cannot_be_had(stage: Stage) -> None:
    outcome = stage.bench("--cpu-mask", "8000000000000000")
    assert outcome.code == 1 and not outcome.runs
    assert stage.phone.serial in outcome.error
    assert "the CPU mask does not hold" in outcome.error and "the CPUs at hand are" in outcome.error


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU: every mask holds")
def test_a_mask_that_did_not_hold(stage: Stage) -> None:
    stage.when_measuring(lambda: take_mask_away(stage.phone), after_s=0.1)
    rejected(stage, "mask 1 did not hold", "--min-seconds", "2")


def test_outputs_that_are_not_finite(stage: Stage, studio: Studio) -> None:
    huge = converted(overflowing_model(), "huge", studio.models, "--keep-failed")
    refused = stage.bench(artifacts=(huge,))
    assert refused.code == 1 and "--allow-failed" in refused.error
    outcome = stage.bench("--allow-failed", "--inference-precision", "fp16", artifacts=(huge,))
    (run,) = outcome.runs
    assert not run.valid and run.parity and not run.parity.passed
    assert any("not finite" in reason for reason in run.reasons)
    assert outcome.code == 1
    assert f"huge-ncnn-fp16 on adb {stage.phone.serial}: FAIL" in outcome.error


def test_answers_that_are_not_the_reference_s(stage: Stage) -> None:
    def damage() -> None:
        for path in stage.on_device("artifacts/*/tiny.bin"):
            # After the mark of its type: the first layer's weights.
            data = bytearray(path.read_bytes())
            data[4:4000] = bytes(3996)
            path.write_bytes(data)

    stage.phone.on_command(ANSWERING, damage)
    outcome = stage.bench()
    assert len(outcome.runs) == 1, outcome.lines
    (run,) = outcome.runs
    assert run.emulated and not run.valid and run.parity and not run.parity.passed
    assert any("not in parity" in reason for reason in run.reasons)
    assert outcome.code == 1
    assert f"tiny-ncnn-fp16 on adb {stage.phone.serial}: FAIL" in outcome.error
    # The next bench brings what is not as it was pushed, and that alone.
    stage.phone.commands.clear()
    assert stage.bench().code == 0
    moved = re.findall(PUSHED, "\n".join(stage.phone.commands))
    assert len(moved) == 1 and moved[0].endswith("tiny.bin")
