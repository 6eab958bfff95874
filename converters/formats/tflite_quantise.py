"""A float .tflite file -> int8, by Google's ai-edge-quantizer."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.formats.tflite_float import float_graph
from converters.formats.tflite_graph import (
    NamedGraph,
    builtin_names,
    fold_clamps,
    open_interpreter,
    read_graph,
    write_graph,
    write_layout,
)
from converters.graph.file import Graph, load_onnx
from converters.graph.parts import fragile_parts, network_parts, node_name
from converters.job import Job
from edge.engines.tflite import quietly
from edge.errors import SpecError, ToolError, first_line
from edge.session import Array, Feeds

__all__ = ["open_tflite_quantiser", "quantise_weights"]

# What attention and normalisations are made of: no weights, a wide range of values. XNNPACK has no
# integer kernel for the products of two activations, and many operators beside the others have none
# at all, so that integers would be floats again one operator on.
_FLOAT_OPERATORS = (
    "BATCH_MATMUL",
    "DIV",
    "MAXIMUM",
    "REDUCE_MIN",
    "RSQRT",
    "SOFTMAX",
    "SQRT",
    "SUM",
)
# A layer that gives an output straight: its input is quantised at every call, its output not at
# all. 256 steps make ties of a SimCC axis's bins.
_OUTPUT_OPERATORS = ("FULLY_CONNECTED", "CONV_2D")
_VALUES = 100_000
# Below this x * sigmoid(x) is above -0.003: a layer before it may give -90 for nothing, in steps
# that are all wider for it.
_SILU_FLOOR = -8.0
# Shares of a tensor's extremes that are tried as its range. What a detector clips beyond that costs
# its boxes more than the finer steps give.
_SHARES = np.linspace(0.7, 1.0, 13)
# The first parts, whose tensors have the widest ranges beside the smallest steps that matter.
_FRAGILE_FIRST = 2


def quantise_weights(path: Path, *, half: bool) -> bytes:
    """A file with its layers' weights in halves, or in int8 for the engine to compute in."""
    from ai_edge_quantizer import qtyping, quantizer

    every = qtyping.TFLOperationName.ALL_SUPPORTED
    own = quantizer.Quantizer(str(path))
    if half:
        own.add_weight_only_config(".*", every, 16, algorithm_key="float_casting")
    else:
        own.add_dynamic_config(".*", every, 8)
    return _quantised(own, None)


def open_tflite_quantiser(job: Job) -> TfliteQuantiser:
    """Convert to floats and calibrate; ToolError as ``float_graph`` has it."""
    return TfliteQuantiser(job)


class TfliteQuantiser:
    """Static quantisation of weights, one scale a channel, and activations, one a tensor.

    int8 activations, or int16 where the job's precision is ``w8a16``; inputs and outputs stay
    float32. LiteRT's CPU kernels for int16 are plain loops: convolutions take twenty times as long
    as in floats (2.3.0, XNNPACK knows none of them); they are meant for signal processors.
    """

    def __init__(self, job: Job) -> None:
        if not job.feeds:
            raise SpecError(f"{job.spec.name}: {job.precision} needs images to calibrate with")
        model = load_onnx(job.onnx_path)
        self._job = job
        self._named = float_graph(job)
        self._floats = job.folder / "floats.tflite"
        write_graph(self._named.model, self._floats)
        self._bits = 16 if job.precision == "w8a16" else 8
        self._ranges = _ranges(
            self._named, self._floats, job.feeds, job.spec.input.name, steps=2**self._bits - 1
        )
        nodes = network_parts(model)
        held = set(self._named.part_of_operator)
        self.parts: Sequence[str] = [part for part in nodes if part in held]
        fragile = {*fragile_parts(model, nodes), *self.parts[:_FRAGILE_FIRST]}
        fragile |= _parts_of_one_output(model, nodes)
        self.fragile_parts: Sequence[str] = [part for part in self.parts if part in fragile]

    def quantise(self, float_parts: Collection[str], folder: Path) -> dict[str, str]:
        """Quantise all but ``float_parts`` into ``folder``; role -> file name."""
        from ai_edge_quantizer import qtyping, quantizer

        kinds = qtyping.TFLOperationName
        own = quantizer.Quantizer(str(self._floats))
        own.add_static_config(".*", kinds.ALL_SUPPORTED, self._bits, 8)

        def keep_float(regex: str, kind: Any = kinds.ALL_SUPPORTED) -> None:
            own.update_quantization_recipe(regex, kind, algorithm_key="no_quantize")

        for name in ("INPUT", "OUTPUT", *_FLOAT_OPERATORS):
            keep_float(".*", kinds[name])
        if self._bits == 8:
            for name in _OUTPUT_OPERATORS:
                own.add_dynamic_config(_any_of(self._output_scopes()), kinds[name], 8)
        if float_parts:
            keep_float(_any_of(self._scopes(float_parts)))
        name = f"{self._job.spec.name}.tflite"
        path = folder / name
        path.write_bytes(_quantised(own, self._ranges))
        quantised = read_graph(path)
        fold_clamps(quantised)
        write_graph(quantised, path, named=False)
        return {"model": name, "layout": write_layout(self._named.layout, folder)}

    def _scopes(self, parts: Collection[str]) -> list[str]:
        pairs = zip(self._named.operators, self._named.part_of_operator, strict=True)
        return [self._scope(operator) for operator, part in pairs if part in parts]

    def _output_scopes(self) -> list[str]:
        return [f"{tensor.name};" for tensor in self._job.spec.outputs]

    def _scope(self, operator: Any) -> str:
        """What ai-edge-quantizer calls an operator: its outputs, each with a semicolon."""
        tensors = self._named.model.subgraphs[0].tensors
        return "".join(f"{tensors[index].name.decode()};" for index in operator.outputs)


