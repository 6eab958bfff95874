from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edge.errors import SpecError
from edge.spec import KEYPOINT_SETS, KeypointSet, ModelSpec, TensorSpec, Variant, find_keypoint_set
from tests.stand_ins.specs import (
    EVERY_SPEC,
    detector_spec,
    finished_poses_spec,
    heatmap_spec,
    maps,
    pose_spec,
    rtmo_spec,
    yolox_maps_spec,
    yolox_spec,
)


@pytest.mark.parametrize("make", EVERY_SPEC)
def test_spec_survives_json(make: Any) -> None:
    spec = make()
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_fields_of_every_task_and_codec_survive_json() -> None:
    for spec in (
        heatmap_spec(udp=True, heatmap_refinement="dark-udp", heatmap_blur_kernel=17),
        pose_spec(udp=True, box_padding=1.5),
        yolox_spec(letterbox="center", nms_iou=0.45, max_boxes=7, nms_candidates_per_level=9),
        rtmo_spec(pad_value=0, score_threshold=0.1, nms_iou=0.65),
        finished_poses_spec(nms_iou=0.65, max_boxes=50),
    ):
        assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_spec_json_shows_only_what_its_task_and_codec_use() -> None:
    places = ("strides", "letterbox", "heatmap_refinement", "constants")
    assert not set(places) & set(pose_spec().to_json())
    assert {"heatmap_refinement", "udp"} <= set(heatmap_spec().to_json())
    assert not {"keypoint_set", "udp", "constants"} & set(detector_spec().to_json())
    assert {"keypoint_set", "letterbox", "constants", "strides"} <= set(rtmo_spec().to_json())
    assert not {"strides", "udp", "constants"} & set(finished_poses_spec().to_json())


def test_an_older_spec_is_read() -> None:
    data = detector_spec().to_json()
    del data["letterbox"]
    assert ModelSpec.from_json(data) == detector_spec()


def test_variant_is_read_and_written() -> None:
    assert str(Variant.parse("ncnn-fp16")) == "ncnn-fp16"
    assert Variant.parse(" onnx-fp32 ") == Variant("onnx", "fp32")


