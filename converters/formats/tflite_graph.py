"""The operators of a .tflite file under the names that they have in the ONNX file it came from."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converters.graph.parts import network_parts, node_name
from edge.engines.tflite import import_interpreter, quietly
from edge.errors import ToolError, first_line
from edge.session import Array
from edge.spec import ModelSpec

__all__ = [
    "LAYOUT_FILE",
    "NamedGraph",
    "builtin_names",
    "fold_clamps",
    "name_graph",
    "open_interpreter",
    "read_graph",
    "write_graph",
    "write_layout",
]

LAYOUT_FILE = "layout.json"
_SIGNATURE = "serving_default"
# An axis order is told by values; those of float32 arithmetic in another order differ by this.
_TOLERANCE = 1e-3
# Noise in another order of axes is off by 1.4; what is nearer is the output, right or wrong.
_SAME_OUTPUT = 0.3


@dataclass
class NamedGraph:
    """A .tflite file's model with the tensors of the ONNX file recognised.

    ``layout`` is each input's and output's axes: axis i of the file's tensor is axis
    ``layout[name][i]`` of the spec's. ``error`` is the largest difference of an output from ONNX
    Runtime's: the norm of the difference over that of the output.
    """

    model: Any
    layout: dict[str, list[int]]
    error: float
    part_of_operator: list[str] = field(default_factory=list)

    @property
    def operators(self) -> list[Any]:
        """The operators in the order in which they run."""
        return list(self.model.subgraphs[0].operators)


def read_graph(path: Path) -> Any:
    """The file as the tree of objects that its schema describes; ToolError where it is damaged."""
    from ai_edge_litert.tools import flatbuffer_utils

    try:
        return flatbuffer_utils.read_model(str(path))
    except Exception as error:  # whatever wrong offsets lead to: struct.error, TypeError, ...
        raise ToolError(f"{path.name} is no whole .tflite file: {first_line(error)}") from None


def write_graph(model: Any, path: Path, *, named: bool = True) -> None:
    """Write such a tree as a file; not ``named``: only inputs and outputs keep their names."""
    for graph in model.subgraphs:
        outer = {int(index) for index in (*graph.inputs, *graph.outputs)}
        for index, tensor in enumerate(graph.tensors):
            if not named and index not in outer:
                tensor.name = None
            tensor.shape = np.asarray(tensor.shape, np.int32)
            own = tensor.quantization
            if own is not None and own.zeroPoint is not None:
                own.zeroPoint = np.asarray(own.zeroPoint, np.int64)
                own.scale = np.asarray(own.scale, np.float32)
    for buffer in model.buffers:
        if buffer.data is not None and not isinstance(buffer.data, np.ndarray):
            buffer.data = np.frombuffer(buffer.data, np.uint8)  # else it goes byte by byte
    builder = _sharing_builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(builder.Output())


def _sharing_builder() -> Any:
    """A builder that writes equal lists of numbers once.

    Else an int8 file has for each channel of a layer a zero point of 8 bytes, all of them 0, and
    that twice: a tenth of the file.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    class Builder(flatbuffer_utils.flatbuffers.Builder):  # type: ignore[misc]
        def CreateNumpyVector(self, x: Array) -> int:  # noqa: N802 - an override
            if x.itemsize == 1:  # weights, each with a length of its own
                return int(super().CreateNumpyVector(x))
            key = (x.dtype.str, x.tobytes())
            if key not in written:
                written[key] = int(super().CreateNumpyVector(x))
            return written[key]

    written: dict[tuple[str, bytes], int] = {}
    return Builder(1 << 20)


