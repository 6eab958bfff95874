from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from converters.parity.boxes import BoxJudge
from converters.parity.judges import KeypointJudge, TensorJudge
from converters.parity.limits import LIMITS, MOST_BOXES
from edge.boxes import iou
from edge.session import Array
from edge.spec import TensorSpec
from tests.stand_ins.specs import detector_spec, pose_spec


def simcc(points: list[tuple[float, float, float]]) -> dict[str, Array]:
    """Outputs that decode to 17 given keypoints."""
    x, y = np.zeros((1, 17, 384), np.float32), np.zeros((1, 17, 512), np.float32)
    for k in range(17):
        px, py, score = points[k % len(points)]
        x[0, k, round(2 * px)] = score
        y[0, k, round(2 * py)] = score
    return {"simcc_x": x, "simcc_y": y}


@pytest.mark.parametrize(
    ("want", "got", "words"),
    [
        ((50, 60, 0.8), (50, 60, 0.8), None),
        ((50, 60, 0.8), (50.5, 60, 0.8), "on average"),
        ((50, 60, 0.8), (54, 63, 0.8), "nose of photo is 5.00 px off (limit 1)"),
        ((50, 60, 0.8), (50, 60, 0.75), "the score of nose of photo is 0.0500 off"),
        ((50, 60, 0.2), (150, 160, 0.2), None),  # not confident: not judged
        # Raw scores of networks without a scale of their own: halves are exact to 1 in 2048.
        ((50, 60, 57.0), (50, 60, 57.05), None),
        ((50, 60, 57.0), (50, 60, 57.6), "the score of nose of photo is 0.6000 off (limit 0.57)"),
    ],
    ids=str,
)
def test_keypoints_are_judged_in_pixels(want: Any, got: Any, words: str | None) -> None:
    judge = KeypointJudge(LIMITS["fp32"])
    spec = pose_spec()
    judge.add("photo", spec, simcc([want]), spec, simcc([got]), {})
    if words is None:
        assert judge.failures == []
    else:
        assert words in "; ".join(judge.failures)
    assert judge.count == (17 if want[2] >= 0.3 else 0)


@pytest.mark.parametrize(("second", "tied"), [(0.795, True), (0.7, False)])
def test_a_jump_between_two_equal_maxima_is_a_tie(second: float, tied: bool) -> None:
    """The reference rates two places 50 px apart; the answer takes the one that it put second."""
    want, got = simcc([(50, 60, 0.8)]), simcc([(50, 60, 0.8)])
    want["simcc_x"][..., 200] = second
    got["simcc_x"][..., 200] = 0.801
    judge = KeypointJudge(LIMITS["fp16"])
    spec = pose_spec()
    judge.add("photo", spec, want, spec, got, {})
    assert (judge.failures == []) is tied
    assert judge.summary()["ties"] == (17 if tied else 0)
    # Ties alone prove nothing: the chain fails where no keypoint was compared.
    assert judge.count == (0 if tied else 17)


@pytest.mark.parametrize(("second", "moved"), [(0.7998, False), (0.79, True)])
def test_a_step_to_an_equal_neighbour_is_no_distance(second: float, moved: bool) -> None:
    """Two bins, 1 px apart; the answer takes the one that the reference put second."""
    want, got = simcc([(50, 60, 0.8)]), simcc([(50, 60, 0.8)])
    want["simcc_x"][..., 102] = second
    got["simcc_x"][..., 102] = 0.8005
    judge = KeypointJudge(LIMITS["fp16"])
    spec = pose_spec()
    judge.add("photo", spec, want, spec, got, {})
    assert judge.summary()["mean_px"] == (1.0 if moved else 0.0)
    assert bool(judge.failures) is moved
    assert judge.count == 17, "it was compared, unlike a tie"
    got["simcc_x"] *= 0.9
    got["simcc_y"] *= 0.9
    judge.add("darker", spec, want, spec, got, {})
    assert any("score" in failure for failure in judge.failures), "its score counts all the same"


DETECTIONS = detector_spec(
    codec="detections",
    outputs=(TensorSpec("dets", (1, None, 5)), TensorSpec("labels", (1, None), "int64")),
    strides=(),
)


def boxes(*rows: tuple[float, ...]) -> dict[str, Array]:
    dets = np.array(rows, np.float32).reshape(1, -1, 5)
    return {"dets": dets, "labels": np.zeros((1, dets.shape[1]), np.int64)}


BOX = (10.0, 20.0, 110.0, 220.0, 0.9)


