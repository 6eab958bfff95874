"""Deployments over a real sshd: what goes well, and that nothing else than that counts."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact, load_artifact
from edge.bench import noise
from edge.errors import DeviceError, ParityError, SpecError
from edge.session import EngineSettings, open_session
from edge.spec import Variant
from targets import deploy as deploy_module
from targets import deployed as deployed_module
from targets.deploy import DeployOptions, check_artifacts, deploy, roll_back
from targets.deployed import Within, open_deployments
from targets.python_session import PythonSession
from targets.ssh import SshTransport
from targets.transport import Done
from tests.arm_userland import arm_userland
from tests.bench_board import on_command
from tests.bench_phone import converted, wait_until
from tests.conftest import tiny_simcc_model
from tests.deploy_board import DeployBoard, compare, deploy_board
from tests.python_runners import tiny_artifact
from tests.ssh_server import opened, ssh_server
from tests.test_edge_spec import detector_spec

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("artifact") / "tiny")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployBoard]:
    with deploy_board(tmp_path_factory.mktemp("board")) as board:
        yield board


@pytest.fixture
def board(place: DeployBoard) -> Iterator[DeployBoard]:
    """Nothing is deployed."""
    place.clear()
    yield place
    place.clear()


@pytest.fixture
def ready(board: DeployBoard, monkeypatch: pytest.MonkeyPatch) -> DeployBoard:
    """An environment that is there already stands for each version's own: the rest is as ever."""
    python = board.server.home / "ready/venv/bin/python"
    if not python.exists():
        with closing(opened(board.server)) as transport:
            from targets.python_setup import python_for

            at = Within(transport, "/home/pi/ready")
            argv = python_for(at, "onnx", wheelhouse=board.wheelhouse, say=print)
            made = [
                "ln",
                "-s",
                argv[0][len("/home/pi/ready/") :].removesuffix("/bin/python"),
                "/home/pi/ready/venv",
            ]
            assert transport.run(made, timeout_s=60).returncode == 0

    def python_there(place: Within, *_: Any, **__: Any) -> tuple[str, ...]:
        # Something of its own is in the version all the same.
        place.run(["mkdir", "-p", f"{place.work_dir}/python"], timeout_s=60)
        return ("/home/pi/ready/venv/bin/python", "-I")

    monkeypatch.setattr(deploy_module, "python_for", python_there)
    return board


# --- what goes well -------------------------------------------------------------------------------


def test_versions_come_and_go(ready: DeployBoard, artifact: Artifact) -> None:
    first = ready.deploy(artifact)
    assert ready.current == first.name and ready.folders == [first.name]
    assert (first.previous, first.models, first.camera) == ("", ("tiny as onnx-fp32",), "")
    assert first.parity == ("tiny as onnx-fp32: as here",)
    # What lies there is the artifact, byte for byte, and the record of the version.
    (placed,) = (ready.root / "current/artifacts").iterdir()
    held = {path.name: path.read_bytes() for path in placed.iterdir()}
    assert held == {path.name: path.read_bytes() for path in artifact.folder.iterdir()}
    record = json.loads((ready.root / "current/deployment.json").read_text())
    assert record["name"] == first.name and record["schema"] == 1
    assert not (ready.root / "current/tmp").exists()
    # The address of a camera may hold a password.
    assert ready.root.stat().st_mode & 0o777 == 0o700

    second = ready.deploy(artifact)
    third = ready.deploy(artifact)
    assert ready.folders == [first.name, second.name, third.name]
    assert (ready.current, third.previous, second.previous) == (
        third.name, second.name, first.name
    )  # fmt: skip
    with ready.open() as known:
        assert [one.name for one in known.versions] == ready.folders
        assert known.current == third
        assert roll_back(known, None, print) == second
    assert ready.current == second.name
    with ready.open() as known:
        assert roll_back(known, None, print) == first
    with ready.open() as known, pytest.raises(DeviceError, match="is the first version, there is"):
        roll_back(known, None, print)
    with ready.open() as known, pytest.raises(DeviceError, match=r"is the current version already"):
        roll_back(known, first.name, print)
    with ready.open() as known, pytest.raises(DeviceError, match=f"not there; .*{third.name}"):
        roll_back(known, "20200101-000000-000000", print)
    assert ready.current == first.name
    with ready.open() as known:
        assert roll_back(known, third.name, print) == third
    # The current one, the one before it, and no more.
    fourth = ready.deploy(artifact, keep=2)
    assert (ready.folders, ready.current) == ([third.name, fourth.name], fourth.name)
    fifth = ready.deploy(artifact, keep=1)
    assert ready.folders == [fifth.name]
    with ready.open() as known, pytest.raises(DeviceError, match=f"{fourth.name} is not there"):
        roll_back(known, None, print)
    # A board that has no service is never asked about one.
    assert ready.calls == []


def test_nothing_to_go_back_to(board: DeployBoard) -> None:
    with board.open() as known:
        assert known.versions == () and known.current is None and known.linked == ""
        with pytest.raises(DeviceError, match=f"ssh {board.server.host}: nothing is deployed"):
            roll_back(known, None, print)
    assert not board.root.exists()


