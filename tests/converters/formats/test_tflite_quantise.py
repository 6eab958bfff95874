"""Integers in TFLite: formulas, ranges, float parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.formats import tflite_quantise
from converters.formats.tflite_graph import (
    builtin_names,
    fold_clamps,
    name_graph,
    read_graph,
)
from converters.formats.tflite_quantise import open_tflite_quantiser
from edge.errors import SpecError, ToolError
from edge.session import Array
from tests.stand_ins.tflite_convolution import (
    KEYPOINTS,
    feed,
    formula,
    one_convolution,
    square_spec,
    weights,
)
from tests.stand_ins.tflite_square import (  # noqa: F401
    feeds,
    job_of,
    made,
    run,
    square_onnx,
    tensor_types,
)

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")
pytest.importorskip("ai_edge_quantizer")

pytestmark = pytest.mark.long


def weight_scales() -> Array:
    return np.asarray(np.abs(weights()).max(axis=1) / 127, np.float32)


def test_int8_of_one_convolution_is_the_formula(tmp_path: Path, made: list[bool]) -> None:
    quantiser = open_tflite_quantiser(job_of(tmp_path / "q", "int8", feeds()))
    assert (quantiser.parts, quantiser.fragile_parts) == (["stem"], ["stem"])
    files = quantiser.quantise((), tmp_path)
    array = feed(3)
    got = run(tmp_path, files, "int8", array)
    own, scales = weights(), weight_scales()
    rounded = np.clip(np.rint(own / scales[:, None]), -127, 127) * scales[:, None]
    # The layer gives the output straight: its input's range is this call's, in 255 steps.
    step = (max(array.max(), 0) - min(array.min(), 0)) / 255
    exact = np.einsum("oc,nchw->nohw", rounded, array)
    # Half a step and the rounded zero point's half for each of three channels.
    bound = step * np.abs(rounded).sum(axis=1)[None, :, None, None] + 1e-4
    assert (np.abs(got - exact) <= bound).all()
    assert np.abs(got - formula(array)).max() > 1e-3
    assert made == [False]


def test_w8a16_of_one_convolution_is_the_formula(tmp_path: Path, made: list[bool]) -> None:
    from ai_edge_litert.schema_py_generated import TensorType

    files = open_tflite_quantiser(job_of(tmp_path / "q", "w8a16", feeds())).quantise((), tmp_path)
    array = feed(3)
    got = run(tmp_path, files, "w8a16", array)
    own, scales = weights(), weight_scales()
    rounded = np.clip(np.rint(own / scales[:, None]), -127, 127) * scales[:, None]
    want = np.einsum("oc,nchw->nohw", rounded, array)
    # The range is what the floats reached; rounded weights may go beyond.
    limit = max(float(np.abs(formula(one["input"])).max()) for one in feeds())
    # Steps of 4 / 32767 in, three channels with weights up to 6, and of 16 / 32767 out.
    np.testing.assert_allclose(got, np.clip(want, -limit, limit), atol=2e-3, rtol=0)
    assert TensorType.INT16 in tensor_types(tmp_path / files["model"])
    assert made == [False]


def test_float_parts_are_float(tmp_path: Path, made: list[bool]) -> None:
    from ai_edge_litert.schema_py_generated import TensorType

    quantiser = open_tflite_quantiser(job_of(tmp_path / "q", "int8", feeds()))
    files = quantiser.quantise(["stem"], tmp_path)
    np.testing.assert_allclose(
        run(tmp_path, files, "mixed", feed(3)), formula(feed(3)), atol=1e-5, rtol=0
    )
    assert set(tensor_types(tmp_path / files["model"])) == {TensorType.FLOAT32}
    # And the next one is not touched by that.
    again = quantiser.quantise((), tmp_path)
    assert TensorType.INT8 in tensor_types(tmp_path / again["model"])
    assert made == [False]


def test_no_images_no_ranges(tmp_path: Path, made: list[bool]) -> None:
    with pytest.raises(SpecError, match="int8 needs images to calibrate with"):
        open_tflite_quantiser(job_of(tmp_path / "q", "int8"))
    assert made == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_nan_names_tensor_and_image(tmp_path: Path, made: list[bool], value: float) -> None:
    images = feeds(3)
    images[1]["input"][0, 0, 3, 3] = value
    with pytest.raises(ToolError, match=r"'input' is NaN or infinite on calibration image 2"):
        open_tflite_quantiser(job_of(tmp_path / "q", "int8", images))
    assert made == [False]


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).normal(0, 1, 3000),
        np.random.default_rng(2).standard_t(2, 3000),
        np.abs(np.random.default_rng(3).standard_t(3, 3000)),
        np.concatenate([np.zeros(2000), np.random.default_rng(4).uniform(0, 6, 1000)]),
        -np.random.default_rng(5).exponential(1, 3000),
    ],
    ids=["normal", "heavy tails", "one side", "many zeros", "negative"],
)
def test_a_range_loses_as_little_as_the_best_of_all(values: Array) -> None:
    values = values.astype(np.float32)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))

    def loss(least: float, most: float) -> float:
        step = max((most - least) / 255, 1e-12)
        steps = np.clip(np.rint((values - least) / step), 0, 255)
        return float(np.mean((values - (steps * step + least)) ** 2))

    shares = np.linspace(0.7, 1, 13)
    best = min(loss(low * a, high * b) for a in shares for b in shares)
    assert loss(*tflite_quantise._best_range(values, low, high, 255)) <= 1.1 * best + 1e-12
    # Sixteen bits have steps to spare: nothing is clipped.
    assert tflite_quantise._best_range(values, low, high, 65535) == pytest.approx((low, high))


def extend(model: Any, kind: str, inputs: list[int], **quantization: list[float]) -> int:
    """One operator more at a graph's end, and the number of its output."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    tensor, code, operator = schema.TensorT(), schema.OperatorCodeT(), schema.OperatorT()
    tensor.name, tensor.shape = f"{kind}{len(graph.tensors)}".encode(), [1, 16, 16, KEYPOINTS]
    if quantization:
        tensor.quantization = schema.QuantizationParametersT()
        vars(tensor.quantization).update(quantization)
    code.builtinCode = getattr(schema.BuiltinOperator, kind)
    operator.opcodeIndex = len(model.operatorCodes)
    operator.inputs, operator.outputs = inputs, [len(graph.tensors)]
    model.operatorCodes.append(code)
    graph.tensors.append(tensor)
    graph.operators.append(operator)
    return len(graph.tensors) - 1


