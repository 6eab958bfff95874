"""`edge bench --target android` from end to end, over the real adb to a phone that is played.

The native runner for aarch64 runs there under QEMU. The phone says itself that it is emulated;
where a verdict decides the exit code, it is told to say otherwise.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from edge.cli import main
from edge.errors import ToolError
from targets import native_session
from targets.ncnn_source import cache_folder
from targets.result import EMULATED
from targets.runner_build import find_runner
from tests.adb_device import NEW_ANDROID, OLD_ANDROID, StandInPhone, adb, connected, own_adb_server
from tests.bench_phone import (
    ANSWERING,
    FEW,
    LONG,
    MEASURING,
    STAY_ON,
    WORK,
    Stage,
    allow_every_cpu,
    converted,
    needs_phone,
    overflowing_model,
    runners_on,
    running_on,
    staged,
    wait_until,
)
from tests.conftest import tiny_simcc_model

pytest.importorskip("onnx")
pytest.importorskip("ncnn")
if find_spec("pnnx") is None:  # importing it would need PyTorch
    pytest.skip("pnnx is not installed", allow_module_level=True)


# Of the files that stay: the others go with each call.
PUSHED = rf"mv -f \S*{WORK}/((?:runner|artifacts)/\S+)\.part"


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An adb server, and the runner in the cache although HOME is another."""
    needs_phone()
    try:
        find_runner("aarch64")
    except ToolError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPOSE_CACHE", str(cache_folder()))
        patch.setenv("OMP_NUM_THREADS", "1")
        with own_adb_server(tmp_path_factory.mktemp("home")):
            adb("start-server")  # its log is none of a bench's files
            yield


