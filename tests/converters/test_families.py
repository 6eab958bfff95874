"""Every family of models from a source file to verified artifacts, through the real steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from converters.chain import Row  # noqa: E402
from converters.conversion import ConversionRequest  # noqa: E402
from converters.convert import convert_model, verify_artifact  # noqa: E402
from converters.graph.prepare import prepare  # noqa: E402
from converters.graph.recognise import SPEC_KEY, recognise  # noqa: E402
from converters.job import FeedSource, NamedFeeds  # noqa: E402
from converters.source import Source  # noqa: E402
from edge.artifact import load_artifact  # noqa: E402
from edge.engines.onnxruntime import OnnxRuntimeSession  # noqa: E402
from edge.errors import ArtifactError, ModelFileError, SpecError, StepError  # noqa: E402
from edge.session import EngineSettings, open_session  # noqa: E402
from edge.spec import ModelSpec, TensorSpec, Variant  # noqa: E402
from tests.conftest import tiny_simcc_model  # noqa: E402
from tests.stand_ins.yolox_networks import (  # noqa: E402
    Builder,
    official_network,
    suppress,
    with_suppression,
)

HW = (64, 96)
STRIDES = (8, 16)
CLASSES = 3


def noise_images(spec: ModelSpec) -> Sequence[NamedFeeds]:
    """Grey levels of every value, normalised as the model wants them."""
    rng = np.random.default_rng(0)
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (spec.mean, spec.std))
    levels = [rng.uniform(0, 255, (1, 3, *spec.input_hw)).astype(np.float32) for _ in range(3)]
    return [
        NamedFeeds(f"noise {index}", {spec.input.name: (image - mean) / std})
        for index, image in enumerate(levels)
    ]


NOISE = FeedSource("noise", noise_images)
VARIANTS = ["onnx-fp32", "ncnn-fp16", "openvino-fp32", "openvino-fp16"]


def converted(
    source: Source, variants: Sequence[str], out: Path, **options: Any
) -> tuple[list[Path], list[str]]:
    rows: list[Row] = []
    chosen = [Variant.parse(text) for text in variants]
    made = convert_model(
        source, chosen, out, ConversionRequest(parity=NOISE, **options), rows.append
    )
    for one in made:
        if one.error:
            raise one.error
    return [one.folder for one in made], [row.verdict for row in rows if row.step == "parity"]


# --- YOLOX ----------------------------------------------------------------------------------------


def yolox_graph(classes: int, *, suppressed: bool, several: bool = False) -> Any:
    """Megvii's one output (N, A, 5 + C), or mmdeploy's dets and labels with the suppression.

    It begins with the official Focus stem.
    """
    b = Builder()
    rows = []
    image = b.add("Mul", ["input", b.constant("unit", 1 / 64)], "image")
    stem = b.conv(b.focus(image), "stem", (12, 3), 1, 0.6)
    for stride in STRIDES:
        # Features of the order of 1 from grey levels; sizes of about a stride.
        features = b.conv(stem, f"features_{stride}", (3, 6), stride // 2, 0.6 / stride)
        maps = [b.conv(features, f"reg_{stride}", (6, 4), 1, 0.2)]
        for kind, count in (("obj", 1), ("cls", classes)):
            logits = b.conv(features, f"{kind}_{stride}", (6, count), 1, 1.0)
            maps.append(b.add("Sigmoid", [logits], f"{kind}_{stride}.score"))
        joined = b.add("Concat", maps, f"level_{stride}", axis=1)
        shape = b.constant(f"shape_{stride}", [0, 5 + classes, -1], np.int64)
        rows.append(b.add("Reshape", [joined, shape], f"flat_{stride}"))
    flat = b.add("Concat", rows, "flat", axis=2)
    b.add("Transpose", [flat], "output", perm=[0, 2, 1])
    if suppressed:
        outputs = suppress(b, classes, HW, STRIDES, several=several)
    else:
        anchors = sum((HW[0] // s) * (HW[1] // s) for s in STRIDES)
        outputs = [
            helper.make_tensor_value_info(
                "output", TensorProto.FLOAT, ["batch", anchors, 5 + classes]
            )
        ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, *HW])
    graph = helper.make_graph(b.nodes, "yolox", [image], outputs, b.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def fused_spec(classes: int) -> ModelSpec:
    anchors = sum((HW[0] // s) * (HW[1] // s) for s in STRIDES)
    return ModelSpec(
        name="yolox",
        task="detection",
        codec="yolox",
        input=TensorSpec("input", (None, 3, *HW)),
        outputs=(TensorSpec("output", (None, anchors, 5 + classes)),),
        color_order="bgr",
        mean=(0, 0, 0),
        std=(1, 1, 1),
        strides=STRIDES,
        score_threshold=0.5,
        nms_iou=0.65,
    )


@pytest.mark.parametrize("classes", [1, CLASSES])
def test_yolox_with_its_suppression_is_cut_and_converts(tmp_path: Path, classes: int) -> None:
    """The parity check compares the file's own suppression with the codec on the raw maps."""
    path = tmp_path / "yolox.onnx"
    onnx.save(yolox_graph(classes, suppressed=True), path)
    found = recognise(onnx.load(path), path, "yolox").source_spec
    assert (found.codec, found.mean, found.std) == ("detections", (0, 0, 0), (1, 1, 1))
    assert (found.nms_iou, found.score_threshold) == (0.65, 0.5)
    folders, verdicts = converted(Source("yolox", path), VARIANTS, tmp_path)
    assert all(verdict.startswith("pass: ") for verdict in verdicts)
    assert int(verdicts[0].split()[1]) > 10
    spec = load_artifact(folders[1]).spec
    assert spec.codec == "yolox"
    assert not spec.several_labels, "the file takes the best class of a cell"
    assert [tensor.name for tensor in spec.outputs] == [
        *("logits_8", "logits_16", "boxes_8", "boxes_16", "objectness_8", "objectness_16")
    ]
    assert [tensor.shape[1] for tensor in spec.outputs[::2]] == [classes, 4, 1]


