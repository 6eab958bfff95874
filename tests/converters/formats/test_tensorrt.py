"""Build kits: what their files compute, how they are typed, and what is refused beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.people.synthetic import Scene, crop_scene, scene
from converters.formats.tensorrt import convert_tensorrt, open_kit
from converters.formats.tensorrt_int8 import open_tensorrt_quantiser
from converters.graph.prepare import Prepared, prepare
from converters.job import Job
from converters.zoo.models import find_source
from edge.artifact import Artifact
from edge.detector import detector_feeds
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.engines.trtexec import load_build_kit, trtexec_build_argv
from edge.errors import FeedError, ModelFileError
from edge.pose import PoseEstimator, pose_feeds
from edge.session import Array, EngineSettings, Feeds, Session
from edge.spec import Precision, Variant

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.long
ONE = EngineSettings(threads=1)
TYPE = onnx.TensorProto
POSE, DETECTOR = "rtmpose-t-demo", "rtmdet-nano-demo"


def prepared_demo(name: str, folder: Path) -> tuple[Prepared, Path]:
    source = find_source(name)
    made = prepare(source.path, source.name, spec=source.spec)
    path = folder / "prepared.onnx"
    path.write_bytes(made.model.SerializeToString())
    return made, path


def crops(seed: int, count: int) -> list[Scene]:
    return [crop_scene(seed, index, variety=0.25) for index in range(count)]


def feeds_of(spec: Any, scenes: list[Scene]) -> list[Feeds]:
    if spec.task == "pose":
        return [pose_feeds(spec, s.image_bgr, s.people[0].box_xyxy[None])[0] for s in scenes]
    return [detector_feeds(spec, s.image_bgr)[0] for s in scenes]


class Kits:
    """Both kits of a demo model, made once."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.prepared, self.onnx_path = prepared_demo(name, folder)
        self.spec = self.prepared.spec
        self.half = convert_tensorrt(self._job("fp16", folder / "fp16"))
        pose = self.spec.task == "pose"
        pictures = crops(7, 24) if pose else [scene(7, i, variety=0.25) for i in range(12)]
        job = self._job("int8", folder / "int8", feeds_of(self.spec, pictures))
        self.quantiser = open_tensorrt_quantiser(job)
        self.int8 = self.quantiser.quantise((), job.folder)
        self.folders = {"fp16": folder / "fp16", "int8": folder / "int8"}

    def _job(self, precision: Precision, folder: Path, feeds: list[Feeds] | None = None) -> Job:
        folder.mkdir()
        return Job(self.onnx_path, self.spec, precision, folder, feeds or ())

    def path(self, precision: Precision, role: str) -> Path:
        files = self.half if precision == "fp16" else self.int8
        return self.folders[precision] / files[role]

    def artifact(self, precision: Precision) -> Artifact:
        files = self.half if precision == "fp16" else self.int8
        variant = Variant("tensorrt", precision)
        return Artifact(self.folders[precision], variant, self.spec, files, {})

    def session(self, path: Path) -> OnnxRuntimeSession:
        return OnnxRuntimeSession(path, self.spec, ONE)


@pytest.fixture(scope="module")
def pose(tmp_path_factory: pytest.TempPathFactory) -> Kits:
    return Kits(POSE, tmp_path_factory.mktemp("pose"))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Kits:
    return Kits(DETECTOR, tmp_path_factory.mktemp("detector"))


@pytest.fixture(params=["pose", "detector"])
def kits(request: pytest.FixtureRequest) -> Kits:
    found: Kits = request.getfixturevalue(request.param)
    return found


# --- answers --------------------------------------------------------------------------------------


def pck(session: Session, scenes: list[Scene]) -> tuple[float, Array]:
    """Share of keypoints within 0.05 of the box's longer side, and all keypoints (N, 17, 2)."""
    estimate = PoseEstimator(session)
    found = np.stack([estimate(s.image_bgr, s.people[0].box_xyxy[None])[0, :, :2] for s in scenes])
    truth = np.stack([s.people[0].keypoints_xyv for s in scenes])
    boxes = np.stack([s.people[0].box_xyxy for s in scenes])
    size = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)[:, None]
    near = np.linalg.norm(found - truth[..., :2], axis=2) <= 0.05 * size
    return float(near[truth[..., 2] > 0].mean()), found


def test_the_pose_kits_keep_their_accuracy(pose: Kits) -> None:
    scenes = crops(2, 120)
    with pose.session(pose.onnx_path) as reference:
        want, points = pck(reference, scenes)
    assert want > 0.85
    with open_kit(pose.artifact("fp16"), ONE) as half:
        assert half.engine.endswith("on the build kit")
        assert half.inference_precision == "fp16"
        share, found = pck(half, scenes)
    assert share == pytest.approx(want, abs=0.002)
    assert np.median(np.abs(found - points)) < 0.05
    with open_kit(pose.artifact("int8"), ONE) as strong:
        assert strong.inference_precision == "int8"
        share, found = pck(strong, scenes)
    assert share > want - 0.008
    # It is int8: the answers are not those of FP16.
    assert np.abs(found - points).max() > 0.5


