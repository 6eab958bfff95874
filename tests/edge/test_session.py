from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.errors import EngineError, EngineMissingError, FeedError, SpecError
from edge.session import EngineSettings, check_feeds, open_session
from edge.spec import ModelSpec, TensorSpec, Variant
from tests.stand_ins.made_artifacts import make_artifact, some_constants
from tests.stand_ins.specs import maps, pose_spec, rtmo_spec
from tests.stand_ins.tiny_artifacts import (
    check_all_is_there,
    fixed_answers_onnx,
    some_answers,
    tiny_artifact,
)


def test_a_good_feed_is_made_contiguous() -> None:
    array = np.zeros((2, 256, 192, 3), np.float32).transpose(0, 3, 1, 2)
    assert not array.flags["C_CONTIGUOUS"]
    got = check_feeds(pose_spec(), {"input": array})
    assert got.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, r"takes the input 'input', got \[\]"),
        ({"image": np.zeros((1, 3, 256, 192), np.float32)}, r"got \['image'\]"),
        ({"input": [[1.0]]}, "numpy array, got list"),
        ({"input": np.zeros((1, 3, 256, 192))}, "must be float32, got float64"),
        ({"input": np.zeros((1, 3, 192, 256), np.float32)}, r"\('any', 3, 256, 192\), got"),
        ({"input": np.zeros((3, 256, 192), np.float32)}, "must have shape"),
    ],
)
def test_a_wrong_feed_never_reaches_the_engine(feeds: Any, words: str) -> None:
    with pytest.raises(FeedError, match=words):
        check_feeds(pose_spec(), feeds)


def test_settings_refuse_nonsense() -> None:
    with pytest.raises(SpecError, match="threads"):
        EngineSettings(threads=-1)
    with pytest.raises(SpecError, match="fp32, fp16, bf16"):
        EngineSettings(inference_precision="int8")  # type: ignore[arg-type]
    assert EngineSettings().thread_count >= 1


@pytest.mark.parametrize(
    ("variant", "module", "extra"),
    [
        ("onnx-fp32", "onnxruntime", "onnxruntime"),
        ("ncnn-fp16", "ncnn", "ncnn"),
        ("openvino-fp16", "openvino", "openvino"),
    ],
)
def test_a_missing_engine_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, module: str, extra: str
) -> None:
    artifact = make_artifact(tmp_path, variant=Variant.parse(variant))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineMissingError, match=rf"pip install 'edgepose\[{extra}\]'"):
        open_session(artifact)


@pytest.mark.parametrize("variant", ["onnx-fp32", "ncnn-fp16", "openvino-fp16"])
def test_an_engine_that_cannot_load_says_so(tmp_path: Path, variant: str) -> None:
    pytest.importorskip(variant.split("-")[0].replace("onnx", "onnxruntime"))
    artifact = make_artifact(tmp_path, variant=Variant.parse(variant))
    with pytest.raises(EngineError, match="cannot load"):
        open_session(artifact)


def test_onnxruntime_runs_any_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    artifact = tiny_artifact(tmp_path)
    images = np.random.default_rng(0).normal(0, 1, (3, 3, 64, 48)).astype(np.float32)
    with open_session(artifact, EngineSettings(threads=1)) as session:
        assert session.max_batch is None
        assert session.inference_precision == "fp32"
        whole = session.run({"input": images})
        single = [session.run({"input": images[i : i + 1]}) for i in range(3)]
    assert list(whole) == ["simcc_x", "simcc_y"]
    for name, value in whole.items():
        parts = np.concatenate([one[name] for one in single])
        np.testing.assert_allclose(value, parts, rtol=1e-5, atol=1e-5)


def test_a_spec_that_contradicts_the_file_is_an_engine_error(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    artifact = tiny_artifact(tmp_path)
    data = artifact.spec.to_json()
    data["input"] = {"name": "input", "shape": [None, 3, 128, 96]}
    data["outputs"] = [
        TensorSpec("simcc_x", (None, 17, 192)).__dict__,
        TensorSpec("simcc_y", (None, 17, 256)).__dict__,
    ]
    wrong = Artifact(**{**artifact.__dict__, "spec": ModelSpec.from_json(data)})
    with open_session(wrong) as session, pytest.raises(EngineError, match="tiny"):
        session.run({"input": np.zeros((1, 3, 128, 96), np.float32)})


# --- constants ------------------------------------------------------------------------------------


def test_a_source_files_constants_are_outputs_of_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    spec = rtmo_spec()
    want = some_answers(spec) | some_constants()
    path = fixed_answers_onnx(tmp_path / "rtmo.onnx", spec, want)
    with OnnxRuntimeSession(path, spec, EngineSettings(threads=1)) as session:
        check_all_is_there(session, spec, want)


def test_an_onnx_artifacts_constants_come_with_its_outputs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    spec = rtmo_spec()
    answers, constants = some_answers(spec), some_constants()
    cut = rtmo_spec(constants=())
    fixed_answers_onnx(tmp_path / "rtmo.onnx", cut, answers)
    np.savez(tmp_path / "rtmo.npz", **constants)
    files = {"model": "rtmo.onnx", "constants": "rtmo.npz"}
    artifact = Artifact(tmp_path, Variant("onnx", "fp32"), spec, files, {})
    with open_session(artifact, EngineSettings(threads=1)) as session:
        check_all_is_there(session, spec, answers | constants)


def test_an_ncnn_artifacts_constants_come_with_its_outputs(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    spec = rtmo_spec(outputs=maps((16,), 128, 1, 4, 17, 24), strides=(16,))
    channels = (1, 4, 17, 24)
    lines = ["Input in 0 1 input", "Pooling pool 1 1 input p 0=1 1=16 2=16"]
    lines.append("Split split 1 4 p p0 p1 p2 p3")
    weights = b""
    for kind, count in enumerate(channels):
        lines.append(
            f"Convolution c{kind} 1 1 p{kind} kind{kind}_s16 0={count} 1=1 5=1 6={3 * count}"
        )
        # A flag, no weights to speak of, and a bias that tells the kinds apart.
        weights += np.zeros(1 + 3 * count, np.float32).tobytes()
        weights += np.full(count, kind + 1, np.float32).tobytes()
    (tmp_path / "rtmo.param").write_text("\n".join(["7767517", "7 10", *lines, ""]))
    (tmp_path / "rtmo.bin").write_bytes(weights)
    np.savez(tmp_path / "rtmo.npz", **some_constants())
    files = {"model": "rtmo.param", "weights": "rtmo.bin", "constants": "rtmo.npz"}
    artifact = Artifact(tmp_path, Variant("ncnn", "fp32"), spec, files, {})
    answers = {
        f"kind{kind}_s16": np.full((1, count, 8, 8), kind + 1, np.float32)
        for kind, count in enumerate(channels)
    }
    with open_session(artifact, EngineSettings(threads=1)) as session:
        check_all_is_there(session, spec, answers | some_constants())