@pytest.mark.parametrize(
    ("classes", "order"), [(1, "megvii"), (3, "mmdet"), (4, "mmdet"), (80, "megvii")]
)
def test_official_yolox_converts_for_every_engine(
    tmp_path: Path, classes: int, order: Literal["megvii", "mmdet"]
) -> None:
    """As PyTorch exports it, the stem's slices and all, with mmdeploy's suppression behind it:

    a cell answers for each of its classes.
    """
    pytest.importorskip("torch")
    path = tmp_path / "yolox.onnx"
    onnx.save(with_suppression(official_network(classes, order), classes), path)
    variants = ["onnx-fp32", "ncnn-fp16", "openvino-fp16"]
    folders, verdicts = converted(Source("yolox", path), variants, tmp_path)
    assert all(verdict.startswith("pass: ") for verdict in verdicts)
    assert int(verdicts[0].split()[1]) > 30
    spec = load_artifact(folders[1]).spec
    assert spec.several_labels
    assert [tensor.shape[1] for tensor in spec.outputs[::3]] == [classes, 4, 1]
    param = load_artifact(folders[1]).path("model").read_text()
    first = next(line.split() for line in param.splitlines()[2:] if line.startswith("Convolution"))
    assert {"1=6", "3=2", "4=2"} <= set(first), "a kernel of 6, a stride and a padding of 2"


def test_yolox_of_one_output_is_cut_too(tmp_path: Path) -> None:
    path = tmp_path / "yolox.onnx"
    onnx.save(yolox_graph(CLASSES, suppressed=False), path)
    with pytest.raises(ModelFileError, match="not recognised"):
        prepare(path, "yolox")
    source = Source("yolox", path, fused_spec(CLASSES))
    folders, verdicts = converted(source, VARIANTS, tmp_path)
    assert all(verdict.startswith("pass: ") for verdict in verdicts)
    assert len(load_artifact(folders[0]).spec.outputs) == 6


def test_a_first_layer_that_works_in_place_leaves_the_image_alone(tmp_path: Path) -> None:
    path = tmp_path / "yolox.onnx"
    onnx.save(yolox_graph(1, suppressed=True), path)
    (folder,), _ = converted(Source("yolox", path), ["ncnn-fp16"], tmp_path)
    artifact = load_artifact(folder)
    image = noise_images(artifact.spec)[0].feeds["input"]
    before = image.copy()
    with open_session(artifact) as session:
        first, second = session.run({"input": image}), session.run({"input": image})
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(first["boxes_8"], second["boxes_8"])


