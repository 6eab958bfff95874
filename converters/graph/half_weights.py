"""Weights that half floats cannot hold, brought into their range by powers of two.

FP16 ends at 65504 and is exact to 11 bits from 2^-14 on; writers of files make zeros of what lies
below (pnnx), or the least number that there is (ONNX Runtime).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from converters.graph.file import Graph
from edge.session import Array

__all__ = ["FP16_LEAST", "lost_share", "scale_for_half"]

FP16_LEAST = 2.0**-14
"""The least number that is no subnormal one."""
_LARGEST = 2.0**12
_MOST_LOST = 1e-3
"""Of the sum of a layer's weights: what rounding to 11 bits costs anyway is 2e-4 on average."""
# Layer -> which of its inputs are the weights; the other one is scaled in return.
_LAYERS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1)}


def lost_share(weight: Array) -> float:
    """The share of the sum of |w| in weights that FP16 has no normal number for."""
    sizes = np.abs(weight.astype(np.float64)).reshape(-1)
    total = float(sizes.sum())
    kept = sizes[(sizes >= FP16_LEAST) & (sizes <= np.finfo(np.float16).max)]
    return 1.0 - float(kept.sum()) / total if total > 0 else 0.0


def scale_for_half(model: Any) -> list[str]:
    """Scale the layers whose weights FP16 would lose, in place; their names.

    ``W x = (2^k W) (2^-k x)``: both are exact, in floats and in halves, so that nothing else
    changes. k is the least one that keeps all but a thousandth of the weights' sum. ``model`` has
    constants as initializers.
    """
    from onnx import helper, numpy_helper

    graph = Graph(model)
    scaled: list[str] = []
    inputs: dict[tuple[str, int, tuple[int, ...]], str] = {}
    for node in list(model.graph.node):
        found = [
            (place, value)
            for place in _LAYERS.get(node.op_type, ())
            if (value := graph.constant(node.input[place])) is not None
        ]
        if len(found) != 1:
            continue
        (place, weight), other = found[0], 1 - found[0][0]
        exponent = _exponent(weight)
        if not exponent:
            continue
        name = f"{node.output[0]}.scaled_weight"
        value = np.ldexp(weight, exponent)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
        key = (node.input[other], exponent, _factor_shape(graph, node, place, weight))
        if key not in inputs:
            factor, inputs[key] = f"{name}.factor", f"{name}.input"
            power = np.full(key[2], 2.0**-exponent, weight.dtype)
            model.graph.initializer.append(numpy_helper.from_array(power, factor))
            scale = helper.make_node("Mul", [key[0], factor], [inputs[key]], name=inputs[key])
            model.graph.node.insert(list(model.graph.node).index(node), scale)
        node.input[place], node.input[other] = name, inputs[key]
        scaled.append(str(node.name or node.output[0]))
    return scaled


def _factor_shape(graph: Graph, node: Any, place: int, weight: Array) -> tuple[int, ...]:
    """A single number; a vector where ONNX Runtime would gather several of them into a MatMul.

    It then removes a Mul or Div before ours that other nodes read as well, and refuses the graph.
    """
    before = graph.producer.get(node.input[1 - place])
    if node.op_type != "MatMul" or before is None or before.op_type not in ("Mul", "Div"):
        return ()
    inner = weight.shape[-1] if place == 0 or weight.ndim == 1 else weight.shape[-2]
    return (inner,) if place == 1 else (inner, 1)


def _exponent(weight: Array) -> int:
    """The power of two that a layer's weights are to be multiplied with; 0 for nearly all."""
    if not np.isfinite(weight).all() or lost_share(weight) <= _MOST_LOST:
        return 0
    sizes = np.sort(np.abs(weight.astype(np.float64)).reshape(-1))
    largest = math.frexp(sizes[-1])[1]
    highest = math.frexp(_LARGEST)[1] - largest
    # The size from which on the weights hold all but a thousandth of the sum.
    kept = sizes[np.searchsorted(np.cumsum(sizes), _MOST_LOST * sizes.sum())]
    wanted = math.frexp(FP16_LEAST)[1] - math.frexp(kept)[1] + 1
    return min(wanted, highest) if sizes[-1] <= np.finfo(np.float16).max else min(0, highest)
