from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edge.errors import SpecError
from edge.spec import KEYPOINT_SETS, ModelSpec, TensorSpec, Variant, find_keypoint_set


def pose_spec(**changes: Any) -> ModelSpec:
    spec = ModelSpec(
        name="pose",
        task="pose",
        codec="simcc",
        input=TensorSpec("input", (None, 3, 256, 192)),
        outputs=(TensorSpec("simcc_x", (None, 17, 384)), TensorSpec("simcc_y", (None, 17, 512))),
        color_order="rgb",
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        keypoint_set="coco17",
    )
    return replace(spec, **changes)


def detector_spec(**changes: Any) -> ModelSpec:
    sizes = {8: 40, 16: 20, 32: 10}
    spec = ModelSpec(
        name="detector",
        task="detection",
        codec="rtmdet",
        input=TensorSpec("input", (1, 3, 320, 320)),
        outputs=(
            *(TensorSpec(f"logits_s{s}", (1, 1, n, n)) for s, n in sizes.items()),
            *(TensorSpec(f"distances_s{s}", (1, 4, n, n)) for s, n in sizes.items()),
        ),
        color_order="bgr",
        mean=(103.53, 116.28, 123.675),
        std=(57.375, 57.12, 58.395),
        strides=(8, 16, 32),
    )
    return replace(spec, **changes)


@pytest.mark.parametrize("make", [pose_spec, detector_spec])
def test_spec_survives_json(make: Any) -> None:
    spec = make()
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_spec_json_shows_only_what_its_codec_uses() -> None:
    assert "strides" not in pose_spec().to_json()
    assert "keypoint_set" not in detector_spec().to_json()


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
        ({"codec": "magic"}, "'magic' is none of"),
        ({"std": (1.0, 0.0, 1.0)}, "std positive"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "finite"),
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
    ("change", "words"),
    [
        (lambda d: d.update(colour="rgb"), "unknown key 'colour'"),
        (lambda d: d.pop("mean"), "missing key 'mean'"),
        (lambda d: d.update(mean="grey"), "spec"),
        (lambda d: d.update(input={"name": "input"}), "a tensor is"),
        (lambda d: d["input"].update(dtype="float16"), "float16"),
    ],
)
def test_a_damaged_spec_names_what_is_wrong(change: Any, words: str) -> None:
    data = json.loads(json.dumps(pose_spec().to_json()))
    change(data)
    with pytest.raises(SpecError, match=words):
        ModelSpec.from_json(data)


def test_keypoint_sets_are_consistent() -> None:
    for keypoint_set in KEYPOINT_SETS.values():
        count = len(keypoint_set.keypoints)
        assert len(keypoint_set.sigmas) == count
        assert {i for pair in keypoint_set.skeleton for i in pair} <= set(range(count))
        for left, right in keypoint_set.flip_pairs:
            assert (
                keypoint_set.keypoints[left].replace("left", "right")
                == (keypoint_set.keypoints[right])
            )


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


def test_coco17_is_what_pycocotools_uses() -> None:
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    params = cocoeval.Params(iouType="keypoints")
    assert list(KEYPOINT_SETS["coco17"].sigmas) == pytest.approx(list(params.kpt_oks_sigmas))
