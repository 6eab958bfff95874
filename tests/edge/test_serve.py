"""`python -m edge.serve`: lines of JSON on a socket, to whoever listens and however slowly."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edge.artifact import load_artifact
from edge.errors import ImageError
from edge.keypoints import KEYPOINT_SETS
from edge.pipeline import Pipeline, Pose
from edge.pose import PoseEstimator
from edge.serve import Readers, frame_line, newest
from edge.session import open_session
from tests.conftest import ROOT
from tests.stand_ins.python_runners import tiny_artifact

COCO = KEYPOINT_SETS["coco17"].keypoints
FRAMES = 3


# --- a line ---------------------------------------------------------------------------------------


def test_a_line_holds_the_frame_and_its_people() -> None:
    points = np.stack([np.arange(17) + 0.126, np.arange(17) * 2, np.full(17, 0.5)], 1)
    pose = Pose(np.array([1, 2, 30.118, 40], np.float32), 0.98765, points.astype(np.float32), 7)
    at = datetime(2026, 11, 21, 12, 0, 1, 250_000, tzinfo=UTC)
    line = frame_line(4, at, np.zeros((48, 64, 3), np.uint8), [pose], COCO)
    assert line.endswith(b"}\n") and line.count(b"\n") == 1
    record = json.loads(line)
    (person,) = record.pop("people")
    assert record == {
        "frame": 4, "read_utc": "2026-11-21T12:00:01.250Z", "height_px": 48, "width_px": 64
    }  # fmt: skip
    keypoints = person.pop("keypoints")
    assert person == {"track_id": 7, "box_xyxy": [1, 2, 30.12, 40], "box_score": 0.9877}
    assert list(keypoints) == list(COCO)
    assert keypoints["left_eye"] == [1.13, 2.0, 0.5]


# --- who listens ----------------------------------------------------------------------------------


@contextmanager
def listening(folder: Path) -> Iterator[tuple[Readers, Path]]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))
        server.listen()
        server.setblocking(False)
        with closing(Readers(server)) as readers:
            yield readers, folder / "s"


def connect(path: Path) -> socket.socket:
    reader = socket.socket(socket.AF_UNIX)
    reader.settimeout(10)
    reader.connect(str(path))
    return reader


def test_readers_come_and_go(tmp_path: Path) -> None:
    with listening(tmp_path) as (readers, path):
        readers.send(b"0\n")
        with connect(path) as early:
            readers.send(b"1\n")
            with connect(path) as late:
                readers.send(b"2\n")
                assert late.recv(99) == b"2\n"
            readers.send(b"3\n")
            readers.send(b"4\n")
            assert early.recv(99) == b"1\n2\n3\n4\n"


def test_a_slow_reader_loses_whole_lines_and_holds_up_nobody(tmp_path: Path) -> None:
    lines = [b"%06d " % number + b"x" * 5000 + b"\n" for number in range(400)]
    with listening(tmp_path) as (readers, path), connect(path) as slow, connect(path) as quick:
        with quick.makefile("rb") as heard:
            for line in lines:
                readers.send(line)
                assert heard.readline() == line
        slow.setblocking(False)
        held = b""
        for number in range(100):
            with suppress(BlockingIOError):
                held += slow.recv(1 << 20)
            readers.send(b"now %d\n" % number)
        with suppress(BlockingIOError):
            while block := slow.recv(1 << 20):
                held += block
    seen = held.splitlines(keepends=True)
    old = [line for line in seen if line in set(lines)]
    now = [line for line in seen if line.startswith(b"now ")]
    # All that it heard is whole and in order; most of what it was too slow for is lost, what is
    # said when it listens again is heard.
    assert old + now == seen
    assert old == lines[: len(old)] and 0 < len(old) < 200
    assert now[-50:] == [b"now %d\n" % number for number in range(50, 100)]


# --- a camera faster than the networks ------------------------------------------------------------

Image = npt.NDArray[np.uint8]
AT = datetime(2026, 11, 21, tzinfo=UTC)
IMAGE = np.zeros((2, 2, 3), np.uint8)


def test_the_newest_frame_is_taken() -> None:
    """While the first one is worked on nine more come; then the camera ends."""
    taken, ended = threading.Event(), threading.Event()

    def camera() -> Iterator[tuple[int, datetime, Image]]:
        yield 0, AT, IMAGE
        assert taken.wait(60)
        for number in range(1, 10):
            yield number, AT, IMAGE
        ended.set()

    frames = newest(camera())
    assert next(frames)[0] == 0
    taken.set()
    assert ended.wait(60)
    assert [frame[0] for frame in frames] == [9]


def test_a_camera_that_fails_and_one_that_is_left() -> None:
    def failing() -> Iterator[tuple[int, datetime, Image]]:
        yield 0, AT, IMAGE
        raise RuntimeError("Bad new number of rows")

    frames = newest(failing())
    assert next(frames)[0] == 0
    with pytest.raises(ImageError, match="the camera cannot be read: Bad new number of rows"):
        next(frames)
    before = threading.active_count()
    frames = newest((number, AT, IMAGE) for number in itertools.count())
    next(frames)
    assert threading.active_count() == before + 1
    frames.close()
    assert threading.active_count() == before


# --- the program ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return tiny_artifact(tmp_path_factory.mktemp("artifact") / "tiny").folder


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    rng = np.random.default_rng(3)
    for _ in range(FRAMES):
        writer.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    writer.release()
    return path


def serve(artifact: Path, camera: str, folder: Path, **env: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "edge.serve", "--model", str(artifact), "--camera", camera]
    return subprocess.Popen(
        [*argv, "--threads", "1", "--socket", str(folder / "socket")],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def ready_socket(folder: Path) -> Iterator[socket.socket]:
    """Where systemd listens for READY=1."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(folder / "ready"))
        ready.settimeout(60)
        yield ready


