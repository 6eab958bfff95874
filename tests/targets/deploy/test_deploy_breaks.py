"""Deployments over a real sshd that break off, and their service: the old version goes on."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.artifact import Artifact
from edge.errors import DeviceError, ParityError, SpecError
from targets.deploy import versions as deployed_module
from targets.deploy.deployment import deploy, roll_back
from targets.deploy.versions import open_deployments
from targets.runners.python.session import PythonSession
from targets.transports.ssh import SshTransport
from tests.stand_ins.bench_board import on_command
from tests.stand_ins.bench_phone import wait_until
from tests.stand_ins.deploy_board import (
    DeployBoard,
    compare,
    cut_in,
    make_film,
    ready_python,
)
from tests.stand_ins.python_runners import misbehaving_engine
from tests.stand_ins.ssh_server import opened

pytest.importorskip("onnx")

pytestmark = pytest.mark.long


def unasked(artifact: Artifact, session: PythonSession) -> str:
    """Compares nothing."""
    return f"{artifact.spec.name} on {session.machine}"


# --- what breaks off ------------------------------------------------------------------------------


def stays(board: DeployBoard, held: Any) -> None:
    """The version from before is current and the only one, with nothing half-made beside it."""
    assert (board.current, board.folders) == (held.name, [held.name])
    assert not [path.name for path in board.root.iterdir() if path.name.startswith(".current")]
    assert not list(board.root.rglob("*.part"))


def test_the_connection_breaks_in_the_push(
    ready: DeployBoard, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = ready.deploy(artifact)
    push = SshTransport.push

    def breaking(transport: SshTransport, local: Path, remote: str, **options: Any) -> None:
        cut = {"on_progress": lambda *_: ready.server.cut()} if remote.endswith(".onnx") else {}
        push(transport, local, remote, **options | cut)

    with monkeypatch.context() as patch:
        patch.setattr(SshTransport, "push", breaking)
        with pytest.raises(DeviceError, match=r"pushing tiny\.onnx .* the connection was lost"):
            ready.deploy(artifact)
    stays(ready, held)


def test_the_connection_breaks_in_the_installation(board: DeployBoard, artifact: Artifact) -> None:
    with ready_python(board):
        held = board.deploy(artifact)
    with cut_in(board, "-m venv"), pytest.raises(DeviceError, match="the connection was lost"):
        board.deploy(artifact)
    stays(board, held)
    assert not board.server.running("-m venv")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_the_connection_breaks_at_the_switch(
    ready: DeployBoard,
    artifact: Artifact,
    after: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it had happened it is put back; either way the board runs nothing any more."""
    held = ready.deploy(artifact)
    switched: list[str] = []
    cut = ready.server.cut

    def cutting() -> None:
        switched.append(ready.current)
        cut()

    monkeypatch.setattr(ready.server, "cut", cutting)
    with (
        cut_in(ready, "mv -fT", after=after),
        pytest.raises(DeviceError, match="the connection was lost"),
    ):
        ready.deploy(artifact)
    assert len(switched) == 1 and (switched[0] != held.name) == after
    stays(ready, held)
    assert "could not be made current" not in capsys.readouterr().out


