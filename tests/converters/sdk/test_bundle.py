"""Bundles for mmdeploy's SDK: what is in them, what the reader makes of them, what is refused."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.sdk import bundle as sdk_bundle
from converters.sdk.archive import read_sdk
from converters.sdk.bundle import check_bundled, write_sdk_bundle
from converters.sdk.detections import DETECTIONS, append_detections
from edge.artifact import Artifact
from edge.codecs import rtmdet
from edge.errors import ArtifactError, ModelFileError, ParityError, SpecError
from edge.spec import ModelSpec, TensorSpec, Variant
from tests.stand_ins.sdk_artifacts import (
    artifact_of,
    detector_artifact,
    detector_model,
    detector_spec,
    noise,
    pose_artifact,
)
from tests.stand_ins.sdk_bundles import answering, boxes_model

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

FILES = ["deploy.json", "detail.json", "end2end.onnx", "pipeline.json"]


def loaded(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def kept_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- detections as nodes --------------------------------------------------------------------------


def run(model: Any, picture: Any) -> dict[str, Any]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in model.graph.output]
    return dict(zip(names, session.run(None, {"picture": picture}), strict=True))


@pytest.mark.parametrize("opset", [11, 13, 19])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nms_candidates_per_level": 5},
        {"nms_candidates_per_level": 1000, "max_boxes": 100},
        {"nms_iou": 0.9, "max_boxes": 1},
        {"cut_at_rim": True},
        {"cut_at_rim": True, "nms_candidates_per_level": 1000, "max_boxes": 100},
        {"score_threshold": 0.7},
        {"score_threshold": 0.9999},
    ],
)
def test_the_nodes_detect_as_the_codec(opset: int, classes: int, changes: dict[str, Any]) -> None:
    spec = detector_spec(classes, (64, 96), **changes)
    model = detector_model(spec, opset)
    whole = detector_model(spec, opset)
    append_detections(whole, spec)
    onnx.checker.check_model(whole, full_check=True)
    several = 0
    for seed in range(4):
        shape = (1, 3, *spec.input_hw)
        picture = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
        ((want, labels),) = rtmdet.decode(run(model, picture), spec)
        got = run(whole, picture)
        assert got["dets"].dtype == np.float32 and got["labels"].dtype == np.int64
        # A row of zeros where there is room, as mmdeploy's own files have it.
        rows = min(len(want) + 1, spec.max_boxes)
        assert got["dets"].shape == (1, rows, 5) and got["labels"].shape == (1, rows)
        np.testing.assert_allclose(got["dets"][0, : len(want)], want, rtol=0, atol=1e-5)
        assert got["labels"][0, : len(want)].tolist() == labels.tolist()
        assert not got["dets"][0, len(want) :].any()
        several += len(want)
    assert several == 0 if spec.score_threshold > 0.9 else several > 3


def test_tensors_of_the_same_names_are_left_alone() -> None:
    spec = detector_spec()
    model = detector_model(spec)
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = ["sdk_concat_0" if name == "distances_8_abs" else name for name in field]
    want = run(model, np.ones((1, 3, *spec.input_hw), np.float32))
    append_detections(model, spec)
    onnx.checker.check_model(model, full_check=True)
    ((boxes, _),) = rtmdet.decode(want, spec)
    got = run(model, np.ones((1, 3, *spec.input_hw), np.float32))["dets"]
    np.testing.assert_allclose(got[0, : len(boxes)], boxes, atol=1e-5)


def test_an_opset_without_such_nodes_is_refused() -> None:
    spec = detector_spec()
    with pytest.raises(ModelFileError, match="opset 10 knows no suppression that fits; export"):
        append_detections(detector_model(spec, 10), spec)


# --- files ----------------------------------------------------------------------------------------


def test_a_pose_model_comes_back_as_it_was(tmp_path: Path) -> None:
    artifact = pose_artifact(tmp_path / "artifact")
    made = write_sdk_bundle(artifact, tmp_path / "sdk", noise())
    assert kept_files(tmp_path / "sdk") == FILES
    assert read_sdk(tmp_path / "sdk", "poser", tmp_path / "unpacked").spec == artifact.spec
    assert made.spec == artifact.spec
    assert made.size_bytes == sum(path.stat().st_size for path in (tmp_path / "sdk").iterdir())
    # The network is the artifact's, byte for byte.
    assert (tmp_path / "sdk/end2end.onnx").read_bytes() == artifact.path("model").read_bytes()


def test_a_detector_comes_back_with_its_suppression_inside(tmp_path: Path) -> None:
    artifact = detector_artifact(tmp_path / "artifact", nms_iou=0.35, max_boxes=7)
    write_sdk_bundle(artifact, tmp_path / "sdk", noise())
    got = read_sdk(tmp_path / "sdk", "finder", tmp_path / "unpacked").spec
    assert got == replace(
        artifact.spec,
        codec="detections",
        input=TensorSpec("picture", (1, 3, 64, 64)),
        outputs=DETECTIONS,
        strides=(),
    )
    assert (got.nms_iou, got.max_boxes, got.nms_candidates_per_level) == (0.35, 7, 40)


@pytest.mark.parametrize("make", [pose_artifact, detector_artifact])
def test_what_the_runtime_is_strict_about(tmp_path: Path, make: Any) -> None:
    """Each of these ends the process of the SDK's runtime where it is otherwise."""
    write_sdk_bundle(make(tmp_path / "artifact"), tmp_path / "sdk", noise())
    deploy, pipeline = (
        loaded(tmp_path / "sdk", "deploy.json"),
        loaded(tmp_path / "sdk", "pipeline.json"),
    )
    (network,) = deploy["models"]
    assert set(network) == {
        *("name", "net", "weights", "backend", "precision", "batch_size", "dynamic_shape")
    }
    assert None not in network.values() and deploy["version"] == "1.3.1"
    transform, net, decoder = pipeline["pipeline"]["tasks"]
    assert net["name"] == network["name"]
    assert net["input_map"] == {"img": "input" if make is pose_artifact else "picture"}
    (collect,) = (one for one in transform["transforms"] if one["type"] == "Collect")
    assert {"ori_shape", "img_shape"} <= set(collect["meta_keys"])
    known = {"mmpose": "SimCCLabelDecode", "mmdet": "ResizeBBox"}
    assert decoder["component"] == known[decoder["module"]]