def test_an_environment_of_its_own(board: DeployBoard, artifact: Artifact) -> None:
    """Made by the board's own pip, from a wheelhouse; the bench's folder is not touched."""
    version = board.deploy(artifact)
    (python,) = (board.root / "current/python").glob("*/venv/bin/python")
    code = "import edge, onnxruntime; print(edge.__version__, edge.__file__)"
    with closing(opened(board.server)) as transport:
        there = (
            f"/home/pi/.local/share/edgepose/current/{python.relative_to(board.root / 'current')}"
        )
        done = transport.run([there, "-I", "-c", code], timeout_s=60)
    edge, origin = done.stdout.decode().split()
    assert edge == version.edge
    assert origin.startswith("/home/pi/.local/share/edgepose/") and "/venv/" in origin
    assert not (board.server.home / ".cache/edgepose").exists()


def test_an_engine_that_was_built_there(ready: DeployBoard, artifact: Artifact) -> None:
    """The bench's engine becomes the version's own: it stays where the bench's folder goes."""
    kit = replace(artifact, variant=Variant("tensorrt", "fp16"))
    built = "/home/pi/.cache/edgepose/device/engines/tiny.engine"
    with ready.open() as known:
        script = f"mkdir -p {Path(built).parent} && printf built > {built}"
        assert known.transport.run(["sh", "-c", script], timeout_s=60).returncode == 0
        options = ready.options(engine=lambda _: built)
        version = deploy(known, [kit], lambda *_: "not run", options, print)
        with pytest.raises(SpecError, match="its engine is built on the device"):
            deploy(known.read(), [kit], compare, ready.options(), print)
        known.transport.run(["rm", "-rf", "/home/pi/.cache"], timeout_s=60)
    assert ready.folders == [version.name]
    (placed,) = (ready.root / "current/artifacts").iterdir()
    there = load_artifact(placed)
    assert (str(there.variant), there.path("engine").read_text()) == ("tensorrt-fp16", "built")


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


