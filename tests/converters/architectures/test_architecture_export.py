"""Networks as ONNX files: answers as torch, plain graphs, weights in halves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from converters.architectures.export import (  # noqa: E402
    ExportError,
    export_onnx,
    store_fp16_weights,
)
from converters.architectures.rtmpose import RTMPose  # noqa: E402
from tests.stand_ins.random_weights import model  # noqa: E402, F401

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "t.onnx"
    export_onnx(model, path)
    return path


def answers(path: Path, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(["simcc_x", "simcc_y"], {"input": images})
    return outputs


def random_images(batch: int) -> NDArray[np.float32]:
    return np.random.default_rng(batch).standard_normal((batch, 3, 256, 192), dtype=np.float32)


@pytest.mark.parametrize("batch", [1, 3])
def test_exported_model_answers_as_torch(model: Any, exported: Path, batch: int) -> None:
    images = random_images(batch)
    with torch.no_grad():
        wanted = [output.numpy() for output in model(torch.from_numpy(images))]
    for left, right in zip(answers(exported, images), wanted, strict=True):
        assert left.shape == right.shape
        np.testing.assert_allclose(left, right, atol=1e-4)


def test_exported_graph_is_plain(exported: Path) -> None:
    loaded = onnx.load(exported)
    assert [(entry.domain, entry.version) for entry in loaded.opset_import] == [("", 17)]
    infos = [*loaded.graph.input, *loaded.graph.output]
    shapes = {
        info.name: [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in infos
    }
    assert shapes == {
        "input": ["batch", 3, 256, 192],
        "simcc_x": ["batch", 17, 384],
        "simcc_y": ["batch", 17, 512],
    }
    operators = {node.op_type for node in loaded.graph.node}
    # Norms folded, and no shape arithmetic that a converter would have to follow.
    assert not operators & {"BatchNormalization", "Shape", "Gather", "Slice", "If"}
    # The norm is left in its plain form for the FP16 rewrite to find.
    assert sum(node.op_type == "ReduceL2" for node in loaded.graph.node) == 2


def test_export_leaves_the_model_alone(model: Any, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    export_onnx(model, tmp_path / "t.onnx")
    assert model.training
    model.eval()
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_export_that_differs_leaves_no_file(model: Any, tmp_path: Path) -> None:
    # A thousandth of one head's weights is far beyond what rounding does.
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.cls_x.weight *= 1.001
    with pytest.raises(ExportError, match="simcc_x differs from torch in float64"):
        export_onnx(model, tmp_path / "t.onnx", plain=other)
    assert list(tmp_path.iterdir()) == []


def test_float32s_own_rounding_is_no_difference(model: Any, tmp_path: Path) -> None:
    # No float32 keeps this limit; float64 tells that the file is as near to the truth as torch is.
    export_onnx(model, tmp_path / "t.onnx", tolerance=1e-12)
    assert [path.name for path in tmp_path.iterdir()] == ["t.onnx"]


def test_fp16_storage_halves_the_file_and_keeps_the_answers(exported: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.onnx"
    store_fp16_weights(exported, small)
    assert small.stat().st_size < 0.52 * exported.stat().st_size
    images = random_images(2)
    for left, right in zip(answers(small, images), answers(exported, images), strict=True):
        assert left.dtype == np.float32
        # 2**-11 relative a weight, through some forty layers.
        assert np.abs(left - right).max() < 0.01 * np.abs(right).max()
    loaded = onnx.load(small)
    for tensor in loaded.graph.initializer:
        count = int(np.prod(tensor.dims))
        is_half = tensor.data_type == onnx.TensorProto.FLOAT16
        assert is_half == (count > 64) or tensor.data_type == onnx.TensorProto.INT64


def test_fp16_storage_is_exact_for_weights_that_half_precision_holds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = RTMPose("t").eval()
    full, once, twice = (tmp_path / f"{name}.onnx" for name in ("full", "once", "twice"))
    export_onnx(model, full)
    store_fp16_weights(full, once)
    # Storing again finds nothing to do but what the casts already are.
    store_fp16_weights(once, twice)
    assert once.read_bytes() == twice.read_bytes()


def test_fp16_storage_refuses_what_overflows(exported: Path, tmp_path: Path) -> None:
    loaded = onnx.load(exported)
    tensor = next(t for t in loaded.graph.initializer if t.name.endswith("weight"))
    weights = onnx.numpy_helper.to_array(tensor).copy()
    weights.flat[0] = 1e5
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    onnx.save(loaded, tmp_path / "large.onnx")
    with pytest.raises(ExportError, match="beyond FP16's range"):
        store_fp16_weights(tmp_path / "large.onnx", tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()