# --- heatmaps -------------------------------------------------------------------------------------


def test_a_heatmap_model_converts_as_described(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weight = numpy_helper.from_array(rng.normal(0, 0.2, (5, 3, 4, 4)).astype(np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node(
                "Conv", ["image", "w"], ["heatmaps"], kernel_shape=[4, 4], strides=[4, 4]
            )
        ],
        "heatmap",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 48])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, [1, 5, 16, 12])],
        [weight],
    )
    path = tmp_path / "hrnet.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    spec = ModelSpec(
        name="hrnet",
        task="pose",
        codec="heatmap",
        input=TensorSpec("image", (1, 3, 64, 48)),
        outputs=(TensorSpec("heatmaps", (1, 5, 16, 12)),),
        color_order="rgb",
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        keypoint_set="unnamed-5",
        heatmap_refinement="dark",
    )
    folders, verdicts = converted(Source("hrnet", path, spec), VARIANTS, tmp_path)
    assert [verdict[:18] for verdict in verdicts] == ["pass: 15 keypoints"] * len(VARIANTS)
    assert load_artifact(folders[1]).spec.heatmap_refinement == "dark"


# --- a file's own spec, and batches ---------------------------------------------------------------


def test_a_file_that_carries_its_spec_is_taken_at_its_word(tmp_path: Path) -> None:
    model = tiny_simcc_model()
    path = tmp_path / "tiny.onnx"
    onnx.save(model, path)
    spec = recognise(model, path, "tiny").source_spec
    own = replace(spec, std=(1.0, 2.0, 3.0), keypoint_set="ap10k17")
    entry = model.metadata_props.add()
    entry.key, entry.value = SPEC_KEY, json.dumps(own.to_json())
    onnx.save(model, path)
    assert recognise(model, path, "other").source_spec == replace(own, name="other")
    # Whoever describes it otherwise is heard.
    assert recognise(model, path, "tiny", spec=spec).source_spec == spec
    for text, words in (("{", "no valid JSON"), ("[1]", "no table"), ("{}", "missing key")):
        entry.value = text
        with pytest.raises(SpecError, match=words):
            recognise(model, path, "tiny")


def test_a_fixed_batch_for_throughput(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_simcc_model(scale_norm=True), path)
    source = Source("tiny", path)
    variants = ["onnx-fp32", "onnx-fp16", "openvino-fp32"]
    folders, verdicts = converted(source, variants, tmp_path, batch=4)
    assert [folder.name for folder in folders] == [f"tiny-{text}-batch4" for text in variants]
    assert all(verdict.startswith("pass: ") for verdict in verdicts)
    half = onnx.load(folders[1] / "tiny.onnx")
    onnx.checker.check_model(half, full_check=True)
    assert {tensor.data_type for tensor in half.graph.initializer if len(tensor.dims) > 1} == {
        TensorProto.FLOAT16
    }
    spec = load_artifact(folders[0]).spec
    assert spec.input.shape == (4, 3, 64, 48)
    rng = np.random.default_rng(5)
    images = rng.standard_normal((4, 3, 64, 48), np.float32)
    with OnnxRuntimeSession(path, spec, EngineSettings()) as reference:
        want = reference.run({"input": images})
    for folder in (folders[0], folders[2]):
        with open_session(load_artifact(folder)) as session:
            assert session.max_batch == 4
            got = session.run({"input": images})
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, atol=1e-4)
    assert verify_artifact(folders[0], NOISE).passed
    with pytest.raises(SpecError, match=r"ncnn-fp16 takes one image at a time.*--formats"):
        converted(source, ["ncnn-fp16"], tmp_path, batch=4)


def test_a_batch_that_the_file_does_not_have(tmp_path: Path) -> None:
    model = tiny_simcc_model()
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    path = tmp_path / "one.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="batch is fixed at 1 and cannot become 8"):
        prepare(path, "one", batch=8)


