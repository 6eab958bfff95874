"""How good a session's answers are on a data set, by the evaluators of the field.

``predict`` runs the network, ``score`` judges. Each picture is predicted by itself, so predictions
made in several runs and put together score as those of one run do, to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.data.data_set import DataSet, GivenBoxes, Picture
from calibration.scores.coco_scores import (
    WHOLEBODY_PARTS,
    box_figures,
    correct_keypoints,
    keypoint_figures,
)
from calibration.scores.mirrored import MirrorAveraged
from calibration.scores.oks import suppress_by_oks
from edge.detector import Detector
from edge.errors import EngineError, SpecError
from edge.onestage import OneStage
from edge.pipeline import Pose
from edge.pose import PoseEstimator
from edge.session import Session
from edge.spec import ModelSpec

__all__ = ["BoxScores", "Scores", "box_scores", "evaluate_session", "predict", "score"]

Row = dict[str, Any]
F32 = NDArray[np.float32]
OnProgress = Callable[[int, int], None]
PERSON_LABEL = 0  # of the official person detectors, and of COCO's 80 classes


@dataclass(frozen=True)
class Scores:
    """The figures of a model on a data set, fractions of 1 but for px and counts.

    ``metric`` names the one that decides, ``value`` is it: AP, or PCK@0.05 where the constants
    that AP needs are not known of a keypoint set.
    """

    metric: str
    value: float
    images: int
    figures: dict[str, float]

    def __str__(self) -> str:
        shown = [self.metric, *(name for name in _SHOWN if name in self.figures)]
        parts = [f"{name} {self.figures[name]:.4f}" for name in dict.fromkeys(shown)]
        if "mean_px" in self.figures:
            parts.append(f"mean {self.figures['mean_px']:.2f} px")
        return f"{', '.join(parts)} ({self.images} pictures)"

    def to_json(self) -> Row:
        """Plain values."""
        return {
            "metric": self.metric,
            "value": self.value,
            "images": self.images,
            "figures": dict(self.figures),
        }


_SHOWN = ("AP", "AP50", "AP75", "PCK@0.05")


def evaluate_session(
    session: Session,
    data: DataSet,
    boxes: Mapping[int, GivenBoxes] | None = None,
    flip: bool = False,
    on_progress: OnProgress | None = None,
) -> Scores:
    """The figures of a session on a data set: ``predict``, then ``score``."""
    predictions = predict(session, data, boxes=boxes, flip=flip, on_progress=on_progress)
    return score(predictions, data, session.spec)


# --- answers --------------------------------------------------------------------------------------


def predict(
    session: Session,
    data: DataSet,
    *,
    boxes: Mapping[int, GivenBoxes] | None = None,
    flip: bool = False,
    on_progress: OnProgress | None = None,
) -> list[Row]:
    """A session's answers for every picture, as COCO results.

    A pose model looks into the true boxes, or into ``boxes`` by image id; ``flip`` averages it with
    the mirrored crop. Its ``score`` is mmpose's ``bbox_keypoint``: the box's score times the mean
    of the keypoint scores above 0.2; beside it stand ``area``, px^2 of the padded crop, and the
    ``annotation_id`` of a true box. A one-stage model's score is that of its box.
    ``on_progress(done, total)`` counts pictures.

    Raises SpecError where data, boxes or flip do not suit the model, EngineError for answers that
    are not finite.
    """
    spec = session.spec
    _check(spec, data)
    if spec.task != "pose" and (boxes is not None or flip):
        raise SpecError(
            f"{spec.name} is a {spec.task} model and looks at whole pictures: boxes and flip are "
            "for pose models"
        )
    answer: Callable[[Picture], list[Row]]
    finder: PoseEstimator | Detector | OneStage
    person = data.truth["categories"][0]["id"]
    if spec.task == "pose":
        finder = estimate = PoseEstimator(MirrorAveraged(session) if flip else session)

        def answer(picture: Picture) -> list[Row]:
            given = data.true_boxes(picture) if boxes is None else boxes[picture.image_id]
            return _pose_rows(estimate, picture, given)

    elif spec.task == "detection":
        finder = detect = Detector(
            session, score_threshold=spec.score_threshold, label=PERSON_LABEL
        )

        def answer(picture: Picture) -> list[Row]:
            return _box_rows(detect, picture, person)

    else:
        finder = find = OneStage(session, score_threshold=spec.score_threshold)

        def answer(picture: Picture) -> list[Row]:
            return _one_stage_rows(find, picture, person)

    rows: list[Row] = []
    for done, picture in enumerate(data.pictures, start=1):
        found = answer(picture)
        if finder.lost_count:
            raise EngineError(
                f"{spec.name} answers {picture.name} with a value that is not finite; its outputs "
                "overflow in this variant"
            )
        rows += found
        if on_progress:
            on_progress(done, len(data))
    return rows


def _check(spec: ModelSpec, data: DataSet) -> None:
    wanted = None if spec.task == "detection" else spec.keypoint_set
    if data.keypoint_set != wanted:
        raise SpecError(
            f"{spec.name} needs a data set with {wanted or 'boxes'}, this one has "
            f"{data.keypoint_set or 'boxes'}: load it for this model"
        )


def _keypoints(points: F32) -> list[float]:
    values: list[float] = points.astype(np.float64).reshape(-1).tolist()
    return values


def _pose_rows(estimate: PoseEstimator, picture: Picture, given: GivenBoxes) -> list[Row]:
    if not len(given.scores):
        return []
    spec = estimate.session.spec
    people = estimate(picture.read(), given.boxes_xyxy)
    areas = _crop_areas(given.boxes_xyxy.astype(np.float64), spec)
    rows = []
    for index, points in enumerate(people):
        box_score = float(given.scores[index])
        row = {
            "image_id": picture.image_id,
            "category_id": int(given.categories[index]),
            "keypoints": _keypoints(points),
            "score": Pose(given.boxes_xyxy[index], box_score, points).score,
            "area": float(areas[index]),
        }
        if given.annotation_ids[index]:
            row["annotation_id"] = int(given.annotation_ids[index])
        rows.append(row)
    return rows


def _crop_areas(boxes_xyxy: NDArray[np.float64], spec: ModelSpec) -> NDArray[np.float64]:
    """Areas (N,) in px^2 of the padded boxes (N, 4), widened or heightened to the input's shape."""
    height, width = spec.input_hw
    sizes = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) * spec.box_padding
    widths = np.maximum(sizes[:, 0], sizes[:, 1] * width / height)
    return np.asarray(widths * widths * height / width, np.float64)


