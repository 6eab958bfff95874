from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.graph.file import load_onnx
from converters.graph.input_arithmetic import Unexplained, find_input_arithmetic
from converters.graph.prepare import prepare
from converters.graph.recognise import recognise
from converters.graph.run_once import run_once
from edge.detector import normalization_of
from edge.errors import ModelFileError, SpecError
from edge.image import letterbox
from edge.spec import ModelSpec, TensorSpec
from tests.conftest import tiny_simcc_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

HW = (64, 48)
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])

Nodes = Callable[["Front"], str]


class Front:
    """Nodes that are put between the input and a network; each gives the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"front_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"front_weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name


def with_front(nodes: Nodes) -> Any:
    """The tiny SimCC model behind what ``nodes`` adds to a Front."""
    model, front = tiny_simcc_model(input_hw=HW), Front()
    result = nodes(front)
    first = next(node for node in model.graph.node if "input" in node.input)
    first.input[0] = result
    for index, node in enumerate(front.nodes):
        model.graph.node.insert(index, node)
    model.graph.initializer.extend(front.weights)
    onnx.checker.check_model(model, full_check=True)
    return model


def planes(values: Any) -> Any:
    return np.reshape(values, (1, 3, 1, 1))


def sub_div(f: Front) -> str:
    return f.add(
        "Div", f.add("Sub", "input", f.weight(planes(MEAN))), f.weight(planes(STD), np.float32)
    )


def mul_add(f: Front) -> str:
    scaled = f.add("Mul", f.weight(planes(1 / STD)), "input")
    return f.add("Add", scaled, f.weight(planes(-MEAN / STD)[0]))


def fractions_first(f: Front) -> str:
    small = f.add("Div", "input", f.weight(255.0))
    centred = f.add("Sub", small, f.weight(planes(MEAN / 255)))
    return f.add("Div", centred, f.weight(planes(STD / 255)))


def batch_norm(f: Front) -> str:
    ones, zeros = f.weight(np.ones(3)), f.weight(np.zeros(3))
    return f.add("BatchNormalization", "input", ones, zeros, f.weight(MEAN), f.weight(STD**2))


def channels_last(f: Front) -> str:
    rows = f.add("Transpose", "input", perm=[0, 2, 3, 1])
    rows = f.add("Div", f.add("Sub", rows, f.weight(MEAN)), f.weight(STD))
    return f.add("Transpose", rows, perm=[0, 3, 1, 2])


def layer(f: Front) -> str:
    kernel = np.diag(1 / STD).reshape(3, 3, 1, 1)
    return f.add("Conv", "input", f.weight(kernel), f.weight(-MEAN / STD))


def channel_by_channel(f: Front) -> str:
    parts = []
    for channel in range(3):
        part = f.add("Gather", "input", f.weight([channel], np.int64), axis=1)
        part = f.add("Sub", part, f.weight(MEAN[channel]))
        parts.append(f.add("Mul", part, f.weight(1 / STD[channel])))
    return f.add("Concat", *parts, axis=1)


def constants_of_nodes(f: Front) -> str:
    mean = f.add("Constant", value=numpy_helper.from_array(MEAN.astype(np.float32)))
    shaped = f.add("Reshape", mean, f.weight([1, 3, 1, 1], np.int64))
    std = f.add("Sqrt", f.weight(planes(STD**2)))
    return f.add("Div", f.add("Sub", f.add("Identity", "input"), shaped), std)


def through_integers(f: Front) -> str:
    whole = f.add("Cast", f.add("Round", "input"), to=TensorProto.UINT8)
    clipped = f.add("Clip", f.add("Cast", whole, to=TensorProto.FLOAT), f.weight(0), f.weight(255))
    return f.add("Div", f.add("Sub", clipped, f.weight(planes(MEAN))), f.weight(planes(STD)))


GREY_LEVELS = [
    *(sub_div, mul_add, fractions_first, batch_norm, channels_last, layer, channel_by_channel),
    *(constants_of_nodes, through_integers),
]


def answers(model: Any, path: Path, spec: ModelSpec, image_bgr: Any) -> Any:
    """The first output for a picture that is prepared as a spec says."""
    feed, _ = letterbox(image_bgr, HW, 0, normalization_of(spec))
    return run_once(model, path, {"input": feed[None]}, ["simcc_x"])["simcc_x"]


@pytest.mark.parametrize("front", GREY_LEVELS)
def test_whatever_way_the_normalisation_is_written(front: Nodes, tmp_path: Path) -> None:
    """The picture comes to the network's first layer as it does without these nodes."""
    path = tmp_path / "pose.onnx"
    onnx.save(with_front(front), path)
    found = recognise(load_onnx(path), path, "pose")
    spec = found.source_spec
    assert (spec.mean, spec.std, spec.color_order) == ((0, 0, 0), (1, 1, 1), "rgb")
    assert "normalises its input itself" in " ".join(found.notes)
    image = np.random.default_rng(0).integers(0, 256, (*HW, 3), np.uint8)
    plain = recognise(tiny_simcc_model(input_hw=HW), path, "plain").source_spec
    want = answers(tiny_simcc_model(input_hw=HW), path, plain, image)
    got = answers(load_onnx(path), path, spec, image)
    # A rounding to whole grey levels is part of one of these graphs.
    loose = 0.05 if front is through_integers else 1e-3
    np.testing.assert_allclose(got, want, rtol=0, atol=loose * np.abs(want).max())


