"""`edge bench --target raspberry-pi` from end to end, over a real sshd.

The happy way is walked on an emulated arm64 board. Faults are tried on a board of this machine's
own architecture, which is quick and does not count as emulated, so that verdicts decide the exit
code; in the long suite on the arm64 one as well.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edge.artifact import load_artifact
from edge.cli import main
from targets.result import EMULATED
from targets.runners.native import session as native_session
from targets.transports.ssh import SshTransport
from targets.transports.ssh_login import PASSWORD_VARIABLE
from tests.conftest import tiny_simcc_model
from tests.stand_ins.arm_userland import arm_userland
from tests.stand_ins.bench_board import (
    ANSWERING,
    LINE_CHARS,
    LONG,
    MEASURING,
    Board,
    at_rest,
    login_as,
    native_runner,
    on_command,
)
from tests.stand_ins.bench_phone import Outcome, converted, wait_until
from tests.stand_ins.ssh_server import PASSWORD, RASPBERRY_PI_5, SshServer, make_key, ssh_server

pytest.importorskip("onnx")
pytest.importorskip("ncnn")
if find_spec("pnnx") is None:  # importing it would need PyTorch
    pytest.skip("pnnx is not installed", allow_module_level=True)

pytestmark = [pytest.mark.long, pytest.mark.alone]

PI = ("--target", "raspberry-pi")
HERE = """
description = "a Raspberry Pi of another architecture"
kind = "raspberry-pi"
transport = "ssh"
arch = "x86_64"
variants = ["ncnn-fp16"]
"""
MODEL = {"/proc/device-tree/model": RASPBERRY_PI_5["/proc/device-tree/model"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def artifact(models: Path) -> Path:
    return converted(tiny_simcc_model(scale_norm=True, keypoints=5), "tiny", models)


@pytest.fixture(scope="module")
def pictures(models: Path) -> Path:
    """A folder with one picture: each is a process on the board."""
    assert main(["synthetic", "--out", str(models / "one"), "--count", "1", "--crops"]) == 0
    return models / "one"


@contextmanager
def served(folder: Path, userland: Path | None, **options: Any) -> Iterator[SshServer]:
    with (
        ssh_server(folder / "server", userland=userland, **options) as server,
        login_as(folder / "user", server),
    ):
        yield server


@pytest.fixture(scope="module")
def emulated(
    artifact: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SshServer]:
    """An arm64 board that says of itself that it is emulated."""
    del artifact, pictures
    native_runner("aarch64", build=True)
    with served(tmp_path_factory.mktemp("emulated"), arm_userland(), files=MODEL) as server:
        yield server


BOARDS = ["native", pytest.param("arm64", marks=pytest.mark.slow)]
# What happens on a board that is emulated is no matter of verdicts.
counts = pytest.mark.parametrize("place", ["native"], indirect=True)


@pytest.fixture(scope="module", params=BOARDS)
def place(
    request: pytest.FixtureRequest,
    artifact: Path,
    pictures: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[SshServer, tuple[str, ...]]]:
    """A board and the options that name its profile."""
    del artifact, pictures
    folder = tmp_path_factory.mktemp("place")
    if request.param == "arm64":
        native_runner("aarch64", build=True)
        with served(folder, arm_userland()) as server:
            yield server, PI
        return
    native_runner("x86_64", build=False)
    if shutil.which("proot") is None:
        pytest.skip("a board's files need proot (apt-get install proot)")
    profile = folder / "pi.toml"
    profile.write_text(HERE)
    with served(folder, Path("/")) as server:
        yield server, ("--profile", str(profile))


@pytest.fixture
def board(
    place: tuple[SshServer, tuple[str, ...]],
    artifact: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Board]:
    server, target = place
    with at_rest(Board(server, target, artifact, pictures, tmp_path / "build", capsys)) as board:
        yield board


# --- what goes well -------------------------------------------------------------------------------


def test_from_a_board_to_figures(
    emulated: SshServer,
    artifact: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Looking for devices would start an adb server, which would outlive the test.
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    monkeypatch.setenv("ADB", "no-such-adb")
    board = Board(emulated, PI, artifact, pictures, tmp_path / "build", capsys)
    with at_rest(board):
        first = board.bench("--repeat", "2")
        assert first.code == 0, first.lines
        assert EMULATED in first.lines[0] and "Raspberry Pi 5 Model B Rev 1.0" in first.lines[0]
        pushed = board.pushed()
        runner, *files = sorted(pushed, reverse=True)
        assert runner.startswith("runner/edgepose-runner-aarch64-")
        assert {Path(name).name for name in files} == {"artifact.json", "tiny.bin", "tiny.param"}
        for run in first.runs:
            assert (run.emulated, run.transport, run.target) == (True, "ssh", "raspberry-pi-5")
            assert (run.device.name, run.device.arch) == (board.name, "aarch64")
            assert (run.inference_precision, run.threads, run.affinity) == ("fp16", 1, "1")
            assert run.parity and run.parity.passed and "5 keypoints" in run.parity.summary
            assert len(run.samples_ns) == 3 and run.engine.startswith("ncnn ")
            for state in (run.state_before, run.state_after):
                assert state and state.temperatures_c == {"soc": 48.3}
                assert (state.clocks_khz, state.throttle_bits) == ({"arm": 2400033}, 0)
        assert {run.settings["repeat"] for run in first.runs} == {1, 2}

        second = board.bench()
        assert (second.code, len(second.runs), board.pushed()) == (0, 3, pushed)

        assert main(["report", str(board.out / "results")]) == 0
        table = capsys.readouterr().out
        assert EMULATED in table and "raspberry-pi-5" in table and "valid" not in table
        assert main(["devices", emulated.host, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["devices"]
        (row,) = (one for one in found if one["transport"] == "ssh" and one["asked"])
        assert (row["kind"], row["arch"], row["emulated"]) == ("raspberry-pi", "aarch64", True)
        assert "raspberry-pi-5" in row["targets"] and emulated.host in row["bench"]
        assert main(["clean", *PI, "--host", emulated.host]) == 0
        assert f"{board.name}: removed /home/pi/.cache/edgepose/device" in capsys.readouterr().out
        assert not board.work.exists()


def test_another_x86_machine_over_ssh(
    artifact: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    native_runner("x86_64", build=False)
    target = ("--target", "x86")
    with served(tmp_path, None) as server:
        board = Board(server, target, artifact, pictures, tmp_path / "build", capsys)
        with at_rest(board):
            first = board.bench()
            pushed = board.pushed()
            assert first.code == 0, first.lines
            assert any("/edgepose-runner-x86_64-" in name for name in pushed)
            (run,) = first.runs
            assert (run.emulated, run.verdict, run.transport) == (False, "valid", "ssh")
            assert (run.target, run.device.arch) == ("x86", "x86_64")
            assert run.state_before and run.state_before.throttle_bits is None
            second = board.bench("--json", "--no-cooldown")
            assert (second.code, len(second.runs)) == (0, 2), second.lines
            assert board.pushed() == pushed
            assert main(["clean", *target, "--host", server.host]) == 0
            assert not board.work.exists()


@counts
@pytest.mark.slow
def test_a_board_that_is_hot_is_waited_for(board: Board) -> None:
    """It heats up in the first run and cools down while the second one waits."""

    def heat() -> None:
        board.firmware("measure_temp", "temp=71.0'C\n")

    def cool() -> None:
        wait_until(lambda: list(board.out.glob("results/*.json")), "no first run")
        time.sleep(2.0)
        board.firmware("measure_temp", "temp=49.9'C\n")

    cooling = threading.Thread(target=cool)
    cooling.start()
    with board.when_measuring(heat):
        done = board.bench("--repeat", "2", "--min-seconds", "1")
    cooling.join()
    assert len(done.runs) == 2, done.lines
    assert any("cooling down: soc 71.0 C, 22.7 C above the start" in line for line in done.lines)
    assert done.runs[1].state_before
    assert done.runs[1].state_before.temperatures_c == {"soc": 49.9}


# --- runs that do not count -----------------------------------------------------------------------


@counts
def test_a_board_that_slows_down_in_mid_run(board: Board) -> None:
    def slow() -> None:
        board.firmware("get_throttled", "throttled=0x50005\n")
        board.firmware("measure_clock", "frequency(0)=1500000000\n")

    with board.when_measuring(lambda: threading.Timer(2.0, slow).start()):
        done = board.bench("--min-seconds", "5")
    assert done.code == 1
    (run,) = done.runs
    assert (run.valid, run.verdict) == (False, "INVALID")
    for reason in (
        "a throttle bit appeared: under-voltage, throttled, ",
        "the clock of arm fell from 2400 MHz to 1500 MHz",
    ):
        assert any(one.startswith(reason) for one in run.reasons), run.reasons
        assert "tiny" in done.error and "no valid run: " in done.error and reason in done.error
    # Each of its samples is there: an invalid run is kept and shown.
    assert len(run.samples_ns) > 3 and len(run.state_series) > 2
    assert run.state_before and run.state_before.throttle_bits == 0
    assert run.state_after and run.state_after.throttle_bits == 0x50005
    assert main(["report", str(board.out / "results")]) == 0
    assert "INVALID" in board.capture.readouterr().out


@counts
def test_answers_that_differ_there(board: Board) -> None:
    """What the board holds is what was pushed, and it computes something else."""

    def damage() -> None:
        (weights,) = board.work.glob("artifacts/*/tiny.bin")
        data = bytearray(weights.read_bytes())
        # The signs of some weights of the first convolution, halves of two bytes.
        for index in range(1001, 3001, 2):
            data[index] ^= 0x80
        weights.write_bytes(data)

    with on_command(ANSWERING, damage):
        done = board.bench()
    assert done.code == 1
    (run,) = done.runs
    assert run.parity and not run.parity.passed
    assert run.reasons == ("its answers on the device are not in parity with the reference",)
    assert re.search(r"FAIL: .* px; .* off \(limit", run.parity.summary)
    assert "not in parity" in done.error


# --- what breaks off ------------------------------------------------------------------------------


def told(board: Board, done: Outcome, what: str) -> str:
    """The one line of a bench that brought nothing: it names the board and fits on a screen."""
    assert done.code == 1 and not done.runs
    assert board.name in done.error and re.search(what, done.error), done.error
    assert len(done.error) < LINE_CHARS, done.error
    return done.error


def test_the_connection_breaks_in_the_push(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(board.work, ignore_errors=True)
    push = SshTransport.push

    def breaking(transport: SshTransport, local: Path, remote: str, **options: Any) -> None:
        def cut(done: int, _: int) -> None:
            if 1_000_000 < done < 1_500_000:
                board.server.cut()

        push(transport, local, remote, **options | {"on_progress": cut})

    with monkeypatch.context() as patch:
        patch.setattr(SshTransport, "push", breaking)
        told(board, board.bench(), "pushing edgepose-runner-.* failed: the connection was lost")
    assert not any("runner" in name for name in board.pushed())
    assert board.bench().code == 0


def test_the_connection_breaks_in_a_run(board: Board) -> None:
    with board.when_measuring(board.server.cut):
        done = board.bench(*LONG)
    told(board, done, "the connection was lost while .*; it was ended")
    assert not board.runners()


def test_the_board_reboots_in_a_run(board: Board) -> None:
    server = board.server

    def reboot() -> None:
        server.stop()
        for pid in server.running(""):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    try:
        with board.when_measuring(reboot):
            done = board.bench(*LONG)
    finally:
        server.start()
    told(board, done, "the connection was lost while ")
    # The call's scratch files are in the working folder, which goes as a whole.
    assert main(["clean", *board.target, "--host", server.host]) == 0
    assert not board.work.exists()


def test_no_room_on_the_board(board: Board) -> None:
    with moved_away(board.server.home / ".cache") as cache:
        cache.symlink_to("/home/pi/small")
        told(board, board.bench(), "no room is left in /home/pi/.cache/edgepose/device/runner")
        cache.unlink()
    # Seen from here that folder is another one.
    left = board.asked("find", "/home/pi/small", "-type", "f")
    assert not [name for name in left if "runner" in name], left


def test_no_permission_on_the_working_folder(board: Board) -> None:
    with moved_away(board.server.home / ".cache") as cache:
        cache.mkdir(mode=0o755)
        told(board, board.bench(), "pushing .*/.cache/edgepose/.* failed: Permission denied")
        cache.rmdir()


@contextmanager
def moved_away(path: Path) -> Iterator[Path]:
    """A path where nothing is; what was there comes back."""
    aside = path.with_name("aside")
    if path.exists():
        path.rename(aside)
    yield path
    if aside.exists():
        aside.rename(path)


def test_the_runner_is_killed(board: Board) -> None:
    def kill() -> None:
        for pid in board.runners(MEASURING):
            os.kill(pid, signal.SIGKILL)

    with board.when_measuring(kill):
        done = board.bench(*LONG)
    told(board, done, "the runner was killed, as the kernel does when memory runs out")


def test_the_runner_hangs(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_session, "_START_S", 2.0)
    with on_command(MEASURING, lambda: wrap(board, "exec sleep 4321")):
        done = board.bench("--min-seconds", "1", "--max-seconds", "1")
    unwrap(board)
    told(board, done, "did not end within 4 s; it was ended")
    assert not board.server.running("sleep 4321")


@pytest.mark.parametrize(
    "script",
    [
        'echo "debug: 3 threads"; exec "$0.real" "$@"',
        pytest.param('"$0.real" "$@" | head -c 100', marks=pytest.mark.slow),
        pytest.param("exit 0", marks=pytest.mark.slow),
    ],
    ids=["noise", "half a line", "nothing"],
)
def test_garbage_on_stdout(board: Board, script: str) -> None:
    with on_command(MEASURING, lambda: wrap(board, script)):
        done = board.bench()
    unwrap(board)
    told(board, done, "is not its one line of JSON")


def wrap(board: Board, script: str) -> None:
    """A script in the runner's place."""
    (runner,) = board.work.glob("runner/*")
    runner.rename(f"{runner}.real")
    runner.write_text(f"#!/bin/sh\n{script}\n")
    runner.chmod(0o755)


