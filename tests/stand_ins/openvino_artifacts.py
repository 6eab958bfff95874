"""Artifacts for OpenVINO, made of those for ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

from converters.formats.openvino import convert_openvino
from converters.job import Job
from edge.artifact import Artifact
from edge.spec import Precision, Variant

__all__ = ["as_openvino"]


def as_openvino(artifact: Artifact, precision: Precision = "fp32") -> Artifact:
    """An ``onnx-fp32`` artifact's file once more for OpenVINO, in the same folder."""
    job = Job(artifact.path("model"), artifact.spec, precision, artifact.folder)
    files = convert_openvino(job)
    variant = Variant("openvino", precision)
    return replace(artifact, variant=variant, files={**artifact.files, **files}, sha256={})
