"""Damage to ONNX files that knows their fields: types, sizes, links, constants without end."""

from __future__ import annotations

import random
from typing import Any

from tests.faults.mutations import mutated_bytes

__all__ = ["mutated_onnx"]

_SIZES = (0, -1, 1, 2, 3, 7, 100, 50_000, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1)
_TYPES = (0, 1, 2, 6, 7, 8, 9, 10, 11, 14, 16, 17, 22, 99, -5)
_OPERATORS = (
    "Relu",
    "Add",
    "Mul",
    "MatMul",
    "Conv",
    "Reshape",
    "Transpose",
    "Concat",
    "Split",
    "Expand",
    "Tile",
    "Range",
    "ConstantOfShape",
    "NonZero",
    "Loop",
    "If",
    "Scan",
    "Pad",
    "Resize",
    "TopK",
    "Gather",
    "Cast",
    "Identity",
    "RandomNormal",
    "EyeLike",
    "NonMaxSuppression",
    "QuantizeLinear",
    "Constant",
    "NoSuchThing",
    "",
)
_NAMES = ("", "input", "simcc_x", "w_x", "²", "a" * 3000, "\x1b[2J", "../x", "no such tensor")
_PAYLOADS = (b"", b"\x00", b"\xff" * 7, b"\x80" * 64, b"[" * 3000, b"{}", b'{"schema": 1e999}')


def mutated_onnx(data: bytes, rng: random.Random) -> bytes:
    """A damaged file; its fields in three of four, its bytes in the rest."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if rng.random() < 0.25:
        return mutated_bytes(data, rng)
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        change = rng.choice(_CHANGES)
        try:
            change(model, rng)
        except (ValueError, TypeError, IndexError, DecodeError):
            continue  # nothing of the kind is left to change, or protobuf itself refuses
    made: bytes = model.SerializeToString()
    return mutated_bytes(made, rng) if rng.random() < 0.02 else made


def _value_info(model: Any, rng: random.Random) -> Any:
    graph = model.graph
    return rng.choice([*graph.input, *graph.output, *graph.value_info])


def _shape(model: Any, rng: random.Random) -> None:
    dims = _value_info(model, rng).type.tensor_type.shape.dim
    match rng.randrange(4):
        case 0:
            rng.choice(dims).dim_value = rng.choice(_SIZES)
        case 1:
            rng.choice(dims).dim_param = rng.choice(_NAMES)
        case 2:
            del dims[rng.randrange(len(dims)) :]
        case _:
            dims.add().dim_value = rng.choice(_SIZES)


def _type(model: Any, rng: random.Random) -> None:
    value = _value_info(model, rng)
    if rng.random() < 0.2:
        value.type.Clear()
    elif rng.random() < 0.2:
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    else:
        value.type.tensor_type.elem_type = rng.choice(_TYPES)


def _constant(model: Any, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    match rng.randrange(8):
        case 0:
            tensor.data_type = rng.choice(_TYPES)
        case 1:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_SIZES)
        case 2:
            tensor.dims.append(rng.choice(_SIZES))
        case 3:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data))]
        case 4:
            tensor.raw_data = rng.choice(_PAYLOADS)
        case 5:
            tensor.raw_data = mutated_bytes(tensor.raw_data, rng)
        case 6:
            tensor.data_location = 1
            entry = tensor.external_data.add()
            entry.key, entry.value = (
                "location",
                rng.choice(("../../../etc/passwd", "none", "", "/dev/zero")),
            )
        case _:
            tensor.name = rng.choice(_NAMES)


def _node(model: Any, rng: random.Random) -> None:
    nodes = model.graph.node
    node = rng.choice(nodes)
    match rng.randrange(8):
        case 0:
            node.op_type = rng.choice(_OPERATORS)
        case 1:
            node.domain = rng.choice(("", "com.microsoft", "x" * 100, "ai.onnx.ml"))
        case 2:
            node.input[rng.randrange(len(node.input))] = rng.choice(_NAMES)
        case 3:
            node.input[rng.randrange(len(node.input))] = rng.choice(nodes).output[0]
        case 4:
            node.output[0] = rng.choice(_NAMES)
        case 5:
            nodes.remove(node)
        case 6:
            nodes.add().CopyFrom(node)
        case _:
            del node.input[:]


def _attribute(model: Any, rng: random.Random) -> None:
    node = rng.choice([node for node in model.graph.node if node.attribute])
    attribute = rng.choice(node.attribute)
    match rng.randrange(6):
        case 0:
            attribute.i = rng.choice(_SIZES)
        case 1:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_SIZES)
        case 2:
            attribute.ints.extend([rng.choice(_SIZES)] * rng.choice((1, 3, 100)))
        case 3:
            attribute.type = rng.randrange(15)
        case 4:
            attribute.name = rng.choice(("axis", "axes", "perm", "value", "x", ""))
        case _:
            node.attribute.remove(attribute)


def _giant(model: Any, rng: random.Random) -> None:
    """Something without end that follows from a few bytes, linked to what is there."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    sizes = [rng.choice((30_000, 50_000, 200_000)), rng.choice((10_000, 50_000, 2**33))]
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "start"))
    graph.initializer.append(numpy_helper.from_array(np.array(2**40, np.int64), "end"))
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "step"))
    graph.initializer.append(numpy_helper.from_array(np.ones((1, 1), np.float32), "one"))
    first = rng.choice(
        [
            helper.make_node("ConstantOfShape", ["sizes"], ["giant"]),
            helper.make_node("Range", ["start", "end", "step"], ["giant"]),
            helper.make_node("Expand", ["one", "sizes"], ["giant"]),
            helper.make_node("Tile", ["one", "sizes"], ["giant"]),
            helper.make_node("RandomNormal", [], ["giant"], shape=sizes),
        ]
    )
    nodes = [first, helper.make_node("ReduceMax", ["giant"], ["small"], keepdims=0)]
    target = rng.choice([node for node in graph.node if node.input])
    if rng.random() < 0.5:
        nodes.append(helper.make_node("Add", [target.input[0], "small"], ["added"]))
        target.input[0] = "added"
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *kept])


