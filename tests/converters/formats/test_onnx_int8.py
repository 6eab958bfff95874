"""ONNX in int8: scales by their formulas, float parts, names, bytes and the answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.people.synthetic import crop_scene
from converters.formats.onnx_int8 import open_onnx_quantiser
from converters.graph.prepare import prepare
from converters.graph.ranges import best_range, tensor_ranges
from converters.job import Job
from converters.zoo.models import find_source
from edge.codecs import KEYPOINT_CODECS
from edge.errors import FeedError, ModelFileError
from edge.pose import pose_feeds
from edge.session import Array, Feeds
from edge.spec import ModelSpec, TensorSpec
from tests.conftest import tiny_simcc_model
from tests.stand_ins.specs import pose_spec

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SPEC = replace(
    pose_spec(),
    name="tiny",
    codec="heatmap",
    input=TensorSpec("input", (None, 3, 8, 8)),
    outputs=(TensorSpec("answer", (None, 17, 8, 8)),),
)


def conv_net(path: Path, layers: int = 1, *, last: str = "") -> Path:
    """1x1 convolutions "layer0", "layer1" ... of known weights, in an older opset."""
    rng = np.random.default_rng(3)
    nodes, weights, name = [], [], "input"
    for index in range(layers):
        target = "answer" if index == layers - 1 and not last else f"map{index}"
        for kind, shape in (("w", (17, 17 if index else 3, 1, 1)), ("b", (17,))):
            value = rng.normal(0, 0.5, shape).astype(np.float32)
            weights.append(onnx.numpy_helper.from_array(value, f"{kind}{index}"))
        nodes.append(
            onnx.helper.make_node(
                "Conv", [name, f"w{index}", f"b{index}"], [target], name=f"layer{index}"
            )
        )
        name = target
    if last:
        nodes.append(onnx.helper.make_node(last, [name], ["answer"], name="last"))
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("input", 1, ["batch", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("answer", 1, ["batch", 17, 8, 8])],
        weights,
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=6
    )
    onnx.save(model, str(path))
    return path


def feeds_of(count: int, shape: Sequence[int] = (1, 3, 8, 8)) -> list[dict[str, Array]]:
    rng = np.random.default_rng(11)
    return [{"input": rng.normal(0.3, 1, shape).astype(np.float32)} for _ in range(count)]


def quantised(
    path: Path, folder: Path, float_parts: Collection[str] = (), feeds: Sequence[Feeds] = ()
) -> Any:
    job = Job(path, SPEC, "int8", folder, feeds or feeds_of(8))
    files = open_onnx_quantiser(job).quantise(float_parts, folder)
    assert files == {"model": "tiny.onnx"}
    return onnx.load(folder / "tiny.onnx")


def constants(model: Any) -> dict[str, Array]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def run(model: Any, feed: Feeds) -> list[Array]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, dict(feed)))


def test_scales_and_answer_of_one_convolution_follow_the_formulas(tmp_path: Path) -> None:
    path = conv_net(tmp_path / "net.onnx")
    feeds = feeds_of(8)
    model = quantised(path, tmp_path, feeds=feeds)
    source = constants(onnx.load(path))
    # Asymmetric uint8 over what was seen; int8 weights by channel; int32 biases.
    seen = np.concatenate([feed["input"] for feed in feeds])
    step = (seen.max() - seen.min()) / np.float32(255)
    zero = np.rint(-seen.min() / step)
    weight_steps = np.abs(source["w0"]).max(axis=(1, 2, 3)) / 127
    weights = np.rint(source["w0"] / weight_steps[:, None, None, None])
    bias = np.rint(source["b0"] / (step * weight_steps))
    values = list(constants(model).values())
    assert any(v.dtype == np.uint8 and v.size == 1 and v == zero for v in values)
    stored = next(v for v in values if v.dtype == np.int8 and v.ndim == 4)
    np.testing.assert_array_equal(stored, weights)
    assert any(v.shape == (17,) and np.allclose(v, weight_steps, rtol=1e-6) for v in values)
    assert any(v.dtype == np.int32 and v.shape == (17,) and (v == bias).all() for v in values)
    # The answer, written out: nothing rounds it.
    image = feeds_of(9)[-1]["input"]
    rounded = (np.clip(np.rint(image / step) + zero, 0, 255) - zero) * step
    want = np.einsum("oc,nchw->nohw", (weights[:, :, 0, 0].T * weight_steps).T, rounded)
    want += (bias * step * weight_steps)[None, :, None, None]
    (answer,) = run(model, {"input": image})
    np.testing.assert_allclose(answer, want, atol=1e-4)


def test_names_types_and_the_open_batch_are_kept(tmp_path: Path) -> None:
    model = quantised(conv_net(tmp_path / "net.onnx", 2), tmp_path)
    onnx.checker.check_model(model, full_check=True)
    assert [o.version for o in model.opset_import if o.domain == ""] == [13]
    assert {o.domain for o in model.opset_import} <= {"", "ai.onnx"}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (image,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("input", "tensor(float)", ["batch", 3, 8, 8])
    assert (answer.name, answer.type) == ("answer", "tensor(float)")
    images = np.concatenate([feed["input"] for feed in feeds_of(3)])
    assert run(model, {"input": images})[0].shape == (3, 17, 8, 8)
    assert [node.name for node in model.graph.node if node.op_type == "Conv"] == [
        "layer0",
        "layer1",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "tiny.onnx"]


def test_float_parts_have_no_pair_inside(tmp_path: Path) -> None:
    path = conv_net(tmp_path / "net.onnx", 4)
    feeds = feeds_of(8)
    quantiser = open_onnx_quantiser(Job(path, SPEC, "mixed", tmp_path, feeds))
    # Without module names: the layers one by one, the last under the output's name.
    assert quantiser.parts == ["layer0", "layer1", "layer2", "answer"]
    assert quantiser.fragile_parts == ["answer"]
    quantiser.quantise(["layer1", "layer2"], tmp_path)
    model = onnx.load(tmp_path / "tiny.onnx")
    source, kept = constants(onnx.load(path)), constants(model)
    layers = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
    for name in ("layer1", "layer2"):
        np.testing.assert_array_equal(kept[layers[name].input[1]], source[f"w{name[-1]}"])
        np.testing.assert_array_equal(kept[layers[name].input[2]], source[f"b{name[-1]}"])
    assert layers["layer2"].input[0] == layers["layer1"].output[0]
    dequantised = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    for name in ("layer0", "layer3"):
        assert set(layers[name].input) <= dequantised
    # All parts float is the source itself.
    quantiser.quantise(quantiser.parts, tmp_path)
    model = onnx.load(tmp_path / "tiny.onnx")
    assert {node.op_type for node in model.graph.node} == {"Conv"}
    np.testing.assert_array_equal(run(model, feeds[0]), run(onnx.load(path), feeds[0]))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    path = conv_net(tmp_path / "net.onnx", 3)
    feeds = feeds_of(8)
    written = []
    for _ in range(2):
        quantiser = open_onnx_quantiser(Job(path, SPEC, "int8", tmp_path, feeds))
        for parts in (["layer1"], []):
            quantiser.quantise(parts, tmp_path)
            written.append((tmp_path / "tiny.onnx").read_bytes())
    assert written[:2] == written[2:]
    assert written[0] != written[1]


def test_the_best_range_has_the_least_error_of_all_tried() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 200_000), [-40.0, 60.0]])

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        zero = np.rint(-low / step)
        rounded = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
        return float(np.mean((rounded - values) ** 2))

    counts, _ = np.histogram(values, 2048, (-40, 60))
    low, high = best_range(counts, (-40.0, 60.0))
    assert error(low, high) < 0.7 * error(-40, 60)
    shares = np.arange(0.3, 1.01, 0.05)
    least = min(error(-40 * a, 60 * b) for a in shares for b in shares)
    assert error(low, high) == pytest.approx(least, rel=0.02)
    # Uniform values have nothing to clip.
    assert best_range(np.ones(2048, np.int64), (0.0, 8.0)) == (0.0, 8.0)


def test_the_extremes_of_input_and_output_are_kept(tmp_path: Path) -> None:
    path = conv_net(tmp_path / "net.onnx", 2)
    feeds = feeds_of(8)
    feeds[5]["input"][0, 0, 0, 0] = 1000.0
    ranges = tensor_ranges(onnx.load(path), SPEC, feeds)
    assert set(ranges) == {"input", "map0", "answer"}
    assert ranges["input"][1] == 1000.0
    answers = np.concatenate([run(onnx.load(path), feed)[0] for feed in feeds])
    assert ranges["answer"] == pytest.approx((answers.min(), answers.max()))


def test_what_cannot_be_calibrated_with_is_named(tmp_path: Path) -> None:
    path = conv_net(tmp_path / "net.onnx")
    with pytest.raises(FeedError, match="7 calibration images are too few for tiny: at least 8"):
        quantised(path, tmp_path, feeds=feeds_of(7))
    broken = feeds_of(9)
    broken[4]["input"][0, 1, 2, 3] = np.nan
    with pytest.raises(FeedError, match="NaN or Inf in the input 'input' of calibration image 4"):
        quantised(path, tmp_path, feeds=broken)
    with pytest.raises(FeedError, match="must have shape"):
        quantised(path, tmp_path, feeds=[*feeds_of(8), *feeds_of(1, (1, 3, 4, 4))])
    log = conv_net(tmp_path / "log.onnx", last="Log")
    with pytest.raises(
        ModelFileError, match="NaN or Inf in tensor 'answer' on calibration image 0"
    ):
        quantised(log, tmp_path)


def test_nothing_is_printed_or_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    quantised(conv_net(tmp_path / "net.onnx", 2), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_network_of_matrices_and_a_fixed_batch(tmp_path: Path) -> None:
    path = tmp_path / "simcc.onnx"
    model = tiny_simcc_model(scale_norm=True)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, str(path))
    spec: ModelSpec = replace(
        SPEC,
        codec="simcc",
        input=TensorSpec("input", (2, 3, 64, 48)),
        outputs=(TensorSpec("simcc_x", (2, 17, 96)), TensorSpec("simcc_y", (2, 17, 128))),
    )
    feeds = feeds_of(8, (1, 3, 64, 48))
    open_onnx_quantiser(Job(path, spec, "int8", tmp_path, feeds)).quantise((), tmp_path)
    small = onnx.load(tmp_path / "tiny.onnx")
    images = {"input": np.concatenate([feeds[0]["input"], feeds[1]["input"]])}
    for got, want in zip(run(small, images), run(model, images), strict=True):
        assert np.abs(got - want).max() < 0.05 * np.abs(want).max()


def test_the_pose_model_keeps_its_answers_in_a_quarter_of_the_size(tmp_path: Path) -> None:
    source = find_source("rtmpose-t-demo")
    prepared = prepare(source.path, source.name, spec=source.spec)
    spec, path = prepared.spec, tmp_path / "float.onnx"
    onnx.save(prepared.model, str(path))

    def feeds(seed: int, count: int) -> list[dict[str, Array]]:
        people = [crop_scene(seed, index, variety=0.25) for index in range(count)]
        return [pose_feeds(spec, one.image_bgr, one.people[0].box_xyxy[None])[0] for one in people]

    job = Job(path, spec, "int8", tmp_path, feeds(7, 16))
    files = open_onnx_quantiser(job).quantise((), tmp_path)
    assert (tmp_path / files["model"]).stat().st_size <= 0.27 * path.stat().st_size
    distances = []
    names = [tensor.name for tensor in spec.outputs]
    for feed in feeds(2, 12):
        found = [
            KEYPOINT_CODECS[spec.codec](
                dict(zip(names, run(onnx.load(file), feed), strict=True)), spec
            )[0, :, :2]
            for file in (path, tmp_path / files["model"])
        ]
        distances += np.linalg.norm(found[0] - found[1], axis=1).tolist()
    # Of 192 x 256 input pixels; a keypoint that nobody sees may land elsewhere.
    assert np.median(distances) <= 1.0
    assert np.mean(np.array(distances) < 6) >= 0.95
