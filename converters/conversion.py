"""One model on its way to its variants: prepare, convert, compare, and only then a folder."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from converters.chain import Chain, Done
from converters.graph.data_files import data_sha256
from converters.graph.prepare import Prepared
from converters.job import Job, Quantiser
from converters.model_in_work import ConversionRequest, ModelInWork, Route, tool_versions
from converters.parity.accuracy import AccuracyReport, judge_accuracy
from converters.parity.answers import judge_parity, session_judge
from converters.parity.arm import ARM_IMAGES, OnArm, arm_failure, is_for_arm
from converters.parity.parity import ParityReport
from edge.artifact import Artifact
from edge.errors import AccuracyError, ParityError, SpecError
from edge.files import sha256_of, staged_folder
from edge.session import EngineSettings, Session
from edge.spec import QUANTISED, Variant

__all__ = [
    "ConversionRequest",
    "ModelInWork",
    "Route",
    "checked_on_arm",
    "convert_variant",
    "open_quantised",
]


@dataclass(frozen=True)
class _Goal:
    """What is made of which model, and how; ``private`` is where."""

    model: ModelInWork
    variant: Variant
    route: Route
    private: Path

    @property
    def batch(self) -> int | None:
        return self.model.request.batch if self.route.batches else 1

    @property
    def on_arm(self) -> OnArm | None:
        return self.model.request.on_arm if is_for_arm(self.variant) else None


@dataclass(frozen=True)
class _Compared:
    """An artifact with what was found of it, and why it is a failed one that is kept."""

    artifact: Artifact
    failure: ParityError | AccuracyError | None = None


def convert_variant(
    model: ModelInWork,
    variant: Variant,
    route: Route,
    folder: Path,
    key: str,
    chain: Chain,
) -> None:
    """Make one artifact folder; raises the error of the step that failed.

    With ``ConversionRequest.keep_failed`` an artifact whose answers changed too much stays, marked
    as failed, and the error is raised all the same.
    """
    with staged_folder(folder) as private:
        goal = _Goal(model, variant, route, private)
        if not model.is_prepared(goal.batch):
            chain.run("prepare", partial(_prepare, goal), ensures=partial(_is_prepared, goal))
        artifact = chain.run(
            str(variant),
            partial(_convert, goal, key),
            requires=partial(_is_convertible, goal),
            ensures=_files_exist,
        )
        state = chain.run("parity", partial(_compare, goal, artifact))
        if variant.precision in QUANTISED:
            state = chain.run("accuracy", partial(_score, goal, state))
        if goal.on_arm:
            state = chain.run("arm", partial(_run_on_arm, goal, state, goal.on_arm))
        state.artifact.write_manifest()
    if state.failure:
        raise type(state.failure)(f"{state.failure}. Kept, marked as failed: {folder}")


def _prepare(goal: _Goal) -> Done[Prepared]:
    prepared = goal.model.prepared(goal.batch)
    height, width = prepared.spec.input_hw
    size = goal.model.prepared_path(goal.batch).stat().st_size
    return Done(prepared, size, f"{prepared.spec.codec}, {height}x{width}")


def _is_prepared(goal: _Goal, prepared: Prepared) -> str | None:
    shape = prepared.spec.input.shape
    if not goal.route.batches and None in shape:
        return f"the input shape {shape} is not fixed"
    return None


def _is_convertible(goal: _Goal) -> str | None:
    codec = goal.model.prepared(goal.batch).spec.codec
    if codec == "detections" and goal.variant.format != "onnx":
        return (
            "the file does its own non-maximum suppression, which only ONNX engines run, and "
            "has no raw heads that the kit knows; choose onnx-fp32 or onnx-fp16 with "
            "--formats, or convert the checkpoint (.pth) instead"
        )
    return None


def _convert(goal: _Goal, key: str) -> Done[Artifact]:
    model, private = goal.model, goal.private
    prepared = model.prepared(goal.batch)
    quantisation: dict[str, Any] = {}
    if goal.route.quantiser is not None:
        quantiser = model.quantiser(goal.route, goal.variant.precision, goal.batch)
        floats = _float_parts(goal, quantiser)
        files = quantiser.quantise(floats, private)
        quantisation = {
            "calibration": model.calibration(prepared.spec)[1],
            "float_parts": list(floats),
            "parts": len(quantiser.parts),
        }
    else:
        assert goal.route.converter is not None
        path = model.prepared_path(goal.batch)
        files = goal.route.converter(Job(path, prepared.spec, goal.variant.precision, private))
    files |= _save_constants(prepared, private)
    _remove_others(private, files.values())
    artifact = Artifact(
        folder=private,
        variant=goal.variant,
        spec=prepared.spec,
        files=files,
        sha256={name: sha256_of(private / name) for name in files.values()},
        key=key,
        source=_source_record(model, prepared),
        tools=tool_versions(goal.route),
        quantisation=quantisation,
    )
    floats_text = ", ".join(quantisation.get("float_parts", ()))
    return Done(artifact, artifact.size_bytes, f"float: {floats_text}" if floats_text else "")


def _source_record(model: ModelInWork, prepared: Prepared) -> dict[str, Any]:
    return {
        "file": model.source.path.name,
        "path": str(model.source.path.resolve()),
        "sha256": model.source_sha256,
        **_sha256_by_file(model.source.path),
        "spec": prepared.source_spec.to_json(),
        "images": model.request.parity.text,
        "scale_norms_made_fp16_safe": prepared.rewritten_scale_norms,
        "layers_scaled_for_fp16": len(prepared.scaled_layers),
        "notes": list(prepared.notes),
    }


def _float_parts(goal: _Goal, quantiser: Quantiser) -> Collection[str]:
    """What stays float; SpecError for a part that the network does not have."""
    if goal.variant.precision != "mixed":
        return ()
    named = goal.model.request.float_parts.get(goal.variant.format)
    if named is None:
        return tuple(quantiser.fragile_parts)
    unknown = [part for part in named if part not in quantiser.parts]
    if unknown:
        raise SpecError(
            f"{goal.model.source.name} has no part {unknown[0]!r} in {goal.variant.format}; "
            f"its parts: {', '.join(quantiser.parts)}"
        )
    return named


def _files_exist(artifact: Artifact) -> str | None:
    for name in artifact.files.values():
        if (artifact.folder / name).stat().st_size == 0:
            return f"{name} is empty"
    return None


def _compare(goal: _Goal, artifact: Artifact) -> Done[_Compared]:
    report = judge_parity(
        artifact,
        goal.model.prepared(goal.batch),
        goal.model.source.path,
        goal.model.request.parity,
        goal.route.open,
        judge_range=goal.on_arm is None,
    )
    judged = _Compared(replace(artifact, parity=report.to_json()))
    return Done(_held_to(goal, judged, report), verdict=report.summary())


def _score(goal: _Goal, state: _Compared) -> Done[_Compared]:
    check = goal.model.request.accuracy
    if check is None:
        raise SpecError(f"{goal.variant} is not made without an accuracy check")
    reference = goal.model.reference_score(check)
    with goal.route.open(state.artifact, EngineSettings()) as session:
        report = judge_accuracy(session, reference, check)
    judged = replace(state, artifact=replace(state.artifact, accuracy=report.to_json()))
    return Done(_held_to(goal, judged, report), verdict=report.summary())


def _run_on_arm(goal: _Goal, state: _Compared, on_arm: OnArm) -> Done[_Compared]:
    if state.failure:
        return Done(state, verdict="left out: it failed already")
    artifact = checked_on_arm(state.artifact, goal.model, on_arm)
    why = arm_failure(artifact)
    state = _Compared(artifact)
    if why:
        state = _failed(goal, state, ParityError(why))
    return Done(state, verdict=str(artifact.arm["text"]))


def checked_on_arm(artifact: Artifact, model: ModelInWork, on_arm: OnArm) -> Artifact:
    """The artifact with the record of a run on an ARM CPU."""
    judge = session_judge(
        artifact,
        lambda: model.prepared(artifact.spec.input.shape[0]),
        model.source.path,
        model.request.parity,
        count=ARM_IMAGES,
    )
    return replace(artifact, arm=on_arm(artifact, judge))


def _held_to(goal: _Goal, state: _Compared, report: ParityReport | AccuracyReport) -> _Compared:
    """The state as a report leaves it: a failed artifact goes on only to be studied."""
    try:
        report.raise_if_failed()
    except (ParityError, AccuracyError) as error:
        return _failed(goal, state, error)
    return state


def _failed(goal: _Goal, state: _Compared, error: ParityError | AccuracyError) -> _Compared:
    if not goal.model.request.keep_failed:
        raise error
    first = state.failure or type(error)(f"{goal.model.source.name} as {goal.variant}: {error}")
    return _Compared(replace(state.artifact, failed=True), first)


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
