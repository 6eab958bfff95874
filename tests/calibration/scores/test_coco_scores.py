"""COCO's figures against a brute force and against pycocotools used directly, PCK by hand."""

from __future__ import annotations

import contextlib
import io
import json
import math
from typing import Any

import numpy as np
import pytest

from calibration.scores.coco_scores import box_figures, correct_keypoints, keypoint_figures
from edge.keypoints import KEYPOINT_SETS
from tests.conftest import shared

pytest.importorskip("pycocotools")

Row = dict[str, Any]
LIMITS = [0.5 + 0.05 * step for step in range(10)]


def people(count: int, keypoints: int, seed: int) -> Row:
    """A truth of ``count`` people in each of 3 pictures, some points unlabelled."""
    rng = np.random.default_rng(seed)
    annotations: list[Row] = []
    for image_id in (4, 9, 12):
        for _ in range(count):
            x, y = rng.uniform(0, 300, 2)
            w, h = rng.uniform(40, 160, 2)
            points = np.zeros((keypoints, 3))
            points[:, :2] = rng.uniform((x, y), (x + w, y + h), (keypoints, 2))
            points[:, 2] = rng.integers(0, 3, keypoints)
            points[0, 2] = 2
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [x, y, w, h],
                    "area": float(rng.uniform(0.4, 0.7) * w * h),
                    "keypoints": points.reshape(-1).tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                }
            )
    images = [{"id": image_id} for image_id in (4, 9, 12)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1}]}


def answered(truth: Row, spread_px: float, seed: int) -> list[Row]:
    """Every second person once, some twice, each off by noise; scores without order."""
    rng = np.random.default_rng(seed)
    answers = []
    for row in truth["annotations"]:
        for _ in range(int(rng.integers(0, 3))):
            points = np.array(row["keypoints"]).reshape(-1, 3)
            points[:, :2] += rng.normal(0, spread_px, (len(points), 2))
            points[:, 2] = rng.uniform(0.1, 1, len(points))
            answers.append(
                {
                    "image_id": row["image_id"],
                    "category_id": 1,
                    "keypoints": points.reshape(-1).tolist(),
                    "score": float(rng.uniform()),
                }
            )
    return answers


def similarity(person: Row, answer: Row, sigmas: tuple[float, ...]) -> float:
    total, labelled = 0.0, 0
    for k, sigma in enumerate(sigmas):
        x, y, visible = person["keypoints"][3 * k : 3 * k + 3]
        if visible > 0:
            dx, dy = answer["keypoints"][3 * k] - x, answer["keypoints"][3 * k + 1] - y
            spread = 2 * (2 * sigma) ** 2 * (person["area"] + np.spacing(1))
            total += math.exp(-(dx**2 + dy**2) / spread)
            labelled += 1
    return total / labelled


def brute_force_ap(truth: Row, answers: list[Row], limit: float, sigmas: Any) -> float:
    """Best answer first, each takes the most similar person of its picture who is still free."""
    free = {row["id"]: row for row in truth["annotations"]}
    hits = []
    for answer in sorted(answers, key=lambda row: -row["score"]):
        near = [row for row in free.values() if row["image_id"] == answer["image_id"]]
        best = max(near, key=lambda row: similarity(row, answer, sigmas), default=None)
        if best is not None and similarity(best, answer, sigmas) >= limit:
            del free[best["id"]]
            hits.append(True)
        else:
            hits.append(False)
    right, precision, recall = 0, [], []
    for rank, hit in enumerate(hits, start=1):
        right += hit
        precision.append(right / rank)
        recall.append(right / len(truth["annotations"]))
    total = 0.0
    for step in range(101):
        beyond = [p for p, r in zip(precision, recall, strict=True) if r >= step / 100 - 1e-12]
        total += max(beyond, default=0.0)
    return total / 101


@pytest.mark.parametrize("name", ["coco17", "halpe26", "hand21", "ap10k17", "coco-wholebody133"])
@pytest.mark.parametrize("spread_px", [1.0, 4.0])
def test_keypoint_ap_equals_a_brute_force_with_the_sets_own_sigmas(
    name: str, spread_px: float
) -> None:
    sigmas = KEYPOINT_SETS[name].sigmas
    truth = people(4, len(sigmas), 1)
    answers = answered(truth, spread_px, 2)
    got = keypoint_figures(truth, answers, sigmas)
    each = [brute_force_ap(truth, answers, limit, sigmas) for limit in LIMITS]
    assert got["AP"] == pytest.approx(np.mean(each), abs=1e-9)
    assert (got["AP50"], got["AP75"]) == pytest.approx((each[0], each[5]), abs=1e-9)
    assert 0 < got["AP"] < 1


def test_the_sigmas_count() -> None:
    truth = people(4, 17, 1)
    answers = answered(truth, 6.0, 2)
    sigmas = KEYPOINT_SETS["coco17"].sigmas
    strict, lenient = (
        keypoint_figures(truth, answers, [factor * sigma for sigma in sigmas])["AP"]
        for factor in (1, 1.5)
    )
    assert lenient > strict + 0.05


