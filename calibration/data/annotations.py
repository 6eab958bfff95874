"""COCO annotation files: what they must hold, and the keypoints that a model is judged on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import ImageError, SpecError
from edge.spec import ModelSpec
from edge.texts import parse_json, read_text

__all__ = ["Annotations", "image_files", "keypoint_truth", "person_truth", "read_annotations"]

# COCO-WholeBody's fields beside the body, in the order of its 133 keypoints.
_WHOLEBODY_FIELDS = ("foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
# What mmpose's evaluator takes for the area of a person without one, as a part of the box.
_AREA_OF_BOX = 0.53

Row = dict[str, Any]


@dataclass(frozen=True)
class Annotations:
    """A COCO file's three lists, checked: ids are known, boxes are four finite numbers."""

    path: Path
    images: list[Row]
    annotations: list[Row]
    categories: list[Row]


def read_annotations(path: Path) -> Annotations:
    """Read a COCO annotation file; SpecError that says what is wrong with it."""
    data = parse_json(read_text(path), str(path), large=True)
    if not isinstance(data, dict) or not {"images", "annotations"} <= set(data):
        raise SpecError(f"{path}: no COCO annotations, which have `images` and `annotations`")
    images, annotations = data["images"], data["annotations"]
    try:
        ids = [int(row["id"]) for row in images]
        sizes = [(int(row["height"]), int(row["width"]), str(row["file_name"])) for row in images]
    except (TypeError, KeyError, ValueError, OverflowError):
        raise SpecError(f"{path}: every image needs id, file_name, height and width") from None
    if not images or not annotations or min(min(size[:2]) for size in sizes) < 1:
        raise SpecError(f"{path}: no image, no annotation, or an image without a size")
    if len(set(ids)) < len(ids):
        raise SpecError(f"{path}: two images have the id {max(ids, key=ids.count)}")
    known = set(ids)
    for number, row in enumerate(annotations):
        try:
            image_id, box = row["image_id"], [float(value) for value in row["bbox"]]
        except (TypeError, KeyError, ValueError, OverflowError):
            raise SpecError(f"{path}: annotation {number} lacks an image_id or a bbox") from None
        if image_id not in known:
            raise SpecError(f"{path}: annotation {number} is of image {image_id}, which is missing")
        if len(box) != 4 or not all(math.isfinite(value) for value in box):
            raise SpecError(f"{path}: annotation {number} has the box {box}: give x, y, w, h")
    categories = data.get("categories") or [{"id": 1, "name": "person"}]
    return Annotations(path, images, annotations, categories)


def image_files(annotations: Annotations, folder: Path) -> list[Path]:
    """The file of every image; ImageError that counts the missing ones."""
    files = [folder / str(row["file_name"]) for row in annotations.images]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ImageError(
            f"{folder}: {len(missing)} of {len(files)} pictures of {annotations.path.name} are "
            f"missing, the first is {missing[0].name}; give their folder with --images"
        )
    return files


def keypoint_truth(annotations: Annotations, spec: ModelSpec) -> tuple[Row, list[str]]:
    """The truth about a keypoint model's people, and notices.

    An annotation without keypoints stays, as one that COCO's evaluation ignores. Raises SpecError
    where the file has other keypoints than the model.
    """
    path, names = annotations.path, spec.keypoints
    rows, without = [], 0
    for number, row in enumerate(annotations.annotations):
        values = _keypoints(row, len(names.keypoints))
        if values is None and row.get("keypoints"):
            raise SpecError(
                f"{path}: annotation {number} has {len(row['keypoints']) / 3:g} keypoints, "
                f"{spec.name} has {len(names.keypoints)} ({names.name}); give annotations of "
                "the model's own keypoints"
            )
        without += values is None
        keypoints = values or [0.0] * (3 * len(names.keypoints))
        visible = sum(value > 0 for value in keypoints[2::3])
        rows.append({**_plain(row), "keypoints": keypoints, "num_keypoints": visible})
    if not any(row["num_keypoints"] for row in rows):
        raise SpecError(f"{path}: no annotation has a labelled keypoint")
    used = {row["category_id"] for row in rows}
    categories = [row for row in annotations.categories if row["id"] in used]
    for category in categories:
        _check_order(path, category, names.keypoints, spec)
    truth, notices = _truth(annotations, rows, categories)
    if without:
        notices.append(f"{without} of {len(rows)} annotations have no keypoints and are ignored")
    return truth, notices


