"""Walking an ONNX model with all that is nested in it: subgraphs of If and Loop, and functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = [
    "all_graphs",
    "all_names",
    "all_nodes",
    "all_tensors",
    "every_graph",
    "reads",
    "rename_reads",
    "subgraphs",
]


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs that a node holds as attributes: the branches of an If, the body of a Loop."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: Any) -> Iterator[Any]:
    """A graph and every graph inside, outer ones first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def every_graph(model: Any) -> Iterator[Any]:
    """Every graph of a model: the main one, subgraphs, and those inside the file's functions."""
    yield from all_graphs(model.graph)
    for function in model.functions:
        for node in function.node:
            for inner in subgraphs(node):
                yield from all_graphs(inner)


def all_nodes(model: Any) -> Iterator[Any]:
    """Every node of a model: those of subgraphs and of the file's own functions as well."""
    for graph in every_graph(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def all_tensors(model: Any) -> Iterator[Any]:
    """Every stored tensor of a model: weights, the parts of sparse ones, values of attributes."""
    for graph in every_graph(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)


def all_names(model: Any) -> Iterator[Any]:
    """Everything that is called something: operators, domains, tensors, inputs and outputs."""
    for node in all_nodes(model):
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for graph in every_graph(model):
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    yield from (tensor.name for tensor in all_tensors(model))
    for one in (*model.opset_import, *(o for f in model.functions for o in f.opset_import)):
        yield one.domain
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)


def reads(node: Any) -> set[str]:
    """The tensors that a node needs: its inputs, and what its subgraphs take from outside."""
    names = set(node.input)
    for graph in subgraphs(node):
        names |= _free_names(graph)
    return names - {""}


def _free_names(graph: Any) -> set[str]:
    own = {value.name for value in (*graph.input, *graph.initializer)}
    own |= {sparse.values.name for sparse in graph.sparse_initializer}
    own.update(name for node in graph.node for name in node.output)
    used = {value.name for value in graph.output}
    for node in graph.node:
        used |= reads(node)
    return used - own


def rename_reads(node: Any, names: dict[str, str]) -> None:
    """Let a node, and its subgraphs, read other tensors."""
    for index, name in enumerate(node.input):
        if name in names:
            node.input[index] = names[name]
    for graph in subgraphs(node):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        own.update(name for inner in graph.node for name in inner.output)
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in graph.node:
            rename_reads(inner, outer)
        for value in graph.output:
            value.name = outer.get(value.name, value.name)
