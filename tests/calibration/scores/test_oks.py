"""Object keypoint similarity and its suppression against the formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibration.scores.oks import oks, suppress_by_oks
from edge.keypoints import KEYPOINT_SETS

SIGMAS = KEYPOINT_SETS["coco17"].sigmas


def naive_oks(a: np.ndarray, b: np.ndarray, area: float, sigmas: tuple[float, ...]) -> float:
    """mmpose's formula, one keypoint at a time."""
    total = 0.0
    for k, sigma in enumerate(sigmas):
        squared = (a[k, 0] - b[k, 0]) ** 2 + (a[k, 1] - b[k, 1]) ** 2
        total += math.exp(-squared / (2 * (2 * sigma) ** 2 * (area + np.spacing(1))))
    return total / len(sigmas)


def naive_suppression(
    points: np.ndarray, scores: np.ndarray, areas: np.ndarray, limit: float
) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: -scores[i]):
        alike = [naive_oks(points[i], points[j], (areas[i] + areas[j]) / 2, SIGMAS) for j in kept]
        if all(value <= limit for value in alike):
            kept.append(i)
    return kept


def people(count: int, spread_px: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    base = rng.uniform(0, 100, (17, 2))
    return base + rng.normal(0, spread_px, (count, 17, 2))


@pytest.mark.parametrize("name", ["coco17", "hand21", "coco-wholebody133"])
def test_similarity_equals_the_formula(name: str) -> None:
    sigmas = KEYPOINT_SETS[name].sigmas
    rng = np.random.default_rng(1)
    one, others = rng.uniform(0, 60, (len(sigmas), 2)), rng.uniform(0, 60, (4, len(sigmas), 2))
    areas = np.array([500.0, 4000.0, 90000.0, 1.0])
    want = [naive_oks(one, other, area, sigmas) for other, area in zip(others, areas, strict=True)]
    np.testing.assert_allclose(oks(one, others, areas, sigmas), want, rtol=1e-12)
    assert oks(one, one[None], areas[:1], sigmas)[0] == 1.0


@pytest.mark.parametrize("spread_px", [0.5, 2.0, 8.0])
def test_suppression_equals_the_naive_one(spread_px: float) -> None:
    points = people(20, spread_px, 2)
    rng = np.random.default_rng(3)
    scores, areas = rng.uniform(0, 1, 20), rng.uniform(2000, 8000, 20)
    got = suppress_by_oks(points, scores, areas, SIGMAS)
    assert got == naive_suppression(points, scores, areas, 0.9)
    assert got[0] == int(np.argmax(scores))


def test_limits_that_matter_were_met() -> None:
    """The spreads above are one where all but one go, one where some do, one where none does."""
    counts = []
    for spread_px in (0.5, 2.0, 8.0):
        points, areas = people(20, spread_px, 2), np.full(20, 5000.0)
        counts.append(len(suppress_by_oks(points, np.linspace(1, 0, 20), areas, SIGMAS)))
    assert counts[0] == 1
    assert 1 < counts[1] < 20
    assert counts[2] == 20


def test_the_first_of_two_equals_stays() -> None:
    points = np.repeat(people(1, 0.0, 5), 3, axis=0)
    assert suppress_by_oks(points, np.array([0.5, 0.7, 0.7]), np.full(3, 900.0), SIGMAS) == [1]
    assert suppress_by_oks(np.empty((0, 17, 2)), np.empty(0), np.empty(0), SIGMAS) == []