def builtin_names(model: Any) -> list[str]:
    """The operator of each operator code: ``CONV_2D``, or a custom operator's own name."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    names = {code: name for name, code in vars(BuiltinOperator).items() if name.isupper()}
    return [
        code.customCode.decode() if code.customCode else names[code.builtinCode]
        for code in model.operatorCodes
    ]


def name_graph(path: Path, onnx_model: Any, spec: ModelSpec) -> NamedGraph:
    """Recognise the tensors of a float file by their values, and give them their ONNX names.

    Both networks compute the same noise, and a tensor is an ONNX one where its values are the same
    in some order of the axes: that alone tells which output is which and how its axes lie, where
    shapes are as good as mute (40x40x40). Tensors that only TFLite has (padding, transpositions)
    get the name of what they feed with a number; so do copies. Parts are those of the ONNX file.

    Raises ToolError where an output of the spec has no counterpart.
    """
    model = read_graph(path)
    graph = model.subgraphs[0]
    feed = np.random.default_rng(20).normal(0, 1, [n or 1 for n in spec.input.shape])
    want = _onnx_values(onnx_model, feed.astype(np.float32))
    layout = {spec.input.name: _input_axes(graph, spec)}
    got = _tflite_values(path, graph, feed.astype(np.float32), layout[spec.input.name])

    onnx_name: dict[int, str] = {}
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, value in want.items():
        by_shape.setdefault(_bulk(value), []).append(name)
    for index, value in got.items():
        for name in by_shape.get(_bulk(value), ()):
            if _axes(value, want[name]) is not None:
                onnx_name[index] = name
                break

    outputs: dict[str, int] = {}
    error = 0.0
    for tensor in spec.outputs:
        wanted = want[tensor.name]
        free = [int(index) for index in graph.outputs if index not in outputs.values()]
        found = [(*_nearest(got[index], wanted), index) for index in free if index in got]
        off, axes, index = min(found, default=(np.inf, [], -1))
        if off > _SAME_OUTPUT:
            raise ToolError(
                f"the .tflite file of {spec.name} has no output with the values of {tensor.name!r}"
            )
        outputs[tensor.name], layout[tensor.name] = index, axes
        error = max(error, off)
    parts = _operator_parts(graph, onnx_name, onnx_model)
    onnx_name |= {index: name for name, index in outputs.items()}
    _rename(graph, onnx_name, spec, outputs)
    model.signatureDefs = [_signature(int(graph.inputs[0]), spec, outputs)]
    graph.outputs = [outputs[tensor.name] for tensor in spec.outputs]
    return NamedGraph(model, layout, error, parts)


def fold_clamps(model: Any) -> None:
    """Let int8 layers clamp to 0..1 by themselves, as their outputs' steps do.

    A hard sigmoid's clamp has no integer kernel: it comes as dequantise, clamp, quantise, and ends
    the stretch that XNNPACK runs in one go. Where the steps after it span 0 to 1 or less, a layer
    that rounds to these very steps saturates where the clamp would cut.
    """
    graph, kinds = model.subgraphs[0], builtin_names(model)
    users: dict[int, list[Any]] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            users.setdefault(int(index), []).append(operator)
    gone: list[Any] = []
    for layer in graph.operators:
        chain = [layer]
        for kind in ("DEQUANTIZE", "RELU_0_TO_1", "QUANTIZE"):
            following = users.get(int(chain[-1].outputs[0]), [])
            if len(following) != 1 or kinds[following[0].opcodeIndex] != kind:
                break
            chain += following
        if len(chain) == 4 and kinds[layer.opcodeIndex] in ("CONV_2D", "FULLY_CONNECTED"):
            steps = graph.tensors[chain[-1].outputs[0]].quantization
            # int8 from 0 on: the lowest of its 256 values stands for 0.
            if steps.zeroPoint[0] == -128 and 255 * steps.scale[0] <= 1 + 1e-6:
                layer.outputs = chain[-1].outputs
                gone += chain[1:]
    graph.operators = [own for own in graph.operators if not any(own is one for one in gone)]


def write_layout(layout: Mapping[str, Sequence[int]], folder: Path) -> str:
    """Write the axes of inputs and outputs beside a file; the name of what was written."""
    (folder / LAYOUT_FILE).write_text(json.dumps(layout, indent=2) + "\n")
    return LAYOUT_FILE


def _bulk(value: Array) -> tuple[int, ...]:
    return tuple(sorted(size for size in value.shape if size != 1))


def _axes(value: Array, wanted: Array) -> list[int] | None:
    """The order of ``wanted``'s axes that gives ``value``, None where none does."""
    scale = max(float(np.abs(wanted).max()), 1e-12)
    if value.ndim != wanted.ndim:
        # Sizes of 1 come and go; the rest must be in the order that it has.
        same = value.shape and _close(value.reshape(-1), wanted.reshape(-1), scale)
        return list(range(value.ndim)) if same and value.size == wanted.size else None
    for axes in itertools.permutations(range(wanted.ndim)):
        turned = wanted.transpose(axes)
        if turned.shape == value.shape and _close(value, turned, scale):
            return list(axes)
    return None


def _nearest(value: Array, wanted: Array) -> tuple[float, list[int]]:
    """How far ``value`` is from ``wanted`` in the best order of its axes, and that order."""
    norm = max(float(np.linalg.norm(wanted.astype(np.float64))), 1e-12)
    orders = [
        list(axes)
        for axes in itertools.permutations(range(wanted.ndim))
        if tuple(wanted.shape[axis] for axis in axes) == value.shape
    ]
    return min(
        (
            (float(np.linalg.norm(value.astype(np.float64) - wanted.transpose(axes))) / norm, axes)
            for axes in orders
        ),
        default=(np.inf, []),
    )


def _close(value: Array, wanted: Array, scale: float) -> bool:
    return value.shape == wanted.shape and float(np.abs(value - wanted).max()) <= _TOLERANCE * scale


