"""OpenVINO artifacts of a conversion's job."""

from __future__ import annotations

from pathlib import Path

from converters.job import Job
from edge.artifact import Artifact
from edge.spec import Variant


def artifact_of(job: Job, files: dict[str, str], folder: Path) -> Artifact:
    return Artifact(folder, Variant("openvino", job.precision), job.spec, files, {})
