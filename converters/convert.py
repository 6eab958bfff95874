"""A model file becomes verified artifacts, one folder a variant."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters.chain import Chain, Done, Row
from converters.code_digest import code_digest
from converters.conversion import (
    ConversionRequest,
    ModelInWork,
    Route,
    checked_on_arm,
    convert_variant,
)
from converters.formats.ncnn import convert_ncnn
from converters.formats.onnx import convert_onnx
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
from converters.model_in_work import check_tools, tool_versions
from converters.parity.answers import (
    judge_answers,
    judge_parity,
    prepared_source,
    source_file,
)
from converters.parity.arm import OnArm, arm_failure, is_for_arm
from converters.parity.parity import ParityReport
from converters.source import Source
from edge.artifact import MANIFEST, Artifact, load_artifact, read_manifest
from edge.errors import ArtifactError, EdgeError, ParityError, SpecError, first_line
from edge.files import private_folder
from edge.session import ENGINES, InferencePrecision
from edge.spec import QUANTISED, Variant

__all__ = [
    "CONVERTERS",
    "ConvertedVariant",
    "Source",
    "check_tools",
    "convert_model",
    "deciding_modules",
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

# By name, for this room imports nothing of calibration: what makes the pictures that answers are
# compared on, and also what calibrates and scores.
_COMPARED_DATA = ("calibration.data.images", "edge.detector", "edge.pose")
_QUANTISING_DATA = (*_COMPARED_DATA, "calibration.data.data_set", "calibration.scores.accuracy")


@dataclass(frozen=True)
class ConvertedVariant:
    """What became of one variant: its folder, and the error where it failed."""

    model: str
    variant: Variant
    folder: Path
    error: EdgeError | None = None


def convert_model(
    source: Source,
    variants: Sequence[Variant],
    out_dir: Path,
    request: ConversionRequest,
    on_row: Callable[[Row], None],
    *,
    on_begin: Callable[[str, str], None] | None = None,
    force: bool = False,
    any_version: bool = False,
) -> list[ConvertedVariant]:
    """Make every variant under ``out_dir``; what became of each, in the order of ``variants``.

    A variant that fails does not stop the others. An artifact whose key (source, options, data,
    tool versions, the kit's own code) is still the same is left alone unless ``force``. Raises
    SpecError for a variant that cannot be made as asked, ModelFileError for a file that nothing
    can be made of, and, unless ``any_version``, ToolError for a tool of another version than the
    lock's.
    """
    for variant in variants:
        _check_makeable(variant, request)
    source_sha256 = _digest(source.path)
    folders = {one: out_dir / _folder_name(source, one, request.batch) for one in variants}
    keys = {one: _key(source, source_sha256, request, one) for one in variants}
    current = {one: None if force else _current(folders[one], keys[one]) for one in variants}
    if None in current.values():
        load_float_onnx(source.path)  # what nothing can be made of is refused before any work
    made = []
    told: dict[str, Variant] = {}
    with private_folder(out_dir, f"{source.name}.work") as work:
        batches = {_batch(variant, request) for variant in variants}
        model = ModelInWork(source, source_sha256, work, request, batches)
        for variant in variants:
            folder, artifact = folders[variant], current[variant]
            begin = time.perf_counter()
            try:
                route = CONVERTERS[str(variant)]
                if not any_version:
                    check_tools(route)
                chain = Chain(source.name, on_row, on_begin)
                if artifact:
                    _say_current(artifact, model, chain)
                else:
                    key = keys[variant]
                    convert_variant(model, variant, route, folder, key, chain)
                made.append(ConvertedVariant(source.name, variant, folder))
            except EdgeError as error:
                seconds = time.perf_counter() - begin
                # What fails for one reason, as a refused calibration, says so once.
                first = told.setdefault(str(error.__cause__ or error), variant)
                failure = error if first is variant else type(error)(f"the same as {first}")
                line = first_line(failure)
                on_row(Row(source.name, f"{variant} FAILED", seconds, None, line))
                made.append(ConvertedVariant(source.name, variant, folder, failure))
    return made


def _check_makeable(variant: Variant, request: ConversionRequest) -> None:
    if str(variant) not in CONVERTERS:
        raise SpecError(
            f"no converter makes {variant}; variants that can be made: {', '.join(CONVERTERS)}"
        )
    if request.batch not in (None, 1) and not CONVERTERS[str(variant)].batches:
        raise SpecError(
            f"{variant} takes one image at a time and has no batch of {request.batch}; choose "
            "other variants with --formats, for example onnx-fp16"
        )


def _batch(variant: Variant, request: ConversionRequest) -> int | None:
    return request.batch if CONVERTERS[str(variant)].batches else 1


def _folder_name(source: Source, variant: Variant, batch: int | None) -> str:
    size = f"-{source.input_hw[0]}x{source.input_hw[1]}" if source.input_hw else ""
    return f"{source.name}{size}-{variant}{f'-batch{batch}' if batch else ''}"


def _say_current(artifact: Artifact, model: ModelInWork, chain: Chain) -> None:
    """The rows of an artifact that is up to date."""
    verdict = str((artifact.accuracy or artifact.parity).get("summary", ""))
    chain.run(f"{artifact.variant} up to date", lambda: Done(None, artifact.size_bytes, verdict))
    on_arm = model.request.on_arm if is_for_arm(artifact.variant) else None
    if on_arm:
        chain.run("arm", lambda: _run_on_arm(artifact, model, on_arm))


def _run_on_arm(artifact: Artifact, model: ModelInWork, on_arm: OnArm) -> Done[None]:
    """Make up for a check that did not take place when the artifact was made."""
    if artifact.arm.get("checked"):
        return Done(None, verdict=str(artifact.arm["text"]))
    checked = checked_on_arm(artifact, model, on_arm)
    why = arm_failure(checked)
    if checked != artifact:
        replace(checked, failed=why is not None).write_manifest()
    if why and not model.request.keep_failed:
        shutil.rmtree(artifact.folder)
        raise ParityError(why)
    if why:
        raise ParityError(f"{why}. Kept, marked as failed: {artifact.folder}")
    return Done(None, verdict=str(checked.arm["text"]))


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


def _digest(path: Path) -> str:
    try:
        return source_digest(path)
    except OSError:
        return ""  # what cannot be read is refused, with its reason, when it is loaded


def _key(source: Source, source_sha256: str, request: ConversionRequest, variant: Variant) -> str:
    """Content address of everything that decides what an artifact is."""
    content: dict[str, Any] = {
        "source": source_sha256,
        "name": source.name,
        "spec": None if source.spec is None else source.spec.to_json(),
        "input_hw": source.input_hw,
        "keypoint_set": source.keypoint_set,
        "variant": str(variant),
        "batch": request.batch,
        "images": request.parity.text,
        "tools": tool_versions(CONVERTERS[str(variant)]),
        "code": code_digest(*deciding_modules(variant)),
    }
    if variant.precision in QUANTISED:
        content |= {
            "calibration": request.calibration and request.calibration.text,
            "accuracy": request.accuracy
            and [request.accuracy.text, request.accuracy.max_loss_points],
            "float_parts": request.float_parts.get(variant.format)
            if variant.precision == "mixed"
            else None,
        }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def deciding_modules(variant: Variant) -> tuple[str, ...]:
    """What makes a variant and judges it; the modules that these import are found from there."""
    route = CONVERTERS[str(variant)]
    make = route.quantiser or route.converter
    assert make is not None
    names = (convert_variant.__module__, make.__module__, route.open.__module__)
    data = _QUANTISING_DATA if variant.precision in QUANTISED else _COMPARED_DATA
    return (*names, f"edge.engines.{ENGINES[variant.format]}", *data)
