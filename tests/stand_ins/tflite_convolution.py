"""A .tflite file of one convolution, and what it computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import Artifact
from edge.session import Array, EngineSettings
from edge.spec import ModelSpec, Precision, TensorSpec, Variant
from tests.stand_ins.specs import pose_spec

__all__ = [
    "KEYPOINTS",
    "ONE",
    "artifact_of",
    "feed",
    "formula",
    "one_convolution",
    "square_spec",
    "weights",
]

ONE = EngineSettings(threads=1)
KEYPOINTS = 16


def square_spec() -> ModelSpec:
    """Sixteen heatmaps of 16x16: shapes alone do not tell their axes."""
    return replace(
        pose_spec(),
        name="square",
        codec="heatmap",
        keypoint_set="unnamed-16",
        input=TensorSpec("input", (1, 3, 16, 16)),
        outputs=(TensorSpec("heatmaps", (1, KEYPOINTS, 16, 16)),),
    )


def weights() -> Array:
    """Of a 1x1 convolution, (16, 3), every channel of another size."""
    value = np.random.default_rng(3).normal(0, 1, (KEYPOINTS, 3)).astype(np.float32)
    return np.asarray(value * np.linspace(0.2, 2, KEYPOINTS, dtype=np.float32)[:, None])


def formula(feed: Array) -> Array:
    """The same convolution on (1, 3, H, W) by numpy."""
    return np.asarray(np.einsum("oc,nchw->nohw", weights(), feed))


def one_convolution(path: Path, kind: str = "FLOAT32", scale: float = 0.0, zero: int = 0) -> Path:
    """A .tflite file of one 1x1 convolution (N, H, W, C), written by hand from its schema.

    Integer files have input and output of that type, the input with ``scale`` and ``zero``, the
    output with steps of 0.05 about ``zero``, and weights of one scale a channel.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    floats = kind == "FLOAT32"
    model = schema.ModelT()
    model.version, model.description = 3, b"test"
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.name, graph.tensors = b"main", []

    def add(
        name: str, shape: tuple[int, ...], element: str, scales: list[float], zeros: list[int],
        data: Array | None = None,
    ) -> int:  # fmt: skip
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name.encode(), list(shape)
        tensor.type = getattr(schema.TensorType, element)
        if scales:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = scales, zeros
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    own = weights()
    image = add("input", (1, 16, 16, 3), kind, [] if floats else [scale], [] if floats else [zero])
    if floats:
        filters = add("w", (KEYPOINTS, 1, 1, 3), kind, [], [], own.reshape(KEYPOINTS, 1, 1, 3))
        bias = add("b", (KEYPOINTS,), kind, [], [], np.zeros(KEYPOINTS, np.float32))
    else:
        scales = (np.abs(own).max(axis=1) / 127).astype(np.float32)
        steps = np.rint(own / scales[:, None]).astype(np.int8).reshape(KEYPOINTS, 1, 1, 3)
        none = [0] * KEYPOINTS
        filters = add("w", (KEYPOINTS, 1, 1, 3), "INT8", scales.tolist(), none, steps)
        wide = (np.int32, "INT32") if kind == "INT8" else (np.int64, "INT64")
        products = (scales * scale).tolist()
        bias = add("b", (KEYPOINTS,), wide[1], products, none, np.zeros(KEYPOINTS, wide[0]))
    maps = add(
        "heatmaps", (1, 16, 16, KEYPOINTS), kind, [] if floats else [0.05], [] if floats else [zero]
    )
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = 1 if floats else 3
    model.operatorCodes = [code]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [image, filters, bias], [maps]
    operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    options = operator.builtinOptions = schema.Conv2DOptionsT()
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    graph.inputs, graph.outputs, graph.operators = [image], [maps], [operator]
    model.subgraphs = [graph]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    for names, name, index in ((0, "input", image), (1, "heatmaps", maps)):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), index
        if names == 0:
            signature.inputs = [entry]
        else:
            signature.outputs = [entry]
    model.signatureDefs = [signature]
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    return path


def feed(seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, (1, 3, 16, 16)).astype(np.float32)


def artifact_of(
    folder: Path, precision: Precision = "fp32", layout: Any = None, **kind: Any
) -> Artifact:
    one_convolution(folder / "square.tflite", **kind)
    axes = layout or {"input": [0, 2, 3, 1], "heatmaps": [0, 2, 3, 1]}
    (folder / "layout.json").write_text(json.dumps(axes))
    files = {"model": "square.tflite", "layout": "layout.json"}
    return Artifact(folder, Variant("tflite", precision), square_spec(), files, {})
