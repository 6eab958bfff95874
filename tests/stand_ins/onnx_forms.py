"""One network in the many forms in which exporters and tools write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import tiny_simcc_model

__all__ = ["FORMS", "float_types", "saved_with_data", "tiny"]


def tiny() -> Any:
    """The network itself: opset 17, a ScaleNorm, an open batch."""
    return tiny_simcc_model(scale_norm=True)


def float_types(model: Any, kind: int) -> Any:
    """Every float of a network, its input and outputs included, of another type."""
    import ml_dtypes
    from onnx import TensorProto, helper, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor)
            if kind == TensorProto.BFLOAT16:
                bits = value.astype(ml_dtypes.bfloat16).view(np.uint16)
                raw = helper.make_tensor(tensor.name, kind, value.shape, bits.tobytes(), raw=True)
                tensor.CopyFrom(raw)
            else:
                dtype = helper.tensor_dtype_to_np_dtype(kind)
                tensor.CopyFrom(numpy_helper.from_array(value.astype(dtype), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    return model


def half_inside(model: Any) -> Any:
    """Halves between float32 ends; the conversions stand last, as onnxconverter-common has it."""
    from onnx import TensorProto, helper

    float_types(model, TensorProto.FLOAT16)
    graph = model.graph
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = "input_half" if name == "input" else name
        for index, name in enumerate(node.output):
            node.output[index] = f"{name}_half" if name.startswith("simcc") else name
    graph.node.append(helper.make_node("Cast", ["input"], ["input_half"], to=TensorProto.FLOAT16))
    for value in graph.output:
        cast = helper.make_node("Cast", [f"{value.name}_half"], [value.name], to=TensorProto.FLOAT)
        graph.node.append(cast)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return model


def of_type(name: str) -> Callable[[Any], Any]:
    """All floats of that type."""

    def change(model: Any) -> Any:
        from onnx import TensorProto

        return float_types(model, TensorProto.DataType.Value(name))

    return change


def converted(opset: int) -> Callable[[Any], Any]:
    """The same in another opset, by ONNX's own converter."""

    def change(model: Any) -> Any:
        import onnx

        return onnx.version_converter.convert_version(model, opset)

    return change


def stated(opset: int) -> Callable[[Any], Any]:
    """The network as it is, whose operators mean the same there."""

    def change(model: Any) -> Any:
        model.opset_import[0].version = opset
        return model

    return change


def older(opset: int) -> Callable[[Any], Any]:
    """Up to opset 10 the limits of Clip are attributes; the rest of the network is as old."""

    def change(model: Any) -> Any:
        from onnx import helper

        clip = next(node for node in model.graph.node if node.op_type == "Clip")
        del clip.input[1:]
        clip.attribute.append(helper.make_attribute("min", 1e-5))
        model.opset_import[0].version = opset
        model.ir_version = 4
        return model

    return change


def reversed_nodes(model: Any) -> Any:
    """Every node before those that it reads."""
    nodes = [type(node).FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    return model


def batch_of(size: int) -> Callable[[Any], Any]:
    """A number that is no size as the batch, and as every size of the outputs."""

    def change(model: Any) -> Any:
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = size
        for value in model.graph.output:
            for dimension in value.type.tensor_type.shape.dim:
                dimension.dim_value = size
        return model

    return change


def without_output_shapes(model: Any) -> Any:
    """Outputs of a type alone."""
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model


def weights_as_inputs(model: Any) -> Any:
    """IR version 3: every weight is an input as well."""
    from onnx import helper

    model.ir_version = 3
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(value)
    return model


def newer_ir(model: Any) -> Any:
    """A version of the file format that ONNX knows and ONNX Runtime does not."""
    import onnx

    model.ir_version = onnx.IR_VERSION
    return model


def idle_input(model: Any) -> Any:
    """A second input that nothing reads."""
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("im_shape", TensorProto.FLOAT, [1, 2])
    model.graph.input.append(value)
    return model


def functions(model: Any) -> Any:
    """The last products inside a function that calls another one, of two domains."""
    from onnx import helper

    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("inner", 1)]
    product = helper.make_node("MatMul", ["a", "b"], ["c"])
    call = helper.make_node("Product", ["a", "b"], ["c"], domain="inner")
    model.functions.extend(
        [
            helper.make_function("outer", "Head", ["a", "b"], ["c"], [call], opsets),
            helper.make_function("inner", "Product", ["a", "b"], ["c"], [product], opsets[:1]),
        ]
    )
    model.opset_import.extend([helper.make_opsetid("outer", 1), opsets[1]])
    for node in model.graph.node:
        if node.op_type == "MatMul":
            node.op_type, node.domain = "Head", "outer"
    return model


