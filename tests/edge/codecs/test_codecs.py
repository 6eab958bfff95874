from __future__ import annotations

import math

import numpy as np
import pytest

from edge.codecs import detections, rtmdet, simcc
from edge.codecs.nms import suppress
from edge.session import Array
from edge.spec import TensorSpec
from tests.stand_ins.naive_boxes import naive_iou
from tests.stand_ins.specs import detector_spec, finished_poses_spec, pose_spec

# --- SimCC ----------------------------------------------------------------------------------------


def naive_simcc(x: Array, y: Array, ratio: float) -> Array:
    """One keypoint at a time, in plain Python."""
    people, keypoints = x.shape[:2]
    out = np.zeros((people, keypoints, 3))
    for n in range(people):
        for k in range(keypoints):
            row_x, row_y = list(x[n, k]), list(y[n, k])
            score = min(max(row_x), max(row_y))
            if score <= 0:
                out[n, k] = (-1 / ratio, -1 / ratio, score)
            else:
                at = (row_x.index(max(row_x)), row_y.index(max(row_y)))
                out[n, k] = (at[0] / ratio, at[1] / ratio, score)
    return out


@pytest.mark.parametrize("people", [1, 3])
def test_simcc_equals_the_naive_decoder(people: int) -> None:
    rng = np.random.default_rng(0)
    outputs = {
        # Rounded values make ties, negative ones the zero rule.
        "simcc_x": np.round(rng.normal(-0.5, 0.4, (people, 17, 384)), 1).astype(np.float32),
        "simcc_y": np.round(rng.normal(-0.5, 0.4, (people, 17, 512)), 1).astype(np.float32),
    }
    outputs["simcc_x"][0, 3] = -1
    want = naive_simcc(outputs["simcc_x"], outputs["simcc_y"], 2.0)
    got = simcc.decode(outputs, pose_spec())
    assert got.dtype == np.float32
    assert got.shape == (people, 17, 3)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    assert (want[0, 3, :2] == -0.5).all()


def test_simcc_ties_go_to_the_first_bin() -> None:
    x, y = np.zeros((1, 17, 384), np.float32), np.zeros((1, 17, 512), np.float32)
    x[..., [10, 20]] = 2.0
    y[..., [300, 30]] = 1.0
    got = simcc.decode({"simcc_x": x, "simcc_y": y}, pose_spec())
    np.testing.assert_array_equal(got, np.broadcast_to([5.0, 15.0, 1.0], (1, 17, 3)))


def test_shortfall_equals_the_naive_one() -> None:
    rng = np.random.default_rng(4)
    outputs = {
        "simcc_x": rng.normal(0, 1, (2, 17, 384)).astype(np.float32),
        "simcc_y": rng.normal(0, 1, (2, 17, 512)).astype(np.float32),
    }
    points = rng.uniform(-20, 280, (2, 17, 2)).astype(np.float32)
    got = simcc.shortfall(outputs, pose_spec(), points)
    for n in range(2):
        for k in range(17):
            losses = []
            for axis, (name, last) in enumerate((("simcc_x", 383), ("simcc_y", 511))):
                row = outputs[name][n, k]
                place = min(max(round(float(points[n, k, axis]) * 2), 0), last)
                losses.append(row.max() - row[place])
            assert got[n, k] == pytest.approx(max(losses))
    decoded = simcc.decode(outputs, pose_spec())
    np.testing.assert_array_equal(simcc.shortfall(outputs, pose_spec(), decoded[..., :2]), 0)


# --- RTMDet ---------------------------------------------------------------------------------------


