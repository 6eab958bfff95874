"""The examples of CONTRIBUTING.md are short, and keep the contracts that they show.

Its transport is tried in tests/targets/transports/test_transport.py, with the kit's own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.artifact import Artifact
from edge.errors import EngineError
from edge.session import EngineSettings
from edge.spec import TensorSpec, Variant
from tests.stand_ins.contracts import (
    check_converter,
    check_engine,
    check_keypoint_codec,
    job_of,
    reference,
)
from tests.stand_ins.examples import example, examples
from tests.stand_ins.specs import heatmap_spec

pytest.importorskip("onnxruntime")
FP32 = Variant("onnx", "fp32")


def test_there_are_four_and_each_is_short() -> None:
    assert len(examples()) == 4
    for code in examples():
        lines = [line for line in code.splitlines() if line and "import " not in line]
        assert len(lines) < 30, code


def test_the_converter(tmp_path: Path) -> None:
    check_converter(example("convert_onnx"), FP32, tmp_path)


def test_the_engine(tmp_path: Path) -> None:
    job = job_of(tmp_path, "fp32")
    files = example("convert_onnx")(job)
    artifact = Artifact(job.folder, FP32, job.spec, files, sha256={})
    opened = example("ReferenceSession")
    check_engine(opened, artifact, reference(job))
    artifact.path("model").write_bytes(b"no network")
    with pytest.raises(EngineError, match="cannot load"):
        opened(artifact, EngineSettings())


def test_the_codec() -> None:
    spec = heatmap_spec()
    # Such outputs belong to no codec that there is.
    object.__setattr__(spec, "outputs", (TensorSpec("points", (None, 17, 3)),))
    check_keypoint_codec(example("decode"), spec, {})
