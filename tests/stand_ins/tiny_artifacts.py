"""Artifacts of a few nodes, and what every engine owes on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact, sha256_of
from edge.session import Array
from edge.spec import ModelSpec, Variant
from tests.conftest import tiny_simcc_model
from tests.stand_ins.specs import pose_spec

__all__ = ["check_all_is_there", "fixed_answers_onnx", "some_answers", "tiny_artifact"]


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


def fixed_answers_onnx(path: Path, spec: ModelSpec, answers: dict[str, Array]) -> Path:
    """An ONNX file that gives the same answers to every image.

    What of them is a constant of the spec becomes an initializer that is an output as well.
    """
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes = [
        helper.make_node("ReduceMean", [spec.input.name], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    weights = [numpy_helper.from_array(np.array(0, np.float32), "zero")]
    for tensor in spec.outputs:
        weights.append(numpy_helper.from_array(answers[tensor.name], f"fixed.{tensor.name}"))
        nodes.append(helper.make_node("Add", [f"fixed.{tensor.name}", "nothing"], [tensor.name]))
    weights += [numpy_helper.from_array(answers[t.name], t.name) for t in spec.constants]
    graph = helper.make_graph(
        nodes,
        "fixed",
        [helper.make_tensor_value_info(spec.input.name, 1, list(spec.input.shape))],
        [
            helper.make_tensor_value_info(t.name, 1, answers[t.name].shape)
            for t in (*spec.outputs, *spec.constants)
            if t.name in answers
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def some_answers(spec: ModelSpec) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {
        t.name: rng.normal(0, 1, [size or 1 for size in t.shape]).astype(np.float32)
        for t in spec.outputs
    }


def check_all_is_there(session: Any, spec: ModelSpec, want: dict[str, Array]) -> None:
    feeds = {"input": np.zeros((1, 3, 128, 128), np.float32)}
    for _ in range(2):
        got = session.run(feeds)
        assert list(got) == [t.name for t in (*spec.outputs, *spec.constants)]
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-6)
