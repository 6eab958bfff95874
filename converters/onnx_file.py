"""Reading ONNX files of unknown origin, and the few graph questions that the room asks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import ModelFileError
from edge.session import Array

__all__ = ["Graph", "image_input_shape", "load_onnx", "output_shapes"]

_STANDARD_DOMAINS = ("", "ai.onnx")


def load_onnx(path: Path) -> Any:
    """Load and check an ONNX file.

    Raises ModelFileError, in one line, for a file that is no ONNX, a truncated one, one with
    operators outside the standard, and one whose input is not an image.
    """
    import onnx

    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's DecodeError, external data missing, no permission
        raise ModelFileError(
            f"{path}: not an ONNX file, or a truncated one ({_one_line(error)}); "
            "download or export it again"
        ) from None
    if not model.graph.node or not model.opset_import:
        raise ModelFileError(f"{path}: not an ONNX file: it holds no graph")
    for node in model.graph.node:
        if node.domain not in _STANDARD_DOMAINS:
            raise ModelFileError(
                f"{path}: node {node.name or node.output[0]!r} is the custom operator "
                f"{node.domain}::{node.op_type}, which no converter knows; export the model "
                "without it (for mmdeploy: with the onnxruntime backend's configuration)"
            )
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelFileError(f"{path}: damaged ONNX: {_one_line(error)}; export it again") from None
    image_input_shape(model, path)
    return model


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
        raise ModelFileError(f"{path}: {len(inputs)} inputs ({', '.join(shown) or 'none'}); {fix}")
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
        (value.name, tuple(_size(dim) or None for dim in value.type.tensor_type.shape.dim))
        for value in inferred.graph.output
    ]


def _size(dimension: Any) -> int | None:
    return dimension.dim_value if dimension.HasField("dim_value") else None


def _describe(value: Any) -> str:
    import onnx

    tensor = value.type.tensor_type
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    shape = ["?" if _size(d) is None else str(_size(d)) for d in tensor.shape.dim]
    return f"{value.name} {dtype} ({', '.join(shape)})"


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


class Graph:
    """A view of an ONNX model's main graph by tensor name; the model itself stays the truth."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.producer: dict[str, Any] = {}
        self.consumers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.output:
                self.producer[name] = node
            for name in node.input:
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
                stack.extend(node.input)
        return [node for node in self.model.graph.node if id(node) in seen]
