"""Commands that run on a device: ``edge`` and an engine are all they need."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import Artifact, load_artifact
from edge.detector import Detector
from edge.errors import ImageError, SpecError
from edge.onestage import OneStage
from edge.pipeline import Pipeline, Pose
from edge.pose import PoseEstimator
from edge.session import (
    EngineSettings,
    InferencePrecision,
    Session,
    open_session,
    shipped_precision,
)


def _open(text: str, arguments: argparse.Namespace) -> Session:
    """A session of an artifact folder, or (in a checkout) of an untouched ONNX file."""
    path = Path(text)
    precision: InferencePrecision | None = arguments.inference_precision
    if path.is_dir():
        artifact = load_artifact(path, allow_failed=arguments.allow_failed)
        settings = EngineSettings(arguments.threads, precision or shipped_precision(artifact))
        return open_session(artifact, settings)
    from edge.cli.host import open_onnx

    return open_onnx(text, EngineSettings(arguments.threads, precision or "fp32"))


def run(arguments: argparse.Namespace) -> int:
    """Run a model, or a detector and a pose model, on pictures."""
    from edge.picture import draw_poses, find_images, read_image, write_bytes, write_image

    paths = find_images(arguments.images)
    names = [path.name for path in paths]
    for path in paths:
        if names.count(path.name) > 1:
            raise ImageError(f"two pictures are called {path.name}; run them into two folders")
        if (arguments.out / path.name).resolve() == path.resolve():
            raise ImageError(f"{path}: --out would overwrite it; choose another folder")
    with ExitStack() as stack:
        session = stack.enter_context(_open(arguments.model, arguments))
        find_poses: Pipeline | OneStage
        if session.spec.task == "one-stage":
            if arguments.detector:
                raise SpecError(
                    f"{session.spec.name} is a one-stage model and finds the people itself: "
                    "leave --detector out"
                )
            find_poses = OneStage(session, score_threshold=arguments.score)
        else:
            pose, detector = PoseEstimator(session), None
            if arguments.detector:
                finder = stack.enter_context(_open(arguments.detector, arguments))
                detector = Detector(finder, score_threshold=arguments.score, label=0)
            find_poses = Pipeline(pose, detector)
        for path in paths:
            # All are looked at before the first is written: a damaged one among a thousand should
            # not be found after an hour.
            read_image(path)
        keypoints = session.spec.keypoints
        arguments.out.mkdir(parents=True, exist_ok=True)
        pictures, results = [], []
        for index, path in enumerate(paths):
            image = read_image(path)
            try:
                poses = find_poses(image)
            except ImageError as error:
                raise ImageError(f"{path}: {error}") from None
            drawn = draw_poses(image, poses, keypoints, arguments.keypoint_score)
            write_image(arguments.out / path.name, drawn)
            pictures.append(_picture_json(path, image, poses, keypoints.keypoints))
            image_id = int(path.stem) if path.stem.isdigit() else index + 1
            # mmpose ranks a one-stage model's people by the box alone.
            alone = session.spec.task == "one-stage"
            results += [
                _coco_result(image_id, one, one.box_score if alone else one.score) for one in poses
            ]
            if not arguments.json:
                people = "1 person" if len(poses) == 1 else f"{len(poses)} people"
                print(f"{path}: {people} -> {arguments.out / path.name}")
    text = json.dumps({"keypoint_set": keypoints.name, "pictures": pictures}, indent=1)
    write_bytes(arguments.out / "poses.json", text.encode())
    if arguments.json:
        write_bytes(arguments.out / "coco_results.json", json.dumps(results).encode())
        print(json.dumps(results))
    else:
        print(f"keypoints -> {arguments.out / 'poses.json'}")
    return 0


def _picture_json(
    path: Path, image: np.ndarray[Any, Any], poses: Sequence[Pose], names: Sequence[str]
) -> dict[str, Any]:
    return {
        "file": path.name,
        "height_px": image.shape[0],
        "width_px": image.shape[1],
        "people": [
            {
                "box_xyxy": _rounded(pose.box_xyxy, 2),
                "box_score": round(pose.box_score, 4),
                "keypoints": {
                    name: [*_rounded(point[:2], 2), *_rounded(point[2:], 4)]
                    for name, point in zip(names, pose.keypoints, strict=True)
                },
            }
            for pose in poses
        ],
    }


def _coco_result(image_id: int, pose: Pose, score: float) -> dict[str, Any]:
    """One entry of COCO's results format."""
    x1, y1, x2, y2 = pose.box_xyxy
    return {
        "image_id": image_id,
        "category_id": 1,
        "bbox": _rounded(np.array([x1, y1, x2 - x1, y2 - y1]), 2),
        "keypoints": _rounded(pose.keypoints.reshape(-1), 4),
        "score": round(score, 4),
    }