def _parts_of_one_output(model: Any, nodes: Mapping[str, Sequence[str]]) -> set[str]:
    """The parts that one of several outputs alone needs: a detector's towers and last layers."""
    graph = Graph(model)
    needed = [
        {node_name(node) for node in graph.needed_by([output.name])}
        for output in model.graph.output
    ]
    if len(needed) == 1:
        return set()
    return {
        part
        for part, names in nodes.items()
        if sum(not own.isdisjoint(names) for own in needed) == 1
    }


def _any_of(scopes: Iterable[str]) -> str:
    return f"^(?:{'|'.join(map(re.escape, scopes))})$"


def _quantised(quantizer: Any, ranges: dict[str, dict[str, Array]] | None) -> bytes:
    try:
        # It draws progress bars whatever it is told, and warns of an interpreter of its own.
        with quietly(), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = quantizer.quantize(
                ranges, enable_progress_bar=False, enable_progress_report=False
            )
    except Exception as error:  # ValueError and RuntimeError of its many modules
        raise ToolError(f"ai-edge-quantizer: {first_line(error)}") from None
    return bytes(result.quantized_model)


def _ranges(
    named: NamedGraph, path: Path, feeds: Sequence[Feeds], input_name: str, *, steps: int
) -> dict[str, dict[str, Array]]:
    """The range of every float tensor in which integers lose least, as ai-edge-quantizer has it.

    Each image gives some values of a tensor, drawn with a seed, beside its extremes. A range is a
    share of the extremes on either side: a rare outlier costs less than the wider steps that all
    other values pay for it.
    """
    graph = named.model.subgraphs[0]
    interpreter = open_interpreter(path)
    index_in = int(graph.inputs[0])
    values: dict[int, list[Array]] = {index_in: []}
    values |= {int(index): [] for operator in graph.operators for index in operator.outputs}
    silus = _silu_inputs(named)
    low, high = dict.fromkeys(values, 0.0), dict.fromkeys(values, 0.0)
    rng = np.random.default_rng(20)
    count = max(1, _VALUES // len(feeds))
    for number, feed in enumerate(feeds, start=1):
        interpreter.set_tensor(index_in, feed[input_name].transpose(named.layout[input_name]))
        interpreter.invoke()
        for index, kept in values.items():
            value = interpreter.get_tensor(index).reshape(-1)
            if index in silus:
                value = np.maximum(value, _SILU_FLOOR)  # a NaN stays one
            least, most = float(value.min()), float(value.max())
            if not np.isfinite(least + most):
                name = graph.tensors[index].name.decode()
                raise ToolError(f"tensor {name!r} is NaN or infinite on calibration image {number}")
            low[index], high[index] = min(low[index], least), max(high[index], most)
            few = value.size <= count
            kept.append(value if few else value[rng.integers(0, value.size, count)])
    ranges = {}
    for index, kept in values.items():
        tensor = graph.tensors[index]
        shape = (1,) * len(tensor.shape)
        least, most = _best_range(np.concatenate(kept), low[index], high[index], steps)
        ranges[tensor.name.decode()] = {
            "min": np.full(shape, least, np.float32),
            "max": np.full(shape, most, np.float32),
        }
    return ranges


def _silu_inputs(named: NamedGraph) -> set[int]:
    """The tensors x that nothing but x * sigmoid(x) reads."""
    users: dict[int, list[Any]] = {}
    for operator in named.operators:
        for index in operator.inputs:
            users.setdefault(int(index), []).append(operator)
    kinds = builtin_names(named.model)
    found = set()
    for operator in named.operators:
        if kinds[operator.opcodeIndex] == "LOGISTIC":
            pair = {int(operator.inputs[0]), int(operator.outputs[0])}
            others = [user for user in users[int(operator.inputs[0])] if user is not operator]
            if others and all(
                kinds[user.opcodeIndex] == "MUL" and {int(i) for i in user.inputs} == pair
                for user in others
            ):
                found.add(int(operator.inputs[0]))
    return found


def _best_range(values: Array, low: float, high: float, steps: int) -> tuple[float, float]:
    """Shares of ``low`` <= 0 <= ``high`` with the least loss.

    A step's width squared over 12 for each value inside, the mean square of rounding, and the
    square of its distance for each one outside, all pairs of shares at once by running sums.
    """
    values = np.sort(values.astype(np.float64))
    sums, squares = (np.concatenate([[0.0], np.cumsum(values**power)]) for power in (1, 2))
    lows, highs = low * _SHARES, high * _SHARES
    below, up_to = np.searchsorted(values, lows), np.searchsorted(values, highs)
    above = len(values) - up_to
    cut_low = below * lows**2 - 2 * lows * sums[below] + squares[below]
    cut_high = (
        above * highs**2 - 2 * highs * (sums[-1] - sums[up_to]) + squares[-1] - squares[up_to]
    )
    widths = (highs - lows[:, None]) / steps
    rounding = widths**2 / 12 * (len(values) - below[:, None] - above)
    loss = rounding + cut_low[:, None] + cut_high
    row, column = np.unravel_index(np.argmin(loss), loss.shape)
    return float(lows[row]), float(highs[column])