def _xywh(box_xyxy: F32) -> list[float]:
    x1, y1, x2, y2 = box_xyxy.tolist()
    return [x1, y1, x2 - x1, y2 - y1]


def _box_rows(detect: Detector, picture: Picture, person: int) -> list[Row]:
    boxes = detect(picture.read())
    return [
        {
            "image_id": picture.image_id,
            "category_id": person,
            "bbox": _xywh(box),
            "score": float(value),
        }
        for box, value in zip(boxes.boxes_xyxy, boxes.scores, strict=True)
    ]


def _one_stage_rows(find: OneStage, picture: Picture, person: int) -> list[Row]:
    return [
        {
            "image_id": picture.image_id,
            "category_id": person,
            "keypoints": _keypoints(pose.keypoints),
            "score": pose.box_score,
        }
        for pose in find(picture.read())
    ]


# --- figures --------------------------------------------------------------------------------------


def score(predictions: Sequence[Row], data: DataSet, spec: ModelSpec) -> Scores:
    """Judge the answers of ``predict`` for all of a data set's pictures; their order is no matter.

    Keypoints: COCO's figures with the set's own sigmas, after mmpose's ``oks_nms`` (limit 0.9) for
    pose models and none for one-stage models; for COCO-WholeBody's 133 the AP of each part as well;
    and PCK. Boxes: COCO's figures.
    """
    _check(spec, data)
    places = {picture.image_id: place for place, picture in enumerate(data.pictures)}
    foreign = [row["image_id"] for row in predictions if row["image_id"] not in places]
    if foreign:
        raise SpecError(f"there are answers for image {foreign[0]}, which is not in {data.text}")
    # The evaluator's result depends on the order of equal scores.
    answers = sorted(predictions, key=lambda row: places[row["image_id"]])
    if spec.task == "detection":
        figures = box_figures(data.truth, answers)
    else:
        figures = _keypoint_scores(answers, data, spec)
    metric = "AP" if "AP" in figures else "PCK@0.05"
    if metric not in figures:
        raise SpecError(f"{data.text}: there is nobody to find, and so no accuracy")
    return Scores(metric, figures[metric], len(data), figures)


