"""COCO's figures by pycocotools, and PCK.

Answers are dictionaries of ``image_id``, ``category_id``, ``score`` and either ``bbox`` (x, y,
width, height) or ``keypoints`` (x, y, score of each, one after the other), all in picture px.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["WHOLEBODY_PARTS", "box_figures", "correct_keypoints", "keypoint_figures"]

Row = Mapping[str, Any]
F64 = NDArray[np.float64]

_KEYPOINT_NAMES = ("AP", "AP50", "AP75", "AP_M", "AP_L", "AR", "AR50", "AR75", "AR_M", "AR_L")
_BOX_NAMES = (
    *("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L"),
    *("AR1", "AR10", "AR", "AR_S", "AR_M", "AR_L"),
)

WHOLEBODY_PARTS = {
    "body": (0, 17),
    "foot": (17, 23),
    "face": (23, 91),
    "lefthand": (91, 112),
    "righthand": (112, 133),
}
"""COCO-WholeBody's parts, first and behind the last, which have figures of their own."""


def box_figures(truth: Row, answers: Sequence[Row]) -> dict[str, float]:
    """Average precision and recall of boxes: over IoU 0.5 to 0.95, at 0.5, of sizes, and so on.

    All are fractions of 1. A figure that means nothing, as AP_S without a small person, is left
    out. AR is with 100 answers a picture.
    """
    results = [
        {key: row[key] for key in ("image_id", "category_id", "bbox", "score")} for row in answers
    ]
    return _figures(truth, results, "bbox", _BOX_NAMES)


def keypoint_figures(
    truth: Row, answers: Sequence[Row], sigmas: Sequence[float]
) -> dict[str, float]:
    """Average precision and recall of keypoints over OKS 0.5 to 0.95, 20 answers a picture.

    ``sigmas`` are those of the keypoint set; the truth's ``area`` is the area of OKS. As in
    xtcocotools, which mmpose uses, an answer whose keypoints all score 0 or less does not count.
    An answer's own size, for AP_M and AP_L, is the extent of its keypoints, as COCO has it for
    results without a box.
    """
    results = [
        {key: row[key] for key in ("image_id", "category_id", "keypoints", "score")}
        for row in answers
        if max(row["keypoints"][2::3]) > 0
    ]
    return _figures(truth, results, "keypoints", _KEYPOINT_NAMES, sigmas)


def _figures(
    truth: Row,
    results: list[dict[str, Any]],
    kind: str,
    names: Sequence[str],
    sigmas: Sequence[float] = (),
) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # pycocotools prints as it goes, and writes into what it is given.
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**truth, "annotations": [dict(row) for row in truth["annotations"]]}
        coco.createIndex()
        answered = coco.loadRes(results) if results else _nothing(COCO(), coco.dataset)
        evaluation = COCOeval(coco, answered, kind)
        if sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = evaluation.stats.tolist()
    return {name: value for name, value in zip(names, stats, strict=True) if value >= 0}


def _nothing(coco: Any, dataset: Row) -> Any:
    """No answer at all, which loadRes does not take."""
    coco.dataset = {**dataset, "annotations": []}
    coco.createIndex()
    return coco


def correct_keypoints(
    people: Sequence[Row], answers: Sequence[Row], input_px: Mapping[int, float] | float
) -> dict[str, float]:
    """PCK: the fraction of labelled keypoints that are closer than 5 % and 10 % of the box.

    A distance is over the long side of the person's annotated box; hidden keypoints count, those of
    crowds do not. ``mean_px`` is the mean distance in px of the network's input, of the people who
    were answered; ``input_px`` says how many of these a picture px is, by annotation or for all.

    An answer with an ``annotation_id`` is that person's. Any others are given to the people of
    their picture one to one, the best fit first; a person without an answer is wrong throughout.
    """
    people = [row for row in people if row["num_keypoints"] and not row["iscrowd"]]
    fits = _fits(people, answers)
    shares: list[F64] = []
    errors_px: list[F64] = []
    for person in people:
        labelled = _points(person)[:, 2] > 0
        distances = np.full(int(labelled.sum()), np.inf)
        if person["id"] in fits:
            distances = _distances(person, fits[person["id"]])
            scale = input_px if isinstance(input_px, float) else input_px[person["id"]]
            errors_px.append(distances * scale)
        shares.append(distances / max(person["bbox"][2:]))
    every = np.concatenate([np.empty(0), *shares])
    if not len(every):
        return {}
    figures = {f"PCK@{limit:g}": float((every < limit).mean()) for limit in (0.05, 0.1)}
    if errors_px:
        figures["mean_px"] = float(np.concatenate(errors_px).mean())
    return {**figures, "keypoints": float(len(every))}


def _points(row: Row) -> F64:
    return np.array(row["keypoints"], np.float64).reshape(-1, 3)


def _distances(person: Row, answer: Row) -> F64:
    """Picture px between an answer and the labelled keypoints of a person."""
    truth = _points(person)
    gaps = _points(answer)[:, :2] - truth[:, :2]
    return np.asarray(np.linalg.norm(gaps, axis=1)[truth[:, 2] > 0], np.float64)


def _fits(people: Sequence[Row], answers: Sequence[Row]) -> dict[int, Row]:
    """The answer of each person, by annotation."""
    fits = {row["annotation_id"]: row for row in answers if row.get("annotation_id")}
    loose: dict[int, list[Row]] = {}
    for row in answers:
        if not row.get("annotation_id"):
            loose.setdefault(row["image_id"], []).append(row)
    pairs = [
        (float(_distances(person, answer).mean()) / max(person["bbox"][2:]), person, place)
        for person in people
        for place, answer in enumerate(loose.get(person["image_id"], []))
    ]
    taken = set()
    for _, person, place in sorted(pairs, key=lambda pair: pair[0]):
        image_id = person["image_id"]
        if person["id"] not in fits and (image_id, place) not in taken:
            fits[person["id"]] = loose[image_id][place]
            taken.add((image_id, place))
    return fits