def unwrap(board: Board) -> None:
    for real in board.work.glob("runner/*.real"):
        real.replace(real.with_suffix(""))


@pytest.fixture(scope="module")
def other(models: Path) -> Path:
    return converted(tiny_simcc_model(scale_norm=True, keypoints=5), "other", models)


@pytest.mark.parametrize(
    "when",
    [pytest.param(ANSWERING, marks=pytest.mark.slow), MEASURING],
    ids=["compared", "timed"],
)
def test_a_variant_that_fails_leaves_the_others(board: Board, other: Path, when: str) -> None:
    script = (
        f'case "$*" in *artifacts/{load_artifact(board.artifact).key[:16]}*"{when}"*) '
        'echo "edgepose-runner: no such layer" >&2; exit 3;; esac; exec "$0.real" "$@"'
    )
    with on_command(when, lambda: wrap(board, script)):
        done = board.bench("--repeat", "2", artifacts=(board.artifact, other))
    unwrap(board)
    assert done.code == 1
    assert re.match(r"edge: tiny(-| as )ncnn-fp16: ", done.error)
    assert board.name in done.error and "no such layer" in done.error
    assert [run.artifact.model for run in done.runs] == ["other", "other"]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_signals_end_everything(board: Board, number: signal.Signals) -> None:
    with board.process(*LONG) as process:
        wait_until(lambda: board.runners(MEASURING), "no run", 90)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == (129 if number == signal.SIGHUP else 130), errors
    assert "Traceback" not in errors
    assert not board.runners() and not board.runs()


