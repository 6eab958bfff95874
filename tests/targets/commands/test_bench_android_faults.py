"""What can break in `edge bench --target android`: one clear line each, and nothing stays behind.

That nothing runs on, no setting stays changed and no half of a file lies about, on either side, is
looked at after every test (`tests.stand_ins.bench_phone`).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from edge.cli import main
from targets.runners.native import session as native_session
from tests.stand_ins.adb_device import StandInPhone, adb, connected
from tests.stand_ins.bench_phone import (
    ANSWERING,
    LONG,
    MEASURING,
    STAY_ON,
    Stage,
    Studio,
    open_studio,
    runners_on,
    running_on,
    signal_runner,
    wait_until,
)

pytest.importorskip("onnx")
pytest.importorskip("ncnn")
if find_spec("pnnx") is None:  # importing it would need PyTorch
    pytest.skip("pnnx is not installed", allow_module_level=True)

pytestmark = [pytest.mark.long, pytest.mark.alone]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with open_studio(tmp_path_factory.mktemp) as studio:
        yield studio


@pytest.fixture
def stage(studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Stage]:
    with studio.stage(tmp_path, capsys) as stage:
        yield stage


# --- devices that are not there, or not ready -----------------------------------------------------


def test_several_phones_need_a_serial(stage: Stage, studio: Studio) -> None:
    with connected(StandInPhone(studio.root)) as other:
        argv = stage.argv()
        at = argv.index("--serial")
        outcome = stage.outcome(argv[:at] + argv[at + 2 :])
        assert outcome.code == 1 and not outcome.runs
        assert "several devices, name one with" in outcome.error
        assert stage.phone.serial in outcome.error and other.serial in outcome.error
        # It can be pasted.
        assert f"--serial {other.serial}" in outcome.error or "SERIAL=" in outcome.error


def test_a_phone_that_has_not_authorised_us(stage: Stage, studio: Studio) -> None:
    with connected(StandInPhone(studio.root, state="unauthorized")) as phone:
        wait_until(lambda: "unauthorized" in adb("devices"), "never listed")
        outcome = stage.bench("--serial", phone.serial)
    assert outcome.code == 1 and not outcome.runs
    assert phone.serial in outcome.error and "unlock its screen and accept" in outcome.error


def test_a_phone_that_does_not_answer(stage: Stage, studio: Studio) -> None:
    with ExitStack() as stack:
        phone = StandInPhone(studio.root, state="silent").start()
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


def test_runs_before_the_phone_went_are_told(stage: Stage, studio: Studio) -> None:
    other, pull = studio.another("other"), stage.phone.pull_cable
    stage.when_measuring(lambda: stage.when_measuring(pull, after_s=0.3))
    outcome = stage.bench("--min-seconds", "1", artifacts=(stage.artifact, other))
    assert outcome.code == 1 and "disconnected" in outcome.error
    assert [run.artifact.model for run in outcome.runs] == ["tiny"]
    assert "tiny" in outcome.output and "other" not in outcome.output
    stage.reconnect()
    assert stage.put_back_as_told(outcome.lines) == 2
    assert main(["clean", "--target", "android", "--serial", stage.phone.serial]) == 0


def test_the_phone_s_disk_is_full(stage: Stage) -> None:
    for path in stage.on_device("artifacts/*/*"):
        path.unlink()
    stage.phone.knobs.disk_full_after(1000)
    outcome = stage.bench()
    assert outcome.code == 1 and not outcome.runs
    assert stage.phone.serial in outcome.error and "free some space on the device" in outcome.error


def test_the_runner_is_killed(stage: Stage) -> None:
    stage.when_measuring(lambda: signal_runner(stage.phone, signal.SIGKILL), after_s=0.1)
    outcome = stage.bench(*LONG)
    assert outcome.code == 1 and not outcome.runs
    assert f"adb {stage.phone.serial}: the runner was killed" in outcome.error
    assert "memory" in outcome.error


def test_the_runner_hangs(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_session, "_START_S", 0.5)
    stage.when_measuring(lambda: signal_runner(stage.phone, signal.SIGSTOP), after_s=0.1)
    outcome = stage.bench("--min-seconds", "0.5", "--max-seconds", "0.5")
    assert outcome.code == 1 and not outcome.runs
    assert stage.phone.serial in outcome.error
    assert "did not end within 1.5 s and was ended" in outcome.error


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
def test_a_variant_that_fails_leaves_the_others(stage: Stage, studio: Studio, when: str) -> None:
    other = studio.another("other")
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


def test_there_is_no_place_for_the_runs(stage: Stage) -> None:
    stage.phone.knobs.forget_calls()
    stage.out.mkdir()
    (stage.out / "results").write_text("")
    code = main(stage.argv())
    assert code == 1
    assert str(stage.out / "results") in stage.capture.readouterr().err.splitlines()[-1]
    assert stage.phone.knobs.calls() == []
    (stage.out / "results").unlink()


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
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
