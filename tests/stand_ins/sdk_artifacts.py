"""Artifacts of small networks, made without a conversion, and pictures to ask them about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.graph.prepare import prepare
from converters.job import FeedSource, Job, NamedFeeds
from edge.artifact import Artifact, sha256_of
from edge.spec import ModelSpec, Precision, TensorSpec, Variant
from tests.conftest import tiny_simcc_model

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

STRIDES = (8, 16)


def artifact_of(
    folder: Path, model: Any, spec: ModelSpec, variant: Variant | None = None
) -> Artifact:
    """A folder with a network as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"))
    artifact = Artifact(
        folder=folder,
        variant=variant or Variant("onnx", "fp32"),
        spec=spec,
        files={"model": "model.onnx"},
        sha256={"model.onnx": sha256_of(folder / "model.onnx")},
        key="k",
        source={"file": "source.onnx", "sha256": "5" * 64},
        parity={"summary": "pass: 1 keypoint"},
    )
    artifact.write_manifest()
    return artifact


def prepared_artifact(
    source: Path, folder: Path, precision: Precision = "fp32", batch: int | None = None
) -> Artifact:
    """As ``edge convert`` makes the onnx formats, without a comparison."""
    from converters.formats.onnx import convert_onnx

    prepared = prepare(source, source.stem, batch=batch)
    folder.mkdir(parents=True)
    whole = folder / "prepared.onnx"
    onnx.save(prepared.model, str(whole))
    files = convert_onnx(Job(whole, prepared.spec, precision, folder))
    model = onnx.load(str(folder / files["model"]))
    return artifact_of(folder, model, prepared.spec, Variant("onnx", precision))


def detector_spec(
    classes: int = 3, input_hw: tuple[int, int] = (64, 64), **changes: Any
) -> ModelSpec:
    sizes = [(-(-input_hw[0] // stride), -(-input_hw[1] // stride)) for stride in STRIDES]
    heads = {"logits": classes, "distances": 4}
    values: dict[str, Any] = {
        "name": "finder",
        "task": "detection",
        "codec": "rtmdet",
        "input": TensorSpec("picture", (None, 3, *input_hw)),
        "outputs": tuple(
            TensorSpec(f"{kind}_{stride}", (None, channels, *size))
            for kind, channels in heads.items()
            for stride, size in zip(STRIDES, sizes, strict=True)
        ),
        "color_order": "bgr",
        "mean": (103.53, 116.28, 123.675),
        "std": (57.375, 57.12, 58.395),
        "strides": STRIDES,
        "score_threshold": 0.2,
        "nms_iou": 0.3,
        "nms_candidates_per_level": 40,
        "max_boxes": 12,
    }
    return ModelSpec(**(values | changes))


def detector_model(spec: ModelSpec, opset: int = 17) -> Any:
    """Raw heads of random weights: logits about 0, sides of up to some strides."""
    rng = np.random.default_rng(11)
    nodes, weights, values = [], [], []
    for tensor in spec.outputs:
        kind, stride = tensor.name.split("_")
        size, channels = int(stride), int(tensor.shape[1] or 0)
        spread = 1.5 / (size * np.sqrt(3))
        value = rng.normal(0, spread, (channels, 3, size, size)).astype(np.float32)
        weights.append(numpy_helper.from_array(value, f"{tensor.name}_w"))
        head = tensor.name if kind == "logits" else f"{tensor.name}_raw"
        nodes.append(
            helper.make_node(
                "Conv",
                [spec.input.name, f"{tensor.name}_w"],
                [head],
                kernel_shape=[size, size],
                strides=[size, size],
            )
        )
        if kind == "distances":
            weights.append(numpy_helper.from_array(np.float32(1.5 * size), f"{tensor.name}_g"))
            nodes.append(helper.make_node("Abs", [head], [f"{tensor.name}_abs"]))
            nodes.append(
                helper.make_node("Mul", [f"{tensor.name}_abs", f"{tensor.name}_g"], [tensor.name])
            )
        shape = ["batch", *tensor.shape[1:]]
        values.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, shape))
    picture = helper.make_tensor_value_info(
        spec.input.name, TensorProto.FLOAT, ["batch", *spec.input.shape[1:]]
    )
    graph = helper.make_graph(nodes, "finder", [picture], values, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def pose_artifact(folder: Path, **changes: Any) -> Artifact:
    height, width = 64, 48
    values: dict[str, Any] = {
        "name": "poser",
        "task": "pose",
        "codec": "simcc",
        "input": TensorSpec("input", (None, 3, height, width)),
        "outputs": (
            TensorSpec("simcc_x", (None, 17, 2 * width)),
            TensorSpec("simcc_y", (None, 17, 2 * height)),
        ),
        "color_order": "rgb",
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
        "keypoint_set": "coco17",
        "box_padding": 1.4,
    }
    return artifact_of(
        folder, tiny_simcc_model(input_hw=(height, width)), ModelSpec(**(values | changes))
    )


def detector_artifact(folder: Path, opset: int = 17, **changes: Any) -> Artifact:
    spec = detector_spec(**changes)
    return artifact_of(folder, detector_model(spec, opset), spec)


def noise(count: int = 3) -> FeedSource:
    def feeds(spec: ModelSpec) -> list[NamedFeeds]:
        rng = np.random.default_rng(3)
        return [
            NamedFeeds(
                f"noise {index}",
                {spec.input.name: rng.normal(0, 1, (1, 3, *spec.input_hw)).astype(np.float32)},
            )
            for index in range(count)
        ]

    return FeedSource("noise", feeds)
