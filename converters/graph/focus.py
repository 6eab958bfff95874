"""Space to depth before a convolution, as one convolution: exact, and every format has it.

YOLOX and YOLOv5 begin with a "Focus": the four pictures of every second row and column, one behind
the other as channels, and a convolution of them. ncnn has no slices with a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from converters.graph.file import Graph, drop_unused
from edge.session import Array

__all__ = ["fold_focus"]

Shapes = Mapping[str, tuple[int | None, ...]]


class _Blocks(NamedTuple):
    """A tensor whose channel k is channel i of ``source`` at every s-th row and column.

    ``steps`` are s of rows and columns, ``channels[k]`` is (i, first row, first column).
    """

    source: str
    steps: tuple[int, int]
    channels: list[tuple[int, int, int]]


def fold_focus(model: Any) -> int:
    """Make one convolution of every space to depth with its convolution; how many there were.

    In place. With the steps (s, t) and channel k of ``i, r, c`` a convolution with the weights W
    is one of the source, s and t times its strides and padding, and with the weights
    ``W'[o, i, s a + r, t b + c] = W[o, k, a, b]``: the same products, added in another order. Known
    are slices in any order, of one axis each or of both, SpaceToDepth, and the reshaping of
    PixelUnshuffle.
    """
    from onnx import numpy_helper

    graph, shapes = Graph(model), _shapes(model)
    count = 0
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        blocks, weight = _blocks(graph, shapes, node.input[0]), graph.constant(node.input[1])
        if blocks is None or weight is None or _attribute(node, "group", 1) != 1:
            continue
        if str(_attribute(node, "auto_pad", b"NOTSET"), "ascii") not in ("NOTSET", "VALID"):
            continue
        folded = _folded(weight, blocks, _attribute(node, "dilations", (1, 1)))
        name = f"{node.output[0]}.focus"
        model.graph.initializer.append(numpy_helper.from_array(folded, name))
        _become(node, blocks, folded, name)
        count += 1
    if count:
        drop_unused(model)
    return count


def _blocks(graph: Graph, shapes: Shapes, name: str) -> _Blocks | None:
    node = graph.producer.get(name)
    known = {"Concat": _joined, "SpaceToDepth": _space_to_depth, "Reshape": _unshuffled}
    if node is None or node.op_type not in known:
        return None
    blocks = known[node.op_type](graph, shapes, node)
    if blocks is None or max(blocks.steps) < 2:
        return None
    size = shapes.get(blocks.source, ())[2:]
    # A size that the steps do not divide leaves blocks of unlike sizes.
    fits = len(size) == 2 and all(
        n is not None and n % step == 0 for n, step in zip(size, blocks.steps, strict=True)
    )
    return blocks if fits else None


def _joined(graph: Graph, shapes: Shapes, node: Any) -> _Blocks | None:
    """Slices of one tensor, put one behind the other as channels."""
    if _attribute(node, "axis", 0) not in (1, -3):
        return None
    parts = [_sliced(graph, shapes, name) for name in node.input]
    sources = {part and (part.source, part.steps) for part in parts}
    if len(sources) != 1 or parts[0] is None:
        return None
    channels = list(itertools.chain.from_iterable(part.channels for part in parts if part))
    return _Blocks(parts[0].source, parts[0].steps, channels)


def _sliced(graph: Graph, shapes: Shapes, name: str) -> _Blocks | None:
    """Every s-th row and column of a tensor, by slices of one axis each or of both."""
    first, steps = [0, 0], [1, 1]
    while (node := graph.producer.get(name)) is not None and node.op_type == "Slice":
        found = _slice(graph, shapes, node)
        if found is None:
            return None
        for axis, (start, step) in found.items():
            # From the last slice to the first: what follows counts in steps of this one.
            first[axis], steps[axis] = start + step * first[axis], step * steps[axis]
        name = node.input[0]
    shape = shapes.get(name, ())
    if len(shape) != 4 or shape[1] is None or first[0] >= steps[0] or first[1] >= steps[1]:
        return None
    channels = [(channel, first[0], first[1]) for channel in range(shape[1])]
    return _Blocks(name, (steps[0], steps[1]), channels)


def _slice(graph: Graph, shapes: Shapes, node: Any) -> dict[int, tuple[int, int]] | None:
    """Of rows (0) and columns (1) the start and step of a Slice to the end; None for any other."""
    if len(node.input) < 3:  # attributes, which have no steps
        return None
    values = [graph.constant(name) if name else None for name in node.input[1:]]
    if any(value is None and name for value, name in zip(values, node.input[1:], strict=True)):
        return None
    rows = [None if value is None else value.reshape(-1).tolist() for value in values]
    starts, ends, axes, steps = (*rows, None, None)[:4]
    shape = shapes.get(node.input[0], ())
    if starts is None or ends is None or len(shape) != 4:
        return None
    found = {}
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = axes[place] % 4 if axes else place, steps[place] if steps else 1
        size = shape[axis]
        if (start, step) == (0, 1) and size is not None and end >= size:
            continue
        if axis < 2 or size is None or start < 0 or step < 1 or end < size:
            return None
        found[axis - 2] = (start, step)
    return found


def _space_to_depth(_: Graph, shapes: Shapes, node: Any) -> _Blocks | None:
    size, shape = _attribute(node, "blocksize", 0), shapes.get(node.input[0], ())
    if len(shape) != 4 or shape[1] is None:
        return None
    order = itertools.product(range(size), range(size), range(shape[1]))
    return _Blocks(node.input[0], (size, size), [(i, r, c) for r, c, i in order])


def _unshuffled(graph: Graph, shapes: Shapes, node: Any) -> _Blocks | None:
    """(N, C, h, s, w, t) turned to (N, ..., h, w), the three others in any order."""
    turn = graph.producer.get(node.input[0])
    if turn is None or turn.op_type != "Transpose":
        return None
    split = graph.producer.get(turn.input[0])
    order = list(_attribute(turn, "perm", ()))
    if split is None or split.op_type != "Reshape" or sorted(order) != list(range(6)):
        return None
    source, inner = split.input[0], shapes.get(turn.input[0], ())
    outer, shape, joined = shapes.get(source, ()), order[1:4], shapes.get(node.output[0], ())
    if (order[0], order[4], order[5]) != (0, 2, 4) or len(inner) != 6 or len(outer) != 4:
        return None
    sizes = [inner[1], inner[3], inner[5]]
    fits = (
        None not in sizes
        and outer[1:] == (inner[1], _product(inner[2:4]), _product(inner[4:6]))
        and joined[1:] == (_product(sizes), inner[2], inner[4])
    )
    if not fits:
        return None
    counts = {axis: range(inner[axis] or 0) for axis in (1, 3, 5)}
    channels = [
        tuple(dict(zip(shape, index, strict=True))[axis] for axis in (1, 3, 5))
        for index in itertools.product(*(counts[axis] for axis in shape))
    ]
    return _Blocks(source, (len(counts[3]), len(counts[5])), [(i, r, c) for i, r, c in channels])


def _product(sizes: Any) -> int | None:
    return None if None in sizes else int(np.prod(sizes))


def _folded(weight: Array, blocks: _Blocks, dilations: tuple[int, int]) -> Array:
    (rows, columns), (down, right) = blocks.steps, dilations
    outputs, _, height, width = weight.shape
    inputs = 1 + max(channel for channel, _, _ in blocks.channels)
    size = (rows * (down * (height - 1) + 1), columns * (right * (width - 1) + 1))
    folded = np.zeros((outputs, inputs, *size), weight.dtype)
    for place, (channel, row, column) in enumerate(blocks.channels):
        folded[:, channel, row :: rows * down, column :: columns * right] += weight[:, place]
    return folded


def _become(node: Any, blocks: _Blocks, folded: Array, name: str) -> None:
    """Turn the convolution of blocks into that of their source, in place."""
    from onnx import helper

    rows, columns = blocks.steps
    strides, pads = _attribute(node, "strides", (1, 1)), _attribute(node, "pads", (0, 0, 0, 0))
    values = {
        "kernel_shape": list(folded.shape[2:]),
        "strides": [strides[0] * rows, strides[1] * columns],
        "pads": [pad * step for pad, step in zip(pads, (rows, columns) * 2, strict=True)],
        "group": 1,
        "dilations": [1, 1],
    }
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(key, value) for key, value in values.items())
    node.input[0], node.input[1] = blocks.source, name


def _attribute(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    found = (helper.get_attribute_value(a) for a in node.attribute if a.name == name)
    return next(found, default)


def _shapes(model: Any) -> dict[str, tuple[int | None, ...]]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(
            d.dim_value if d.HasField("dim_value") else None
            for d in value.type.tensor_type.shape.dim
        )
        for value in [*graph.value_info, *graph.input, *graph.output]
    }
