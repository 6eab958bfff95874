"""Preprocessing that stands in the graph: constant arithmetic between the input and the network.

It is told by what it does and not by how it is written: the nodes behind the input that compute
with constants alone, or move channels and axes, are run on a few pictures, and the last tensor in
which each channel is ``a * pixel + b`` of one input channel is what the network proper is given.
Any operators, in any order and form of constants, come out the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.graph.file import Graph
from converters.graph.run_once import run_once
from converters.graph.walk import reads
from edge.session import Array

__all__ = ["InputArithmetic", "Unexplained", "find_input_arithmetic"]

Three = tuple[float, float, float]

# Arithmetic that a normalisation is made of, where the other operands are constants.
_ARITHMETIC = {"Add", "BatchNormalization", "Div", "Mul", "Neg", "Pow", "Sub", "Sum"}
# The same as a layer: it counts where each output takes one channel (`_is_monomial`).
_LAYERS = {"Conv", "MatMul"}
# What moves, rounds or bounds values, and never is a normalisation by itself.
_MOVES = {
    *("Cast", "Clip", "Concat", "Dropout", "Expand", "Floor", "Gather", "Identity", "Max", "Min"),
    *("Pad", "Reshape", "Resize", "Round", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
}
_ASKS_FOR_SIZE = ("Shape", "Size")
# More nodes than any normalisation has: a network that begins with such operators.
_MOST_NODES = 64
# Half floats round a grey level of 255 by up to 0.06.
_TOLERANCE = 3e-3


@dataclass(frozen=True)
class InputArithmetic:
    """What the network proper sees: ``(x - mean) / std`` of the file's own input channels.

    ``mean`` and ``std`` are in the order of the input's channels and in the units of the input;
    ``swaps_channels`` tells that their order is reversed on the way. ``nodes`` names what does it.
    """

    nodes: str
    mean: Three
    std: Three
    swaps_channels: bool

    @property
    def scales(self) -> bool:
        """Whether values change, and not only places."""
        return not np.allclose((*self.mean, *self.std), (0, 0, 0, 1, 1, 1), atol=1e-5)


@dataclass(frozen=True)
class Unexplained:
    """Nodes that change the picture in a way that no mean and std of a channel describe.

    A picture that is subtracted, values that are cut off, a channel that is turned round.
    """

    nodes: str


def find_input_arithmetic(
    model: Any, path: Path, input_name: str, input_hw: tuple[int, int]
) -> InputArithmetic | Unexplained | None:
    """The preprocessing in a graph; None where there is none."""
    graph = Graph(model)
    prefix = _prefix(graph, input_name)
    if not any(node.op_type not in ("Cast", "Identity", "Dropout") for node in prefix):
        return None
    passes = _passes(graph, input_name, prefix)
    found = None
    # Grey levels, and, for graphs that bound their input, fractions.
    for scale in (255.0, 1.0):
        found = found or _last_affine(model, path, input_name, input_hw, passes, scale)
    explained = _needed(graph, [found[0]] if found else [], prefix)
    done = {id(node) for node in explained}
    rest = [node for node in prefix if node.op_type in _ARITHMETIC and id(node) not in done]
    if rest:
        return Unexplained(_names(rest))
    if found is None:
        return None
    told = InputArithmetic(_names(explained), *found[1:])
    return told if told.scales or told.swaps_channels else None


def _prefix(graph: Graph, input_name: str) -> list[Any]:
    """The nodes between the input and the first that is none of a preprocessing, in their order."""
    of_image, of_size = {input_name}, set[str]()
    inside = {input_name}
    prefix: list[Any] = []
    for node in graph.model.graph.node:
        read = reads(node)
        image_inputs = [name for name in read if name in of_image]
        if not image_inputs:
            if any(name in of_size for name in read):
                of_size.update(node.output)
            continue
        if node.op_type in _ASKS_FOR_SIZE:
            of_size.update(node.output)
            continue
        of_image.update(node.output)
        if (
            len(prefix) < _MOST_NODES
            and inside.issuperset(image_inputs)
            and _may_preprocess(graph, node, image_inputs)
        ):
            inside.update(node.output)
            prefix.append(node)
    return prefix


def _may_preprocess(graph: Graph, node: Any, image_inputs: Sequence[str]) -> bool:
    if node.op_type in _MOVES:
        return True
    if len(image_inputs) != 1:
        return False
    if node.op_type in _LAYERS:
        weight = graph.constant(node.input[1])
        return weight is not None and _is_monomial(node.op_type, weight)
    return node.op_type in _ARITHMETIC


def _is_monomial(op_type: str, weight: Array) -> bool:
    """Whether each of three outputs takes a single channel of a single pixel."""
    if op_type == "MatMul":
        return weight.shape == (3, 3) and bool((np.count_nonzero(weight, axis=0) == 1).all())
    if weight.ndim != 4 or weight.shape[0] != 3 or weight.shape[2:] != (1, 1):
        return False
    return bool((np.count_nonzero(weight.reshape(3, -1), axis=1) == 1).all())


def _passes(graph: Graph, input_name: str, prefix: Sequence[Any]) -> list[str]:
    """The tensors of the prefix that everything behind them comes through, in their order."""
    passes = []
    for node in prefix:
        if len(node.output) != 1:
            continue
        before = _needed(graph, node.output, prefix)
        names = [input_name, *(name for one in before if one is not node for name in one.output)]
        users = [user for name in names for user in graph.consumers.get(name, [])]
        if all(
            user.op_type in _ASKS_FOR_SIZE or any(user is one for one in before) for user in users
        ):
            passes.append(node.output[0])
    return passes


def _needed(graph: Graph, names: Iterable[str], prefix: Sequence[Any]) -> list[Any]:
    needed = {id(node) for node in graph.needed_by(names)}
    return [node for node in prefix if id(node) in needed]


def _last_affine(
    model: Any,
    path: Path,
    input_name: str,
    input_hw: tuple[int, int],
    passes: Sequence[str],
    scale: float,
) -> tuple[str, Three, Three, bool] | None:
    """The last of these tensors that is ``(x - mean) / std`` a channel: name, mean, std, swap."""
    if not passes:
        return None
    rng = np.random.default_rng(8)
    shape = (1, 3, *input_hw)
    # Whole grey levels pass through integers unchanged.
    images = [np.zeros(shape, np.float32)] + [
        rng.integers(0, 256, shape).astype(np.float32) * np.float32(scale / 255) for _ in range(2)
    ]
    values = [run_once(model, path, {input_name: image}, passes) for image in images]
    for name in reversed(passes):
        told = _affine([value[name] for value in values], images)
        if told is not None:
            return name, *told
    return None


def _affine(values: Sequence[Array], images: Sequence[Array]) -> tuple[Three, Three, bool] | None:
    rows, columns = images[0].shape[2:]
    planes = []
    for value in values:
        if value.size != 3 * rows * columns or value.ndim < 3:
            return None
        sizes = list(value.shape[-3:])
        plane: Array = value.reshape(sizes).astype(np.float64)
        if sizes == [rows, columns, 3]:
            plane = plane.transpose(2, 0, 1)
        elif sizes != [3, rows, columns]:
            return None
        planes.append(plane)
    means, stds, places = [0.0] * 3, [1.0] * 3, []
    for channel in range(3):
        told = _one_channel([plane[channel] for plane in planes], images)
        if told is None:
            return None
        place, factor, offset = told
        means[place], stds[place] = -offset / factor, 1 / factor
        places.append(place)
    if places not in ([0, 1, 2], [2, 1, 0]):
        return None
    mean_0, mean_1, mean_2 = means
    std_0, std_1, std_2 = stds
    return (mean_0, mean_1, mean_2), (std_0, std_1, std_2), places == [2, 1, 0]


def _one_channel(
    values: Sequence[Array], images: Sequence[Array]
) -> tuple[int, float, float] | None:
    """Which input channel an output follows, and its factor (positive) and offset."""
    black, *lit = values
    offset = float(black.mean())
    for place in range(3):
        pixels = images[1][0, place].astype(np.float64)
        factor = float(((lit[0] - offset) * pixels).sum() / (pixels**2).sum())
        limit = _TOLERANCE * (abs(factor) * float(pixels.max()) + abs(offset))
        wanted = [factor * image[0, place] + offset for image in images]
        if factor > 0 and all(
            float(np.abs(want - got).max()) <= limit
            for want, got in zip(wanted, values, strict=True)
        ):
            return place, factor, offset
    return None


def _names(nodes: Sequence[Any]) -> str:
    """What nodes are called, those that compute before those that move."""
    computing = [node for node in nodes if node.op_type in _ARITHMETIC | _LAYERS] or list(nodes)
    names = [f"{node.op_type} {node.name or node.output[0]!r}" for node in computing]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
