"""Weights that FP16 cannot hold: scaled by powers of two, and what a writer lost is seen."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from converters.conversion import ConversionRequest  # noqa: E402
from converters.convert import convert_model  # noqa: E402
from converters.formats.ncnn_weights import layer_weights  # noqa: E402
from converters.graph import prepare as prepare_module  # noqa: E402
from converters.graph.half_weights import lost_share, scale_for_half  # noqa: E402
from converters.job import FeedSource, NamedFeeds  # noqa: E402
from converters.source import Source  # noqa: E402
from edge.artifact import load_artifact  # noqa: E402
from edge.errors import ToolError  # noqa: E402
from edge.session import Array  # noqa: E402
from edge.spec import ModelSpec, Variant  # noqa: E402
from tests.conftest import tiny_simcc_model  # noqa: E402

RNG = np.random.default_rng(8)
LAYERS: dict[str, tuple[list[int], tuple[int, ...], int]] = {
    # operator -> shape of x, shape of the weights, which input they are
    "Conv": ([1, 3, 6, 6], (4, 3, 3, 3), 1),
    "ConvTranspose": ([1, 3, 6, 6], (3, 4, 2, 2), 1),
    "Gemm": ([5, 7], (7, 4), 1),
    "MatMul": ([1, 5, 7], (7, 4), 1),
    "MatMul from the left": ([1, 7, 5], (4, 7), 0),
}


def layer(kind: str, weight: Array) -> Any:
    shape, _, place = LAYERS[kind]
    names = ["x", "x"]
    names[place] = "w"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(kind.split()[0], names, ["y"], "layer")],
        "layer",
        [info("x", TensorProto.FLOAT, shape)],
        [info("y", TensorProto.FLOAT, ["n"] * (2 if kind == "Gemm" else len(shape)))],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: Any, x: Array) -> Array:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def weights_of(model: Any) -> Array:
    """What the one layer reads."""
    (node,) = [node for node in model.graph.node if node.name == "layer"]
    own = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (weight,) = [own[name] for name in node.input if name in own]
    return np.asarray(weight)


@pytest.mark.parametrize("size", [1e-5, 1e-7, 1e-12, 1e5, 1e8])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_power_of_two_moves_into_the_input(kind: str, size: float) -> None:
    shape, weight_shape, _ = LAYERS[kind]
    weight = (RNG.normal(0, 1, weight_shape) * size).astype(np.float32)
    model, x = layer(kind, weight), RNG.normal(0, 1, shape).astype(np.float32)
    want = run(model, x)
    assert scale_for_half(model) == ["layer"]
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run(model, x), want)  # exact: powers of two
    scaled = weights_of(model)
    assert lost_share(scaled) < 1e-3
    powers = np.log2(np.abs(scaled / weight)[weight != 0])
    assert np.ptp(powers) == 0 and powers.flat[0] == round(powers.flat[0]) != 0
    halves = scaled.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(halves, scaled, atol=np.abs(scaled).max() * 2e-3)


@pytest.mark.parametrize("kind", LAYERS)
def test_ordinary_weights_stay(kind: str) -> None:
    """Also where some are small or zero: what the layer answers does not hang on them."""
    weight = RNG.normal(0, 0.05, LAYERS[kind][1])
    weight.reshape(-1)[::5] = 1e-6
    weight.reshape(-1)[1::7] = 0
    model = layer(kind, weight)
    before = model.SerializeToString()
    assert scale_for_half(model) == []
    assert scale_for_half(layer(kind, np.zeros(LAYERS[kind][1]))) == []
    assert model.SerializeToString() == before


def after_two_factors(weight: Array, place: int) -> Any:
    """Two multiplications whose answer another layer reads as well, as in a SimCC head."""
    names = ["scaled", "scaled"]
    names[place] = "w"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["positive"]),
            helper.make_node("Mul", ["positive", "a"], ["first"]),
            helper.make_node("Mul", ["first", "b"], ["scaled"]),
            helper.make_node("MatMul", names, ["y"], "layer"),
            helper.make_node("MatMul", ["scaled", "v"], ["z"], "other"),
        ],
        "two factors",
        [info("x", TensorProto.FLOAT, [1, 7, 7])],
        [info(name, TensorProto.FLOAT, [1, 7, 7]) for name in "yz"],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in {
                "a": np.array(3.4),
                "b": np.array([1.5]),
                "w": weight,
                "v": RNG.normal(0, 1, (7, 7)),
            }.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("place", [0, 1])
def test_a_factor_behind_other_factors_is_none_that_onnx_runtime_gathers(place: int) -> None:
    """Its fusion of factors into a MatMul removed one that the other MatMul read."""
    model = after_two_factors(RNG.normal(0, 1, (7, 7)) * 1e-7, place)
    x = RNG.normal(0, 1, (1, 7, 7)).astype(np.float32)
    want = run(model, x)
    assert scale_for_half(model) == ["layer"]
    # A sum that cancels out keeps the error of its terms.
    np.testing.assert_allclose(run(model, x), want, 1e-6, atol=1e-6 * float(np.abs(want).max()))


def test_small_beside_large_weights_are_kept_too() -> None:
    """One weight of 4 among thousands at 2^-16: scaled as far as the large one lets it."""
    weight = np.full((40, 30, 3, 3), 2.0**-16)
    weight[0, 0, 0, 0] = 4.0
    model = layer("Conv", np.broadcast_to(weight[:, :3], (40, 3, 3, 3)))
    assert scale_for_half(model) == ["layer"]
    assert lost_share(weights_of(model)) == 0
    assert np.abs(weights_of(model)).max() <= 4096


# --- through the formats --------------------------------------------------------------------------


def noise(spec: ModelSpec) -> list[NamedFeeds]:
    array = np.random.default_rng(11).normal(0, 1, (1, 3, *spec.input_hw)).astype(np.float32)
    return [NamedFeeds("noise", {spec.input.name: array})]


@pytest.fixture(params=["conv.w", "w_x"])
def small_onnx(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A SimCC model with a layer below 2^-14 throughout: the first, or one behind the norm."""
    model = tiny_simcc_model(scale_norm=True)
    for tensor in model.graph.initializer:
        if tensor.name == request.param:
            weight = numpy_helper.to_array(tensor) / np.float32(3e4)
            assert np.abs(weight).max() < 2**-14
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    if request.param == "w_x":  # whose answers are raised again
        (head,) = [node for node in model.graph.node if "simcc_x" in node.output]
        head.output[0] = "small_x"
        raised = helper.make_node("Mul", ["small_x", "raise"], ["simcc_x"])
        model.graph.node.append(raised)
        model.graph.initializer.append(numpy_helper.from_array(np.float32(3e4), "raise"))
    path = tmp_path / "small.onnx"
    onnx.save(model, path)
    return path