@pytest.fixture(scope="module")
def root(server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    return tmp_path_factory.mktemp("phone")


@pytest.fixture(scope="module")
def models(server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def artifact(models: Path) -> Path:
    return converted(tiny_simcc_model(scale_norm=True), "tiny", models)


@pytest.fixture(scope="module")
def pictures(models: Path) -> Path:
    """A folder with one picture: each is a process on the phone."""
    assert main(["synthetic", "--out", str(models / "one"), "--count", "1", "--crops"]) == 0
    return models / "one"


@pytest.fixture
def stage(
    root: Path, artifact: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Stage]:
    with staged(root, artifact, pictures, tmp_path, capsys) as stage:
        yield stage


# --- what goes well -------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [NEW_ANDROID, OLD_ANDROID], ids=["new", "old"])
def test_from_a_phone_to_figures(
    features: tuple[str, ...], tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    onnx.save(tiny_simcc_model(scale_norm=True), str(tmp_path / "tiny.onnx"))
    with staged(tmp_path / "phone", tmp_path, pictures, tmp_path, capsys, features) as stage:
        knobs, out = stage.phone.knobs, ["--out", str(stage.out)]
        seen: list[tuple[str | None, str | None]] = []
        stage.when_measuring(
            lambda: seen.append((knobs.setting("global", STAY_ON), knobs.fixed_performance))
        )
        argv = ["bench", "--target", "android", "--model", str(tmp_path / "tiny.onnx"), *FEW, *out]
        argv += ["--images", str(pictures), "--repeat", "2"]
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
                assert state.battery and state.battery.level_percent == 85
                assert (state.thermal_status, state.temperatures_c["CPU4"]) == (0, 38.0)
                assert (state.governors["cpu7"], state.max_clocks_khz["cpu7"]) == (
                    "schedutil",
                    2_841_600,
                )
        assert sorted(run.settings["repeat"] for run in first.runs) == [1, 2]

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


# --- devices that are not there, or not ready -----------------------------------------------------


def test_several_phones_need_a_serial(stage: Stage, root: Path) -> None:
    with connected(StandInPhone(root)) as other:
        argv = stage.argv()
        at = argv.index("--serial")
        outcome = stage.outcome(argv[:at] + argv[at + 2 :])
        assert outcome.code == 1 and not outcome.runs
        assert "several devices, name one with" in outcome.error
        assert stage.phone.serial in outcome.error and other.serial in outcome.error
        # It can be pasted.
        assert f"--serial {other.serial}" in outcome.error or "SERIAL=" in outcome.error


def test_a_phone_that_has_not_authorised_us(stage: Stage, root: Path) -> None:
    with connected(StandInPhone(root, state="unauthorized")) as phone:
        wait_until(lambda: "unauthorized" in adb("devices"), "never listed")
        outcome = stage.bench("--serial", phone.serial)
    assert outcome.code == 1 and not outcome.runs
    assert phone.serial in outcome.error and "unlock its screen and accept" in outcome.error


def test_a_phone_that_does_not_answer(stage: Stage, root: Path) -> None:
    with ExitStack() as stack:
        phone = StandInPhone(root, state="silent").start()
        stack.callback(phone.stop)
        client = subprocess.Popen(
            ["adb", "connect", phone.serial], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(adb, "disconnect", phone.serial)
        stack.callback(client.wait)
        stack.callback(client.terminate)
        wait_until(lambda: phone.serial in adb("devices"), "never listed")
        outcome = stage.bench("--serial", phone.serial)
    assert outcome.code == 1 and not outcome.runs
    assert re.search(rf"adb {phone.serial} .*(adb connect|repeat)", outcome.error)


# --- what breaks on the way -----------------------------------------------------------------------


def test_the_cable_is_pulled_in_the_push(stage: Stage) -> None:
    for path in stage.on_device("runner/*"):
        path.unlink()
    stage.phone.cut_push_after = 1_000_000
    outcome = stage.bench()
    assert outcome.code == 1 and not outcome.runs
    assert re.search(
        rf"adb {stage.phone.serial}: disconnected during pushing .*check its cable", outcome.error
    )
    wait_until(lambda: not stage.on_device("runner/*"), "half a runner was left")
    stage.reconnect()
    assert stage.bench().code == 0


@pytest.mark.parametrize("how", ["cable", "reboot"])
def test_the_phone_goes_away_in_a_run(stage: Stage, how: str) -> None:
    phone = stage.phone
    goes = phone.pull_cable if how == "cable" else lambda: phone.reboot(away_s=0.2)
    stage.when_measuring(goes, after_s=0.5)
    outcome = stage.bench(*LONG)
    assert outcome.code == 1 and not outcome.runs
    assert f"adb {phone.serial}" in outcome.error and "check its cable" in outcome.error
    assert len(outcome.error) < 500
    wait_until(lambda: not runners_on(phone), "the runner was left running")
    if how == "cable":
        assert not running_on(phone)
    # What could not be put back is said, and the commands do it.
    assert phone.knobs.setting("global", STAY_ON) == "7"
    wait_until(lambda: phone.is_plugged_in or how == "cable", "it did not come back")
    stage.reconnect()
    assert stage.put_back_as_told(outcome.lines) == 2
    assert phone.knobs.setting("global", STAY_ON) == "1"
    # The call's scratch files are in the working folder, which goes as a whole.
    assert main(["clean", "--target", "android", "--serial", phone.serial]) == 0
    assert not list((phone.root / "data/local/tmp").iterdir())


def test_the_phone_s_disk_is_full(stage: Stage) -> None:
    for path in stage.on_device("artifacts/*/*"):
        path.unlink()
    stage.phone.knobs.disk_full_after(1000)
    outcome = stage.bench()
    assert outcome.code == 1 and not outcome.runs
    assert stage.phone.serial in outcome.error and "free some space on the device" in outcome.error


def kill_runner(stage: Stage) -> None:
    for pid in runners_on(stage.phone):
        os.kill(pid, signal.SIGKILL)


def stop_runner(stage: Stage) -> None:
    for pid in runners_on(stage.phone):
        os.kill(pid, signal.SIGSTOP)


def test_the_runner_is_killed(stage: Stage) -> None:
    stage.when_measuring(lambda: kill_runner(stage), after_s=0.5)
    outcome = stage.bench(*LONG)
    assert outcome.code == 1 and not outcome.runs
    assert f"adb {stage.phone.serial}: the runner was killed" in outcome.error
    assert "memory" in outcome.error


def test_the_runner_hangs(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_session, "_START_S", 1.0)
    stage.when_measuring(lambda: stop_runner(stage), after_s=0.3)
    outcome = stage.bench("--min-seconds", "1", "--max-seconds", "1")
    assert outcome.code == 1 and not outcome.runs
    assert stage.phone.serial in outcome.error
    assert "did not end within 3 s and was ended" in outcome.error


def test_the_runner_may_not_be_executed(stage: Stage) -> None:
    def forbid() -> None:
        for path in stage.on_device("runner/*"):
            path.chmod(0o644)

    stage.phone.on_command(ANSWERING, forbid)
    outcome = stage.bench()
    assert outcome.code == 1 and not outcome.runs
    assert stage.phone.serial in outcome.error and "noexec" in outcome.error
    # The next one mends what only its rights were wrong of.
    stage.phone.commands.clear()
    assert stage.bench().code == 0
    assert not any("runner.part" in line for line in stage.phone.commands)


@pytest.mark.parametrize(
    "script",
    ['echo "debug: 3 threads"; exec "$0.real" "$@"', '"$0.real" "$@" | head -c 100', "exit 0"],
    ids=["noise", "half a line", "nothing"],
)
def test_garbage_on_stdout(stage: Stage, script: str) -> None:
    (runner,) = stage.on_device("runner/*")

    def wrap() -> None:
        runner.rename(f"{runner}.real")
        runner.write_text(f"#!/system/bin/sh\n{script}\n")
        runner.chmod(0o755)

    stage.when_measuring(wrap)
    try:
        outcome = stage.bench()
    finally:
        Path(f"{runner}.real").replace(runner)
    assert outcome.code == 1 and not outcome.runs
    assert stage.phone.serial in outcome.error and "not its one line of JSON" in outcome.error
    assert len(outcome.error) < 500


@pytest.mark.parametrize("when", [ANSWERING, MEASURING], ids=["compared", "timed"])
def test_a_variant_that_fails_leaves_the_others(stage: Stage, models: Path, when: str) -> None:
    other = converted(tiny_simcc_model(scale_norm=True), "other", models)
    (runner,) = stage.on_device("runner/*")

    def fail_once() -> None:
        runner.rename(f"{runner}.real")
        script = 'mv "$0.real" "$0"; echo "edgepose-runner: no such layer" >&2; exit 3'
        runner.write_text(f"#!/system/bin/sh\n{script}\n")
        runner.chmod(0o755)

    for path in (runner, runner.parent):
        os.chown(path, 2000, 2000)
    stage.phone.on_command(when, fail_once)
    outcome = stage.bench("--repeat", "2", artifacts=(stage.artifact, other))
    assert outcome.code == 1
    assert re.match(r"edge: tiny(-| as )ncnn-fp16: ", outcome.error)
    assert stage.phone.serial in outcome.error and "no such layer" in outcome.error
    assert [run.artifact.model for run in outcome.runs] == ["other", "other"]
    assert all(run.parity and run.parity.passed for run in outcome.runs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_everything(stage: Stage, number: signal.Signals) -> None:
    with stage.process(*LONG) as process:
        wait_until(lambda: any(MEASURING in line for line in stage.phone.commands), "no run", 60)
        wait_until(lambda: runners_on(stage.phone), "no runner")
        assert stage.phone.knobs.setting("global", STAY_ON) == "7"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == (129 if number == signal.SIGHUP else 130), errors
    assert "Traceback" not in errors and "could not be put back" not in errors
    assert not runners_on(stage.phone)
    assert not stage.runs()


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


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU: every mask holds")
def test_a_mask_that_did_not_hold(stage: Stage) -> None:
    stage.when_measuring(lambda: allow_every_cpu(runners_on(stage.phone)), after_s=0.4)
    rejected(stage, "mask 1 did not hold", "--min-seconds", "1")


def test_outputs_that_are_not_finite(stage: Stage, models: Path) -> None:
    huge = converted(overflowing_model(), "huge", models, "--keep-failed")
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
