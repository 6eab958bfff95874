"""Official checkpoints become ONNX files that know themselves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from converters.architectures.checkpoint import (  # noqa: E402
    CheckpointError,
    load_checkpoint,
)
from converters.architectures.official import (  # noqa: E402
    Description,
    build,
    export_backbone,
    export_checkpoint,
)
from edge.errors import ModelFileError, SpecError  # noqa: E402
from edge.spec import ModelSpec  # noqa: E402
from tests.stand_ins.checkpoints import NANO, POSE, saved  # noqa: E402

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]


def metadata_of(path: Path) -> dict[str, Any]:
    return {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}


def outputs_of(path: Path, spec: ModelSpec, batch: int) -> tuple[Any, dict[str, Any]]:
    """Random images and what ONNX Runtime answers; the file must have what the spec names."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in (*spec.outputs, *spec.constants)]
    assert [output.name for output in session.get_outputs()] == names
    height, width = spec.input_hw
    rng = np.random.default_rng(7)
    images = rng.standard_normal((batch, 3, height, width), dtype=np.float32)
    found = dict(zip(names, session.run(names, {spec.input.name: images}), strict=True))
    for tensor in spec.outputs:
        assert tensor.accepts(found[tensor.name].shape)
    return images, found


def assert_answers_as_torch(path: Path, spec: ModelSpec, model: Any) -> None:
    images, found = outputs_of(path, spec, batch=2)
    with torch.no_grad():
        wanted = model.eval()(torch.from_numpy(images))
    for tensor, right in zip(spec.outputs, wanted, strict=True):
        limit = 1e-4 * max(1.0, float(right.abs().max()))
        np.testing.assert_allclose(found[tensor.name], right.numpy(), rtol=0, atol=limit)


