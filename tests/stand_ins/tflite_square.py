"""A network of one convolution on its way through onnx2tf, which is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.formats import tflite_float
from converters.formats.tflite_graph import read_graph
from converters.job import Job
from edge.artifact import Artifact
from edge.engines.tflite import open_engine
from edge.session import Array, EngineSettings, Feeds
from edge.spec import Precision, Variant
from tests.stand_ins.tflite_convolution import (
    KEYPOINTS,
    feed,
    one_convolution,
    square_spec,
    weights,
)

onnx = pytest.importorskip("onnx")

ONE = EngineSettings(threads=1)


def square_onnx(scale: float = 1.0) -> Any:
    """The network of ``one_convolution`` as ONNX; times ``scale`` by a node more."""
    helper, store = onnx.helper, onnx.numpy_helper.from_array
    own = [store(weights().reshape(KEYPOINTS, 3, 1, 1), "w")]
    if scale == 1:
        nodes = [helper.make_node("Conv", ["input", "w"], ["heatmaps"], "/stem/Conv")]
    else:
        nodes = [
            helper.make_node("Conv", ["input", "w"], ["map"], "/stem/Conv"),
            helper.make_node("Mul", ["map", "scale"], ["heatmaps"], "/head/Mul"),
        ]
        own.append(store(np.array(scale, np.float32), "scale"))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "square",
        [info("input", onnx.TensorProto.FLOAT, [1, 3, 16, 16])],
        [info("heatmaps", onnx.TensorProto.FLOAT, [1, KEYPOINTS, 16, 16])],
        own,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """onnx2tf replaced by the file that it ought to write; the searches that were asked for."""
    searches: list[bool] = []

    def run(_path: Path, _model: Any, folder: Path, *, search: bool = False) -> Path:
        searches.append(search)
        return one_convolution(folder / "model_float32.tflite")

    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tflite_float, "run_onnx2tf", run)
    monkeypatch.setattr(tflite_float, "onnx2tf_python", lambda: Path("python"))
    return searches


def job_of(
    folder: Path, precision: Precision, feeds: Sequence[Feeds] = (), scale: float = 1.0
) -> Job:
    folder.mkdir(exist_ok=True)
    path = folder / "prepared.onnx"
    onnx.save(square_onnx(scale), str(path))
    return Job(path, square_spec(), precision, folder, feeds)


def run(folder: Path, files: dict[str, str], precision: Precision, array: Array) -> Array:
    artifact = Artifact(folder, Variant("tflite", precision), square_spec(), files, {})
    with open_engine(artifact, ONE) as session:
        return session.run({"input": array})["heatmaps"]


def tensor_types(path: Path) -> list[int]:
    return [int(tensor.type) for tensor in read_graph(path).subgraphs[0].tensors]


def feeds(count: int = 8) -> list[Feeds]:
    return [{"input": feed(seed)} for seed in range(count)]
