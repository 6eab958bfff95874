from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from converters.sdk.archive import read_sdk
from edge.errors import EdgeError, ModelFileError
from tests.conftest import tiny_simcc_model
from tests.stand_ins.sdk_bundles import (
    DETECTOR,
    HEATMAP,
    MSRA,
    ONE_STAGE,
    Files,
    answering,
    boxes_model,
    crop_transforms,
    detector_files,
    heatmap_files,
    in_folder,
    net_of,
    one_stage_files,
    params_of,
    read,
    simcc_files,
    transforms_of,
)

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

# --- what contradicts itself, or is not known -----------------------------------------------------

Change = Callable[[Files], object]


def deploy_entry(**entries: Any) -> Change:
    return lambda files: files["deploy.json"]["models"][0].update(entries)


def transform_entry(index: int, **entries: Any) -> Change:
    return lambda files: transforms_of(files)[index].update(entries)


def param(**entries: Any) -> Change:
    return lambda files: params_of(files).update(entries)


def decoder(component: str) -> Change:
    return lambda files: files["pipeline.json"]["pipeline"]["tasks"][2].update(component=component)


def refused(folder: Path, files: Files, change: Change, model: Any, words: list[str]) -> None:
    read(folder, files, model)  # the bundle is in order but for the change
    changed = copy.deepcopy(files)
    change(changed)
    with pytest.raises(EdgeError) as caught:
        read(folder / "changed", changed, model)
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            transform_entry(2, image_size=[64, 64]),
            ["transforms[1].image_size is 48x64", "transforms[2].image_size is 64x64"],
        ),
        (
            param(input_size=[64, 64]),
            ["params.input_size is 64x64", "transforms[2].image_size is 48x64"],
        ),
        (param(simcc_split_ratio=3), ["simcc_x is of shape ?x17x96", "48x64", "?x17x144"]),
        (param(simcc_split_ratio=0), ["simcc_split_ratio must be positive"]),
        (param(simcc_split_ratio=10**400), ["simcc_split_ratio is not a finite number, but 1000"]),
        (param(simcc_split_ratio="2"), ["simcc_split_ratio is not a finite number, but '2'"]),
        (param(input_size=[48, 64.5]), ["params.input_size[1] is not a whole number"]),
        (param(input_size=[48, 64, 3]), ["params.input_size is not [width, height]"]),
        (param(export_postprocess=True), ["export_postprocess is true", "export it without"]),
        (param(use_dark=True), ["use_dark is true"]),
        (param(type="SimCC3DLabel"), ["'SimCC3DLabel'", "only SimCCLabel"]),
        (transform_entry(2, use_udp=True), ["transforms[2].use_udp is true"]),
        (transform_entry(1, padding=0), ["transforms[1].padding must be positive"]),
        (lambda files: transforms_of(files).pop(1), ["no TopDownGetBboxCenterScale"]),
        (lambda files: transforms_of(files).pop(2), ["exactly one of TopDownAffine", "none"]),
        (transform_entry(0, color_type="grayscale"), ["transforms[0].color_type is 'grayscale'"]),
        (
            transform_entry(4, type="RandomFlip"),
            ["transforms[4].type is the transform 'RandomFlip'"],
        ),
        (transform_entry(4, type="Normalize"), ["transforms[4] repeats the transform Normalize"]),
        (transform_entry(4, type="Pad"), ["transforms[4] pads a crop"]),
        (lambda files: transforms_of(files)[0].pop("type"), ["transforms[0] has no 'type'"]),
        (
            lambda files: transforms_of(files).reverse(),
            ["transforms[2] is a Normalize before TopDownAffine"],
        ),
        (transform_entry(3, std=[1, 0, 1]), ["transforms[3].std must be positive"]),
        (transform_entry(3, mean=[1, 2]), ["transforms[3].mean has 2 numbers"]),
        (transform_entry(3, mean=["x", 2, 3]), ["transforms[3].mean[0] is not a finite number"]),
        (transform_entry(3, to_rgb="yes"), ["transforms[3].to_rgb is neither true nor false"]),
        (lambda files: transforms_of(files)[3].pop("to_rgb"), ["transforms[3] has no 'to_rgb'"]),
        (decoder("RTMDetSepBNHead"), ["component is 'RTMDetSepBNHead'", "ResizeBBox"]),
        (decoder("UNKNOWN"), ["component is 'UNKNOWN'", "bottomupposeestimator"]),
        (decoder("ResizeBBox"), ["which reads 'dets'", "simcc_x, simcc_y", "output_map"]),
        (
            deploy_entry(name="rtmpose"),
            ["tasks[1].name is 'topdownposeestimator'", "models[0].name is 'rtmpose'"],
        ),
        (
            deploy_entry(backend="ncnn", net="end2end.param"),
            [
                "models[0].backend is 'ncnn' ('end2end.param')",
                "only ONNX",
                "end2end.onnx",
                "missing",
            ],
        ),
        (deploy_entry(net="../end2end.onnx"), ["models[0].net is '../end2end.onnx', not the bare"]),
        (deploy_entry(net="other.onnx"), ["holds no other.onnx"]),
        (deploy_entry(precision="INT8"), ["models[0].precision is 'INT8'"]),
        (deploy_entry(precision=None), ["models[0] has no 'precision'"]),
        (lambda files: files["deploy.json"].pop("version"), ["deploy.json: the top level has no"]),
        (lambda files: files["deploy.json"].update(models=[]), ["models has 0 networks"]),
        (lambda files: files["deploy.json"].update(models="x"), ["models is not a list, but 'x'"]),
        (
            lambda files: files["deploy.json"].update(task="Detector"),
            ["deploy.json: task is 'Detector'", "'SimCCLabelDecode'", "PoseDetector"],
        ),
        (
            lambda files: net_of(files)["input_map"].update(img="images"),
            ["input_map.img is 'images'", "'input'"],
        ),
        (lambda files: net_of(files).pop("input_map"), ["tasks[1] has no 'input_map'"]),
        (
            lambda files: net_of(files).update(output_map={"simcc_x": "heat"}),
            ["output_map.simcc_x is 'heat'", "simcc_x, simcc_y"],
        ),
        (lambda files: net_of(files).update(output_map=[1]), ["output_map is not an object"]),
        (
            # Swapped axes: the network's 96 bins would be the height's.
            lambda files: net_of(files).update(
                output_map={"simcc_x": "simcc_y", "simcc_y": "simcc_x"}
            ),
            ["simcc_y is of shape ?x17x128", "?x17x96"],
        ),
        (
            lambda files: net_of(files).update(module="Transform"),
            [
                "tasks are not one Transform, one Net and one decoder",
                "Transform, Transform, mmpose",
            ],
        ),
        (lambda files: files.pop("pipeline.json"), ["holds no pipeline.json", "--dump-info"]),
        (lambda files: files.update({"pipeline.json": '{"a": '}), ["pipeline.json: no valid JSON"]),
        (lambda files: files.update({"deploy.json": "[]"}), ["the top level is not an object"]),
    ],
)
def test_a_simcc_bundle_that_is_wrong(tmp_path: Path, change: Change, words: list[str]) -> None:
    refused(tmp_path, simcc_files([48, 64]), change, tiny_simcc_model(), words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (param(post_process="megvii"), ["MSRAHeatmap", "'megvii'"]),
        (param(type="SpatialHeatmap"), ["params.type is 'SpatialHeatmap'"]),
        (param(use_udp=True), ["MSRAHeatmap", "contradicts use_udp true"]),
        (param(type="UDPHeatmap"), ["UDPHeatmap", "contradicts use_udp false"]),
        (
            param(type="UDPHeatmap", use_udp=True),
            ["params asks for UDP", "transforms[2].image_size", "is not UDP's"],
        ),
        (
            transform_entry(2, use_udp=True),
            ["params does not ask", "transforms[2].use_udp", "is UDP"],
        ),
        (
            param(type="UDPHeatmap", use_udp=True, heatmap_type="combined"),
            ["heatmap_type is 'combined'"],
        ),
        (param(input_size=[256, 256]), ["params.input_size is 256x256", "is 192x256"]),
        (param(heatmap_size=[64, 64]), ["?x17x64x48", "params.heatmap_size", "?x?x64x64"]),
        (param(heatmap_size=0), ["heatmap_size is not a whole number"]),
        (
            param(type="MegviiHeatmap", kernel_size=5, post_process="megvii", modulate_kernel=7),
            ["modulate_kernel is 7", "kernel_size is 5"],
        ),
        (param(post_process="megvii"), ["'MSRAHeatmap', which contradicts"]),
        (param(type=None, post_process="magic"), ["post_process is 'magic'"]),
        (param(type=None, post_process=3), ["post_process is 3"]),
        (param(type=None, unbiased_decoding=True), ["unbiased_decoding is outdated"]),
        (
            param(type=None, use_udp=True, target_type="CombinedTarget"),
            ["target_type is 'CombinedTarget'"],
        ),
        (decoder("DeepposeRegressionHeadDecode"), ["'DeepposeRegressionHeadDecode'"]),
    ],
)
def test_a_heatmap_bundle_that_is_wrong(tmp_path: Path, change: Change, words: list[str]) -> None:
    refused(tmp_path, heatmap_files(MSRA), change, answering(HEATMAP), words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (transform_entry(1, keep_ratio=False), ["transforms[1] stretches", "keep_ratio true"]),
        (lambda files: transforms_of(files)[1].pop("keep_ratio"), ["transforms[1] stretches"]),
        (transform_entry(1, interpolation="nearest"), ["interpolation is 'nearest'"]),
        (
            transform_entry(1, size=[416, 416]),
            ["transforms[1].size is 416x416", "transforms[2].size is 320x320"],
        ),
        (
            transform_entry(2, pad_val={"img": [114, 114, 0]}),
            ["pad_val.img must be one whole grey"],
        ),
        (transform_entry(2, pad_val=300), ["pad_val must be one whole grey level"]),
        (transform_entry(2, padding_mode="reflect"), ["padding_mode is 'reflect'"]),
        (transform_entry(2, logical_or_val=31), ["logical_or_val is not supported"]),
        (
            transform_entry(4, size_divisor=128),
            ["transforms[4] would enlarge the input of 320x320"],
        ),
        (
            lambda files: transforms_of(files).pop(2),
            ["transforms[1] keeps the aspect and no Pad of a fixed size follows", "[320, 320]"],
        ),
        (
            transform_entry(2, size=None, size_divisor=32),
            ["pads to a multiple of 32 only"],
        ),
        (
            lambda files: transforms_of(files).insert(3, transforms_of(files).pop(2)),
            ["transforms[3] pads after Normalize"],
        ),
        (
            lambda files: transforms_of(files).append({"type": "BottomupResize"}),
            ["exactly one of", "Resize and BottomupResize"],
        ),
        (param(nms={"type": "soft_nms"}), ["params.nms.type is 'soft_nms'"]),
        (param(nms=0.6), ["params.nms is not an object"]),
        (param(min_bbox_size=8), ["min_bbox_size is 8"]),
        (param(max_per_img=0), ["max_per_img is not a whole number"]),
        (
            lambda files: files["deploy.json"].update(task="PoseDetector"),
            ["task is 'PoseDetector'", "'ResizeBBox'", "a Detector's"],
        ),
        (
            lambda files: files["pipeline.json"]["pipeline"]["tasks"][0].update(
                transforms=crop_transforms([320, 320])
            ),
            ["'ResizeBBox', which needs the whole image", "transforms[2].image_size"],
        ),
    ],
)
def test_a_detector_bundle_that_is_wrong(tmp_path: Path, change: Change, words: list[str]) -> None:
    refused(tmp_path, detector_files(), change, boxes_model(DETECTOR), words)


