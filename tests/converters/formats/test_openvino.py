"""The OpenVINO files themselves, read back with OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.formats import openvino_ir
from converters.formats.openvino import convert_openvino
from converters.job import Job
from edge.engines.openvino import import_openvino, keep_signal_stack
from edge.errors import EngineMissingError, StepError, ToolError
from edge.spec import Precision
from tests.conftest import tiny_simcc_model
from tests.stand_ins.tiny_artifacts import tiny_artifact

onnx = pytest.importorskip("onnx")
try:
    openvino = import_openvino()
except EngineMissingError:
    pytest.skip("openvino is not installed", allow_module_level=True)

PRECISE = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def weights(model: Any) -> dict[str, Any]:
    """Constants of more than one number by name."""
    return {
        op.get_friendly_name(): op
        for op in model.get_ops()
        if op.get_type_name() == "Constant" and np.prod(op.data.shape) > 1000
    }


@pytest.mark.parametrize(("precision", "stored"), [("fp32", np.float32), ("fp16", np.float16)])
def test_names_order_and_open_batch_are_kept(
    tmp_path: Path, precision: Precision, stored: Any
) -> None:
    artifact = tiny_artifact(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    files = convert_openvino(Job(artifact.path("model"), artifact.spec, precision, out))
    assert files == {"model": "tiny.xml", "weights": "tiny.bin"}
    assert sorted(path.name for path in out.iterdir()) == ["tiny.bin", "tiny.xml"]
    model = openvino.Core().read_model(out / "tiny.xml")
    assert model.get_friendly_name() == "tiny"
    assert [port.get_any_name() for port in model.inputs] == ["input"]
    assert [port.get_any_name() for port in model.outputs] == ["simcc_x", "simcc_y"]
    assert str(model.inputs[0].get_partial_shape()) == "[?,3,64,48]"
    assert str(model.outputs[1].get_partial_shape()) == "[?,17,128]"
    assert {port.get_element_type().get_type_name() for port in model.outputs} == {"f32"}
    # The numbers are the source's, rounded once at most.
    source = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in tiny_simcc_model().graph.initializer
    }
    kept = [op.data for op in weights(model).values()]
    assert len(kept) == 3
    assert {array.dtype for array in kept} == {np.dtype(stored)}
    sums = sorted(float(np.abs(array.astype(np.float64)).sum()) for array in kept)
    want = [np.abs(source[name].astype(stored).astype(float)).sum() for name in source]
    assert sums == pytest.approx(sorted(want)[-3:], rel=1e-6)


def test_no_place_of_this_machine_is_in_the_file(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path)
    convert_openvino(Job(artifact.path("model"), artifact.spec, "fp16", tmp_path))
    text = (tmp_path / "tiny.xml").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "tiny.onnx" not in text


def odd_convolutions() -> Any:
    """Convolutions and a pooling that differ from every default, and some that do not."""
    helper = onnx.helper
    rng = np.random.default_rng(3)
    shapes = {"w1": (16, 3, 3, 3), "w2": (16, 1, 5, 5), "w3": (8, 16, 1, 1), "b3": (8,)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w1"], ["a"], strides=[2, 1], pads=[1, 0, 2, 3]),
            helper.make_node("Conv", ["a", "w2"], ["b"], group=16, dilations=[2, 3]),
            helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["c", "w3", "b3"], ["output"]),
        ],
        "odd",
        [helper.make_tensor_value_info("input", 1, [1, 3, 48, 40])],
        [helper.make_tensor_value_info("output", 1, None)],
        [
            onnx.numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_small_file_is_the_same_network(tmp_path: Path) -> None:
    """What an FP16 file leaves out is what its reader finds out: against FP32 and ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "odd.onnx"
    onnx.save(odd_convolutions(), str(path))
    image = np.random.default_rng(0).normal(size=(1, 3, 48, 40)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"input": image})
    spec = tiny_artifact(tmp_path).spec
    shapes, sizes = {}, {}
    for precision in ("fp32", "fp16"):
        out = tmp_path / precision
        out.mkdir()
        files = convert_openvino(Job(path, spec, precision, out))
        model = openvino.Core().read_model(out / files["model"])
        shapes[precision] = {
            op.get_friendly_name(): [str(port.get_partial_shape()) for port in op.outputs()]
            for op in model.get_ops()
            if op.get_type_name() in ("Convolution", "GroupConvolution", "MaxPool", "Add")
        }
        sizes[precision] = (out / files["model"]).stat().st_size
        with keep_signal_stack():
            compiled = openvino.Core().compile_model(model, "CPU", PRECISE)
        (found,) = compiled(image).values()
        # Weights of FP16 are off by 2 ** -11 of themselves.
        limit = 1e-5 if precision == "fp32" else 2**-11
        assert np.abs(found - want).max() <= limit * np.abs(want).max() * 3
    assert len(shapes["fp32"]) >= 5
    assert shapes["fp16"] == shapes["fp32"]
    assert sizes["fp16"] < 0.65 * sizes["fp32"]  # though it has one layer more a weight


def test_a_file_that_is_read_back_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a later OpenVINO took something else for granted."""
    wrong = openvino_ir._CONVOLUTION_DEFAULTS | {("strides", "2, 1")}
    monkeypatch.setattr(openvino_ir, "_CONVOLUTION_DEFAULTS", wrong)
    path = tmp_path / "odd.onnx"
    onnx.save(odd_convolutions(), str(path))
    with pytest.raises(StepError, match=r"tiny\.xml is read back by OpenVINO as another network"):
        convert_openvino(Job(path, tiny_artifact(tmp_path).spec, "fp16", tmp_path))


def test_what_half_floats_cannot_hold_stays(tmp_path: Path) -> None:
    model = odd_convolutions()
    tensor = next(one for one in model.graph.initializer if one.name == "w1")
    large = onnx.numpy_helper.to_array(tensor) * 1e6
    tensor.CopyFrom(onnx.numpy_helper.from_array(large, "w1"))
    onnx.save(model, str(tmp_path / "odd.onnx"))
    spec = tiny_artifact(tmp_path).spec
    files = convert_openvino(Job(tmp_path / "odd.onnx", spec, "fp16", tmp_path))
    read = openvino.Core().read_model(tmp_path / files["model"])
    kept = [op.data for op in read.get_ops() if op.get_type_name() == "Constant"]
    assert any(np.array_equal(array, large) for array in kept)
    assert {array.dtype for array in kept if array.size == 16 * 25} == {np.dtype(np.float16)}


def test_an_operator_that_the_format_lacks_is_named(tmp_path: Path) -> None:
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Det", ["input"], ["area"], name="size")],
        "det",
        [helper.make_tensor_value_info("input", 1, [1, 3, 3])],
        [helper.make_tensor_value_info("area", 1, [1])],
    )
    path = tmp_path / "det.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    text = r"^OpenVINO has no operator for Det \(node 'size' of tiny\); formats that have it: onnx$"
    with pytest.raises(ToolError, match=text):
        convert_openvino(Job(path, tiny_artifact(tmp_path).spec, "fp32", tmp_path))
    assert not list(tmp_path.glob("*.xml"))
