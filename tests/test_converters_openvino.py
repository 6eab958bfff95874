"""The OpenVINO files themselves, read back with OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.openvino import convert_openvino
from edge.engines.openvino import import_openvino
from edge.errors import EngineMissingError, ToolError
from edge.spec import Precision
from tests.conftest import tiny_simcc_model
from tests.test_edge_session import tiny_artifact

onnx = pytest.importorskip("onnx")
try:
    openvino = import_openvino()
except EngineMissingError:
    pytest.skip("openvino is not installed", allow_module_level=True)


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
    files = convert_openvino(artifact.path("model"), artifact.spec, precision, out)
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
    convert_openvino(artifact.path("model"), artifact.spec, "fp16", tmp_path)
    text = (tmp_path / "tiny.xml").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "tiny.onnx" not in text


def test_an_operator_that_the_format_lacks_is_named(tmp_path: Path) -> None:
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Det", ["input"], ["area"])],
        "det",
        [helper.make_tensor_value_info("input", 1, [1, 3, 3])],
        [helper.make_tensor_value_info("area", 1, [1])],
    )
    path = tmp_path / "det.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    with pytest.raises(ToolError, match=r"OpenVINO cannot convert tiny: .*operations: Det-17$"):
        convert_openvino(path, tiny_artifact(tmp_path).spec, "fp32", tmp_path)
    assert not list(tmp_path.glob("*.xml"))
