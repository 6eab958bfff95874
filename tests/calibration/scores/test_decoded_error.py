"""How far answers moved, on answers that were moved by a known amount."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from calibration.scores.decoded_error import decoded_answers, decoded_error
from edge.errors import EngineError, ImageError, SpecError
from edge.spec import ModelSpec, TensorSpec
from tests.stand_ins.fake_sessions import FakeSession
from tests.stand_ins.specs import detector_spec, finished_poses_spec, pose_spec

Array = np.ndarray
FEEDS = [{"input": np.zeros((1, 3, 8, 8), np.float32)}] * 2


def fixed(spec: ModelSpec, *outputs: Any) -> FakeSession:
    """The same answer to everything."""
    return FakeSession(spec, lambda _: [np.array(one) for one in outputs])


def boxes_spec() -> ModelSpec:
    outputs = (TensorSpec("dets", (1, None, 5)), TensorSpec("labels", (1, None), "int64"))
    return replace(detector_spec(), codec="detections", outputs=outputs, strides=())


def boxes(*rows: list[float], labels: list[int] | None = None) -> tuple[Array, Array]:
    dets = np.array(rows, np.float32).reshape(1, -1, 5)
    return dets, np.array([labels or [0] * len(rows)], np.int64)


def peaks(places: Array, scores: Array) -> tuple[Array, Array]:
    x, y = np.zeros((1, 17, 384), np.float32), np.zeros((1, 17, 512), np.float32)
    for k, ((at_x, at_y), value) in enumerate(zip(places, scores, strict=True)):
        x[0, k, at_x], y[0, k, at_y] = value, value
    return x, y


def test_pose_errors_are_of_what_the_reference_is_sure_of() -> None:
    places = np.stack([np.arange(17) * 10 + 5, np.arange(17) * 20 + 5], axis=1)
    scores = np.full(17, 0.8)
    scores[10:] = 0.29
    want = decoded_answers(fixed(pose_spec(), *peaks(places, scores)), FEEDS)
    moved = places.copy()
    moved[0] += (6, 8)  # 3 and 4 px
    moved[12] += 100
    error = decoded_error(want, fixed(pose_spec(), *peaks(moved, np.full(17, 0.1))), FEEDS)
    assert error.value == pytest.approx(5 / 10)
    assert (error.unit, error.answers, error.missing) == ("px", 20, 0.0)
    assert str(error) == "0.5 px over 20 answers"
    same = decoded_error(want, fixed(pose_spec(), *peaks(places, scores)), FEEDS)
    assert same.value == 0.0


def test_box_errors_count_what_moved_went_and_came() -> None:
    first, second = [0, 0, 100, 100, 0.9], [200, 0, 300, 100, 0.6]
    doubtful = [0, 200, 50, 250, 0.25]
    want = decoded_answers(fixed(boxes_spec(), *boxes(first, second, doubtful)), FEEDS)

    def error(*rows: list[float], **more: Any) -> float:
        return decoded_error(want, fixed(boxes_spec(), *boxes(*rows, **more)), FEEDS).value

    assert error(first, second) == 0.0
    # A tenth of the width less is an IoU of 0.9.
    assert error([0, 0, 90, 100, 0.9], second) == pytest.approx(0.1 / 2)
    # A box that sank to 0.25 still stands for its own, at 0.15 it is gone.
    assert error(first, [200, 0, 300, 100, 0.25]) == 0.0
    assert error(first, [200, 0, 300, 100, 0.15]) == pytest.approx(1 / 2)
    assert error(first, second, labels=[0, 1]) == pytest.approx(2 / 3)
    # One that rose above the threshold is not new, one out of nothing is.
    assert error(first, second, [0, 200, 50, 250, 0.35]) == 0.0
    assert error(first, second, [0, 260, 50, 310, 0.35]) == pytest.approx(1 / 3)
    gone = decoded_error(want, fixed(boxes_spec(), *boxes()), FEEDS)
    assert (gone.value, gone.missing, gone.answers) == (1.0, 1.0, 4)
    assert "100.0% missing" in str(gone)


def test_one_stage_errors_are_in_px() -> None:
    spec = finished_poses_spec()
    dets = np.array([[[0, 0, 40, 80, 0.9], [60, 0, 100, 60, 0.8]]], np.float32)
    points = np.ones((1, 2, 5, 3), np.float32) * 20
    want = decoded_answers(fixed(spec, dets, points), FEEDS)
    moved = points + np.array([[[[3, 4, 0]], [[0, 0, 0]]]], np.float32)
    assert decoded_error(want, fixed(spec, dets, moved), FEEDS).value == pytest.approx(2.5)
    lost = decoded_error(want, fixed(spec, dets[:, :1], points[:, :1]), FEEDS)
    assert lost.value == pytest.approx((0 + 60) / 2)
    assert (lost.unit, lost.missing) == ("px", 0.5)


def test_a_reference_file_with_its_suppression_inside_is_a_reference_too() -> None:
    """Each side is decoded by its own spec: here raw maps against finished boxes."""
    spec = detector_spec()
    maps = [np.full((1, 1, n, n), -9.0, np.float32) for n in (40, 20, 10)]
    maps[0][0, 0, 10, 10] = 3.0
    sides = [np.full((1, 4, n, n), 16.0, np.float32) for n in (40, 20, 10)]
    want = decoded_answers(fixed(boxes_spec(), *boxes([64, 64, 96, 96, 0.9526])), FEEDS)
    assert decoded_error(want, fixed(spec, *maps, *sides), FEEDS).value == pytest.approx(
        0, abs=1e-6
    )


def test_what_cannot_be_compared_is_refused() -> None:
    blank = fixed(boxes_spec(), *boxes())
    with pytest.raises(ImageError, match="finds nothing in 2 calibration pictures"):
        decoded_error(decoded_answers(blank, FEEDS), blank, FEEDS)
    with pytest.raises(SpecError, match="2 feeds for the answers of 1"):
        decoded_error(decoded_answers(blank, FEEDS[:1]), blank, FEEDS)
    broken = fixed(boxes_spec(), *boxes([0, 0, 9, 9, np.nan]))
    with pytest.raises(EngineError, match="output dets of calibration feed 0 holds values"):
        decoded_answers(broken, FEEDS)