def test_a_film_to_its_end(artifact: Path, film: Path, tmp_path: Path) -> None:
    with ready_socket(tmp_path) as ready:
        process = serve(artifact, str(film), tmp_path, NOTIFY_SOCKET=str(tmp_path / "ready"))
        assert ready.recv(99) == b"READY=1"
        out, err = process.communicate(timeout=60)
    # A camera that ends is a failure, so that systemd starts it again.
    assert process.returncode == 1
    assert out == f"camera {film} is read; results at {tmp_path / 'socket'}\n"
    assert err == f"edge: camera {film}: it gives no more frames\n"
    assert not (tmp_path / "socket").exists()


def test_its_poses_are_those_of_the_pipeline(artifact: Path, tmp_path: Path) -> None:
    """A film through a pipe: its second half comes when the reader listens."""
    cv2 = pytest.importorskip("cv2")
    path, pipe = tmp_path / "film.ts", tmp_path / "pipe.ts"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mpg1"), 25.0, (64, 48))
    rng = np.random.default_rng(3)
    for _ in range(400):
        writer.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    writer.release()
    data = path.read_bytes()
    os.mkfifo(pipe)
    with ready_socket(tmp_path) as ready:
        process = serve(artifact, str(pipe), tmp_path, NOTIFY_SOCKET=str(tmp_path / "ready"))
        with pipe.open("wb", buffering=0) as film:
            film.write(data[: len(data) // 2])
            assert ready.recv(99) == b"READY=1"
            assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600
            with connect(tmp_path / "socket") as reader, reader.makefile() as lines:
                film.write(data[len(data) // 2 :])
                records = [json.loads(next(lines)) for _ in range(3)]
            # It may be waiting for the pipe, which ends with this block.
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert not (tmp_path / "socket").exists()
    capture = cv2.VideoCapture(str(path))
    with open_session(load_artifact(artifact)) as session:
        pipeline = Pipeline(PoseEstimator(session))
        frames = [capture.read()[1] for _ in range(records[-1]["frame"] + 1)]
        for before, record in zip([None, *records], records, strict=False):
            assert before is None or record["frame"] == before["frame"] + 1
            (want,) = pipeline(frames[record["frame"]])
            (person,) = record["people"]
            assert (person["track_id"], person["box_xyxy"]) == (None, [0, 0, 64, 48])
            got = np.array([person["keypoints"][name] for name in COCO])
            np.testing.assert_allclose(got, want.keypoints, atol=6e-3)
    capture.release()


def test_a_stream_by_its_address(artifact: Path, tmp_path: Path) -> None:
    """As a ribbon camera's program gives it: an MPEG transport stream to whoever connects.

    It may begin to listen after the service has asked for it.
    """
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "film.ts"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mpg1"), 25.0, (64, 48))
    assert writer.isOpened()
    for number in range(100):
        writer.write(np.full((48, 64, 3), number, np.uint8))
    writer.release()
    with ready_socket(tmp_path) as ready, socket.socket() as sender:
        sender.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{sender.getsockname()[1]}"
        process = serve(artifact, address, tmp_path, NOTIFY_SOCKET=str(tmp_path / "ready"))
        sender.settimeout(60)
        sender.listen()
        camera, _ = sender.accept()
        with camera:
            camera.sendall(path.read_bytes())
            camera.shutdown(socket.SHUT_WR)
            assert ready.recv(99) == b"READY=1"
            out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == f"camera {address} is read; results at {tmp_path / 'socket'}\n"
    assert err == f"edge: camera {address}: it gives no more frames\n"


@pytest.mark.parametrize(
    ("camera", "why"),
    [
        ("/dev/no-such-camera", "/dev/no-such-camera: no such file"),
        ("{folder}", "is no camera, no video and no address of one"),
    ],
)
def test_no_camera(artifact: Path, tmp_path: Path, camera: str, why: str) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "pictures" / name).touch()
    process = serve(artifact, camera.format(folder=tmp_path / "pictures"), tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("edge: ") and why in err and err.count("\n") == 1


def test_a_socket_that_is_taken_or_left_behind(artifact: Path, film: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "socket"))
        other.listen()
        process = serve(artifact, str(film), tmp_path)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "another service listens there; choose a --socket" in err
    # Nobody listens any more; its file is there.
    assert (tmp_path / "socket").exists()
    process = serve(artifact, str(film), tmp_path)
    _, err = process.communicate(timeout=60)
    assert "it gives no more frames" in err
    (tmp_path / "socket").write_text("a file of somebody's")
    process = serve(artifact, str(film), tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "a file is there; choose a --socket" in err
    assert (tmp_path / "socket").read_text() == "a file of somebody's"
