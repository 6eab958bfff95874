"""Whether TensorRT's ONNX parser takes a network: operators, shapes, types and known limits.

Facts of the parser's operator tables (github.com/onnx/onnx-tensorrt, ``docs/operators.md`` of
TensorRT 8.4, 8.5 and 10.15, and ``docs/Changelog.md``). TensorRT itself is not needed. What passes
here can still be refused by the builder on a device; what is refused here would be refused there
after minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from converters.graph.file import Graph
from converters.graph.parts import node_name
from edge.errors import ModelFileError

__all__ = ["OPERATORS", "check_network"]

TensorRtVersion = tuple[int, int]

_SINCE_8_2 = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil
Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather
GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
HardSigmoid Identity If InstanceNormalization IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log
LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg NonMaxSuppression Not Or
PRelu Pad Pow QuantizeLinear RNN RandomUniform RandomUniformLike Range ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
Relu Reshape Resize ReverseSequence Round Scan ScatterElements ScatterND Selu Shape Sigmoid Sign Sin
Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where
"""
_LATER: dict[TensorRtVersion, str] = {
    (8, 4): "Shrink Xor",
    (8, 5): "GridSample HardSwish MeanVarianceNormalization Mod NonZero OneHot RandomNormal "
    "RandomNormalLike Reciprocal RoiAlign Trilu",
    (8, 6): "GroupNormalization IsInf LayerNormalization",
    (10, 0): "Hardmax",
    (10, 1): "DeformConv",
    (10, 4): "BlackmanWindow HammingWindow HannWindow",
    (10, 5): "STFT",
    # Newer than 8.5 and in the table of 10.15; since which version it does not say.
    (10, 15): "Attention CastLike Gelu Mish RMSNormalization RotaryEmbedding",
}
# Operator -> the first version known to have it.
OPERATORS: Mapping[str, TensorRtVersion] = {
    operator: since
    for since, names in [((8, 2), _SINCE_8_2), *_LATER.items()]
    for operator in names.split()
}
# Newest opset -> the first version whose table goes so far.
_OPSETS: Mapping[int, TensorRtVersion] = {13: (8, 2), 17: (8, 5), 20: (10, 0), 24: (10, 15)}
_OLDEST_OPSET = 9

_ELSEWHERE = "the formats that have it: onnx"
_TYPES = {"FLOAT", "FLOAT16", "INT32", "INT64", "INT8", "BOOL"}
_LARGEST_RANK = 8
_LARGEST_K = 3840  # of TopK
_INT32 = np.iinfo(np.int32)


def check_network(model: Any, name: str) -> TensorRtVersion:
    """The oldest TensorRT (8.2 or newer) that takes an ONNX model.

    ``name`` is the model's in messages. Raises ModelFileError that says which operator of which
    node no version takes, or what else stands in the way.
    """
    oldest = _check_opset(model, name)
    for graph in _graphs(model.graph):
        for node in graph.node:
            oldest = max(oldest, _check_node(node, name))
    graph = Graph(model)
    for node in model.graph.node:
        limit = _LIMITS.get(node.op_type)
        reason = limit(graph, node) if limit else None
        if reason:
            raise ModelFileError(
                f"{name}: TensorRT does not take {node.op_type} {node_name(node)!r}: {reason}; "
                f"{_ELSEWHERE}"
            )
    _check_weights(model, name)
    _check_shapes(model, name)
    return oldest


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and the graphs inside of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _check_opset(model: Any, name: str) -> TensorRtVersion:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise ModelFileError(
            f"{name}: TensorRT takes opset {_OLDEST_OPSET} and newer, the file has {opset}; export "
            "it with opset 11 to 17"
        )
    for newest, since in _OPSETS.items():
        if opset <= newest:
            return since
    raise ModelFileError(
        f"{name}: TensorRT takes opsets up to {max(_OPSETS)}, the file has {opset}; export it with "
        "opset 11 to 17"
    )


def _check_node(node: Any, name: str) -> TensorRtVersion:
    if node.domain not in ("", "ai.onnx"):
        raise ModelFileError(
            f"{name}: TensorRT has no operator {node.domain}.{node.op_type} (node "
            f"{node_name(node)!r}) without a plugin; {_ELSEWHERE}"
        )
    since = OPERATORS.get(node.op_type)
    if since is None:
        raise ModelFileError(
            f"{name}: TensorRT has no operator {node.op_type} (node {node_name(node)!r}); "
            f"{_ELSEWHERE}"
        )
    return since


