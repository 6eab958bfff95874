"""A network in the opset that every route is proven with: 17, where that means the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from converters.graph.file import Graph
from converters.graph.operators import STANDARD_DOMAINS, opset_of
from converters.graph.walk import subgraphs

__all__ = ["PROVEN_OPSET", "to_proven_opset"]

PROVEN_OPSET = 17
# Clip and others take their limits as inputs from here on, which the kit's own nodes rely on.
_LEAST_OPSET = 11

# Attributes of later versions, and the values at which an earlier version does the same.
_DEFAULTS: dict[str, dict[str, Sequence[Any]]] = {
    "Cast": {"saturate": (1,), "round_mode": ("up",)},
    "CastLike": {"saturate": (1,), "round_mode": ("up",)},
    "AveragePool": {"dilations": ([1], [1, 1], [1, 1, 1])},
    "Resize": {"antialias": (0,), "keep_aspect_ratio_policy": ("stretch",)},
    "Reshape": {},
}
_MODES = {"GridSample": {"linear": "bilinear", "cubic": "bicubic"}}


def to_proven_opset(model: Any) -> Any:
    """The model in opset 17, or as it is where an operator of it has no counterpart there.

    From opset 18 on reductions take their axes as an input, which pnnx and onnx2tf read only in
    part (pnnx 20261020, onnx2tf 2.x); torch's exporter writes 18 and later by itself. Below 11
    the limits of Clip are attributes, and the kit's own nodes would not be valid.
    """
    import onnx

    opset = opset_of(model)
    if opset < _LEAST_OPSET:
        return _raised(onnx, model)
    if opset <= PROVEN_OPSET:
        return model
    model = _without_new_functions(onnx, model)
    older = type(model)()
    older.CopyFrom(model)
    if not _restate(onnx, older.graph, Graph(older)):
        return model
    for one in older.opset_import:
        if one.domain in STANDARD_DOMAINS:
            one.version = PROVEN_OPSET
    return older


def _raised(onnx: Any, model: Any) -> Any:
    try:
        raised = onnx.version_converter.convert_version(model, _LEAST_OPSET)
    except Exception:  # an operator without a way up; the routes say what they cannot read
        return model
    return raised


def _without_new_functions(onnx: Any, model: Any) -> Any:
    """Operators that opset 17 lacks and ONNX defines by others (Gelu, Mish) as these others."""
    names = {
        node.op_type
        for node in model.graph.node
        if node.domain in STANDARD_DOMAINS and _schema(onnx, node.op_type, PROVEN_OPSET) is None
    }
    if not names:
        return model
    try:
        return onnx.inliner.inline_selected_functions(
            model, [("", name) for name in names], inline_schema_functions=True
        )
    except Exception:  # one that no others define
        return model


def _schema(onnx: Any, name: str, opset: int) -> Any:
    try:
        schema = onnx.defs.get_schema(name, opset, "")
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def _restate(onnx: Any, graph: Any, view: Graph) -> bool:
    """Write a graph's nodes, in place, as opset 17 has them; False where one cannot be."""
    for index, node in enumerate(list(graph.node)):
        if not all(_restate(onnx, inner, view) for inner in subgraphs(node)):
            return False
        if node.domain not in STANDARD_DOMAINS:
            continue
        schema = _schema(onnx, node.op_type, PROVEN_OPSET)
        if schema is None:
            return False
        step = _STEPS.get(node.op_type)
        if step is None and node.op_type.startswith("Reduce") and node.op_type != "ReduceSum":
            step = _reduction
        if step is not None and not step(node, view, graph, index):
            return False
        if not _drop_defaults(node, schema.attributes):
            return False
        if len(node.input) > schema.max_input:
            return False
    return True


def _drop_defaults(node: Any, known: Any) -> bool:
    from onnx import helper

    allowed = _DEFAULTS.get(node.op_type, {})
    for attribute in list(node.attribute):
        value = helper.get_attribute_value(attribute)
        value = value.decode() if isinstance(value, bytes) else value
        if attribute.name in allowed and value in allowed[attribute.name]:
            node.attribute.remove(attribute)
        elif attribute.name not in known:
            return False
        elif isinstance(value, str) and value in _MODES.get(node.op_type, {}):
            attribute.s = _MODES[node.op_type][value].encode()
    return True


def _reduction(node: Any, view: Graph, _graph: Any, _index: int) -> bool:
    """Axes as an attribute; none at all means every axis, or, where it says so, none."""
    from onnx import helper

    noop = next((a for a in node.attribute if a.name == "noop_with_empty_axes"), None)
    if len(node.input) > 1 and node.input[1]:
        axes = view.constant(node.input[1])
        if axes is None or axes.size == 0:
            return False
        node.attribute.append(helper.make_attribute("axes", axes.reshape(-1).tolist()))
    elif noop is not None and noop.i:
        return False
    del node.input[1:]
    if noop is not None:
        node.attribute.remove(noop)
    return True


def _split(node: Any, _view: Graph, graph: Any, _index: int) -> bool:
    """Without sizes opset 17 splits evenly, into as many pieces as there are outputs."""
    pieces = next((a for a in node.attribute if a.name == "num_outputs"), None)
    if pieces is None:
        return True
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    size = _size_along(graph, node.input[0], axis)
    # Where it does not divide, later versions make the last piece smaller.
    if pieces.i != len(node.output) or size is None or size % pieces.i:
        return False
    node.attribute.remove(pieces)
    return True


def _size_along(graph: Any, name: str, axis: int) -> int | None:
    for value in (*graph.value_info, *graph.input):
        dims = value.type.tensor_type.shape.dim
        if value.name == name and -len(dims) <= axis < len(dims):
            return dims[axis].dim_value or None
    return None


def _pad(node: Any, view: Graph, graph: Any, index: int) -> bool:
    """Pads of some axes as pads of all."""
    from onnx import numpy_helper

    mode = next((a.s for a in node.attribute if a.name == "mode"), b"constant")
    if mode == b"wrap":
        return False
    if len(node.input) < 4 or not node.input[3]:
        del node.input[3:]
        return True
    pads, axes = view.constant(node.input[1]), view.constant(node.input[3])
    rank = _rank(graph, node.input[0])
    if pads is None or axes is None or rank is None:
        return False
    both = pads.reshape(2, -1)
    whole = np.zeros((2, rank), np.int64)
    whole[:, axes.reshape(-1) % rank] = both
    name = f"{node.output[0]}.pads_{index}"
    graph.initializer.append(numpy_helper.from_array(whole.reshape(-1), name))
    node.input[1] = name
    del node.input[3:]
    return True


def _rank(graph: Any, name: str) -> int | None:
    for value in (*graph.value_info, *graph.input):
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    return None


def _resize(node: Any, _view: Graph, _graph: Any, _index: int) -> bool:
    names = {a.name: a for a in node.attribute}
    transformation = names.get("coordinate_transformation_mode")
    if "axes" in names or (transformation and transformation.s == b"half_pixel_symmetric"):
        return False
    antialias = names.get("antialias")
    return antialias is None or antialias.i == 0


_STEPS: dict[str, Callable[[Any, Graph, Any, int], bool]] = {
    "Pad": _pad,
    "Resize": _resize,
    "Split": _split,
}