def test_a_square_pad_needs_a_square_size(tmp_path: Path) -> None:
    files = detector_files()
    transforms_of(files)[1]["size"] = [320, 256]
    transforms_of(files)[2] = {"type": "Pad", "pad_to_square": True}
    with pytest.raises(ModelFileError, match=r"pad_to_square fills a square, but .* is 320x256"):
        read(tmp_path, files, boxes_model(DETECTOR))


def test_the_order_of_a_size_in_mmdeploy_0_is_not_guessed(tmp_path: Path) -> None:
    files = detector_files()
    for index in (1, 2):
        transforms_of(files)[index]["size"] = [320, 256]
    assert read(tmp_path, files, boxes_model(DETECTOR)).input_hw == (256, 320)
    files["deploy.json"]["version"] = "0.12.0"
    with pytest.raises(ModelFileError, match=r"is 320x256, but mmdeploy 0\.12\.0 wrote the height"):
        read(tmp_path, files, boxes_model(DETECTOR))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (transform_entry(1, resize_mode="expand"), ["resize_mode is 'expand'"]),
        (transform_entry(1, use_udp=True), ["transforms[1].use_udp is not supported"]),
        (transform_entry(1, aug_scales=[0.5]), ["transforms[1].aug_scales is not supported"]),
        (transform_entry(3, type="Pad"), ["transforms[3] pads what BottomupResize has padded"]),
        (
            lambda files: files["pipeline.json"]["pipeline"]["tasks"][0].update(
                transforms=crop_transforms([640, 416])
            ),
            ["'UNKNOWN', which needs the whole image"],
        ),
    ],
)
def test_a_one_stage_bundle_that_is_wrong(tmp_path: Path, change: Change, words: list[str]) -> None:
    refused(tmp_path, one_stage_files(), change, boxes_model(ONE_STAGE), words)


