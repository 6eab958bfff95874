"""Data sets: what is read of COCO files, what is refused and in which words, rendered people."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.data.data_set import DataSet, detected_boxes, load_data, synthetic_data
from calibration.people.synthetic import crop_scene
from edge.errors import EdgeError, ImageError, SpecError
from edge.keypoints import KEYPOINT_SETS
from edge.spec import ModelSpec, TensorSpec
from tests.conftest import shared
from tests.stand_ins.specs import detector_spec, pose_spec, rtmo_spec

cv2 = pytest.importorskip("cv2")

Row = dict[str, Any]


def spec_with(keypoint_set: str, count: int) -> ModelSpec:
    tensors = tuple(TensorSpec(f"simcc_{a}", (None, count, n)) for a, n in (("x", 384), ("y", 512)))
    return pose_spec(keypoint_set=keypoint_set, outputs=tensors)


def annotation(image_id: int, box: list[float], keypoints: int = 17, **more: Any) -> Row:
    points = [value for k in range(keypoints) for value in (box[0] + k, box[1] + k, 2)]
    row: Row = {
        "id": 0,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": box,
        "area": 500.0,
        "keypoints": points,
        "num_keypoints": keypoints,
    }
    return row | more


def written(folder: Path, annotations: list[Row] | None = None, **more: Any) -> Path:
    """Two pictures of 80x60 with noise, and a COCO file beside them."""
    rng = np.random.default_rng(0)
    images = []
    for image_id, name in ((7, "a.png"), (3, "b.png")):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
        images.append({"id": image_id, "file_name": name, "height": 60, "width": 80})
    rows = annotations or [annotation(3, [5.0, 5, 30, 40]), annotation(7, [0.0, 0, 79.5, 61])]
    data = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "person"}]}
    path = folder / "truth.json"
    path.write_text(json.dumps({**data, **more}))
    return path


def test_annotations_become_pictures_and_boxes(tmp_path: Path) -> None:
    data = load_data(written(tmp_path), pose_spec())
    assert [(p.image_id, p.name, p.image_hw) for p in data.pictures] == [
        (7, "a.png", (60, 80)),
        (3, "b.png", (60, 80)),
    ]
    np.testing.assert_array_equal(data.pictures[1].read(), cv2.imread(str(tmp_path / "b.png")))
    first, second = (data.true_boxes(picture) for picture in data.pictures)
    # Clipped to the last pixel's centre, as mmpose does.
    np.testing.assert_array_equal(first.boxes_xyxy, [[0, 0, 79, 59]])
    np.testing.assert_array_equal(second.boxes_xyxy, [[5, 5, 35, 45]])
    assert [row["id"] for row in data.truth["annotations"]] == [1, 2]
    assert (first.annotation_ids.tolist(), second.annotation_ids.tolist()) == ([2], [1])
    assert data.notices == ()


@pytest.mark.parametrize(
    ("ids", "want", "told"),
    [
        ((900100262487, 17), [900100262487, 17], False),
        ((5, 5), [1, 2], True),
        ((0, 3), [1, 2], True),
        (("a", "b"), [1, 2], False),
        ((None, None), [1, 2], False),
    ],
    ids=str,
)
def test_answers_name_the_files_own_annotations(
    tmp_path: Path, ids: Any, want: list[int], told: bool
) -> None:
    rows = [annotation(3, [5.0, 5, 30, 40], id=ids[0]), annotation(7, [9.0, 9, 30, 40], id=ids[1])]
    path = written(tmp_path, rows)
    data = load_data(path, pose_spec())
    assert [row["id"] for row in data.truth["annotations"]] == want
    given = {p.image_id: data.true_boxes(p).annotation_ids.tolist() for p in data.pictures}
    assert given == {3: [want[0]], 7: [want[1]]}
    assert any("ids" in notice for notice in data.notices) is told
    assert data.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_crowds_unlabelled_people_and_empty_boxes_are_not_looked_into(tmp_path: Path) -> None:
    unlabelled = annotation(7, [3.0, 1, 20, 20])
    unlabelled["keypoints"] = [0] * 51
    rows = [
        annotation(7, [1.0, 1, 20, 20]),
        annotation(7, [2.0, 1, 20, 20], iscrowd=1),
        unlabelled,
        annotation(7, [4.0, 1, 0, 20]),
        annotation(7, [90.0, 1, 20, 20]),
    ]
    data = load_data(written(tmp_path, rows), pose_spec())
    assert data.true_boxes(data.pictures[0]).annotation_ids.tolist() == [1]
    assert data.true_boxes(data.pictures[1]).boxes_xyxy.shape == (0, 4)
    # A detector is judged on all of them but the crowd, which COCO ignores.
    assert len(load_data(tmp_path / "truth.json", detector_spec()).truth["annotations"]) == 5


def test_the_fingerprint_is_of_content(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = load_data(path, pose_spec()).sha256
    assert load_data(path, pose_spec()).sha256 == before
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((60, 80, 3), np.uint8))
    assert load_data(path, pose_spec()).sha256 != before
    written(tmp_path, [annotation(3, [5.0, 5, 30, 41])])
    assert load_data(path, pose_spec()).sha256 != before


def test_oddities_are_told(tmp_path: Path) -> None:
    bare = annotation(3, [5.0, 5, 30, 40])
    del bare["area"]
    without = annotation(7, [5.0, 5, 30, 40], keypoints=0)
    path = written(tmp_path, [bare, without])
    (tmp_path / "a.png").write_bytes((tmp_path / "b.png").read_bytes())
    data = load_data(path, pose_spec())
    assert data.truth["annotations"][0]["area"] == pytest.approx(0.53 * 30 * 40)
    assert data.notices == (
        "1 of 2 annotations have no area: 0.53 of the box's is taken",
        "1 of 2 annotations have no keypoints and are ignored",
        "1 pictures are copies of others, for one a.png and b.png; all of them count",
    )


def broken(path: Path, change: Any) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("images"), "no COCO annotations"),
        (lambda d: d["images"][0].pop("height"), "every image needs id, file_name, height"),
        (lambda d: d["images"][1].update(id=7), "two images have the id 7"),
        (lambda d: d["annotations"][1].update(image_id=5), "annotation 1 is of image 5, which is"),
        (lambda d: d["annotations"][1].pop("bbox"), "annotation 1 lacks"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "annotation 0 has the box"),
        (lambda d: d["images"][0].update(file_name="c.png"), "1 of 2 pictures of truth.json are m"),
        (
            lambda d: d["annotations"][0].update(keypoints=[1, 1, 1] * 21),
            "annotation 0 has 21 keypoints, pose has 17 .coco17.; give annotations of",
        ),
        (lambda d: d.update(annotations=[]), "no annotation"),
        (
            lambda d: [row.update(keypoints=[0] * 51) for row in d["annotations"]],
            "no annotation has a labelled keypoint",
        ),
        (
            lambda d: d["categories"][0].update(keypoints=list(KEYPOINT_SETS["ap10k17"].keypoints)),
            "keypoint 0 is left_eye, that of pose is nose .coco17.",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(
    tmp_path: Path, change: Any, words: str
) -> None:
    path = written(tmp_path)
    broken(path, change)
    with pytest.raises(EdgeError, match=words) as caught:
        load_data(path, pose_spec())
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"absent.json: cannot be read"):
        load_data(tmp_path / "absent.json", pose_spec())
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(SpecError, match=r"text.json: no valid JSON"):
        load_data(tmp_path / "text.json", pose_spec())
    path = written(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a.png: not an image"):
        load_data(path, pose_spec()).pictures[0].read()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((80, 60, 3), np.uint8))
    with pytest.raises(ImageError, match=r"a.png: is 60x80 .* its annotations are for 80x60"):
        load_data(path, pose_spec()).pictures[0].read()
    for text in ("synthetic:", "synthetic:0", "synthetic:many"):
        with pytest.raises(SpecError, match="give a number of pictures"):
            load_data(text, pose_spec())


def test_a_detector_needs_people(tmp_path: Path) -> None:
    cats = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    path = written(tmp_path, [annotation(3, [5.0, 5, 30, 40], category_id=17)], categories=cats)
    with pytest.raises(SpecError, match="no category is called person"):
        load_data(path, detector_spec())
    only = written(tmp_path, [annotation(3, [5.0, 5, 30, 40], category_id=17)], categories=cats[:1])
    assert load_data(only, detector_spec()).truth["categories"] == [{"id": 17, "name": "cat"}]


def test_a_part_holds_its_pictures_alone(tmp_path: Path) -> None:
    data = load_data(written(tmp_path), pose_spec())
    part = data.part(range(1, 2))
    assert [picture.image_id for picture in part.pictures] == [3]
    assert [row["image_id"] for row in part.truth["annotations"]] == [3]
    assert part.sha256 == data.sha256
    for wrong in (range(0), range(1, 3), range(2, 2)):
        with pytest.raises(SpecError, match="FIRST < END <= 2"):
            data.part(wrong)


# --- whole body, and Halpe ------------------------------------------------------------------------


def test_the_whole_body_is_put_together_from_its_fields() -> None:
    path = shared("data/coco/test_coco_wholebody.json")
    rows = json.loads(path.read_bytes())["annotations"]
    data = load_data(path, spec_with("coco-wholebody133", 133))
    for row, made in zip(rows, data.truth["annotations"], strict=True):
        points = np.array(made["keypoints"]).reshape(133, 3)
        fields = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
        starts = (0, 17, 23, 91, 112, 133)
        for field, first, end in zip(fields, starts[:-1], starts[1:], strict=True):
            np.testing.assert_array_equal(points[first:end].reshape(-1), row[field])
        assert made["num_keypoints"] == int((points[:, 2] > 0).sum())
    # The same file serves a model of the body alone.
    body = load_data(path, pose_spec())
    assert len(body.truth["annotations"][0]["keypoints"]) == 51
    with pytest.raises(SpecError, match="has 17 keypoints, pose has 26"):
        load_data(path, spec_with("halpe26", 26))


def test_halpe_gives_its_first_26(tmp_path: Path) -> None:
    path = written(tmp_path, [annotation(3, [5.0, 5, 30, 40], keypoints=136)])
    data = load_data(path, spec_with("halpe26", 26))
    want = annotation(3, [5.0, 5, 30, 40], keypoints=136)["keypoints"][:78]
    assert data.truth["annotations"][0]["keypoints"] == want


# --- rendered people ------------------------------------------------------------------------------


def test_rendered_people_are_those_of_the_test_seed() -> None:
    seen: list[tuple[int, int]] = []
    data = synthetic_data(3, pose_spec(), on_progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for index, picture in enumerate(data.pictures):
        made = crop_scene(2, index, variety=0.25)
        np.testing.assert_array_equal(picture.read(), made.image_bgr)
        (row,) = data.annotations[picture.image_id]
        np.testing.assert_array_equal(
            np.array(row["keypoints"]).reshape(17, 3), made.people[0].keypoints_xyv
        )
        assert row["area"] == made.people[0].area_px
    assert data.sha256 == load_data("synthetic:3", pose_spec()).sha256
    assert data.sha256 != synthetic_data(3, pose_spec(), seed=5).sha256
    assert data.text == "3 synthetic crops, seed 2, variety 0.25"


def test_a_picture_beyond_the_memory_is_rendered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calibration.data.data_set._KEPT_BYTES", 0)
    data = synthetic_data(2, pose_spec())
    np.testing.assert_array_equal(data.pictures[1].read(), crop_scene(2, 1, variety=0.25).image_bgr)


def shared_points(data: DataSet) -> np.ndarray:
    return np.array(data.truth["annotations"][0]["keypoints"]).reshape(-1, 3)


def test_other_sets_of_people_share_the_bodys_points() -> None:
    body = shared_points(synthetic_data(1, pose_spec()))
    halpe = shared_points(synthetic_data(1, spec_with("halpe26", 26)))
    np.testing.assert_array_equal(halpe[:17], body)
    assert (halpe[17:] == 0).all()
    crowd = shared_points(synthetic_data(1, spec_with("crowdpose14", 14)))
    np.testing.assert_array_equal(crowd[:12], body[5:])
    for name, count in (("hand21", 21), ("ap10k17", 17), ("face106", 106), ("unnamed-17", 17)):
        with pytest.raises(SpecError, match="rendered people have COCO's 17 keypoints"):
            synthetic_data(1, spec_with(name, count))


def test_whole_scenes_are_for_those_who_see_them() -> None:
    for spec in (detector_spec(), rtmo_spec()):
        data = synthetic_data(1, spec)
        assert data.pictures[0].image_hw == (480, 640)
        assert ("keypoints" in data.truth["annotations"][0]) == (spec.task == "one-stage")


# --- detections -----------------------------------------------------------------------------------


def test_detections_are_taken_as_mmpose_does(tmp_path: Path) -> None:
    data = load_data(written(tmp_path), pose_spec())
    rows = [
        {"image_id": 3, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9},
        {"image_id": 3, "category_id": 1, "bbox": [-5, 2, 30, 40], "score": 0.1},
        {"image_id": 3, "category_id": 2, "bbox": [1, 2, 30, 40], "score": 0.9},
        {"image_id": 3, "category_id": 1, "bbox": [1, 2, 0, 40], "score": 0.9},
        {"image_id": 99, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9},
    ]
    path = tmp_path / "found.json"
    path.write_text(json.dumps(rows))
    boxes = detected_boxes(path, data)
    np.testing.assert_array_equal(boxes[3].boxes_xyxy, [[1, 2, 31, 42], [-5, 2, 25, 42]])
    assert boxes[3].annotation_ids.tolist() == [0, 0]
    assert len(boxes[7].scores) == 0
    assert len(detected_boxes(path, data, 0.5)[3].scores) == 1
    with pytest.raises(SpecError, match=r"no box of these pictures has a score above 0\.95"):
        detected_boxes(path, data, 0.95)
    path.write_text('{"a": 1}')
    with pytest.raises(SpecError, match="no list of detections"):
        detected_boxes(path, data)
