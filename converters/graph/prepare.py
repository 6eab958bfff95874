"""ONNX -> ONNX: the one file that every converter starts from.

Fixed shapes, folded constants, raw heads instead of box decoding and suppression, spec names for
inputs and outputs, and a ScaleNorm that cannot overflow in FP16.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from converters.graph.bounds import refuse_giants
from converters.graph.detector_heads import DetectorHeads
from converters.graph.file import Graph, load_onnx
from converters.graph.focus import fold_focus
from converters.graph.half_weights import scale_for_half
from converters.graph.labels import gives_several_labels
from converters.graph.operators import refuse_quantised
from converters.graph.opset import to_proven_opset
from converters.graph.recognise import Recognised, recognise
from converters.graph.repair import plain_names
from converters.graph.scale_norm import make_scale_norm_fp16_safe
from converters.graph.walk import reads, rename_reads
from edge.errors import ModelFileError
from edge.session import Array
from edge.spec import ModelSpec, TensorSpec

__all__ = ["Prepared", "load_float_onnx", "prepare", "with_batch"]

_MAP_KINDS = {
    "rtmdet": ("logits", "distances"),
    "yolox": ("logits", "boxes", "objectness"),
}


# What a batch of a known size lets be folded away.
_OF_SHAPES = ("Shape", "Size", "ConstantOfShape", "Expand", "Range")


@dataclass(frozen=True)
class Prepared:
    """A prepared model.

    ``taps`` maps each output of ``spec`` to the tensor of the untouched file that holds the same
    values, ``source_spec`` describes that file as it is. ``constants`` are the arrays of
    ``spec.constants``, which the prepared network no longer has. ``scaled_layers`` had weights that
    FP16 does not hold. ``notes``: see `Recognised`.
    """

    model: Any
    spec: ModelSpec
    source_spec: ModelSpec
    taps: dict[str, str]
    rewritten_scale_norms: int
    constants: dict[str, Array]
    scaled_layers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def prepare(
    path: Path,
    name: str,
    *,
    spec: ModelSpec | None = None,
    input_hw: tuple[int, int] | None = None,
    keypoint_set: str | None = None,
    batch: int | None = 1,
) -> Prepared:
    """Load, recognise and rewrite an ONNX file; the file itself is not touched.

    ``batch`` fixes the batch; None leaves it as open as the file has it. Raises ModelFileError or
    SpecError for anything that is no supported model.
    """
    model = load_float_onnx(path)
    found = recognise(model, path, name, spec, input_hw, keypoint_set)
    own_batch = found.source_spec.input.shape[0]
    if batch is None:
        batch = own_batch
    elif own_batch not in (None, batch):
        raise ModelFileError(_other_batch(path, own_batch, batch))
    height, width = found.source_spec.input_hw

    prepared = copy.deepcopy(model)
    heads = found.heads
    taps = (
        [name for kind in heads.maps for name in kind]
        if heads
        else [tensor.name for tensor in found.source_spec.outputs]
    )
    constants = _constants(model, found.source_spec, path)
    _cut(prepared, taps)
    _freeze_input(prepared, (batch, 3, height, width), path)
    refuse_giants(prepared, path)
    prepared = to_proven_opset(_simplify(prepared, path))
    fold_focus(prepared)
    count = make_scale_norm_fp16_safe(prepared)
    scaled = scale_for_half(prepared)
    shapes = _inferred_shapes(prepared, taps, path, found.source_spec)
    if heads:
        new_spec, taps = _raw_head_spec(found, heads, shapes, batch, path)
        if heads.codec == "yolox" and found.source_spec.codec == "detections":
            new_spec = replace(new_spec, several_labels=gives_several_labels(model))
        if heads.cut_at_rim:
            new_spec = replace(new_spec, cut_at_rim=True)
    else:
        new_spec = _same_spec(found.source_spec, shapes, batch)
    names = [tensor.name for tensor in new_spec.outputs]
    _rename(prepared, dict(zip(taps, names, strict=True)))
    plain_names(prepared)
    _set_outputs(prepared, new_spec)
    _check(prepared, path)
    tapped = dict(zip(names, taps, strict=True))
    source_spec = found.source_spec
    return Prepared(
        prepared, new_spec, source_spec, tapped, count, constants, tuple(scaled), found.notes
    )


def load_float_onnx(path: Path) -> Any:
    """`load_onnx` for a conversion: ModelFileError also for a file that is quantised already."""
    model = load_onnx(path)
    refuse_quantised(model, path)
    return model


def with_batch(prepared: Prepared, batch: int, path: Path) -> Prepared:
    """A network that was prepared with an open batch, with this one; ``path`` is for messages.

    Simplified again only where the graph computes with its own shapes. Raises ModelFileError for
    one whose batch is fixed at another.
    """
    own = prepared.spec.input.shape[0]
    if own == batch:
        return prepared
    if own is not None:
        raise ModelFileError(_other_batch(path, own, batch))
    model = copy.deepcopy(prepared.model)
    shape = (batch, *prepared.spec.input.shape[1:])
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    _freeze_input(model, shape, path)
    if any(node.op_type in _OF_SHAPES for node in model.graph.node):
        model = _simplify(model, path)
    names = [tensor.name for tensor in prepared.spec.outputs]
    spec = _same_spec(prepared.spec, _inferred_shapes(model, names, path, prepared.spec), batch)
    _set_outputs(model, spec)
    _check(model, path)
    return replace(prepared, model=model, spec=spec)


def _other_batch(path: Path, own: int, batch: int) -> str:
    return (
        f"{path}: its batch is fixed at {own} and cannot become {batch}; export it with an open one"
    )


def _constants(model: Any, spec: ModelSpec, path: Path) -> dict[str, Array]:
    """The arrays that the codec needs beside the network's outputs; the file holds them as such."""
    graph = Graph(model)
    constants = {}
    for tensor in spec.constants:
        value = graph.constant(tensor.name)
        if value is None or value.shape != tensor.shape:
            raise ModelFileError(
                f"{path}: its output {tensor.name!r} should be a constant of shape {tensor.shape}; "
                "export the model again"
            )
        constants[tensor.name] = value.astype(np.float32)
    return constants


