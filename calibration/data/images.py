"""Images to compare and calibrate on: the user's folder, annotated ones, or rendered people."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from calibration.data.annotations import image_files, read_annotations
from calibration.data.survey import Survey
from edge.detector import detector_feeds
from edge.digits import parse_digits
from edge.errors import ImageError, SpecError
from edge.media.inputs import Say, find_images, unheard
from edge.picture import first_taken, read_image
from edge.pose import pose_feeds
from edge.session import Feeds
from edge.spec import ModelSpec

__all__ = [
    "CALIBRATION_COUNT",
    "CALIBRATION_SEED",
    "CalibrationSet",
    "FindBoxes",
    "LabelledImage",
    "calibration_set",
    "folder_fingerprint",
    "folder_images",
    "synthetic_images",
]

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
T = TypeVar("T")

# Apart from each other and from the seeds that the demo models were trained (1) and are tested (2)
# with.
PARITY_SEED = 7
CALIBRATION_SEED = 3
CALIBRATION_COUNT = 256

# (H, W, 3) uint8 BGR -> boxes (N, 4) x1, y1, x2, y2 in px.
FindBoxes = Callable[[U8], F32]


@dataclass(frozen=True)
class LabelledImage:
    """A picture and the people in it: (H, W, 3) uint8 BGR and boxes (N, 4) x1, y1, x2, y2 in px."""

    name: str
    image_bgr: npt.NDArray[np.uint8]
    boxes_xyxy: npt.NDArray[np.float32]


def synthetic_images(count: int, *, seed: int = PARITY_SEED, crops: bool) -> list[LabelledImage]:
    """Rendered people: one person that fills the picture (``crops``), or whole scenes."""
    from calibration.people.synthetic import crop_scene, scene

    images = []
    for index in range(count):
        made = crop_scene(seed, index) if crops else scene(seed, index)
        boxes = np.stack([person.box_xyxy for person in made.people])
        images.append(LabelledImage(f"synthetic {seed}/{index}", made.image_bgr, boxes))
    return images


def folder_images(folder: Path, say: Say = unheard) -> list[LabelledImage]:
    """A folder's pictures, each wholly one box. ImageError when it holds none.

    ``say`` hears what the folder holds beside them, and of which only the first picture is taken.
    """
    images, several = [], dict[str, int]()
    for path in find_images([folder], say):
        image = read_image(path, several)
        height, width = image.shape[:2]
        images.append(
            LabelledImage(path.name, image, np.array([[0, 0, width, height]], np.float32))
        )
    if several:
        say(first_taken(several))
    return images


def folder_fingerprint(folder: Path) -> str:
    """What a folder's pictures are, for the record: their number and a hash of their bytes."""
    paths = find_images([folder])
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    return f"{len(paths)} images of {folder.name}, sha256 {digest.hexdigest()[:16]}"


# --- calibration ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    """What one feed is made of: a picture and the box to crop, None for the whole of it."""

    name: str
    read: Callable[[], U8]
    box_xyxy: F32 | None = None


class CalibrationSet(Sequence[Feeds]):
    """Feeds of one image each that a quantiser is calibrated with, made anew at every pass.

    A detector's and a one-stage model's are letterboxed pictures, a pose model's are crops.
    ``text`` says what they are, ``sha256`` is over the pictures and boxes behind them, ``notices``
    are lines that a user should see.
    """

    def __init__(
        self,
        spec: ModelSpec,
        samples: Sequence[_Sample],
        text: str,
        sha256: str,
        seed: int,
        notices: Sequence[str],
    ) -> None:
        self._spec, self._samples = spec, tuple(samples)
        self.text, self.sha256, self.seed = text, sha256, seed
        self.notices = tuple(notices)

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, place: int) -> Feeds: ...

    @overload
    def __getitem__(self, place: slice) -> list[Feeds]: ...

    def __getitem__(self, place: int | slice) -> Feeds | list[Feeds]:
        """The feeds (1, 3, H, W) of one sample, through the runtime's own preprocessing."""
        if isinstance(place, slice):
            return [self._feeds(sample) for sample in self._samples[place]]
        return self._feeds(self._samples[place])

    def _feeds(self, sample: _Sample) -> Feeds:
        image = sample.read()
        if sample.box_xyxy is None:
            return detector_feeds(self._spec, image)[0]
        return pose_feeds(self._spec, image, sample.box_xyxy[None])[0]

    def to_json(self) -> dict[str, Any]:
        """The record for ``artifact.json``."""
        return {
            "text": self.text,
            "count": len(self),
            "seed": self.seed,
            "sha256": self.sha256,
            "notices": list(self.notices),
        }


