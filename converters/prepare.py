"""ONNX -> ONNX: the one file that every converter starts from.

Fixed shapes, folded constants, raw heads instead of box decoding and suppression, spec names for
inputs and outputs, and a ScaleNorm that cannot overflow in FP16.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from converters.onnx_file import Graph, load_onnx
from converters.recognise import DetectorHeads, Recognised, recognise
from edge.errors import ModelFileError
from edge.session import Array
from edge.spec import ModelSpec, TensorSpec

__all__ = ["Prepared", "make_scale_norm_fp16_safe", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A prepared model.

    ``taps`` maps each output of ``spec`` to the tensor of the untouched file that holds the same
    values, ``source_spec`` describes that file as it is.
    """

    model: Any
    spec: ModelSpec
    source_spec: ModelSpec
    taps: dict[str, str]
    rewritten_scale_norms: int


def prepare(
    path: Path,
    name: str,
    *,
    spec: ModelSpec | None = None,
    input_hw: tuple[int, int] | None = None,
    dynamic_batch: bool = False,
) -> Prepared:
    """Load, recognise and rewrite an ONNX file; the file itself is not touched.

    ``dynamic_batch`` keeps the batch open where the file's is; otherwise it becomes 1. Raises
    ModelFileError or SpecError for anything that is no supported model.
    """
    model = load_onnx(path)
    found = recognise(model, path, name, spec, input_hw)
    batch = found.source_spec.input.shape[0] if dynamic_batch else 1
    height, width = found.source_spec.input_hw

    prepared = copy.deepcopy(model)
    heads = found.heads
    taps = (
        [*heads.logits, *heads.distances]
        if heads
        else [tensor.name for tensor in found.source_spec.outputs]
    )
    _cut(prepared, taps)
    _freeze_input(prepared, (batch, 3, height, width))
    prepared = _simplify(prepared, path)
    count = make_scale_norm_fp16_safe(prepared)
    shapes = _inferred_shapes(prepared, taps, path)
    if heads:
        new_spec, taps = _raw_head_spec(found, heads, shapes, batch, path)
    else:
        new_spec = _same_spec(found.source_spec, shapes, batch)
    names = [tensor.name for tensor in new_spec.outputs]
    _rename(prepared, dict(zip(taps, names, strict=True)))
    _set_outputs(prepared, new_spec)
    _check(prepared, path)
    return Prepared(
        prepared, new_spec, found.source_spec, dict(zip(names, taps, strict=True)), count
    )


def _cut(model: Any, outputs: list[str]) -> None:
    """Keep what the outputs depend on, in place; the outputs' types are left open."""
    import onnx

    nodes = Graph(model).needed_by(outputs)
    used = {name for node in nodes for name in node.input}
    graph = model.graph
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    inputs = [v for v in graph.input if v.name in used]
    del graph.node[:], graph.initializer[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    graph.input.extend(inputs)
    for name in outputs:
        graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))


def _freeze_input(model: Any, shape: tuple[int | None, ...]) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    value = next(v for v in model.graph.input if v.name not in weights)
    for dimension, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        if size is None:
            dimension.dim_param = "batch"
        else:
            dimension.dim_value = size


def _simplify(model: Any, path: Path) -> Any:
    """Fold constants and shape arithmetic, fuse BatchNorm, drop what does nothing."""
    import onnxslim

    # onnxslim reports to the root logger; its warnings are about its own heuristics.
    logging.getLogger("ONNXSlim").setLevel(logging.ERROR)
    try:
        return onnxslim.slim(model)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelFileError(
            f"{path}: does not work out at this input size ({reason[-1]}); detectors need sides "
            "that are multiples of 32"
        ) from error


def _inferred_shapes(model: Any, names: list[str], path: Path) -> dict[str, tuple[int | None, ...]]:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    shapes: dict[str, tuple[int | None, ...]] = {}
    for value in [*inferred.graph.value_info, *inferred.graph.output]:
        shapes[value.name] = tuple(
            d.dim_value if d.HasField("dim_value") else None
            for d in value.type.tensor_type.shape.dim
        )
    for name in names:
        if not shapes.get(name):
            raise ModelFileError(
                f"{path}: the shape of {name!r} does not follow from the graph at this input size; "
                "detectors need sides that are multiples of 32"
            )
    return {name: shapes[name] for name in names}