def _cut(model: Any, outputs: list[str]) -> None:
    """Keep what the outputs depend on, in place; the outputs' types are left open."""
    import onnx

    nodes = Graph(model).needed_by(outputs)
    used = {name for node in nodes for name in reads(node)}.union(outputs)
    graph = model.graph
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    inputs = [v for v in graph.input if v.name in used]
    del graph.node[:], graph.initializer[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    graph.input.extend(inputs)
    for name in outputs:
        graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))


def _freeze_input(model: Any, shape: tuple[int | None, ...], path: Path) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    value = next((v for v in model.graph.input if v.name not in weights), None)
    if value is None:
        raise ModelFileError(
            f"{path}: its outputs do not depend on the picture; export the model again"
        )
    for dimension, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        if size is None:
            dimension.dim_param = "batch"
        else:
            dimension.dim_value = size


def _simplify(model: Any, path: Path) -> Any:
    """Fold constants and shape arithmetic, fuse BatchNorm, drop what does nothing."""
    import onnxslim

    # onnxslim reports to the root logger; its warnings are about its own heuristics.
    logging.getLogger("ONNXSlim").setLevel(logging.ERROR)
    try:
        return onnxslim.slim(model)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelFileError(
            f"{path}: does not work out at this input size ({reason[-1]}); detectors need sides "
            "that are multiples of 32"
        ) from error


