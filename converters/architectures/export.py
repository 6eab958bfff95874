"""Torch model -> verified ONNX file, and its half-size form with FP16 storage.

`export_onnx` folds batch norms, exports, checks and compares before the file takes its name.
`store_fp16_weights` needs onnx and numpy only.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from converters.architectures.cspnext import ConvModule
from converters.graph.recognise import RGB_MEAN, RGB_STD
from edge.errors import EdgeError
from edge.files import replacing

Images = NDArray[np.float32]

INPUT_NAME = "input"
SIMCC_OUTPUT_NAMES = ("simcc_x", "simcc_y")
OPSET = 17
# Another order of summation rounds differently, not worse.
_FP32_ERRORS = 5


class ExportError(EdgeError):
    """The exported file is invalid or does not answer as the torch model does."""


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode whose ConvModules are convolutions with bias.

    W' = W * g / sqrt(var + eps), b' = b_bn - mean * g / sqrt(var + eps).
    """
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        if isinstance(module, ConvModule) and isinstance(module.bn, nn.BatchNorm2d):
            # Convolutions that levels share become one each: their norms differ.
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    return folded


def export_onnx(
    model: nn.Module,
    out_path: Path,
    input_hw: tuple[int, int] = (256, 192),
    tolerance: float = 1e-4,
    *,
    plain: nn.Module | None = None,
    output_names: Sequence[str] = SIMCC_OUTPUT_NAMES,
    constants: Mapping[str, NDArray[np.float32]] | None = None,
    metadata: Mapping[str, str] | None = None,
    mean: Sequence[float] = RGB_MEAN,
    std: Sequence[float] = RGB_STD,
) -> None:
    """Write `model` as ONNX, opset 17, with a dynamic batch axis named `batch`.

    Input `input` (batch, 3, H, W) float32; the outputs are the model's, raw float32 tensors whose
    first axis is the batch, under `output_names`. Batch norms are folded into the convolutions;
    `model` itself is not changed. The file is checked by onnx.checker and compared with the
    unfolded torch model in ONNX Runtime, on picture-like inputs at batch 1 and 2, before it is
    renamed into place. Where it differs by more than `tolerance`, float64 judges: float32 rounds
    in a deep network with large weights by more than that, in torch as in ONNX Runtime.

    Args:
        model: takes (N, 3, H, W), returns a tensor or a tuple of tensors.
        out_path: the file to write.
        input_hw: height and width of the input, px.
        tolerance: the largest accepted difference, for answers beyond 1 relative to the largest.
        plain: what is written, a form of `model` with the same answers that engines run better;
            `model` itself unless given. Either way `model` is what the file is compared with.
        output_names: of the model's outputs, in order.
        constants: name -> array; become further outputs of the file, whose values no input changes.
        metadata: key -> text, for the file's metadata_props.
        mean: of the pixels that the model is made for, a channel each.
        std: their deviation.

    Raises:
        ExportError: an output differs from torch's by more than `tolerance`, and from that of
            float64 by far more than torch's does; nothing is left.
    """
    reference = copy.deepcopy(model).eval().to("cpu", torch.float32)
    dynamic_axes = {name: {0: "batch"} for name in (INPUT_NAME, *output_names)}
    images = _pictures(2, input_hw, mean, std)
    wanted = _answers(reference, images)
    with replacing(out_path) as partial:
        with torch.no_grad(), warnings.catch_warnings():
            # The TorchScript exporter announces its successor. It stays because its graph is the
            # plain one that ncnn, OpenVINO and TensorRT convert without shape arithmetic, and
            # because it needs no onnxscript (torch 2.13). It can go when the successor's is too.
            warnings.simplefilter("ignore", DeprecationWarning)
            # A shape that tracing makes a constant is meant; the comparison shows one that is not.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            torch.onnx.export(
                fold_batch_norms(reference if plain is None else plain),
                (torch.zeros(1, 3, *input_hw),),
                str(partial),
                input_names=[INPUT_NAME],
                output_names=list(output_names),
                dynamic_axes=dynamic_axes,
                opset_version=OPSET,
                dynamo=False,
            )
        _complete(partial, wanted, constants or {}, metadata or {})
        _compare(
            partial, images, reference, dict(zip(output_names, wanted, strict=True)), tolerance
        )


def _pictures(
    count: int, hw: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Images:
    """Inputs with the statistics of pictures: most of the contrast in the large shapes.

    White noise is what no camera gives: it drives a network far from where it was trained.
    """
    rng = np.random.default_rng(0)
    height, width = hw
    levels = np.zeros((count, 3, height, width), np.float32)
    for cells in (2, 4, 8, 16, 32):
        steps = [np.linspace(0, cells, side, endpoint=False).astype(int) for side in hw]
        blocks = rng.standard_normal((count, 3, cells, cells), dtype=np.float32)
        levels += blocks[:, :, steps[0][:, None], steps[1]] / cells**0.5
    pixels = np.clip(128 + 50 * levels, 0, 255)
    shape = (1, 3, 1, 1)
    scaled: Images = ((pixels - np.reshape(mean, shape)) / np.reshape(std, shape)).astype(
        np.float32
    )
    return scaled


def _answers(model: nn.Module, images: NDArray[Any]) -> list[NDArray[Any]]:
    with torch.no_grad():
        outputs = model(torch.from_numpy(images))
    return [tensor.numpy() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _complete(
    path: Path,
    outputs: list[NDArray[np.float32]],
    constants: Mapping[str, NDArray[np.float32]],
    metadata: Mapping[str, str],
) -> None:
    """Write the outputs' fixed axes, which the exporter leaves open, and what it does not know."""
    model = onnx.load(path)
    graph = model.graph
    for info, output in zip(graph.output, outputs, strict=True):
        shape = ["batch", *output.shape[1:]]
        info.CopyFrom(helper.make_tensor_value_info(info.name, TensorProto.FLOAT, shape))
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(value, name))
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
    if metadata:
        helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _compare(
    path: Path,
    images: Images,
    model: nn.Module,
    wanted: Mapping[str, NDArray[np.float32]],
    tolerance: float,
) -> None:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    exact: list[NDArray[np.float64]] = []
    for batch in range(1, len(images) + 1):
        found = session.run(list(wanted), {INPUT_NAME: images[:batch]})
        for index, (name, left) in enumerate(wanted.items()):
            gap = _gap(found[index], left[:batch])
            limit = tolerance * max(1.0, float(np.abs(left[:batch]).max()))
            # Written so that NaN fails too.
            if gap <= limit:
                continue
            exact = exact or _answers(copy.deepcopy(model).double(), images.astype(np.float64))
            own = _gap(left[:batch], exact[index][:batch])
            gap = _gap(found[index], exact[index][:batch])
            if not gap <= max(limit, _FP32_ERRORS * own):
                raise ExportError(
                    f"{path.name}: {name} differs from torch in float64 by {gap:.2e} at batch "
                    f"{batch}, more than {limit:.0e} and {_FP32_ERRORS} times what torch's float32 "
                    f"does ({own:.2e})"
                )


def _gap(left: NDArray[Any], right: NDArray[Any]) -> float:
    return float(np.abs(left - right).max())


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
    with replacing(onnx_path_out) as private:
        onnx.save(model, private)
