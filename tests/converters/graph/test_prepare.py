from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.graph.file import Graph, load_onnx
from converters.graph.prepare import prepare
from converters.graph.scale_norm import make_scale_norm_fp16_safe
from edge.errors import ModelFileError, SpecError
from edge.session import Array
from edge.spec import ModelSpec
from tests.conftest import tiny_simcc_model

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def run(model: Any, feeds: dict[str, Array]) -> list[Array]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, feeds)]


# --- ScaleNorm ------------------------------------------------------------------------------------

DIM = 256


def scale_norm_graph(spelling: str, dtype: Any = np.float32) -> Any:
    """x / max(dim^-0.5 * ||x||, 1e-5) * g over the last axis of (1, 17, DIM), in several ways."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    opset = 18 if spelling == "reduce_l2_axes_input" else 17

    def constant(name: str, *values: float) -> Any:
        array = np.array(values if len(values) > 1 else values[0], dtype)
        return numpy_helper.from_array(array, name)

    weights = [constant("dim", DIM**-0.5), constant("eps", 1e-5), constant("g", 1.5)]
    if spelling == "reduce_l2":
        norm = [helper.make_node("ReduceL2", ["x"], ["norm"], axes=[-1], keepdims=1)]
    elif spelling == "reduce_l2_axes_input":
        weights.append(numpy_helper.from_array(np.array([2], np.int64), "axes"))
        norm = [helper.make_node("ReduceL2", ["x", "axes"], ["norm"], keepdims=1)]
    else:
        weights.append(numpy_helper.from_array(np.array([-1], np.int64), "axes"))
        weights += [constant("two", 2.0), constant("half", 0.5)]
        square = ["x", "x"] if spelling == "mul_sum_sqrt" else ["x", "two"]
        norm = [
            helper.make_node("Mul" if spelling == "mul_sum_sqrt" else "Pow", square, ["sq"]),
            helper.make_node("ReduceSum", ["sq", "axes"], ["sum"], keepdims=1),
            helper.make_node("Sqrt", ["sum"], ["norm"])
            if spelling == "mul_sum_sqrt"
            else helper.make_node("Pow", ["sum", "half"], ["norm"]),
        ]
    nodes = [
        *norm,
        helper.make_node("Mul", ["dim", "norm"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "eps"], ["clipped"])
        if spelling != "pow_sum_pow"
        else helper.make_node("Max", ["scaled", "eps"], ["clipped"]),
        helper.make_node("Div", ["x", "clipped"], ["unit"]),
        helper.make_node("Mul", ["unit", "g"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "scale_norm",
        [helper.make_tensor_value_info("x", kind, [1, 17, DIM])],
        [helper.make_tensor_value_info("y", kind, [1, 17, DIM])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def as_fp16(model: Any) -> Any:
    """Every float of a graph as half, so that it computes in half."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for tensor in half.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    for value in [*half.graph.input, *half.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del half.graph.value_info[:]
    return half


def naive_scale_norm(x: Array) -> Array:
    wide = x.astype(np.float64)
    norm = np.sqrt((wide**2).sum(-1, keepdims=True)) * DIM**-0.5
    return np.asarray(wide / np.maximum(norm, 1e-5) * 1.5)


SPELLINGS = ["reduce_l2", "reduce_l2_axes_input", "mul_sum_sqrt", "pow_sum_pow"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 274.0])
def test_rewritten_scale_norm_is_the_same_function(spelling: str, scale: float) -> None:
    model = scale_norm_graph(spelling)
    assert make_scale_norm_fp16_safe(model) == 1
    assert "ReduceSum" not in {node.op_type for node in model.graph.node}
    x = (np.random.default_rng(0).normal(0, 1, (1, 17, DIM)) * scale).astype(np.float32)
    np.testing.assert_allclose(run(model, {"x": x})[0], naive_scale_norm(x), rtol=2e-6, atol=1e-6)


