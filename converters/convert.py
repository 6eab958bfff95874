"""A model file becomes verified artifacts, one folder a variant."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters import CHECKOUT
from converters.chain import Row, Step, run_steps
from converters.conversion import Asked, ModelInWork, Route, convert_variant
from converters.formats.ncnn import convert_ncnn
from converters.formats.onnx import convert_onnx
from converters.formats.onnx2tf import onnx2tf_version
from converters.formats.onnx_int8 import open_onnx_quantiser
from converters.formats.openvino import convert_openvino
from converters.formats.openvino_int8 import open_openvino_quantiser
from converters.formats.tensorrt import convert_tensorrt, open_kit
from converters.formats.tensorrt_int8 import open_tensorrt_quantiser
from converters.formats.tflite import convert_tflite
from converters.formats.tflite_quantise import open_tflite_quantiser
from converters.graph.data_files import source_digest
from converters.graph.prepare import load_float_onnx
from converters.job import FeedSource
from converters.parity.answers import (
    judge_answers,
    judge_parity,
    prepared_source,
    session_judge,
    source_file,
)
from converters.parity.arm import ARM_IMAGES, OnArm, arm_failure, is_for_arm
from converters.parity.parity import ParityReport
from converters.source import Source
from converters.tools import check_versions, version_of
from edge.artifact import MANIFEST, Artifact, load_artifact, read_manifest
from edge.errors import ArtifactError, EdgeError, ParityError, SpecError
from edge.files import private_folder
from edge.session import InferencePrecision
from edge.spec import QUANTISED, Variant

__all__ = [
    "CONVERTERS",
    "Made",
    "Source",
    "check_tools",
    "convert_model",
    "judge_answers",
    "tool_versions",
    "verify_artifact",
]

_NCNN, _OPENVINO, _NNCF = ("pnnx", "ncnn"), ("openvino",), ("nncf", "openvino")
_TFLITE = ("onnx2tf", "ai-edge-litert", "ai-edge-quantizer")

CONVERTERS: dict[str, Route] = {
    "onnx-fp32": Route(convert_onnx, batches=True),
    "onnx-fp16": Route(convert_onnx, batches=True),
    "onnx-int8": Route(quantiser=open_onnx_quantiser, batches=True),
    "onnx-mixed": Route(quantiser=open_onnx_quantiser, batches=True),
    "ncnn-fp32": Route(convert_ncnn, tools=_NCNN),
    "ncnn-fp16": Route(convert_ncnn, tools=_NCNN),
    "openvino-fp32": Route(convert_openvino, tools=_OPENVINO, batches=True),
    "openvino-fp16": Route(convert_openvino, tools=_OPENVINO, batches=True),
    "openvino-int8": Route(quantiser=open_openvino_quantiser, tools=_NNCF),
    "openvino-mixed": Route(quantiser=open_openvino_quantiser, tools=_NNCF),
    "tflite-fp32": Route(convert_tflite, tools=_TFLITE),
    "tflite-fp16": Route(convert_tflite, tools=_TFLITE),
    "tflite-dynamic-range": Route(convert_tflite, tools=_TFLITE),
    "tflite-int8": Route(quantiser=open_tflite_quantiser, tools=_TFLITE),
    "tflite-mixed": Route(quantiser=open_tflite_quantiser, tools=_TFLITE),
    "tflite-w8a16": Route(quantiser=open_tflite_quantiser, tools=_TFLITE),
    "tensorrt-fp16": Route(convert_tensorrt, batches=True, open=open_kit),
    "tensorrt-int8": Route(quantiser=open_tensorrt_quantiser, batches=True, open=open_kit),
}

_COMMON_TOOLS = ("numpy", "onnx", "onnxslim", "onnxruntime")


@dataclass(frozen=True)
class Made:
    """What became of one variant: its folder, and the error where it failed."""

    model: str
    variant: Variant
    folder: Path
    error: EdgeError | None = None


def convert_model(
    source: Source,
    variants: Sequence[Variant],
    out_dir: Path,
    asked: Asked,
    on_row: Callable[[Row], None],
    *,
    on_begin: Callable[[str, str], None] | None = None,
    force: bool = False,
    any_version: bool = False,
) -> list[Made]:
    """Make every variant under ``out_dir``; what became of each, in the order of ``variants``.

    A variant that fails does not stop the others. An artifact whose key (source, options, data,
    tool versions, the kit's own code) is still the same is left alone unless ``force``. Raises
    SpecError for a variant that cannot be made as asked, ModelFileError for a file that nothing
    can be made of, and, unless ``any_version``, ToolError for a tool of another version than the
    lock's.
    """
    for variant in variants:
        _check_makeable(variant, asked)
    load_float_onnx(source.path)  # what no variant can be made of is refused before any work
    source_sha256 = source_digest(source.path)
    made = []
    told: dict[str, Variant] = {}
    with private_folder(out_dir, f"{source.name}.work") as work:
        batches = {_batch(variant, asked) for variant in variants}
        model = ModelInWork(source, source_sha256, work, asked, batches)
        for variant in variants:
            folder = out_dir / _folder_name(source, variant, asked.batch)
            begin = time.perf_counter()
            try:
                if not any_version:
                    check_tools(CONVERTERS[str(variant)])
                _convert_one(model, variant, folder, on_row, on_begin, force=force)
                made.append(Made(source.name, variant, folder))
            except EdgeError as error:
                seconds = time.perf_counter() - begin
                # What fails for one reason, as a refused calibration, says so once.
                first = told.setdefault(str(error.__cause__ or error), variant)
                failure = error if first is variant else type(error)(f"the same as {first}")
                line = str(failure).splitlines()[0]
                on_row(Row(source.name, f"{variant} FAILED", seconds, None, line))
                made.append(Made(source.name, variant, folder, failure))
    return made


def _check_makeable(variant: Variant, asked: Asked) -> None:
    if str(variant) not in CONVERTERS:
        raise SpecError(
            f"no converter makes {variant}; variants that can be made: {', '.join(CONVERTERS)}"
        )
    if asked.batch not in (None, 1) and not CONVERTERS[str(variant)].batches:
        raise SpecError(
            f"{variant} takes one image at a time and has no batch of {asked.batch}; choose other "
            "variants with --formats, for example onnx-fp16"
        )


def _batch(variant: Variant, asked: Asked) -> int | None:
    return asked.batch if CONVERTERS[str(variant)].batches else 1


def _folder_name(source: Source, variant: Variant, batch: int | None) -> str:
    size = f"-{source.input_hw[0]}x{source.input_hw[1]}" if source.input_hw else ""
    return f"{source.name}{size}-{variant}{f'-batch{batch}' if batch else ''}"


def _convert_one(
    model: ModelInWork,
    variant: Variant,
    folder: Path,
    on_row: Callable[[Row], None],
    on_begin: Callable[[str, str], None] | None,
    *,
    force: bool,
) -> None:
    route = CONVERTERS[str(variant)]
    key = _key(model, variant)
    artifact = None if force else _current(folder, key)
    if artifact is None:
        convert_variant(model, variant, route, folder, key, tool_versions(route), on_row, on_begin)
        return
    verdict = str((artifact.accuracy or artifact.parity).get("summary", ""))
    step = f"{variant} up to date"
    on_row(Row(model.source.name, step, 0.0, artifact.size_bytes, verdict))
    on_arm = model.asked.on_arm if is_for_arm(variant) else None
    if on_arm:
        again = Step("arm", lambda: _run_on_arm(artifact, model, on_arm))
        run_steps(model.source.name, [again], on_row, on_begin)


def _run_on_arm(artifact: Artifact, model: ModelInWork, on_arm: OnArm) -> tuple[None, str]:
    """Make up for a check that did not take place when the artifact was made."""
    if artifact.arm.get("checked"):
        return None, str(artifact.arm["text"])
    asked, path = model.asked, model.source.path
    judge = session_judge(
        artifact,
        lambda: model.prepared(artifact.spec.input.shape[0]),
        path,
        asked.parity,
        count=ARM_IMAGES,
    )
    checked = replace(artifact, arm=on_arm(artifact, judge))
    why = arm_failure(checked)
    if checked != artifact:
        replace(checked, failed=why is not None).write_manifest()
    if why and not asked.keep_failed:
        shutil.rmtree(artifact.folder)
        raise ParityError(why)
    if why:
        raise ParityError(f"{why}. Kept, marked as failed: {artifact.folder}")
    return None, str(checked.arm["text"])


def verify_artifact(
    folder: Path,
    images: FeedSource,
    *,
    source_path: Path | None = None,
    allow_failed: bool = False,
    inference_precision: InferencePrecision | None = None,
) -> ParityReport:
    """Repeat an artifact's parity check against its source file.

    Raises ArtifactError when the source is not where it was, or has changed.
    """
    artifact = load_artifact(folder, allow_failed=allow_failed)
    path = source_file(artifact, source_path)
    return judge_parity(
        artifact,
        prepared_source(artifact, path),
        path,
        images,
        CONVERTERS[str(artifact.variant)].open,
        inference_precision,
        judge_range=not artifact.arm.get("checked"),
    )


def _current(folder: Path, key: str) -> Artifact | None:
    """The artifact in a folder, where it is whole, passed and made of what ``key`` says."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        # The manifest first: files are hashed only where they may be the right ones.
        return load_artifact(folder) if read_manifest(folder).get("key") == key else None
    except ArtifactError:
        return None  # changed or failed: made anew


def check_tools(route: Route) -> None:
    """Raise ToolError where a tool of the route is missing or not of the lock's version."""
    # onnx2tf's environment bears the mark of its own lock.
    check_versions((*_COMMON_TOOLS, *(name for name in route.tools if name != "onnx2tf")))


def tool_versions(route: Route) -> dict[str, str]:
    """The versions of all that decides what a route makes."""
    names = ("edgepose", *_COMMON_TOOLS, *route.tools)
    versions = {"python": platform.python_version()} | {name: version_of(name) for name in names}
    if "onnx2tf" in versions:
        versions["onnx2tf"] = onnx2tf_version()  # in an environment of its own
    return versions


def _key(model: ModelInWork, variant: Variant) -> str:
    """Content address of everything that decides what an artifact is."""
    source, asked = model.source, model.asked
    content: dict[str, Any] = {
        "source": model.source_sha256,
        "name": source.name,
        "spec": None if source.spec is None else source.spec.to_json(),
        "input_hw": source.input_hw,
        "keypoint_set": source.keypoint_set,
        "variant": str(variant),
        "batch": asked.batch,
        "images": asked.parity.text,
        "tools": tool_versions(CONVERTERS[str(variant)]),
        "code": _code_sha256(),
    }
    if variant.precision in QUANTISED:
        content |= {
            "calibration": asked.calibration and asked.calibration.text,
            "accuracy": asked.accuracy and [asked.accuracy.text, asked.accuracy.max_loss_points],
            "float_parts": asked.float_parts.get(variant.format)
            if variant.precision == "mixed"
            else None,
        }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _code_sha256() -> str:
    """Hash of the kit's own sources: in a checkout the version alone does not tell."""
    digest = hashlib.sha256()
    for room in ("converters", "edge", "calibration"):
        for path in sorted((CHECKOUT / room).rglob("*.py")):
            digest.update(f"{path.relative_to(CHECKOUT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
