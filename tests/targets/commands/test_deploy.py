"""`edge deploy` from end to end over a real sshd: an artifact, a board, a service, and back."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from edge.cli import main
from edge.cli.main import parse
from edge.errors import ArtifactError, DeviceError, ParityError, SpecError
from edge.keypoints import KEYPOINT_SETS
from edge.pipeline import Pose
from edge.serve import frame_line
from targets.profile import load_profile
from tests.conftest import ROOT, tiny_simcc_model
from tests.stand_ins.bench_board import login_as
from tests.stand_ins.deploy_board import DeployBoard, deploy_board, make_film, ready_python
from tests.stand_ins.python_runners import misbehaving_engine

pytest.importorskip("onnxslim")


def parsed(*words: str) -> argparse.Namespace:
    """The command's options as the command line parses them."""
    return parse(["deploy", *words])


def edge_deploy(*words: str) -> int:
    """The command; its errors are the caller's."""
    arguments = parsed(*words)
    return int(arguments.run(arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deploy")


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Path:
    """A variant of the tiny model, as the command line leaves it."""
    import onnx

    onnx.save(tiny_simcc_model(), str(folder / "tiny.onnx"))
    command = ["convert", "--model", str(folder / "tiny.onnx"), "--target", "x86"]
    assert main([*command, "--formats", "onnx-fp32", "--out", str(folder)]) == 0
    return folder / "x86/tiny-onnx-fp32"


@pytest.fixture(scope="module")
def profile(folder: Path) -> Path:
    path = folder / "board.toml"
    path.write_text(
        'description = "a board of this architecture"\nkind = "linux"\ntransport = "ssh"\n'
        f'arch = "{platform.machine()}"\nvariants = ["onnx-fp32"]\n'
    )
    return path


@pytest.fixture(scope="module")
def board(folder: Path, artifact: Path) -> Iterator[DeployBoard]:
    del artifact  # made in the home of whoever runs the tests
    with deploy_board(folder / "board") as board, login_as(folder / "user", board.server):
        yield board


@pytest.fixture(scope="module")
def site(board: DeployBoard) -> Iterator[Path]:
    """The packages of the Python that stands for each version's own."""
    with ready_python(board) as site:
        yield site


@pytest.mark.usefixtures("site")
def test_from_an_artifact_to_lines_of_json_and_back(
    board: DeployBoard, artifact: Path, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = make_film(board)
    there = ["--profile", str(profile), "--host", board.server.host]
    one = [str(artifact), *there, "--threads", "1", "--wheelhouse", str(board.wheelhouse)]

    assert edge_deploy(*there, "--list") == 0
    assert capsys.readouterr().out == f"ssh {board.server.host}: nothing is deployed there\n"

    assert edge_deploy(*one, "--service", "--camera", film) == 0
    first = board.current
    out = capsys.readouterr().out
    assert out.startswith(f"ssh {board.server.host}: {first} is current: tiny as onnx-fp32\n")
    assert "camera /home/pi/film.avi is read" in out and 'nc -U "$XDG_RUNTIME_DIR/' in out
    assert board.serving == first
    # From the board's socket, by the board's own Python.
    script = (
        "import os, signal, socket; s = socket.socket(socket.AF_UNIX); "
        "s.connect('/home/pi/run/edgepose.sock'); "
        "os.kill(int(open('/home/pi/service.pid').read()), signal.SIGCONT); "
        "print(s.makefile().readline())"
    )
    with board.open() as known:
        done = known.transport.run(["python3", "-c", script], timeout_s=60)
        record = json.loads(done.stdout)
        with suppress(ProcessLookupError):  # the film may have ended
            os.kill(int((board.server.home / "service.pid").read_text()), signal.SIGSTOP)
    assert (record["height_px"], record["width_px"]) == (48, 64)
    (person,) = record["people"]
    assert person["box_xyxy"] == [0, 0, 64, 48] and len(person["keypoints"]) == 17

    assert edge_deploy(*one, "--no-service", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    second = board.current
    assert (answer["current"], board.serving) == (second, "")
    assert [version["name"] for version in answer["versions"]] == [first, second]
    assert "pass: 68 keypoints" in answer["versions"][1]["parity"][0], "of four pictures"

    assert edge_deploy(*there, "--rollback") == 0
    assert (board.current, board.serving) == (first, first)
    capsys.readouterr()
    assert edge_deploy(*there, "--list") == 0
    text = capsys.readouterr().out
    assert f"\n  {second}  edgepose " in text and f"\n* {first}  edgepose " in text
    assert text.endswith("tiny as onnx-fp32, serves camera /home/pi/film.avi\n")
    with pytest.raises(DeviceError, match=f"{first} is the first version"):
        edge_deploy(*there, "--rollback")

    # The bench's folder is another one: cleaning it takes no version away.
    assert main(["clean", *there]) == 0
    assert board.current == first and (board.root / "current/deployment.json").is_file()


def test_an_engine_that_answers_wrongly_there(
    board: DeployBoard, artifact: Path, profile: Path, site: Path, tmp_path: Path
) -> None:
    """The whole judgement: the reference's answers against a board whose engine says 0."""
    wrong = site / "onnxruntime.py"
    board.clear()
    shutil.copy(misbehaving_engine(tmp_path / "engine") / wrong.name, wrong)
    try:
        with pytest.raises(ParityError, match="tiny as onnx-fp32 does not give the reference's a"):
            edge_deploy(str(artifact), "--profile", str(profile), "--host", board.server.host)
    finally:
        wrong.unlink()
    assert (board.current, board.folders) == ("", [])


def test_what_is_told_before_the_board_is_asked(artifact: Path, tmp_path: Path) -> None:
    """There is no such host: what is wrong with the artifacts comes first."""
    copy = shutil.copytree(artifact, tmp_path / "copy")
    manifest = copy / "artifact.json"
    record = json.loads(manifest.read_text())
    record["source"]["path"] = str(tmp_path / "gone.onnx")
    manifest.write_text(json.dumps(record))
    there = ("--target", "x86", "--host", "nobody@host.invalid")
    with pytest.raises(ArtifactError, match=r"gone\.onnx is not there; its answers .* it anew$"):
        edge_deploy(str(copy), *there)
    with pytest.raises(SpecError, match="named twice"):
        edge_deploy(str(artifact), str(artifact), *there)
    with pytest.raises(DeviceError, match=r"host\.invalid"):
        edge_deploy(str(artifact), *there)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["a"], "name the target"),
        (["a", "--target", "android"], "android-sd865 is a phone: its models go into an app"),
        (["a", "--target", "raspberry-pi"], "--target raspberry-pi-5 --host USER@ADDRESS"),
        (["a", "--target", "jetson", "--host", "b", "--camera", "1"], "say --service as well"),
        (["a", "--target", "jetson", "--host", "b", "--list"], r"take no artifact \(a\)"),
        (["a", "--target", "jetson", "--host", "b", "--rollback"], r"take no artifact \(a\)"),
    ],
)
def test_wrong_usage(words: list[str], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        edge_deploy(*words)


def test_options_that_exclude_each_other() -> None:
    for pair in (["--list", "--rollback"], ["--service", "--no-service"]):
        with pytest.raises(SystemExit) as caught:
            edge_deploy("--target", "jetson", "--host", "b", *pair)
        assert caught.value.code == 2


# --- docs/boards.md -------------------------------------------------------------------------------


def test_the_commands_of_the_manual_are_understood() -> None:
    text = (ROOT / "docs/boards.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("edge deploy ")]
    assert len(lines) == 8
    for line in lines:
        arguments = parsed(*shlex.split(line)[2:])
        load_profile(arguments.target)
        assert arguments.host == "pi@10.0.0.5"
    assert {arguments.list for arguments in (parsed(*one.split()[2:]) for one in lines)} == {
        True, False
    }  # fmt: skip


def test_the_line_of_the_manual_is_one_of_the_service() -> None:
    text = (ROOT / "docs/boards.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    pose = Pose(np.zeros(4, np.float32), 1.0, np.zeros((17, 3), np.float32), 3)
    at = datetime(2026, 11, 21, tzinfo=UTC)
    real = json.loads(
        frame_line(0, at, np.zeros((4, 4, 3), np.uint8), [pose], KEYPOINT_SETS["coco17"].keypoints)
    )
    record = json.loads(shown)
    assert list(record) == list(real)
    assert list(record["people"][0]) == list(real["people"][0])
    assert list(record["people"][0]["keypoints"]) == list(real["people"][0]["keypoints"])[:2]
