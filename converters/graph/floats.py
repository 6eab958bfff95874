"""Networks in halves or doubles as networks in float32, the type that every route starts from."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.graph.walk import all_graphs, all_nodes, all_tensors, reads

__all__ = ["as_float32"]

# Attributes that hold a type of numbers as a number.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")


def as_float32(model: Any) -> None:
    """Let a network that computes in float16, bfloat16 or float64 compute in float32, in place.

    Its weights keep their values, which float32 holds (a double's are rounded). Weights that are
    merely stored as halves behind a Cast stay so, as do doubles in a network whose input is
    float32: engines run both as they are.
    """
    from onnx import TensorProto

    graph = model.graph
    borders = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    kinds = {TensorProto.FLOAT16, TensorProto.BFLOAT16} if _computes_in_halves(model) else set()
    kinds |= borders & {TensorProto.DOUBLE}
    if not kinds:
        return
    for tensor in all_tensors(model):
        if tensor.data_type in kinds:
            _widen(tensor)
    for inner in all_graphs(graph):
        for value in (*inner.input, *inner.output, *inner.value_info):
            if value.type.tensor_type.elem_type in kinds:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in kinds:
                attribute.i = TensorProto.FLOAT


def _computes_in_halves(model: Any) -> bool:
    """Whether halves meet anything but a Cast to another type."""
    from onnx import TensorProto

    halves = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    graph = model.graph
    if any(value.type.tensor_type.elem_type in halves for value in (*graph.input, *graph.output)):
        return True
    stored: set[str] = set()
    for inner in all_graphs(graph):
        stored.update(tensor.name for tensor in inner.initializer if tensor.data_type in halves)
    for node in all_nodes(model):
        values = [a.t for a in node.attribute if a.HasField("t") and a.t.data_type in halves]
        if values and node.op_type == "Constant":
            stored.update(node.output)
        elif values:
            return True
        types = [a.i for a in node.attribute if a.name in _TYPE_ATTRIBUTES]
        if any(kind in halves for kind in types):
            return True
    return any(
        node.op_type not in ("Cast", "Identity") and not stored.isdisjoint(reads(node))
        for node in all_nodes(model)
    )


def _widen(tensor: Any) -> None:
    from onnx import numpy_helper

    # bfloat16 and float16 fit into float32; a double beyond it becomes infinite, as in any cast.
    with np.errstate(over="ignore"):
        value = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