def person_truth(annotations: Annotations, spec: ModelSpec) -> tuple[Row, list[str]]:
    """The truth about a detector's people, and notices; SpecError where nobody is a person."""
    categories = [row for row in annotations.categories if row.get("name") == "person"]
    if not categories and len(annotations.categories) == 1:
        categories = annotations.categories
    if not categories:
        raise SpecError(
            f"{annotations.path}: no category is called person, which is what {spec.name} is "
            "judged on"
        )
    person = categories[0]["id"]
    rows = [_plain(row) for row in annotations.annotations if row.get("category_id", 1) == person]
    if not any(not row["iscrowd"] for row in rows):
        raise SpecError(f"{annotations.path}: no annotation is of the category person")
    return _truth(annotations, rows, categories)


def _plain(row: Row) -> Row:
    """What COCO's evaluation reads of an annotation; no area where it has none."""
    box = [float(value) for value in row["bbox"]]
    plain = {
        "id": row.get("id"),
        "image_id": row["image_id"],
        "category_id": row.get("category_id", 1),
        "iscrowd": int(row.get("iscrowd", 0)),
        "bbox": box,
    }
    if "area" in row:
        plain["area"] = float(row["area"])
    return plain


def _truth(
    annotations: Annotations, rows: list[Row], categories: list[Row]
) -> tuple[Row, list[str]]:
    notices = []
    without = [row for row in rows if "area" not in row]
    for row in without:
        row["area"] = _AREA_OF_BOX * row["bbox"][2] * row["bbox"][3]
    if without:
        notices.append(
            f"{len(without)} of {len(rows)} annotations have no area: {_AREA_OF_BOX} of the box's "
            "is taken"
        )
    ids = [row.pop("id") for row in rows]
    # COCOeval takes an annotation's id of 0 for "not matched": ids begin at 1.
    numbers = [own for own in ids if type(own) is int and own > 0]
    if len(set(numbers)) < len(rows):
        if numbers:  # who wrote none, or 0 throughout, does not look for them
            notices.append(
                "the annotations' ids are not a whole number above 0 each, all of them different: "
                "they are numbered from 1 in the order of the file"
            )
        ids = list(range(1, len(rows) + 1))
    numbered = [{"id": own, **row} for own, row in zip(ids, rows, strict=True)]
    images = [
        {"id": row["id"], "file_name": str(row["file_name"]), "height": int(row["height"]),
         "width": int(row["width"])}
        for row in annotations.images
    ]  # fmt: skip
    named = [{"id": row["id"], "name": str(row.get("name", row["id"]))} for row in categories]
    return {"images": images, "annotations": numbered, "categories": named}, notices


def _keypoints(row: Row, count: int) -> list[float] | None:
    """The 3 * count numbers of a model's keypoints, None where these are not in the annotation."""
    values = list(row.get("keypoints") or [])
    if count == 133 and all(field in row for field in _WHOLEBODY_FIELDS):
        for field in _WHOLEBODY_FIELDS:
            values += row[field]
    elif count == 26 and len(values) == 3 * 136:
        values = values[: 3 * 26]  # Halpe's body and feet come first
    return [float(value) for value in values] if len(values) == 3 * count else None


def _check_order(path: Path, category: Row, names: tuple[str, ...], spec: ModelSpec) -> None:
    """Refuse keypoints that the file calls by names that the model has at other places."""
    given = [str(name).strip().lower().replace(" ", "_") for name in category.get("keypoints", [])]
    for place, name in enumerate(given[: len(names)]):
        if name in names and names[place] != name:
            raise SpecError(
                f"{path}: keypoint {place} is {name}, that of {spec.name} is {names[place]} "
                f"({spec.keypoint_set}); give annotations of the model's own keypoints"
            )
