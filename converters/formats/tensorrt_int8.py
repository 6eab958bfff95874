"""The kit of ``tensorrt-int8``: where TensorRT wants its Q and DQ, and with which scales.

TensorRT computes a layer in int8 where both of its inputs come from a DQ, and fuses what follows
it (docs.nvidia.com/deeplearning/tensorrt, "Working with quantized types"). So the inputs and the
weights of convolutions get a pair: symmetric, as it knows no zero point, the weights for each
output channel. All else stays float, biases, sums and the network's outputs among it.

So do Gemm and MatMul. They are 3 % of RTMPose-t's work and the larger part of what int8 costs it:
rounded as well, its PCK@0.05 on 200 synthetic crops falls from 0.904 to 0.899, without to 0.903.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.formats.tensorrt import write_kit
from converters.graph.file import Graph
from converters.graph.parts import fragile_parts, network_parts, node_name
from converters.graph.ranges import Range, tensor_ranges
from converters.job import Job
from edge.session import Array

__all__ = ["TensorRtQuantiser", "open_tensorrt_quantiser", "with_pairs", "with_weight_pairs"]

# Scales for each channel came to ONNX with opset 13.
_OPSET = 13


def open_tensorrt_quantiser(job: Job) -> TensorRtQuantiser:
    """Calibrate a network for TensorRT's int8; errors as ``tensor_ranges``."""
    return TensorRtQuantiser(job)


class TensorRtQuantiser:
    """A network with the ranges of its tensors; see ``converters.job.Quantiser``.

    Its parts are those with convolutions in them.
    """

    def __init__(self, job: Job) -> None:
        import onnx

        self._spec = job.spec
        self._model = onnx.load(job.onnx_path)
        opset = next(o for o in self._model.opset_import if o.domain in ("", "ai.onnx"))
        if opset.version < _OPSET:
            self._model = onnx.version_converter.convert_version(self._model, _OPSET)
        for node in self._model.graph.node:
            node.name = node_name(node)
        layers = {node.name for node in self._model.graph.node if node.op_type == "Conv"}
        parts = network_parts(self._model)
        self._layers_of = {
            part: [name for name in names if name in layers] for part, names in parts.items()
        }
        self.parts: Sequence[str] = [part for part, names in self._layers_of.items() if names]
        fragile = set(fragile_parts(self._model, parts))
        self.fragile_parts: Sequence[str] = [part for part in self.parts if part in fragile]
        self._ranges = tensor_ranges(self._model, job.spec, job.feeds)

    def quantise(self, float_parts: Collection[str], folder: Path) -> dict[str, str]:
        """Write the kit with ``float_parts`` in FP16; role -> file name."""
        floats = {name for part in float_parts for name in self._layers_of[part]}
        quantised = with_pairs(self._model, self._ranges, floats)
        plain = with_weight_pairs(quantised)
        return write_kit(plain, quantised, self._spec, "int8", folder)


def with_pairs(model: Any, ranges: Mapping[str, Range], floats: Collection[str]) -> Any:
    """The network with a pair of Q and DQ before each convolution but ``floats``.

    Weights become int8 constants with a DQ alone.
    """
    paired = copy.deepcopy(model)
    pairs = _Pairs(Graph(paired), ranges)
    for node in paired.graph.node:
        if node.op_type == "Conv" and node.name not in floats:
            node.input[0] = pairs.activation(node.input[0])
            node.input[1] = pairs.weight(node.input[1])
        pairs.nodes.append(node)
    used = {name for node in pairs.nodes for name in node.input}
    kept = [tensor for tensor in paired.graph.initializer if tensor.name in used]
    del paired.graph.node[:], paired.graph.initializer[:], paired.graph.value_info[:]
    paired.graph.node.extend(pairs.nodes)
    paired.graph.initializer.extend([*kept, *pairs.constants])
    return paired


class _Pairs:
    """Nodes that round tensors to int8, each tensor once, in the order of computation."""

    def __init__(self, graph: Graph, ranges: Mapping[str, Range]) -> None:
        self._graph = graph
        self._ranges = ranges
        self._made: set[str] = set()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def activation(self, name: str) -> str:
        """The tensor rounded by its range; the name of the rounded one."""
        if name not in self._made:
            low, high = self._ranges[name]
            # A tensor of zeros alone still needs a positive scale.
            scale = np.array(max(-low, high) / 127 or 1.0, np.float32)
            inputs = self._scales(name, scale)
            self._add("QuantizeLinear", name, [name, *inputs], f"{name}.int8")
            self._add("DequantizeLinear", name, [f"{name}.int8", *inputs], f"{name}.rounded")
        return f"{name}.rounded"

    def weight(self, name: str) -> str:
        """A constant (O, ...) in int8 with a scale for each output channel, as `activation`."""
        value = self._graph.constant(name)
        if value is None:
            return self.activation(name)
        if name not in self._made:
            others = tuple(range(1, value.ndim))
            scale = np.abs(value).max(axis=others) / np.float32(127)
            scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
            stored = np.clip(np.rint(value / np.expand_dims(scale, others)), -127, 127)
            inputs = [self._constant(f"{name}.int8", stored.astype(np.int8))]
            inputs += self._scales(name, scale)
            self._add("DequantizeLinear", name, inputs, f"{name}.rounded", axis=0)
        return f"{name}.rounded"

    def _scales(self, prefix: str, scale: Array) -> list[str]:
        # The parser of TensorRT 8 wants both inputs, and as many zero points as scales.
        zeros = np.zeros(scale.shape, np.int8)
        return [self._constant(f"{prefix}.scale", scale), self._constant(f"{prefix}.zero", zeros)]

    def _constant(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def _add(self, kind: str, of: str, inputs: list[str], output: str, **attributes: int) -> None:
        from onnx import helper

        self._made.add(of)
        node = helper.make_node(kind, inputs, [output], name=f"{of}.{kind}", **attributes)
        self.nodes.append(node)


def with_weight_pairs(model: Any) -> Any:
    """The same network with float weights, each followed by a pair of Q and DQ.

    The form that NVIDIA's tools wrote for TensorRT 8: a constant of int8 came later. Quantising
    ``q * scale`` gives ``q`` again, so that no answer changes.
    """
    from onnx import helper, numpy_helper

    paired = copy.deepcopy(model)
    graph = Graph(paired)
    nodes = []
    replaced = set()
    for node in paired.graph.node:
        value = graph.constant(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if value is not None and value.dtype == np.int8:
            scale = graph.constant(node.input[1])
            assert scale is not None
            axis = next(a.i for a in node.attribute if a.name == "axis")
            spread = scale.reshape([-1 if index == axis else 1 for index in range(value.ndim)])
            name = node.input[0]
            weight = value.astype(np.float32) * spread
            paired.graph.initializer.append(numpy_helper.from_array(weight, f"{name}.float"))
            nodes.append(
                helper.make_node(
                    "QuantizeLinear",
                    [f"{name}.float", *node.input[1:]],
                    [f"{name}.paired"],
                    name=f"{name}.QuantizeLinear",
                    axis=axis,
                )
            )
            replaced.add(name)
            node.input[0] = f"{name}.paired"
        nodes.append(node)
    kept = [tensor for tensor in paired.graph.initializer if tensor.name not in replaced]
    del paired.graph.node[:], paired.graph.initializer[:]
    paired.graph.node.extend(nodes)
    paired.graph.initializer.extend(kept)
    return paired
