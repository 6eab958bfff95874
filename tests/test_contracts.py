"""Every row of the kit's tables keeps its contract, and so do CONTRIBUTING's examples."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from converters.convert import CONVERTERS
from edge.artifact import Artifact
from edge.codecs import BOX_CODECS, KEYPOINT_CODECS, POSE_CODECS
from edge.errors import EngineError, EngineMissingError
from edge.session import ENGINES, Array, EngineSettings
from edge.spec import FORMATS, Codec, ModelSpec, Task, TensorSpec, Variant
from edge.spec_outputs import CODEC_CHECKS
from tests.conftest import ROOT
from tests.stand_ins.contracts import (
    check_box_codec,
    check_converter,
    check_engine,
    check_keypoint_codec,
    check_pose_codec,
    check_quantiser,
    job_of,
    reference,
)
from tests.stand_ins.rtmo_maps import spec_of, weights_of
from tests.stand_ins.specs import EVERY_SPEC, detector_spec, rtmo_spec

pytest.importorskip("onnxruntime")


def need(variant: str) -> None:
    """Skip where the tools of a format are not set up."""
    name = variant.partition("-")[0]
    if name == "tflite":
        pytest.importorskip("ai_edge_quantizer")
        if not (ROOT / ".venv-onnx2tf/.ready").is_file():
            pytest.skip("onnx2tf's environment is not built: make setup-onnx2tf")
    for module in {"ncnn": ("ncnn",), "openvino": ("openvino", "nncf")}.get(name, ()):
        pytest.importorskip(module)


@pytest.mark.long
@pytest.mark.parametrize("text", CONVERTERS)
def test_a_converter_keeps_its_contract(text: str, tmp_path: Path) -> None:
    need(text)
    route, variant = CONVERTERS[text], Variant.parse(text)
    if route.quantiser is not None:
        check_quantiser(route.quantiser, variant, tmp_path)
    else:
        assert route.converter is not None
        check_converter(route.converter, variant, tmp_path)


# TensorRT, on stand-ins, in tests/edge/engines/test_tensorrt.py.
@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(ENGINES) - {"tensorrt"}))
def test_an_engine_keeps_its_contract(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(ENGINES) == set(FORMATS)
    need(name)
    variant = Variant.parse(f"{name}-fp32")
    artifact, want = artifact_of(tmp_path, variant)
    engine = importlib.import_module(f"edge.engines.{ENGINES[variant.format]}")
    check_engine(engine.open_engine, artifact, want)
    with monkeypatch.context() as patch:
        gone = ("onnxruntime", "ncnn", "openvino", "tensorflow", "tflite_runtime")
        for module in (*gone, *(one for one in sys.modules if one.startswith("ai_edge_litert"))):
            patch.setitem(sys.modules, module, None)
        with pytest.raises(EngineMissingError) as caught:
            engine.open_engine(artifact, EngineSettings(threads=1))
    (extra,) = re.findall(r"pip install 'edgepose\[(\w+)\]'", str(caught.value))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert extra in project["project"]["optional-dependencies"]
    artifact.path("model").write_bytes(b"no network")
    with pytest.raises(EngineError, match="cannot load"):
        engine.open_engine(artifact, EngineSettings(threads=1))


def artifact_of(folder: Path, variant: Variant) -> tuple[Artifact, list[dict[str, Array]]]:
    """A tiny network in a format, and ONNX Runtime's answers of the source."""
    job = job_of(folder, variant.precision)
    want = reference(job)
    convert = CONVERTERS[str(variant)].converter
    assert convert is not None
    return Artifact(job.folder, variant, job.spec, convert(job), sha256={}), want


def detections_spec() -> ModelSpec:
    outputs = (TensorSpec("dets", (1, 9, 5)), TensorSpec("labels", (1, 9)))
    return detector_spec(codec="detections", outputs=outputs, strides=())


# RTMO's own sizes: its weights fit no others.
SPECS = [*(make() for make in EVERY_SPEC if make is not rtmo_spec), detections_spec(), spec_of()]
CHECKS: dict[Task, tuple[Mapping[Codec, Any], Callable[..., None]]] = {
    "pose": (KEYPOINT_CODECS, check_keypoint_codec),
    "detection": (BOX_CODECS, check_box_codec),
    "one-stage": (POSE_CODECS, check_pose_codec),
}


@pytest.mark.parametrize(
    "spec", SPECS, ids=lambda spec: f"{spec.codec}-{spec.task}-{len(spec.outputs)}"
)
def test_a_codec_keeps_its_contract(spec: ModelSpec) -> None:
    table, check = CHECKS[spec.task]
    check(table[spec.codec], spec, weights_of(1) if spec.codec == "rtmo" else {})


def test_every_codec_is_in_a_table_and_is_checked() -> None:
    tables = {(task, codec) for task, (table, _) in CHECKS.items() for codec in table}
    assert tables == {(spec.task, spec.codec) for spec in SPECS}
    assert {codec for _, codec in tables} == set(get_args(Codec)) == set(CODEC_CHECKS)
