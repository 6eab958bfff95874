"""A network's layers in groups under names that a person understands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from converters.graph.file import Graph

__all__ = ["fragile_parts", "network_parts", "node_name"]

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_LAYERS = (*_CONVOLUTIONS, "MatMul", "Gemm")
# What normalises by its own input: quantised, its small values are what is lost.
_NORMALISES = (
    "Div",
    "InstanceNormalization",
    "LayerNormalization",
    "ReduceL2",
    "ReduceMean",
    "ReduceSum",
    "Softmax",
)
_ACTIVATIONS = (
    "BatchNormalization",
    "Clip",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Mul",  # of SiLU
    "Relu",
    "Sigmoid",
    "Tanh",
)
# A module with more layers than both of these is split into what it consists of.
_LARGEST_SHARE, _LARGEST_COUNT = 0.2, 12
_SEGMENT_SHARE = 0.1


def node_name(node: Any) -> str:
    """How a node is called here: by its name, or its first output's where it has none."""
    return str(node.name or node.output[0])


def network_parts(model: Any) -> dict[str, list[str]]:
    """The names of an ONNX model's nodes by part; parts and nodes in the order of computation.

    Every node is in exactly one part. Where nodes carry the path of their module
    (``/backbone/stage1/stage1.0/conv/Conv``) a part is a module (``backbone.stage1``): the
    outermost one that has at most 12 or a fifth of all layers. Otherwise the last layer before an
    output is a part under the output's name, the layers that this output alone needs are
    ``<output>.tower`` and the rest is cut into consecutive segments, ``<first>..<last layer>``.
    Nodes outside of any such group (shape arithmetic, a concatenation between two modules) join
    the part that they feed, activations the layer that they follow.
    """
    graph = Graph(model)
    nodes = list(model.graph.node)
    layers = [node for node in nodes if node.op_type in _LAYERS]
    named = [node for node in layers if _module_path(node)]
    own = _modules(nodes) if 2 * len(named) > len(layers) else _segments(graph, nodes)
    part_of = _with_neighbours(graph, nodes, own)
    parts: dict[str, list[str]] = {}
    for node in nodes:
        parts.setdefault(part_of[node_name(node)], []).append(node_name(node))
    return parts


def fragile_parts(model: Any, parts: Mapping[str, Sequence[str]]) -> list[str]:
    """The parts that lose most by int8, in the order of ``parts``.

    Those with a layer that is no convolution or a normalisation by the input's own size, and those
    with the last layer before an output.
    """
    graph = Graph(model)
    fragile = {
        node_name(node)
        for node in model.graph.node
        if node.op_type in _NORMALISES
        or (node.op_type in _LAYERS and node.op_type not in _CONVOLUTIONS)
    }
    for output in model.graph.output:
        fragile.update(node_name(node) for node in _last_layers(graph, output.name))
    return [part for part, names in parts.items() if not fragile.isdisjoint(names)]


def _module_path(node: Any) -> tuple[str, ...]:
    """``/backbone/stage1/stage1.0/conv/Conv`` -> backbone, stage1, 0, conv; () for other names."""
    if not node.name.startswith("/"):
        return ()
    path: list[str] = []
    prefix = ""
    for step in node.name.strip("/").split("/")[:-1]:
        # The members of a sequence repeat its name: stage1/stage1.0.
        path.append(step.removeprefix(f"{prefix}.") if prefix else step)
        prefix = step
    return tuple(path)


def _modules(nodes: Sequence[Any]) -> dict[str, str]:
    """Node name -> part, of the nodes that lie in a module small enough, and of all layers."""
    counts: Counter[tuple[str, ...]] = Counter()
    for node in nodes:
        if node.op_type in _LAYERS:
            path = _module_path(node)
            counts.update(path[:depth] for depth in range(len(path) + 1))
    most = max(_LARGEST_COUNT, _LARGEST_SHARE * counts[()])
    part_of = {}
    for node in nodes:
        path = _module_path(node)
        small = [path[:depth] for depth in range(1, len(path) + 1) if counts[path[:depth]] <= most]
        if small and counts[small[0]]:
            part_of[node_name(node)] = ".".join(small[0])
        elif path and node.op_type in _LAYERS:
            part_of[node_name(node)] = ".".join(path)
    return part_of


def _segments(graph: Graph, nodes: Sequence[Any]) -> dict[str, str]:
    """Node name -> part, of a network whose names say nothing."""
    layers = [node for node in nodes if node.op_type in _LAYERS]
    outputs = [value.name for value in graph.model.graph.output]
    needed = {output: {node_name(n) for n in graph.needed_by([output])} for output in outputs}
    part_of: dict[str, str] = {}
    for output in outputs:
        for node in _last_layers(graph, output):
            part_of.setdefault(node_name(node), output)
        others = set().union(*(needed[other] for other in outputs if other != output))
        tower = [
            node_name(node)
            for node in layers
            if node_name(node) in needed[output] - others and node_name(node) not in part_of
        ]
        if len(tower) <= _LARGEST_SHARE * len(layers):
            part_of.update(dict.fromkeys(tower, f"{output}.tower"))
    trunk = [node_name(node) for node in layers if node_name(node) not in part_of]
    size = max(1, round(_SEGMENT_SHARE * len(layers)))
    for start in range(0, len(trunk), size):
        run = trunk[start : start + size]
        part_of.update(dict.fromkeys(run, run[0] if len(run) == 1 else f"{run[0]}..{run[-1]}"))
    return part_of


def _last_layers(graph: Graph, output: str) -> list[Any]:
    """The layers that an output comes from with no other layer between."""
    found = []
    stack, seen = [output], set()
    while stack:
        name = stack.pop()
        node = graph.producer.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type in _LAYERS:
            found.append(node)
        else:
            stack.extend(node.input)
    return found


def _with_neighbours(
    graph: Graph, nodes: Sequence[Any], part_of: Mapping[str, str]
) -> dict[str, str]:
    """Give every node a part: its own, that of what it feeds, or that of what feeds it."""
    everywhere = dict(part_of)
    for node in nodes:
        if node.op_type in _ACTIVATIONS and node_name(node) not in everywhere:
            sources = [graph.producer[name] for name in node.input if name in graph.producer]
            found = {everywhere.get(node_name(source)) for source in sources}
            part = found.pop() if len(found) == 1 else None
            if part is not None:
                everywhere[node_name(node)] = part

    def join(node: Any, neighbours: Iterable[Any]) -> None:
        for neighbour in neighbours:
            part = everywhere.get(node_name(neighbour))
            if part is not None:
                everywhere.setdefault(node_name(node), part)

    for node in reversed(nodes):
        join(node, (user for name in node.output for user in graph.consumers.get(name, ())))
    for node in nodes:
        join(node, (graph.producer[name] for name in node.input if name in graph.producer))
    for node in nodes:
        everywhere.setdefault(node_name(node), "network")
    return everywhere
