"""The wheel of edge, and locks of several engines in one Python."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from edge.errors import SpecError
from targets.runners.python.wheels import device_lock, edge_wheel, merged_lock
from tests.stand_ins.python_stand_in import python


@pytest.mark.parametrize("version", ["3.10.12", "3.11.2", "3.12.3", "3.13.5"])
def test_engines_that_share_one_python(version: str) -> None:
    """Their locks agree on what they have in common; TensorRT's wants an older numpy."""
    device = python(version)
    locks = {
        name: device_lock(name, device)
        for name in ("ncnn", "onnx", "openvino", "tflite", "tensorrt")
    }
    pins = {name: set(re.findall(r"(?m)^(\S+==\S+)", lock)) for name, lock in locks.items()}
    merged = merged_lock([locks["ncnn"], locks["tflite"], locks["onnx"], locks["openvino"]])
    held = re.findall(r"(?m)^(\S+==\S+)", merged)
    assert set(held) == pins["ncnn"] | pins["tflite"] | pins["onnx"] | pins["openvino"]
    assert len({pin.partition("==")[0] for pin in held}) == len(held)
    assert merged_lock([locks["ncnn"]]) == locks["ncnn"]
    if version != "3.13.5":
        with pytest.raises(SpecError, match=r"one needs numpy==\S+, another 1\.26"):
            merged_lock([locks["ncnn"], locks["tensorrt"]])


def test_the_wheel_of_edge_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path))
    said: list[str] = []
    wheel = edge_wheel(said.append)
    assert edge_wheel(said.append) == wheel
    assert len(said) == 1
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "edge/cli/bench.py" in names
    assert not [name for name in names if not name.startswith(("edge/", "edgepose-"))]
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == [wheel.parent.name]
