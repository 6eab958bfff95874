"""What TensorRT's parser takes and what it does not, before a device has to say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from converters.formats.tensorrt_check import OPERATORS, check_network
from edge.errors import ModelFileError

onnx = pytest.importorskip("onnx")
TYPE = onnx.TensorProto


def network(
    nodes: list[Any], weights: dict[str, Any] | None = None, *, opset: int = 17, size: Any = 8
) -> Any:
    """A graph from ``input`` (1, 3, 8, 8) to ``output``."""
    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("input", TYPE.FLOAT, [1, 3, 8, size])],
        [helper.make_tensor_value_info("output", TYPE.FLOAT, None)],
        [
            onnx.numpy_helper.from_array(np.asarray(value), name)
            for name, value in (weights or {}).items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def node(op: str, *inputs: str, output: str = "output", name: str = "it", **attributes: Any) -> Any:
    return onnx.helper.make_node(op, list(inputs), [output], name=name, **attributes)


F32, I64, I8 = np.float32, np.int64, np.int8
HALVES = {"f": np.array([1, 1, 2, 2], F32)}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown": (
        lambda: network([node("Det", "input", name="/head/Det")]),
        r"made: TensorRT has no operator Det \(node '/head/Det'\); the formats that have it: onnx",
    ),
    "nameless": (
        lambda: network([node("Compress", "input", "c", name="")], {"c": np.array([True])}),
        r"operator Compress \(node 'output'\)",
    ),
    "inside a branch": (
        lambda: network(
            [
                node(
                    "If",
                    "c",
                    then_branch=onnx.helper.make_graph(
                        [node("Unique", "input", output="t", name="deep")], "a", [], []
                    ),
                    else_branch=onnx.helper.make_graph(
                        [node("Relu", "input", output="t")], "b", [], []
                    ),
                )
            ],
            {"c": np.array(True)},
        ),
        r"operator Unique \(node 'deep'\)",
    ),
    "plugin": (
        lambda: network([node("TRTBatchedNMS", "input", domain="mmdeploy")]),
        r"no operator mmdeploy\.TRTBatchedNMS .* without a plugin",
    ),
    "suppression": (
        lambda: network([node("NonMaxSuppression", "input", "input")]),
        r"does not take NonMaxSuppression 'it': the number of its boxes depends on the image",
    ),
    "cubic": (
        lambda: network([node("Resize", "input", "", "f", mode="cubic")], HALVES),
        r"Resize 'it': mode is cubic, and nearest, linear are taken",
    ),
    "crop": (
        lambda: network(
            [node("Resize", "input", "", "f", coordinate_transformation_mode="tf_crop_and_resize")],
            HALVES,
        ),
        r"coordinate_transformation_mode is tf_crop_and_resize",
    ),
    "antialias": (
        lambda: network(
            [node("Resize", "input", "", "f", mode="linear", antialias=1)], HALVES, opset=19
        ),
        r"antialias is 1, and 0 are taken",
    ),
    "dilated pool": (
        lambda: network([node("MaxPool", "input", kernel_shape=[2, 2], dilations=[2, 2])]),
        r"MaxPool 'it': its windows have dilations",
    ),
    "top k": (
        lambda: network([node("TopK", "input", "k")], {"k": np.array([4000], I64)}),
        r"TopK 'it': it takes 4000 values, and 3840 at most",
    ),
    "zero point": (
        lambda: network(
            [node("QuantizeLinear", "input", "s", "z")],
            {"s": np.array(0.1, F32), "z": np.array(3, I8)},
        ),
        r"QuantizeLinear 'it': its zero point is not 0 of int8",
    ),
    "unsigned": (
        lambda: network(
            [node("QuantizeLinear", "input", "s", "z")],
            {"s": np.array(0.1, F32), "z": np.array(0, np.uint8)},
        ),
        r"its zero point is not 0 of int8",
    ),
    "no zero point": (
        lambda: network([node("QuantizeLinear", "input", "s")], {"s": np.array(0.1, F32)}),
        r"its scale and its zero point must both be constants",
    ),
    "negative scale": (
        lambda: network(
            [node("QuantizeLinear", "input", "s", "z")],
            {"s": np.array(-0.1, F32), "z": np.array(0, I8)},
        ),
        r"its scale is not positive",
    ),
    "double": (
        lambda: network([node("Add", "input", "d")], {"d": np.array([1.0], np.float64)}),
        r"no double weights \('d'\)",
    ),
    "beyond int32": (
        lambda: network([node("Reshape", "input", "s")], {"s": np.array([1, 2**33], I64)}),
        r"'s' has values beyond int32",
    ),
    "old": (lambda: network([node("Relu", "input")], opset=8), r"opset 9 and newer, .* has 8"),
    "new": (lambda: network([node("Relu", "input")], opset=25), r"up to 24, the file has 25"),
    "open size": (
        lambda: network([node("Relu", "input")], size="w"),
        r"'input' has an open size beside its batch; fix it with --size HxW",
    ),
    "nine dimensions": (
        lambda: network([node("Reshape", "input", "s")], {"s": np.array([1] * 7 + [3, 64], I64)}),
        r"'output' has 9 dimensions, TensorRT has up to 8",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_tensorrt_does_not_take_is_refused_by_name(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(ModelFileError, match=words) as caught:
        check_network(make(), "made")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("op", "opset", "oldest"),
    [
        *(("Relu", 13, (8, 2)), ("Relu", 17, (8, 5)), ("Relu", 19, (10, 0))),
        *(("Relu", 24, (10, 15)), ("HardSwish", 14, (8, 5)), ("Hardmax", 13, (10, 0))),
        ("Gelu", 20, (10, 15)),
    ],
)
def test_the_oldest_version_follows_from_operators_and_opset(
    op: str, opset: int, oldest: tuple[int, int]
) -> None:
    assert check_network(network([node(op, "input")], opset=opset), "made") == oldest


def test_a_slice_to_the_end_is_taken() -> None:
    weights = {
        "b": np.array([0], I64),
        "e": np.array([np.iinfo(I64).max], I64),
        "a": np.array([2], I64),
    }
    assert check_network(network([node("Slice", "input", "b", "e", "a")], weights), "made") == (
        8,
        5,
    )


def test_the_table_holds_operators_that_onnx_has() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert set(OPERATORS) <= known
    assert len(OPERATORS) > 130
