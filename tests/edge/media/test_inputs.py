"""Folders, patterns and names: nothing is passed over without a word, on every way in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import ImageError
from tests.stand_ins.command_line import fails
from tests.stand_ins.moving_people import picture, walk, walking
from tests.stand_ins.pixel_networks import TWO_STAGE, pixel_models, run, written  # noqa: F401
from tests.stand_ins.specs import detector_spec

cv2 = pytest.importorskip("cv2")


def encoded(suffix: str, index: int = 0) -> bytes:
    data: bytes = cv2.imencode(suffix, picture(walking(index), (240, 320)))[1].tobytes()
    return data


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Pictures and a video under names that say nothing or lie, and what is neither."""
    folder = tmp_path / "mixed"
    (folder / "inside").mkdir(parents=True)
    for name, data in {
        "a.jpg": encoded(".jpg"),
        "b.jfif": encoded(".jpg"),
        "c": encoded(".png"),
        "d.mp4": encoded(".bmp"),
        "e.jp2": encoded(".jp2"),
        "f.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "g.txt": b"notes",
        "inside/h.png": encoded(".png"),
        ".DS_Store": b"\0\0\0\1Bud1",
    }.items():
        (folder / name).write_bytes(data)
    walk(tmp_path / "i.mp4", 2).rename(folder / "i.jpg")
    return folder


LEFT_OUT = (
    ".DS_Store (neither picture nor video), f.heic (HEIC is not read), "
    "g.txt (neither picture nor video), inside (a folder)"
)