def _keypoint_scores(answers: list[Row], data: DataSet, spec: ModelSpec) -> dict[str, float]:
    sigmas = spec.keypoints.sigmas
    figures: dict[str, float] = {}
    if sigmas:
        kept = _kept(answers, sigmas) if spec.task == "pose" else answers
        figures = keypoint_figures(data.truth, kept, sigmas)
        if spec.keypoint_set == "coco-wholebody133":
            figures |= _part_figures(kept, data, sigmas)
    return figures | correct_keypoints(data.truth["annotations"], answers, _input_px(data, spec))


def _kept(answers: Sequence[Row], sigmas: Sequence[float]) -> list[Row]:
    by_image: dict[int, list[Row]] = {}
    for row in answers:
        by_image.setdefault(row["image_id"], []).append(row)
    kept = []
    for rows in by_image.values():
        points = np.array([row["keypoints"] for row in rows]).reshape(len(rows), -1, 3)
        values = np.array([row["score"] for row in rows])
        areas = np.array([row["area"] for row in rows])
        kept += [rows[i] for i in suppress_by_oks(points[..., :2], values, areas, sigmas)]
    return kept


def _part_figures(
    answers: Sequence[Row], data: DataSet, sigmas: Sequence[float]
) -> dict[str, float]:
    """AP of the parts of the whole body; people of whom a part is not labelled are ignored."""
    figures = {}
    for name, (first, end) in WHOLEBODY_PARTS.items():
        columns = slice(3 * first, 3 * end)
        people = []
        for row in data.truth["annotations"]:
            points = row["keypoints"][columns]
            seen = sum(value > 0 for value in points[2::3])
            people.append({**row, "keypoints": points, "num_keypoints": seen})
        found = [{**row, "keypoints": row["keypoints"][columns]} for row in answers]
        part = keypoint_figures({**data.truth, "annotations": people}, found, sigmas[first:end])
        if "AP" in part:
            figures[f"AP_{name}"] = part["AP"]
    return figures


def _input_px(data: DataSet, spec: ModelSpec) -> dict[int, float]:
    """Of each annotation, how many px of the network's input one px of the picture is."""
    height, width = spec.input_hw
    people = data.truth["annotations"]
    if spec.task == "pose":
        sizes = np.array([row["bbox"][2:] for row in people], np.float64)
        boxes = np.concatenate([np.zeros_like(sizes), np.maximum(sizes, 1e-6)], axis=1)
        scales = np.sqrt(height * width / _crop_areas(boxes, spec)).tolist()
        return {row["id"]: scale for row, scale in zip(people, scales, strict=True)}
    sizes_hw = {picture.image_id: picture.image_hw for picture in data.pictures}
    return {
        row["id"]: min(height / sizes_hw[row["image_id"]][0], width / sizes_hw[row["image_id"]][1])
        for row in people
    }


# --- boxes without a data set ---------------------------------------------------------------------


@dataclass(frozen=True)
class BoxScores:
    """COCO's average precision of boxes: over IoU 0.5 to 0.95, and at 0.5."""

    ap: float
    ap_50: float
    pictures: int

    def __str__(self) -> str:
        return f"AP@0.5 {self.ap_50:.4f}, AP {self.ap:.4f} ({self.pictures} pictures)"


def box_scores(truth_xyxy: Sequence[F32], answers_xyxys: Sequence[F32]) -> BoxScores:
    """Score answers (M, 5) against boxes (G, 4), one of each a picture; one class.

    pycocotools computes it. Without any box to find both figures are -1, as it has it.
    """
    boxes = [(index, box) for index, found in enumerate(truth_xyxy) for box in found]
    truth = {
        "images": [{"id": index} for index in range(len(truth_xyxy))],
        "categories": [{"id": 1}],
        "annotations": [
            # COCOeval takes an annotation's id of 0 for "not matched": ids begin at 1.
            {"id": number, "image_id": index, "category_id": 1, "iscrowd": 0, "bbox": _xywh(box),
             "area": float(np.prod(box[2:4] - box[:2]))}
            for number, (index, box) in enumerate(boxes, start=1)
        ],
    }  # fmt: skip
    answers = [
        {"image_id": index, "category_id": 1, "bbox": _xywh(box[:4]), "score": float(box[4])}
        for index, found in enumerate(answers_xyxys)
        for box in found
    ]
    figures = box_figures(truth, answers)
    return BoxScores(figures.get("AP", -1.0), figures.get("AP50", -1.0), len(truth_xyxy))
