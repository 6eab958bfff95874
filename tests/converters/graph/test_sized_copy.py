"""A fixed file at another size: the same network, held against files that were open."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from converters.graph.prepare import prepare
from converters.graph.recognise import SPEC_KEY
from converters.graph.sized_copy import sized_copy
from converters.zoo.models import find_source
from edge.cli import main
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.session import EngineSettings
from tests.conftest import shared, tiny_simcc_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))


def fixed_file(tmp_path: Path, input_hw: tuple[int, int]) -> Path:
    """The official RTMDet-nano, whose input is open, fixed at a size and with its description."""
    made = prepare(shared("data/rtmdet-nano-person/end2end.onnx"), "real", input_hw=input_hw)
    onnx.helper.set_model_props(made.model, {SPEC_KEY: json.dumps(made.spec.to_json())})
    path = tmp_path / "fixed.onnx"
    onnx.save(made.model, str(path))
    return path


@pytest.mark.parametrize("input_hw", [(640, 640), (256, 416)])
def test_the_answers_are_the_open_files(tmp_path: Path, input_hw: tuple[int, int]) -> None:
    path = fixed_file(tmp_path, (320, 320))
    copy = sized_copy(path, input_hw)
    assert copy != path
    assert copy == sized_copy(path, input_hw)
    assert sized_copy(path, (320, 320)) == path
    got = prepare(copy, "real")
    want = prepare(shared("data/rtmdet-nano-person/end2end.onnx"), "real", input_hw=input_hw)
    assert got.spec.outputs == want.spec.outputs
    image = np.random.default_rng(0).normal(0, 1, (1, 3, *input_hw)).astype(np.float32)
    answers = []
    for made in (want, got):
        with OnnxRuntimeSession(
            made.model.SerializeToString(), made.spec, EngineSettings(1)
        ) as session:
            answers.append(session.run({"input": image}))
    for name, value in answers[0].items():
        np.testing.assert_allclose(answers[1][name], value, rtol=1e-4, atol=1e-4)


def test_a_size_in_the_weights_is_no_choice(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_simcc_model(), str(path))
    assert sized_copy(path, (128, 96)) == path
    assert find_source("rtmpose-t-demo", input_hw=(384, 288)).path.parent.name == "weights"
    # No multiple of the strides: not tried.
    assert sized_copy(find_source("rtmdet-nano-demo").path, (330, 330)).parent.name == "weights"


def test_the_demo_detector_at_640(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["convert", "--target", "x86", "--model", "rtmdet-nano-demo", "--size", "640x640"]
    assert main([*command, "--formats", "onnx-fp32", "--out", str(tmp_path / "out")]) == 0
    assert "rtmdet, 640x640" in capsys.readouterr().out
    folder = tmp_path / "out" / "x86" / "rtmdet-nano-demo-640x640-onnx-fp32"
    assert main(["verify", str(folder)]) == 0
    assert main([*command[:-1], "330x330", "--formats", "onnx-fp32", "--out", str(tmp_path)]) == 1
    assert "its input is fixed at 320x320" in capsys.readouterr().err
