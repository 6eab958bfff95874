"""What is not finite never leaves a codec, a pipeline or a tracker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge.codecs import BOX_CODECS, KEYPOINT_CODECS, POSE_CODECS
from edge.codecs.finite import count_lost
from edge.detector import Boxes, Detector
from edge.errors import ArgumentError, EdgeError, EngineError, FeedError
from edge.latency import LatencySettings, measure
from edge.onestage import OneStage
from edge.pipeline import Pipeline
from edge.pose import PoseEstimator
from edge.session import Array, EngineSettings, check_feeds, check_outputs, open_session
from edge.spec import ModelSpec, TensorSpec
from edge.tracking.tracker import PoseTracker, TrackerParams
from tests.stand_ins.fake_sessions import FakeSession, bright_spot, one_person, two_class_detector
from tests.stand_ins.rtmo_maps import maps_of, spec_of, weights_of
from tests.stand_ins.specs import (
    detector_spec,
    finished_poses_spec,
    heatmap_spec,
    pose_spec,
    yolox_maps_spec,
    yolox_spec,
)

BAD = (np.nan, np.inf, -np.inf)
IMAGE = np.zeros((128, 128, 3), np.uint8)


def random_outputs(spec: ModelSpec, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        tensor.name: rng.normal(0, 1, [size or 1 for size in tensor.shape]).astype(np.float32)
        for tensor in spec.outputs
    }


def real_sides(spec: ModelSpec) -> dict[str, Array]:
    """RTMDet's distances are above 0, or its boxes would be inside out."""
    outputs = random_outputs(spec)
    return outputs | {name: abs(outputs[name]) for name in outputs if name.startswith("dist")}


def detections_spec() -> ModelSpec:
    outputs = (TensorSpec("dets", (1, 9, 5)), TensorSpec("labels", (1, 9)))
    return detector_spec(codec="detections", outputs=outputs, strides=())


def finished(spec: ModelSpec) -> dict[str, Array]:
    outputs = random_outputs(spec)
    corners = np.arange(9, dtype=np.float32)[:, None] * 10 + np.array([0, 0, 8, 8], np.float32)
    scores = np.linspace(0.9, 0.5, 9, dtype=np.float32)[:, None]
    outputs["dets"] = np.concatenate([corners, scores], axis=1)[None]
    if "labels" in outputs:
        outputs["labels"] = np.zeros((1, 9), np.float32)
    return outputs


def poses_spec() -> ModelSpec:
    outputs = (TensorSpec("dets", (1, 9, 5)), TensorSpec("keypoints", (1, 9, 5, 3)))
    return replace(finished_poses_spec(), outputs=outputs)


KEYPOINTS: dict[str, Callable[[], ModelSpec]] = {
    "simcc": pose_spec,
    **{
        refinement: lambda word=refinement: heatmap_spec(heatmap_refinement=word)  # type: ignore[misc]
        for refinement in ("none", "shift", "dark", "dark-udp", "megvii")
    },
}


@pytest.mark.parametrize("kind", KEYPOINTS)
@pytest.mark.parametrize("bad", BAD)
def test_a_keypoint_with_one_bad_value_is_not_seen_and_the_others_stay(
    kind: str, bad: float
) -> None:
    spec = KEYPOINTS[kind]()
    outputs = random_outputs(spec)
    whole = KEYPOINT_CODECS[spec.codec](outputs, spec)
    assert count_lost(outputs, spec) == 0
    for tensor in spec.outputs:
        outputs[tensor.name][0, 3].flat[7] = bad
    outputs[spec.outputs[-1].name][0, 5].flat[0] = bad
    with np.errstate(all="raise"):
        got = KEYPOINT_CODECS[spec.codec](outputs, spec)
    assert np.isfinite(got).all()
    assert got[0, 3, 2] == got[0, 5, 2] == 0
    others = np.delete(np.arange(17), [3, 5])
    np.testing.assert_array_equal(got[:, others], whole[:, others])
    assert count_lost(outputs, spec) == 2