def _head(model: Any, rng: random.Random) -> None:
    match rng.randrange(7):
        case 0:
            model.ir_version = rng.choice((0, 1, 3, 7, 13, 99, -1, 2**40))
        case 1:
            model.opset_import[0].version = rng.choice(
                (0, 1, 6, 9, 11, 13, 18, 23, 26, 999, -1, 2**40)
            )
        case 2:
            del model.opset_import[:]
        case 3:
            entry = model.metadata_props.add()
            entry.key, entry.value = (
                "edgepose.spec",
                rng.choice(("{}", "[" * 5000, '{"mean": NaN}', "²")),
            )
        case 4:
            del model.graph.output[rng.randrange(len(model.graph.output)) :]
        case 5:
            model.graph.input.add().CopyFrom(rng.choice(model.graph.input))
        case _:
            function = model.functions.add()
            function.name, function.domain = "again", "local"
            node = function.node.add()
            node.op_type, node.domain = "again", "local"
            use = model.graph.node.add()
            use.op_type, use.domain = "again", "local"


def _graph_in_graph(model: Any, rng: random.Random) -> None:
    from onnx import helper

    inner = model.graph
    for _ in range(rng.choice((1, 3, 40))):
        node = helper.make_node("If", ["input"], ["out"])
        attribute = node.attribute.add()
        attribute.name, attribute.type = "then_branch", 5
        attribute.g.CopyFrom(helper.make_graph([], "inner", [], []))
        inner.node.append(node)
        inner = inner.node[-1].attribute[-1].g


_CHANGES = (
    _shape,
    _shape,
    _type,
    _constant,
    _constant,
    _node,
    _node,
    _attribute,
    _giant,
    _head,
    _graph_in_graph,
)