def naive_rtmdet(
    logits: list[Array], distances: list[Array], strides: tuple[int, ...], cut: bool
) -> list[tuple[list[float], int]]:
    """Cell by cell, then greedy suppression pair by pair."""
    found = []
    for level_logits, level_distances, stride in zip(logits, distances, strides, strict=True):
        classes, height, width = level_logits.shape
        for c in range(classes):
            for i in range(height):
                for j in range(width):
                    score = 1 / (1 + math.exp(-float(level_logits[c, i, j])))
                    if score > 0.05:
                        left, top, right, bottom = (float(v) for v in level_distances[:, i, j])
                        x, y = j * stride, i * stride
                        box = [x - left, y - top, x + right, y + bottom]
                        if cut:  # mmdet's clip_border and min_bbox_size
                            box = [min(max(v, 0), 320) for v in box]
                        if not cut or (box[2] > box[0] and box[3] > box[1]):
                            found.append(([*box, score], c))
    found.sort(key=lambda row: -row[0][4])
    kept: list[tuple[list[float], int]] = []
    for box, label in found:
        if all(
            label != other_label or naive_iou(np.array(box), np.array(other)) <= 0.6
            for other, other_label in kept
        ):
            kept.append((box, label))
    return kept[:100]


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("shift", [-6.0, -3.0])
@pytest.mark.parametrize("cut", [False, True])
def test_rtmdet_equals_the_naive_decoder(classes: int, shift: float, cut: bool) -> None:
    rng = np.random.default_rng(classes)
    sizes = (40, 20, 10)
    logits = [rng.normal(shift, 2, (1, classes, n, n)).astype(np.float32) for n in sizes]
    distances = [rng.uniform(-4, 60, (1, 4, n, n)).astype(np.float32) for n in sizes]
    spec = detector_spec(
        outputs=tuple(
            TensorSpec(f"t{i}", tuple(t.shape)) for i, t in enumerate([*logits, *distances])
        ),
        cut_at_rim=cut,
    )
    outputs = {f"t{i}": t for i, t in enumerate([*logits, *distances])}
    (boxes, labels) = rtmdet.decode(outputs, spec)[0]
    want = naive_rtmdet([t[0] for t in logits], [t[0] for t in distances], spec.strides, cut)
    assert len(boxes) == len(want) > 10
    np.testing.assert_allclose(boxes, [row for row, _ in want], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(labels, [label for _, label in want])


def test_rtmdet_cuts_boxes_off_at_the_rim_before_the_suppression() -> None:
    """What two boxes are beyond the input is no reason to keep both; one without an area goes."""
    spec = detector_spec(cut_at_rim=True)
    outputs = {t.name: np.full([s or 1 for s in t.shape], -9.0, np.float32) for t in spec.outputs}
    logits, sides = outputs["logits_8"][0, 0], outputs["distances_8"][0]
    for row, column, logit, distances in (
        (4, 1, 3.0, (8, 16, 12, 16)),
        (4, 2, 2.0, (60, 16, 4, 16)),  # the same but for what lies left of the input
        (20, 39, 1.0, (-9, 8, 40, 8)),  # wholly to the right of it
        (30, 20, 0.5, (-5, 8, 4, 8)),  # its right end is left of its left one
    ):
        logits[row, column], sides[:, row, column] = logit, distances
    (boxes, _) = rtmdet.decode(outputs, spec)[0]
    np.testing.assert_array_equal(boxes[:, :4], [[0, 16, 20, 48]])
    (boxes, _) = rtmdet.decode(outputs, detector_spec())[0]
    assert len(boxes) == 4, "a file of mmdeploy keeps them"


def test_rtmdet_finds_nothing_in_an_empty_picture() -> None:
    spec = detector_spec()
    outputs = {t.name: np.full([s or 1 for s in t.shape], -9.0, np.float32) for t in spec.outputs}
    (boxes, labels) = rtmdet.decode(outputs, spec)[0]
    assert boxes.shape == (0, 5)
    assert labels.shape == (0,)


def test_rtmdet_keeps_the_best_candidates_of_each_level() -> None:
    spec = detector_spec(nms_candidates_per_level=7, max_boxes=100)
    outputs = {t.name: np.zeros([s or 1 for s in t.shape], np.float32) for t in spec.outputs}
    for tensor in spec.outputs[3:]:
        outputs[tensor.name][:] = 1.0  # boxes of 2x2 px, apart from each other at every stride
    outputs["logits_8"][0, 0] = np.linspace(0, 4, 1600).reshape(40, 40)
    (boxes, _) = rtmdet.decode(outputs, spec)[0]
    best = boxes[boxes[:, 4] > 0.9]
    assert len(best) == 7
    assert best[0, 4] == pytest.approx(1 / (1 + math.exp(-4)))


def test_suppression_agrees_with_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 200, (300, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 80, (300, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    scores = ((1 + rng.permutation(300)) / 300).astype(np.float32)
    kept = suppress(boxes, scores, np.zeros(300, np.int64), 0.5, 1000)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    want = cv2.dnn.NMSBoxes(xywh.tolist(), scores.tolist(), 0.0, 0.5)
    np.testing.assert_array_equal(kept, np.asarray(want).reshape(-1))


# --- detections -----------------------------------------------------------------------------------


def test_detections_drop_padding_rows() -> None:
    spec = detector_spec(
        codec="detections",
        outputs=(TensorSpec("dets", (1, None, 5)), TensorSpec("labels", (1, None), "int64")),
        strides=(),
    )
    dets = np.array([[[1, 2, 30, 40, 0.9], [5, 5, 9, 9, 0.06], [0, 0, 0, 0, 0]]], np.float32)
    labels = np.array([[0, 2, 0]], np.int64)
    (boxes, kept_labels) = detections.decode({"dets": dets, "labels": labels}, spec)[0]
    np.testing.assert_array_equal(boxes, dets[0, :2])
    np.testing.assert_array_equal(kept_labels, [0, 2])
    empty = detections.decode({"dets": dets[:, 2:], "labels": np.array([[-1]])}, spec)[0]
    assert empty[0].shape == (0, 5)


def anchors_and_nms(
    seed: int, iou_limit: float, score_limit: float, last: str
) -> tuple[Array, Array, list[int]]:
    """Anchors (60, 5), their keypoints (60, 5, 3), and the indices a plain suppression keeps.

    The last anchor is a person of its own, one that a better one suppresses, or nobody.
    """
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 300, (60, 2))
    size = rng.uniform(20, 90, (60, 2))
    scores = rng.permutation(np.linspace(0.01, 0.95, 60))
    boxes = np.concatenate([corner, corner + size, scores[:, None]], axis=1)
    if last == "suppressed":
        best = int(boxes[:-1, 4].argmax())
        boxes[-1, :4] = boxes[best, :4] + 1
        boxes[-1, 4] = 0.5
    elif last == "kept":
        boxes[-1] = (500, 500, 560, 600, 0.5)
    else:
        boxes[-1, 4] = 0.01
    boxes = boxes.astype(np.float32)
    keypoints = rng.uniform(0, 400, (60, 5, 3)).astype(np.float32)
    kept: list[int] = []
    for index in np.argsort(-boxes[:, 4], kind="stable"):
        good = boxes[index, 4] > score_limit
        if good and all(naive_iou(boxes[index], boxes[k]) <= iou_limit for k in kept):
            kept.append(int(index))
    return boxes, keypoints, kept


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("padding", [[-1], [0, -1], [-1, -1], [0, 0, -1], []])
@pytest.mark.parametrize("last", ["nobody", "suppressed", "kept"])
def test_padding_by_an_anchors_index_is_nobody(last: str, padding: list[int], seed: int) -> None:
    """The rows of a one-stage file are anchors [kept..., padding]: padding must go, all else stay.

    A batch pads its emptier images by the first anchor, every image by the last one.
    """
    boxes, keypoints, kept = anchors_and_nms(seed, 0.65, 0.1, last)
    assert len(kept) > 8
    assert (59 in kept) == (last == "kept")
    rows = [*kept, *padding]
    spec = finished_poses_spec(nms_iou=0.65, score_threshold=0.1)
    outputs = {"dets": boxes[None, rows], "keypoints": keypoints[None, rows]}
    (got, got_keypoints) = detections.decode_poses(outputs, spec)[0]
    np.testing.assert_array_equal(got, boxes[kept])
    np.testing.assert_array_equal(got_keypoints, keypoints[kept])


def test_an_image_of_nobody_has_no_poses() -> None:
    outputs = {
        "dets": np.array([[[5, 5, 9, 9, 0.02]], [[1, 1, 8, 8, 0.5]]], np.float32),
        "keypoints": np.ones((2, 1, 5, 3), np.float32),
    }
    empty, full = detections.decode_poses(outputs, finished_poses_spec())
    assert empty[0].shape == (0, 5)
    assert empty[1].shape == (0, 5, 3)
    assert full[0].shape == (1, 5)
