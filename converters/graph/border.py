"""An image input of another layout or type, as the float32 (N, 3, H, W) that the kit feeds."""

from __future__ import annotations

from typing import Any

from converters.graph.walk import reads, rename_reads

__all__ = ["settle_image_input", "takes_grey_levels"]

_GREY_LEVELS = "edgepose.input_was_uint8"
# What moves values without looking at them, whatever their type.
_MOVES = {
    *("Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze"),
    *("Transpose", "Unsqueeze"),
}


def settle_image_input(model: Any) -> None:
    """Let the image input be float32 with its channels first, in place, where that changes nothing.

    Channels last (TensorFlow's layout) get a Transpose, which simplifying joins with the graph's
    own. An input of whole grey levels (uint8) that the graph turns into floats takes floats at
    once; it is marked, for what is fed must be grey levels then.
    """
    inputs = model.graph.input
    if len(inputs) != 1:
        return
    value = inputs[0]
    sizes = value.type.tensor_type.shape.dim
    if len(sizes) == 4 and sizes[3].dim_value == 3 and sizes[1].dim_value != 3:
        _channels_first(model, value)
    _as_floats(model, value)


def takes_grey_levels(model: Any) -> bool:
    """Whether a loaded file's input was uint8: it takes grey levels 0..255 as they are."""
    return any(entry.key == _GREY_LEVELS for entry in model.metadata_props)


def _channels_first(model: Any, value: Any) -> None:
    from onnx import helper

    name, inner = value.name, f"{value.name}.channels_last"
    for node in model.graph.node:
        rename_reads(node, {name: inner})
    turn = helper.make_node("Transpose", [name], [inner], name=inner, perm=[0, 2, 3, 1])
    model.graph.node.insert(0, turn)
    dims = value.type.tensor_type.shape.dim
    order = [type(dims[0]).FromString(dims[axis].SerializeToString()) for axis in (0, 3, 1, 2)]
    del dims[:]
    dims.extend(order)


def _as_floats(model: Any, value: Any) -> None:
    from onnx import TensorProto

    if value.type.tensor_type.elem_type != TensorProto.UINT8:
        return
    moved = {value.name}
    for node in model.graph.node:
        of_image = moved & reads(node)
        if not of_image or node.op_type in ("Shape", "Size"):
            continue
        if node.op_type == "Cast":
            # To integers it would cut off what a float may hold.
            kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
            if next((a.i for a in node.attribute if a.name == "to"), 0) not in kinds:
                return
        elif node.op_type in _MOVES:
            moved.update(node.output)
        else:
            return
    if moved & {output.name for output in model.graph.output}:
        return
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    doubtful = [one for one in model.graph.value_info if one.name in moved]
    for one in doubtful:
        one.type.tensor_type.elem_type = TensorProto.FLOAT
    model.metadata_props.add(key=_GREY_LEVELS, value="1")