# --- who is not let in, or is not what was meant --------------------------------------------------


@pytest.fixture
def stranger(
    tmp_path: Path, artifact: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Board]:
    """A machine on the network that is no Raspberry Pi."""
    with served(tmp_path, None) as server:
        yield Board(server, PI, artifact, pictures, tmp_path / "build", capsys)


def test_an_unknown_host_key(stranger: Board, tmp_path: Path) -> None:
    (tmp_path / "user/.ssh/known_hosts").unlink()
    line = told(stranger, stranger.bench(), "its host key is not known: ssh-ed25519 SHA256:")
    accept = line.partition("accept it with: ")[2]
    assert accept == f"ssh -p {stranger.server.port} pi@127.0.0.1 exit"


def test_a_host_key_that_changed(stranger: Board, tmp_path: Path) -> None:
    server = stranger.server
    server.stop()
    make_key(server.folder / "host_key")
    server.start()
    line = told(stranger, stranger.bench(), "ITS HOST KEY HAS CHANGED")
    known = tmp_path / "user/.ssh/known_hosts"
    assert f"ssh-keygen -f {known} -R '[127.0.0.1]:{server.port}' && ssh -p " in line


def test_a_wrong_password(stranger: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user/.ssh/config").unlink()
    told(stranger, stranger.bench(), rf"ssh-copy-id .*, or set {PASSWORD_VARIABLE}")
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    told(stranger, stranger.bench(), f"the password in {PASSWORD_VARIABLE} is wrong for pi")
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    told(stranger, stranger.bench(), "its kind is linux, but target raspberry-pi-5 is for raspb")


def test_a_machine_that_is_off(stranger: Board) -> None:
    stranger.server.stop()
    told(stranger, stranger.bench(), r"port \d+ is closed: is its SSH server running\?")


def test_a_login_shell_that_greets(
    tmp_path: Path, artifact: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    greeting = 'ForceCommand echo Welcome; exec sh -c "$SSH_ORIGINAL_COMMAND"'
    with served(tmp_path, None, config=greeting) as server:
        board = Board(server, PI, artifact, pictures, tmp_path / "build", capsys)
        told(
            board, board.bench(), r"it said 'Welcome\\n/home/pi'\): it must be a POSIX shell whose"
        )


@pytest.mark.parametrize("arch", ["armv7l", "riscv64"])
def test_another_architecture_than_the_profile_s(board: Board, arch: str) -> None:
    """A 32-bit system on a Raspberry Pi, and something else altogether."""
    board.program("uname", f"echo {arch}")
    try:
        done = board.bench()
    finally:
        (board.server.programs / "uname").unlink()
    told(board, done, rf"its architecture is {arch}, but target \S+ is for (aarch64|x86_64)")


def test_what_cannot_be_is_refused_before_anything_is_sent(stranger: Board) -> None:
    for option, what in (
        (
            ("--lock-clocks",),
            "--lock-clocks is for a Jetson, target raspberry-pi-5 is",
        ),
        (("--min-count", "0"), "'min_count' must be a whole number from 1"),
        (("--mode", "sustained"), "measures for 60 s or more"),
        (("--serial", "1a2b"), "has no serial number, only phones do"),
    ):
        done = stranger.bench(*option)
        assert done.code == 1 and what in done.error
        assert len(done.lines) == 1
    assert "Accepted" not in stranger.server.log.read_text()


def test_a_32_bit_userland_on_a_64_bit_kernel(board: Board) -> None:
    """The runner is static and needs nothing of it."""
    board.program("getconf", "echo 32")
    try:
        done = board.bench()
    finally:
        (board.server.programs / "getconf").unlink()
    assert done.code == 0 and len(done.runs) == 1
