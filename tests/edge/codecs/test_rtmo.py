"""RTMO's decoding against one written out cell by cell and keypoint by keypoint in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge.codecs import rtmo
from edge.session import Array
from edge.spec import ModelSpec
from tests.stand_ins.rtmo_maps import (
    HEIGHT,
    KEYPOINTS,
    STRIDES,
    VECTOR,
    WIDTH,
    D,
    E,
    S,
    maps_of,
    spec_of,
    weights_of,
)

# --- the naive decoder ----------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def iou(a: list[float], b: list[float]) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high
    return wide * high / union


def naive_attention(x: npt.NDArray[np.float64], w: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    gates = np.zeros((len(x), 2 * E + S))
    for k, row in enumerate(x):
        root = math.sqrt(sum(value**2 for value in row)) / math.sqrt(D)
        linear = (row / max(root, 1e-5)) @ w["dcc.gates.weight"]
        gates[k] = [value * sigmoid(value) for value in linear]
    out = np.zeros_like(x)
    for k in range(len(x)):
        query = gates[k, 2 * E :] * w["dcc.query.scale"] + w["dcc.query.offset"][k]
        mixed = np.zeros(E)
        for other in range(len(x)):
            key = gates[other, 2 * E :] * w["dcc.key.scale"] + w["dcc.key.offset"][other]
            mixed += max(float(query @ key), 0.0) ** 2 * gates[other, E : 2 * E]
        out[k] = x[k] * w["dcc.residual.scale"] + (gates[k, :E] * mixed) @ w["dcc.out.weight"]
    return out


def naive_place(
    feature: npt.NDArray[np.float64],
    axis: str,
    low: float,
    high: float,
    cell: float,
    w: Mapping[str, Any],
) -> float:
    places, heats = [], []
    for share in w[f"dcc.{axis}.bins"]:
        place = (low + high) / 2 + share * 1.25 * (high - low)
        angles = [(place - cell) / period for period in w["dcc.periods"]]
        code = [*(math.cos(angle) for angle in angles), *(math.sin(angle) for angle in angles)]
        bin_feature = w[f"dcc.{axis}.weight"] @ np.array(code) + w[f"dcc.{axis}.bias"]
        places.append(place)
        heats.append(min(max(float(feature @ bin_feature), -5e4), 5e4))
    parts = [math.exp(heat - max(heats)) for heat in heats]
    mean: float = sum(p * place for p, place in zip(parts, places, strict=True)) / (
        sum(parts) + 1e-8
    )
    return mean


def naive_keypoints(
    pose: Array, box: list[float], cell: tuple[float, float], w: Mapping[str, Any]
) -> list[tuple[float, float]]:
    flat = pose.astype(np.float64) @ w["dcc.keypoints.weight"] + w["dcc.keypoints.bias"]
    features = naive_attention(flat.reshape(-1, D), w)
    return [
        (
            naive_place(feature, "x", box[0], box[2], cell[0], w),
            naive_place(feature, "y", box[1], box[3], cell[1], w),
        )
        for feature in features
    ]


def naive_decode(
    maps: Mapping[str, Array], weights: Mapping[str, Array], image: int, spec: ModelSpec
) -> list[tuple[list[float], list[tuple[float, float, float]]]]:
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    found = []
    for stride in STRIDES:
        logits = maps[f"logits_{stride}"][image, 0]
        for row in range(HEIGHT // stride):
            for column in range(WIDTH // stride):
                score = sigmoid(float(logits[row, column]))
                if score <= spec.score_threshold:
                    continue
                cell = (column * stride + (stride - 1) / 2, row * stride + (stride - 1) / 2)
                dx, dy, log_w, log_h = map(float, maps[f"boxes_{stride}"][image, :, row, column])
                x, y = cell[0] + dx * stride, cell[1] + dy * stride
                half_w, half_h = math.exp(log_w) * stride / 2, math.exp(log_h) * stride / 2
                box = [x - half_w, y - half_h, x + half_w, y + half_h]
                found.append((score, box, cell, stride, row, column))
    found.sort(key=lambda entry: -entry[0])
    kept: list[Any] = []
    for entry in found:
        if all(iou(entry[1], other[1]) <= spec.nms_iou for other in kept):
            kept.append(entry)
    people = []
    for score, box, cell, stride, row, column in kept[: spec.max_boxes]:
        pose = maps[f"pose_{stride}"][image, :, row, column]
        seen = maps[f"visibility_{stride}"][image, :, row, column]
        points = naive_keypoints(pose, box, cell, w)
        people.append(
            (
                [*box, score],
                [(*point, sigmoid(float(v))) for point, v in zip(points, seen, strict=True)],
            )
        )
    return people


# --- tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"nms_iou": 0.2, "max_boxes": 7}])
def test_decoding_equals_the_naive_one(changes: dict[str, Any]) -> None:
    spec, maps, weights = spec_of(**changes), maps_of(1, images=2), weights_of(2)
    outputs = maps | weights
    before = {name: value.copy() for name, value in outputs.items()}
    got = rtmo.decode(outputs, spec)
    assert len(got) == 2
    for image, (boxes, keypoints) in enumerate(got):
        want = naive_decode(maps, weights, image, spec)
        candidates = sum(int((maps[f"logits_{s}"][image] > -2.1972).sum()) for s in STRIDES)
        assert 5 <= len(want) < candidates  # the suppression has work to do
        assert boxes.dtype == keypoints.dtype == np.float32
        assert keypoints.shape == (len(want), KEYPOINTS, 3)
        np.testing.assert_allclose(boxes, [box for box, _ in want], rtol=0, atol=1e-4)
        np.testing.assert_allclose(keypoints, [points for _, points in want], rtol=0, atol=1e-3)
    for name, value in before.items():
        np.testing.assert_array_equal(outputs[name], value)


def test_only_the_best_cells_of_a_level_are_candidates() -> None:
    maps = maps_of(3, images=1)
    # Far apart for their size: nothing is suppressed, what is missing was no candidate.
    for stride in STRIDES:
        maps[f"boxes_{stride}"][:, :2] = 0
        maps[f"boxes_{stride}"][:, 2:] = -3
    spec = spec_of(nms_candidates_per_level=4, nms_iou=0.999)
    [(boxes, _)] = rtmo.decode(maps | weights_of(2), spec)
    best = [np.sort(maps[f"logits_{stride}"].reshape(-1))[-4:] for stride in STRIDES]
    want = sorted((sigmoid(float(logit)) for logit in np.concatenate(best)), reverse=True)
    np.testing.assert_allclose(boxes[:, 4], want, atol=1e-6)


def test_an_image_without_people_has_none() -> None:
    maps = maps_of(4, images=2)
    for stride in STRIDES:
        maps[f"logits_{stride}"][0] = -9
    (boxes, keypoints), (others, _) = rtmo.decode(maps | weights_of(2), spec_of())
    assert boxes.shape == (0, 5)
    assert keypoints.shape == (0, KEYPOINTS, 3)
    assert len(others) > 0


def test_a_keypoint_stays_within_the_widened_box() -> None:
    rng = np.random.default_rng(5)
    pose = rng.normal(0, 30, (50, VECTOR)).astype(np.float32)
    low = rng.uniform(0, 60, (50, 2))
    size = rng.uniform(5, 90, (50, 2))
    boxes = np.concatenate([low, low + size], axis=1).astype(np.float32)
    cells = (low + size / 2).astype(np.float32)
    points = rtmo.place_keypoints(pose, boxes, cells, weights_of(6))
    assert points.dtype == np.float32
    reach = (points - cells[:, None]) / (size[:, None] * 0.625)
    assert np.abs(reach).max() <= 1 + 1e-5
    assert np.abs(reach).max() > 0.9  # some are drawn to the rim


def test_saturated_bins_are_equal() -> None:
    # The formula clips at 5e4, bias included: all bins there leave the centre of the box.
    rng = np.random.default_rng(9)
    weights = weights_of(6)
    weights["dcc.x.bias"] *= 1e7
    pose = rng.normal(0, 1, (4, VECTOR)).astype(np.float32)
    boxes = np.array([[10, 20, 50, 120]] * 4, np.float32)
    cells = np.full((4, 2), 40, np.float32)
    points = rtmo.place_keypoints(pose, boxes, cells, weights)
    np.testing.assert_allclose(points[..., 0], 30, atol=1e-4)
    assert np.abs(points[..., 1] - 70).max() > 1


def test_extreme_logits_overflow_nothing() -> None:
    maps = maps_of(7, images=1)
    for stride in STRIDES:
        maps[f"logits_{stride}"][:] = 200
        maps[f"visibility_{stride}"][:] = -200
    weights = weights_of(8)
    weights["dcc.gates.weight"] *= 300
    weights["dcc.out.weight"] *= 1e-6
    with np.errstate(all="raise", under="ignore"):
        [(boxes, keypoints)] = rtmo.decode(maps | weights, spec_of(max_boxes=3))
    assert (boxes[:, 4] == 1).all()
    assert (keypoints[..., 2] == 0).all()
    assert np.isfinite(keypoints).all()
