"""Prepared ONNX -> ONNX in int8, as pairs of Q and DQ that ONNX Runtime makes int8 kernels of."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.graph.compact import compact
from converters.graph.file import Graph
from converters.graph.parts import fragile_parts, network_parts, node_name
from converters.graph.ranges import Range, tensor_ranges
from converters.job import Job
from edge.errors import ToolError, first_line

__all__ = ["OnnxQuantiser", "open_onnx_quantiser", "quantise_qdq"]

# The first one with scales for each channel.
_OPSET = 13
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"


def open_onnx_quantiser(job: Job) -> OnnxQuantiser:
    """Calibrate a network for ONNX Runtime's int8; errors as ``tensor_ranges``."""
    return OnnxQuantiser(job)


class OnnxQuantiser:
    """A network with the ranges of its tensors; see ``converters.job.Quantiser``."""

    def __init__(self, job: Job) -> None:
        self._name = job.spec.name
        self._model = _quantisable(job.onnx_path, self._name)
        self._nodes_of = network_parts(self._model)
        self._ranges = tensor_ranges(self._model, job.spec, job.feeds)
        self.parts: Sequence[str] = list(self._nodes_of)
        self.fragile_parts: Sequence[str] = fragile_parts(self._model, self._nodes_of)

    def quantise(self, float_parts: Collection[str], folder: Path) -> dict[str, str]:
        """Write ``<model>.onnx`` with ``float_parts`` in float32; role -> file name.

        Inputs and outputs stay float32 under their names. The same network, feeds and parts give
        the same bytes.
        """
        import onnx

        floats = {name for part in float_parts for name in self._nodes_of[part]}
        try:
            quantised = quantise_qdq(self._model, self._ranges, floats)
            onnx.checker.check_model(quantised)
        except Exception as error:  # its exceptions share no base class but Exception
            raise ToolError(
                f"ONNX Runtime cannot quantise {self._name}: {first_line(error)}"
            ) from None
        file = f"{self._name}.onnx"
        onnx.save(quantised, folder / file)
        return {"model": file}


def quantise_qdq(model: Any, ranges: Mapping[str, Range], float_nodes: Collection[str]) -> Any:
    """A copy of an ONNX model of opset 13 or later in int8, all but some nodes.

    Every operator that ONNX Runtime has an int8 kernel for reads and writes uint8 activations
    (asymmetric over their range in ``ranges``) and int8 weights, symmetric, with a scale for each
    output channel of |w|max / 127; biases are int32. What the network answers is not rounded: its
    outputs come from float arithmetic on quantised inputs.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    limits = {name: tuple(np.float32(end) for end in ends) for name, ends in ranges.items()}
    with _silence():
        quantizer = QDQQuantizer(
            copy.deepcopy(model),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(float_nodes),
            op_types_to_quantize=sorted({*QDQRegistry, *QLinearOpsRegistry}),
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantised = quantizer.model.model
    _unround(quantised, float_nodes)
    compact(quantised)
    return quantised


def _quantisable(path: Path, name: str) -> Any:
    """The file with a name for every node, in an opset that knows scales for each channel."""
    import onnx
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    model = onnx.load(path)
    for node in model.graph.node:
        node.name = node_name(node)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset < _OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _OPSET)
        except Exception as error:  # its exceptions share no base class but Exception
            raise ToolError(
                f"{name}: ONNX cannot bring opset {opset} to {_OPSET}, which int8 needs "
                f"({first_line(error)}); export the model with opset {_OPSET} or later"
            ) from None
    model = onnx.shape_inference.infer_shapes(model)
    # Says that shapes are known: otherwise each quantising infers them anew, through a file.
    add_infer_metadata(model)
    return model


def _unround(model: Any, float_nodes: Collection[str]) -> None:
    """Take away pairs that only cost: after the outputs, and between two float nodes."""
    graph = Graph(model)
    for value in model.graph.output:
        dequantise = graph.producer[value.name]
        quantise = graph.producer.get(dequantise.input[0]) if dequantise.op_type == _DQ else None
        if quantise is None or quantise.input[0] not in graph.producer:
            continue
        # Other nodes go on reading the rounded tensor, under the name it had inside.
        raw, rounded = quantise.input[0], f"{value.name}_rounded"
        for node in graph.consumers.get(value.name, ()):
            _replace(node.input, value.name, rounded)
        _replace(dequantise.output, value.name, rounded)
        _replace(graph.producer[raw].output, raw, value.name)
        for node in graph.consumers[raw]:
            _replace(node.input, raw, value.name)
    graph = Graph(model)
    for node in model.graph.node:
        if node.name in float_nodes:
            for index, name in enumerate(node.input):
                dequantise = graph.producer.get(name)
                if dequantise is None or dequantise.op_type != _DQ:
                    continue
                quantise = graph.producer.get(dequantise.input[0])
                if quantise is None or quantise.op_type != _Q:
                    continue
                source = graph.producer.get(quantise.input[0])
                if source is not None and source.name in float_nodes:
                    node.input[index] = quantise.input[0]
    needed = Graph(model).needed_by(value.name for value in model.graph.output)
    del model.graph.node[:]
    model.graph.node.extend(needed)


def _replace(names: Any, old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the quantiser from printing, and from advice through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
