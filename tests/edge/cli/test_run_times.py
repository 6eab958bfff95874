"""`edge run` keeps the times of a video's frames, and does without those that are damaged."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.stand_ins.moving_people import picture, read_frames, walk, walking, write_video
from tests.stand_ins.pixel_networks import TWO_STAGE, pixel_models, run, written  # noqa: F401
from tests.stand_ins.uneven_videos import length_s, shown_s, write_recording

cv2 = pytest.importorskip("cv2")

UNEVEN_MS = (0, 33, 67, 100, 167, 1267, 1288, 1289, 1400)


def frames(count: int) -> list[Any]:
    return [picture(walking(index), (240, 320)) for index in range(count)]


@pytest.mark.parametrize("length_ms", [None, 1450.0])
def test_frames_are_shown_when_they_were_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], length_ms: float | None
) -> None:
    """Its header claims 1000 frames a second, and with a length 1450 frames."""
    video = write_recording(tmp_path / "a.webm", frames(9), UNEVEN_MS, length_ms)
    capture = cv2.VideoCapture(str(video))
    claimed_fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    run(*TWO_STAGE, video, "--out", tmp_path / "out")
    drawn = tmp_path / "out" / "a.mp4"
    want = np.array(UNEVEN_MS) / 1000
    assert [entry["time_s"] for entry in written(tmp_path / "out")] == pytest.approx(want, abs=1e-4)
    assert shown_s(drawn) == pytest.approx(want, abs=1e-3)
    # The last frame for as long as most.
    assert length_s(drawn) == pytest.approx(1.4 + 0.067, abs=0.04)
    assert len(read_frames(drawn)) == 9
    assert "edge:" not in capsys.readouterr().err, claimed_fps


def test_an_even_video_stays_even(tmp_path: Path) -> None:
    for fps in (25, 30, 60):
        out = tmp_path / str(fps)
        run(*TWO_STAGE, walk(tmp_path / f"{fps}.mp4", 12, fps=fps), "--out", out)
        drawn = out / f"{fps}.mp4"
        assert shown_s(drawn) == pytest.approx(np.arange(12) / fps, abs=1e-4)
        assert length_s(drawn) == pytest.approx(12 / fps, abs=1e-3)


def test_one_frame_alone_lasts(tmp_path: Path) -> None:
    run(*TWO_STAGE, walk(tmp_path / "one.mp4", 1), "--out", tmp_path / "out")
    assert length_s(tmp_path / "out" / "one.mp4") == pytest.approx(1 / 25, abs=1e-3)


def test_times_that_go_back_go_on(tmp_path: Path) -> None:
    """Two recordings in one file; and frames that change places by a little."""
    times_ms = (0, 40, 80, 2000, 2040, 0, 40, 80)
    write_recording(tmp_path / "two.webm", frames(8), times_ms)
    run(*TWO_STAGE, tmp_path / "two.webm", "--out", tmp_path / "out")
    times_s = [entry["time_s"] for entry in written(tmp_path / "out")]
    assert all(after >= before for before, after in itertools.pairwise(times_s))
    assert times_s[:5] == pytest.approx([0, 0.04, 0.08, 2, 2.04], abs=1e-3)
    assert np.diff(times_s[5:]) == pytest.approx([0.04, 0.04], abs=1e-3)
    assert shown_s(tmp_path / "out" / "two.mp4") == pytest.approx(times_s, abs=1e-3)


@pytest.mark.parametrize(("name", "code"), [("a.mp4", "mp4v"), ("a.avi", "MJPG")])
def test_damaged_frames_in_the_middle_cost_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, code: str
) -> None:
    rng = np.random.default_rng(1)
    noisy = [np.maximum(one, rng.integers(0, 60, one.shape, np.uint8)) for one in frames(40)]
    data = bytearray(write_video(tmp_path / name, noisy, code=code).read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 12] = bytes(len(data) // 12)
    (tmp_path / name).write_bytes(data)
    run(*TWO_STAGE, tmp_path / name, "--out", tmp_path / "out")
    entries = written(tmp_path / "out")
    assert 30 <= len(entries) < 40
    assert len(read_frames(tmp_path / "out" / "a.mp4")) == len(entries)
    said = capsys.readouterr().err
    # An AVI's frames have no times of their own: what is missing may be its end.
    if code == "mp4v":
        assert "breaks off" not in said
        assert entries[-1]["time_s"] == pytest.approx(39 / 25, abs=1e-3)
        assert "frames are damaged and left out" in said


def test_a_frame_that_cannot_be_used_costs_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.cli.run_notes import CountedPeople
    from edge.errors import ImageError

    calls = itertools.count()
    real = CountedPeople.__call__

    def breaking(finder: Any, image: Any) -> Any:
        if next(calls) == 3:
            raise ImageError("this one")
        return real(finder, image)

    monkeypatch.setattr(CountedPeople, "__call__", breaking)
    run(*TWO_STAGE, walk(tmp_path / "a.mp4", 6), "--out", tmp_path / "out")
    assert [len(entry["people"]) for entry in written(tmp_path / "out")] == [2, 2, 2, 0, 2, 2]
    assert "1 frames could not be used" in capsys.readouterr().err


def test_an_mp4_of_another_layout_says_so(tmp_path: Path) -> None:
    from edge.media.mp4_times import FrameTimes

    times = FrameTimes(0.04)
    for number in range(3):
        times.add(number * 0.1)
    path = walk(tmp_path / "a.mp4", 4)
    before = path.read_bytes()
    for wrong in (before, before + b"\0\0\0\x08free", b"", b"\0\0\0\x08moov", before[:-5]):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"frames|end|index|box"):
            times.write(path)
        assert path.read_bytes() == wrong


# --- nobody kept ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["two-stage", "one-stage"])
def test_who_is_found_and_not_kept_is_told_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    """Keypoints score 0.9 in these networks."""
    command = TWO_STAGE if model == "two-stage" else ("run", "--model", "one-stage")
    video, out = walk(tmp_path / "a.mp4", 3), ("--out", tmp_path / "out")
    run(*command, video, *out, "--keypoint-score", "0.95")
    said = capsys.readouterr()
    assert "at most 0 people" in said.out
    (line,) = said.err.splitlines()
    assert line.startswith(f"note: {video}: people were found 6 times, and nobody was kept: half ")
    # What the line says does what it says.
    score = line.partition("--keypoint-score ")[2].split()[0]
    run(*command, video, *out, "--keypoint-score", score)
    assert "2 people followed" in capsys.readouterr().out
    run(*command, video, *out, "--keypoint-score", "0.95", "--no-track")
    said = capsys.readouterr()
    assert "at most 2 people" in said.out
    assert said.err == ""


def test_where_nobody_is_there_is_nothing_to_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "a.mp4", [picture([], (240, 320))] * 3)
    run(*TWO_STAGE, video, "--out", tmp_path / "out")
    assert capsys.readouterr().err == ""
