"""Average precision of boxes in cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.accuracy import box_scores

pytest.importorskip("pycocotools")

BOXES = [
    np.array([[10, 10, 50, 90], [100, 20, 140, 120]], np.float32),
    np.array([[30, 30, 80, 130]], np.float32),
]


def with_scores(boxes: np.ndarray, *scores: float) -> np.ndarray:
    return np.concatenate([boxes, np.array(scores, np.float32)[:, None]], axis=1)


def test_the_truth_is_perfect() -> None:
    scores = box_scores(BOXES, [with_scores(BOXES[0], 0.9, 0.8), with_scores(BOXES[1], 0.7)])
    assert (scores.ap, scores.ap_50, scores.pictures) == pytest.approx((1.0, 1.0, 2))
    assert str(scores) == "AP@0.5 1.0000, AP 1.0000 (2 pictures)"


def test_a_miss_and_a_false_alarm_cost_what_they_should() -> None:
    """Best first: hit, false alarm, hit; the third person is not found.

    Precision is 1 up to a recall of 1/3 and 2/3 up to 2/3; of COCO's 101 recalls 34 and 33.
    """
    wrong = np.array([[200, 200, 220, 260]], np.float32)
    answers = [
        np.concatenate([with_scores(BOXES[0][:1], 0.9), with_scores(wrong, 0.8)]),
        with_scores(BOXES[1], 0.7),
    ]
    scores = box_scores(BOXES, answers)
    assert scores.ap_50 == pytest.approx((34 + 33 * 2 / 3) / 101, abs=1e-6)


def test_half_an_overlap_counts_at_one_half_only() -> None:
    """An answer of IoU 0.6 is right at 0.5, 0.55 and 0.6 of the ten limits."""
    truth = [np.array([[0, 0, 100, 100]], np.float32)]
    answer = [np.array([[0, 0, 60.5, 100, 0.9]], np.float32)]
    scores = box_scores(truth, answer)
    assert (scores.ap_50, scores.ap) == pytest.approx((1.0, 0.3))


def test_no_answers_and_nothing_to_find() -> None:
    assert box_scores(BOXES, [np.empty((0, 5), np.float32)] * 2).ap_50 == 0.0
    assert box_scores([np.empty((0, 4), np.float32)], [np.empty((0, 5), np.float32)]).ap_50 == -1.0
