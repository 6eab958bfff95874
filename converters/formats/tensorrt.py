"""Prepared ONNX -> a build kit: ONNX files in the typings that TensorRT wants, and how to build.

An engine belongs to one GPU and one version of TensorRT, so that it is built where it runs. Up to
10 TensorRT chooses layers' precisions itself, by flags, from a float32 file (``plain``); from 11 on
every tensor is computed in the type that the file gives it (``strong``). A kit holds both.
"""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from converters.formats.tensorrt_check import check_network
from converters.graph.file import Graph
from converters.job import Job
from edge.artifact import Artifact, load_constants
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.engines.trtexec import BuildKit
from edge.errors import ModelFileError
from edge.session import EngineSettings
from edge.spec import ModelSpec, Precision

__all__ = ["convert_tensorrt", "open_kit", "write_kit"]

# Of an engine whose batch is open: least, optimised for, most. Larger ones are cut by the session.
_BATCHES = (1, 4, 8)
# TensorRT 8.2 and 8.4 know opsets up to 13. Half-precision scales came to ONNX with 19.
_PLAIN_OPSET = 13
_STRONG_OPSET = 19
_STRONG_IR_VERSION = 9
_LARGEST_HALF = 65504.0
# Inputs that stay float32 whatever the tensors' type, by ONNX' definition.
_FLOAT_INPUTS = {"Resize": (1, 2)}


def convert_tensorrt(job: Job) -> dict[str, str]:
    """Write the kit of ``tensorrt-fp16``: two ONNX files and how to build them; role -> file name.

    Raises ModelFileError for what TensorRT does not take and for weights beyond FP16.
    """
    import onnx

    model = onnx.load(job.onnx_path)
    return write_kit(model, model, job.spec, job.precision, job.folder)


def write_kit(
    plain: Any, strong: Any, spec: ModelSpec, precision: Precision, folder: Path
) -> dict[str, str]:
    """Write a kit of one network in two typings, both given with float32 tensors."""
    import onnx

    network = f"{spec.name}-{precision}"
    plain = _lowest_opset(plain)
    strong = _strongly_typed(strong, spec.name)
    oldest = max(check_network(plain, spec.name), (8, 2))
    check_network(strong, spec.name)
    files = {
        "plain": f"{network}.plain.onnx",
        "strong": f"{network}.strong.onnx",
        "build": f"{network}.build.json",
    }
    onnx.save(plain, folder / files["plain"])
    onnx.save(strong, folder / files["strong"])
    kit = BuildKit(
        name=network,
        precision=precision,
        input_name=spec.input.name,
        input_shape=spec.input.shape,
        models={typing: files[typing] for typing in ("plain", "strong")},
        batches=_BATCHES if spec.input.shape[0] is None else None,
        oldest=oldest,
    )
    text = json.dumps(kit.to_json(), indent=2) + "\n"
    (folder / files["build"]).write_text(text, encoding="utf-8")
    return files


def open_kit(artifact: Artifact, settings: EngineSettings) -> OnnxRuntimeSession:
    """The network of a kit on ONNX Runtime: what can be compared where there is no TensorRT.

    It runs the ``strong`` file, whose types are those that TensorRT 11 computes in, so that the
    roundings are the device's, and only its kernels are others.
    """
    session = OnnxRuntimeSession(
        artifact.path("strong"),
        artifact.spec,
        settings,
        artifact.variant.precision,
        constants=load_constants(artifact),
    )
    session.engine = f"{session.engine} on the build kit"
    return session


def _opset(model: Any) -> Any:
    return next(o for o in model.opset_import if o.domain in ("", "ai.onnx"))


def _lowest_opset(model: Any) -> Any:
    """The network declared with opset 13 where it means the same there, for TensorRT 8.2.

    From 13 to 17 operators gained element types and attributes, and none changed what it does
    with those that it had: a graph that opset 13 accepts as it stands is the same graph.
    """
    import onnx

    if not _PLAIN_OPSET < _opset(model).version <= 17:
        return model
    lowered = copy.deepcopy(model)
    _opset(lowered).version = _PLAIN_OPSET
    for node in lowered.graph.node:
        if node.op_type == "Reshape":  # its attribute of opset 14, where it asks for nothing
            kept = [a for a in node.attribute if (a.name, a.i) != ("allowzero", 0)]
            del node.attribute[:]
            node.attribute.extend(kept)
    try:
        onnx.checker.check_model(lowered, full_check=True)
    except onnx.checker.ValidationError:
        return model
    return lowered


def _strongly_typed(model: Any, name: str) -> Any:
    """The network in FP16 but for its inputs and outputs, behind casts: edge feeds float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    if _opset(model).version < _STRONG_OPSET:
        model = onnx.version_converter.convert_version(model, _STRONG_OPSET)
    else:
        model = copy.deepcopy(model)
    model.ir_version = max(model.ir_version, _STRONG_IR_VERSION)
    _constants_to_initializers(model)
    _check_half_range(model, name)
    with warnings.catch_warnings():
        # It announces each weight below FP16's least number, which becomes that or 0.
        warnings.simplefilter("ignore", UserWarning)
        # No operator is kept in float32: those on its own list are ONNX Runtime's gaps.
        half = convert_float_to_float16(model, keep_io_types=True, op_block_list=[])
    OnnxModel.graph_topological_sort(half.graph)  # it puts the casts last
    return half


def _constants_to_initializers(model: Any) -> None:
    """Constant nodes (the version converter makes some) become weights, which parsers prefer."""
    from onnx import numpy_helper

    graph = Graph(model)
    for node in list(model.graph.node):
        if node.op_type != "Constant":
            continue
        value = graph.constant(node.output[0])
        if value is not None:
            model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            model.graph.node.remove(node)


def _check_half_range(model: Any, name: str) -> None:
    from onnx import numpy_helper

    stay = {
        node.input[index]
        for node in model.graph.node
        for index in _FLOAT_INPUTS.get(node.op_type, ())
        if index < len(node.input)
    }
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype != np.float32 or tensor.name in stay or not value.size:
            continue
        largest = float(np.abs(value).max())
        if not largest <= _LARGEST_HALF:
            raise ModelFileError(
                f"{name}: the weight {tensor.name!r} reaches {largest:g}, and FP16 ends at "
                f"{_LARGEST_HALF:g}; TensorRT gets fp16 and int8 only, choose another format"
            )