def _same_spec(
    spec: ModelSpec, shapes: dict[str, tuple[int | None, ...]], batch: int | None
) -> ModelSpec:
    return replace(
        spec,
        input=TensorSpec(spec.input.name, (batch, *spec.input.shape[1:])),
        outputs=tuple(
            TensorSpec(t.name, (batch, *shapes[t.name][1:]), t.dtype) for t in spec.outputs
        ),
    )


def _raw_head_spec(
    found: Recognised,
    heads: DetectorHeads,
    shapes: dict[str, tuple[int | None, ...]],
    batch: int | None,
    path: Path,
) -> tuple[ModelSpec, list[str]]:
    """The spec of the cut detector, levels by rising stride, and its taps in that order."""
    source = found.source_spec
    height, _ = source.input_hw
    levels: list[tuple[int, str, str]] = []
    for logit in heads.logits:
        hw = shapes[logit][2:]
        same = [name for name in heads.distances if shapes[name][2:] == hw]
        if len(same) != 1 or len(hw) != 2 or hw[0] is None or hw[0] < 1:
            raise ModelFileError(
                f"{path}: no single distance map fits the logits {logit!r} of shape "
                f"{shapes[logit]}; describe the model with --spec FILE"
            )
        levels.append((round(height / hw[0]), logit, same[0]))
    levels.sort()
    strides = tuple(stride for stride, _, _ in levels)
    taps = [logit for _, logit, _ in levels] + [distance for _, _, distance in levels]
    names = [f"logits_s{stride}" for stride in strides] + [f"distances_s{s}" for s in strides]
    spec = replace(
        source,
        codec="rtmdet",
        input=TensorSpec(source.input.name, (batch, *source.input.shape[1:])),
        outputs=tuple(
            TensorSpec(name, (batch, *shapes[tap][1:]))
            for name, tap in zip(names, taps, strict=True)
        ),
        strides=strides,
    )
    return spec, taps


def _rename(model: Any, names: dict[str, str]) -> None:
    for node in model.graph.node:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                if name in names:
                    field[index] = names[name]


def _set_outputs(model: Any, spec: ModelSpec) -> None:
    import onnx

    del model.graph.output[:], model.graph.value_info[:]
    for tensor in spec.outputs:
        dtype = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}[tensor.dtype]
        shape = ["batch" if size is None else size for size in tensor.shape]
        model.graph.output.append(onnx.helper.make_tensor_value_info(tensor.name, dtype, shape))


def _check(model: Any, path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # our own rewriting broke it: keep the trace for the report
        raise ModelFileError(f"{path}: the prepared graph is invalid: {error}") from error


# --- ScaleNorm ------------------------------------------------------------------------------------


def make_scale_norm_fp16_safe(model: Any) -> int:
    """Rewrite every ``x / max(c * ||x||, eps)`` over the last axis, in place; how many there were.

    RTMPose's ScaleNorm sums squares up to 3.6e6, and FP16 ends at 65504. Dividing by the largest
    magnitude first bounds every square by 1 and the sum by the axis' length::

        y = x / max(max|x|, eps);   x / (c * ||x||) = y / (c * ||y||)

    ``||y||`` is at least 1 unless all |x| < eps, so that ``max(||y||, 1)`` guards the division
    and changes nothing where the original clamp did not act.
    """
    import onnx

    count = 0
    graph = Graph(model)
    for node in list(model.graph.node):
        if node.op_type != "Div":
            continue
        norm = _norm_of(graph, node)
        if norm is None:
            continue
        factor, epsilon = norm
        _replace_division(model, node, factor, epsilon, prefix=f"scale_norm_{count}")
        count += 1
    if count:
        _drop_unused(model)
        onnx.checker.check_model(model)
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
    model: Any, division: Any, factor: float, epsilon: float, prefix: str
) -> None:
    from onnx import helper, numpy_helper

    x, result = division.input[0], division.output[0]
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    constants: dict[str, Array] = {
        # FP16 keeps nothing below 6e-8, and a clamp of 0 would divide 0 by 0.
        "epsilon": np.array(max(epsilon, 1e-5), np.float32),
        "one": np.array(1.0, np.float32),
        "scale": np.array(1.0 / factor, np.float32),
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


def _drop_unused(model: Any) -> None:
    nodes = Graph(model).needed_by(value.name for value in model.graph.output)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)