@pytest.mark.parametrize(
    ("want", "got", "words"),
    [
        ([BOX], [BOX], None),
        ([BOX], [(10.0, 20.0, 110.0, 220.5, 0.905)], None),
        ([BOX], [(10.0, 20.0, 110.0, 230.0, 0.9)], "keeps an IoU of 0.9524"),
        ([BOX], [(10.0, 20.0, 110.0, 220.0, 0.8)], "has a score 0.1000 off"),
        ([BOX], [], "with score 0.900 is gone"),
        ([BOX], [BOX, (150.0, 20.0, 200.0, 90.0, 0.5)], "photo has a box too many"),
        # About the threshold a counterpart may lie on the other side of it.
        ([(10.0, 20.0, 110.0, 220.0, 0.303)], [(10.0, 20.0, 110.0, 220.0, 0.297)], None),
        ([(10.0, 20.0, 110.0, 220.0, 0.297)], [(10.0, 20.0, 110.0, 220.0, 0.303)], None),
        ([(10.0, 20.0, 110.0, 220.0, 0.1)], [], None),
    ],
    ids=str,
)
def test_boxes_need_their_counterparts(want: Any, got: Any, words: str | None) -> None:
    judge = BoxJudge(LIMITS["fp32"])
    judge.add("photo", DETECTIONS, boxes(*want), DETECTIONS, boxes(*got), {})
    if words is None:
        assert judge.failures == []
    else:
        assert words in "; ".join(judge.failures)


def test_classes_are_not_confused() -> None:
    judge = BoxJudge(LIMITS["fp16"])
    other = boxes(BOX)
    other["labels"][:] = 3
    judge.add("photo", DETECTIONS, boxes(BOX), DETECTIONS, other, {})
    assert len(judge.failures) == 2


def test_one_box_counts_once_however_it_fails() -> None:
    judge = BoxJudge(LIMITS["fp32"])
    worse = (10.0, 20.0, 110.0, 240.0, 0.7)  # another place and another score
    judge.add("photo", DETECTIONS, boxes(BOX), DETECTIONS, boxes(worse), {})
    assert len(judge.failures) == 2
    assert judge.count == 1


INVERTED = (110.0, 20.0, 10.0, 220.0, 0.9)


@pytest.mark.parametrize(
    ("want", "got", "failures"),
    [([BOX, INVERTED], [BOX, INVERTED], 0), ([BOX, INVERTED], [BOX], 0), ([BOX], [INVERTED], 1)],
    ids=["both", "one side", "for a right one"],
)
def test_boxes_with_inverted_sides_are_no_answers(want: Any, got: Any, failures: int) -> None:
    """`Detector` leaves them out: nobody ever sees one."""
    judge = BoxJudge(LIMITS["fp32"])
    judge.add("photo", DETECTIONS, boxes(*want), DETECTIONS, boxes(*got), {})
    assert len(judge.failures) == failures
    assert judge.count == 1
    assert judge.without_area == want.count(INVERTED)


SIZES = {8: 40, 16: 20, 32: 10}


def rtmdet(*rows: tuple[float, ...]) -> dict[str, Array]:
    """Raw maps that hold these boxes and scores, each in the cell of stride 8 at its corner."""
    maps: dict[str, Array] = {}
    for stride, size in SIZES.items():
        maps[f"logits_{stride}"] = np.full((1, 1, size, size), -20, np.float32)
        maps[f"distances_{stride}"] = np.zeros((1, 4, size, size), np.float32)
    for x1, y1, x2, y2, score in rows:
        row, column = int(y1) // 8, int(x1) // 8
        while maps["logits_8"][0, 0, row, column] > -20:
            column += 1
        x, y = column * 8, row * 8
        maps["logits_8"][0, 0, row, column] = np.log(score / (1 - score))
        maps["distances_8"][0, :, row, column] = (x - x1, y - y1, x2 - x, y2 - y)
    return maps


RTMDET = detector_spec(
    outputs=tuple(
        TensorSpec(f"{kind}_{stride}", (1, channels, size, size))
        for kind, channels in (("logits", 1), ("distances", 4))
        for stride, size in SIZES.items()
    ),
    strides=tuple(SIZES),
)
A, B = (16.0, 16.0, 116.0, 216.0), (18.0, 26.0, 118.0, 226.0)  # overlap by 0.87
FAR = (160.0, 16.0, 260.0, 216.0, 0.6)