def test_the_prepared_network_takes_the_same_grey_levels(tmp_path: Path) -> None:
    path = tmp_path / "pose.onnx"
    onnx.save(with_front(sub_div), path)
    made = prepare(path, "pose")
    image = np.random.default_rng(0).integers(0, 256, (*HW, 3), np.uint8)
    got = answers(made.model, path, made.spec, image)
    plain = recognise(tiny_simcc_model(input_hw=HW), path, "plain").source_spec
    want = answers(tiny_simcc_model(input_hw=HW), path, plain, image)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-3 * np.abs(want).max())
    assert made.spec.mean == (0, 0, 0)


def test_a_graph_for_fractions_is_given_fractions(tmp_path: Path) -> None:
    def front(f: Front) -> str:
        centred = f.add("Sub", "input", f.weight(planes(MEAN / 255)))
        return f.add("Div", centred, f.weight(planes(STD / 255)))

    path = tmp_path / "pose.onnx"
    found = recognise(with_front(front), path, "pose")
    assert (found.source_spec.mean, found.source_spec.std) == ((0, 0, 0), (255, 255, 255))
    assert "divided by 255" in found.notes[-1]


@pytest.mark.parametrize("way", ["gather", "slice"])
def test_channels_that_the_graph_turns_round(way: str, tmp_path: Path) -> None:
    def front(f: Front) -> str:
        if way == "gather":
            return f.add("Gather", "input", f.weight([2, 1, 0], np.int64), axis=1)
        ends = ([-1], [-4], [1], [-1])
        return f.add("Slice", "input", *(f.weight(end, np.int64) for end in ends))

    spec = recognise(with_front(front), tmp_path / "pose.onnx", "pose").source_spec
    assert spec.color_order == "bgr"
    assert spec.mean == tuple(MEAN[::-1])


def test_the_order_of_the_means_tells_that_of_the_channels(tmp_path: Path) -> None:
    def front(f: Front) -> str:
        centred = f.add("Sub", "input", f.weight(planes(MEAN[::-1])))
        return f.add("Div", centred, f.weight(planes(STD[::-1])))

    assert recognise(with_front(front), tmp_path / "p.onnx", "p").source_spec.color_order == "bgr"


def mean_picture(f: Front) -> str:
    return f.add("Sub", "input", f.weight(np.random.default_rng(1).random((1, 3, *HW)) * 200))


def turned_round(f: Front) -> str:
    return f.add("Sub", f.weight(255.0), "input")


def gamma(f: Front) -> str:
    return f.add("Pow", f.add("Div", "input", f.weight(255.0)), f.weight(2.2))


def cut_off(f: Front) -> str:
    low = f.add("Clip", "input", f.weight(0.0), f.weight(0.4))
    return f.add("Div", low, f.weight(0.2))


@pytest.mark.parametrize("front", [mean_picture, turned_round, gamma, cut_off])
def test_what_no_mean_and_std_describe_is_refused_by_its_nodes(
    front: Nodes, tmp_path: Path
) -> None:
    model = with_front(front)
    assert isinstance(find_input_arithmetic(model, tmp_path, "input", HW), Unexplained)
    with pytest.raises(ModelFileError, match=r"front_\d.*--spec FILE"):
        recognise(model, tmp_path / "pose.onnx", "pose")


def test_a_scale_that_is_no_normalisation_is_refused(tmp_path: Path) -> None:
    def front(f: Front) -> str:
        return f.add("Mul", "input", f.weight(30.0))

    with pytest.raises(ModelFileError, match=r"Mul 'front_0'.* no normalisation"):
        recognise(with_front(front), tmp_path / "pose.onnx", "pose")


def test_networks_without_preprocessing_are_left_alone(tmp_path: Path) -> None:
    for model in (tiny_simcc_model(input_hw=HW), with_front(lambda f: f.add("Identity", "input"))):
        assert find_input_arithmetic(model, tmp_path, "input", HW) is None
        found = recognise(model, tmp_path / "pose.onnx", "pose")
        assert found.source_spec.mean == tuple(MEAN)
        assert "does not say how pixels become its input" in found.notes[-1]


def described(mean: Any, std: Any) -> ModelSpec:
    return ModelSpec(
        name="mine",
        task="pose",
        codec="simcc",
        input=TensorSpec("input", (None, 3, *HW)),
        outputs=(TensorSpec("simcc_x", (None, 17, 96)), TensorSpec("simcc_y", (None, 17, 128))),
        color_order="rgb",
        mean=mean,
        std=std,
        keypoint_set="coco17",
    )


def test_a_description_that_normalises_as_well_is_refused(tmp_path: Path) -> None:
    model, path = with_front(sub_div), tmp_path / "pose.onnx"
    twice = described(tuple(MEAN), tuple(STD))
    with pytest.raises(SpecError, match=r"Sub 'front_0', Div 'front_1'.*mean \[0, 0, 0\]"):
        recognise(model, path, "pose", twice)
    right = described((0, 0, 0), (1, 1, 1))
    found = recognise(model, path, "pose", right)
    assert found.source_spec == right
    assert "Sub 'front_0'" in found.notes[0]


def test_a_description_completes_what_the_graph_begins(tmp_path: Path) -> None:
    """Fractions outside, the rest inside; and a picture that is subtracted after a description."""

    def front(f: Front) -> str:
        centred = f.add("Sub", "input", f.weight(planes(MEAN / 255)))
        return f.add("Div", centred, f.weight(planes(STD / 255)))

    path, fractions = tmp_path / "pose.onnx", described((0, 0, 0), (255, 255, 255))
    assert recognise(with_front(front), path, "pose", fractions).source_spec == fractions
    with pytest.raises(SpecError, match=r"std \[255, 255, 255\] the graph's own counts"):
        recognise(with_front(front), path, "pose", described((0, 0, 0), (1, 1, 1)))
    found = recognise(with_front(mean_picture), path, "pose", fractions)
    assert "Sub 'front_0'" in found.notes[0]
