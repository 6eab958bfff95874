from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact, sha256_of
from edge.errors import EngineError, EngineMissingError, FeedError, SpecError
from edge.session import EngineSettings, check_feeds, open_session
from edge.spec import ModelSpec, TensorSpec, Variant
from tests.conftest import tiny_simcc_model
from tests.test_edge_artifact import make_artifact
from tests.test_edge_spec import pose_spec


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
    with pytest.raises(SpecError, match="fp32 or fp16"):
        EngineSettings(inference_precision="int8")
    assert EngineSettings().thread_count >= 1


@pytest.mark.parametrize(
    ("variant", "module", "extra"),
    [("onnx-fp32", "onnxruntime", "onnxruntime"), ("ncnn-fp16", "ncnn", "ncnn")],
)
def test_a_missing_engine_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, module: str, extra: str
) -> None:
    artifact = make_artifact(tmp_path, variant=Variant.parse(variant))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineMissingError, match=rf"pip install 'edgepose\[{extra}\]'"):
        open_session(artifact)


def test_a_format_without_engine_says_which_have_one(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path, variant=Variant.parse("tensorrt-fp16"))
    with pytest.raises(SpecError, match="no engine runs tensorrt here"):
        open_session(artifact)


@pytest.mark.parametrize("variant", ["onnx-fp32", "ncnn-fp16"])
def test_an_engine_that_cannot_load_says_so(tmp_path: Path, variant: str) -> None:
    pytest.importorskip(variant.split("-")[0].replace("onnx", "onnxruntime"))
    artifact = make_artifact(tmp_path, variant=Variant.parse(variant))
    with pytest.raises(EngineError, match="cannot load"):
        open_session(artifact)


def tiny_artifact(folder: Path) -> Artifact:
    onnx = pytest.importorskip("onnx")
    path = folder / "tiny.onnx"
    onnx.save(tiny_simcc_model(), str(path))
    spec = ModelSpec.from_json(
        pose_spec().to_json()
        | {
            "name": "tiny",
            "input": {"name": "input", "shape": [None, 3, 64, 48]},
            "outputs": [
                {"name": "simcc_x", "shape": [None, 17, 96]},
                {"name": "simcc_y", "shape": [None, 17, 128]},
            ],
        }
    )
    return Artifact(
        folder, Variant("onnx", "fp32"), spec, {"model": path.name}, {path.name: sha256_of(path)}
    )


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