@pytest.mark.parametrize("text", ["ncnn", "ncnn-fp99", "caffe-fp32", "", "fp16-ncnn"])
def test_unknown_variant_lists_what_there_is(text: str) -> None:
    with pytest.raises(SpecError, match=r"unknown variant .*ncnn.*fp16"):
        Variant.parse(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input": TensorSpec("input", (1, 1, 256, 192))}, "not that of an image"),
        ({"input": TensorSpec("input", (1, 3, 256, 256))}, "do not fit 17 keypoints at 256x256"),
        ({"simcc_split_ratio": 3.0}, "3 bins per pixel"),
        ({"keypoint_set": "coco99"}, "coco99"),
        ({"task": "detection"}, "codec simcc belongs to a pose model"),
        ({"codec": "magic"}, "'codec' must be one of simcc, heatmap, .*magic"),
        ({"std": (1.0, 0.0, 1.0)}, "'std\\[1\\]' must be a number above 0"),
        (
            {"mean": (float("nan"), 0.0, 0.0)},
            "'mean\\[0\\]' must be a number from 0 to 255, got NaN",
        ),
        (
            {"outputs": (TensorSpec("a", (1, 17, 384)), TensorSpec("a", (1, 17, 512)))},
            "names must differ",
        ),
    ],
)
def test_contradictions_in_a_pose_spec_are_refused(changes: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        pose_spec(**changes)


def test_swapped_simcc_outputs_are_refused() -> None:
    outputs = pose_spec().outputs
    with pytest.raises(SpecError, match="expected"):
        pose_spec(outputs=(outputs[1], outputs[0]))


def test_detector_level_that_contradicts_its_stride_is_refused() -> None:
    with pytest.raises(SpecError, match="stride 16 needs"):
        detector_spec(strides=(16, 8, 32))
    with pytest.raises(SpecError, match="6 outputs"):
        detector_spec(strides=(8, 16))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"outputs": (TensorSpec("h", (None, 17, 64, 40)),)},
            "64x40 .* does not divide",
        ),
        ({"outputs": (TensorSpec("h", (None, 17, 64, 96)),)}, "same whole number on both axes"),
        ({"outputs": (TensorSpec("h", (None, 17, 60, 45)),)}, "does not divide"),
        ({"outputs": (TensorSpec("h", (None, 16, 64, 48)),)}, "16 heatmaps do not fit 17"),
        ({"outputs": (TensorSpec("h", (None, 17, None, 48)),)}, "fixed size"),
        ({"outputs": pose_spec().outputs}, r"one output \(N, K, h, w\), got simcc_x"),
        ({"heatmap_refinement": "magic"}, "must be one of none, shift, dark, dark-udp"),
        ({"heatmap_blur_kernel": 12}, "an odd whole number from 3"),
        ({"heatmap_blur_kernel": 1}, "an odd whole number from 3"),
        ({"task": "one-stage"}, "codec heatmap belongs to a pose model"),
        ({"constants": (TensorSpec("c", (3,)),)}, "codec heatmap knows no constants"),
    ],
)
def test_contradictions_in_a_heatmap_spec_are_refused(changes: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        heatmap_spec(**changes)


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        (yolox_spec, {"strides": (8, 16)}, r"need \(N, 2000, 5 \+ classes\)"),
        (yolox_spec, {"letterbox": "middle"}, "must be one of top-left, center"),
        (yolox_maps_spec, {"strides": (8, 16)}, "class logits, boxes, objectness.* got 9 outputs"),
        (yolox_maps_spec, {"strides": (8, 32, 16)}, "stride 32 needs"),
        (yolox_maps_spec, {"strides": ()}, "needs the 'strides'"),
        (
            yolox_maps_spec,
            {"outputs": maps((8, 16, 32), 320, 3, 1, 4)},
            "kind1_s8 has 1 channels, boxes have 4",
        ),
        (rtmo_spec, {"outputs": maps((16, 32), 128, 1, 4, 16, 24)}, "visibility have 17"),
        (rtmo_spec, {"outputs": maps((16, 32), 128, 2, 4, 17, 24)}, "logits have 1"),
        (rtmo_spec, {"task": "pose"}, "codec rtmo belongs to a one-stage model"),
        (rtmo_spec, {"keypoint_set": None}, "keypoint_set None"),
        (rtmo_spec, {"constants": (TensorSpec("c", (None, 3)),)}, "constant c must be float32"),
        (rtmo_spec, {"constants": (TensorSpec("input", (3,)),)}, "names must differ"),
        (finished_poses_spec, {"keypoint_set": "coco17"}, r"keypoints \(N, M, 17, 3\)"),
        (finished_poses_spec, {"task": "detection"}, "dets .* and labels"),
        (finished_poses_spec, {"task": "pose"}, "belongs to a detection or one-stage model"),
    ],
)
def test_contradictions_in_a_spec_of_whole_images_are_refused(
    make: Any, changes: Any, words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        make(**changes)


def test_pose_vectors_have_one_length() -> None:
    outputs = (*rtmo_spec().outputs[:7], TensorSpec("last", (1, 25, 4, 4)))
    with pytest.raises(SpecError, match="last has 25 channels, pose vectors have 24"):
        rtmo_spec(outputs=outputs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(colour="rgb"), "unknown key 'colour'"),
        (lambda d: d.pop("mean"), "missing key 'mean'"),
        (lambda d: d.update(mean="grey"), "spec"),
        (lambda d: d.update(input={"name": "input"}), "missing key 'input.shape'"),
        (lambda d: d["input"].update(dtype="float16"), "float16"),
    ],
)
def test_a_damaged_spec_names_what_is_wrong(change: Any, words: str) -> None:
    data = json.loads(json.dumps(pose_spec().to_json()))
    change(data)
    with pytest.raises(SpecError, match=words):
        ModelSpec.from_json(data)


def test_points_without_names_can_be_counted_at_least() -> None:
    unnamed = find_keypoint_set("unnamed-26")
    assert len(unnamed.keypoints) == 26
    assert unnamed.skeleton == ()
    outputs = (TensorSpec("simcc_x", (None, 26, 384)), TensorSpec("simcc_y", (None, 26, 512)))
    spec = pose_spec(keypoint_set="unnamed-26", outputs=outputs)
    assert ModelSpec.from_json(spec.to_json()) == spec
    for name in ("unnamed", "unnamed-0", "unnamed-x", None):
        with pytest.raises(SpecError, match="unnamed-K"):
            find_keypoint_set(name)


def test_keypoints_that_a_model_brings_itself_travel_with_the_spec() -> None:
    names = tuple(f"wing_{index}" for index in range(17))
    own = KeypointSet("birds17", names, ((0, 1),), ((2, 3),), ())
    spec = pose_spec(keypoint_set="birds17", own_keypoints=own)
    assert spec.keypoints == own
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert "own_keypoints" not in pose_spec().to_json()


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("coco17", 17, "not those of the known set coco17"),
        ("birds 17", 17, "a word of letters"),
        ("birds16", 16, "do not fit 16 keypoints"),
    ],
)
def test_own_keypoints_that_contradict_are_refused(name: str, count: int, words: str) -> None:
    own = KeypointSet(name, tuple(f"wing_{index}" for index in range(count)), (), (), ())
    with pytest.raises(SpecError, match=words):
        pose_spec(keypoint_set=name, own_keypoints=own)


def test_own_figures_of_a_known_set_are_taken() -> None:
    own = replace(KEYPOINT_SETS["coco17"], sigmas=(0.05,) * 17)
    assert pose_spec(own_keypoints=own).keypoints.sigmas == (0.05,) * 17