def _input_axes(graph: Any, spec: ModelSpec) -> list[int]:
    """onnx2tf turns images to (N, H, W, C) unless told otherwise, which we never do."""
    (index,) = graph.inputs
    shape = [size or 1 for size in spec.input.shape]
    axes = [0, 2, 3, 1]
    if [int(size) for size in graph.tensors[index].shape] != [shape[axis] for axis in axes]:
        raise ToolError(
            f"the .tflite file of {spec.name} takes {list(graph.tensors[index].shape)}, no "
            f"(N, H, W, C) of {shape}"
        )
    return axes


def _onnx_values(onnx_model: Any, feed: Array) -> dict[str, Array]:
    """Every float tensor that ONNX Runtime computes, by name."""
    import onnx
    import onnxruntime

    tapped = onnx.ModelProto()
    tapped.CopyFrom(onnx_model)
    have = {value.name for value in tapped.graph.output}
    names = [name for node in tapped.graph.node for name in node.output if name]
    tapped.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in have
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        tapped.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = session.run(names, {onnx_model.graph.input[0].name: feed})
    return {
        name: value
        for name, value in zip(names, values, strict=True)
        if isinstance(value, np.ndarray) and value.dtype == np.float32
    }


def _tflite_values(path: Path, graph: Any, feed: Array, axes: Sequence[int]) -> dict[int, Array]:
    """Every float tensor that a .tflite file computes, by its number."""
    interpreter = open_interpreter(path)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], feed.transpose(axes))
    interpreter.invoke()
    computed = [int(index) for operator in graph.operators for index in operator.outputs]
    values = {index: interpreter.get_tensor(index) for index in computed}
    return {index: value for index, value in values.items() if value.dtype == np.float32}


def open_interpreter(path: Path) -> Any:
    """An interpreter that keeps every tensor of a file for inspection."""
    litert, _ = import_interpreter()
    try:
        with quietly():
            interpreter = litert.Interpreter(
                model_path=str(path),
                experimental_preserve_all_tensors=True,
                # Delegates keep the tensors between their operators to themselves.
                experimental_op_resolver_type=(
                    litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                ),
            )
            interpreter.allocate_tensors()
    except Exception as error:  # RuntimeError and ValueError
        raise ToolError(f"LiteRT refuses {path.name}: {first_line(error)}") from None
    return interpreter


def _operator_parts(graph: Any, onnx_name: Mapping[int, str], onnx_model: Any) -> list[str]:
    """The part of each operator: its ONNX node's, else of what it feeds, else of what feeds it."""
    part_of_node = {
        node: part for part, nodes in network_parts(onnx_model).items() for node in nodes
    }
    part_of_tensor = {
        name: part_of_node[node_name(node)]
        for node in onnx_model.graph.node
        for name in node.output
    }
    parts: list[str | None] = [
        next((part_of_tensor[onnx_name[int(i)]] for i in op.outputs if int(i) in onnx_name), None)
        for op in graph.operators
    ]
    users: dict[int, list[int]] = {}
    maker: dict[int, int] = {}
    for number, operator in enumerate(graph.operators):
        for index in operator.inputs:
            users.setdefault(int(index), []).append(number)
        for index in operator.outputs:
            maker[int(index)] = number
    order = list(enumerate(graph.operators))
    for number, operator in reversed(order):
        fed = (user for index in operator.outputs for user in users.get(int(index), ()))
        parts[number] = parts[number] or next((parts[u] for u in fed if parts[u]), None)
    for number, operator in order:
        feeding = (maker[int(index)] for index in operator.inputs if int(index) in maker)
        parts[number] = parts[number] or next((parts[m] for m in feeding if parts[m]), None)
    return [part or "network" for part in parts]


def _rename(
    graph: Any, onnx_name: Mapping[int, str], spec: ModelSpec, outputs: Mapping[str, int]
) -> None:
    taken = {spec.input.name, *outputs}
    reserved = {index: name for name, index in outputs.items()}
    reserved[int(graph.inputs[0])] = spec.input.name
    computed = {int(index) for operator in graph.operators for index in operator.outputs}
    for index, tensor in enumerate(graph.tensors):
        name = reserved.get(index) or onnx_name.get(index) or tensor.name.decode()
        if index not in reserved:
            if index not in computed and index not in onnx_name:
                name = f"constant_{index}"
            if name in taken:
                name = f"{name}#{index}"
            taken.add(name)
        tensor.name = name.encode()


def _signature(input_index: int, spec: ModelSpec, outputs: Mapping[str, int]) -> Any:
    """The file's own table of names, which LiteRT's other languages read too."""
    from ai_edge_litert.schema_py_generated import SignatureDefT, TensorMapT

    def entry(name: str, index: int) -> Any:
        one = TensorMapT()
        one.name, one.tensorIndex = name.encode(), index
        return one

    signature = SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = _SIGNATURE.encode(), 0
    signature.inputs = [entry(spec.input.name, input_index)]
    signature.outputs = [entry(tensor.name, outputs[tensor.name]) for tensor in spec.outputs]
    return signature