def test_the_plain_files_answer_as_the_network_does(kits: Kits) -> None:
    feeds = feeds_of(kits.spec, crops(3, 2))
    with (
        kits.session(kits.onnx_path) as reference,
        kits.session(kits.path("fp16", "plain")) as plain,
    ):
        for feed in feeds:
            want, got = reference.run(feed), plain.run(feed)
            for name, value in want.items():
                np.testing.assert_array_equal(got[name], value)


def test_the_half_kit_is_within_parity_of_the_network(kits: Kits) -> None:
    feeds = feeds_of(kits.spec, crops(3, 2))
    with (
        kits.session(kits.onnx_path) as reference,
        kits.session(kits.path("fp16", "strong")) as half,
    ):
        for feed in feeds:
            want, got = reference.run(feed), half.run(feed)
            for name, value in want.items():
                assert got[name].dtype == np.float32
                assert 0 < np.abs(got[name] - value).max() < 0.01 * np.abs(value).max(), name


def test_weights_are_rounded_to_their_channels_steps(pose: Kits) -> None:
    """The pairs of the plain file, against |w|max / 127 of the untouched network's weights."""
    model = onnx.load(pose.path("int8", "plain"))
    value_of = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    source = {t.name: onnx.numpy_helper.to_array(t) for t in pose.prepared.model.graph.initializer}
    pairs = [
        n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in value_of
    ]
    assert len(pairs) == 38  # convolutions
    for node in pairs:
        weight, scale = value_of[node.input[0]], value_of[node.input[1]]
        original = source[node.input[0].removesuffix(".int8.float")]
        largest = np.abs(original.reshape(len(original), -1)).max(axis=1)
        np.testing.assert_allclose(scale, largest / 127, rtol=1e-6)
        steps = scale.reshape(-1, 1, 1, 1)
        assert np.all(np.abs(weight - original) <= steps * 0.5001)
        np.testing.assert_allclose(weight / steps, np.rint(weight / steps), atol=1e-4)


# --- typing and placement -------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_strong_file_is_half_but_for_its_inputs_and_outputs(
    kits: Kits, precision: Precision
) -> None:
    model = onnx.load(kits.path(precision, "strong"))
    onnx.checker.check_model(model, full_check=True)
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    assert ends == {kits.spec.input.name, *(tensor.name for tensor in kits.spec.outputs)}
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TYPE.FLOAT
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    inside = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    computed = {name for node in model.graph.node for name in node.output} - ends
    assert computed <= set(inside)
    kinds = {TYPE.FLOAT16, TYPE.INT8} if precision == "int8" else {TYPE.FLOAT16}
    assert {inside[name] for name in computed} == kinds
    # What ONNX itself defines as float32: the factors of a Resize.
    factors = {node.input[2] for node in model.graph.node if node.op_type == "Resize"}
    floats = {t.name for t in model.graph.initializer if t.data_type == TYPE.FLOAT}
    assert floats == factors
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(ends)
    for node in casts:
        assert {*node.input, *node.output} & ends


def paired_inputs(model: Any) -> tuple[dict[str, Any], set[str]]:
    """Tensor -> node that makes it, and the tensors that are quantised."""
    producer = {name: node for node in model.graph.node for name in node.output}
    quantised = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    return producer, quantised


@pytest.mark.parametrize("role", ["plain", "strong"])
def test_convolutions_and_nothing_else_are_quantised(kits: Kits, role: str) -> None:
    model = onnx.load(kits.path("int8", role))
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    producer, quantised = paired_inputs(model)
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    pairs = {"QuantizeLinear", "DequantizeLinear"}
    for node in layers:
        image, weight = producer[node.input[0]], producer[node.input[1]]
        assert image.op_type == weight.op_type == "DequantizeLinear"
        assert producer[image.input[0]].op_type == "QuantizeLinear"
        if role == "strong":
            assert weights[weight.input[0]].dtype == np.int8
        else:
            pair = producer[weight.input[0]]
            assert pair.op_type == "QuantizeLinear"
            assert weights[pair.input[0]].dtype == np.float32
            assert list(pair.input[1:]) == list(weight.input[1:])
        (axis,) = [a.i for a in weight.attribute if a.name == "axis"]
        assert axis == 0
        assert weights[weight.input[1]].shape == (
            len(weights[weight.input[0]])
            if role == "strong"
            else len(weights[producer[weight.input[0]].input[0]]),
        )
        assert weights[image.input[1]].shape == ()
        # Nobody rounds a bias.
        assert node.input[2] in weights
    for node in model.graph.node:
        if node.op_type in pairs:
            scale, zero = weights[node.input[1]], weights[node.input[2]]
            assert scale.min() > 0
            assert zero.dtype == np.int8
            assert zero.shape == scale.shape
            assert not zero.any()
            assert scale.dtype == (np.float16 if role == "strong" else np.float32)
        elif node.op_type != "Conv":
            makers = {producer[name].op_type for name in node.input if name in producer}
            assert not makers & pairs, node.name
    assert quantised.isdisjoint(value.name for value in model.graph.output)


