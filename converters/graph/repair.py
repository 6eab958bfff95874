"""Putting a freshly read model into the one form that the rest of the kit works on.

Nothing here changes an answer: functions take the place of their calls, nodes stand behind what
they read, sizes that are no sizes are open ones, weights are weights and no inputs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from converters.graph.operators import opset_of, state_functions_as
from converters.graph.walk import all_graphs, reads, rename_reads, subgraphs
from edge.errors import ModelFileError, first_line

__all__ = ["plain_names", "put_right"]

# Functions may call functions: without a bound a small file becomes any number of nodes.
_MOST_NODES = 100_000
_MOST_SPARSE_ELEMENTS = 1 << 28
# Anything but visible ASCII.
_ODD = re.compile(r"[^!-~]+")


def put_right(model: Any, path: Path) -> Any:
    """The model without functions and sparse weights, in order, its open sizes open."""
    model = _inlined(model, path)
    for graph in all_graphs(model.graph):
        _dense(graph, path)
        _drop_twins(graph)
        _sort(graph, path)
    _drop_default_inputs(model)
    _drop_idle_inputs(model)
    _open_sizes(model)
    _plain_border(model)
    _tell_nodes_apart(model)
    return model


def _inlined(model: Any, path: Path) -> Any:
    import onnx.inliner

    if not model.functions:
        return model
    _refuse_many_calls(model, path)
    try:
        if state_functions_as(model, opset_of(model)):
            return onnx.inliner.inline_local_functions(model)
        # The conversion wants to know every type.
        model = onnx.shape_inference.infer_shapes(model)
        return onnx.inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # its exceptions share no base class but Exception
        raise ModelFileError(
            f"{path}: the functions in it cannot be put in place ({first_line(error)}); "
            "export the model without local functions"
        ) from None


def _refuse_many_calls(model: Any, path: Path) -> None:
    """Raise ModelFileError where functions call themselves or unfold to more than a network."""
    functions = {(one.domain, one.name): one for one in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    open_calls: set[tuple[str, str]] = set()

    def size(nodes: Any) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            inner = sum(size(graph.node) for graph in subgraphs(node))
            if key in open_calls:
                raise ModelFileError(
                    f"{path}: the function {node.op_type} in it calls itself; export the model "
                    "without local functions"
                )
            if key in functions and key not in sizes:
                open_calls.add(key)
                sizes[key] = size(functions[key].node)
                open_calls.remove(key)
            total += sizes.get(key, 1) + inner
        return total

    if size(model.graph.node) > _MOST_NODES:
        raise ModelFileError(
            f"{path}: its functions unfold to more than {_MOST_NODES} nodes, which no pose or "
            "detection network has; export the model without local functions"
        )


def _dense(graph: Any, path: Path) -> None:
    """Turn sparse weights into plain ones; no converter reads them."""
    from onnx import numpy_helper

    for sparse in graph.sparse_initializer:
        dims = tuple(sparse.dims)
        count = int(np.prod(dims, dtype=object)) if dims else 1
        if count > _MOST_SPARSE_ELEMENTS or any(size < 0 for size in dims):
            raise ModelFileError(
                f"{path}: the sparse weights {sparse.values.name!r} have {count} elements, more "
                "than any pose or detection network; export the model again"
            )
        values = numpy_helper.to_array(sparse.values)
        indices = numpy_helper.to_array(sparse.indices).astype(np.int64)
        flat = np.zeros(count, values.dtype)
        try:
            if indices.ndim == 2:
                indices = np.ravel_multi_index(tuple(indices.T), dims)
            flat[indices] = values
        except (ValueError, IndexError):
            raise ModelFileError(
                f"{path}: damaged ONNX: the places of the sparse weights {sparse.values.name!r} "
                "lie outside of them; export it again"
            ) from None
        name = sparse.values.name
        graph.initializer.append(numpy_helper.from_array(flat.reshape(dims), name))
    del graph.sparse_initializer[:]


def _drop_twins(graph: Any) -> None:
    """Drop nodes that stand in the graph twice, results included.

    onnxconverter-common's float16 conversion writes the Cast of a tensor once a reader.
    """
    known: set[bytes] = set()
    kept = []
    for node in graph.node:
        content = node.SerializeToString(deterministic=True)
        if content not in known:
            known.add(content)
            kept.append(node)
    if len(kept) < len(graph.node):
        _replace(graph.node, kept)


def _sort(graph: Any, path: Path) -> None:
    """Put every node behind those that it reads, in place; the order stays where it is right."""
    made_at = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = [
        sorted({made_at[name] for name in reads(node) if name in made_at}) for node in graph.node
    ]
    if all(need < index for index, wanted in enumerate(needs) for need in wanted):
        return
    order: list[int] = []
    state = [0] * len(needs)  # 0 not seen, 1 waits for what it reads, 2 placed
    for first in range(len(needs)):
        stack = [first]
        while stack:
            index = stack[-1]
            waiting = [need for need in needs[index] if state[need] != 2]
            if state[index] == 2:
                stack.pop()
            elif not waiting:
                state[index] = 2
                order.append(index)
                stack.pop()
            elif state[index] == 1:  # seen before, and still not all that it reads is placed
                raise ModelFileError(
                    f"{path}: damaged ONNX: node {graph.node[index].name!r} depends on its own "
                    "result; export it again"
                )
            else:
                state[index] = 1
                stack.extend(reversed(waiting))
    _replace(graph.node, [graph.node[index] for index in order])


def _drop_default_inputs(model: Any) -> None:
    """Weights that are listed as inputs (IR version 3 wants that) become weights alone."""
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    if len(kept) < len(model.graph.input):
        _replace(model.graph.input, kept)
    # Below 4 every weight must be an input, those that a conversion adds included.
    model.ir_version = max(model.ir_version, 4)


def _drop_idle_inputs(model: Any) -> None:
    """Inputs that nothing reads go, where others are left."""
    used = {value.name for value in model.graph.output}
    used = used.union(*(reads(node) for node in model.graph.node))
    kept = [value for value in model.graph.input if value.name in used]
    if kept and len(kept) < len(model.graph.input):
        _replace(model.graph.input, kept)


def _replace(field: Any, values: list[Any]) -> None:
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


def _open_sizes(model: Any) -> None:
    """Sizes of 0 and below are how some exporters write an open one."""
    graph = model.graph
    for value in (*graph.input, *graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.HasField("dim_value") and dimension.dim_value <= 0:
                dimension.Clear()
    doubtful = [
        value
        for value in graph.value_info
        if any(
            dimension.HasField("dim_value") and dimension.dim_value <= 0
            for dimension in value.type.tensor_type.shape.dim
        )
    ]
    if doubtful:
        names = {value.name for value in doubtful}
        _replace(graph.value_info, [v for v in graph.value_info if v.name not in names])


def _plain_border(model: Any) -> None:
    """Inputs and outputs get names that a spec can say: ASCII, without blanks."""
    _rename(model.graph, {value.name for value in (*model.graph.input, *model.graph.output)})


def plain_names(model: Any) -> None:
    """Every node and tensor gets a name that every format can hold: ASCII, without blanks."""
    graph = model.graph
    names = {name for node in graph.node for name in node.output}
    _rename(graph, names | {tensor.name for tensor in graph.initializer})
    for inner in all_graphs(graph):
        for node in inner.node:
            node.name = _ODD.sub("_", node.name)
    _tell_nodes_apart(model)


def _tell_nodes_apart(model: Any) -> None:
    """No two nodes of a graph share a name, which ONNX Runtime refuses; none at all is fine."""
    for graph in all_graphs(model.graph):
        taken = {node.name for node in graph.node}
        seen: set[str] = set()
        number = 1
        for node in graph.node:
            if node.name and node.name in seen:
                while f"{node.name}_{number}" in taken:
                    number += 1
                node.name = f"{node.name}_{number}"
                taken.add(node.name)
            seen.add(node.name)


def _rename(graph: Any, candidates: set[str]) -> None:
    odd = sorted(name for name in candidates if _ODD.search(name))
    if not odd:
        return
    taken = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    taken = taken.union(*(node.output for node in graph.node))
    names = {}
    for name in odd:
        plain = _ODD.sub("_", name)
        while plain in taken:
            plain += "_"
        taken.add(plain)
        names[name] = plain
    for node in graph.node:
        rename_reads(node, names)
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