def test_one_stage_keypoints_need_three_values_each(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"keypoints is of shape \?x\?x17x2, .* \?x\?x\?x3"):
        read(tmp_path, one_stage_files(), boxes_model({"keypoints": ["b", "kept", 17, 2]}))


def test_another_input_size_than_the_network_s(tmp_path: Path) -> None:
    open_bins = answering(
        {"simcc_x": ["b", 17, "w"], "simcc_y": ["b", 17, "h"]}, input_shape=("b", 3, 64, 48)
    )
    for model in (tiny_simcc_model(input_hw=(64, 48)), open_bins):
        with pytest.raises(
            ModelFileError, match=r"image_size is 64x48 .* but the input of .* is 48x64"
        ):
            read(tmp_path, simcc_files([64, 48]), model)


def test_the_two_axes_must_have_the_same_keypoints(tmp_path: Path) -> None:
    model = answering({"simcc_x": ["b", 17, 96], "simcc_y": ["b", 14, 128]})
    with pytest.raises(ModelFileError, match=r"simcc_y is of shape \?x14x128, .* needs \?x17x128"):
        read(tmp_path, simcc_files([48, 64]), model)


def test_the_number_of_keypoints_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"simcc_x of shape \?x\?x96 does not say how many"):
        read(
            tmp_path,
            simcc_files([48, 64]),
            answering({"simcc_x": ["b", "k", 96], "simcc_y": ["b", "k", 128]}),
        )
    with pytest.raises(ModelFileError, match=r"output of shape \?x\?x64x48 does not say how many"):
        read(tmp_path, heatmap_files(MSRA), answering({"output": ["b", "k", 64, 48]}))


