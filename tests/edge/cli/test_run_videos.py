"""`edge run` on videos that are not as they should be, and on streams."""

from __future__ import annotations

import itertools
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT, shared
from tests.stand_ins.command_line import fails
from tests.stand_ins.moving_people import picture, read_frames, walk, walking, write_video
from tests.stand_ins.pixel_networks import TWO_STAGE, pixel_models, run, written  # noqa: F401
from tests.stand_ins.uneven_videos import shown_s

cv2 = pytest.importorskip("cv2")


_MATRICES = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def with_orientation(video: bytes, degrees: int) -> bytes:
    """An MP4 with the tag of a phone that was held so: the matrix of the track's header.

    ISO/IEC 14496-12, 8.3.2 (version 0): x' = a x + c y, y' = b x + d y, in 16.16 fixed point.
    """
    start = video.index(b"tkhd") + 4
    assert video[start] == 0
    start += 4 + 20 + 8 + 8
    one = 1 << 16
    a, b, c, d = (one * value for value in _MATRICES[degrees])
    old = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    assert video[start : start + 36] == old
    return video[:start] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + video[start + 36 :]


@pytest.mark.parametrize("degrees", _MATRICES)
def test_a_phone_s_video_is_turned_upright(tmp_path: Path, degrees: int) -> None:
    upright = picture([(40, 20, 24, 60)], (240, 160))
    # What the sensor saw, which turned clockwise by the tag is upright again.
    stored = np.rot90(upright, degrees // 90)
    plain = write_video(tmp_path / "plain.mp4", [np.ascontiguousarray(stored)] * 3)
    phone = tmp_path / "phone.mp4"
    phone.write_bytes(with_orientation(plain.read_bytes(), degrees))
    run(*TWO_STAGE, phone, "--out", tmp_path / "out")
    for entry in written(tmp_path / "out"):
        assert (entry["height_px"], entry["width_px"]) == (240, 160)
        (person,) = entry["people"]
        points = np.array(list(person["keypoints"].values()))
        np.testing.assert_allclose(points[0, :2], (40, 20), atol=2)
        np.testing.assert_allclose(points[16, :2], (64, 80), atol=2)
    assert {frame.shape for frame in read_frames(tmp_path / "out" / "phone.mp4")} == {(240, 160, 3)}


def test_a_video_that_breaks_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = walk(tmp_path / "whole.avi", 40, code="MJPG").read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) // 2])
    count = len(read_frames(cut))
    assert 5 < count < 35
    run(*TWO_STAGE, cut, "--out", tmp_path / "out")
    assert len(written(tmp_path / "out")) == count
    assert len(read_frames(tmp_path / "out" / "cut.mp4")) == count
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"note: {cut}: breaks off after {count} of its 40 frames; these are done"


def test_what_is_no_video_says_so_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    good = walk(tmp_path / "good.mp4", 3)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[:400])
    (tmp_path / "text.mkv").write_text("this is text")
    (tmp_path / "none.mp4").write_bytes(b"")
    command = (*TWO_STAGE, "--out", out, good)
    assert "one whose end is missing" in fails(capsys, *command, cut)
    spoilt = walk(tmp_path / "spoilt.avi", 3, code="MJPG")
    head, *frames = re.split(rb"(?<=00dc.{4})", spoilt.read_bytes(), flags=re.DOTALL)
    spoilt.write_bytes(head + b"".join(bytes(len(one) - 8) + one[-8:] for one in frames))
    said = fails(capsys, *command, spoilt)
    assert "none of its pictures can be decoded" in said
    assert "no decoder for MJPG" in said
    assert "text.mkv: not a video" in fails(capsys, *command, tmp_path / "text.mkv")
    assert "none.mp4: an empty file" in fails(capsys, *command, tmp_path / "none.mp4")
    assert "absent.mp4: no such file" in fails(capsys, *command, tmp_path / "absent.mp4")
    assert "*.mp5: no picture or video matches" in fails(capsys, *command, tmp_path / "*.mp5")
    assert "give it alone" in fails(capsys, *command, "http://127.0.0.1:9/video")
    line = fails(capsys, *TWO_STAGE, "--out", out, "http://127.0.0.1:9/video")
    assert "no video can be had from this address" in line
    assert "camera 93" in fails(capsys, *TWO_STAGE, "--out", out, "93")
    assert not out.exists()


def test_files_that_would_be_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = walk(tmp_path / "a.mp4", 3)
    before = video.read_bytes()
    other = walk(tmp_path / "a.mov", 3)
    assert "would overwrite it" in fails(capsys, *TWO_STAGE, "--out", tmp_path, video)
    line = fails(capsys, *TWO_STAGE, "--out", tmp_path / "out", video, other)
    assert "two make a.mp4; run them into two folders" in line
    assert video.read_bytes() == before


