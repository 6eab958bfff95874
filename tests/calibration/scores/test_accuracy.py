"""Accuracy in cases whose answer is known: boxes alone, and sessions on data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from calibration.data.data_set import DataSet, detected_boxes, load_data, synthetic_data
from calibration.scores.accuracy import box_scores, evaluate_session, predict, score
from calibration.scores.coco_scores import WHOLEBODY_PARTS
from edge.errors import EngineError, SpecError
from edge.spec import ModelSpec, TensorSpec
from tests.conftest import shared
from tests.stand_ins.fake_sessions import FakeSession
from tests.stand_ins.specs import detector_spec, finished_poses_spec, pose_spec, rtmo_spec

pytest.importorskip("pycocotools")
pytest.importorskip("cv2")

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


# --- sessions on data sets ------------------------------------------------------------------------


class Oracle(FakeSession):
    """A SimCC session that is told where each of the crops to come has its keypoints."""

    def __init__(self, spec: ModelSpec, answers: Iterable[np.ndarray]) -> None:
        self.coming = iter(answers)
        super().__init__(spec, self._next)

    def _next(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.spec.input_hw
        count, keypoints = len(batch), len(self.spec.keypoints.keypoints)
        x = np.zeros((count, keypoints, 2 * width), np.float32)
        y = np.zeros((count, keypoints, 2 * height), np.float32)
        for n in range(count):
            for k, (at_x, at_y, value) in enumerate(next(self.coming)):
                x[n, k, int(np.clip(round(2 * at_x), 0, 2 * width - 1))] = value
                y[n, k, int(np.clip(round(2 * at_y), 0, 2 * height - 1))] = value
        return x, y


def told(data: DataSet, spec: ModelSpec, spread_px: float = 0.0, seed: int = 0) -> Oracle:
    """An oracle for the true boxes of a data set, off by noise in input px."""
    from edge.pose import pose_feeds

    rng = np.random.default_rng(seed)
    answers = []
    for picture in data.pictures:
        given = data.true_boxes(picture)
        rows = {row["id"]: row for row in data.annotations[picture.image_id]}
        _, placements = pose_feeds(spec, picture.read(), given.boxes_xyxy)
        for number, place in zip(given.annotation_ids, placements, strict=True):
            points = np.array(rows[number]["keypoints"], np.float64).reshape(-1, 3)
            points[:, :2] = (points[:, :2] - place.offset_xy) / place.scale_xy
            points[:, :2] += rng.normal(0, 1, points[:, :2].shape) * spread_px
            points[:, 2] = rng.uniform(0.25, 1, len(points))
            answers.append(points)
    return Oracle(spec, answers)


def wholebody_spec() -> ModelSpec:
    sizes = (("x", 384), ("y", 512))
    tensors = tuple(TensorSpec(f"simcc_{axis}", (None, 133, size)) for axis, size in sizes)
    return pose_spec(keypoint_set="coco-wholebody133", outputs=tensors)


@pytest.mark.parametrize(
    ("name", "spec"),
    [("test_coco.json", pose_spec()), ("test_coco_wholebody.json", wholebody_spec())],
)
def test_who_knows_the_truth_of_the_photos_is_perfect(name: str, spec: ModelSpec) -> None:
    data = load_data(shared(f"data/coco/{name}"), spec)
    scores = evaluate_session(told(data, spec), data)
    assert (scores.metric, scores.images) == ("AP", 4)
    assert scores.value == scores.figures["AP"]
    # Half a bin of a large crop is a pixel of the picture: little for a body, more for a face.
    assert scores.figures["AP50"] == pytest.approx(1.0)
    assert scores.value > (0.97 if spec.keypoint_set == "coco17" else 0.85)
    assert scores.figures["mean_px"] < 0.3
    if spec.keypoint_set == "coco17":
        assert scores.figures["PCK@0.05"] == 1.0
        # The sum of the file's own num_keypoints.
        assert scores.figures["keypoints"] == 181
    else:
        assert {f"AP_{part}" for part in WHOLEBODY_PARTS} <= set(scores.figures)
        assert scores.figures["AP_body"] > 0.97


def test_scores_are_mmposes_figure_of_box_and_keypoints() -> None:
    spec = pose_spec()
    data = synthetic_data(6, spec)
    predictions = predict(told(data, spec, spread_px=3), data)
    assert len(predictions) == 6
    for row in predictions:
        values = [value for value in row["keypoints"][2::3] if value > 0.2]
        assert row["score"] == pytest.approx(sum(values) / len(values), rel=1e-6)
        x, y, w, h = data.annotations[row["image_id"]][0]["bbox"]
        w, h = min(x + w, 255) - x, min(y + h, 319) - y
        padded = (max(w, h * 192 / 256) * 1.25, max(h, w * 256 / 192) * 1.25)
        assert row["area"] == pytest.approx(padded[0] * padded[1], rel=1e-5)


def test_two_halves_are_one_whole_to_the_last_digit() -> None:
    spec = pose_spec()
    data = load_data(shared("data/coco/test_coco.json"), spec)
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((2, 17, 3), np.float32)

    def answer(batch: np.ndarray) -> list[np.ndarray]:
        columns, rows = batch.mean(axis=2).repeat(2, axis=-1), batch.mean(axis=3).repeat(2, axis=-1)
        pairs = zip(weights, (columns, rows), strict=True)
        return [np.asarray(weight @ axis, np.float32) for weight, axis in pairs]

    session = FakeSession(spec, answer)
    whole = predict(session, data, flip=True)
    halves = [predict(session, data.part(part), flip=True) for part in (range(2), range(2, 4))]
    through_file = json.loads(json.dumps(halves[1])) + json.loads(json.dumps(halves[0]))
    assert sorted(map(json.dumps, through_file)) == sorted(map(json.dumps, whole))
    scores = score(through_file, data, spec)
    assert scores == score(whole, data, spec) == evaluate_session(session, data, flip=True)
    assert 0 < scores.figures["PCK@0.1"] < 1
    assert scores.figures != evaluate_session(session, data).figures


def test_detected_boxes_bring_their_scores_and_are_thinned_out() -> None:
    spec = pose_spec()
    path = shared("data/coco/test_coco_det_AP_H_56.json")
    data = load_data(path.with_name("test_coco.json"), spec)
    boxes = detected_boxes(path, data)
    assert sum(len(given.scores) for given in boxes.values()) == 118

    def all_on_one_spot(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = (np.zeros((len(batch), 17, size), np.float32) for size in (384, 512))
        x[..., 192], y[..., 256] = 0.5, 0.5
        return x, y

    predictions = predict(FakeSession(spec, all_on_one_spot), data, boxes=boxes)
    assert len(predictions) == 118
    given = boxes[predictions[0]["image_id"]]
    assert predictions[0]["score"] == pytest.approx(0.5 * float(given.scores[0]))
    assert all("annotation_id" not in row for row in predictions)
    scores = score(predictions, data, spec)
    assert scores.figures["AP"] < 0.05


def test_doubled_people_cost_nothing_of_a_pose_model_and_much_of_a_one_stage_one() -> None:
    """OKS suppression is for crops: who answers twice with one network is wrong the second time."""
    spec = pose_spec()
    data = synthetic_data(8, spec)
    rows = predict(told(data, spec), data)
    doubled = rows + [{**row, "score": row["score"] * 0.999} for row in rows]
    assert score(doubled, data, spec).figures["AP"] == score(rows, data, spec).figures["AP"]
    whole = rtmo_spec()
    answers = [{**row, "score": 1.0} for row in doubled]
    once = [{**row, "score": 1.0} for row in rows]
    one_stage = replace(data, keypoint_set=whole.keypoint_set)
    perfect, twice = (score(some, one_stage, whole) for some in (once, answers))
    assert perfect.figures["AP"] > 0.99
    assert twice.figures["AP"] < 0.9


def test_a_one_stage_model_is_scored_by_its_boxes() -> None:
    """Its own answers, in the pixels of a 128x128 letterbox of the picture's middle."""
    spec = replace(finished_poses_spec(), keypoint_set="coco17", outputs=(
        TensorSpec("dets", (1, None, 5)), TensorSpec("keypoints", (1, None, 17, 3))
    ))  # fmt: skip
    data = synthetic_data(2, spec)
    step = 640 / 128
    coming = iter(data.pictures)

    def answer(_: np.ndarray) -> list[np.ndarray]:
        picture = next(coming)
        dets, points = [], []
        for place, row in enumerate(data.annotations[picture.image_id]):
            keypoints = np.array(row["keypoints"]).reshape(17, 3)
            x, y, w, h = row["bbox"]
            box = np.array([[x, y], [x + w, y + h]])
            offset = np.array([0, (480 - 640) / 2])
            dets.append([*((box - offset) / step).reshape(-1), 0.9 - 0.1 * place])
            keypoints[:, :2] = (keypoints[:, :2] - offset) / step
            points.append(keypoints)
        return [np.array([dets], np.float32), np.array([points], np.float32)]

    predictions = predict(FakeSession(spec, answer, max_batch=1), data)
    assert {round(row["score"], 4) for row in predictions} <= {0.9, 0.8, 0.7, 0.6, 0.5}
    scores = score(predictions, data, spec)
    assert scores.figures["AP"] > 0.99
    assert scores.figures["PCK@0.05"] == 1.0


