"""Another input size for a file whose size is fixed, where its network works at any."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.errors import SpecError
from edge.files import cache_folder, replacing
from edge.spec import ModelSpec, TensorSpec
from edge.texts import parse_json

__all__ = ["sized_copy"]

# What computes every cell from its surroundings alone, or from the means of whole maps.
_SIZE_FREE = {
    *("AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "MaxPool", "Resize"),
    *("BatchNormalization", "Cast", "Concat", "Constant", "Identity"),
    *("Add", "Div", "Mul", "Pow", "Sub"),
    *("Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid"),
    *("Softplus", "Tanh"),
}
_CHANNELS = 1


def sized_copy(path: Path, input_hw: tuple[int, int]) -> Path:
    """The file with its input fixed at ``input_hw``, in the cache; ``path`` where that is not done.

    Done for detectors with raw maps and heatmap models that carry their description and consist
    of convolutions and the like. Everything else (an open input, a size in the weights as SimCC
    has it, another kind of file) is left to whoever reads the file.
    """
    import onnx

    from converters.graph.data_files import source_digest
    from converters.graph.file import load_onnx
    from converters.graph.recognise import SPEC_KEY

    if path.suffix != ".onnx" or not path.is_file():
        return path
    model = load_onnx(path)
    entry = next((one for one in model.metadata_props if one.key == SPEC_KEY), None)
    if entry is None or not _is_size_free(model):
        return path
    try:
        spec = _resized(ModelSpec.from_json(parse_json(entry.value, str(path))), input_hw)
    except SpecError:
        return path  # the reader says what is wrong with it
    if spec is None:
        return path
    digest = source_digest(path)[:16]
    height, width = input_hw
    copy = cache_folder() / "sized" / f"{path.stem}-{digest}-{height}x{width}.onnx"
    if copy.is_file():
        return copy
    entry.value = json.dumps(spec.to_json())
    del model.graph.value_info[:]
    for value in model.graph.input:
        if value.name == spec.input.name:
            _set_shape(value, spec.input)
    for value in model.graph.output:
        for tensor in spec.outputs:
            if value.name == tensor.name:
                _set_shape(value, tensor)
    copy.parent.mkdir(parents=True, exist_ok=True)
    with replacing(copy) as private:
        onnx.save(model, private)
    return copy


def _is_size_free(model: Any) -> bool:
    for node in model.graph.node:
        if node.op_type not in _SIZE_FREE:
            return False
        # By a factor, not to a size; and nothing joined along the picture's sides.
        if node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
            return False
        if node.op_type == "Concat" and node.attribute[0].i != _CHANNELS:
            return False
    return True


def _resized(spec: ModelSpec, input_hw: tuple[int, int]) -> ModelSpec | None:
    """The spec at another size; None where it is of that size or no map."""
    height, width = spec.input_hw
    maps = all(len(tensor.shape) == 4 for tensor in spec.outputs)
    if (height, width) == input_hw or spec.codec not in ("rtmdet", "yolox", "heatmap") or not maps:
        return None
    outputs = []
    for tensor in spec.outputs:
        batch, channels, rows, columns = tensor.shape
        if not rows or not columns or height % rows or width % columns:
            return None
        steps = (height // rows, width // columns)
        if input_hw[0] % steps[0] or input_hw[1] % steps[1]:
            return None
        size = (input_hw[0] // steps[0], input_hw[1] // steps[1])
        outputs.append(TensorSpec(tensor.name, (batch, channels, *size), tensor.dtype))
    shape = (*spec.input.shape[:2], *input_hw)
    return replace(spec, input=replace(spec.input, shape=shape), outputs=tuple(outputs))


def _set_shape(value: Any, tensor: TensorSpec) -> None:
    for dimension, size in zip(value.type.tensor_type.shape.dim, tensor.shape, strict=True):
        if size is not None:
            dimension.dim_value = size