def calibration_set(
    source: str | Path,
    spec: ModelSpec,
    *,
    images_folder: Path | None = None,
    count: int = CALIBRATION_COUNT,
    seed: int = CALIBRATION_SEED,
    find_boxes: FindBoxes | None = None,
) -> CalibrationSet:
    """The calibration feeds that a user named, for one model.

    ``source`` is ``synthetic`` (``count`` of them) or ``synthetic:N``, a COCO annotation file with
    its pictures in ``images_folder`` (default: beside the file), or a folder of pictures; of more
    than ``count`` a subset is drawn by ``seed``. A pose model's crops are annotated people; in a
    plain folder those that ``find_boxes`` finds, or the whole picture where that is None.

    Copies of a picture count once, files that cannot be read are left out: notices say so.

    Raises ImageError where fewer than 8 different feeds are left, SpecError for a source that is
    none of these.
    """
    survey, notices = Survey(), []
    if str(source).partition(":")[0] == "synthetic":
        samples = _rendered(_synthetic_count(str(source), count), spec, seed)
        kept = _surveyed(samples, len(samples), spec, survey)
        what = f"synthetic people, seed {seed}"
        notices.append("calibrated on synthetic people; pictures of the real use are better")
    else:
        path = Path(source)
        if path.is_dir():
            samples = _of_folder(path, spec, seed, count, find_boxes, survey)
            if spec.task == "pose" and find_boxes is None:
                notices.append("no boxes are known: each whole picture is taken for one person")
        elif path.suffix == ".json":
            samples = _of_annotations(path, images_folder or path.parent, spec, seed, survey)
        else:
            raise SpecError(
                f"{source}: calibrate on a folder, an annotation file (.json) or synthetic[:N]"
            )
        kept = _surveyed(samples, count, spec, survey)
        what = path.name
    kind = "crops" if spec.task == "pose" else "pictures"
    text = f"{len(kept)} {kind} of {what}"
    survey.refuse_few(text)
    return CalibrationSet(spec, kept, text, survey.sha256, seed, [*notices, *survey.notices()])


def _surveyed(
    samples: Sequence[_Sample], count: int, spec: ModelSpec, survey: Survey
) -> list[_Sample]:
    """The first ``count`` of the samples that can be read and are no copy of another."""
    kept: list[_Sample] = []
    height, width = spec.input_hw
    for sample in samples:
        if len(kept) == count:
            break
        try:
            image = sample.read()
        except ImageError as error:
            survey.unreadable(error)
            continue
        box, (rows, columns) = sample.box_xyxy, image.shape[:2]
        if box is not None:
            padding = spec.box_padding
            columns, rows = (float(side) * padding for side in box[2:] - box[:2])
        magnification = min(width / columns, height / rows)
        if survey.add(sample.name, image, box, magnification):
            kept.append(sample)
    return kept


def _synthetic_count(source: str, default: int) -> int:
    _, colon, number = source.partition(":")
    if not colon:
        return default
    count = parse_digits(number)
    if not count:
        raise SpecError(f"{source}: give a number of pictures, for example synthetic:256")
    return count


def _rendered(count: int, spec: ModelSpec, seed: int) -> list[_Sample]:
    """Calm pictures, as the demo models and their tests have them."""
    from calibration.people.synthetic import crop_scene, scene

    pose, samples = spec.task == "pose", []
    for index in range(count):
        made = (crop_scene if pose else scene)(seed, index, variety=0.25)
        box = made.people[0].box_xyxy if pose else None
        samples.append(_Sample(f"synthetic {seed}/{index}", _giving(made.image_bgr), box))
    return samples


def _giving(image: U8) -> Callable[[], U8]:
    return lambda: image


def _reading(path: Path, survey: Survey) -> Callable[[], U8]:
    return lambda: read_image(path, survey.several)


def _of_annotations(
    path: Path, folder: Path, spec: ModelSpec, seed: int, survey: Survey
) -> list[_Sample]:
    """Annotated people for a pose model, whole pictures for others, in an order by ``seed``."""
    annotations = read_annotations(path)
    files = image_files(annotations, folder)
    if spec.task != "pose":
        return _shuffled([_Sample(file.name, _reading(file, survey)) for file in files], seed)
    by_id = {row["id"]: file for row, file in zip(annotations.images, files, strict=True)}
    samples = []
    for row in annotations.annotations:
        x, y, w, h = row["bbox"]
        if row.get("iscrowd") or not row.get("num_keypoints", 1) or min(w, h) < 1:
            continue
        file, box = by_id[row["image_id"]], np.array([x, y, x + w, y + h], np.float32)
        samples.append(_Sample(f"{file.name} at {x:g}, {y:g}", _reading(file, survey), box))
    return _shuffled(samples, seed)


def _of_folder(
    folder: Path,
    spec: ModelSpec,
    seed: int,
    count: int,
    find_boxes: FindBoxes | None,
    survey: Survey,
) -> list[_Sample]:
    """A folder's pictures, or the people that are found in them, in an order by ``seed``."""
    paths = find_images([folder], survey.note)
    if spec.task != "pose":
        return _shuffled([_Sample(path.name, _reading(path, survey)) for path in paths], seed)
    samples: list[_Sample] = []
    for path in _shuffled(paths, seed):
        try:
            image = read_image(path)
        except ImageError as error:
            survey.unreadable(error)
            continue
        if find_boxes is None:
            boxes = np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)
        else:
            boxes = find_boxes(image)
        samples += [
            _Sample(f"{path.name}, person {number}", _reading(path, survey), box)
            for number, box in enumerate(boxes)
        ]
        if len(samples) >= 2 * count:  # enough, copies left out
            break
    return samples


def _shuffled(items: Sequence[T], seed: int) -> list[T]:
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[place] for place in order]
