"""`edge run` on the screen and the terminal, over long videos, and ended before the end."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, heed_interrupts
from tests.stand_ins.command_line import fails
from tests.stand_ins.moving_people import picture, read_frames, walk, write_video
from tests.stand_ins.pixel_networks import TWO_STAGE, pixel_models, run, written  # noqa: F401

cv2 = pytest.importorskip("cv2")


def test_no_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = walk(tmp_path / "walk.mp4", 3)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    line = fails(capsys, *TWO_STAGE, video, "--show")
    assert line == (
        "edge: --show needs a screen and there is none here (DISPLAY is not set): leave it out"
    )

    def no_window(*_: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", no_window)
    assert "pip install opencv-python" in fails(capsys, *TWO_STAGE, video, "--show")
    assert "give --out DIR" in fails(capsys, *TWO_STAGE, video)
    assert "give --out DIR" in fails(capsys, *TWO_STAGE, video, "--show", "--json")


def test_a_window_is_shown_every_frame_and_q_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[Any] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 4 else -1)
    video = walk(tmp_path / "walk.mp4", 10)
    run(*TWO_STAGE, video, "--show", "--out", tmp_path / "out")
    assert len(shown) == len(written(tmp_path / "out")) == 4
    assert len(read_frames(tmp_path / "out" / "walk.mp4")) == 4
    # Alone it writes nothing.
    shown.clear()
    before = sorted(tmp_path.iterdir())
    run(*TWO_STAGE, video, "--show")
    assert len(shown) == 4
    assert sorted(tmp_path.iterdir()) == before
    assert "edge:" not in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_video(tmp_path: Path, models: dict[str, Any]) -> None:
    boxes = [(10 + index % 90, 10, 12, 30) for index in range(400)]
    frames = [picture([box], (160, 256)) for box in boxes]
    video = write_video(tmp_path / "long.avi", frames, code="MJPG")
    frames.clear()
    session, used = models["one-stage"], []
    quick = session.answer

    def watched(batch: Any) -> Any:
        used.append(resident_mib())
        return quick(batch)

    session.answer = watched
    run("run", "--model", "one-stage", video, "--out", tmp_path / "out", "--json")
    assert len(used) == 400
    # Kept frames would be 35 MiB.
    assert used[-1] - used[100] < 4


_SLOW_RUN = """
import sys, time
import edge.cli.run
from edge.cli import main
from tests.stand_ins.moving_people import one_stage_session

session = one_stage_session()
quick = session.answer

def slow(batch):
    time.sleep(0.05)
    print("frame", file=sys.stderr, flush=True)
    return quick(batch)

session.answer = slow
edge.cli.run.open_chosen = lambda text, arguments: session
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_a_playable_video_and_whole_json(
    tmp_path: Path, number: signal.Signals
) -> None:
    video, out = walk(tmp_path / "walk.avi", 300, code="MJPG"), tmp_path / "out"
    script = tmp_path / "slow.py"
    script.write_text(_SLOW_RUN)
    command = [sys.executable, str(script), "run", "--model", "any", str(video)]
    with subprocess.Popen(
        [*command, "--out", str(out), "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    ) as process:
        assert process.stderr is not None
        frames = (line for line in process.stderr if line == "frame\n")
        assert len(list(itertools.islice(frames, 8))) == 8
        process.send_signal(number)
        told, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "edge: interrupted; all that was done by then is written"
    assert sorted(path.name for path in out.iterdir()) == [
        "coco_results.json", "poses.json", "walk.mp4",
    ]  # fmt: skip
    entries = written(out)
    assert 8 <= len(entries) < 60
    assert len(read_frames(out / "walk.mp4")) == len(entries)
    results = json.loads((out / "coco_results.json").read_text())
    assert len(results) == 2 * len(entries)
    assert json.loads(told) == results


def test_a_failure_in_the_middle_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], models: dict[str, Any]
) -> None:
    from edge.errors import EngineError

    session = models["one-stage"]
    quick = session.answer

    def breaks(batch: Any) -> Any:
        if len(session.batch_sizes) == 4:
            raise EngineError("the engine gave up")
        return quick(batch)

    session.answer = breaks
    video, out = walk(tmp_path / "walk.mp4", 10), tmp_path / "out"
    assert "gave up" in fails(capsys, "run", "--model", "one-stage", video, "--out", out, "--json")
    assert list(out.iterdir()) == []