def test_float_parts_stay_float(pose: Kits, tmp_path: Path) -> None:
    quantiser = pose.quantiser
    assert set(quantiser.fragile_parts) < set(quantiser.parts)
    part = quantiser.parts[0]
    files = quantiser.quantise([part], tmp_path)
    model = onnx.load(tmp_path / files["plain"])
    producer, _ = paired_inputs(model)
    paired = {
        node.name: node.input[0] in producer
        and producer[node.input[0]].op_type == "DequantizeLinear"
        for node in model.graph.node
        if node.op_type == "Conv"
    }
    prefix = "/" + part.replace(".", "/")
    floats = {name for name, is_paired in paired.items() if not is_paired}
    assert floats == {name for name in paired if name.startswith(f"{prefix}/")}
    assert 0 < len(floats) < len(paired)
    # The same parts once more give the same bytes.
    again = pose.folders["int8"] / "again"
    again.mkdir()
    for role, name in quantiser.quantise((), again).items():
        assert (again / name).read_bytes() == pose.path("int8", role).read_bytes()


def test_too_few_images_are_refused(pose: Kits) -> None:
    job = Job(
        pose.onnx_path, pose.spec, "int8", pose.folders["int8"], feeds_of(pose.spec, crops(7, 2))
    )
    with pytest.raises(FeedError, match="too few"):
        open_tensorrt_quantiser(job)


# --- the kit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_kit_names_its_files_for_every_version(kits: Kits, precision: Precision) -> None:
    artifact = kits.artifact(precision)
    assert set(artifact.files) == {"plain", "strong", "build"}
    kit = load_build_kit(artifact)
    assert kit.oldest == (8, 2)
    assert kit.batches is None
    assert kit.input_shape == kits.spec.input.shape
    name = f"{kits.name}-{precision}"
    old = trtexec_build_argv((8, 2, 1), kit, "e")
    new = trtexec_build_argv((11, 4, 0), kit, "e")
    assert f"--onnx={name}.plain.onnx" in old
    assert f"--onnx={name}.strong.onnx" in new
    opsets = [
        onnx.load(artifact.path(role)).opset_import[0].version for role in ("plain", "strong")
    ]
    assert opsets == [13, 19]


def test_strong_files_are_small(kits: Kits) -> None:
    size = kits.path("int8", "strong").stat().st_size
    # The pose head's matrices are halves; the detector's million weights share their file with
    # the names of 900 nodes.
    assert size < (0.32 if kits.name == POSE else 0.45) * kits.onnx_path.stat().st_size
    assert kits.path("fp16", "strong").stat().st_size < 0.55 * kits.onnx_path.stat().st_size


def test_an_open_batch_becomes_a_profile(tiny_onnx: Path, tmp_path: Path) -> None:
    made = prepare(tiny_onnx, "tiny", batch=None)
    path = tmp_path / "open.onnx"
    path.write_bytes(made.model.SerializeToString())
    folder = tmp_path / "kit"
    folder.mkdir()
    files = convert_tensorrt(Job(path, made.spec, "fp16", folder))
    artifact = Artifact(folder, Variant("tensorrt", "fp16"), made.spec, files, {})
    assert load_build_kit(artifact).batches == (1, 4, 8)
    images = np.random.default_rng(0).normal(0, 1, (3, 3, 64, 48)).astype(np.float32)
    with (
        OnnxRuntimeSession(tiny_onnx, made.spec, ONE) as reference,
        open_kit(artifact, ONE) as session,
    ):
        want, got = reference.run({"input": images}), session.run({"input": images})
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=0.01 * np.abs(value).max())


def test_weights_beyond_half_are_refused(tmp_path: Path, tiny_onnx: Path) -> None:
    made = prepare(tiny_onnx, "tiny")
    weight = next(t for t in made.model.graph.initializer if t.name == "conv.w")
    value = onnx.numpy_helper.to_array(weight).copy()
    value[0, 0, 0, 0] = 1e5
    weight.CopyFrom(onnx.numpy_helper.from_array(value, "conv.w"))
    path = tmp_path / "large.onnx"
    onnx.save(made.model, path)
    with pytest.raises(ModelFileError, match=r"weight 'conv\.w' reaches 100000, and FP16 ends at"):
        convert_tensorrt(Job(path, made.spec, "fp16", tmp_path))
    assert not list(tmp_path.glob("tiny-fp16*"))
