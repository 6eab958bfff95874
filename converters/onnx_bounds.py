"""How much a model may ask for: a small file can describe tensors of any size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from converters.onnx_walk import all_tensors, reads
from edge.errors import ModelFileError

__all__ = ["check_tensors", "refuse_giants"]

# The largest tensor of a published pose or detection network at its input size has some 100 MB.
_MOST_TENSOR_BYTES = 512 << 20
# What follows from constants alone is computed before anything runs, and kept.
_MOST_FOLDED_BYTES = 256 << 20
_ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}


def check_tensors(model: Any, path: Path) -> None:
    """Raise ModelFileError for a stored tensor whose type, shape and bytes do not fit together."""
    for tensor in all_tensors(model):
        wrong = _misfit(tensor)
        if wrong:
            raise ModelFileError(
                f"{path}: damaged ONNX: the constant {tensor.name or 'of an attribute'!r} does not "
                f"fit its type and shape ({wrong}); export it again"
            )


def _misfit(tensor: Any) -> str | None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type not in TensorProto.DataType.values() or not tensor.data_type:
        return f"type {tensor.data_type}"
    count, stored = math.prod(tensor.dims), tensor.ByteSize()
    # The smallest types put four values into a byte.
    if any(size < 0 for size in tensor.dims) or count > 4 * stored:
        return f"shape {list(tensor.dims)}, {stored} bytes"
    try:
        numpy_helper.to_array(tensor)
    except Exception as error:  # its exceptions share no base class but Exception
        return (str(error) or type(error).__name__).splitlines()[0]
    return None


def refuse_giants(model: Any, path: Path) -> None:
    """Raise ModelFileError for a tensor that is too large to be one of a pose or detection network.

    Looked at before anything is computed: what inference can tell of shapes, for tensors of any
    kind, and all that follows from constants alone, which would be computed when it is read.
    """
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # a graph that does not hold together; whoever checks it says so
        return
    bytes_of: dict[str, int] = {}
    shapes: dict[str, list[int]] = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input):
        tensor = value.type.tensor_type
        sizes = [max(d.dim_value, 0) if d.HasField("dim_value") else 1 for d in tensor.shape.dim]
        shapes[value.name] = sizes
        bytes_of[value.name] = math.prod(sizes) * _ELEMENT_BYTES.get(tensor.elem_type, 4)
    constant = {tensor.name for tensor in model.graph.initializer}
    stored = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    folded = 0
    for node in model.graph.node:
        is_constant = constant.issuperset(reads(node)) and node.op_type != "Constant"
        if is_constant or node.op_type == "Constant":
            constant.update(node.output)
        for name in node.output:
            size = bytes_of.get(name, 0)
            folded += size if is_constant else 0
            if size > _MOST_TENSOR_BYTES or folded > max(_MOST_FOLDED_BYTES, 3 * stored):
                shape = "x".join(map(str, shapes.get(name, [])))
                raise ModelFileError(
                    f"{path}: node {node.name or name!r} ({node.op_type}) makes a tensor of "
                    f"{shape}, {max(size, folded) / 1e9:.1f} GB, more than any pose or detection "
                    "network holds; export the model again"
                )