@pytest.mark.parametrize(
    ("want", "got", "words"),
    [
        ([(*A, 0.7647), (*B, 0.7646)], [(*A, 0.7645), (*B, 0.7648)], None),
        ([(*A, 0.7647), (*B, 0.7646), FAR], [(*A, 0.7645), (*B, 0.7648), FAR], None),
        # Not a tie: the other box scores otherwise than before, lies elsewhere, or is new.
        ([(*A, 0.7647), (*B, 0.60)], [(*A, 0.7645), (*B, 0.7648)], "a box too many"),
        ([(*A, 0.7647)], [(*A, 0.7645), (*B, 0.7648)], "a box too many"),
        ([(*A, 0.7647), (*B, 0.7646)], [(*B, 0.7646)], "is gone"),
    ],
    ids=["tie", "tie and another", "score", "new", "gone"],
)
def test_a_tie_in_the_suppression_is_no_change(want: Any, got: Any, words: str | None) -> None:
    judge = BoxJudge(LIMITS["fp32"])
    reference, answer = rtmdet(*want), rtmdet(*got)
    judge.add("photo", RTMDET, reference, RTMDET, answer, reference)
    if words is None:
        assert judge.failures == []
        assert judge.summary()["box_ties"] == 1
        assert judge.count == len(want) - 1
    else:
        assert words in "; ".join(judge.failures)


def test_a_tie_frees_and_takes_further_boxes() -> None:
    """C overlaps with A beyond the limit and with B less: it is there where B was kept."""
    c = (16.0, 8.0, 116.0, 160.0, 0.5)
    assert iou(np.array([c]), np.array([A]))[0, 0] > 0.6 > iou(np.array([c]), np.array([B]))[0, 0]
    reference = rtmdet((*A, 0.7647), (*B, 0.7646), c)
    answer = rtmdet((*A, 0.7645), (*B, 0.7648), c)
    for want, got in ((reference, answer), (answer, reference)):
        judge = BoxJudge(LIMITS["fp32"])
        judge.add("photo", RTMDET, want, RTMDET, got, want)
        assert judge.failures == []


@pytest.mark.parametrize("score", [0.5004, 0.52])
def test_a_box_at_the_models_own_threshold(score: float) -> None:
    spec = detector_spec(outputs=RTMDET.outputs, strides=RTMDET.strides, score_threshold=0.5)
    judge = BoxJudge(LIMITS["fp32"])
    want, got = rtmdet((*A, score)), rtmdet((*A, 0.4996))
    judge.add("photo", spec, want, spec, got, want)
    assert bool(judge.failures) is (score == 0.52)


def test_the_best_boxes_of_a_crowd_are_compared() -> None:
    """Of 2,000, in a second or so and not in minutes; whoever is changed among them is seen."""
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 4000, (2000, 2))
    rows = np.column_stack([corner, corner + rng.uniform(10, 60, (2000, 2))])
    rows = np.column_stack([rows, rng.uniform(0.31, 1, 2000)]).astype(np.float32)
    rows = rows[np.argsort(-rows[:, 4])]
    changed = rows.copy()
    changed[5, :4] += 500
    for answers, failures in ((rows, 0), (changed, 2)):
        judge = BoxJudge(LIMITS["fp32"])
        judge.add("photo", DETECTIONS, boxes(*rows), DETECTIONS, boxes(*answers), {})
        assert len(judge.failures) == failures
        assert judge.summary()["most_boxes"] == min(MOST_BOXES, DETECTIONS.max_boxes)


def test_tensors_are_judged_by_cosine() -> None:
    rng = np.random.default_rng(0)
    want = rng.normal(0, 1, (1, 17, 384)).astype(np.float32)
    judge = TensorJudge(LIMITS["fp16"])
    judge.add("photo", "simcc_x", want, want * np.float32(1 + 1e-4))
    assert judge.failures == []
    judge.add("photo", "simcc_x", want, want + rng.normal(0, 0.2, want.shape).astype(np.float32))
    assert "simcc_x of photo: cosine 0.98" in judge.failures[0]
    (difference,) = judge.differences()
    assert difference.max_abs > 0.5
    assert difference.cosine_min < 0.99

    judge = TensorJudge(LIMITS["fp16"])
    broken = want.copy()
    broken[0, 0, :3] = np.nan
    judge.add("photo", "simcc_x", want, broken)
    judge.add("photo", "simcc_y", want, want[:, :, :-1])
    assert "holds 3 values that are not finite" in judge.broken[0]
    assert "has shape (1, 17, 383)" in judge.broken[1]


def test_iou_by_counting_pixels() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        a, b = (np.sort(rng.integers(0, 40, (2, 2)), axis=0).reshape(-1) for _ in range(2))
        grid = np.zeros((2, 40, 40), bool)
        for layer, (x1, y1, x2, y2) in zip(grid, (a, b), strict=True):
            layer[y1:y2, x1:x2] = True
        union = (grid[0] | grid[1]).sum()
        want = (grid[0] & grid[1]).sum() / union if union else 0.0
        assert iou(a[None], b[None])[0, 0] == pytest.approx(want)
