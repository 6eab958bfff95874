"""`edge run` on videos, globs and streams: what is written, what is said, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.cli.commands import COMMANDS
from edge.cli.main import command_parser
from tests.conftest import ROOT
from tests.stand_ins.command_line import fails
from tests.stand_ins.moving_people import (
    detector_session,
    picture,
    pose_session,
    read_frames,
    walk,
    walking,
    write_video,
)
from tests.stand_ins.pixel_networks import (
    TWO_STAGE,
    pixel_models,  # noqa: F401
    run,
    written,
)

cv2 = pytest.importorskip("cv2")


def test_a_video_is_drawn_and_its_people_are_numbered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], models: dict[str, Any]
) -> None:
    video, out = walk(tmp_path / "walk.avi", code="MJPG"), tmp_path / "out"
    run(*TWO_STAGE, video, "--out", out, "--interval", "5")
    assert sorted(path.name for path in out.iterdir()) == ["poses.json", "walk.mp4"]
    frames = read_frames(out / "walk.mp4")
    assert [frame.shape for frame in frames] == [(240, 320, 3)] * 20
    # The black picture got colours: boxes, limbs and numbers.
    assert all((np.ptp(frame.astype(int), axis=2) > 60).any() for frame in frames)
    entries = written(out)
    assert [entry["frame"] for entry in entries] == list(range(20))
    assert [entry["image_id"] for entry in entries] == list(range(1, 21))
    assert [entry["time_s"] for entry in entries] == pytest.approx(np.arange(20) / 25)
    for index, entry in enumerate(entries):
        assert (entry["file"], entry["height_px"], entry["width_px"]) == ("walk.avi", 240, 320)
        people = sorted(entry["people"], key=lambda person: float(person["box_xyxy"][1]))
        assert {person["track_id"] for person in people} == {0, 1}
        assert [p["track_id"] for p in people] == [p["track_id"] for p in entries[0]["people"]]
        for person, (x, y, width, height) in zip(people, walking(index), strict=True):
            points = np.array(list(person["keypoints"].values()))
            middle = points[:, :2].mean(axis=0)
            np.testing.assert_allclose(middle, (x + width / 2, y + height / 2), atol=5)
    assert len(models["detector"].batch_sizes) == 4
    said = capsys.readouterr()
    assert re.search(r"walk.avi: 20 frames, [\d.]+ frames/s, 2 people followed -> ", said.out)
    assert "edge:" not in said.err


def test_coco_results_of_a_video_have_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, out = walk(tmp_path / "walk.mp4", 6), tmp_path / "out"
    run("run", "--model", "one-stage", video, "--out", out, "--json")
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((out / "coco_results.json").read_text())
    assert [(one["image_id"], one["track_id"]) for one in results] == [
        (image_id, track_id) for image_id in range(1, 7) for track_id in (0, 1)
    ]
    assert all(len(one["keypoints"]) == 15 and one["score"] > 0.8 for one in results)


def test_without_tracking(tmp_path: Path, models: dict[str, Any]) -> None:
    video, out = walk(tmp_path / "walk.mp4", 6), tmp_path / "out"
    run(*TWO_STAGE, video, "--out", out, "--no-track", "--interval", "3")
    assert len(models["detector"].batch_sizes) == 2
    people = [person for entry in written(out) for person in entry["people"]]
    assert len(people) == 12
    assert {person["track_id"] for person in people} == {None}
    # A pose model alone takes each frame for one box.
    run("run", "--model", "pose", video, "--out", tmp_path / "alone")
    for entry in written(tmp_path / "alone"):
        assert [person["box_xyxy"] for person in entry["people"]] == [[0, 0, 320, 240]]


def test_each_video_begins_with_number_0(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.mp4", "b.mov"):
        walk(folder / name, 3)
    cv2.imwrite(str(folder / "c.png"), picture(walking(0), (240, 320)))
    (folder / "notes.txt").write_text("neither picture nor video")
    run(*TWO_STAGE, folder, "--out", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.mp4", "b.mp4", "c.png", "poses.json"]
    entries = written(tmp_path / "out")
    assert [entry["file"] for entry in entries] == ["a.mp4"] * 3 + ["b.mov"] * 3 + ["c.png"]
    assert [entry["image_id"] for entry in entries] == list(range(1, 8))
    assert "frame" not in entries[-1]
    for entry in entries[:-1]:
        assert [person["track_id"] for person in entry["people"]] == [0, 1]
    assert {person["track_id"] for person in entries[-1]["people"]} == {None}


def test_pictures_in_a_glob_can_be_the_frames_of_a_video(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(4):
        # Frames of changing size.
        image = picture(walking(index), (240 + 20 * (index % 2), 320))
        cv2.imwrite(str(folder / f"f{index}.png"), image)
    run(*TWO_STAGE, folder / "f*.p?g", "--out", tmp_path / "out", "--track", "--interval", "2")
    entries = written(tmp_path / "out")
    assert [entry["file"] for entry in entries] == [f"f{index}.png" for index in range(4)]
    assert [entry["height_px"] for entry in entries] == [240, 260, 240, 260]
    assert all([person["track_id"] for person in e["people"]] == [0, 1] for e in entries)


def test_nobody_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "empty.mp4", [picture([], (240, 320))] * 5)
    run(*TWO_STAGE, video, "--out", tmp_path / "out")
    assert [entry["people"] for entry in written(tmp_path / "out")] == [[]] * 5
    assert len(read_frames(tmp_path / "out" / "empty.mp4")) == 5
    assert "5 frames" in capsys.readouterr().out


def test_fifty_people(tmp_path: Path, models: dict[str, Any]) -> None:
    boxes = [(12 + 62 * (n % 10), 10 + 92 * (n // 10), 24, 60) for n in range(50)]
    video = write_video(tmp_path / "crowd.mp4", [picture(boxes, (480, 640))] * 3)
    models["pose"] = pose_session(max_batch=8)
    run(*TWO_STAGE, video, "--out", tmp_path / "out")
    for entry in written(tmp_path / "out"):
        assert sorted(person["track_id"] for person in entry["people"]) == list(range(50))
    assert set(models["pose"].batch_sizes) == {8}


def test_what_cannot_be_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video, image = walk(tmp_path / "walk.mp4", 3), tmp_path / "one.png"
    cv2.imwrite(str(image), picture([], (64, 64)))
    out = ("--out", tmp_path / "out")
    for argv, words in (
        (("run", "--model", "pose", video, "--track"), "--track needs a --detector"),
        (("run", "--model", "pose", video, "--interval", "2"), "add --detector"),
        (("run", "--model", "one-stage", video, "--interval", "2"), "leave --interval out"),
        ((*TWO_STAGE, video, "--no-track", "--tracker", "sdk"), "here they are not"),
        ((*TWO_STAGE, image, "--tracker", "sdk"), "add --track"),
        ((*TWO_STAGE, image, "--interval", "2"), "--interval is for videos"),
    ):
        assert words in fails(capsys, *argv, *out)
    assert not (tmp_path / "out").exists()


def test_the_manual_names_the_options_that_there_are() -> None:
    parsers = [command_parser(one) for one in COMMANDS if one.name in ("run", "choose")]
    actions = [action for parser in parsers for action in parser._actions]
    real = {name for action in actions for name in action.option_strings if len(name) > 2}
    text = (ROOT / "docs/run.md").read_text(encoding="utf-8")
    text = re.sub(r"^edge convert .*", "", text, flags=re.MULTILINE)
    assert set(re.findall(r"--[a-z][a-z-]*", text)) == real - {"--help"}


def test_the_manual_s_python(monkeypatch: pytest.MonkeyPatch) -> None:
    import edge

    text = (ROOT / "docs/run.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    made = {"POSE": pose_session(), "DETECTOR": detector_session()}
    monkeypatch.setattr(edge, "load_artifact", lambda name: name)
    monkeypatch.setattr(edge, "open_session", made.__getitem__)
    printed: list[int] = []
    frames = [picture(walking(index), (240, 320)) for index in range(3)]
    exec(code, {"frames": frames, "print": lambda number, *_: printed.append(number)})
    assert printed == [0, 1] * 3


def test_opencv_is_an_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = walk(tmp_path / "walk.mp4", 3)
    monkeypatch.setitem(sys.modules, "cv2", None)
    line = fails(capsys, *TWO_STAGE, video, "--out", tmp_path / "out")
    assert "pip install 'edgepose[image]'" in line


def test_the_sdk_s_tracker_can_be_had(tmp_path: Path) -> None:
    """The two differ by construction where a person is lost and found again."""
    frames = [picture(walking(i) if not 6 <= i < 9 else [], (240, 320)) for i in range(14)]
    video = write_video(tmp_path / "walk.avi", frames, code="MJPG")
    entries = {}
    for mode in ("corrected", "sdk"):
        run(*TWO_STAGE, video, "--out", tmp_path / mode, "--tracker", mode)
        entries[mode] = written(tmp_path / mode)
    run(*TWO_STAGE, video, "--out", tmp_path / "default")
    assert written(tmp_path / "default") == entries["corrected"] != entries["sdk"]