def test_what_a_silu_maps_to_nothing_takes_no_steps(tmp_path: Path) -> None:
    path = one_convolution(tmp_path / "square.tflite")
    named = name_graph(path, square_onnx(), square_spec())
    graph = named.model.subgraphs[0]
    image, maps = int(graph.inputs[0]), int(graph.outputs[0])
    gate = extend(named.model, "LOGISTIC", [maps])
    assert tflite_quantise._silu_inputs(named) == set()  # a sigmoid alone keeps its input
    extend(named.model, "MUL", [gate, maps])
    assert tflite_quantise._silu_inputs(named) == {maps}
    extend(named.model, "ADD", [maps, image])  # somebody else wants the negative values
    assert tflite_quantise._silu_inputs(named) == set()


@pytest.mark.parametrize(
    ("scale", "zero", "folded"),
    [(1 / 255, -128, True), (0.5 / 255, -128, True), (2 / 255, -128, False), (1 / 255, 0, False)],
    ids=["0 to 1", "0 to 0.5", "0 to 2", "from below 0"],
)
def test_a_clamp_goes_where_the_steps_saturate_alike(
    tmp_path: Path, scale: float, zero: int, folded: bool
) -> None:
    model = read_graph(one_convolution(tmp_path / "a.tflite", "INT8", 0.03))
    layer = int(model.subgraphs[0].outputs[0])
    floats = extend(model, "DEQUANTIZE", [layer])
    clamped = extend(model, "RELU_0_TO_1", [floats])
    last = extend(model, "QUANTIZE", [clamped], scale=[scale], zeroPoint=[zero])
    fold_clamps(model)
    graph, kinds = model.subgraphs[0], builtin_names(model)
    left = [kinds[operator.opcodeIndex] for operator in graph.operators]
    assert left == (["CONV_2D"] if folded else ["CONV_2D", "DEQUANTIZE", "RELU_0_TO_1", "QUANTIZE"])
    assert list(graph.operators[0].outputs) == [last if folded else layer]
