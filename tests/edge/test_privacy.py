"""Engines leave no identity on a machine, and need no home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.artifact import Artifact, sha256_of
from edge.spec import Variant
from tests.stand_ins.specs import finished_poses_spec
from tests.stand_ins.tiny_artifacts import fixed_answers_onnx
from tests.stand_ins.two_poses import two_people

CODE = """
import sys
import numpy as np
from edge import load_artifact, open_session
with open_session(load_artifact(sys.argv[1])) as session:
    spec = session.spec
    session.run({spec.input.name: np.zeros((1, *spec.input.shape[1:]), np.float32)})
"""


def artifact(folder: Path) -> Path:
    spec = finished_poses_spec()
    folder.mkdir()
    dets, keypoints = two_people()
    fixed_answers_onnx(folder / "m.onnx", spec, {"dets": dets, "keypoints": keypoints})
    hashes = {"m.onnx": sha256_of(folder / "m.onnx")}
    Artifact(folder, Variant("onnx", "fp32"), spec, {"model": "m.onnx"}, hashes).write_manifest()
    return folder


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_onnx_runtime_writes_no_identity(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    home, passing = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    passing.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"
    }
    environment |= {"HOME": str(home), "TMPDIR": str(passing), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("XDG_CACHE_HOME", None)
    for argv in (
        ["-c", CODE, str(artifact(tmp_path / "a"))],
        ["-m", "edge", "info", str(tmp_path / "a")],
    ):
        done = subprocess.run(
            [sys.executable, *argv],
            env=environment,
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert files_in(home) == [] and files_in(passing) == []


def test_who_wants_the_reports_keeps_them() -> None:
    code = "import os, edge; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for value, want in (("0", "0"), (None, "1")):
        environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
        environment |= {} if value is None else {"ORT_DISABLE_TELEMETRY": value}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        assert done.stdout.strip() == want


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As containers start programs: a number that no user has, and no HOME."""
    from edge.errors import EdgeError
    from edge.files import cache_folder, in_home

    def nobody(_: object) -> object:
        raise KeyError("uid not found")

    for name in ("HOME", "EDGEPOSE_CACHE", "XDG_CACHE_HOME", "LOGNAME", "USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setattr("pwd.getpwnam", nobody)
    with pytest.raises(EdgeError, match="set HOME, or for the kit's own files EDGEPOSE_CACHE"):
        cache_folder()
    assert in_home("~/.ssh/config") == Path("~/.ssh/config")
    monkeypatch.chdir(tmp_path)

    pytest.importorskip("paramiko")
    from targets.devices.nearby import configured_hosts
    from targets.transports.ssh_config import read_login

    assert configured_hosts() == ()
    assert read_login("board.local").hostname == "board.local"