def test_the_connection_breaks_in_the_installation(
    ready: DeployBoard, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = ready.deploy(artifact)
    monkeypatch.undo()
    with (
        on_command("-m pip", lambda: threading.Timer(0.3, ready.server.cut).start()),
        pytest.raises(DeviceError, match=r"the connection was lost while .*pip"),
    ):
        ready.deploy(artifact)
    stays(ready, held)
    assert not ready.server.running("-m pip")


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_connection_breaks_at_the_switch(
    ready: DeployBoard, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    held = ready.deploy(artifact)
    run = SshTransport.run
    seen: list[object] = []

    def breaking(transport: SshTransport, argv: Sequence[str], **options: Any) -> Done:
        if "mv -fT" not in " ".join(argv) or seen:
            return run(transport, argv, **options)
        seen.append(argv)
        if when == "after":
            run(transport, argv, **options)
            seen.append(ready.current)
        ready.server.cut()
        raise DeviceError("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr(SshTransport, "run", breaking)
        with pytest.raises(DeviceError, match="the connection was lost"):
            ready.deploy(artifact)
    # It had happened, and was put back.
    assert len(seen) == 1 or seen[1] not in (held.name, "")
    stays(ready, held)


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


def test_a_full_disk(
    ready: DeployBoard, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 MiB holds a version whose environment is elsewhere, and none with its own."""
    with closing(opened(ready.server)) as transport:
        for argv in (
            ["mkdir", "-p", "/home/pi/.local/share"],
            ["mkdir", "/home/pi/small/edgepose"],
            ["ln", "-s", "/home/pi/small/edgepose", "/home/pi/.local/share/edgepose"],
        ):
            assert transport.run(argv, timeout_s=60).returncode == 0
        deploy(open_deployments(transport), [artifact], compare, ready.options(), print)
        (held,) = open_deployments(transport).versions
        monkeypatch.undo()
        with pytest.raises(DeviceError, match="no room is left for the packages of onnx in /home"):
            deploy(open_deployments(transport), [artifact], compare, ready.options(), print)
        known = open_deployments(transport)
        assert known.current == held and known.versions == (held,)
        names = transport.run(["ls", f"{known.root}/versions"], timeout_s=60).stdout.split()
        assert names == [held.name.encode()]


def test_answers_that_differ_there(ready: DeployBoard, artifact: Artifact) -> None:
    """The board's engine answers 0 to everything; before, and where nothing was deployed yet."""
    held = ready.deploy(artifact)
    package = ready.server.home / "ready/python"
    (site,) = package.glob("*/venv/lib/python3*/site-packages")
    from tests.python_runners import _ENGINE

    (site / "onnxruntime.py").write_text(_ENGINE)
    try:
        with pytest.raises(ParityError, match="simcc_x differs on ssh "):
            ready.deploy(artifact)
        stays(ready, held)
        ready.clear()
        with pytest.raises(ParityError, match="simcc_x differs on ssh "):
            ready.deploy(artifact)
        assert (ready.current, ready.folders) == ("", [])
    finally:
        (site / "onnxruntime.py").unlink()


def test_two_deployments_at_once(ready: DeployBoard, artifact: Artifact) -> None:
    """The one that is whole first is current; the other leaves nothing and says so."""
    held = ready.deploy(artifact)
    faster = []

    def slow(artifact: Artifact, session: PythonSession) -> str:
        faster.append(ready.deploy(artifact))
        return compare(artifact, session)

    with ready.open() as known, pytest.raises(DeviceError) as caught:
        deploy(known, [artifact], slow, ready.options(), print)
    (other,) = faster
    assert f"another deployment came first, current is {other.name}" in str(caught.value)
    assert (ready.current, ready.folders) == (other.name, [held.name, other.name])


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


def make_film(board: DeployBoard) -> str:
    import cv2
    import numpy as np

    path = board.server.home / "film.avi"
    if not path.exists():
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
        rng = np.random.default_rng(3)
        frame = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        for _ in range(3000):
            writer.write(frame)
        writer.release()
        path.chmod(0o644)
    return "/home/pi/film.avi"


def test_a_service_follows_the_current_version(
    ready: DeployBoard, artifact: Artifact, video: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ready.deploy(artifact, camera=video)
    assert first.camera == video
    assert ready.serving == first.name
    assert ready.calls == ["--version", "daemon-reload", "enable edgepose.service",
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
    held = ready.deploy(artifact, camera=video)
    cut = lambda: threading.Timer(0.3, ready.server.cut).start()  # noqa: E731
    with (
        on_command("systemctl --user restart", cut),
        pytest.raises(DeviceError, match="the connection was lost while"),
    ):
        ready.deploy(artifact, camera=video)
    stays(ready, held)
    assert ready.serving == held.name


def test_a_board_without_systemd(ready: DeployBoard, artifact: Artifact, video: str) -> None:
    held = ready.deploy(artifact)
    program = ready.server.programs / "systemctl"
    aside = program.rename(program.with_name("aside"))
    program.write_text("#!/bin/sh\nexit 127\n")
    program.chmod(0o755)
    try:
        with pytest.raises(DeviceError, match="it has no systemd; deploy without --service"):
            ready.deploy(artifact, camera=video)
    finally:
        aside.rename(program)
    stays(ready, held)


# --- what cannot be one version -------------------------------------------------------------------


def test_artifacts_that_are_no_version(artifact: Artifact) -> None:
    finder = replace(artifact, spec=detector_spec(name="finder"))
    tflite = replace(finder, variant=Variant("tflite", "fp32"))
    plain, service = DeployOptions(), DeployOptions(camera="0")
    check_artifacts([artifact, finder], service)
    check_artifacts([finder], plain)
    for some, options, why in (
        ([], plain, "name artifact folders"),
        ([artifact, artifact], plain, "named twice: tiny as onnx-fp32, tiny as onnx-fp32"),
        ([artifact, tflite], plain, "these need onnx and tflite: choose one with --formats"),
        ([finder], service, "a service runs one pose model with at most one detector"),
    ):
        with pytest.raises(SpecError, match=why):
            check_artifacts(some, options)


# --- a board, emulated ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_raspberry_pi_with_real_wheels(tmp_path: Path) -> None:
    """ncnn's wheel for aarch64 under emulation, in the arithmetic that the artifact calls safe."""
    pytest.importorskip("ncnn")
    if find_spec("pnnx") is None:  # importing it would need PyTorch
        pytest.skip("pnnx is not installed")
    userland = arm_userland("libstdc++6", "python3", "python3-venv")
    folder = converted(tiny_simcc_model(scale_norm=True, keypoints=5), "tiny", tmp_path)
    made = load_artifact(folder)
    replace(made, arm={"checked": True, "safe": "fp16-storage", "tried": {}}).write_manifest()
    artifact, seen = load_artifact(folder), []

    def judge(artifact: Artifact, session: PythonSession) -> str:
        feeds = {artifact.spec.input.name: noise(artifact.spec)}
        with open_session(artifact, EngineSettings(1, "fp32")) as here:
            want = here.run(feeds)
        for name, got in session.run(feeds).items():
            np.testing.assert_allclose(got, want[name], atol=0.05)
        seen.append((session.inference_precision, session.engine.partition(" ")[0]))
        return "as here"

    options = DeployOptions(threads=1, wheelhouse=tmp_path / "house")
    with ssh_server(tmp_path / "server", userland=userland) as server:
        with closing(opened(server)) as transport:
            try:
                version = deploy(open_deployments(transport), [artifact], judge, options, print)
            except DeviceError as error:
                if "this machine has no network" in str(error):
                    pytest.skip(str(error))
                raise
            known = open_deployments(transport)
            assert (known.current, known.versions) == (version, (version,))
        assert seen == [("fp16-storage", "ncnn")]
        link = server.home / ".local/share/edgepose/current"
        assert link.readlink().as_posix() == f"versions/{version.name}"
        assert list((link.parent / link.readlink()).glob("python/*/venv/bin/python"))
