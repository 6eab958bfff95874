"""The tracker's parts against what textbooks, pycocotools and brute force make of them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from edge.keypoints import KEYPOINT_SETS
from edge.tracking.matching import assign, boxes_of, iou, oks, suppress
from edge.tracking.motion import ConstantVelocity, OneEuro

F64 = npt.NDArray[np.float64]
SIGMAS = KEYPOINT_SETS["coco17"].sigmas
WP, WV = 1 / 20, 1 / 160


class TextbookFilter:
    """Predict and correct with full matrices, one point (x, y, vx, vy) or box at a time."""

    def __init__(self, position: F64, size: float) -> None:
        axes = len(position)
        self.x = np.concatenate([position, np.zeros(axes)])
        self.P = np.diag([(2 * WP * size) ** 2] * axes + [(10 * WV * size) ** 2] * axes)
        self.F = np.eye(2 * axes) + np.eye(2 * axes, k=axes)
        self.H = np.eye(axes, 2 * axes)

    def predict(self, size: float) -> None:
        axes = len(self.H)
        Q = np.diag([(WP * size) ** 2] * axes + [(WV * size) ** 2] * axes)
        self.x = self.F @ self.x
        self.P = self.F @ self.P @ self.F.T + Q

    def innovation(self, z: F64, size: float) -> tuple[F64, F64]:
        S = self.H @ self.P @ self.H.T + np.eye(len(z)) * (WP * size) ** 2
        return z - self.H @ self.x, S

    def distance(self, z: F64, size: float) -> float:
        r, S = self.innovation(z, size)
        return float(r @ np.linalg.inv(S) @ r)

    def correct(self, z: F64, size: float) -> None:
        r, S = self.innovation(z, size)
        K = self.P @ self.H.T @ np.linalg.inv(S)
        self.x = self.x + K @ r
        self.P = (np.eye(len(self.x)) - K @ self.H) @ self.P


@pytest.mark.parametrize(("points", "axes"), [(17, 2), (1, 4)])
def test_the_filter_is_kalman_s(points: int, axes: int) -> None:
    rng = np.random.default_rng(1)
    position = rng.uniform(0, 600, (points, axes))
    ours = ConstantVelocity(position.astype(np.float32), 120.0, WP, WV)
    theirs = [TextbookFilter(point, 120.0) for point in position]
    for step in range(40):
        size = 120.0 + 20 * math.sin(step)
        position = position + 7 + rng.normal(0, 3, position.shape)
        ours.predict(size)
        for one in theirs:
            one.predict(size)
        distance = ours.distance(position.astype(np.float32), size)
        expected = [one.distance(z, size) for one, z in zip(theirs, position, strict=True)]
        np.testing.assert_allclose(distance, expected, rtol=1e-3, atol=1e-4)
        seen = rng.random(points) < 0.7
        ours.correct(seen, position.astype(np.float32), size)
        for index in np.flatnonzero(seen):
            theirs[index].correct(position[index], size)
        state = np.stack([one.x for one in theirs])
        np.testing.assert_allclose(ours.position, state[:, :axes], atol=1e-3)
        np.testing.assert_allclose(ours.velocity, state[:, axes:], atol=1e-3)
        blocks = np.stack([one.P[[0, 0, axes], [0, axes, axes]] for one in theirs], axis=1)
        np.testing.assert_allclose(ours.variance, blocks, rtol=1e-4, atol=1e-3)


def test_a_filter_learns_a_constant_velocity_and_forgets_it_when_it_begins_anew() -> None:
    points = ConstantVelocity(np.zeros((2, 2), np.float32), 100.0, WP, WV)
    every = np.ones(2, np.bool_)
    for step in range(1, 60):
        points.predict(100.0)
        points.correct(every, np.full((2, 2), 5.0 * step, np.float32), 100.0)
    np.testing.assert_allclose(points.velocity, 5, atol=0.05)
    points.restart(np.array([True, False]), np.full((2, 2), 9, np.float32), 100.0)
    np.testing.assert_allclose(points.velocity, [[0, 0], [5, 5]], atol=0.05)
    np.testing.assert_allclose(points.position[0], 9)
    np.testing.assert_allclose(points.variance[:, 0], [100, 0, 39.0625])


@pytest.mark.parametrize("signed", [False, True])
def test_smoothing_is_the_one_euro_filter(signed: bool) -> None:
    beta, least, velocity_cutoff = 0.05, 0.3, 0.8

    def factor(cutoff: float) -> float:
        return 1 / (1 + 1 / (2 * math.pi * cutoff))  # 1 / (1 + tau / Te), Te = 1

    rng = np.random.default_rng(2)
    values = np.cumsum(rng.normal(0, 4, (50, 2)), axis=0)
    start = values[:1].astype(np.float32)
    ours = OneEuro(start, (beta, least, velocity_cutoff), signed=signed)
    smooth, speed = float(values[0, 0]), 0.0
    for value, other in values:
        a = factor(velocity_cutoff)
        speed = a * (value - smooth) + (1 - a) * speed
        a = factor(least + beta * (speed if signed else abs(speed)))
        smooth = a * value + (1 - a) * smooth
        got = ours.step(np.array([[value, other]], np.float32))
        assert got[0, 0] == pytest.approx(smooth, abs=1e-3)


def test_a_point_is_smoothed_by_its_speed_in_both_axes_and_lengths_each_by_their_own() -> None:
    still = np.zeros((2, 2), np.float32)
    ours = OneEuro(still, (1.0, 1.0, 1.0))

    def share(distance: float) -> float:
        turn = 2 * math.pi * (1 + 2 * math.pi / (2 * math.pi + 1) * distance)
        return turn / (turn + 1)

    moved = np.array([[3, 4], [3, -4]], np.float32)
    expected = [[3 * share(5), 4 * share(5)], [3 * share(3), -4 * share(4)]]
    np.testing.assert_allclose(ours.step(moved), expected, rtol=1e-5)
    ours.reset(still + 7)
    np.testing.assert_allclose(ours.step(still + 7), 7)


def random_boxes(rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    low = rng.uniform(0, 300, (count, 2))
    return np.concatenate([low, low + rng.uniform(1, 200, (count, 2))], axis=1).astype(np.float32)


def test_overlap_is_that_of_pycocotools() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(3)
    one, other = random_boxes(rng, 40), random_boxes(rng, 30)

    def xywh(boxes: npt.NDArray[np.float32]) -> F64:
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(float)

    expected = mask.iou(xywh(one), xywh(other), [0] * 30)
    np.testing.assert_allclose(iou(one, other), expected, atol=1e-5)
    assert (iou(one, other) > 0.1).any()
    nothing = np.zeros((1, 4), np.float32)
    assert iou(nothing, nothing)[0, 0] == 0


def test_similarity_of_poses_is_that_of_pycocotools() -> None:
    """COCO's variance is (2 sigma)^2 and its scale an area: both are put to match."""
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(4)
    side = np.float32(120)
    boxes = np.tile(np.array([0, 0, side, side], np.float32), (6, 1))
    poses = rng.uniform(20, 100, (1, 17, 2)) + rng.normal(0, 6, (6, 17, 2))
    got = oks(poses.astype(np.float32), boxes, SIGMAS)

    area = float(2 * side**2) / 4  # s^2 is the diagonal's square; COCO's 2 sigma takes 4 of it
    evaluation = cocoeval.COCOeval(iouType="keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(SIGMAS)
    evaluation.params.maxDets = [20]
    flat = [np.concatenate([pose, np.full((17, 1), 2)], axis=1).ravel().tolist() for pose in poses]
    entry = {"keypoints": None, "num_keypoints": 17, "area": area, "bbox": [0, 0, 1, 1], "score": 1}
    evaluation._gts[1, 1] = [{**entry, "keypoints": pose} for pose in flat]
    evaluation._dts[1, 1] = [{**entry, "keypoints": pose} for pose in flat]
    np.testing.assert_allclose(got, evaluation.computeOks(1, 1), atol=1e-4)
    assert 0.05 < got[0, 1] < 0.95


def brute_force_assignment(
    scores: F64, rows: list[bool], columns: list[bool], least: float
) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    while True:
        best = max(
            (
                (scores[i, j], -i, -j)
                for i, row in enumerate(rows)
                for j, column in enumerate(columns)
                if row and column and not math.isnan(scores[i, j])
            ),
            default=None,
        )
        if best is None or best[0] < least:
            return pairs
        i, j = -best[1], -best[2]
        rows[i] = columns[j] = False
        pairs.append((i, j))


def test_assignment_is_brute_force() -> None:
    rng = np.random.default_rng(5)
    some = 0
    for _ in range(200):
        shape = rng.integers(0, 7, 2)
        # Few values, so that ties abound.
        scores = rng.integers(0, 5, shape).astype(np.float32)
        scores[rng.random(shape) < 0.1] = np.nan
        rows, columns = rng.random(shape[0]) < 0.8, rng.random(shape[1]) < 0.8
        expected_rows, expected_columns = rows.tolist(), columns.tolist()
        expected = brute_force_assignment(
            scores.astype(float), expected_rows, expected_columns, 2.0
        )
        assert assign(scores, rows, columns, 2.0) == expected
        assert (rows.tolist(), columns.tolist()) == (expected_rows, expected_columns)
        some += len(expected)
    assert some > 100


def test_suppression_is_brute_force() -> None:
    rng = np.random.default_rng(6)
    gone = 0
    for _ in range(100):
        count = int(rng.integers(0, 9))
        boxes = random_boxes(rng, count)
        similarity, order = iou(boxes, boxes), rng.permutation(count)
        stays = rng.random(count) < 0.9
        kept: list[int] = []
        for index in order:
            if stays[index] and all(similarity[index, better] < 0.2 for better in kept):
                kept.append(int(index))
        got = suppress(order, similarity, stays, 0.2)
        assert sorted(kept) == np.flatnonzero(got).tolist()
        gone += int(stays.sum()) - len(kept)
    assert gone > 20


def test_as_similar_as_the_limit_is_too_similar() -> None:
    similarity = np.array([[1, 0.5], [0.5, 1]], np.float32)
    every = np.ones(2, np.bool_)
    order = np.array([1, 0])
    assert suppress(order, similarity, every, 0.5).tolist() == [False, True]
    assert suppress(order, similarity, every, 0.51).tolist() == [True, True]
    assert every.all()


def test_boxes_about_keypoints() -> None:
    pose = np.full((1, 4, 3), [1000, 1000, 0.1], np.float32)
    pose[0, :2] = [[10, 20, 0.5], [30, 60, 0.9]]

    def box_of(least: int, threshold: float = 0.5) -> tuple[list[float], bool]:
        boxes, enough = boxes_of(
            pose, (50, 200), score_threshold=threshold, least_keypoints=least, scale=1.5
        )
        return boxes[0].tolist(), bool(enough[0])

    # Centre (20, 40), size (20, 40) * 1.5, below the image's 50 rows.
    assert box_of(2) == ([5, 10, 35, 50], True)
    assert box_of(3) == ([0, 0, 0, 0], False)
    assert box_of(2, 0.6)[1] is False