BOXES = {
    "rtmdet": (detector_spec, real_sides),
    "yolox rows": (yolox_spec, random_outputs),
    "yolox maps": (yolox_maps_spec, random_outputs),
    "detections": (detections_spec, finished),
}


@pytest.mark.parametrize("kind", BOXES)
@pytest.mark.parametrize("bad", BAD)
def test_a_cell_with_one_bad_value_is_no_box_and_the_others_stay(kind: str, bad: float) -> None:
    make, fill = BOXES[kind]
    every: Any = {"max_boxes": 10**6, "nms_candidates_per_level": 10**6}
    spec = replace(make(), score_threshold=0.3, nms_iou=1.0, **every)
    outputs = fill(spec)
    decode = BOX_CODECS[spec.codec]
    ((whole, _),) = decode(outputs, spec)
    # The best of the last level, whichever value of it is bad.
    for tensor in spec.outputs:
        for index in (0, -1):
            changed = {name: array.copy() for name, array in outputs.items()}
            changed[tensor.name].reshape(-1)[index] = bad
            with np.errstate(all="raise", under="ignore"):
                ((boxes, labels),) = decode(changed, spec)
            assert np.isfinite(boxes).all() and (labels >= 0).all()
            known = {tuple(row) for row in whole.tolist()}
            assert {tuple(row) for row in boxes.tolist()} <= known
            assert len(whole) - len(boxes) <= 2  # of two classes at most in a cell
            assert count_lost(changed, spec) == 1


def test_boxes_that_overflow_are_none() -> None:
    spec = replace(yolox_spec(), score_threshold=0.3)
    outputs = random_outputs(spec)
    rows = outputs["output"]
    rows[..., 4:] = 0
    rows[0, :2, 4:] = 0.9
    rows[0, 0, :4] = 0
    rows[0, 1, :4] = (0, 0, 200, 1)  # exp(200) is beyond float32
    with np.errstate(all="raise"):
        ((boxes, _),) = BOX_CODECS["yolox"](outputs, spec)
    assert len(boxes) == 1 and np.isfinite(boxes).all()


@pytest.mark.parametrize("bad", BAD)
def test_one_stage_codecs(bad: float) -> None:
    spec = poses_spec()
    outputs = finished(spec)
    outputs["dets"][0, 2, 1] = bad
    outputs["keypoints"][0, 4, 3] = (10, bad, 0.9)
    ((boxes, keypoints),) = POSE_CODECS["detections"](outputs, spec)
    assert np.isfinite(boxes).all() and np.isfinite(keypoints).all()
    assert len(boxes) == 8 and keypoints[3, 3].tolist() == [-1, -1, 0]
    assert count_lost(outputs, spec) == 2

    rtmo = spec_of(score_threshold=0.3, nms_iou=1.0, max_boxes=10**6)
    maps = maps_of(1, 1)
    ((whole, _),) = POSE_CODECS["rtmo"](maps | weights_of(1), rtmo)
    for tensor in rtmo.outputs:
        changed = {name: array.copy() for name, array in maps.items()}
        changed[tensor.name][0, 0, 1, 1] = bad
        with np.errstate(all="raise", under="ignore"):
            ((boxes, keypoints),) = POSE_CODECS["rtmo"](changed | weights_of(1), rtmo)
        assert np.isfinite(boxes).all() and np.isfinite(keypoints).all()
        assert len(boxes) >= len(whole) - 1
        assert count_lost(changed, rtmo) == 1


def test_what_is_around_the_networks_counts_what_was_lost() -> None:
    def spoilt(batch: Array) -> tuple[Array, Array]:
        x, y = bright_spot(batch)
        x[:, 2, 5] = np.nan
        return x, y

    estimate = PoseEstimator(FakeSession(pose_spec(), spoilt, 2))
    detect = Detector(two_class_detector(one_person(3.0, label=1)), label=0)
    find = Pipeline(estimate, detect)
    boxes = np.array([[0, 0, 60, 90], [5, 5, 60, 90], [9, 9, 60, 90]], np.float32)
    keypoints = estimate(IMAGE, boxes)
    assert np.isfinite(keypoints).all() and (keypoints[:, 2, 2] == 0).all()
    assert find.lost_count == estimate.lost_count == 3
    assert find(IMAGE) == [] and dict(detect.other_counts) == {1: 1}
    assert len(Pipeline(estimate, Detector(detect.session, label=[1, 5]))(IMAGE)) == 1


