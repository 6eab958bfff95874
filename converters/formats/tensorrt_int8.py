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
from edge.errors import SpecError
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
        """Write the kit with ``float_parts`` in FP16; role -> file name.

        Raises SpecError for a part that the network does not have.
        """
        unknown = sorted(set(float_parts) - set(self.parts))
        if unknown:
            raise SpecError(
                f"{self._spec.name} has no part {unknown[0]!r}; its parts: {', '.join(self.parts)}"
            )
        floats = {name for part in float_parts for name in self._layers_of[part]}
        quantised = with_pairs(self._model, self._ranges, floats)
        plain = with_weight_pairs(quantised)
        return write_kit(plain, quantised, self._spec, "int8", folder)


def with_pairs(model: Any, ranges: Mapping[str, Range], floats: Collection[str]) -> Any:
    """The network with a pair of Q and DQ before each convolution but ``floats``.

    Weights become int8 constants with a DQ alone.
    """
    from onnx import helper, numpy_helper

    paired = copy.deepcopy(model)
    graph = Graph(paired)
    nodes: list[Any] = []
    weights: dict[str, Any] = {}
    made: dict[str, str] = {}

    def scales(prefix: str, scale: Array) -> list[str]:
        # The parser of TensorRT 8 wants both inputs, and as many zero points as scales.
        for name, value in (("scale", scale), ("zero", np.zeros(scale.shape, np.int8))):
            tensor = numpy_helper.from_array(value, f"{prefix}.{name}")
            weights[tensor.name] = tensor
        return [f"{prefix}.scale", f"{prefix}.zero"]

    def activation(name: str) -> str:
        if name not in made:
            most = max(-ranges[name][0], ranges[name][1])
            # A tensor of zeros alone still needs a positive scale.
            inputs = scales(name, np.array(most / 127 or 1.0, np.float32))
            for op, source, target in (
                ("QuantizeLinear", name, f"{name}.int8"),
                ("DequantizeLinear", f"{name}.int8", f"{name}.rounded"),
            ):
                nodes.append(helper.make_node(op, [source, *inputs], [target], name=f"{name}.{op}"))
            made[name] = f"{name}.rounded"
        return made[name]

    def weight(name: str) -> str:
        value = graph.constant(name)
        if value is None:
            return activation(name)
        if name not in made:
            others = tuple(range(1, value.ndim))
            scale = np.abs(value).max(axis=others) / np.float32(127)
            scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
            stored = np.clip(np.rint(value / np.expand_dims(scale, others)), -127, 127)
            weights[f"{name}.int8"] = numpy_helper.from_array(
                stored.astype(np.int8), f"{name}.int8"
            )
            nodes.append(
                helper.make_node(
                    "DequantizeLinear",
                    [f"{name}.int8", *scales(name, scale)],
                    [f"{name}.rounded"],
                    name=f"{name}.DequantizeLinear",
                    axis=0,
                )
            )
            made[name] = f"{name}.rounded"
        return made[name]

    for node in paired.graph.node:
        if node.op_type == "Conv" and node.name not in floats:
            node.input[0], node.input[1] = activation(node.input[0]), weight(node.input[1])
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in paired.graph.initializer if tensor.name in used]
    del paired.graph.node[:], paired.graph.initializer[:], paired.graph.value_info[:]
    paired.graph.node.extend(nodes)
    paired.graph.initializer.extend([*kept, *weights.values()])
    return paired


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
