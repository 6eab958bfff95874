"""One model on its way to its variants: prepare, convert, compare, and only then a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from converters.chain import Row, Step, run_steps
from converters.graph.data_files import data_sha256
from converters.graph.prepare import Prepared
from converters.job import Job, Quantiser
from converters.model_in_work import Asked, ModelInWork, Route
from converters.parity.accuracy import AccuracyReport, judge_accuracy
from converters.parity.answers import judge_parity, session_judge
from converters.parity.arm import ARM_IMAGES, arm_failure, is_for_arm
from edge.artifact import Artifact
from edge.errors import AccuracyError, ParityError, SpecError
from edge.files import sha256_of, staged_folder
from edge.session import EngineSettings, Session
from edge.spec import QUANTISED, Variant

__all__ = [
    "Asked",
    "ModelInWork",
    "Route",
    "convert_variant",
    "open_quantised",
]


def convert_variant(
    model: ModelInWork,
    variant: Variant,
    route: Route,
    folder: Path,
    key: str,
    tools: dict[str, str],
    on_row: Callable[[Row], None],
    on_begin: Callable[[str, str], None] | None = None,
) -> None:
    """Make one artifact folder; raises the error of the step that failed.

    With ``Asked.keep_failed`` an artifact whose answers changed too much stays, marked as failed,
    and the error is raised all the same.
    """
    with staged_folder(folder) as private:
        work = _Variant(model, variant, route, private, key, tools)
        steps = [
            Step(
                str(variant),
                work.convert,
                requires=work.is_convertible,
                ensures=work.files_exist,
            ),
            Step("parity", work.compare),
        ]
        if not model.is_prepared(work.batch):
            steps.insert(0, Step("prepare", work.prepare, ensures=work.is_prepared))
        if variant.precision in QUANTISED:
            steps.append(Step("accuracy", work.score))
        if work.on_arm:
            steps.append(Step("arm", work.run_on_arm))
        run_steps(model.source.name, steps, on_row, on_begin)
        work.artifact.write_manifest()
    if work.failure:
        raise type(work.failure)(f"{work.failure}. Kept, marked as failed: {folder}")


class _Variant:
    """One variant of one model; each method is a step."""

    def __init__(
        self,
        model: ModelInWork,
        variant: Variant,
        route: Route,
        private: Path,
        key: str,
        tools: dict[str, str],
    ) -> None:
        self.model = model
        self.variant = variant
        self.route = route
        self.private = private
        self.key = key
        self.tools = tools
        self.batch = model.asked.batch if route.batches else 1
        self.on_arm = model.asked.on_arm if is_for_arm(variant) else None
        self.failure: ParityError | AccuracyError | None = None

    def prepare(self) -> tuple[int | None, str]:
        prepared = self.model.prepared(self.batch)
        height, width = prepared.spec.input_hw
        size = self.model.prepared_path(self.batch).stat().st_size
        return size, f"{prepared.spec.codec}, {height}x{width}"

    def is_prepared(self) -> str | None:
        shape = self.model.prepared(self.batch).spec.input.shape
        if not self.route.batches and None in shape:
            return f"the input shape {shape} is not fixed"
        return None

    def is_convertible(self) -> str | None:
        codec = self.model.prepared(self.batch).spec.codec
        if codec == "detections" and self.variant.format != "onnx":
            return (
                "the file does its own non-maximum suppression, which only ONNX engines run, and "
                "has no raw heads that the kit knows; choose onnx-fp32 or onnx-fp16 with "
                "--formats, or convert the checkpoint (.pth) instead"
            )
        return None

    def convert(self) -> tuple[int | None, str]:
        model, prepared = self.model, self.model.prepared(self.batch)
        quantisation: dict[str, Any] = {}
        if self.route.quantiser is not None:
            quantiser = model.quantiser(self.route, self.variant.precision, self.batch)
            floats = self._float_parts(quantiser)
            files = quantiser.quantise(floats, self.private)
            quantisation = {
                "calibration": model.calibration(prepared.spec)[1],
                "float_parts": list(floats),
                "parts": len(quantiser.parts),
            }
        else:
            assert self.route.converter is not None
            files = self.route.converter(
                Job(
                    model.prepared_path(self.batch),
                    prepared.spec,
                    self.variant.precision,
                    self.private,
                )
            )
        files |= _save_constants(prepared, self.private)
        _remove_others(self.private, files.values())
        source: dict[str, Any] = {
            "file": model.source.path.name,
            "path": str(model.source.path.resolve()),
            "sha256": model.source_sha256,
            **_sha256_by_file(model.source.path),
            "spec": prepared.source_spec.to_json(),
            "images": model.asked.parity.text,
            "scale_norms_made_fp16_safe": prepared.rewritten_scale_norms,
            "layers_scaled_for_fp16": len(prepared.scaled_layers),
            "notes": list(prepared.notes),
        }
        self.artifact = Artifact(
            folder=self.private,
            variant=self.variant,
            spec=prepared.spec,
            files=files,
            sha256={name: sha256_of(self.private / name) for name in files.values()},
            key=self.key,
            source=source,
            tools=self.tools,
            quantisation=quantisation,
        )
        floats_text = ", ".join(quantisation.get("float_parts", ()))
        return self.artifact.size_bytes, f"float: {floats_text}" if floats_text else ""

    def _float_parts(self, quantiser: Quantiser) -> Collection[str]:
        if self.variant.precision != "mixed":
            return ()
        asked = self.model.asked.float_parts.get(self.variant.format)
        if asked is None:
            return tuple(quantiser.fragile_parts)
        unknown = [part for part in asked if part not in quantiser.parts]
        if unknown:
            raise SpecError(
                f"{self.model.source.name} has no part {unknown[0]!r} in {self.variant.format}; "
                f"its parts: {', '.join(quantiser.parts)}"
            )
        return asked

    def files_exist(self) -> str | None:
        for name in self.artifact.files.values():
            if (self.private / name).stat().st_size == 0:
                return f"{name} is empty"
        return None

    def compare(self) -> tuple[int | None, str]:
        report = judge_parity(
            self.artifact,
            self.model.prepared(self.batch),
            self.model.source.path,
            self.model.asked.parity,
            self.route.open,
            judge_range=self.on_arm is None,
        )
        self.artifact = replace(
            self.artifact,
            parity=report.to_json(),
            failed=not report.passed,
        )
        try:
            report.raise_if_failed()
        except ParityError as error:
            self._keep(error)
        return None, report.summary()

    def run_on_arm(self) -> tuple[int | None, str]:
        assert self.on_arm is not None
        if self.failure:
            return None, "left out: it failed already"
        judge = session_judge(
            self.artifact,
            lambda: self.model.prepared(self.batch),
            self.model.source.path,
            self.model.asked.parity,
            count=ARM_IMAGES,
        )
        self.artifact = replace(self.artifact, arm=self.on_arm(self.artifact, judge))
        why = arm_failure(self.artifact)
        if why:
            self.artifact = replace(self.artifact, failed=True)
            self._keep(ParityError(why))
        return None, str(self.artifact.arm["text"])

    def score(self) -> tuple[int | None, str]:
        report = self._accuracy()
        self.artifact = replace(
            self.artifact,
            accuracy=report.to_json(),
            failed=self.artifact.failed or not report.passed,
        )
        try:
            report.raise_if_failed()
        except AccuracyError as error:
            self._keep(error)
        return None, report.summary()

    def _accuracy(self) -> AccuracyReport:
        check = self.model.asked.accuracy
        if check is None:
            raise SpecError(f"{self.variant} is not made without an accuracy check")
        reference = self.model.reference_score(check)
        with self.route.open(self.artifact, EngineSettings()) as session:
            return judge_accuracy(session, reference, check)

    def _keep(self, error: ParityError | AccuracyError) -> None:
        """Go on with a failed artifact where the user wants to study it."""
        if not self.model.asked.keep_failed:
            raise error
        self.failure = self.failure or type(error)(
            f"{self.model.source.name} as {self.variant}: {error}"
        )


def open_quantised(
    model: ModelInWork,
    variant: Variant,
    route: Route,
    float_parts: Collection[str],
    folder: Path,
) -> Session:
    """A session of the network quantised but for ``float_parts``; its files go to ``folder``."""
    prepared = model.prepared(1)
    quantiser = model.quantiser(route, variant.precision, 1)
    files = quantiser.quantise(float_parts, folder) | _save_constants(prepared, folder)
    artifact = Artifact(folder, variant, prepared.spec, files, sha256={})
    return route.open(artifact, EngineSettings())


def _sha256_by_file(path: Path) -> dict[str, Any]:
    """Of weights in files of their own: what each was, for whoever looks which one changed."""
    data = data_sha256(path)
    return {"file_sha256": sha256_of(path), "data_sha256": data} if data else {}


def _save_constants(prepared: Prepared, folder: Path) -> dict[str, str]:
    """Write what the codec needs beside the network's outputs; role -> file name."""
    if not prepared.constants:
        return {}
    name = f"{prepared.spec.name}.constants.npz"
    arrays: dict[str, Any] = prepared.constants
    np.savez(folder / name, **arrays)
    return {"constants": name}


def _remove_others(folder: Path, names: Collection[str]) -> None:
    """Remove what a converter left beside its files."""
    for path in folder.iterdir():
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
