"""Reading ONNX files of unknown origin, and the few graph questions that the room asks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from converters.graph.border import settle_image_input
from converters.graph.bounds import check_tensors, refuse_giants
from converters.graph.data_files import read_data
from converters.graph.file_kind import looks_like_onnx, refuse_other_kind
from converters.graph.floats import as_float32
from converters.graph.operators import check_operators, check_versions
from converters.graph.repair import put_right
from converters.graph.walk import all_names, reads
from edge.errors import ModelFileError, first_line
from edge.session import Array, import_engine

__all__ = ["Graph", "drop_unused", "image_input_shape", "load_onnx", "output_shapes"]


def load_onnx(path: Path) -> Any:
    """Load an ONNX file of any origin, in the one form that the kit works on.

    What ONNX Runtime runs is taken, whatever the checker says of it: nodes out of order, outputs
    without a shape, weights in other files, sparse or listed as inputs, local functions, sizes of
    0 or -1 for open ones, networks in halves (they compute in float32 then, with the same
    weights), an image with its channels last or of uint8 that becomes floats at once. No answer
    changes by that.

    Raises ModelFileError, in one line that names the cause, for a file that is something else, has
    a companion missing, is truncated or damaged, is too new or too old, holds operators that no
    schema knows or tensors beyond any network's, and for one whose input is no image.
    """
    refuse_other_kind(path, "onnx")
    model = _parsed(path)
    if not model.graph.node or not model.opset_import:
        raise ModelFileError(f"{path}: not an ONNX file: it holds no graph")
    read_data(model, path)
    check_versions(model, path)
    model = put_right(model, path)
    check_tensors(model, path)
    check_operators(model, path)
    refuse_giants(model, path)
    settle_image_input(model)
    as_float32(model)
    _check(model, path)
    image_input_shape(model, path)
    return model


def _parsed(path: Path) -> Any:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
        # What is no text comes as bytes.
        if all(isinstance(name, str) for name in all_names(model)):
            return model
        reason = "a name in it is no text"
    except Exception as error:  # protobuf's DecodeError, no permission
        reason = first_line(error)
    with path.open("rb") as stream:
        begins_so = looks_like_onnx(stream.read(8))
    what = "a truncated or damaged ONNX file" if begins_so else "not an ONNX file"
    raise ModelFileError(f"{path}: {what} ({reason}); download or export it again")


def _check(model: Any, path: Path) -> None:
    """Raise ModelFileError for a graph that does not hold together.

    The checker wants more than engines need (the shapes of outputs, say): where it complains, ONNX
    Runtime has the last word.
    """
    import onnx

    _infer_missing_outputs(model)
    try:
        onnx.checker.check_model(model)
        return
    except Exception as error:  # a ValidationError, or what protobuf says
        reason = first_line(error)
    runtime = import_engine("onnxruntime", "onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # its exceptions share no base class but Exception
        raise ModelFileError(f"{path}: damaged ONNX: {reason}; export it again") from None


def _infer_missing_outputs(model: Any) -> None:
    """Types and shapes, in place, of outputs that are declared without."""
    import onnx

    missing = [value for value in model.graph.output if not _is_declared(value)]
    if not missing:
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # inference is a help here, not a requirement
        return
    known = {value.name: value for value in inferred.graph.output if _is_declared(value)}
    for value in missing:
        if value.name in known:
            value.CopyFrom(known[value.name])


def _is_declared(value: Any) -> bool:
    tensor = value.type.tensor_type
    return bool(tensor.elem_type) and tensor.HasField("shape")


def image_input_shape(model: Any, path: Path) -> tuple[str, tuple[int | None, ...]]:
    """Name and shape (N, 3, H, W) of the only input, None for dynamic dimensions.

    Raises ModelFileError when that is not one float32 image.
    """
    import onnx

    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    shown = [_describe(value) for value in inputs]
    fix = "a pose or detection model takes one float32 image of shape (N, 3, H, W)"
    if len(inputs) != 1:
        raise ModelFileError(
            f"{path}: {len(inputs)} inputs ({', '.join(shown) or 'none'}); {fix}: export it with "
            "the image alone"
        )
    tensor = inputs[0].type.tensor_type
    shape = tuple(_size(dimension) for dimension in tensor.shape.dim)
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(shape) != 4 or shape[1] not in (3, None):
        raise ModelFileError(f"{path}: the input is not an image: {shown[0]}; {fix}")
    return inputs[0].name, (shape[0], 3, *shape[2:])


def output_shapes(model: Any) -> list[tuple[str, tuple[int | None, ...]]]:
    """Name and shape of each output, None for what neither the file nor inference says."""
    import onnx

    # A file may leave its output shapes open; inference fills in what follows from the graph.
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # inference is a help here, not a requirement
        inferred = model
    return [
        (value.name, tuple(_size(dim) for dim in value.type.tensor_type.shape.dim))
        for value in inferred.graph.output
    ]


def _size(dimension: Any) -> int | None:
    # Sizes of 0 and below are how some exporters write an open one.
    return dimension.dim_value if dimension.dim_value > 0 else None


def _describe(value: Any) -> str:
    import onnx

    kind = value.type.WhichOneof("value") or "no type"
    if kind != "tensor_type":
        return f"{value.name} ({kind.removesuffix('_type').replace('_', ' ')})"
    tensor = value.type.tensor_type
    try:
        dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    except ValueError:
        dtype = f"type {tensor.elem_type}"
    shape = ["?" if _size(d) is None else str(_size(d)) for d in tensor.shape.dim]
    return f"{value.name} {dtype} ({', '.join(shape)})"


class Graph:
    """A view of an ONNX model's main graph by tensor name; the model itself stays the truth."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.producer: dict[str, Any] = {}
        self.consumers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.output:
                self.producer[name] = node
            for name in reads(node):
                self.consumers.setdefault(name, []).append(node)
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}

    def constant(self, name: str) -> Array | None:
        """Value of an initializer or a Constant node's output, None for anything computed."""
        from onnx import numpy_helper

        tensor = self._initializers.get(name)
        if tensor is None:
            node = self.producer.get(name)
            if node is None or node.op_type not in ("Constant", "Identity", "Cast"):
                return None
            if node.op_type != "Constant":
                inner = self.constant(node.input[0])
                # Weights may be stored as float16 behind a Cast; their value is what counts here.
                return None if inner is None else np.asarray(inner)
            tensor = next((a.t for a in node.attribute if a.name == "value"), None)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def scalar(self, name: str) -> float | None:
        """Value of a constant of one element, None for anything else."""
        value = self.constant(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def needed_by(self, outputs: Iterable[str]) -> list[Any]:
        """The nodes that some tensors depend on, in the model's order."""
        wanted: set[str] = set()
        stack = list(outputs)
        seen: set[int] = set()
        while stack:
            name = stack.pop()
            if name in wanted:
                continue
            wanted.add(name)
            node = self.producer.get(name)
            if node is not None and id(node) not in seen:
                seen.add(id(node))
                stack.extend(reads(node))
        return [node for node in self.model.graph.node if id(node) in seen]


def drop_unused(model: Any) -> None:
    """Remove nodes and weights that no output depends on, in place."""
    outputs = [value.name for value in model.graph.output]
    nodes = Graph(model).needed_by(outputs)
    used = {name for node in nodes for name in reads(node)}.union(outputs)
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights)
