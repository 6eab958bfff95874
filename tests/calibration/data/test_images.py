"""Calibration sets: which feeds, in which order, and what is said about poor pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from calibration.data.images import CALIBRATION_SEED, PARITY_SEED, calibration_set
from calibration.people.synthetic import crop_scene, scene
from edge.detector import detector_feeds
from edge.errors import ImageError, SpecError
from edge.picture import read_image
from edge.pose import pose_feeds
from tests.conftest import shared
from tests.stand_ins.specs import detector_spec, pose_spec

cv2 = pytest.importorskip("cv2")


def photos_in(folder: Path, count: int, hw: tuple[int, int] = (300, 400)) -> list[Path]:
    """Rendered scenes as files."""
    paths = []
    for index in range(count):
        image = scene(40, index, image_hw=hw).image_bgr
        paths.append(folder / f"{index:03d}.png")
        cv2.imwrite(str(paths[-1]), image)
    return paths


def test_rendered_crops_go_through_the_runtimes_preprocessing() -> None:
    feeds = calibration_set("synthetic:9", pose_spec())
    assert len(feeds) == 9
    for index in (0, 8):
        made = crop_scene(CALIBRATION_SEED, index, variety=0.25)
        want, _ = pose_feeds(pose_spec(), made.image_bgr, made.people[0].box_xyxy[None])
        np.testing.assert_array_equal(feeds[index]["input"], want["input"])
    assert feeds[0]["input"].shape == (1, 3, 256, 192)
    first, second = list(feeds), list(feeds)
    assert len(first) == len(second) == 9
    np.testing.assert_array_equal(first[4]["input"], second[4]["input"])
    assert [f["input"].shape for f in feeds[2:4]] == [(1, 3, 256, 192)] * 2
    assert feeds.notices[0] == "calibrated on synthetic people; pictures of the real use are better"


def test_its_pictures_are_nobody_elses() -> None:
    # Training has 1, the tests have 2.
    assert len({CALIBRATION_SEED, PARITY_SEED, 1, 2}) == 4


def test_the_record_tells_sets_apart() -> None:
    a, again = (calibration_set("synthetic:8", detector_spec()) for _ in range(2))
    other = calibration_set("synthetic:8", detector_spec(), seed=11)
    longer = calibration_set("synthetic", detector_spec(), count=9)
    assert a.to_json() == again.to_json() == json.loads(json.dumps(a.to_json()))
    assert len({a.sha256, other.sha256, longer.sha256}) == 3
    assert (a.to_json()["count"], a.seed, len(longer)) == (8, CALIBRATION_SEED, 9)
    assert a.text == "8 pictures of synthetic people, seed 3"
    made = scene(CALIBRATION_SEED, 2, variety=0.25)
    want = detector_feeds(detector_spec(), made.image_bgr)[0]["input"]
    np.testing.assert_array_equal(a[2]["input"], want)


def test_a_subset_of_a_folder_is_drawn_by_seed(tmp_path: Path) -> None:
    paths = photos_in(tmp_path, 12)
    every = [detector_feeds(detector_spec(), read_image(path))[0]["input"] for path in paths]

    def drawn(seed: int) -> list[int]:
        feeds = calibration_set(tmp_path, detector_spec(), count=9, seed=seed)
        assert len(feeds) == 9
        return [
            next(i for i, want in enumerate(every) if np.array_equal(want, one["input"]))
            for one in feeds
        ]

    first = drawn(3)
    assert len(set(first)) == 9
    assert drawn(3) == first
    assert drawn(4) != first


def test_copies_and_damaged_files_are_left_out_and_told(tmp_path: Path) -> None:
    paths = photos_in(tmp_path, 9)
    (tmp_path / "copy.png").write_bytes(paths[2].read_bytes())
    (tmp_path / "damaged.jpg").write_bytes(b"nothing")
    feeds = calibration_set(tmp_path, detector_spec())
    assert len(feeds) == 9
    told = "\n".join(feeds.notices)
    assert "1 copies of others were left out, the first: " in told
    assert f"1 files could not be used, the first: {tmp_path / 'damaged.jpg'}: not an image" in told
    assert "only 9 calibration feeds; 100 to 300 are usual" in told


def test_fewer_than_eight_are_refused(tmp_path: Path) -> None:
    paths = photos_in(tmp_path, 7)
    for number in range(5):
        (tmp_path / f"copy{number}.png").write_bytes(paths[2].read_bytes())
    with pytest.raises(ImageError, match=r"needs 8 different ones or more, these are 7 \(5 copies"):
        calibration_set(tmp_path, detector_spec())
    with pytest.raises(ImageError, match="these are 3"):
        calibration_set("synthetic:3", pose_spec())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no image in this folder"):
        calibration_set(tmp_path / "empty", pose_spec())
    with pytest.raises(SpecError, match="calibrate on a folder, an annotation file"):
        calibration_set(tmp_path / "absent", pose_spec())
    with pytest.raises(SpecError, match="give a number of pictures"):
        calibration_set("synthetic:no", pose_spec())


def test_pictures_of_the_wrong_kind_are_told_with_figures(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("same", "flat", "small"):
        (tmp_path / name).mkdir()
    base = scene(1, 1).image_bgr
    for index in range(8):
        noise = rng.integers(0, 3, base.shape, dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"same/{index}.png"), cv2.add(base, noise))
        grey = rng.integers(20 + 20 * index, 24 + 20 * index, (400, 400, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"flat/{index}.png"), grey)
    photos_in(tmp_path / "small", 8, hw=(48, 64))

    def told(name: str) -> str:
        return "\n".join(calibration_set(tmp_path / name, detector_spec()).notices)

    assert "the 8 calibration pictures are nearly the same" in told("same")
    assert "nearly uniform" not in told("same")
    assert "8 of 8 calibration pictures are nearly uniform" in told("flat")
    assert "nearly the same" not in told("flat")
    assert "8 of 8 calibration pictures are far smaller than" in told("small")
    assert "enlarged 5.0 times" in told("small")
    (tmp_path / "good").mkdir()
    photos_in(tmp_path / "good", 8)
    assert told("good") == "only 8 calibration feeds; 100 to 300 are usual"


def test_annotated_people_become_crops(tmp_path: Path) -> None:
    path = shared("data/coco/test_coco.json")
    feeds = calibration_set(path, pose_spec())
    rows = json.loads(path.read_bytes())
    names = {row["id"]: row["file_name"] for row in rows["images"]}
    people = [row for row in rows["annotations"] if row["num_keypoints"]]
    assert len(feeds) == len(people) == 12
    want = []
    for row in people:
        x, y, w, h = row["bbox"]
        box = np.array([[x, y, x + w, y + h]], np.float32)
        image = read_image(path.with_name(names[row["image_id"]]))
        want.append(pose_feeds(pose_spec(), image, box)[0]["input"])
    for one in feeds:
        assert any(np.array_equal(one["input"], other) for other in want)
    with pytest.raises(ImageError, match="these are 4"):
        calibration_set(path, detector_spec())
    with pytest.raises(ImageError, match=r"4 of 4 pictures of test_coco\.json are missing"):
        calibration_set(path, detector_spec(), images_folder=tmp_path)


def test_a_folder_gives_found_people_or_whole_pictures(tmp_path: Path) -> None:
    paths = photos_in(tmp_path, 10)
    whole = calibration_set(tmp_path, pose_spec())
    assert "no boxes are known: each whole picture is taken for one person" in whole.notices
    box = np.array([[0, 0, 400, 300]], np.float32)
    want = [pose_feeds(pose_spec(), read_image(path), box)[0]["input"] for path in paths]
    assert all(any(np.array_equal(one["input"], w) for w in want) for one in whole)

    two = np.array([[10, 10, 110, 210], [200, 50, 300, 250]], np.float32)
    found = calibration_set(tmp_path, pose_spec(), find_boxes=lambda _: two)
    assert len(found) == 20
    assert found.sha256 != whole.sha256
    assert not any("whole picture" in notice for notice in found.notices)
    few = calibration_set(tmp_path, pose_spec(), find_boxes=lambda _: two, count=8)
    assert (len(few), few.text) == (8, f"8 crops of {tmp_path.name}")
    nobody = np.empty((0, 4), np.float32)
    with pytest.raises(ImageError, match="these are 0"):
        calibration_set(tmp_path, pose_spec(), find_boxes=lambda _: nobody)