def test_a_damaged_network(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "sdk", simcc_files([48, 64]), None)
    (folder / "end2end.onnx").write_bytes(b"no protobuf")
    with pytest.raises(ModelFileError, match=r"end2end\.onnx: not an ONNX file"):
        read_sdk(folder, "m", tmp_path)


def test_half_precision(tmp_path: Path) -> None:
    files = simcc_files([48, 64])
    deploy_entry(precision="FP16")(files)
    assert read(tmp_path, files, tiny_simcc_model()).input.dtype == "float32"
    half = answering(
        {"simcc_x": ["b", 17, 96], "simcc_y": ["b", 17, 128]},
        input_shape=("b", 3, 64, 48),
        input_type=TensorProto.FLOAT16,
    )
    assert read(tmp_path, files, half).input.dtype == "float32"


def test_outputs_of_another_type(tmp_path: Path) -> None:
    model = tiny_simcc_model()
    model.graph.node.append(helper.make_node("Cast", ["simcc_y"], ["whole"], to=TensorProto.INT32))
    model.graph.output[1].CopyFrom(
        helper.make_tensor_value_info("whole", TensorProto.INT32, ["b", 17, 128])
    )
    with pytest.raises(ModelFileError, match="output whole is int32"):
        read(tmp_path, simcc_files([48, 64]), model)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The key paths of everything in a JSON value."""
    inner = enumerate(value) if isinstance(value, list) else ()
    for key, item in value.items() if isinstance(value, dict) else inner:
        yield (*path, key)
        yield from places(item, (*path, key))


@pytest.mark.parametrize("wrong", ["a\nb", 10**30, []])
def test_whatever_stands_in_the_files_an_error_is_one_line(tmp_path: Path, wrong: Any) -> None:
    files, model, messages = detector_files(), boxes_model(DETECTOR), []
    for *path, last in places(files):
        if path:
            changed = copy.deepcopy(files)
            holder = reduce(operator.getitem, path, changed)
            holder[last] = wrong
            try:
                read(tmp_path, changed, model)
            except EdgeError as error:
                messages.append(str(error))
    assert len(messages) > 30
    assert not any("\n" in message for message in messages)