def test_a_pose_checkpoint_becomes_a_file_that_knows_itself(tmp_path: Path) -> None:
    path, out = saved(tmp_path, POSE), tmp_path / "t.onnx"
    said: dict[str, Any] = {"size": "tiny", "keypoints": 17, "input_hw": (256, 192)}
    spec = export_checkpoint(path, out, "my-pose", **said)
    assert spec.name == "my-pose"
    assert (spec.task, spec.codec, spec.keypoint_set) == ("pose", "simcc", "coco17")
    assert spec.input_hw == (256, 192)
    assert (spec.color_order, spec.mean[0], spec.std[0]) == ("rgb", 123.675, 58.395)
    metadata = metadata_of(out)
    assert ModelSpec.from_json(metadata["edgepose.spec"]) == spec
    assert metadata["edgepose.source"] == {
        "checkpoint": "model.pth",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "model": "RTMPose-t, 17 keypoints, 256x192",
        "weights": "the file's only weights",
    }
    model = build(POSE)
    load_checkpoint(model, path)
    assert_answers_as_torch(out, spec, model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pth", "t.onnx"]


@pytest.mark.parametrize(
    ("keypoints", "input_hw", "asked", "found"),
    [
        (26, (128, 96), None, "halpe26"),
        (17, (64, 64), "ap10k17", "ap10k17"),
        (5, (64, 64), None, "unnamed-5"),
    ],
)
def test_the_number_of_keypoints_names_their_set(
    keypoints: int, input_hw: tuple[int, int], asked: str | None, found: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, Description("rtmpose", "t", keypoints, None, input_hw))
    spec = export_checkpoint(path, tmp_path / "t.onnx", "t", keypoint_set=asked)
    assert spec.keypoint_set == found
    assert spec.input_hw == input_hw
    assert [tensor.shape[1:] for tensor in spec.outputs] == [
        (keypoints, 2 * input_hw[1]),
        (keypoints, 2 * input_hw[0]),
    ]


@pytest.mark.parametrize(
    ("size", "asked", "input_hw"),
    [("nano", None, (320, 320)), ("nano", (96, 160), (96, 160)), ("t", (64, 64), (64, 64))],
)
def test_a_detector_is_exported_with_its_test_configuration(
    size: str, asked: tuple[int, int] | None, input_hw: tuple[int, int], tmp_path: Path
) -> None:
    description = Description("rtmdet", size, classes=2)
    path, out = saved(tmp_path, description), tmp_path / "d.onnx"
    spec = export_checkpoint(path, out, "d", input_hw=asked)
    assert (spec.task, spec.codec, spec.strides) == ("detection", "rtmdet", (8, 16, 32))
    assert spec.input_hw == input_hw
    assert (spec.color_order, spec.mean[0], spec.std[0]) == ("bgr", 103.53, 57.375)
    assert (spec.score_threshold, spec.nms_iou, spec.pad_value) == (0.05, 0.6, 114)
    assert spec.outputs[0].shape == (None, 2, input_hw[0] // 8, input_hw[1] // 8)
    assert ModelSpec.from_json(metadata_of(out)["edgepose.spec"]) == spec
    model = build(description)
    load_checkpoint(model, path)
    assert_answers_as_torch(out, spec, model)


def test_rtmo_is_exported_merged_with_its_constants(tmp_path: Path) -> None:
    description = Description("rtmo", "t", 14)
    path, out = saved(tmp_path, description), tmp_path / "o.onnx"
    spec = export_checkpoint(path, out, "o", input_hw=(96, 64))
    assert (spec.task, spec.codec, spec.strides) == ("one-stage", "rtmo", (16, 32))
    assert (spec.input_hw, spec.keypoint_set) == ((96, 64), "crowdpose14")
    assert (spec.color_order, spec.mean, spec.std) == ("bgr", (0, 0, 0), (1, 1, 1))
    assert (spec.letterbox, spec.pad_value) == ("center", 114)
    assert (spec.score_threshold, spec.nms_iou) == (0.1, 0.65)
    # No person is dropped for being one too many: 6 x 4 and 3 x 2 cells.
    assert (spec.nms_candidates_per_level, spec.max_boxes) == (30, 30)
    assert ModelSpec.from_json(metadata_of(out)["edgepose.spec"]) == spec
    model = build(Description("rtmo", "t", 14, input_hw=(96, 64)))
    load_checkpoint(model, path)
    # The form of training, with its parallel branches: the file holds the merged form.
    assert_answers_as_torch(out, spec, model)
    _, found = outputs_of(out, spec, batch=1)
    for tensor in spec.constants:
        assert found[tensor.name].shape == tensor.shape
    np.testing.assert_array_equal(
        found["dcc.x.weight"], model.head.dcc.x_fc.weight.detach().numpy()
    )


def test_rtmos_input_is_that_of_its_size(tmp_path: Path) -> None:
    path = saved(tmp_path, Description("rtmo", "t", 17))
    spec = export_checkpoint(path, tmp_path / "o.onnx", "o")
    assert (spec.input_hw, spec.keypoint_set) == ((416, 416), "coco17")


@pytest.mark.parametrize(
    "description",
    [
        Description("cspnext", "t"),
        Description("cspnext", "t", 19),
        Description("cspnext", "t", None, 1000),
    ],
    ids=str,
)
def test_a_backbone_is_exported_to_be_measured_only(
    description: Description, tmp_path: Path
) -> None:
    path, out = saved(tmp_path, description), tmp_path / "b.onnx"
    if description.keypoints is None:
        with pytest.raises(ModelFileError, match=rf"bare backbone \({description}\).*--backbone"):
            export_checkpoint(path, out, "b")
    assert export_backbone(path, out, input_hw=(64, 96)) == description
    assert set(metadata_of(out)) == {"edgepose.source"}
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).standard_normal((2, 3, 64, 96), dtype=np.float32)
    (features,) = session.run(["features"], {"input": images})
    assert features.shape == (2, 384, 2, 3)
    model = build(description)
    load_checkpoint(model, path)
    with torch.no_grad():
        wanted = model.eval().backbone(torch.from_numpy(images))[0].numpy()
    np.testing.assert_allclose(features, wanted, atol=1e-4)


def test_a_backbone_export_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    path = saved(tmp_path, NANO)
    with pytest.raises(CheckpointError, match=r"whole model \(RTMDet-nano, 1 class\)"):
        export_backbone(path, tmp_path / "b.onnx")
    path = saved(tmp_path, Description("cspnext", "t"))
    with pytest.raises(SpecError, match="224x200"):
        export_backbone(path, tmp_path / "b.onnx", input_hw=(224, 200))
    assert not (tmp_path / "b.onnx").exists()


def test_an_earlier_file_survives_a_failed_export(tmp_path: Path) -> None:
    path, out = saved(tmp_path, POSE, **{"head.mlp.0.g": None}), tmp_path / "t.onnx"
    out.write_bytes(b"earlier")
    with pytest.raises(CheckpointError):
        export_checkpoint(path, out, "t")
    assert out.read_bytes() == b"earlier"
