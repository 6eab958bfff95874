"""RTMPose's ScaleNorm, rewritten so that it cannot overflow in FP16."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.graph.file import Graph, drop_unused
from converters.graph.operators import opset_of
from edge.session import Array

__all__ = ["make_scale_norm_fp16_safe"]


def make_scale_norm_fp16_safe(model: Any) -> int:
    """Rewrite every ``x / max(c * ||x||, eps)`` over the last axis, in place; how many there were.

    RTMPose's ScaleNorm sums squares up to 3.6e6, and FP16 ends at 65504. Dividing by the largest
    magnitude first bounds every square by 1 and the sum by the axis' length::

        y = x / max(max|x|, eps);   x / (c * ||x||) = y / (c * ||y||)

    ``||y||`` is at least 1 unless all |x| < eps, so that ``max(||y||, 1)`` guards the division
    and changes nothing where the original clamp did not act.
    """
    count = 0
    graph = Graph(model)
    dtypes = _element_types(model)
    for node in list(model.graph.node):
        if node.op_type != "Div":
            continue
        norm = _norm_of(graph, node)
        if norm is None:
            continue
        factor, epsilon = norm
        dtype = dtypes.get(node.input[0], np.dtype(np.float32))
        _replace_division(model, node, factor, epsilon, dtype, prefix=f"scale_norm_{count}")
        count += 1
    if count:
        drop_unused(model)
    return count


def _norm_of(graph: Graph, division: Any) -> tuple[float, float] | None:
    """(c, eps) when a Div is ``x / max(c * ||x||, eps)`` over the last axis, else None."""
    x, name = division.input
    factor, epsilon = 1.0, 0.0
    while True:
        node = graph.producer.get(name)
        if node is None:
            return None
        if node.op_type == "Mul":
            value = graph.scalar(node.input[1])
            operand = node.input[0]
            if value is None:
                value, operand = graph.scalar(node.input[0]), node.input[1]
            if value is None:
                return None
            factor, name = factor * value, operand
        elif node.op_type in ("Clip", "Max"):
            least = _lower_bound(graph, node)
            if least is None:
                return None
            # A clamp inside the factor c acts at c * bound on the outside.
            epsilon = max(epsilon, factor * least)
            name = node.input[0]
        elif node.op_type == "ReduceL2":
            same = node.input[0] == x and _reduces_last_axis(graph, node)
            return (factor, epsilon) if same else None
        elif node.op_type == "Sqrt" or (
            node.op_type == "Pow" and graph.scalar(node.input[1]) == 0.5
        ):
            inner = _sum_of_squares(graph, node.input[0], x)
            return None if inner is None else (factor * inner, epsilon)
        else:
            return None


def _lower_bound(graph: Graph, node: Any) -> float | None:
    for attribute in node.attribute:  # Clip up to opset 10
        if attribute.name == "min":
            return float(attribute.f)
    if len(node.input) < 2 or not node.input[1]:
        return None
    if node.op_type == "Clip" and len(node.input) > 2 and node.input[2]:
        upper = graph.scalar(node.input[2])
        if upper is None or upper < 65504:
            return None
    return graph.scalar(node.input[1])


def _reduces_last_axis(graph: Graph, node: Any) -> bool:
    axes: Any = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
    if axes is None and len(node.input) > 1:
        constant = graph.constant(node.input[1])
        axes = None if constant is None else constant.reshape(-1).tolist()
    keep = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
    # RTMPose's tokens are (N, K, C): both spellings of the last of three axes occur.
    return bool(keep) and axes in ([-1], [2])


def _sum_of_squares(graph: Graph, name: str, x: str) -> float | None:
    """The factor under the root: 1 for a sum; a mean's depends on the length and is not taken."""
    node = graph.producer.get(name)
    if node is None or node.op_type != "ReduceSum" or not _reduces_last_axis(graph, node):
        return None
    square = graph.producer.get(node.input[0])
    if square is None:
        return None
    if square.op_type == "Mul" and list(square.input) == [x, x]:
        return 1.0
    is_square = square.op_type == "Pow" and graph.scalar(square.input[1]) == 2
    return 1.0 if is_square and square.input[0] == x else None


def _replace_division(
    model: Any, division: Any, factor: float, epsilon: float, dtype: np.dtype[Any], prefix: str
) -> None:
    from onnx import helper, numpy_helper

    x, result = division.input[0], division.output[0]
    opset = opset_of(model)
    constants: dict[str, Array] = {
        # FP16 keeps nothing below 6e-8, and a clamp of 0 would divide 0 by 0.
        "epsilon": np.array(max(epsilon, 1e-5), dtype),
        "one": np.array(1.0, dtype),
        "scale": np.array(1.0 / factor, dtype),
    }
    if opset >= 18:
        constants["axes"] = np.array([-1], np.int64)
    for key, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, f"{prefix}.{key}"))

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(
            op, inputs, [output], name=f"{prefix}.{op}_{output[-8:]}", **attributes
        )

    def reduce(op: str, source: str, output: str) -> Any:
        if opset >= 18:
            return node(op, [source, f"{prefix}.axes"], output, keepdims=1)
        return node(op, [source], output, axes=[-1], keepdims=1)

    nodes = [
        node("Abs", [x], f"{prefix}.abs"),
        reduce("ReduceMax", f"{prefix}.abs", f"{prefix}.max"),
        node("Clip", [f"{prefix}.max", f"{prefix}.epsilon"], f"{prefix}.bound"),
        node("Div", [x, f"{prefix}.bound"], f"{prefix}.bounded"),
        reduce("ReduceL2", f"{prefix}.bounded", f"{prefix}.norm"),
        node("Clip", [f"{prefix}.norm", f"{prefix}.one"], f"{prefix}.divisor"),
        node("Div", [f"{prefix}.bounded", f"{prefix}.divisor"], f"{prefix}.unit"),
        node("Mul", [f"{prefix}.unit", f"{prefix}.scale"], result),
    ]
    index = list(model.graph.node).index(division)
    model.graph.node.remove(division)
    for offset, new in enumerate(nodes):
        model.graph.node.insert(index + offset, new)


def _element_types(model: Any) -> dict[str, np.dtype[Any]]:
    """Tensor -> its type, where inference tells it: constants must be of the type they meet."""
    import onnx
    from onnx import helper

    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # inference is a help here, not a requirement
        return {}
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    return {name: helper.tensor_dtype_to_np_dtype(kind) for name, kind in kinds.items() if kind}
