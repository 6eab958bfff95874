"""Torch model -> verified ONNX file, and its half-size form with FP16 storage.

`export_onnx` folds batch norms, exports, checks and compares before the file takes its name.
`store_fp16_weights` needs onnx and numpy only.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from converters.architectures.cspnext import ConvModule
from edge.errors import EdgeError

INPUT_NAME = "input"
OUTPUT_NAMES = ("simcc_x", "simcc_y")
OPSET = 17


class ExportError(EdgeError):
    """The exported file is invalid or does not answer as the torch model does."""


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode whose ConvModules are convolutions with bias.

    W' = W * g / sqrt(var + eps), b' = b_bn - mean * g / sqrt(var + eps).
    """
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        if isinstance(module, ConvModule):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    return folded


def export_onnx(
    model: nn.Module,
    out_path: Path,
    input_hw: tuple[int, int] = (256, 192),
    tolerance: float = 1e-4,
) -> None:
    """Write `model` as ONNX, opset 17, with a dynamic batch axis named `batch`.

    Input `input` (batch, 3, H, W) float32; outputs `simcc_x` (batch, K, 2 W) and `simcc_y`
    (batch, K, 2 H) float32, raw. Batch norms are folded into the convolutions; `model` itself is
    not changed. The file is checked by onnx.checker and compared with the unfolded torch model
    in ONNX Runtime at batch 1 and 2 before it is renamed into place.

    Raises:
        ExportError: an output differs from torch's by more than `tolerance`; nothing is left.
    """
    reference = copy.deepcopy(model).eval().to("cpu", torch.float32)
    partial = out_path.with_name(out_path.name + ".partial")
    dynamic_axes = {name: {0: "batch"} for name in (INPUT_NAME, *OUTPUT_NAMES)}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # The TorchScript exporter announces its successor. It stays because its graph is the
            # plain one that ncnn, OpenVINO and TensorRT convert without shape arithmetic, and
            # because it needs no onnxscript (torch 2.13). It can go when the successor's is too.
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                fold_batch_norms(reference),
                (torch.zeros(1, 3, *input_hw),),
                str(partial),
                input_names=[INPUT_NAME],
                output_names=list(OUTPUT_NAMES),
                dynamic_axes=dynamic_axes,
                opset_version=OPSET,
                dynamo=False,
            )
        _state_output_shapes(reference, partial, input_hw)
        _compare(reference, partial, input_hw, tolerance)
        partial.replace(out_path)
    finally:
        partial.unlink(missing_ok=True)


def _state_output_shapes(reference: nn.Module, path: Path, input_hw: tuple[int, int]) -> None:
    """Write the outputs' fixed axes, which the exporter leaves open, into the file; check it."""
    with torch.no_grad():
        outputs = reference(torch.zeros(1, 3, *input_hw))
    model = onnx.load(path)
    for info, output in zip(model.graph.output, outputs, strict=True):
        shape = ["batch", *output.shape[1:]]
        info.CopyFrom(helper.make_tensor_value_info(info.name, TensorProto.FLOAT, shape))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _compare(reference: nn.Module, path: Path, input_hw: tuple[int, int], tolerance: float) -> None:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch in (1, 2):
        images = rng.standard_normal((batch, 3, *input_hw), dtype=np.float32)
        with torch.no_grad():
            wanted = [output.numpy() for output in reference(torch.from_numpy(images))]
        found = session.run(list(OUTPUT_NAMES), {INPUT_NAME: images})
        for name, left, right in zip(OUTPUT_NAMES, wanted, found, strict=True):
            gap = float(np.abs(left - right).max())
            # Written so that NaN fails too.
            if not gap <= tolerance:
                raise ExportError(
                    f"{path.name}: {name} differs from torch by {gap:.2e} at batch {batch}, "
                    f"more than {tolerance:.0e}"
                )


def store_fp16_weights(onnx_path_in: Path, onnx_path_out: Path, min_elements: int = 65) -> None:
    """Store the large weights of an FP32 ONNX file as FP16, each followed by a Cast to FP32.

    The file halves and its arithmetic stays FP32: any runtime that knows Cast runs it, and most
    fold the casts when they load it. Initializers of fewer than `min_elements` elements stay
    as they are.

    Raises:
        ExportError: a weight is beyond FP16's range (65504).
    """
    model = onnx.load(onnx_path_in)
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        weights: NDArray[np.float32] = numpy_helper.to_array(tensor)
        if weights.size < min_elements:
            continue
        if not np.all(np.abs(weights) <= np.finfo(np.float16).max):
            raise ExportError(f"{tensor.name} holds values beyond FP16's range")
        name = tensor.name
        stored = numpy_helper.from_array(weights.astype(np.float16), name + "_fp16")
        tensor.CopyFrom(stored)
        casts.append(
            helper.make_node(
                "Cast", [stored.name], [name], name=name + "_to_fp32", to=TensorProto.FLOAT
            )
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    partial = onnx_path_out.with_name(onnx_path_out.name + ".partial")
    onnx.save(model, partial)
    partial.replace(onnx_path_out)