def test_plain_scale_norm_overflows_in_half_and_the_rewritten_one_does_not() -> None:
    """The reference evaluator computes in numpy's half: what a phone's FP16 arithmetic does."""
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(1)
    x = rng.normal(0, 120, (1, 17, DIM)).astype(np.float16)  # sums of squares near 3.6e6
    want = naive_scale_norm(x)

    plain = as_fp16(scale_norm_graph("reduce_l2"))
    with np.errstate(over="ignore"):
        broken = np.asarray(ReferenceEvaluator(plain).run(None, {"x": x})[0])
    assert not np.allclose(broken.astype(np.float64), want, rtol=0.05, atol=0.01)

    safe = scale_norm_graph("reduce_l2")
    make_scale_norm_fp16_safe(safe)
    kept = np.asarray(ReferenceEvaluator(as_fp16(safe)).run(None, {"x": x})[0])
    assert kept.dtype == np.float16
    np.testing.assert_allclose(kept.astype(np.float64), want, rtol=0.01, atol=0.01)


def test_other_divisions_are_left_alone() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("ReduceL2", ["x"], ["norm"], axes=[1], keepdims=1),
            helper.make_node("Div", ["x", "norm"], ["y"]),
        ],
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 17, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 17, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    before = model.SerializeToString()
    assert make_scale_norm_fp16_safe(model) == 0
    assert model.SerializeToString() == before


# --- prepare --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_pose_model_is_prepared(tiny_onnx: Path, dynamic_batch: bool) -> None:
    before = tiny_onnx.read_bytes()
    prepared = prepare(tiny_onnx, "tiny", batch=None if dynamic_batch else 1)
    assert tiny_onnx.read_bytes() == before
    spec = prepared.spec
    assert (spec.codec, spec.input_hw, spec.simcc_split_ratio) == ("simcc", (64, 48), 2.0)
    assert spec.color_order == "rgb"
    assert spec.input.shape[0] == (None if dynamic_batch else 1)
    assert prepared.rewritten_scale_norms == 1
    feeds = {"input": np.random.default_rng(2).normal(0, 1, (1, 3, 64, 48)).astype(np.float32)}
    for got, want in zip(run(prepared.model, feeds), run(load_onnx(tiny_onnx), feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    if dynamic_batch:
        assert run(prepared.model, {"input": np.zeros((3, 3, 64, 48), np.float32)})[0].shape[0] == 3


def test_detector_is_cut_to_its_raw_heads(rtmdet_file: Path) -> None:
    prepared = prepare(rtmdet_file, "rtmdet-nano-person")
    spec = prepared.spec
    assert spec.codec == "rtmdet"
    assert spec.strides == (8, 16, 32)
    assert [t.name for t in spec.outputs] == [
        *("logits_8", "logits_16", "logits_32"),
        *("distances_8", "distances_16", "distances_32"),
    ]
    assert [t.shape for t in spec.outputs] == [
        *((1, 1, 40, 40), (1, 1, 20, 20), (1, 1, 10, 10)),
        *((1, 4, 40, 40), (1, 4, 20, 20), (1, 4, 10, 10)),
    ]
    assert (spec.nms_iou, spec.score_threshold) == (0.6, 0.05)
    assert (spec.color_order, spec.mean) == ("bgr", (103.53, 116.28, 123.675))
    left = {node.op_type for node in prepared.model.graph.node}
    assert not left & {"NonMaxSuppression", "TopK", "Range", "Gather", "Shape", "Where", "Cast"}
    assert sum(node.op_type == "Conv" for node in prepared.model.graph.node) == 123


def test_detector_takes_another_size(rtmdet_file: Path) -> None:
    spec = prepare(rtmdet_file, "rtmdet-nano-person", input_hw=(256, 416)).spec
    assert spec.input.shape == (1, 3, 256, 416)
    assert spec.outputs[2].shape == (1, 1, 8, 13)


def test_a_size_that_does_not_work_out_is_refused(rtmdet_file: Path) -> None:
    with pytest.raises(ModelFileError, match="multiples of 32"):
        prepare(rtmdet_file, "rtmdet-nano-person", input_hw=(300, 300))


def test_heads_are_found_whatever_the_names(rtmdet_file: Path, tmp_path: Path) -> None:
    model = onnx.load(str(rtmdet_file))
    names = {name: f"t{i}" for i, name in enumerate(_inner_names(model))}
    for node in model.graph.node:
        node.name = ""
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = names.get(name, name)
    path = tmp_path / "anonymous.onnx"
    onnx.save(model, str(path))
    anonymous = prepare(path, "anonymous").spec
    named = prepare(rtmdet_file, "anonymous").spec
    assert anonymous == named


def _inner_names(model: Any) -> list[str]:
    kept = {v.name for v in [*model.graph.input, *model.graph.output]}
    kept |= {tensor.name for tensor in model.graph.initializer}
    return [name for node in model.graph.node for name in node.output if name not in kept]


# --- what is refused ------------------------------------------------------------------------------


def test_a_file_that_is_no_onnx(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"certainly not a protobuf \xff\xff\xff")
    with pytest.raises(ModelFileError, match="not an ONNX file"):
        prepare(path, "no")
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match="an empty file"):
        prepare(path, "no")
    with pytest.raises(ModelFileError, match="no such file"):
        prepare(tmp_path / "absent.onnx", "no")


@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_a_truncated_file(tiny_onnx: Path, part: float) -> None:
    data = tiny_onnx.read_bytes()
    tiny_onnx.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ModelFileError, match=r"truncated|damaged"):
        prepare(tiny_onnx, "tiny")