def _rounded(values: np.ndarray[Any, Any], digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]


def info(arguments: argparse.Namespace) -> int:
    """Print an artifact's manifest as text or JSON."""
    artifact = load_artifact(arguments.artifact, allow_failed=arguments.allow_failed)
    if arguments.json:
        print(json.dumps(artifact.to_json(), indent=2))
        return 0
    spec = artifact.spec
    lines = [f"{spec.name} as {artifact.variant}" + (" (FAILED)" if artifact.failed else "")]
    lines.append("spec:")
    for key, value in spec.to_json().items():
        if key == "input":
            value = f"{value['name']} {value['shape']} {value['dtype']}"
        elif key in ("outputs", "constants"):
            value = ", ".join(f"{tensor['name']} {tensor['shape']}" for tensor in value)
        lines.append(f"  {key:<26} {value}")
    lines.append("files:")
    for role, name in artifact.files.items():
        size = (artifact.folder / name).stat().st_size
        lines.append(f"  {role:<10} {name}  {size} bytes  sha256 {artifact.sha256[name]}")
    lines.append("made of:")
    shown = ("file", "sha256", "path", "images", "scale_norms_made_fp16_safe")
    lines += [f"  {key:<26} {artifact.source[key]}" for key in shown if key in artifact.source]
    lines.append("made with:")
    lines.append("  " + ", ".join(f"{name} {version}" for name, version in artifact.tools.items()))
    lines += parity_lines(artifact.parity) + _arm_lines(artifact) + _quantisation_lines(artifact)
    print("\n".join(lines))
    return 0


def _arm_lines(artifact: Artifact) -> list[str]:
    """Which arithmetic an ARM CPU may use, and what the tries gave; nothing for other variants."""
    record = artifact.arm
    if not record:
        return []
    lines = [str(record["text"])]
    if record["checked"]:
        lines.append(f"  on {record['cpu']} with {record['runner']}")
    for precision, one in record["tried"].items():
        lines.append(f"  {precision:<12} {one['images']} images: {one['summary']}")
        lines += [f"  FAILURE {failure}" for failure in one["failures"]]
    return lines


def _quantisation_lines(artifact: Artifact) -> list[str]:
    """What was quantised with what, and what it cost; nothing for other precisions."""
    lines = []
    if artifact.quantisation:
        made = artifact.quantisation
        text = made.get("calibration", {}).get("text", "unknown pictures")
        sha256 = str(made.get("calibration", {}).get("sha256", ""))[:16]
        lines.append(f"quantised: calibrated on {text}, sha256 {sha256}")
        floats = ", ".join(made.get("float_parts", ())) or "none"
        lines.append(f"  parts that stay float, of {made.get('parts')}: {floats}")
    if artifact.accuracy:
        lines.append(f"accuracy: {artifact.accuracy['summary']}")
        lines.append(f"  on {artifact.accuracy['data']}")
    return lines


def parity_lines(parity: dict[str, Any]) -> list[str]:
    """A parity report as text, a line an item."""
    if not parity:
        return ["parity: never compared"]
    lines = [
        f"parity: {parity['summary']}",
        f"  {parity['engine']} computing in {parity['inference_precision']} on "
        f"{parity['machine']}, against {parity['reference']}",
        f"  {parity['image_count']} images: {parity['images']}",
    ]
    lines += [
        f"  {t['name']:<16} max abs {t['max_abs']:.3g}, mean abs {t['mean_abs']:.3g}, "
        f"cosine >= {t['cosine_min']:.7f}"
        for t in parity["tensors"]
    ]
    if parity.get("fp16_peak"):
        peak = parity["fp16_peak"]
        lines.append(
            f"  largest value inside {peak['max_abs']:.4g} ({peak['tensor']}), FP16 ends at "
            f"{peak['limit']:g}"
        )
    return lines + [f"  FAILURE {failure}" for failure in parity["failures"]]
