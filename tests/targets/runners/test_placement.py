"""A build kit with the engine that was built of it on the device, for the Python runner there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from edge.errors import DeviceError
from targets.runners.placement import place_with_engine
from targets.runners.python.session import PythonSession
from tests.stand_ins.trtexec_board import Board, Kits

pytest.importorskip("onnx")


@pytest.mark.parametrize("which", ["one", "open"])
def test_the_python_runner_opens_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Without TensorRT's Python package the runner on the device asks trtexec, a stand-in here."""
    kits, board = Kits(tmp_path), Board(tmp_path, monkeypatch)
    board.install((10, 3, 0))
    artifact = kits.one if which == "one" else kits.open
    engine_path = board.open(artifact, batch=1).engine_path
    folder = place_with_engine(board.transport, artifact, engine_path)
    assert folder.endswith(f"/artifacts/{artifact.key[:16]}-built")
    session = PythonSession(
        board.transport, artifact, python=(sys.executable,), folder=folder, threads=1
    )
    got = session.run({"input": kits.image})
    for name, want in kits.answers(kits.image).items():
        assert np.abs(got[name] - want).max() <= 6e-6 * np.abs(want).max()
    assert session.engine.startswith("trtexec 10.3.0")

    manifest = json.loads((Path(folder) / "artifact.json").read_text())
    assert manifest["files"]["engine"]["name"] == Path(engine_path).name
    assert "engine" not in artifact.files, "the artifact here stays what it was"
    # Another call changes nothing, and an engine that is gone is told.
    assert place_with_engine(board.transport, artifact, engine_path) == folder
    Path(engine_path).unlink()
    with pytest.raises(DeviceError, match=r"local: .*\.engine cannot be read there"):
        place_with_engine(board.transport, artifact, engine_path)
