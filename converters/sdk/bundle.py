"""An artifact as a model that mmdeploy's SDK loads: a folder or a .zip.

The SDK does not refuse what it does not know: a name that differs, a transform, a component or a
backend that is absent, a Collect without ``ori_shape`` each end the process that loads the model.
So only what its runtime 1.3.1 has been seen to load is ever written, and what was written is read
back and asked for answers before it takes its place. Keys and values are those of mmdeploy 1.3.1
(``backend/sdk/export_info.py``); sizes are [width, height] throughout.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import edge
from converters.job import FeedSource, NamedFeeds
from converters.sdk.archive import read_sdk
from converters.sdk.detections import DETECTIONS, append_detections
from edge.artifact import Artifact
from edge.codecs import BOX_CODECS, KEYPOINT_CODECS
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.errors import ArtifactError, ParityError, SpecError
from edge.files import private_folder
from edge.session import Array, EngineSettings, Session, open_session
from edge.spec import ModelSpec

__all__ = ["MOST_IR_VERSION", "MOST_OPSET", "Bundle", "check_bundled", "write_sdk_bundle"]

# What the runtime's ONNX Runtime 1.15 reads.
MOST_OPSET = 19
MOST_IR_VERSION = 9

_VERSION = "1.3.1"
_NETWORK = "end2end.onnx"
# The same engine on the same nodes; decoding in a network rounds where numpy does not.
_ANSWER_LIMIT = 1e-3
Json = dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """What was written: where, its size in bytes, and the spec that is read back from it.

    ``compared`` says on what its answers were found to be the artifact's.
    """

    path: Path
    size_bytes: int
    spec: ModelSpec
    compared: str


def write_sdk_bundle(artifact: Artifact, path: Path, images: FeedSource) -> Bundle:
    """Write an artifact to ``path``, a new folder or a new ``.zip``, for mmdeploy's SDK.

    The network of a detector with raw heads gets its decoding and suppression as nodes. The bundle
    is read back, and has to answer as the artifact does on ``images``. Nothing is left behind on
    an error.

    Raises SpecError for what the SDK's runtime cannot run, ArtifactError where ``path`` is taken or
    the network is too new for that runtime, and ParityError where the answers differ.
    """
    check_bundled(artifact)
    if path.exists():
        raise ArtifactError(f"{path}: exists already; remove it or choose another place")
    is_zip = path.suffix.lower() == ".zip"
    with private_folder(path.parent, path.name) as private:
        folder = private / "bundle"
        folder.mkdir()
        _fill(artifact, folder)
        spec = _read_back(artifact, folder)
        feeds = images.feeds(artifact.spec)
        _compare(artifact, folder / _NETWORK, spec, feeds)
        done = folder
        if is_zip:
            done = private / "bundle.zip"
            _pack(folder, done)
        size_bytes = sum(file.stat().st_size for file in ([done] if is_zip else done.iterdir()))
        done.rename(path)
    pictures = "1 picture" if len(feeds) == 1 else f"{len(feeds)} pictures"
    return Bundle(path, size_bytes, spec, f"{pictures}: {images.text}")


def check_bundled(artifact: Artifact) -> None:
    """Raise SpecError unless mmdeploy's SDK can run such an artifact."""
    spec, variant = artifact.spec, artifact.variant
    why = ""
    if variant.format != "onnx":
        why = (
            f"{variant} is not written: the SDK's runtime {_VERSION} comes with ONNX Runtime alone "
            "and ends its process on another backend, so that nothing could be checked; "
            "bundle the onnx artifact (edge convert --formats onnx-fp32)"
        )
    elif spec.task == "one-stage":
        why = (
            "the SDK has no decoder for one-stage models (mmdeploy writes UNKNOWN there, on which "
            "the runtime ends its process); bundle a detector and a top-down pose model"
        )
    elif spec.task == "pose" and spec.codec != "simcc":
        why = f"codec {spec.codec} is not written for the SDK; of pose models those with simcc are"
    elif spec.task == "pose" and spec.udp:
        why = "it is cropped by UDP, which the SDK's crop ignores: keypoints would be off"
    elif spec.task == "detection" and spec.codec not in ("rtmdet", "detections"):
        why = (
            f"codec {spec.codec} is not written for the SDK; of detectors rtmdet is, and files "
            "with the suppression inside"
        )
    elif spec.task == "detection" and spec.letterbox != "top-left":
        why = "it wants the image centred, which the SDK's Resize and Pad cannot do"
    elif spec.task == "detection" and spec.input_hw[0] != spec.input_hw[1]:
        height, width = spec.input_hw
        side = max(height, width)
        why = (
            f"its input is {height}x{width} (height x width), which the SDK's Resize turns with "
            "the picture, and so ends the process on an upright picture or on a wide one; convert "
            f"the detector with a square input (--size {side}x{side})"
        )
    elif spec.task == "detection" and spec.input.shape[0] not in (1, None):
        why = f"its batch is {spec.input.shape[0]}, the SDK gives one image; convert with --batch 1"
    if why:
        raise SpecError(f"{spec.name}: {why}")