def _inferred_shapes(
    model: Any, names: list[str], path: Path, spec: ModelSpec
) -> dict[str, tuple[int | None, ...]]:
    """Shapes that follow from the graph; where none does, what the spec says of its outputs."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    shapes: dict[str, tuple[int | None, ...]] = {}
    for value in [*inferred.graph.value_info, *inferred.graph.output]:
        shapes[value.name] = tuple(
            d.dim_value if d.HasField("dim_value") else None
            for d in value.type.tensor_type.shape.dim
        )
    own = {tensor.name: tensor.shape for tensor in spec.outputs}
    for name in names:
        shapes[name] = shapes.get(name) or own.get(name, ())
        if not shapes[name]:
            raise ModelFileError(
                f"{path}: the shape of {name!r} does not follow from the graph at this input size; "
                "detectors need sides that are multiples of 32"
            )
    return {name: shapes[name] for name in names}


def _same_spec(
    spec: ModelSpec, shapes: dict[str, tuple[int | None, ...]], batch: int | None
) -> ModelSpec:
    outputs = []
    for tensor in spec.outputs:
        # What inference leaves open the spec may know: it was measured, or described.
        sizes = shapes[tensor.name][1:]
        own = tensor.shape[1:] if len(tensor.shape) == len(sizes) + 1 else sizes
        known = [size or was for size, was in zip(sizes, own, strict=True)]
        outputs.append(TensorSpec(tensor.name, (batch, *known), tensor.dtype))
    image = TensorSpec(spec.input.name, (batch, *spec.input.shape[1:]))
    return replace(spec, input=image, outputs=tuple(outputs))


def _raw_head_spec(
    found: Recognised,
    heads: DetectorHeads,
    shapes: dict[str, tuple[int | None, ...]],
    batch: int | None,
    path: Path,
) -> tuple[ModelSpec, list[str]]:
    """The spec of the cut detector, levels by rising stride, and its taps in that order."""
    source = found.source_spec
    height, _ = source.input_hw
    levels: list[tuple[int, list[str]]] = []
    for first in heads.maps[0]:
        rows, columns = shapes[first][2:] if len(shapes[first]) == 4 else (None, None)
        if not rows or not columns:
            raise ModelFileError(f"{path}: the logits {first!r} have no fixed size at this input")
        level = [first]
        for kind in heads.maps[1:]:
            same = [name for name in kind if shapes[name][2:] == (rows, columns)]
            if len(same) != 1:
                raise ModelFileError(
                    f"{path}: no single map fits the logits {first!r} of shape {shapes[first]}; "
                    "describe the model with --spec FILE"
                )
            level += same
        levels.append((round(height / rows), level))
    levels.sort()
    strides = tuple(stride for stride, _ in levels)
    kinds = _MAP_KINDS[heads.codec]
    taps = [level[index] for index in range(len(kinds)) for _, level in levels]
    names = [f"{kind}_{stride}" for kind in kinds for stride in strides]
    spec = replace(
        source,
        codec=heads.codec,
        input=TensorSpec(source.input.name, (batch, *source.input.shape[1:])),
        outputs=tuple(
            TensorSpec(name, (batch, *shapes[tap][1:]))
            for name, tap in zip(names, taps, strict=True)
        ),
        strides=strides,
    )
    return spec, taps


def _rename(model: Any, names: dict[str, str]) -> None:
    for node in model.graph.node:
        rename_reads(node, names)
        for index, name in enumerate(node.output):
            if name in names:
                node.output[index] = names[name]


def _set_outputs(model: Any, spec: ModelSpec) -> None:
    import onnx

    del model.graph.output[:], model.graph.value_info[:]
    for tensor in spec.outputs:
        dtype = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}[tensor.dtype]
        shape = [
            size or ("batch" if axis == 0 else f"{tensor.name}_{axis}")
            for axis, size in enumerate(tensor.shape)
        ]
        model.graph.output.append(onnx.helper.make_tensor_value_info(tensor.name, dtype, shape))


def _check(model: Any, path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # our own rewriting broke it: keep the trace for the report
        reason = " ".join(str(error).split())[:300]
        raise ModelFileError(f"{path}: the prepared graph is invalid: {reason}") from error
