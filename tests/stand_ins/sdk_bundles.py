"""mmdeploy SDK models for tests, written by hand as mmdeploy writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converters.sdk.archive import read_sdk
from edge.spec import ModelSpec

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

RGB = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
BGR = ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
Files = dict[str, Any]
Shapes = dict[str, list[int | str]]


def answering(
    outputs: Shapes,
    *,
    input_shape: tuple[int | str, ...] = ("batch", 3, "height", "width"),
    input_type: int = TensorProto.FLOAT,
) -> Any:
    """A graph whose outputs have declared shapes that no inference can know better."""
    nodes = [
        helper.make_node("NonZero", ["input"], ["places"]),
        helper.make_node("Shape", ["places"], ["places_shape"]),
        helper.make_node("Gather", ["places_shape", "one"], ["some"]),
    ]
    values = []
    for name, shape in outputs.items():
        kind = TensorProto.INT64 if name == "labels" else TensorProto.FLOAT
        fill = helper.make_tensor("fill", kind, [1], [0])
        nodes += [
            helper.make_node("Concat", ["some"] * len(shape), [f"{name}_shape"], axis=0),
            helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=fill),
        ]
        values.append(helper.make_tensor_value_info(name, kind, shape))
    graph = helper.make_graph(
        nodes,
        "answering",
        [helper.make_tensor_value_info("input", input_type, input_shape)],
        values,
        [helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def described(
    name: str, task: str, transforms: list[dict[str, Any]], decoder: dict[str, Any]
) -> Files:
    """The JSON files around a network."""
    network = {
        "name": name,
        "net": "end2end.onnx",
        "weights": "",
        "backend": "onnxruntime",
        "precision": "FP32",
        "batch_size": 1,
        "dynamic_shape": True,
    }
    tasks = [
        {
            "type": "Task",
            "module": "Transform",
            "name": "Preprocess",
            "input": ["img"],
            "output": ["prep_output"],
            "transforms": transforms,
        },
        {
            "name": name,
            "type": "Task",
            "module": "Net",
            "is_batched": True,
            "input": ["prep_output"],
            "output": ["infer_output"],
            "input_map": {"img": "input"},
            "output_map": {},
        },
        {
            "type": "Task",
            "name": "postprocess",
            **decoder,
            "output": ["post_output"],
            "input": ["prep_output", "infer_output"],
        },
    ]
    pipeline = {"input": ["img"], "output": ["post_output"], "tasks": tasks}
    return {
        "deploy.json": {"version": "1.3.1", "task": task, "models": [network], "customs": []},
        "pipeline.json": {"pipeline": pipeline},
    }


def crop_transforms(size_wh: list[int], **affine: Any) -> list[dict[str, Any]]:
    mean, std = RGB
    return [
        {"type": "LoadImageFromFile"},
        {"type": "TopDownGetBboxCenterScale", "padding": 1.25, "image_size": size_wh},
        {"type": "TopDownAffine", "image_size": size_wh, **affine},
        {"type": "Normalize", "mean": list(mean), "std": list(std), "to_rgb": True},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"], "meta_keys": ["img_shape", "center", "scale"]},
    ]


def simcc_files(size_wh: list[int]) -> Files:
    params = {
        "flip_test": False,
        "type": "SimCCLabel",
        "input_size": size_wh,
        "sigma": [4.9, 5.66],
        "simcc_split_ratio": 2.0,
        "normalize": False,
        "use_dark": False,
        "export_postprocess": False,
    }
    decoder = {"module": "mmpose", "component": "SimCCLabelDecode", "params": params}
    return described("topdownposeestimator", "PoseDetector", crop_transforms(size_wh), decoder)


MSRA = {
    "flip_test": False,
    "shift_heatmap": True,
    "type": "MSRAHeatmap",
    "sigma": 2,
    "input_size": [192, 256],
    "heatmap_size": [48, 64],
    "post_process": "default",
}
UDP = {**MSRA, "type": "UDPHeatmap", "use_udp": True}
OLD = {"flip_test": True, "post_process": "default", "shift_heatmap": True, "modulate_kernel": 11}


def heatmap_files(params: dict[str, Any], component: str = "TopdownHeatmapSimpleHead") -> Files:
    affine = {"use_udp": True} if params.get("use_udp") else {}
    decoder = {"module": "mmpose", "component": f"{component}Decode", "params": params}
    transforms = crop_transforms([192, 256], **affine)
    return described("topdownposeestimator", "PoseDetector", transforms, decoder)


def detector_files(size: int = 320) -> Files:
    """As of RTMDet-nano."""
    mean, std = BGR
    transforms: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile", "backend_args": None},
        {"type": "Resize", "keep_ratio": True, "size": [size, size]},
        {"type": "Pad", "size": [size, size], "pad_val": {"img": [114, 114, 114]}},
        {"type": "Normalize", "to_rgb": False, "mean": list(mean), "std": list(std)},
        {"type": "Pad", "size_divisor": 1},
        {"type": "DefaultFormatBundle"},
        {"type": "Collect", "keys": ["img"], "meta_keys": ["scale_factor"]},
    ]
    params = {
        "nms_pre": 1000,
        "min_bbox_size": 0,
        "score_thr": 0.05,
        "max_per_img": 100,
        "nms": {"type": "nms", "iou_threshold": 0.6},
    }
    decoder = {"module": "mmdet", "component": "ResizeBBox", "params": params}
    return described("rtmdet", "Detector", transforms, decoder)


def one_stage_files() -> Files:
    """As of RTMO: mmdeploy knows no decoder for it."""
    transforms: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile"},
        {"type": "BottomupResize", "input_size": [640, 416], "pad_val": [114, 114, 114]},
        {"type": "Normalize", "mean": [0, 0, 0], "std": [1, 1, 1], "to_rgb": False},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"], "meta_keys": ["img_shape"]},
    ]
    params = {
        "score_thr": 0.1,
        "nms_thr": 0.65,
        "input_size": [640, 416],
        "type": "YOLOXPoseAnnotationProcessor",
    }
    decoder = {"module": "mmpose", "component": "UNKNOWN", "params": params}
    return described("bottomupposeestimator", "PoseDetector", transforms, decoder)


def boxes_model(more: Shapes) -> Any:
    return answering({"dets": ["batch", "kept", "five"], **more})


DETECTOR: Shapes = {"labels": ["batch", "kept"]}
ONE_STAGE: Shapes = {"keypoints": ["batch", "kept", 17, 3]}
HEATMAP: Shapes = {"output": ["batch", 17, 64, 48]}


def in_folder(folder: Path, files: Files, model: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    if model is not None:
        onnx.save(model, str(folder / "end2end.onnx"))
    return folder


def read(folder: Path, files: Files, model: Any) -> ModelSpec:
    return read_sdk(in_folder(folder / "sdk", files, model), "m", folder / "unpacked").spec


def transforms_of(files: Files) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = files["pipeline.json"]["pipeline"]["tasks"][0]["transforms"]
    return found


def net_of(files: Files) -> dict[str, Any]:
    found: dict[str, Any] = files["pipeline.json"]["pipeline"]["tasks"][1]
    return found


def params_of(files: Files) -> dict[str, Any]:
    found: dict[str, Any] = files["pipeline.json"]["pipeline"]["tasks"][2]["params"]
    return found
