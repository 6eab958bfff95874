from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.graph.file import load_onnx
from converters.graph.prepare import prepare
from converters.graph.recognise import recognise
from converters.sdk.archive import read_sdk
from converters.zoo.models import find_source
from edge.codecs import KEYPOINT_CODECS
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.errors import ModelFileError, SpecError
from edge.picture import read_image
from edge.pose import PoseEstimator
from edge.session import EngineSettings
from edge.spec import ModelSpec
from tests.conftest import shared, tiny_simcc_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def brightest_place(names: tuple[str, str], *, hw: tuple[int, int] = (64, 64), k: int = 21) -> Any:
    """A SimCC model whose points are the brightest column and row; the names are in that order."""
    height, width = hw
    nodes, outputs, weights = [], [], []
    for name, other, size in ((names[0], 2, width), (names[1], 3, height)):
        double = np.zeros((size, 2 * size), np.float32)
        double[np.arange(size), 2 * np.arange(size)] = 1
        weights += [numpy_helper.from_array(double, f"{name}.double")]
        nodes += [
            helper.make_node("ReduceMax", ["image"], [f"{name}.max"], axes=[1, other], keepdims=0),
            helper.make_node("MatMul", [f"{name}.max", f"{name}.double"], [f"{name}.bins"]),
            helper.make_node("Unsqueeze", [f"{name}.bins", "one"], [f"{name}.row"]),
            helper.make_node("Mul", [f"{name}.row", "copies"], [name]),
        ]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", k, 2 * size]))
    weights += [
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.ones((1, k, 1), np.float32), "copies"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, *hw])
    graph = helper.make_graph(nodes, "brightest", [image], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


NAMES = [
    *(("simcc_x", "simcc_y"), ("x_simcc", "y_simcc"), ("predX", "predY"), ("simccx", "simccy")),
    *(("out_x_axis", "out_y_axis"), ("x", "y"), ("horizontal", "vertical")),
    *(("head/width/logits", "head/height/logits"), ("X_output_0", "Y_output_0")),
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("y_first", [False, True])
def test_the_names_tell_the_axes_of_a_square(
    names: tuple[str, str], y_first: bool, tmp_path: Path
) -> None:
    model = brightest_place(names)
    if y_first:
        values = list(model.graph.output)[::-1]
        del model.graph.output[:]
        model.graph.output.extend(values)
    path = tmp_path / "pose.onnx"
    onnx.save(model, path)
    made = prepare(path, "pose")
    image = np.zeros((1, 3, 64, 64), np.float32)
    image[0, :, 15, 50] = 9
    with OnnxRuntimeSession(path, made.source_spec, EngineSettings()) as session:
        (points,) = KEYPOINT_CODECS["simcc"](session.run({"image": image}), made.source_spec)
    np.testing.assert_array_equal(points[:, :2], np.tile([50, 15], (21, 1)))


@pytest.mark.parametrize("names", [("first", "second"), ("x_y", "y_x"), ("boxes", "points")])
def test_a_square_without_a_hint_is_asked_about(names: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(
        ModelFileError, match=r"neither .* tell which is x: .*--spec FILE"
    ) as caught:
        recognise(brightest_place(names), tmp_path / "pose.onnx", "pose")
    assert f"{names[0]!r}, {names[1]!r} (x first) or {names[1]!r}, {names[0]!r}" in str(
        caught.value
    )


def test_sizes_tell_where_names_do_not(tmp_path: Path) -> None:
    model = brightest_place(("first", "second"), hw=(64, 48))
    spec = recognise(model, tmp_path / "pose.onnx", "pose").source_spec
    assert [tensor.name for tensor in spec.outputs] == ["first", "second"]
    assert [tensor.shape for tensor in spec.outputs] == [(None, 21, 96), (None, 21, 128)]


def test_names_that_contradict_the_sizes_are_refused(tmp_path: Path) -> None:
    model = brightest_place(("simcc_y", "simcc_x"), hw=(64, 48))
    with pytest.raises(ModelFileError, match=r"by their names 'simcc_x' is x .* other way round"):
        recognise(model, tmp_path / "pose.onnx", "pose")


def two_towers(bins: int, hw: tuple[int, int]) -> Any:
    model = brightest_place(("audio", "text"), hw=hw, k=77)
    for weight in model.graph.initializer:
        if weight.name.endswith(".double"):
            value = np.zeros((weight.dims[0], bins), np.float32)
            weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[2].dim_value = bins
    return model


@pytest.mark.parametrize(("bins", "text"), [(512, "2.29"), (560, "2.50"), (100, "0.45")])
def test_a_ratio_that_simcc_does_not_have(bins: int, text: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=f"{text} and {text} bins a pixel"):
        recognise(two_towers(bins, (224, 224)), tmp_path / "towers.onnx", "towers")


def test_outputs_that_no_codec_takes_are_not_sent_to_a_spec(tmp_path: Path) -> None:
    model = brightest_place(("scores", "other"))
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info("scores.max", TensorProto.FLOAT, ["n", 64])
    )
    with pytest.raises(ModelFileError, match="no --spec can describe it"):
        recognise(model, tmp_path / "classes.onnx", "classes")


# --- what a declaration leaves open ---------------------------------------------------------------


def opened(model: Any, *, inputs: tuple[int, ...] = (), outputs: tuple[int, ...] = ()) -> Any:
    """The model with dimensions of its input and outputs open, unknown to inference as well."""
    for values, axes in ((model.graph.input, inputs), (model.graph.output, outputs)):
        for value in values:
            for axis in axes:
                value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{axis}"
    shape = next(node for node in model.graph.node if node.op_type == "Reshape").input[1]
    model.graph.node.insert(1, helper.make_node("Shape", [model.graph.node[0].output[0]], ["s"]))
    given = next(one for one in model.graph.initializer if one.name == shape)
    # The number of points is computed: it is the map's.
    tokens = int(numpy_helper.to_array(given)[2])
    ends = {"from": [1], "to": [2], "axis": [0], "batch": [-1], "rest": [tokens]}
    for name, value in ends.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    model.graph.node.insert(2, helper.make_node("Slice", ["s", "from", "to", "axis"], ["count"]))
    model.graph.node.insert(
        3, helper.make_node("Concat", ["batch", "count", "rest"], ["computed"], axis=0)
    )
    next(node for node in model.graph.node if node.op_type == "Reshape").input[1] = "computed"
    return model


def test_sizes_of_outputs_are_found_by_running(tmp_path: Path) -> None:
    path = tmp_path / "pose.onnx"
    onnx.save(opened(tiny_simcc_model(keypoints=26), outputs=(0, 1, 2)), path)
    made = prepare(path, "pose", batch=None)
    assert [tensor.shape for tensor in made.spec.outputs] == [(None, 26, 96), (None, 26, 128)]
    assert made.spec.keypoint_set == "halpe26"


def test_sizes_that_stay_open_after_folding_are_kept_as_measured(tmp_path: Path) -> None:
    """The points are counted among the values of a weight, which nothing folds."""
    model = opened(tiny_simcc_model(keypoints=26), outputs=(1,))
    del model.graph.node[1:3]
    pool = helper.make_node("GlobalMaxPool", [model.graph.node[0].output[0]], ["pool"])
    nodes = [
        pool,
        helper.make_node("Mul", ["pool", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "ones.column"], ["many"]),
        helper.make_node("NonZero", ["many"], ["places"]),
        helper.make_node("Shape", ["places"], ["places.shape"]),
        helper.make_node("Slice", ["places.shape", "from", "to", "axis"], ["count"]),
    ]
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.zeros(1, np.float32), "nothing"),
            numpy_helper.from_array(np.ones((1, 26, 1, 1), np.float32), "ones.column"),
        ]
    )
    for index, node in enumerate(nodes):
        model.graph.node.insert(1 + index, node)
    path = tmp_path / "pose.onnx"
    onnx.save(model, path)
    made = prepare(path, "pose")
    assert [tensor.shape for tensor in made.spec.outputs] == [(1, 26, 96), (1, 26, 128)]