def test_a_folder_of_many_formats(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = mixed.parent / "out"
    run(*TWO_STAGE, mixed, "--out", out)
    entries = written(out)
    files = ["a.jpg", "b.jfif", "c", "d.mp4", "e.jp2", "i.jpg", "i.jpg"]
    assert [entry["file"] for entry in entries] == files
    assert all(len(entry["people"]) == 2 for entry in entries)
    assert sorted(path.name for path in out.iterdir()) == [
        "a.jpg", "b.jfif", "c.png", "d.mp4.png", "e.jp2", "i.mp4", "poses.json",
    ]  # fmt: skip
    # Each drawn picture is one.
    for path in sorted(out.iterdir()):
        assert path.suffix in (".mp4", ".json") or cv2.imread(str(path)).shape == (240, 320, 3)
    assert capsys.readouterr().err == f"note: {mixed}: left out: {LEFT_OUT}\n"


def test_a_pattern(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*TWO_STAGE, mixed / "*", "--out", mixed.parent / "out")
    want = LEFT_OUT.partition("), ")[2]  # a pattern leaves hidden files out, as a shell's does
    assert capsys.readouterr().err == f"note: {mixed / '*'}: left out: {want}\n"
    run(*TWO_STAGE, mixed / "**/*.png", "--out", mixed.parent / "deep")
    assert [entry["file"] for entry in written(mixed.parent / "deep")] == ["h.png"]
    assert capsys.readouterr().err == ""
    assert "no picture or video matches" in fails(
        capsys, *TWO_STAGE, mixed / "*.none", "--out", mixed.parent / "none"
    )


@pytest.mark.parametrize(
    "name", ["².png", "\u0661.png", "7" * 200 + ".png", "0", "clip:1.png", "50%.png"]
)
def test_names_that_look_like_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(encoded(".png"))
    run(*TWO_STAGE, name, "--out", tmp_path / "out", "--json")
    (entry,) = written(tmp_path / "out")
    assert entry["image_id"] == (0 if name == "0" else 1)
    assert len(entry["people"]) == 2


def test_a_video_s_name_may_hold_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    walk(Path("a.mp4"), 3).rename("cam:12.mp4")
    run(*TWO_STAGE, "cam:12.mp4", "--out", "out")
    assert len(written(Path("out"))) == 3


def test_what_is_no_camera(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("²", "1" * 100):
        line = fails(capsys, *TWO_STAGE, text, "--out", tmp_path / "out")
        assert line == f"edge: {text}: no such file"


def animation(path: Path, count: int = 3) -> Path:
    image = pytest.importorskip("PIL.Image")
    frames = [
        image.fromarray(picture(walking(3 * n), (240, 320))[..., ::-1].copy()) for n in range(count)
    ]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    return path


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.tiff"])
def test_of_several_pictures_the_first_is_taken_and_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*TWO_STAGE, animation(tmp_path / name), "--out", tmp_path / "out")
    assert capsys.readouterr().err == f"note: {name}: the first of its 3 pictures is taken\n"
    (entry,) = written(tmp_path / "out")
    lefts = sorted(person["box_xyxy"][0] for person in entry["people"])
    assert lefts == pytest.approx([20, 260], abs=2)
    # Of many files one line.
    animation(tmp_path / f"b{name}", 2)
    run(*TWO_STAGE, tmp_path / name, tmp_path / f"b{name}", "--out", tmp_path / "two")
    told = capsys.readouterr().err
    assert told == (
        f"note: of files that hold several pictures the first is taken: {name} (3), b{name} (2)\n"
    )


# --- the other ways in ----------------------------------------------------------------------------


def test_pictures_to_compare_on(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As --images of convert, verify, bench and deploy has them; every model asks for them."""
    from converters.commands.parity_pictures import parity_images

    animation(mixed / "j.webp")
    source = parity_images(mixed)
    assert source.text.startswith("6 images of mixed, sha256 ")
    for _ in range(2):
        assert [feeds.name for feeds in source.feeds(detector_spec())] == [
            "a.jpg", "b.jfif", "c", "d.mp4", "e.jp2", "j.webp",
        ]  # fmt: skip
    left_out = LEFT_OUT.replace("inside", "i.jpg (video), inside")
    assert capsys.readouterr().err.splitlines() == [
        f"note: {mixed}: left out: {left_out}",
        "note: j.webp: the first of its 3 pictures is taken",
    ]


def test_pictures_to_calibrate_on(mixed: Path) -> None:
    from calibration.data.images import calibration_set

    for index in range(8):
        (mixed / f"p{index}").write_bytes(encoded(".png", index))
    animation(mixed / "q.webp", 2)
    made = calibration_set(mixed, detector_spec())
    # a.jpg and b.jfif are one picture, and so are c and p0.
    assert "pictures of mixed" in made.text
    assert any("f.heic (HEIC is not read)" in line for line in made.notices)
    assert "q.webp: the first of its 2 pictures is taken" in made.notices


def test_annotated_pictures(tmp_path: Path) -> None:
    import json

    from calibration.data.data_set import load_data

    animation(tmp_path / "a.webp")
    (tmp_path / "b.heic").write_bytes(encoded(".jpg"))
    rows = [
        {"id": n, "file_name": name, "height": 240, "width": 320}
        for n, name in enumerate(("a.webp", "b.heic"), start=1)
    ]
    boxes = [{"id": 1, "image_id": 1, "bbox": [20, 30, 24, 60], "category_id": 1, "area": 900}]
    (tmp_path / "a.json").write_text(json.dumps({"images": rows, "annotations": boxes}))
    data = load_data(tmp_path / "a.json", detector_spec())
    assert "a.webp: the first of its 3 pictures is taken" in data.notices
    assert all(one.read().shape == (240, 320, 3) for one in data.pictures)


def test_pictures_for_a_pipeline_on_a_device(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from targets.commands.bench_pipeline import pictures

    assert [name for name, _ in pictures(mixed, 1)] == ["a.jpg", "b.jfif", "c", "d.mp4"]
    assert "f.heic (HEIC is not read)" in capsys.readouterr().err


def test_a_service_takes_videos_alone(tmp_path: Path) -> None:
    from edge.media.frames import find_sources

    (tmp_path / "a.mp4").write_bytes(encoded(".jpg"))
    (source,) = find_sources([str(tmp_path / "a.mp4")])
    assert source.kind == "picture"
    video = walk(tmp_path / "v.mp4", 2).rename(tmp_path / "v")
    (source,) = find_sources([str(video)])
    assert source.kind == "video"


def test_what_is_no_file(tmp_path: Path) -> None:
    from edge.media.inputs import find_images, sort_out

    os.mkfifo(tmp_path / "pipe.png")
    said: list[str] = []
    assert sort_out("x", tmp_path.iterdir(), said.append) == []
    assert said == ["x: left out: pipe.png (no file)"]
    with pytest.raises(ImageError, match="a video; a picture is wanted"):
        find_images([walk(tmp_path / "v.png.mp4", 2)])


# --- answers that are no numbers ------------------------------------------------------------------


def test_what_is_not_finite_reaches_neither_json_nor_drawing(tmp_path: Path) -> None:
    import json

    from edge.cli.run_results import JsonFile, coco_result
    from edge.keypoints import find_keypoint_set
    from edge.people import people_json
    from edge.picture import draw_poses
    from edge.pipeline import Pose

    points = np.ones((17, 3), np.float32) * 20
    points[0], points[1, 2], points[2, 0], points[3] = np.nan, np.nan, np.inf, (1e30, -1e30, 1)
    pose = Pose(np.array([np.nan, 0, np.inf, 9], np.float32), float("nan"), points)
    names = find_keypoint_set("coco17")
    with JsonFile(tmp_path / "a.json", "[", "]") as file:
        file.add({"people": people_json([pose], names.keypoints)})
        file.add(coco_result(1, pose, by_box=True))

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    made = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert {name: made[0]["people"][0]["keypoints"][name] for name in names.keypoints[:3]} == {
        name: [0, 0, 0] for name in names.keypoints[:3]
    }
    drawn = draw_poses(np.zeros((64, 64, 3), np.uint8), [pose], names, 0.3)
    assert drawn.shape == (64, 64, 3)
