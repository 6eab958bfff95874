"""An artifact's answers, on whatever computes them, against its untouched source."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converters.graph.data_files import data_sha256, source_digest
from converters.graph.file import load_onnx
from converters.graph.prepare import Prepared, prepare
from converters.job import FeedSource, NamedFeeds
from converters.parity.parity import (
    ParityReport,
    answered_images,
    check_parity,
    fp16_peak,
    range_failure,
)
from edge.artifact import Artifact, sha256_of
from edge.errors import ArtifactError
from edge.session import EngineSettings, InferencePrecision, Session, shipped_precision
from edge.spec import ModelSpec

__all__ = [
    "SessionJudge",
    "judge_answers",
    "judge_parity",
    "prepared_source",
    "session_judge",
    "source_file",
]

SessionJudge = Callable[[Session], ParityReport]
"""Compares a session of one artifact with the artifact's source, with the artifact's limits."""


def judge_parity(
    artifact: Artifact,
    prepared: Prepared,
    source_path: Path,
    images: FeedSource,
    open_artifact: Callable[[Artifact, EngineSettings], Session],
    inference_precision: InferencePrecision | None = None,
    *,
    judge_range: bool = True,
) -> ParityReport:
    """Compare an artifact with its untouched source on the engine of this machine.

    Without ``inference_precision`` it is judged on what it ships for: a machine with FP16
    arithmetic is judged on FP16 arithmetic. The engine takes fp32 where there is none, and the
    report says which it was. An fp16 artifact also fails where its network leaves FP16's range,
    unless ``judge_range`` is False, because it is run on such a device as well.
    """
    precision = inference_precision or shipped_precision(artifact)
    settings = EngineSettings(inference_precision=precision)
    feeds = images.feeds(prepared.spec)
    with open_artifact(artifact, settings) as session:
        report = check_parity(
            prepared,
            load_onnx(source_path),
            session,
            artifact.variant.precision,
            feeds,
            images.text,
        )
    if artifact.variant.precision == "fp16":
        report.fp16_peak = fp16_peak(prepared, feeds)
        failure = range_failure(report.fp16_peak)
        if failure and judge_range:
            report.failures.insert(0, failure)  # the cause before its consequences
    return report


def session_judge(
    artifact: Artifact,
    prepare_it: Callable[[], Prepared],
    source_path: Path,
    images: FeedSource,
    *,
    count: int | None = None,
    machine: str | None = None,
) -> SessionJudge:
    """What compares sessions of an artifact with its source; nothing is loaded before the first.

    ``count`` keeps to that many images, of those in which the reference finds something;
    ``machine`` is what the sessions compute on, for the report. How far the network stays within
    FP16's range is not asked: a session on such a device shows that itself.
    """

    @functools.cache
    def material() -> tuple[Prepared, Any, list[NamedFeeds]]:
        prepared, source = prepare_it(), load_onnx(source_path)
        feeds = list(images.feeds(prepared.spec))
        if count is not None:
            feeds = answered_images(prepared, source, feeds, count)
        return prepared, source, feeds

    def judge(session: Session) -> ParityReport:
        prepared, source, feeds = material()
        precision = artifact.variant.precision
        return check_parity(prepared, source, session, precision, feeds, images.text, machine)

    return judge


def judge_answers(
    artifact: Artifact,
    images: FeedSource,
    session: Session,
    *,
    source_path: Path | None = None,
    count: int | None = None,
    machine: str | None = None,
) -> ParityReport:
    """Compare an open session of an artifact, wherever it computes, with the artifact's source.

    ``count`` and ``machine`` as in `session_judge`. Raises ArtifactError when the source is not
    where it was, or has changed.
    """
    path = source_file(artifact, source_path)
    judge = session_judge(
        artifact,
        functools.partial(prepared_source, artifact, path),
        path,
        images,
        count=count,
        machine=machine,
    )
    return judge(session)


def source_file(artifact: Artifact, source_path: Path | None = None) -> Path:
    """The file that an artifact was made of; ArtifactError where it is gone or another one."""
    path = source_path or Path(str(artifact.source.get("path", "")))
    if not path.is_file():
        raise ArtifactError(
            f"{artifact.folder}: its source {path} is not there; say where it is with --source FILE"
        )
    if source_digest(path) != artifact.source.get("sha256"):
        raise ArtifactError(
            f"{_changed(artifact, path)}: not the file that {artifact.folder} was made of (sha256 "
            "differs); say which with --source FILE"
        )
    return path


def _changed(artifact: Artifact, path: Path) -> Path:
    """Which of a model's files changed: itself, or one beside it that holds its weights."""
    known = artifact.source.get("data_sha256", {})
    changed = [name for name, digest in data_sha256(path).items() if known.get(name) != digest]
    is_own = not known or sha256_of(path) != artifact.source.get("file_sha256")
    return path if is_own or not changed else path.with_name(changed[0])


def prepared_source(artifact: Artifact, path: Path) -> Prepared:
    """The source of an artifact, prepared as it was for it."""
    spec = ModelSpec.from_json(artifact.source["spec"], where=f"{artifact.folder}: source")
    return prepare(path, artifact.spec.name, spec=spec, batch=artifact.spec.input.shape[0])
