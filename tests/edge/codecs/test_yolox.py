from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge.codecs import yolox
from edge.session import Array
from edge.spec import ModelSpec
from tests.stand_ins.naive_boxes import naive_iou
from tests.stand_ins.specs import yolox_maps_spec, yolox_spec

SIZES = {8: 40, 16: 20, 32: 10}
CLASSES = 3


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def raw_maps(seed: int, shift: float = -2.0) -> dict[str, Array]:
    """Outputs of ``yolox_maps_spec``."""
    rng = np.random.default_rng(seed)
    outputs = {}
    for kind, (channels, mean, spread) in enumerate(
        ((CLASSES, 0.0, 2.0), (4, 0.5, 0.7), (1, shift, 2.0))
    ):
        for stride, n in SIZES.items():
            value = rng.normal(mean, spread, (1, channels, n, n))
            outputs[f"kind{kind}_s{stride}"] = value.astype(np.float32)
    return outputs


def rows_of(outputs: dict[str, Array]) -> Array:
    """The same as Megvii's export gives it: levels after each other, x fastest, scores as such."""
    levels = []
    for stride in SIZES:
        classes, boxes, objectness = (outputs[f"kind{kind}_s{stride}"] for kind in range(3))
        joined = np.concatenate([boxes, sigmoid(objectness), sigmoid(classes)], axis=1)
        levels.append(joined.reshape(1, 5 + CLASSES, -1).transpose(0, 2, 1))
    return np.concatenate(levels, axis=1).astype(np.float32)


def naive_yolox(rows: Array, spec: ModelSpec) -> list[tuple[list[float], int]]:
    """Cell by cell in the order of the rows, then greedy suppression pair by pair."""
    found = []
    cells = [(s, i, j) for s, n in SIZES.items() for i in range(n) for j in range(n)]
    for row, (stride, i, j) in zip(rows, cells, strict=True):
        dx, dy, log_w, log_h, objectness, *classes = (float(v) for v in row)
        best = classes.index(max(classes))
        for label in range(len(classes)) if spec.several_labels else [best]:
            score = objectness * classes[label]
            if score <= spec.score_threshold:
                continue
            x, y = (j + dx) * stride, (i + dy) * stride
            w, h = math.exp(log_w) * stride, math.exp(log_h) * stride
            found.append(([x - w / 2, y - h / 2, x + w / 2, y + h / 2, score], label))
    found.sort(key=lambda item: -item[0][4])
    kept: list[tuple[list[float], int]] = []
    for box, label in found:
        if all(
            label != other_label or naive_iou(np.array(box), np.array(other)) <= spec.nms_iou
            for other, other_label in kept
        ):
            kept.append((box, label))
    return kept[: spec.max_boxes]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("form", ["rows", "maps"])
@pytest.mark.parametrize("several", [False, True])
def test_yolox_equals_the_naive_decoder(form: str, seed: int, several: bool) -> None:
    """The best class of a cell, or every one above the threshold, as mmdeploy's files have it."""
    maps = raw_maps(seed)
    changes: dict[str, Any] = {"score_threshold": 0.3, "nms_iou": 0.45, "max_boxes": 1000}
    changes |= {"several_labels": several, "nms_candidates_per_level": 5000}
    if form == "rows":
        spec, outputs = yolox_spec(**changes), {"output": rows_of(maps)}
    else:
        spec, outputs = yolox_maps_spec(**changes), maps
    (boxes, labels) = yolox.decode(outputs, spec)[0]
    want = naive_yolox(rows_of(maps)[0], spec)
    assert len(boxes) == len(want) > 100
    assert set(labels) == {0, 1, 2}
    np.testing.assert_allclose(boxes, [row for row, _ in want], rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(labels, [label for _, label in want])


def test_one_known_box() -> None:
    """Cell (row 3, column 5) of stride 16, half a cell right and down, 2 x 4 strides large."""
    rows = np.zeros((1, 2100, 8), np.float32)
    rows[0, 1600 + 3 * 20 + 5] = (0.5, 0.5, math.log(2), math.log(4), 0.8, 0.1, 0.9, 0.2)
    (boxes, labels) = yolox.decode({"output": rows}, yolox_spec())[0]
    np.testing.assert_allclose(boxes, [[72, 24, 104, 88, 0.72]], rtol=1e-6)
    np.testing.assert_array_equal(labels, [1])


def test_every_image_of_a_batch_is_decoded_by_itself() -> None:
    one, two = raw_maps(2), raw_maps(3)
    spec = yolox_maps_spec()
    both = {name: np.concatenate([one[name], two[name]]) for name in one}
    got = yolox.decode(both, spec)
    assert len(got) == 2
    for maps, (boxes, labels) in zip((one, two), got, strict=True):
        want_boxes, want_labels = yolox.decode(maps, spec)[0]
        np.testing.assert_array_equal(boxes, want_boxes)
        np.testing.assert_array_equal(labels, want_labels)


@pytest.mark.parametrize("form", ["rows", "maps"])
def test_yolox_finds_nothing_in_an_empty_picture(form: str) -> None:
    maps = {name: np.full_like(value, -200) for name, value in raw_maps(0).items()}
    if form == "rows":
        (boxes, labels) = yolox.decode({"output": np.zeros((1, 2100, 8), "f4")}, yolox_spec())[0]
    else:
        (boxes, labels) = yolox.decode(maps, yolox_maps_spec())[0]
    assert boxes.shape == (0, 5)
    assert labels.shape == (0,)


def test_class_logits_may_lie_far_out() -> None:
    """exp(200) is beyond float32; the score of such a class is 0 all the same."""
    maps = raw_maps(0)
    for stride in SIZES:
        maps[f"kind0_s{stride}"][:] = -200
        maps[f"kind2_s{stride}"][:] = 3
    assert len(yolox.decode(maps, yolox_maps_spec())[0][0]) == 0


def test_yolox_keeps_the_best_candidates_of_each_level() -> None:
    spec = replace(yolox_spec(), nms_candidates_per_level=7, max_boxes=100)
    rows = np.zeros((1, 2100, 8), np.float32)
    rows[..., 2:4] = -3  # boxes far smaller than a cell: nothing overlaps
    rows[..., 4] = 1
    rows[0, :, 5] = np.linspace(0.1, 0.9, 2100)
    (boxes, _) = yolox.decode({"output": rows}, spec)[0]
    want = np.concatenate([rows[0, end - 7 : end, 5] for end in (1600, 2000, 2100)])
    np.testing.assert_allclose(np.sort(boxes[:, 4]), np.sort(want))