def made(path: Path, out: Path, text: str) -> Path:
    request = ConversionRequest(parity=FeedSource("noise", noise))
    (one,) = convert_model(
        Source("small", path), [Variant.parse(text)], out, request, lambda _: None
    )
    if one.error:
        raise one.error
    return one.folder


@pytest.mark.parametrize("text", ["onnx-fp16", "openvino-fp16", "ncnn-fp16"])
def test_every_half_format_keeps_a_small_first_layer(
    small_onnx: Path, tmp_path: Path, text: str
) -> None:
    if text.startswith("ncnn") and find_spec("pnnx") is None:
        pytest.skip("pnnx is not installed")
    pytest.importorskip(text.split("-")[0].replace("onnx", "onnxruntime"))
    artifact = load_artifact(made(small_onnx, tmp_path / "out", text))
    assert artifact.parity["passed"]
    assert artifact.source["layers_scaled_for_fp16"] == 1


def test_what_pnnx_loses_is_seen(
    small_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the scaling: all weights of the first layer come out as zeros."""
    if find_spec("pnnx") is None:
        pytest.skip("pnnx is not installed")
    monkeypatch.setattr(prepare_module, "scale_for_half", lambda _: [])
    with pytest.raises(ToolError, match=r"100% of the weights of layer .* take ncnn-fp32"):
        made(small_onnx, tmp_path / "out", "ncnn-fp16")


def test_a_files_weights_are_read(tmp_path: Path) -> None:
    """Against the ONNX file's own, by sum of sizes: the layers' order is pnnx's."""
    if find_spec("pnnx") is None:
        pytest.skip("pnnx is not installed")
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_simcc_model(scale_norm=True), path)
    own = {
        tensor.name: np.abs(numpy_helper.to_array(tensor)).sum()
        for tensor in onnx.load(path).graph.initializer
        if tensor.name in ("conv.w", "w_x", "w_y")
    }
    for text, dtype in (("ncnn-fp16", np.float16), ("ncnn-fp32", np.float32)):
        artifact = load_artifact(made(path, tmp_path / text, text))
        found = layer_weights(
            artifact.path("model").read_text(), artifact.path("weights").read_bytes()
        )
        assert found is not None
        assert {values.dtype.type for values in found.values()} == {dtype}
        sums = [float(np.abs(values, dtype=np.float64).sum()) for values in found.values()]
        assert sorted(sums) == pytest.approx(sorted(own.values()), rel=1e-3)
        data = artifact.path("weights").read_bytes()
        assert layer_weights(artifact.path("model").read_text(), data[:-8]) is None
