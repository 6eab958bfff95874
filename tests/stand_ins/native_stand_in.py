"""A stand-in for the native runner."""

from __future__ import annotations

from edge.spec import TensorSpec
from tests.stand_ins.specs import pose_spec

__all__ = ["RUNNER", "SPEC"]

RUNNER = "/data/local/tmp/edgepose/runner/r"
SPEC = pose_spec(
    input=TensorSpec("input", (1, 3, 64, 48)),
    outputs=(TensorSpec("simcc_x", (1, 17, 96)), TensorSpec("simcc_y", (1, 17, 128))),
)