def sparse(model: Any) -> Any:
    """The weights of a product by their places, of both ways to say these."""
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    for axis in ("x", "y"):
        tensor = next(one for one in graph.initializer if one.name == f"w_{axis}")
        value = numpy_helper.to_array(tensor)
        places = np.argwhere(value) if axis == "x" else np.flatnonzero(value)
        sparse_tensor = onnx.SparseTensorProto(dims=value.shape)
        sparse_tensor.values.CopyFrom(numpy_helper.from_array(value[value != 0], tensor.name))
        sparse_tensor.indices.CopyFrom(numpy_helper.from_array(places.astype(np.int64)))
        graph.sparse_initializer.append(sparse_tensor)
        graph.initializer.remove(tensor)
    return model


def branch(model: Any) -> Any:
    """A product in the branches of an If, which read a tensor and a weight from outside."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    product = next(node for node in graph.node if node.op_type == "MatMul")

    def body(name: str) -> Any:
        inner = helper.make_node("MatMul", list(product.input), [f"{name}.product"])
        # A weight of its own, too.
        scaled = helper.make_node("Mul", [f"{name}.product", f"{name}.one"], [f"{name}.out"])
        return helper.make_graph(
            [inner, scaled],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.float32(1), f"{name}.one")],
        )

    # It depends on the picture, so that nothing folds it away.
    lowest = helper.make_node("ReduceMin", ["input"], ["lowest"], keepdims=0)
    condition = helper.make_node("Less", ["lowest", "limit"], ["condition"])
    graph.initializer.append(numpy_helper.from_array(np.float32(1e9), "limit"))
    choice = helper.make_node(
        "If", ["condition"], list(product.output), then_branch=body("yes"), else_branch=body("no")
    )
    graph.node.remove(product)
    graph.node.extend([lowest, condition, choice])
    return model


def odd_names(model: Any) -> Any:
    """Blanks, umlauts and line ends in the names of tensors and nodes."""
    names = {name: f'ä {name},\n"=' for node in model.graph.node for name in node.output}
    names["input"] = "the input:0"
    for node in model.graph.node:
        node.name = f"node ß\t{node.op_type}"
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = names.get(name, name)
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]
    return model


def channels_last(model: Any) -> Any:
    """A picture as TensorFlow lays it out, turned by the graph."""
    from onnx import helper

    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = "turned" if name == "input" else name
    turn = helper.make_node("Transpose", ["input"], ["turned"], perm=[0, 3, 1, 2])
    model.graph.node.insert(0, turn)
    sizes: Sequence[Any] = ["batch", 64, 48, 3]
    kind = model.graph.input[0].type.tensor_type.elem_type
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", kind, sizes))
    return model


def saved_with_data(model: Any, path: Path) -> None:
    """Save with the weights in PATH.data."""
    import onnx

    name = f"{path.name}.data"
    path.with_name(name).unlink(missing_ok=True)  # it would be written behind
    onnx.save(model, path, save_as_external_data=True, location=name, size_threshold=0)


FORMS: dict[str, Callable[[Any], Any]] = {
    "bfloat16": of_type("BFLOAT16"),
    "float16": of_type("FLOAT16"),
    "double": of_type("DOUBLE"),
    "half inside, conversions last": half_inside,
    "nodes reversed": reversed_nodes,
    "batch 0": batch_of(0),
    "batch -1": batch_of(-1),
    "outputs without shape": without_output_shapes,
    "IR 3, weights as inputs": weights_as_inputs,
    "newest IR": newer_ir,
    "an idle input": idle_input,
    "nested functions": functions,
    "sparse weights": sparse,
    "If": branch,
    "odd names": odd_names,
    "channels last": channels_last,
    **{f"opset {opset}": older(opset) for opset in (9, 10)},
    **{f"opset {opset}": stated(opset) for opset in (11, 13)},
    **{f"opset {opset}": converted(opset) for opset in (18, 20, 21, 23, 27)},
}