def test_frames_of_another_size_fit_into_the_video(tmp_path: Path) -> None:
    from edge.media.video import VideoFile

    frames = [picture([(10, 10, 30, 40)], hw) for hw in ((119, 161), (60, 80), (238, 322))]
    with VideoFile(tmp_path / "out.mp4", 25) as file:
        for frame in frames:
            file.write(frame)
    seen = read_frames(tmp_path / "out.mp4")
    assert [frame.shape for frame in seen] == [(120, 162, 3)] * 3
    for frame, scale in zip(seen, (1, 1, 0.5), strict=True):
        rows, columns = np.nonzero(frame.mean(axis=2) > 125)
        corners = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        np.testing.assert_allclose(corners, np.array([10, 10, 40, 50]) * scale, atol=1)


def test_a_full_disk_leaves_no_video(tmp_path: Path) -> None:
    """A limit on file sizes stands in for it; OpenCV itself says nothing of a failed write."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from edge.errors import ImageError\n"
        "from edge.media.video import VideoFile\n"
        "noise = np.random.default_rng(0).integers(0, 255, (30, 240, 320, 3), np.uint8)\n"
        "try:\n"
        "    with VideoFile(Path(sys.argv[1]), 25) as file:\n"
        "        for frame in noise:\n"
        "            file.write(frame)\n"
        "except ImageError as error:\n"
        "    print(error)\n"
    )
    target = tmp_path / "out.mp4"
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], cwd=ROOT, text=True, capture_output=True,
        check=True,
    )  # fmt: skip
    assert re.search(r"out.mp4: \d+ of 30 frames could be written: is there room", done.stdout)
    assert list(tmp_path.iterdir()) == []


def test_a_real_video(tmp_path: Path) -> None:
    """Its people are no rectangles; what counts is that every frame comes through."""
    video = shared("data/video/demo.mp4")
    run("run", "--model", "pose", video, "--out", tmp_path)
    entries = written(tmp_path)
    assert [entry["frame"] for entry in entries] == [0, 1, 2, 3, 4]
    assert {(entry["height_px"], entry["width_px"]) for entry in entries} == {(540, 960)}
    frames = read_frames(tmp_path / "demo.mp4")
    originals = read_frames(video)
    for frame, original in zip(frames, originals, strict=True):
        assert np.abs(frame.astype(int) - original).mean() < 6


# --- streams --------------------------------------------------------------------------------------


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_address(tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    walk(folder / "walk.avi", 6, code="MJPG")
    with served(folder) as address:
        run(*TWO_STAGE, f"{address}/walk.avi?key=1", "--out", tmp_path / "out")
    assert len(written(tmp_path / "out")) == 6
    assert len(read_frames(tmp_path / "out" / "walk.mp4")) == 6


def plug_in(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    """Camera 2, which gives ten frames a second and is then unplugged."""

    class Camera:
        def __init__(self, number: int) -> None:
            assert number == 2
            self.count = 0

        def isOpened(self) -> bool:
            return True

        def get(self, name: int) -> float:
            return {cv2.CAP_PROP_FPS: 0.0, cv2.CAP_PROP_FRAME_COUNT: -1.0}.get(name, 0.0)

        def set(self, name: int, value: float) -> bool:
            del name, value
            return False

        def read(self) -> tuple[bool, Any]:
            time.sleep(0.1)
            self.count += 1
            return self.count <= frames, picture(walking(self.count), (240, 320))

        def release(self) -> None: ...

    real = cv2.VideoCapture
    monkeypatch.setattr(
        cv2, "VideoCapture", lambda what: Camera(what) if isinstance(what, int) else real(what)
    )


def test_a_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It does not say how many frames there are; its video takes as long as what was filmed."""
    plug_in(monkeypatch, 8)
    began = time.perf_counter()
    run(*TWO_STAGE, "2", "--out", tmp_path)
    took_s = time.perf_counter() - began
    entries = written(tmp_path)
    assert [entry["file"] for entry in entries] == ["2"] * 8
    times_s = [entry["time_s"] for entry in entries]
    assert all(later - earlier >= 0.1 for earlier, later in itertools.pairwise(times_s))
    assert times_s[-1] < took_s
    assert shown_s(tmp_path / "camera2.mp4") == pytest.approx([0, *times_s[1:]], abs=1e-3)
    assert capsys.readouterr().err.endswith("note: 2: no more frames came\n")


def test_a_camera_that_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plug_in(monkeypatch, 0)
    line = fails(capsys, *TWO_STAGE, "2", "--out", tmp_path)
    assert "it was opened, but no frame came" in line
    assert list(tmp_path.iterdir()) == []
