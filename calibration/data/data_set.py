"""Pictures with the truth about them: the user's COCO annotations, or rendered people.

The truth is kept as a COCO dictionary that holds what COCO's evaluation reads and no more, with
the keypoints of the model that is to be judged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.data.annotations import (
    image_files,
    keypoint_truth,
    person_truth,
    read_annotations,
)
from edge.digits import parse_digits
from edge.errors import ImageError, SpecError
from edge.media.containers import count_pictures
from edge.picture import first_taken, read_image
from edge.spec import KEYPOINT_SETS, KeypointSet, ModelSpec
from edge.texts import parse_json, read_text

__all__ = [
    "TEST_SEED",
    "DataSet",
    "GivenBoxes",
    "Picture",
    "annotated_data",
    "detected_boxes",
    "load_data",
    "synthetic_data",
]

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
OnProgress = Callable[[int, int], None]

# Apart from the seeds of training (1), calibration (3) and parity (7).
TEST_SEED = 2
# Beyond this, rendered pictures are not kept but rendered again.
_KEPT_BYTES = 1 << 30


@dataclass(frozen=True)
class Picture:
    """One picture; ``read`` gives it as (H, W, 3) uint8 BGR, or raises ImageError."""

    image_id: int
    name: str
    image_hw: tuple[int, int]
    read: Callable[[], U8]


@dataclass(frozen=True)
class GivenBoxes:
    """Boxes of one picture to look into: (N, 4) float32 x1, y1, x2, y2 in px, and of each

    its score (N,) float32, its category (N,) and the annotation that it is of (N,), 0 for none.
    """

    boxes_xyxy: F32
    scores: F32
    categories: NDArray[np.int64]
    annotation_ids: NDArray[np.int64]


@dataclass(frozen=True)
class DataSet:
    """Pictures and the truth about them for models of one task and keypoint set.

    ``truth`` is a COCO dictionary whose annotations have the ids of the file, or are numbered
    from 1 where these are no ids; ``sha256`` is over the bytes of all pictures and the truth,
    ``file_sha256`` that of the annotation file; ``notices`` are lines that a user should see.
    """

    text: str
    sha256: str
    keypoint_set: str | None
    pictures: tuple[Picture, ...]
    truth: dict[str, Any]
    notices: tuple[str, ...] = ()
    file_sha256: str | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def annotations(self) -> Mapping[int, list[dict[str, Any]]]:
        """The truth by image id; every picture has a list."""
        found: dict[int, list[dict[str, Any]]] = {one.image_id: [] for one in self.pictures}
        for annotation in self.truth["annotations"]:
            found[annotation["image_id"]].append(annotation)
        return found

    def part(self, chosen: range) -> DataSet:
        """Only the pictures of these places, 0 the first; SpecError where there are none."""
        if not chosen or chosen.start < 0 or chosen.stop > len(self) or chosen.step != 1:
            raise SpecError(
                f"pictures {chosen.start}:{chosen.stop} of a data set of {len(self)}: give "
                f"FIRST:END with 0 <= FIRST < END <= {len(self)}"
            )
        pictures = self.pictures[chosen.start : chosen.stop]
        ids = {picture.image_id for picture in pictures}
        truth = {
            **self.truth,
            "images": [row for row in self.truth["images"] if row["id"] in ids],
            "annotations": [row for row in self.truth["annotations"] if row["image_id"] in ids],
        }
        text = f"pictures {chosen.start}:{chosen.stop} of {self.text}"
        return replace(self, text=text, pictures=pictures, truth=truth)

    def true_boxes(self, picture: Picture) -> GivenBoxes:
        """The boxes of a picture's people, as mmpose takes them.

        Crowds, people without a labelled keypoint and boxes without an area are left out; corners
        are clipped to the last pixel's centre.
        """
        height, width = picture.image_hw
        last = np.array([width - 1, height - 1] * 2, np.float64)
        rows = []
        for annotation in self.annotations[picture.image_id]:
            if annotation["iscrowd"] or not annotation.get("num_keypoints", 1):
                continue
            x, y, w, h = annotation["bbox"]
            box = np.clip(np.array([x, y, x + w, y + h], np.float64), 0, last)
            if (box[2:] > box[:2]).all():
                rows.append((box, 1.0, annotation["category_id"], annotation["id"]))
        return _given_boxes(rows)


def _given_boxes(rows: Sequence[tuple[Any, float, int, int]]) -> GivenBoxes:
    boxes, scores, categories, ids = zip(*rows, strict=True) if rows else ((), (), (), ())
    return GivenBoxes(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(categories, np.int64),
        np.array(ids, np.int64),
    )


def load_data(
    source: str | Path,
    spec: ModelSpec,
    images_folder: Path | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> DataSet:
    """The data set that a user named, for models like ``spec``.

    ``source`` is a COCO annotation file, with the pictures in ``images_folder`` (default: beside
    the file), or ``synthetic`` or ``synthetic:N``, N rendered pictures (default 500).

    Raises SpecError or ImageError for one that cannot be used.
    """
    if str(source) == "synthetic":
        return synthetic_data(500, spec, on_progress=on_progress)
    if str(source).startswith("synthetic:"):
        count = parse_digits(str(source).partition(":")[2])
        if not count:
            raise SpecError(f"{source}: give a number of pictures, for example synthetic:500")
        return synthetic_data(count, spec, on_progress=on_progress)
    return annotated_data(Path(source), spec, images_folder)


# --- the user's pictures --------------------------------------------------------------------------


def annotated_data(path: Path, spec: ModelSpec, images_folder: Path | None = None) -> DataSet:
    """A COCO annotation file and its pictures, read when they are needed.

    Keypoints must be those of the model: as many, or COCO-WholeBody's five fields for 133, or
    Halpe's 136 for its first 26, and in the same order where the file names them. A detector is
    judged on the category ``person``, or the only one there is.

    Raises SpecError for annotations that do not suit the model, ImageError for missing pictures.
    """
    annotations = read_annotations(path)
    images_folder = images_folder or path.parent
    files = image_files(annotations, images_folder)
    make = person_truth if spec.task == "detection" else keypoint_truth
    truth, notices = make(annotations, spec)
    digest = hashlib.sha256(json.dumps(truth, sort_keys=True).encode())
    pictures, names_of, several = [], dict[bytes, list[str]](), dict[str, int]()
    for row, file in zip(truth["images"], files, strict=True):
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ImageError(f"{file}: cannot be read ({error.strerror})") from None
        content = hashlib.sha256(data).digest()
        digest.update(content)
        if (count := count_pictures(data)) > 1:
            several[file.name] = count
        names_of.setdefault(content, []).append(file.name)
        hw = (row["height"], row["width"])
        pictures.append(Picture(row["id"], file.name, hw, partial(_read, file, hw)))
    return DataSet(
        f"{len(pictures)} pictures of {path.name}",
        digest.hexdigest(),
        spec.keypoint_set if spec.task != "detection" else None,
        tuple(pictures),
        truth,
        (*notices, *_duplicates(names_of), *([first_taken(several)] if several else [])),
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _read(path: Path, image_hw: tuple[int, int]) -> U8:
    image = read_image(path)
    if image.shape[:2] != image_hw:
        found, want = (f"{width}x{height}" for height, width in (image.shape[:2], image_hw))
        raise ImageError(
            f"{path}: is {found} (width x height), its annotations are for {want}; "
            "give the folder of the pictures that were annotated"
        )
    return image


def _duplicates(names_of: Mapping[bytes, list[str]]) -> tuple[str, ...]:
    twice = [names for names in names_of.values() if len(names) > 1]
    if not twice:
        return ()
    extra = sum(len(names) - 1 for names in twice)
    example = " and ".join(twice[0][:2])
    return (f"{extra} pictures are copies of others, for one {example}; all of them count",)


# --- rendered people ------------------------------------------------------------------------------


def synthetic_data(
    count: int,
    spec: ModelSpec,
    *,
    seed: int = TEST_SEED,
    variety: float = 0.25,
    on_progress: OnProgress | None = None,
) -> DataSet:
    """Rendered people: one that fills the picture for a pose model, whole scenes for others.

    They have COCO's 17 keypoints: those of them that a set of people's keypoints shares are
    labelled, the others are not. Raises SpecError for hands, faces, animals and unnamed points.
    """
    from calibration.people.synthetic import coco_annotations, crop_scene, scene

    names = None if spec.task == "detection" else spec.keypoints
    order = _labelled(names, spec.name) if names else None
    render = partial(crop_scene if spec.task == "pose" else scene, seed, variety=variety)
    digest, kept_bytes = hashlib.sha256(), 0
    pictures: list[Picture] = []
    scenes: list[dict[str, Any]] = []
    for index in range(count):
        made = render(index)
        image = made.image_bgr
        digest.update(image.tobytes())
        kept_bytes += image.nbytes
        read = _given(image) if kept_bytes <= _KEPT_BYTES else _rendered(render, index)
        hw = (image.shape[0], image.shape[1])
        pictures.append(Picture(index + 1, f"synthetic {seed}/{index}", hw, read))
        scenes.append(coco_annotations([made]))
        if on_progress:
            on_progress(index + 1, count)
    truth = _one_truth(scenes, order)
    digest.update(json.dumps(truth, sort_keys=True).encode())
    kind = "crops" if spec.task == "pose" else "scenes"
    return DataSet(
        f"{count} synthetic {kind}, seed {seed}, variety {variety:g}",
        digest.hexdigest(),
        None if names is None else names.name,
        tuple(pictures),
        truth,
    )


def _given(image: U8) -> Callable[[], U8]:
    return lambda: image


def _rendered(render: Callable[[int], Any], index: int) -> Callable[[], U8]:
    return lambda: np.asarray(render(index).image_bgr, np.uint8)


def _labelled(names: KeypointSet, model: str) -> list[int | None]:
    """For each keypoint of a set the one of COCO's 17 that it is, None for none of them."""
    body = KEYPOINT_SETS["coco17"].keypoints
    if not {"left_wrist", "left_ankle"} <= set(names.keypoints):
        raise SpecError(
            f"rendered people have COCO's 17 keypoints, {model} has those of {names.name}: give "
            "annotations of its own kind"
        )
    return [body.index(name) if name in body else None for name in names.keypoints]