def test_other_names_of_outputs_are_mapped(tmp_path: Path) -> None:
    shapes: Any = {"bins_a": ["batch", 17, 96], "bins_b": ["batch", 17, 128]}
    spec = pose_artifact(tmp_path / "tiny").spec
    spec = replace(
        spec,
        outputs=(TensorSpec("bins_a", (None, 17, 96)), TensorSpec("bins_b", (None, 17, 128))),
    )
    model = answering(shapes, input_shape=("batch", 3, 64, 48))
    # Shapes that depend on the input's values are no SimCC: the JSON files alone are asked here.
    artifact = artifact_of(tmp_path / "artifact", model, spec)
    write_sdk_bundle(artifact, tmp_path / "sdk", replace(noise(), feeds=lambda _: []))
    net = loaded(tmp_path / "sdk", "pipeline.json")["pipeline"]["tasks"][1]
    assert net["output_map"] == {"simcc_x": "bins_a", "simcc_y": "bins_b"}
    got = read_sdk(tmp_path / "sdk", "poser", tmp_path / "unpacked").spec
    assert [tensor.name for tensor in got.outputs] == ["bins_a", "bins_b"]


def test_a_file_with_its_suppression_inside_stays_as_it_is(tmp_path: Path) -> None:
    spec = detector_spec()
    spec = replace(
        spec,
        codec="detections",
        input=TensorSpec("input", (None, 3, 64, 64)),
        outputs=(TensorSpec("dets", (None, None, 5)), TensorSpec("labels", (None, None), "int64")),
        strides=(),
    )
    artifact = artifact_of(
        tmp_path / "artifact",
        boxes_model({"labels": ["batch", "kept"]}),
        spec,
    )
    write_sdk_bundle(artifact, tmp_path / "sdk", replace(noise(), feeds=lambda _: []))
    assert (tmp_path / "sdk/end2end.onnx").read_bytes() == artifact.path("model").read_bytes()