def _check_weights(model: Any, name: str) -> None:
    import onnx
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        if kind not in _TYPES:
            raise ModelFileError(
                f"{name}: TensorRT has no {kind.lower()} weights ({tensor.name!r}); export the "
                "model with float32 ones"
            )
        if kind == "INT64":
            value = numpy_helper.to_array(tensor)
            # Slices "to the end" hold the largest int64, which every version cuts as meant.
            inside = value[np.abs(value.astype(np.float64)) < 2.0**62]
            if inside.size and (inside.max() > _INT32.max or inside.min() < _INT32.min):
                raise ModelFileError(
                    f"{name}: {tensor.name!r} has values beyond int32, which TensorRT up to 8.6 "
                    "cuts off; export the model again"
                )


def _check_shapes(model: Any, name: str) -> None:
    import onnx

    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in weights:
            continue
        sizes = value.type.tensor_type.shape.dim
        if any(not size.HasField("dim_value") for size in sizes[1:]):
            raise ModelFileError(
                f"{name}: the input {value.name!r} has an open size beside its batch; fix it with "
                "--size HxW"
            )
    inferred = onnx.shape_inference.infer_shapes(model)
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = value.type.tensor_type
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        if kind not in _TYPES and kind != "UNDEFINED":
            raise ModelFileError(
                f"{name}: TensorRT does not compute in {kind.lower()} (tensor {value.name!r}); "
                f"{_ELSEWHERE}"
            )
        if len(tensor.shape.dim) > _LARGEST_RANK:
            raise ModelFileError(
                f"{name}: {value.name!r} has {len(tensor.shape.dim)} dimensions, TensorRT has up "
                f"to {_LARGEST_RANK}; {_ELSEWHERE}"
            )


# --- limits of single operators: None, or what is wrong -------------------------------------------


def _attribute(node: Any, name: str, default: Any) -> Any:
    import onnx

    for attribute in node.attribute:
        if attribute.name == name:
            value = onnx.helper.get_attribute_value(attribute)
            return value.decode() if isinstance(value, bytes) else value
    return default


def _constant(graph: Graph, node: Any, index: int) -> Any:
    if len(node.input) <= index or not node.input[index]:
        return None
    return graph.constant(node.input[index])


def _limit_pooling(_: Graph, node: Any) -> str | None:
    if len(node.output) > 1 and node.output[1]:
        return "its second output, the indices, is not available"
    if any(step != 1 for step in _attribute(node, "dilations", [])):
        return "its windows have dilations"
    if len(_attribute(node, "kernel_shape", [1, 1])) not in (2, 3):
        return "its window has not 2 or 3 dimensions"
    return None


def _limit_resize(_: Graph, node: Any) -> str | None:
    allowed = {
        "mode": ("nearest", ("nearest", "linear")),
        "coordinate_transformation_mode": (
            "half_pixel",
            (
                *("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn"),
                *("asymmetric", "align_corners"),
            ),
        ),
        "nearest_mode": (
            "round_prefer_floor",
            ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
        ),
        "keep_aspect_ratio_policy": ("stretch", ("stretch",)),
        "antialias": (0, (0,)),
    }
    for key, (default, values) in allowed.items():
        value = _attribute(node, key, default)
        if value not in values:
            return f"{key} is {value}, and {', '.join(map(str, values))} are taken"
    return None


def _limit_suppression(_: Graph, __: Any) -> str | None:
    return (
        "the number of its boxes depends on the image; take a model whose raw heads the kit knows"
    )


def _limit_top_k(graph: Graph, node: Any) -> str | None:
    count = _constant(graph, node, 1)
    if count is None:
        return "how many values it takes is no constant"
    if int(np.max(count)) > _LARGEST_K:
        return f"it takes {int(np.max(count))} values, and {_LARGEST_K} at most are taken"
    return None


def _limit_quantisation(graph: Graph, node: Any) -> str | None:
    scale, zero = _constant(graph, node, 1), _constant(graph, node, 2)
    if scale is None or zero is None:
        return "its scale and its zero point must both be constants"
    if zero.dtype != np.int8 or np.any(zero != 0):
        return "its zero point is not 0 of int8"
    if not np.all(np.asarray(scale, np.float64) > 0):
        return "its scale is not positive"
    if np.size(scale) != np.size(zero):
        return "its scale and its zero point differ in size"
    return None


_LIMITS: Mapping[str, Callable[[Graph, Any], str | None]] = {
    "MaxPool": _limit_pooling,
    "AveragePool": _limit_pooling,
    "LpPool": _limit_pooling,
    "Resize": _limit_resize,
    "NonMaxSuppression": _limit_suppression,
    "TopK": _limit_top_k,
    "QuantizeLinear": _limit_quantisation,
    "DequantizeLinear": _limit_quantisation,
}