# --- files ----------------------------------------------------------------------------------------


def _fill(artifact: Artifact, folder: Path) -> None:
    _write_network(artifact, folder / _NETWORK)
    spec = _bundled_spec(artifact)
    for name, content in (
        ("deploy.json", _deploy(spec)),
        ("pipeline.json", _pipeline(spec)),
        ("detail.json", _detail(artifact)),
    ):
        (folder / name).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def _bundled_spec(artifact: Artifact) -> ModelSpec:
    """The spec of the network in the bundle: of a detector, with the suppression inside."""
    spec = artifact.spec
    if spec.codec != "rtmdet":
        return spec
    one = replace(spec.input, shape=(1, *spec.input.shape[1:]))
    return replace(spec, codec="detections", input=one, outputs=DETECTIONS, strides=())


def _write_network(artifact: Artifact, path: Path) -> None:
    import onnx
    from onnxruntime.transformers.onnx_model import OnnxModel

    source, name = artifact.path("model"), artifact.spec.name
    model = onnx.load(str(source))
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    if opset > MOST_OPSET:
        raise ArtifactError(
            f"{name}: opset {opset} is too new for the SDK's runtime, which reads up to "
            f"{MOST_OPSET}; export the model with opset {MOST_OPSET} or less"
        )
    is_same = model.ir_version <= MOST_IR_VERSION
    model.ir_version = min(model.ir_version, MOST_IR_VERSION)
    if artifact.spec.codec == "rtmdet":
        append_detections(model, artifact.spec)
        is_same = False
    # Half-precision files have their casts last; ONNX wants nodes in the order of use.
    order = [node.output[0] for node in model.graph.node]
    OnnxModel.graph_topological_sort(model.graph)
    if is_same and order == [node.output[0] for node in model.graph.node]:
        shutil.copyfile(source, path)
    else:
        onnx.save(model, str(path))


def _deploy(spec: ModelSpec) -> Json:
    network = {
        "name": _network_name(spec),
        "net": _NETWORK,
        "weights": "",
        "backend": "onnxruntime",
        # Of the arithmetic; an fp16 network casts by itself.
        "precision": "FP32",
        "batch_size": 1,
        "dynamic_shape": spec.input.shape[0] is None,
    }
    task = "Detector" if spec.task == "detection" else "PoseDetector"
    return {"version": _VERSION, "task": task, "models": [network], "customs": []}


def _network_name(spec: ModelSpec) -> str:
    return "rtmdet" if spec.task == "detection" else "topdownposeestimator"


def _pipeline(spec: ModelSpec) -> Json:
    is_detector = spec.task == "detection"
    outer = ("dets", "labels") if is_detector else ("simcc_x", "simcc_y")
    names = [tensor.name for tensor in spec.outputs]
    tasks = [
        {
            "type": "Task",
            "module": "Transform",
            "name": "Preprocess",
            "input": ["img"],
            "output": ["prep_output"],
            "transforms": _detector_transforms(spec) if is_detector else _pose_transforms(spec),
        },
        {
            "name": _network_name(spec),
            "type": "Task",
            "module": "Net",
            "is_batched": not is_detector,
            "input": ["prep_output"],
            "output": ["infer_output"],
            "input_map": {"img": spec.input.name},
            "output_map": {
                want: name for want, name in zip(outer, names, strict=True) if want != name
            },
        },
        {
            "type": "Task",
            "name": "postprocess",
            **(_detector_decoder(spec) if is_detector else _pose_decoder(spec)),
            "output": ["post_output"],
            "input": ["prep_output", "infer_output"],
        },
    ]
    return {"pipeline": {"input": ["img"], "output": ["post_output"], "tasks": tasks}}


def _pose_transforms(spec: ModelSpec) -> list[Json]:
    size_wh = list(spec.input_hw[::-1])
    meta_keys = ["img_shape", "pad_shape", "ori_shape", "img_norm_cfg", "scale_factor"]
    meta_keys += ["bbox_score", "center", "scale"]
    return [
        {"type": "LoadImageFromFile"},
        {
            "type": "TopDownGetBboxCenterScale",
            "padding": spec.box_padding,
            "image_size": size_wh,
        },
        {"type": "TopDownAffine", "image_size": size_wh},
        _normalize(spec),
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"], "meta_keys": meta_keys},
    ]