def _one_truth(scenes: Sequence[dict[str, Any]], order: list[int | None] | None) -> dict[str, Any]:
    """Truths of one picture each as one, keypoints in ``order`` (None: left out)."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, one in enumerate(scenes, start=1):
        images.append({**one["images"][0], "id": image_id, "file_name": f"{image_id:06d}.png"})
        for row in one["annotations"]:
            points = np.array(row.pop("keypoints"), np.float64).reshape(-1, 3)
            if order is not None:
                points = np.array([points[i] if i is not None else np.zeros(3) for i in order])
                row["keypoints"] = points.reshape(-1).tolist()
            row["num_keypoints"] = int(np.count_nonzero(points[:, 2]))
            annotations.append({**row, "id": len(annotations) + 1, "image_id": image_id})
    categories = [{"id": 1, "name": "person"}]
    return {"images": images, "annotations": annotations, "categories": categories}


# --- other people's boxes -------------------------------------------------------------------------


def detected_boxes(path: Path, data: DataSet, least_score: float = 0.0) -> dict[int, GivenBoxes]:
    """By image id, the boxes of a COCO detections file: a list of image_id, bbox, score.

    As mmpose reads it: boxes of the data set's categories alone and as they are, but for those
    without an area; ``least_score`` is what a score must exceed (0: mmpose has no threshold).
    Raises SpecError for a file of another kind and for one without a box of these pictures.
    """
    fix = "; detections are a COCO results file"
    rows = parse_json(read_text(path), str(path), fix=fix, large=True)
    categories = {row["id"] for row in data.truth["categories"]}
    found: dict[int, list[tuple[Any, float, int, int]]] = {i: [] for i in data.annotations}
    try:
        for row in rows:
            x, y, w, h = (float(value) for value in row["bbox"][:4])
            score, category = float(row["score"]), row.get("category_id", 1)
            if row["image_id"] not in found or category not in categories or min(w, h) <= 0:
                continue
            if score > least_score:
                found[row["image_id"]].append(((x, y, x + w, y + h), score, category, 0))
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        raise SpecError(
            f"{path}: no list of detections with image_id, bbox (x, y, width, height) and score"
        ) from None
    if not any(found.values()):
        raise SpecError(
            f"{path}: no box of these pictures has a score above {least_score:g}; it must be of "
            "the same data set, with the same image ids"
        )
    return {image_id: _given_boxes(given) for image_id, given in found.items()}