def walking(frame: int) -> Array:
    pose = np.ones((1, 17, 3), np.float32)
    pose[0, :, 0] = 60 + 3 * frame + 4 * (np.arange(17) % 5)
    pose[0, :, 1] = 40 + 8 * (np.arange(17) // 2)
    return pose


@pytest.mark.parametrize("mode", ["corrected", "sdk"])
@pytest.mark.parametrize("share", [1, 9, 17])
def test_one_bad_frame_spoils_no_track(mode: Any, share: int) -> None:
    tracker = PoseTracker(mode=mode)
    for frame in range(20):
        pose = walking(frame)
        if frame in (7, 12):
            pose[0, :share] = np.nan if frame == 7 else np.inf
        people = tracker.update(pose, image_hw=(300, 400))
        for person in people:
            assert np.isfinite(person.keypoints).all() and np.isfinite(person.box_xyxy).all()
            assert person.track_id == 0
        if frame in (8, 13, 19) and mode == "corrected":
            (person,) = people
            assert np.abs(person.keypoints[:, :2] - walking(frame)[0, :, :2]).max() < 6


def test_a_keypoint_that_was_never_seen_does_not_pull_itself_back_later() -> None:
    tracker = PoseTracker()
    for frame in range(6):
        pose = walking(frame)
        if frame < 3:
            pose[0, 0] = (-80, -293, 0)
        (person,) = tracker.update(pose, image_hw=(300, 400))
        if frame >= 3:
            assert np.abs(person.keypoints[0, :2] - pose[0, 0, :2]).max() < 3


# --- arguments ------------------------------------------------------------------------------------


def misuses() -> dict[str, Callable[[], object]]:
    network = FakeSession(pose_spec(), bright_spot)
    finder = two_class_detector(one_person(3.0))
    stage = FakeSession(finished_poses_spec(), lambda _: [])
    estimate, detect = PoseEstimator(network), Detector(finder)
    box = np.array([[0, 0, 60, 90]], np.float32)
    tracker = PoseTracker()
    return {
        "boxes (4,)": lambda: estimate(IMAGE, box[0]),
        "boxes (1, 5)": lambda: estimate(IMAGE, np.ones((1, 5), np.float32)),
        "boxes (20,)": lambda: estimate(IMAGE, np.ones(20, np.float32)),
        "boxes of texts": lambda: estimate(IMAGE, np.array([["a", "b", "c", "d"]])),
        "boxes ragged": lambda: estimate(IMAGE, [[1, 2, 3, 4], [1]]),  # type: ignore[arg-type]
        "boxes NaN": lambda: estimate(IMAGE, box * np.nan),
        "boxes turned": lambda: estimate(IMAGE, box[:, ::-1]),
        "boxes True": lambda: estimate(IMAGE, True),  # type: ignore[arg-type]
        "Boxes": lambda: estimate(IMAGE, detect(IMAGE)),  # type: ignore[arg-type]
        "image None": lambda: estimate(None, box),  # type: ignore[arg-type]
        "image None, no boxes by then": lambda: detect(None),  # type: ignore[arg-type]
        "image float": lambda: detect(IMAGE.astype(np.float32)),
        "image grey": lambda: detect(IMAGE[..., 0]),
        "no session": lambda: PoseEstimator(None),  # type: ignore[arg-type]
        "an artifact": lambda: Detector("build/x"),  # type: ignore[arg-type]
        "another task": lambda: OneStage(network),
        "feeds function": lambda: PoseEstimator(network, find_feeds=3),  # type: ignore[arg-type]
        "score 30": lambda: Detector(finder, score_threshold=30),
        "score text": lambda: OneStage(stage, score_threshold="0.3"),  # type: ignore[arg-type]
        "score true": lambda: Detector(finder, score_threshold=True),
        "label -1": lambda: Detector(finder, label=-1),
        "label 1.5": lambda: Detector(finder, label=1.5),  # type: ignore[arg-type]
        "label none of": lambda: Detector(finder, label=[]),
        "interval 1.5": lambda: Pipeline(estimate, detect, det_interval=1.5),  # type: ignore[arg-type]
        "tracker class": lambda: Pipeline(estimate, detect, tracker=PoseTracker),  # type: ignore[arg-type]
        "tracker text": lambda: OneStage(stage, tracker="sdk"),  # type: ignore[arg-type]
        "params": lambda: PoseTracker({"det_thr": 0.3}),  # type: ignore[arg-type]
        "param text": lambda: TrackerParams(det_thr="0.5"),  # type: ignore[arg-type]
        "param none": lambda: TrackerParams(keypoint_sigmas=None),  # type: ignore[arg-type]
        "detections": lambda: tracker.boxes((9, 9), box),  # type: ignore[arg-type]
        "image_hw": lambda: tracker.boxes(None, None),  # type: ignore[arg-type]
        "keypoints": lambda: tracker.update("abc"),
        "threads -1": lambda: EngineSettings(threads=-1),
        "threads 10**6": lambda: EngineSettings(threads=10**6),
        "threads text": lambda: EngineSettings(threads="2"),  # type: ignore[arg-type]
        "threads true": lambda: EngineSettings(threads=True),
        "precision": lambda: EngineSettings(inference_precision=None),  # type: ignore[arg-type]
        "open a path": lambda: open_session("build/x"),  # type: ignore[arg-type]
        "settings": lambda: open_session(None, 2),  # type: ignore[arg-type]
        "settings NaN": lambda: LatencySettings(min_duration_s=np.nan),
        "settings text": lambda: LatencySettings(min_count="3"),  # type: ignore[arg-type]
        "measure": lambda: measure(3),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("name", misuses())
def test_misuse_is_one_line_that_says_what_to_pass(name: str) -> None:
    with pytest.raises(EdgeError) as caught:
        misuses()[name]()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_what_numpy_makes_is_taken() -> None:
    finder = two_class_detector(one_person(3.0))
    label: Any = np.int64(0)
    score: Any = np.float32(0.3)
    assert Detector(finder, score_threshold=score, label=label).labels == (0,)
    assert EngineSettings(threads=int(np.int32(2))).thread_count == 2
    estimate = PoseEstimator(FakeSession(pose_spec(), bright_spot))
    assert estimate(IMAGE, np.array([[0, 0, 60, 90]], np.int64)).shape == (1, 17, 3)
    assert len(estimate(IMAGE, np.empty((0, 4), np.float32))) == 0
    assert isinstance(ArgumentError("x"), ValueError)


def test_feeds_and_outputs_are_those_of_the_spec() -> None:
    spec = pose_spec()
    wrong: list[Any] = [None, [], {1: 2}, {"input": None}, {"input": [[1.0]]}]
    for feeds in wrong:
        with pytest.raises(FeedError):
            check_feeds(spec, feeds)
    outputs = random_outputs(spec)
    halves = {name: array.astype(np.float16) for name, array in outputs.items()}
    checked = check_outputs(spec, dict(reversed(halves.items())), "it")
    assert list(checked) == ["simcc_x", "simcc_y"]
    assert {array.dtype for array in checked.values()} == {np.dtype(np.float32)}
    with pytest.raises(EngineError, match="it gave no 'simcc_y' of pose"):
        check_outputs(spec, {"simcc_x": outputs["simcc_x"]}, "it")
    with pytest.raises(EngineError, match=r"as \(1, 512, 17\), the spec says \('any', 17, 512\)"):
        check_outputs(spec, outputs | {"simcc_y": outputs["simcc_y"].transpose(0, 2, 1)}, "it")


def test_boxes_that_are_not_finite_are_not_followed() -> None:
    boxes = Boxes(
        np.array([[0, 0, 50, 50], [0, np.nan, 50, 90]], np.float32),
        np.ones(2, np.float32),
        np.zeros(2, np.int64),
    )
    assert PoseTracker().boxes((100, 100), boxes).tolist() == [[0, 0, 50, 50]]