def test_an_open_size_is_asked_for_and_taken(tmp_path: Path) -> None:
    path = tmp_path / "pose.onnx"
    onnx.save(opened(tiny_simcc_model(), inputs=(2, 3)), path)
    model = load_onnx(path)
    with pytest.raises(ModelFileError, match=r"open; say which with --size HxW.*64x48"):
        recognise(model, path, "pose")
    assert recognise(model, path, "pose", input_hw=(64, 48)).source_spec.input_hw == (64, 48)
    with pytest.raises(ModelFileError):
        recognise(model, path, "pose", input_hw=(96, 96))


def test_half_an_open_size_keeps_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "pose.onnx"
    onnx.save(opened(tiny_simcc_model(), inputs=(3,)), path)
    with pytest.raises(ModelFileError, match=r"fixed at 64x\? .* cannot become 96x48"):
        recognise(load_onnx(path), path, "pose", input_hw=(96, 48))
    found = recognise(load_onnx(path), path, "pose", input_hw=(64, 48))
    assert found.source_spec.input_hw == (64, 48)


# --- what is said of it ---------------------------------------------------------------------------


def test_a_guess_is_said_and_an_answer_is_taken(tmp_path: Path) -> None:
    model, path = tiny_simcc_model(), tmp_path / "pose.onnx"
    guess = recognise(model, path, "pose")
    assert guess.source_spec.keypoint_set == "coco17"
    assert "ap10k17" in guess.notes[0]
    said = recognise(model, path, "pose", keypoint_set="ap10k17")
    assert said.source_spec.keypoint_set == "ap10k17"
    assert not any("coco17" in note for note in said.notes)
    with pytest.raises(SpecError, match="26 keypoints"):
        recognise(model, path, "pose", keypoint_set="halpe26")


