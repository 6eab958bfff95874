"""Deployments over a real sshd: what goes well, and that nothing else than that counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact, load_artifact
from edge.errors import DeviceError, SpecError
from edge.runner import noise
from edge.session import EngineSettings, open_session
from edge.spec import Variant
from targets.deploy.deployment import DeployOptions, check_artifacts, deploy, roll_back
from targets.deploy.versions import open_deployments
from targets.runners.python.session import PythonSession
from targets.transports.ssh import SshTransport
from targets.transports.transport import Done
from tests.conftest import ROOT, tiny_simcc_model
from tests.stand_ins.arm_userland import arm_userland
from tests.stand_ins.bench_phone import converted
from tests.stand_ins.deploy_board import DeployBoard, compare, make_film
from tests.stand_ins.specs import detector_spec
from tests.stand_ins.ssh_server import opened, ssh_server

pytest.importorskip("onnx")


# --- what goes well -------------------------------------------------------------------------------


def test_versions_come_and_go(ready: DeployBoard, artifact: Artifact) -> None:
    first = ready.deploy(artifact, compare)
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


def test_going_back_needs_the_board_alone(
    ready: DeployBoard, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a version lies there: nothing is sent, installed or fetched, on neither side."""
    film = ready.server.home / "film.avi"
    make_film(ready)
    awkward = "it's $HOME's; film.avi"
    shutil.copy(film, film.with_name(awkward))
    first = ready.deploy(artifact, camera=f"/home/pi/{awkward}")
    ready.deploy(artifact, drop_service=True)
    run, asked = SshTransport.run, []

    def noted(transport: SshTransport, argv: Sequence[str], **options: Any) -> Done:
        asked.append(" ".join(argv))
        return run(transport, argv, **options)

    monkeypatch.setattr(SshTransport, "run", noted)
    monkeypatch.setattr(SshTransport, "push", lambda *_, **__: pytest.fail("something was sent"))
    monkeypatch.setattr(
        "targets.transports.programs.run_program", lambda *_, **__: pytest.fail("a program")
    )
    with ready.open() as known:
        assert roll_back(known, None, print) == first
    assert ready.serving == first.name
    assert asked and not [line for line in asked if "pip" in line or "python" in line]


def test_nothing_to_go_back_to(board: DeployBoard) -> None:
    with board.open() as known:
        assert known.versions == () and known.current is None and known.linked == ""
        with pytest.raises(DeviceError, match=f"ssh {board.server.host}: nothing is deployed"):
            roll_back(known, None, print)
    assert not board.root.exists()


@pytest.mark.slow
def test_an_environment_of_its_own(board: DeployBoard, artifact: Artifact) -> None:
    """Made by the board's own pip, from a wheelhouse; the bench's folder is not touched.

    For a service OpenCV's wheel is beside the engine's.
    """
    version = board.deploy(artifact, compare, camera=make_film(board))
    assert board.serving == version.name
    (python,) = (board.root / "current/python").glob("*/venv/bin/python")
    code = "import edge, onnxruntime, opencv_stands_here; print(edge.__version__, edge.__file__)"
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


# --- what cannot be one version -------------------------------------------------------------------


def test_artifacts_that_are_no_version(artifact: Artifact) -> None:
    finder = replace(artifact, spec=detector_spec(name="finder"))
    tflite = replace(finder, variant=Variant("tflite", "fp32"))
    plain, service = DeployOptions(), DeployOptions(camera="0")
    check_artifacts([artifact, finder], service)
    check_artifacts([finder], plain)
    check_artifacts([artifact, tflite], service)
    for some, options, why in (
        ([], plain, "name artifact folders"),
        ([artifact, artifact], plain, "named twice: tiny as onnx-fp32, tiny as onnx-fp32"),
        ([artifact, finder, tflite], service, "one pose model with at most one detector"),
        ([finder], service, "a service runs one pose model with at most one detector"),
    ):
        with pytest.raises(SpecError, match=why):
            check_artifacts(some, options)


# --- a board, emulated ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_raspberry_pi_with_real_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ncnn's wheel for aarch64 under emulation, in the arithmetic that the artifact calls safe."""
    # The board of the other tests may be up, whose wheels are stand-ins.
    monkeypatch.setattr(
        "targets.runners.python.wheels._LOCKS", ROOT / "targets/runners/python/locks"
    )
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
        # To compile every module of the packages, under emulation, is half of an installation.
        config = server.home / ".config/pip/pip.conf"
        config.parent.mkdir(parents=True)
        config.write_text("[install]\ncompile = no\n")
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