def test_a_detector_is_scored_on_whole_pictures() -> None:
    spec = replace(
        detector_spec(),
        codec="detections",
        outputs=(TensorSpec("dets", (1, None, 5)), TensorSpec("labels", (1, None), "int64")),
        strides=(),
    )
    data = synthetic_data(3, spec)
    coming = iter(data.pictures)

    def answer(_: np.ndarray) -> list[np.ndarray]:
        rows = data.annotations[next(coming).image_id]
        dets = [[x / 2, y / 2, (x + w) / 2, (y + h) / 2, 0.9] for x, y, w, h in
                (row["bbox"] for row in rows)]  # fmt: skip
        # Another class at the same place is nobody.
        dets.append([0, 0, 300, 200, 0.95])
        labels = [0] * len(rows) + [1]
        return [np.array([dets], np.float32), np.array([labels], np.int64)]

    scores = evaluate_session(FakeSession(spec, answer, max_batch=1), data)
    assert scores.figures["AP"] == pytest.approx(1.0)
    assert "AP75" in str(scores)


def test_pck_decides_where_sigmas_are_unknown() -> None:
    spec = replace(pose_spec(), keypoint_set="face106", outputs=(
        TensorSpec("simcc_x", (None, 106, 384)), TensorSpec("simcc_y", (None, 106, 512))
    ))  # fmt: skip
    body = synthetic_data(2, pose_spec())
    rows = [
        {**row, "keypoints": row["keypoints"] + [0.0] * 3 * 89} for row in body.truth["annotations"]
    ]
    data = replace(body, keypoint_set="face106", truth={**body.truth, "annotations": rows})
    scores = evaluate_session(told(data, spec), data)
    assert (scores.metric, scores.value) == ("PCK@0.05", 1.0)
    assert "AP" not in scores.figures


def test_what_does_not_belong_together_is_refused() -> None:
    spec = pose_spec()
    data = synthetic_data(1, spec)
    detector = FakeSession(detector_spec(), None)
    with pytest.raises(SpecError, match="detector needs a data set with boxes, this one has coco1"):
        predict(detector, data)
    scenes = synthetic_data(1, detector_spec())
    with pytest.raises(SpecError, match="boxes and flip are for pose models"):
        predict(detector, scenes, flip=True)
    with pytest.raises(SpecError, match="answers for image 5, which is not in 1 synthetic crops"):
        score([{"image_id": 5}], data, spec)

    def overflow(batch: np.ndarray) -> list[np.ndarray]:
        return [np.full((len(batch), 17, size), np.nan, np.float32) for size in (384, 512)]

    with pytest.raises(EngineError, match="pose answers synthetic 2/0 with a value that is not fi"):
        predict(FakeSession(spec, overflow), data)


def test_progress_counts_pictures() -> None:
    spec = pose_spec()
    data, seen = synthetic_data(3, spec), list[tuple[int, int]]()
    evaluate_session(told(data, spec), data, on_progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
