"""The ONNX file of an mmdeploy SDK model, under the names that its decoder knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from converters.graph.file import image_input_shape, load_onnx, output_shapes
from converters.graph.run_once import Shape, known_shapes
from converters.sdk.pipeline import Preprocess
from converters.sdk.values import Json, by
from edge.errors import ModelFileError
from edge.spec import TensorSpec

__all__ = ["Network", "read_network"]


@dataclass(frozen=True)
class Network:
    """The ONNX file's tensors; ``outputs`` are under the names that the decoder knows them by."""

    path: Path
    model: Any
    input: TensorSpec
    outputs: dict[str, TensorSpec]

    def output(self, name: str, decoder: Json) -> TensorSpec:
        """An output by the name that the decoder reads."""
        if name not in self.outputs:
            decoder.at("component").refuse(
                f"is {decoder.at('component').text()!r}, which reads {name!r}, but {self.path} "
                f"gives {', '.join(self.outputs)}; name the right one in the Net's output_map"
            )
        return self.outputs[name]

    def measured(self, tensor: TensorSpec, first: int) -> TensorSpec:
        """The tensor with its sizes from axis ``first`` on, which running the file once tells."""
        if None not in tensor.shape[first:]:
            return tensor
        shapes = dict(known_shapes(self.model, self.path, self.input.name, self.input.shape))
        known = (*tensor.shape[:first], *shapes[tensor.name][first:])
        return TensorSpec(tensor.name, known, tensor.dtype)

    def shaped(self, tensor: TensorSpec, want: Shape, why: str) -> TensorSpec:
        """The tensor with the sizes filled in that the file leaves open; others must agree."""
        pairs = list(zip(tensor.shape, want, strict=False))
        if len(tensor.shape) != len(want) or any(
            None not in pair and pair[0] != pair[1] for pair in pairs
        ):
            raise ModelFileError(
                f"{self.path}: output {tensor.name} is of shape {by(tensor.shape)}, but {why} "
                f"needs {by(want)}"
            )
        shape = tuple(has if wanted is None else wanted for has, wanted in pairs)
        return TensorSpec(tensor.name, shape, tensor.dtype)


def read_network(path: Path, net: Json, precision: Json, preprocess: Preprocess) -> Network:
    """Read the file; whatever contradicts the Net's maps or the input's size is refused."""
    try:
        model = load_onnx(path)
    except ModelFileError as error:
        if precision.text() == "FP32":
            raise
        raise ModelFileError(
            f"{error} ({precision} is {precision.text()}: export the model in FP32, the kit makes "
            "its own FP16)"
        ) from None
    image = _input(model, path, preprocess)
    fed = net.at("input_map").at("img")
    if fed.text() != image.name:
        fed.refuse(f"is {fed.text()!r}, but the input of {path} is {image.name!r}")
    tensors = _output_tensors(model, path)
    renamed: dict[str, TensorSpec] = {}
    output_map = net.find("output_map") or Json({}, "")
    for outer in output_map.names():
        inner = output_map.at(outer)
        if inner.text() not in tensors:
            inner.refuse(f"is {inner.text()!r}, but the outputs of {path} are {', '.join(tensors)}")
        renamed[outer] = tensors[inner.text()]
    hidden = {tensor.name for tensor in renamed.values()}
    kept = {name: tensor for name, tensor in tensors.items() if name not in hidden}
    return Network(path, model, image, kept | renamed)


def _output_tensors(model: Any, path: Path) -> dict[str, TensorSpec]:
    import onnx

    dtypes: dict[int, Literal["float32", "int64"]] = {
        onnx.TensorProto.FLOAT: "float32",
        onnx.TensorProto.INT64: "int64",
    }
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    tensors = {}
    for name, shape in output_shapes(model):
        if types[name] not in dtypes:
            kind = onnx.TensorProto.DataType.Name(types[name]).lower()
            raise ModelFileError(
                f"{path}: output {name} is {kind}, only float32 and int64 are read; export "
                "the model in FP32"
            )
        tensors[name] = TensorSpec(name, shape, dtypes[types[name]])
    return tensors


def _input(model: Any, path: Path, preprocess: Preprocess) -> TensorSpec:
    width, height = preprocess.size.size()
    name, (batch, channels, *fixed_hw) = image_input_shape(model, path)
    if any(has not in (None, want) for has, want in zip(fixed_hw, (height, width), strict=True)):
        raise ModelFileError(
            f"{preprocess.size} is {by((width, height))} (width x height), but the input of "
            f"{path} is {by(fixed_hw[::-1])}; export the model again or correct the file "
            "that is wrong"
        )
    return TensorSpec(name, (batch, channels, height, width))