# --- RTMO -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rtmo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported RTMO-t of random weights that finds some people everywhere."""
    torch = pytest.importorskip("torch")
    from converters.architectures.official import export_checkpoint
    from converters.architectures.rtmo import RTMO

    folder = tmp_path_factory.mktemp("rtmo")
    torch.manual_seed(0)
    model = RTMO("t")
    heads = model.head.head_module
    for level in range(2):
        torch.nn.init.constant_(heads.out_cls[level].bias, 0.5)
        torch.nn.init.normal_(heads.out_cls[level].weight, std=0.3)
        torch.nn.init.constant_(heads.out_bbox[level].bias, 1.0)
    torch.save({"state_dict": model.state_dict()}, folder / "rtmo.pth")
    export_checkpoint(folder / "rtmo.pth", folder / "rtmo.onnx", "rtmo", input_hw=(96, 128))
    return folder / "rtmo.onnx"


def test_rtmo_converts_for_every_engine(rtmo_file: Path, tmp_path: Path) -> None:
    folders, verdicts = converted(Source("rtmo", rtmo_file), VARIANTS, tmp_path)
    for verdict in verdicts:
        assert verdict.startswith("pass: ")
        assert " boxes" in verdict
        assert " keypoints" in verdict
    for folder in folders[1:]:
        assert sorted(load_artifact(folder).files) == ["constants", "model", "weights"]
    assert verify_artifact(folders[1], NOISE).passed


def test_rtmo_without_its_constants_is_refused(rtmo_file: Path, tmp_path: Path) -> None:
    (folder,), _ = converted(Source("rtmo", rtmo_file), ["onnx-fp32"], tmp_path)
    (folder / "rtmo.constants.npz").unlink()
    with pytest.raises(ArtifactError, match=r"rtmo\.constants\.npz"):
        load_artifact(folder)
    model = onnx.load(rtmo_file)
    for tensor in model.graph.initializer:
        if tensor.name == "dcc.periods":
            tensor.name = "dcc.other"
    for value in model.graph.output:
        if value.name == "dcc.periods":
            value.name = "dcc.other"
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    with pytest.raises(SpecError, match=r"dcc\.periods"):
        prepare(path, "changed")


# --- suppression in the file ----------------------------------------------------------------------


def test_a_one_stage_file_with_its_suppression_stays_onnx(tmp_path: Path) -> None:
    """mmdeploy's form of RTMO and YOLOX-Pose: dets and keypoints, four people in fixed places."""
    count, keypoints = 4, 17
    rng = np.random.default_rng(2)
    corners = np.array([[4.0 + 20 * i, 5.0, 18.0 + 20 * i, 50.0] for i in range(count)])
    dets = np.concatenate([corners, [[0.9], [0.8], [0.7], [0.02]]], axis=1)[None]
    people = rng.uniform(5, 50, (1, count, keypoints, 3))
    people[..., 2] = 0.8
    constants = [
        numpy_helper.from_array(value.astype(np.float32), name)
        for name, value in (("dets.c", dets), ("people.c", people), ("nothing", np.zeros(1)))
    ]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
            helper.make_node("Add", ["dets.c", "zero"], ["dets"]),
            helper.make_node("Add", ["people.c", "zero"], ["keypoints"]),
        ],
        "one_stage",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 64, 96])],
        [
            helper.make_tensor_value_info("dets", TensorProto.FLOAT, [1, "kept", 5]),
            helper.make_tensor_value_info("keypoints", TensorProto.FLOAT, [1, "kept", 17, 3]),
        ],
        constants,
    )
    path = tmp_path / "rtmo.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    spec = ModelSpec(
        name="rtmo",
        task="one-stage",
        codec="detections",
        input=TensorSpec("input", (1, 3, 64, 96)),
        outputs=(TensorSpec("dets", (1, None, 5)), TensorSpec("keypoints", (1, None, 17, 3))),
        color_order="bgr",
        mean=(0, 0, 0),
        std=(1, 1, 1),
        keypoint_set="coco17",
        score_threshold=0.1,
        nms_iou=0.65,
    )
    _, (verdict,) = converted(Source("rtmo", path, spec), ["onnx-fp32"], tmp_path)
    assert verdict.startswith("pass: 9 boxes")
    assert "153 keypoints" in verdict
    with pytest.raises(StepError, match=r"its own non-maximum suppression.*--formats"):
        converted(Source("rtmo", path, spec), ["ncnn-fp16"], tmp_path)