def _detector_transforms(spec: ModelSpec) -> list[Json]:
    size_wh = list(spec.input_hw[::-1])
    meta_keys = ["scale_factor", "img_shape", "ori_shape", "pad_param", "img_path", "img_norm_cfg"]
    meta_keys += ["pad_shape", "ori_filename", "img_id", "filename", "valid_ratio", "flip"]
    meta_keys += ["flip_direction"]
    return [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "keep_ratio": True, "size": size_wh},
        {"type": "Pad", "size": size_wh, "pad_val": {"img": [spec.pad_value] * 3}},
        _normalize(spec),
        {"type": "Pad", "size_divisor": 1},
        {"type": "DefaultFormatBundle"},
        {"type": "Collect", "keys": ["img"], "meta_keys": meta_keys},
    ]


def _normalize(spec: ModelSpec) -> Json:
    return {
        "type": "Normalize",
        "mean": list(spec.mean),
        "std": list(spec.std),
        "to_rgb": spec.color_order == "rgb",
    }


def _pose_decoder(spec: ModelSpec) -> Json:
    params = {
        "flip_test": False,
        "type": "SimCCLabel",
        "input_size": list(spec.input_hw[::-1]),
        "simcc_split_ratio": spec.simcc_split_ratio,
        "normalize": False,
        "use_dark": False,
        "export_postprocess": False,
    }
    return {"module": "mmpose", "component": "SimCCLabelDecode", "params": params}


def _detector_decoder(spec: ModelSpec) -> Json:
    params = {
        "nms_pre": spec.nms_candidates_per_level,
        "min_bbox_size": 0,
        "score_thr": spec.score_threshold,
        "nms": {"type": "nms", "iou_threshold": spec.nms_iou},
        "max_per_img": spec.max_boxes,
    }
    return {"module": "mmdet", "component": "ResizeBBox", "params": params}


def _detail(artifact: Artifact) -> Json:
    """What the SDK never reads: where the model comes from, and what its keypoints are called."""
    spec = artifact.spec
    is_detector = spec.task == "detection"
    config = f"{spec.name}.py" if is_detector else f"{spec.keypoint_set}.py"
    return {
        "version": _VERSION,
        "codebase": {
            "task": "ObjectDetection" if is_detector else "PoseDetection",
            "codebase": "mmdet" if is_detector else "mmpose",
            "config": config,
        },
        "edgepose": {
            "version": edge.__version__,
            "model": spec.name,
            "variant": str(artifact.variant),
            "keypoint_set": spec.keypoint_set,
            "artifact_key": artifact.key,
            "source_sha256": artifact.source.get("sha256"),
            "parity": artifact.parity.get("summary"),
        },
    }


def _pack(folder: Path, target: Path) -> None:
    """A zip whose bytes depend on the files alone."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            info = zipfile.ZipInfo(file.name)  # dated 1980
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, file.read_bytes())


# --- checks ---------------------------------------------------------------------------------------


def _read_back(artifact: Artifact, folder: Path) -> ModelSpec:
    """The spec that the kit's reader finds in a bundle; ArtifactError where it is another."""
    want = _bundled_spec(artifact)
    got = read_sdk(folder, want.name, folder).spec
    if str(want.keypoint_set).startswith("unnamed-") or want.own_keypoints is not None:
        # A bundle has no place for names; those without a known set cannot be told.
        got = replace(got, keypoint_set=want.keypoint_set, own_keypoints=want.own_keypoints)
    if got != want:
        fields = [name for name, value in vars(want).items() if getattr(got, name) != value]
        texts = [f"{name} {getattr(want, name)!r} as {getattr(got, name)!r}" for name in fields]
        raise ArtifactError(
            f"{want.name}: an SDK model cannot say this of it: {'; '.join(texts)} would be read"
        )
    return got


def _compare(
    artifact: Artifact, network: Path, spec: ModelSpec, images: Sequence[NamedFeeds]
) -> None:
    """Raise ParityError where the bundle's network answers otherwise than the artifact."""
    with (
        closing(open_session(artifact)) as session,
        closing(OnnxRuntimeSession(network, spec, EngineSettings())) as bundled,
    ):
        for image in images:
            want, got = (_answers(one, image) for one in (session, bundled))
            if want.shape != got.shape or not np.allclose(want, got, rtol=0, atol=_ANSWER_LIMIT):
                raise ParityError(
                    f"{spec.name}: on {image.name} the bundle's network answers otherwise than the "
                    "artifact; nothing was written (edge verify tells whether the artifact is well)"
                )


def _answers(session: Session, image: NamedFeeds) -> Array:
    """Decoded boxes with labels (M, 6), or keypoints (N, K, 3)."""
    spec = session.spec
    (feed,) = image.feeds.values()
    outputs = session.run({spec.input.name: feed})
    decode: Callable[..., Any]
    if spec.task == "pose":
        decode = KEYPOINT_CODECS[spec.codec]
        return np.asarray(decode(outputs, spec))
    decode = BOX_CODECS[spec.codec]
    boxes, labels = decode(outputs, spec)[0]
    return np.concatenate([boxes, labels[:, None]], axis=1)