# --- what the real mmdeploy wrote -----------------------------------------------------------------


def keypoints(path: Path, spec: ModelSpec, photo: Path) -> Any:
    with OnnxRuntimeSession(path, spec, EngineSettings()) as session:
        image = read_image(photo)
        height, width = image.shape[:2]
        return PoseEstimator(session)(image, np.array([[0, 0, width, height]], np.float32))


def test_rtmpose_of_mmdeploy_answers_as_the_demo_does(photos: list[Path], tmp_path: Path) -> None:
    """The demo's weights, exported by the real code: folder and bare file."""
    folder = shared("cases/openmmlab/rtmpose-t_mmdeploy1.3.1_sdk")
    demo = find_source("rtmpose-t-demo")
    plain = recognise(load_onnx(demo.path), demo.path, "demo").source_spec
    want = keypoints(demo.path, plain, photos[0])
    sdk = read_sdk(folder, "sdk", tmp_path)
    bare = recognise(load_onnx(sdk.onnx_path), sdk.onnx_path, "bare").source_spec
    for spec in (sdk.spec, bare):
        assert [tensor.shape for tensor in spec.outputs] == [(None, 17, 384), (None, 17, 512)]
        np.testing.assert_allclose(keypoints(sdk.onnx_path, spec, photos[0]), want, atol=0.01)


def test_yoloxpose_of_mmdeploy_is_read(tmp_path: Path) -> None:
    folder = shared("cases/openmmlab/yoloxpose-tiny_sdk")
    spec = read_sdk(folder, "sdk", tmp_path).spec
    # Its stem is folded, and nothing then follows from the graph that is left.
    made = prepare(folder / "end2end.onnx", "sdk", spec=spec).spec
    assert [tensor.shape for tensor in made.outputs] == [(1, None, 5), (1, None, 17, 3)]
    assert (spec.task, spec.codec, spec.keypoint_set) == ("one-stage", "detections", "coco17")
    assert [tensor.shape for tensor in spec.outputs] == [(None, None, 5), (None, None, 17, 3)]
    assert (spec.score_threshold, spec.nms_iou) == (0.01, 0.65)