def test_figures_equal_pycocotools_on_real_annotations() -> None:
    """Its own keypoint defaults, on perturbed answers for the photos, crowd flags and all."""
    coco_module = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    path = shared("data/coco/test_coco.json")
    truth = json.loads(path.read_bytes())
    rng = np.random.default_rng(3)
    answers = []
    for row in truth["annotations"]:
        points = np.array(row["keypoints"], np.float64).reshape(-1, 3)
        points[:, :2] += rng.normal(0, 4, (17, 2))
        points[:, 2] = rng.uniform(0.2, 1, 17)
        answers.append(
            {"image_id": row["image_id"], "category_id": 1, "score": float(rng.uniform()),
             "keypoints": points.reshape(-1).tolist()}
        )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO(str(path))
        evaluation = COCOeval(coco, coco.loadRes([dict(row) for row in answers]), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    got = keypoint_figures(truth, answers, KEYPOINT_SETS["coco17"].sigmas)
    assert list(got.values()) == evaluation.stats.tolist()
    assert 0.1 < got["AP"] < 0.99


def test_the_truth_is_perfect_and_is_left_as_it_was() -> None:
    truth = people(3, 17, 5)
    before = json.dumps(truth)
    answers = [
        {**row, "score": 0.5, "keypoints": [v or 1.0 for v in row["keypoints"]]}
        for row in truth["annotations"]
    ]
    got = keypoint_figures(truth, answers, KEYPOINT_SETS["coco17"].sigmas)
    assert got["AP"] == got["AR"] == got["AP50"] == pytest.approx(1.0)
    assert box_figures(truth, answers)["AP"] == pytest.approx(1.0)
    assert json.dumps(truth) == before


def test_an_answer_without_a_keypoint_does_not_count() -> None:
    truth = people(1, 17, 6)
    rows = answered(people(1, 17, 6), 1.0, 7)
    nothing = {"image_id": 4, "category_id": 1, "score": 2.0, "keypoints": [0.0, 0.0, -1.0] * 17}
    sigmas = KEYPOINT_SETS["coco17"].sigmas
    assert keypoint_figures(truth, [nothing, *rows], sigmas) == keypoint_figures(
        truth, rows, sigmas
    )
    assert keypoint_figures(truth, [nothing], sigmas)["AP"] == 0.0


def test_figures_that_mean_nothing_are_left_out() -> None:
    truth = people(1, 17, 6)
    for row in truth["annotations"]:
        row["area"] = 50.0**2
    figures = keypoint_figures(truth, [], KEYPOINT_SETS["coco17"].sigmas)
    assert figures["AP_M"] == 0.0
    assert "AP_L" not in figures
    nobody = {**truth, "annotations": []}
    assert keypoint_figures(nobody, [], KEYPOINT_SETS["coco17"].sigmas) == {}


# --- PCK ------------------------------------------------------------------------------------------


def person(number: int, x: float, labelled: int = 4) -> Row:
    """A box of 40 x 100 px with a column of points 10 px apart, the first of them labelled."""
    points = [[x, 10.0 * k, 1 + k % 2 if k < labelled else 0] for k in range(6)]
    return {
        "id": number,
        "image_id": 1,
        "iscrowd": 0,
        "bbox": [x, 0, 40, 100],
        "keypoints": [float(value) for point in points for value in point],
        "num_keypoints": labelled,
    }


def off_by(row: Row, gaps_px: list[float], **more: Any) -> Row:
    points = np.array(row["keypoints"]).reshape(-1, 3)
    points[:, 0] += gaps_px
    return {"image_id": row["image_id"], "keypoints": points.reshape(-1).tolist(), **more}


def test_pck_is_of_the_long_side_and_of_labelled_points() -> None:
    row = person(1, 50)
    answer = off_by(row, [0, 4.9, 5.1, 10.1, 80, 80], annotation_id=1)
    got = correct_keypoints([row], [answer], {1: 0.5})
    assert (got["PCK@0.05"], got["PCK@0.1"], got["keypoints"]) == (0.5, 0.75, 4.0)
    assert got["mean_px"] == pytest.approx(0.5 * (4.9 + 5.1 + 10.1) / 4)


def test_loose_answers_go_to_whom_they_fit_best_and_only_once() -> None:
    rows = [person(1, 50), person(2, 70), person(3, 300)]
    answers = [off_by(rows[1], [1.0] * 6), off_by(rows[0], [9.0] * 6)]
    got = correct_keypoints(rows, answers, 1.0)
    # Person 2 is 1 px off, person 1 is 9 px off, nobody answers for person 3.
    assert got["PCK@0.05"] == pytest.approx(1 / 3)
    assert got["PCK@0.1"] == pytest.approx(2 / 3)
    assert got["mean_px"] == pytest.approx(5.0)


def test_crowds_and_unlabelled_people_are_no_part_of_it() -> None:
    crowd = {**person(2, 70), "iscrowd": 1}
    assert correct_keypoints([crowd, person(3, 9, labelled=0)], [], 1.0) == {}
    got = correct_keypoints([person(1, 50), crowd], [], 1.0)
    assert got == {"PCK@0.05": 0.0, "PCK@0.1": 0.0, "keypoints": 4.0}