def test_the_board_is_gone(
    ready: DeployBoard, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it holds half-made counts for nothing, and goes with a later deployment."""
    held = ready.deploy(artifact)
    capsys.readouterr()
    try:
        with (
            on_command("sync", ready.server.stop),
            pytest.raises(DeviceError, match="is its SSH server running"),
        ):
            ready.deploy(artifact)
    finally:
        ready.server.start()
    (left,) = set(ready.folders) - {held.name}
    assert f"versions/{left} may be left there, half-made" in capsys.readouterr().out
    assert ready.current == held.name
    with ready.open() as known:
        assert known.versions == (held,)
        with pytest.raises(DeviceError, match=f"version {left} is not there"):
            roll_back(known, left, print)
        # Another deployment may be at work there.
        assert known.remove_abandoned() == ()
        argv = ["find", f"{known.root}/versions", "-exec", "touch", "-d", "3 hours ago", "{}", ";"]
        assert known.transport.run(argv, timeout_s=60).returncode == 0
    later = ready.deploy(artifact)
    assert f"removed {left}, which an earlier deployment left" in capsys.readouterr().out
    assert ready.folders == [held.name, later.name]


def test_a_full_disk(board: DeployBoard, artifact: Artifact) -> None:
    """1 MiB holds a version whose environment is elsewhere, and none with its own."""
    with closing(opened(board.server)) as transport:
        for argv in (
            ["mkdir", "-p", "/home/pi/.local/share"],
            ["mkdir", "/home/pi/small/edgepose"],
            ["ln", "-s", "/home/pi/small/edgepose", "/home/pi/.local/share/edgepose"],
        ):
            assert transport.run(argv, timeout_s=60).returncode == 0
        with ready_python(board):
            deploy(open_deployments(transport), [artifact], unasked, board.options(), print)
        (held,) = open_deployments(transport).versions
        with pytest.raises(DeviceError, match="no room is left for the packages of onnx in /home"):
            deploy(open_deployments(transport), [artifact], unasked, board.options(), print)
        known = open_deployments(transport)
        assert known.current == held and known.versions == (held,)
        names = transport.run(["ls", f"{known.root}/versions"], timeout_s=60).stdout.split()
        assert names == [held.name.encode()]


def test_answers_that_differ_there(board: DeployBoard, artifact: Artifact, tmp_path: Path) -> None:
    """The board's engine answers 0 to everything; before, and where nothing was deployed yet."""
    with ready_python(board) as site:
        held = board.deploy(artifact)
        wrong = site / "onnxruntime.py"
        shutil.copy(misbehaving_engine(tmp_path / "engine") / wrong.name, wrong)
        try:
            with pytest.raises(ParityError, match="simcc_x differs on ssh "):
                board.deploy(artifact, compare)
            stays(board, held)
            board.clear()
            with pytest.raises(ParityError, match="simcc_x differs on ssh "):
                board.deploy(artifact, compare)
            assert (board.current, board.folders) == ("", [])
        finally:
            wrong.unlink()


def test_two_deployments_at_once(
    ready: DeployBoard, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one that is whole first is current; the other leaves nothing and says so."""
    held = ready.deploy(artifact)
    faster = []

    def slow(artifact: Artifact, session: PythonSession) -> str:
        faster.append(ready.deploy(artifact))
        return unasked(artifact, session)

    capsys.readouterr()
    with ready.open() as known, pytest.raises(DeviceError) as caught:
        deploy(known, [artifact], slow, ready.options(), print)
    (other,) = faster
    assert f"another deployment came first, current is {other.name}" in str(caught.value)
    assert (ready.current, ready.folders) == (other.name, [held.name, other.name])
    # The second saw the first one's folder when it began.
    assert "half-made there: another deployment is at work or" in capsys.readouterr().out


def test_a_version_that_was_removed_meanwhile(ready: DeployBoard, artifact: Artifact) -> None:
    """As by another one's --keep, after the list was read: the link never points to nothing."""
    first, second = ready.deploy(artifact), ready.deploy(artifact)
    with ready.open() as known:
        assert known.current == second
        known.remove([first.name])
        with pytest.raises(DeviceError, match=f"came first, current is {second.name} and stays"):
            roll_back(known, None, print)
        known.remove([second.name])
    assert (ready.current, ready.folders) == (second.name, [second.name])


def test_a_lock_that_is_held(ready: DeployBoard, artifact: Artifact) -> None:
    held = ready.deploy(artifact)
    with ready.open() as known:
        folder = known.root
        # By a program that never ends: the switch gives up long before its own deadline.
        hold = f"flock {folder}/lock sleep 4321 >/dev/null 2>&1 &"
        known.transport.run(["sh", "-c", hold], timeout_s=60)
        wait_until(lambda: ready.server.running("sleep 4321"), "nobody holds the lock", 10.0)
        with pytest.MonkeyPatch.context() as patch:
            quick = deployed_module._SWITCH.replace("flock -w 30", "flock -w 1")
            patch.setattr(deployed_module, "_SWITCH", quick)
            with pytest.raises(DeviceError, match=f"cannot lock {folder}: another deployment"):
                known.switch(held.name, held.name)
        for pid in ready.server.running("sleep 4321"):
            os.kill(pid, signal.SIGKILL)
        assert known.switch(held.name, held.name)
    assert ready.current == held.name


def test_a_damaged_record_is_no_version(ready: DeployBoard, artifact: Artifact) -> None:
    held, other = ready.deploy(artifact), ready.deploy(artifact)
    record = ready.root / "versions" / held.name / "deployment.json"
    for text in ("", "\0" * 300, "[]", '{"schema": 1}', '{"schema": 2, "name": "a"}'):
        record.write_text(f"{text}\n")
        with ready.open() as known:
            assert known.versions == (other,)
    with ready.open() as known, pytest.raises(DeviceError, match=f"{held.name} is not there"):
        roll_back(known, None, print)


# --- the service ----------------------------------------------------------------------------------


@pytest.fixture
def video(ready: DeployBoard) -> str:
    """A film on the board that stands for a camera."""
    return make_film(ready)


def test_a_service_follows_the_current_version(
    ready: DeployBoard, artifact: Artifact, video: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ready.deploy(artifact, camera=video)
    assert first.camera == video
    assert ready.serving == first.name
    assert ready.calls == ["show --property=Version", "daemon-reload", "enable edgepose.service",
                           "restart edgepose.service", "is-active edgepose.service"]  # fmt: skip
    unit = (ready.server.home / ".config/systemd/user/edgepose.service").read_text()
    assert "\nExecStart=%h/.local/share/edgepose/current/serve\n" in unit
    second = ready.deploy(artifact, camera=video)
    assert ready.serving == ready.current == second.name
    with ready.open() as known:
        assert roll_back(known, None, print) == first
    assert ready.serving == ready.current == first.name
    # A version without it does not take it away unasked.
    with pytest.raises(SpecError, match=r"say --service to go on with it, or --no-service to end"):
        ready.deploy(artifact)
    assert ready.serving == first.name and len(ready.folders) == 2
    without = ready.deploy(artifact, drop_service=True)
    assert (ready.serving, ready.current) == ("", without.name)
    assert not (ready.server.home / ".config/systemd/user/edgepose.service").exists()
    # Going back to a version that had it starts it again.
    with ready.open() as known:
        assert roll_back(known, None, print) == first
    assert ready.serving == first.name
    capsys.readouterr()


def test_a_service_that_does_not_start(ready: DeployBoard, artifact: Artifact, video: str) -> None:
    with pytest.raises(DeviceError) as caught:
        ready.deploy(artifact, camera="/dev/video7")
    assert "`systemctl --user restart edgepose.service` failed" in str(caught.value)
    assert "/dev/video7: no such file" in str(caught.value)
    # Nothing was there before, nothing is there now.
    assert (ready.current, ready.folders, ready.serving) == ("", [], "")
    assert not (ready.server.home / ".config/systemd/user/edgepose.service").exists()
    held = ready.deploy(artifact, camera=video)
    with pytest.raises(DeviceError, match="/dev/video7: no such file"):
        ready.deploy(artifact, camera="/dev/video7")
    stays(ready, held)
    assert ready.serving == held.name


def test_the_connection_breaks_at_the_restart(
    ready: DeployBoard, artifact: Artifact, video: str
) -> None:
    """The new service is about to start and never does; the old one is started again."""
    held = ready.deploy(artifact, camera=video)
    with (
        held_at(ready, "restart", then=ready.server.cut),
        pytest.raises(DeviceError, match="the connection was lost while"),
    ):
        ready.deploy(artifact, camera=video)
    stays(ready, held)
    assert ready.serving == held.name


def test_nobody_comes_back_after_the_restart(
    ready: DeployBoard, artifact: Artifact, video: str
) -> None:
    """The connection is lost for good and the new service fails: the board goes back by itself."""
    held = ready.deploy(artifact, camera=video)
    try:
        with held_at(ready, "restart", then=ready.server.stop):
            with pytest.raises(DeviceError, match="it may still be running there"):
                ready.deploy(artifact, camera="/dev/video7")
            assert ready.current != held.name
        wait_until(lambda: ready.current == held.name, "the link was not put back", 60.0)
        wait_until(lambda: ready.serving == held.name, "the old one was not started", 60.0)
    finally:
        ready.server.start()
    with ready.open() as known:
        assert known.current == held and known.versions[-1].camera == "/dev/video7"


@contextmanager
def held_at(board: DeployBoard, word: str, then: Callable[[], object]) -> Iterator[None]:
    """systemctl waits at the next such word until the block ends; something is done meanwhile."""
    held, hold = board.server.home / "held", board.server.home / "hold"
    hold.write_text(word)

    def act() -> None:
        wait_until(held.exists, f"systemctl was not asked to {word}", 60.0)
        # What is asked again is not held any more.
        hold.write_text("")
        then()

    actor = threading.Thread(target=act)
    actor.start()
    try:
        yield
    finally:
        actor.join()
        hold.unlink(missing_ok=True)


def test_a_board_without_systemd(ready: DeployBoard, artifact: Artifact, video: str) -> None:
    """It is asked before anything is done for it."""
    held = ready.deploy(artifact)
    program = ready.server.programs / "systemctl"
    aside = program.rename(program.with_name("aside"))
    try:
        for body, why in {
            "exit 127": "it has no systemd; deploy without --service",
            "echo Failed to connect to bus: No medium found >&2; exit 1": (
                r"no systemd runs for its user \(Failed to connect to bus: No medium found\); on "
                "Debian and Ubuntu: sudo apt-get install libpam-systemd"
            ),
        }.items():
            program.write_text(f"#!/bin/sh\n{body}\n")
            program.chmod(0o755)
            with pytest.raises(DeviceError, match=why):
                ready.deploy(artifact, camera=video)
            # Nothing was done for it.
            stays(ready, held)
    finally:
        aside.rename(program)
    stays(ready, held)
