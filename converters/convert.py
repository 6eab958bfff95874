"""A model file becomes verified artifacts: prepare, convert, compare, and only then a folder."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from converters.chain import Row, Step, run_steps, staged_folder
from converters.ncnn import convert_ncnn
from converters.onnx import convert_onnx
from converters.onnx_file import load_onnx
from converters.openvino import convert_openvino
from converters.parity import NamedFeeds, ParityReport, check_parity
from converters.prepare import Prepared, prepare
from converters.source import Source
from converters.tools import version_of
from edge.artifact import MANIFEST, Artifact, load_artifact, read_manifest, sha256_of
from edge.errors import ArtifactError, ModelFileError, ParityError, SpecError
from edge.session import EngineSettings, InferencePrecision, open_session
from edge.spec import ModelSpec, Precision, Variant

__all__ = ["CONVERTERS", "ParityImages", "Source", "convert_model", "verify_artifact"]

Converter = Callable[[Path, ModelSpec, Precision, Path], dict[str, str]]


@dataclass(frozen=True)
class Route:
    """How a variant is made: the function, whether it knows a batch, and its tools."""

    converter: Converter
    batches: bool
    tools: tuple[str, ...]


CONVERTERS: dict[str, Route] = {
    "onnx-fp32": Route(convert_onnx, True, ()),
    "onnx-fp16": Route(convert_onnx, True, ()),
    "ncnn-fp16": Route(convert_ncnn, False, ("pnnx", "ncnn")),
    "openvino-fp32": Route(convert_openvino, True, ("openvino",)),
    "openvino-fp16": Route(convert_openvino, True, ("openvino",)),
}

_COMMON_TOOLS = ("edgepose", "numpy", "onnx", "onnxslim", "onnxruntime")


@dataclass(frozen=True)
class ParityImages:
    """The images that answers are compared on; ``feeds`` is called only when they are needed."""

    text: str
    feeds: Callable[[ModelSpec], Sequence[NamedFeeds]]


def convert_model(
    source: Source,
    variants: Sequence[Variant],
    out_dir: Path,
    images: ParityImages,
    on_row: Callable[[Row], None],
    *,
    batch: int | None = None,
    force: bool = False,
    keep_failed: bool = False,
) -> list[Path]:
    """Make every variant under ``out_dir``; the artifact folders, in the order of ``variants``.

    ``batch`` fixes the batch of every variant; None leaves it open where the format can. An
    artifact whose key (source, options, tool versions, the kit's own code) is still the same is
    left alone unless ``force``. Raises the error of the first step that fails; the folders of
    finished variants stay, nothing else does.
    """
    for variant in variants:
        if str(variant) not in CONVERTERS:
            raise SpecError(
                f"no converter makes {variant}; variants that can be made: {', '.join(CONVERTERS)}"
            )
        if batch not in (None, 1) and not CONVERTERS[str(variant)].batches:
            raise SpecError(
                f"{variant} takes one image at a time and has no batch of {batch}; choose other "
                "variants with --formats, for example onnx-fp16"
            )
    if not source.path.is_file():
        raise ModelFileError(f"{source.path}: no such file")
    source_sha256 = sha256_of(source.path)
    folders = []
    for variant in variants:
        folder = out_dir / f"{source.name}-{variant}{f'-batch{batch}' if batch else ''}"
        folders.append(folder)
        key = _key(source, source_sha256, variant, batch, images)
        artifact = None if force else _current(folder, key)
        if artifact:
            on_row(
                Row(
                    source.name,
                    f"{variant} up to date",
                    0.0,
                    artifact.size_bytes,
                    str(artifact.parity.get("summary", "")),
                )
            )
            continue
        _Conversion(source, source_sha256, variant, batch, folder, key, images, keep_failed).run(
            on_row
        )
    return folders


class _Conversion:
    """One variant of one model on its way through the steps."""

    def __init__(
        self,
        source: Source,
        source_sha256: str,
        variant: Variant,
        batch: int | None,
        folder: Path,
        key: str,
        images: ParityImages,
        keep_failed: bool,
    ) -> None:
        self.source = source
        self.source_sha256 = source_sha256
        self.variant = variant
        self.batch = batch
        self.folder = folder
        self.key = key
        self.images = images
        self.keep_failed = keep_failed
        self.route = CONVERTERS[str(variant)]

    def run(self, on_row: Callable[[Row], None]) -> None:
        with staged_folder(self.folder) as private:
            self.private = private
            steps = [
                Step("prepare", self._prepare, ensures=self._is_prepared),
                Step(
                    str(self.variant),
                    self._convert,
                    requires=self._is_convertible,
                    ensures=self._files_exist,
                ),
                Step("parity", self._compare),
            ]
            run_steps(self.source.name, steps, on_row)
        if self.report.failures:
            try:
                self.report.raise_if_failed()
            except ParityError as error:
                raise ParityError(
                    f"{self.source.name} as {self.variant}: {error}. Kept, marked as failed: "
                    f"{self.folder}"
                ) from None

    def _prepare(self) -> tuple[int | None, str]:
        self.prepared = prepare(
            self.source.path,
            self.source.name,
            spec=self.source.spec,
            input_hw=self.source.input_hw,
            batch=self.batch if self.route.batches else 1,
        )
        self.onnx_path = self.private / "prepared.onnx"
        self.onnx_path.write_bytes(self.prepared.model.SerializeToString())
        height, width = self.prepared.spec.input_hw
        return self.onnx_path.stat().st_size, f"{self.prepared.spec.codec}, {height}x{width}"

    def _is_prepared(self) -> str | None:
        shape = self.prepared.spec.input.shape
        if not self.route.batches and None in shape:
            return f"the input shape {shape} is not fixed"
        return None

    def _is_convertible(self) -> str | None:
        if self.prepared.spec.codec == "detections" and self.variant.format != "onnx":
            return (
                "the file does its own non-maximum suppression, which only ONNX engines run, and "
                "has no raw heads that the kit knows; choose onnx-fp32 or onnx-fp16 with "
                "--formats, or convert the checkpoint (.pth) instead"
            )
        return None

    def _convert(self) -> tuple[int | None, str]:
        files = self.route.converter(
            self.onnx_path, self.prepared.spec, self.variant.precision, self.private
        )
        self.onnx_path.unlink()
        if self.prepared.constants:
            files["constants"] = f"{self.source.name}.constants.npz"
            arrays: dict[str, Any] = self.prepared.constants
            np.savez(self.private / files["constants"], **arrays)
        source: dict[str, Any] = {
            "file": self.source.path.name,
            "path": str(self.source.path.resolve()),
            "sha256": self.source_sha256,
            "spec": self.prepared.source_spec.to_json(),
            "images": self.images.text,
            "scale_norms_made_fp16_safe": self.prepared.rewritten_scale_norms,
        }
        self.artifact = Artifact(
            folder=self.private,
            variant=self.variant,
            spec=self.prepared.spec,
            files=files,
            sha256={name: sha256_of(self.private / name) for name in files.values()},
            key=self.key,
            source=source,
            tools=_tools(self.route),
        )
        return self.artifact.size_bytes, ""

    def _files_exist(self) -> str | None:
        for name in self.artifact.files.values():
            if (self.private / name).stat().st_size == 0:
                return f"{name} is empty"
        return None

    def _compare(self) -> tuple[int | None, str]:
        self.report = _judge(self.artifact, self.prepared, self.source.path, self.images)
        if not self.keep_failed:
            self.report.raise_if_failed()
        replace(
            self.artifact, parity=self.report.to_json(), failed=not self.report.passed
        ).write_manifest()
        return None, self.report.summary()


def verify_artifact(
    folder: Path,
    images: ParityImages,
    *,
    source_path: Path | None = None,
    allow_failed: bool = False,
    inference_precision: InferencePrecision | None = None,
) -> ParityReport:
    """Repeat an artifact's parity check against its source file.

    ``inference_precision`` lets the engine compute otherwise than the variant does by itself; the
    limits stay those of the variant. Raises ArtifactError when the source is not where it was, or
    has changed.
    """
    artifact = load_artifact(folder, allow_failed=allow_failed)
    path = source_path or Path(str(artifact.source.get("path", "")))
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: its source {path} is not there; say where it is with --source FILE"
        )
    if sha256_of(path) != artifact.source.get("sha256"):
        raise ArtifactError(
            f"{path}: not the file that {folder} was made of (sha256 differs); "
            "say which with --source FILE"
        )
    spec = ModelSpec.from_json(artifact.source["spec"], where=f"{folder}: source")
    prepared = prepare(path, artifact.spec.name, spec=spec, batch=artifact.spec.input.shape[0])
    return _judge(artifact, prepared, path, images, inference_precision)


def _judge(
    artifact: Artifact,
    prepared: Prepared,
    source_path: Path,
    images: ParityImages,
    inference_precision: InferencePrecision | None = None,
) -> ParityReport:
    feeds = images.feeds(prepared.spec)
    # What it ships for: a machine with FP16 arithmetic is judged on FP16 arithmetic. The engine
    # takes fp32 where there is none, and the report says which it was.
    own: InferencePrecision = "fp16" if artifact.variant.precision == "fp16" else "fp32"
    settings = EngineSettings(inference_precision=inference_precision or own)
    with open_session(artifact, settings) as session:
        return check_parity(
            prepared,
            load_onnx(source_path),
            session,
            artifact.variant.precision,
            feeds,
            images.text,
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


def _tools(route: Route) -> dict[str, str]:
    names = (*_COMMON_TOOLS, *route.tools)
    return {"python": platform.python_version()} | {name: version_of(name) for name in names}


def _key(
    source: Source, source_sha256: str, variant: Variant, batch: int | None, images: ParityImages
) -> str:
    """Content address of everything that decides what an artifact is."""
    content = {
        "source": source_sha256,
        "name": source.name,
        "spec": None if source.spec is None else source.spec.to_json(),
        "input_hw": source.input_hw,
        "variant": str(variant),
        "batch": batch,
        "images": images.text,
        "tools": _tools(CONVERTERS[str(variant)]),
        "code": _code_sha256(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _code_sha256() -> str:
    """Hash of the kit's own sources: in a checkout the version alone does not tell."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for room in ("converters", "edge", "calibration"):
        for path in sorted((root / room).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
