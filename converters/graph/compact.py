"""A small ONNX file: the names and shapes that nobody needs weigh as much as weights."""

from __future__ import annotations

from typing import Any

from converters.graph.walk import reads, rename_reads

__all__ = ["compact"]

_CONVERSIONS = ("Cast", "DequantizeLinear", "QuantizeLinear")


def compact(model: Any) -> None:
    """Shorten, in place, what a file of a megabyte of weights has no room for.

    Tensors inside get short names, equal constants become one, shapes inside, metadata and the
    names of conversions between types go; inputs, outputs and the other nodes keep their names.
    """
    from onnx import numpy_helper

    graph = model.graph
    names = {value.name: value.name for value in [*graph.input, *graph.output]}
    names[""] = ""  # an optional input left out
    used = {name for node in graph.node for name in reads(node)}
    known: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    constants = []
    for tensor in graph.initializer:
        if tensor.name in used:
            content = numpy_helper.to_array(tensor).tobytes()
            key = (tensor.data_type, tuple(tensor.dims), content)
            if key not in known:
                known[key] = f"c{len(known)}"
                constants.append(numpy_helper.from_array(numpy_helper.to_array(tensor), known[key]))
            names[tensor.name] = known[key]
    del graph.value_info[:], graph.initializer[:], model.metadata_props[:]
    graph.initializer.extend(constants)
    for node in graph.node:
        captured = sorted(reads(node).difference(node.input))
        for name in (*node.input, *captured, *node.output):
            names.setdefault(name, f"t{len(names)}")
        rename_reads(node, names)
        for index, name in enumerate(node.output):
            node.output[index] = names[name]
        if node.op_type in _CONVERSIONS:
            node.name = ""