@pytest.mark.parametrize(
    ("name", "count"),
    [("halpe26", 26), ("hand21", 21), ("crowdpose14", 14), ("ap10k17", 17), ("unnamed-17", 17)],
)
def test_keypoint_sets_are_told(tmp_path: Path, name: str, count: int) -> None:
    from tests.conftest import tiny_simcc_model

    outputs = tuple(
        TensorSpec(f"simcc_{axis}", (None, count, bins)) for axis, bins in (("x", 96), ("y", 128))
    )
    spec = pose_artifact(tmp_path / "seventeen").spec
    spec = replace(spec, name="some", keypoint_set=name, outputs=outputs)
    artifact = artifact_of(tmp_path / "artifact", tiny_simcc_model(keypoints=count), spec)
    assert write_sdk_bundle(artifact, tmp_path / "sdk", noise()).spec.keypoint_set == name
    assert loaded(tmp_path / "sdk", "detail.json")["edgepose"]["keypoint_set"] == name


def test_a_zip_is_the_folder_packed(tmp_path: Path) -> None:
    artifact = detector_artifact(tmp_path / "artifact")
    write_sdk_bundle(artifact, tmp_path / "sdk", noise())
    made = write_sdk_bundle(artifact, tmp_path / "sdk.zip", noise())
    write_sdk_bundle(artifact, tmp_path / "again.ZIP", noise())
    assert (tmp_path / "again.ZIP").read_bytes() == (tmp_path / "sdk.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "sdk.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == FILES
        for name in FILES:
            assert archive.read(name) == (tmp_path / "sdk" / name).read_bytes()
    assert read_sdk(tmp_path / "sdk.zip", "finder", tmp_path / "unpacked").spec == made.spec
    assert made.size_bytes == (tmp_path / "sdk.zip").stat().st_size


def test_a_newer_file_format_is_brought_to_the_runtimes(tmp_path: Path) -> None:
    artifact = pose_artifact(tmp_path / "artifact")
    model = onnx.load(str(artifact.path("model")))
    model.ir_version = 10
    artifact = artifact_of(tmp_path / "newer", model, artifact.spec)
    write_sdk_bundle(artifact, tmp_path / "sdk", noise())
    assert onnx.load(str(tmp_path / "sdk/end2end.onnx")).ir_version == 9


def test_nodes_come_in_the_order_of_use(tmp_path: Path) -> None:
    """Half-precision converters put casts last, which ONNX Runtime takes and ONNX does not."""
    artifact = detector_artifact(tmp_path / "artifact")
    model = onnx.load(str(artifact.path("model")))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    artifact = artifact_of(tmp_path / "reversed", model, artifact.spec)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    write_sdk_bundle(artifact, tmp_path / "sdk", noise())
    onnx.checker.check_model(str(tmp_path / "sdk/end2end.onnx"), full_check=True)


# --- what is refused ------------------------------------------------------------------------------


def other(artifact: Artifact, variant: str) -> Artifact:
    return replace(artifact, variant=Variant.parse(variant))


def one_stage(spec: ModelSpec) -> ModelSpec:
    outputs = (TensorSpec("dets", (None, None, 5)), TensorSpec("kpts", (None, None, 17, 3)))
    return replace(
        spec,
        task="one-stage",
        codec="detections",
        outputs=outputs,
        strides=(),
        keypoint_set="coco17",
    )


def heatmap(spec: ModelSpec) -> ModelSpec:
    return replace(spec, codec="heatmap", outputs=(TensorSpec("maps", (None, 17, 16, 12)),))


def yolox(spec: ModelSpec) -> ModelSpec:
    rows = (64 * 64) // 64 + (64 * 64) // 256
    return replace(spec, codec="yolox", outputs=(TensorSpec("rows", (None, rows, 8)),))


def test_what_the_runtime_cannot_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    pose, detector = pose_artifact(tmp_path / "pose"), detector_artifact(tmp_path / "detector")
    batch = replace(detector.spec.input, shape=(4, 3, 64, 64))
    wrong = {
        "ncnn-fp16 is not written.*ONNX Runtime alone.*bundle the onnx artifact": other(
            pose, "ncnn-fp16"
        ),
        "openvino-fp32 is not written": other(detector, "openvino-fp32"),
        "tensorrt-fp16 is not written": other(pose, "tensorrt-fp16"),
        "tflite-int8 is not written": other(pose, "tflite-int8"),
        "no decoder for one-stage": replace(detector, spec=one_stage(detector.spec)),
        "codec heatmap is not written": replace(pose, spec=heatmap(pose.spec)),
        "UDP, which the SDK's crop ignores": replace(pose, spec=replace(pose.spec, udp=True)),
        "codec yolox is not written": replace(detector, spec=yolox(detector.spec)),
        "image centred": replace(detector, spec=replace(detector.spec, letterbox="center")),
        "input is 64x96 .* an upright picture .*--size 96x96": replace(
            detector, spec=detector_spec(input_hw=(64, 96))
        ),
        "batch is 4.*--batch 1": replace(detector, spec=replace(detector.spec, input=batch)),
    }
    for text, artifact in wrong.items():
        with pytest.raises(SpecError, match=text):
            check_bundled(artifact)
        with pytest.raises(SpecError, match=text):
            write_sdk_bundle(artifact, tmp_path / "sdk", noise())
    assert kept_files(tmp_path) == ["detector", "pose"]


@pytest.mark.parametrize("name", ["sdk", "sdk.zip"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    artifact = pose_artifact(tmp_path / "artifact")
    write_sdk_bundle(artifact, tmp_path / name, noise())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(ArtifactError, match="exists already; remove it or choose another place"):
        write_sdk_bundle(artifact, tmp_path / name, noise())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_opset_beyond_the_runtimes_is_refused(tmp_path: Path) -> None:
    artifact = pose_artifact(tmp_path / "artifact")
    model = onnx.load(str(artifact.path("model")))
    model.opset_import[0].version = 20
    artifact = artifact_of(tmp_path / "newer", model, artifact.spec)
    with pytest.raises(ArtifactError, match="opset 20 is too new for the SDK's runtime"):
        write_sdk_bundle(artifact, tmp_path / "out/sdk", noise())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["sdk", "sdk.zip"])
def test_other_answers_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    artifact = detector_artifact(tmp_path / "artifact")
    monkeypatch.setattr(
        sdk_bundle,
        "append_detections",
        lambda model, spec: append_detections(model, replace(spec, nms_iou=0.01)),
    )
    with pytest.raises(ParityError, match="on noise 0 the bundle's network answers otherwise"):
        write_sdk_bundle(artifact, tmp_path / "out" / name, noise())
    assert not (tmp_path / "out").exists()


def test_what_the_files_cannot_say_is_refused(tmp_path: Path) -> None:
    """A figure that only whole images have, in a pose model's spec: no file of the SDK holds it."""
    artifact = pose_artifact(tmp_path / "artifact", pad_value=7)
    with pytest.raises(ArtifactError, match="an SDK model cannot say this of it: pad_value 7 as"):
        write_sdk_bundle(artifact, tmp_path / "sdk", noise())
    assert kept_files(tmp_path) == ["artifact"]
