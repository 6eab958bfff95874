"""How much a model may ask for: a small file can describe tensors of any size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from converters.graph.walk import all_graphs, all_tensors, reads
from edge.errors import ModelFileError, first_line
from edge.session import Array

__all__ = ["check_tensors", "refuse_giants"]

_Sizes = Mapping[str, tuple[list[int], int]]

# The largest tensor of a published pose or detection network at its input size has some 100 MB.
_MOST_TENSOR_BYTES = 512 << 20
# What follows from constants alone is computed before anything runs, and kept.
_MOST_FOLDED_BYTES = 256 << 20
# A loop over more than this is none of a network; of "as long as the condition holds" it is any.
_MOST_ROUNDS, _WHILE = 100_000, 1 << 62
# What makes tensors larger than what it is given.
_MAKERS = {
    *("CenterCropPad", "Col2Im", "ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad"),
    *("Range", "Resize", "Tile", "Upsample"),
}
# Arithmetic of shapes, and the most numbers that a shape has.
_OF_SIZES = {
    *("Abs", "Add", "Cast", "Ceil", "Concat", "Div", "Exp", "Floor", "Gather", "Identity", "Max"),
    *("Min", "Mod", "Mul", "Neg", "Pow", "ReduceMax", "ReduceProd", "ReduceSum", "Reshape"),
    *("Round", "Shape", "Slice", "Sqrt", "Squeeze", "Sub", "Unsqueeze", "Where"),
}
_MOST_NUMBERS = 64
_NOTHING: tuple[list[int], int] = ([], 0)
_ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}


def check_tensors(model: Any, path: Path) -> None:
    """Raise ModelFileError for a stored tensor whose type, shape and bytes do not fit together."""
    for tensor in all_tensors(model):
        wrong = _misfit(tensor)
        if wrong:
            raise ModelFileError(
                f"{path}: damaged ONNX: the constant {tensor.name or 'of an attribute'!r} does not "
                f"fit its type and shape ({wrong}); export it again"
            )


def _misfit(tensor: Any) -> str | None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type not in TensorProto.DataType.values() or not tensor.data_type:
        return f"type {tensor.data_type}"
    count, stored = math.prod(tensor.dims), tensor.ByteSize()
    # The smallest types put four values into a byte.
    if any(size < 0 for size in tensor.dims) or count > 4 * stored:
        return f"shape {list(tensor.dims)}, {stored} bytes"
    try:
        numpy_helper.to_array(tensor)
    except Exception as error:  # its exceptions share no base class but Exception
        return first_line(error)
    return None


def refuse_giants(model: Any, path: Path) -> None:
    """Raise ModelFileError for a tensor that is too large to be one of a pose or detection network.

    Looked at before anything is computed: what inference can tell of shapes, for tensors of any
    kind, and all that follows from constants alone, which would be computed when it is read. And
    for a loop that would not end.
    """
    known: dict[str, Array] = {}
    if any(node.op_type in _MAKERS or node.op_type == "Loop" for node in model.graph.node):
        # Inference with values computes a Range: what it would need is looked at before.
        sizes = _sizes(model, {}, with_values=False)
        known = _known_values(model, sizes)
        _refuse_beyond(model, sizes, known, path)
    _refuse_beyond(model, _sizes(model, known, with_values=True), known, path)


def _refuse_beyond(model: Any, sizes: _Sizes, known: Mapping[str, Array], path: Path) -> None:
    constant = {tensor.name for tensor in model.graph.initializer}
    stored = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    folded = 0
    for node in (node for graph in all_graphs(model.graph) for node in graph.node):
        is_constant = constant.issuperset(reads(node))
        if is_constant:
            constant.update(node.output)
        _refuse_endless(node, known, is_constant, path)
        for name in node.output:
            told = (sizes.get(name, _NOTHING), _range_size(node, known))
            shape, size = max(told, key=itemgetter(1))
            folded += size if is_constant and node.op_type != "Constant" else 0
            if size > _MOST_TENSOR_BYTES or folded > max(_MOST_FOLDED_BYTES, 3 * stored):
                raise ModelFileError(
                    f"{path}: node {node.name or name!r} ({node.op_type}) makes a tensor of "
                    f"{'x'.join(map(str, shape))}, {max(size, folded) / 1e9:.1f} GB, more than any "
                    "pose or detection network holds; export the model again"
                )


def _sizes(model: Any, known: Mapping[str, Array], *, with_values: bool) -> _Sizes:
    """Shape and bytes of every tensor of which inference tells them, open dimensions as 1.

    ``known`` are values that it need not find out. Nothing for a graph that does not hold
    together: whoever checks it says so.
    """
    import onnx
    from onnx import numpy_helper

    wise = model
    if known:
        wise = onnx.ModelProto()
        wise.CopyFrom(model)
        del wise.graph.node[:]
        wise.graph.node.extend(n for n in model.graph.node if known.keys().isdisjoint(n.output))
        stored = {tensor.name for tensor in model.graph.initializer}
        for name in known.keys() - stored:
            wise.graph.initializer.append(numpy_helper.from_array(known[name], name))
    try:
        inferred = onnx.shape_inference.infer_shapes(wise, data_prop=with_values)
    except Exception:  # its exceptions share no base class but Exception
        return {}
    sizes = {}
    values = [
        value
        for graph in all_graphs(inferred.graph)
        for value in (*graph.value_info, *graph.output, *graph.input)
    ]
    for value in values:
        tensor = value.type.tensor_type
        shape = [max(dimension.dim_value, 1) for dimension in tensor.shape.dim]
        sizes[value.name] = (
            shape,
            math.prod(shape) * _ELEMENT_BYTES.get(tensor.elem_type, 4),
        )
    return sizes


def _known_values(model: Any, sizes: _Sizes) -> dict[str, Array]:
    """Values of a few numbers, as shapes are, that decide how large a tensor is made.

    Those that follow from constants and from known shapes.
    """
    import onnx
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    given = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if math.prod(tensor.dims) <= _MOST_NUMBERS
    }
    fixed = {
        value.name
        for value in model.graph.input
        if all(d.dim_value for d in value.type.tensor_type.shape.dim)
    }
    known: dict[str, Array] = {}
    deciding = _deciding(model)
    for node in model.graph.node:
        if deciding.isdisjoint(node.output):
            continue
        if node.op_type == "Shape" and node.input[0] in fixed and node.input[0] in sizes:
            known[node.output[0]] = np.array(sizes[node.input[0]][0], np.int64)
            continue
        feeds = {name: known.get(name, given.get(name)) for name in node.input if name}
        is_small = node.op_type in _OF_SIZES or node.op_type == "Constant"
        if not is_small or any(value is None for value in feeds.values()):
            continue
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
            for name, value in feeds.items()
            if value is not None
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
        graph = helper.make_graph([node], "one", inputs, outputs)
        part = helper.make_model(graph, opset_imports=model.opset_import)
        try:
            with np.errstate(all="ignore"):
                values = ReferenceEvaluator(part).run(None, feeds)
        except Exception:  # whoever runs the network says what is wrong with it
            continue
        for name, value in zip(node.output, values, strict=True):
            if np.size(value) <= _MOST_NUMBERS:
                known[name] = np.asarray(value)
    return known | {name: value for name, value in given.items() if value.size == 1}


def _deciding(model: Any) -> set[str]:
    """The tensors that those nodes depend on which make others larger, and loops."""
    wanted: set[str] = set()
    for node in reversed(model.graph.node):
        makes = node.op_type in _MAKERS or node.op_type == "Loop"
        if makes or (node.op_type in _OF_SIZES and not wanted.isdisjoint(node.output)):
            wanted.update(node.input)
    return wanted


def _range_size(node: Any, known: Mapping[str, Array]) -> tuple[list[int], int]:
    """Of a Range inference says nothing where its limits are computed, or beyond 32 bits."""
    if node.op_type != "Range":
        return _NOTHING
    limits = [known.get(name) for name in node.input]
    if len(limits) != 3 or any(limit is None or limit.size != 1 for limit in limits):
        return _NOTHING
    start, end, step = (float(limit.reshape(-1)[0]) for limit in limits if limit is not None)
    count = int(max((end - start) / step, 0)) if step and math.isfinite(end - start) else 0
    return [count], 8 * count


def _refuse_endless(node: Any, known: Mapping[str, Array], is_constant: bool, path: Path) -> None:
    if node.op_type != "Loop":
        return
    limit = known.get(node.input[0]) if node.input[0] else None
    rounds = int(limit.reshape(-1)[0]) if limit is not None and limit.size == 1 else None
    if rounds is not None and _MOST_ROUNDS < rounds < _WHILE:
        often = f"{rounds} times"
    elif is_constant and (rounds is None or rounds >= _WHILE):
        often = "on constants alone, without a limit"
    else:
        return
    raise ModelFileError(
        f"{path}: node {node.name or next(iter(node.output), '')!r} (Loop) runs {often}, which no "
        "pose or detection network does; export the model again"
    )