def test_a_custom_operator_is_named(tmp_path: Path) -> None:
    model = tiny_simcc_model()
    model.graph.node.append(
        helper.make_node("TRTBatchedNMS", ["simcc_x"], ["z"], name="the_culprit", domain="mmdeploy")
    )
    model.opset_import.append(helper.make_opsetid("mmdeploy", 1))
    path = tmp_path / "custom.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ModelFileError, match=r"'the_culprit'.*mmdeploy::TRTBatchedNMS"):
        prepare(path, "custom")


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ([1, 10], TensorProto.FLOAT, r"input float \(1, 10\)"),
        ([1, 4, 64, 48], TensorProto.FLOAT, r"\(1, 4, 64, 48\)"),
        ([1, 3, 64, 48], TensorProto.UINT8, "uint8"),
    ],
)
def test_an_input_that_is_no_image(
    tmp_path: Path, shape: list[int], dtype: int, words: str
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["output"])],
        "identity",
        [helper.make_tensor_value_info("input", dtype, shape)],
        [helper.make_tensor_value_info("output", dtype, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "text.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ModelFileError, match=f"not an image: .*{words}"):
        prepare(path, "text")


def test_an_unknown_kind_says_what_was_looked_for(tmp_path: Path) -> None:
    shape = [1, 3, 64, 48]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["features"])],
        "relu",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "features.onnx"
    onnx.save(model, str(path))
    with pytest.raises(
        ModelFileError, match=r"SimCC.*RTMDet.*features \(1, 3, 64, 48\).*--spec FILE"
    ):
        prepare(path, "features")


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    model = tiny_simcc_model()
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 4
    path = tmp_path / "four.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ModelFileError, match="batch is fixed at 4"):
        prepare(path, "four")


def test_a_fixed_size_is_not_changed(tiny_onnx: Path) -> None:
    with pytest.raises(ModelFileError, match="fixed at 64x48"):
        prepare(tiny_onnx, "tiny", input_hw=(128, 96))


def test_a_spec_describes_what_cannot_be_recognised(tmp_path: Path) -> None:
    model = tiny_simcc_model(keypoints=5)
    path = tmp_path / "five.onnx"
    onnx.save(model, str(path))
    assert prepare(path, "five").spec.keypoint_set == "unnamed-5"
    data = prepare_spec_of_tiny(tmp_path)
    wrong = ModelSpec.from_json(data | {"input": {"name": "image", "shape": [-1, 3, 64, 48]}})
    with pytest.raises(SpecError, match="the spec names input 'image'"):
        prepare(tmp_path / "tiny17.onnx", "tiny", spec=wrong)
    given = ModelSpec.from_json(data | {"mean": [0, 0, 0], "std": [255, 255, 255]})
    assert prepare(tmp_path / "tiny17.onnx", "tiny", spec=given).spec.std == (255, 255, 255)


def prepare_spec_of_tiny(folder: Path) -> dict[str, Any]:
    path = folder / "tiny17.onnx"
    onnx.save(tiny_simcc_model(), str(path))
    return prepare(path, "tiny", batch=None).source_spec.to_json()


def test_constants_behind_a_cast_are_constants() -> None:
    model = tiny_simcc_model()
    half = numpy_helper.from_array(np.array([1.5, 2.5], np.float16), "half")
    model.graph.initializer.append(half)
    model.graph.node.append(helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT))
    value = Graph(model).constant("wide")
    assert value is not None
    assert value.tolist() == [1.5, 2.5]
