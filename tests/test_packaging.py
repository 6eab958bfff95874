"""The wheel: what is in it, and that numpy is all it needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.stand_ins.made_artifacts import make_artifact

pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def numpy_only(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and numpy and nothing else; its Python."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    source = Path(np.__file__).parent
    for path in (source, source.with_name("numpy.libs")):
        if path.exists():
            (packages / path.name).symlink_to(path)
    return folder / "bin" / "python"


def call(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(python), "-m", "edge", *arguments],
        cwd=cwd,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines: Sequence[str] = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert done.returncode == 1
    return lines[0]


def test_the_wheel_holds_the_runtime_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [n for n in names if n.endswith(".dist-info/METADATA")]
        headers = Parser().parsestr(archive.read(metadata).decode())
        (entries,) = [n for n in names if n.endswith("entry_points.txt")]
        assert "edge = edge.cli:console" in archive.read(entries).decode()
    folders = {name.split("/")[0] for name in names}
    assert {f for f in folders if not f.endswith(".dist-info")} == {"edge"}
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "edge").rglob("*.py")}
    assert {name for name in names if name.startswith("edge/")} == sources | {"edge/py.typed"}
    assert headers["Name"] == "edgepose"
    assert headers["License-Expression"] == "Apache-2.0"
    needed = [r for r in headers.get_all("Requires-Dist", []) if "extra ==" not in r]
    assert [r.split(">")[0].strip() for r in needed] == ["numpy"]
    extras = set(headers.get_all("Provides-Extra", []))
    assert {"onnxruntime", "ncnn", "openvino", "image", "host", "torch"} <= extras


def test_numpy_is_all_that_import_edge_needs(numpy_only: Path, tmp_path: Path) -> None:
    code = (
        "import sys, edge, edge.cli, edge.picture\n"
        "import edge.engines.ncnn, edge.engines.onnxruntime, edge.engines.openvino\n"
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(tops - set(sys.stdlib_module_names) - {'__main__', 'sitecustomize'}))"
    )
    done = subprocess.run(
        [str(numpy_only), "-I", "-c", code],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip() == "['edge', 'numpy']"


@pytest.mark.parametrize(
    "command",
    [
        ["convert"],
        ["verify", "somewhere"],
        ["zoo"],
        ["synthetic", "--out", "x"],
        ["train", "--out", "x"],
        ["bench", "--target", "android"],
        ["run", "--model", "a.onnx", "--out", "out", "photo.jpg"],
    ],
    ids=lambda command: command[0],
)
def test_host_commands_say_that_they_need_a_checkout(
    numpy_only: Path, tmp_path: Path, command: list[str]
) -> None:
    if command[0] == "run":
        (tmp_path / "photo.jpg").write_bytes(b"x")
    for room in ("targets", "converters", "calibration"):
        (tmp_path / room).mkdir()  # a user's folders are no rooms of the kit
    text = one_line(call(numpy_only, *command, cwd=tmp_path))
    assert "needs a checkout of edgepose" in text


def test_a_checkout_without_the_host_s_packages(numpy_only: Path) -> None:
    """What runs on this machine needs none of them; what does names the one that is missing."""
    done = call(numpy_only, "bench", "--help", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--target" in done.stdout
    for words in (["deploy", "--target", "jetson", "--host", "a"], ["convert"]):
        text = one_line(call(numpy_only, *words, cwd=ROOT))
        assert re.fullmatch(
            rf"edge: `edge {words[0]}` needs the package \w+, which `make setup` installs", text
        )


def test_help_lists_what_is_there(numpy_only: Path, tmp_path: Path) -> None:
    text = call(numpy_only, "--help", cwd=tmp_path).stdout
    assert re.findall(r"^  (\w+) +[A-Z]", text, re.MULTILINE) == ["run", "choose", "info", "bench"]
    assert "more commands come with a checkout" in text


def test_device_commands_name_the_extra_that_is_missing(numpy_only: Path, tmp_path: Path) -> None:
    make_artifact(tmp_path / "artifact")
    (tmp_path / "photo.jpg").write_bytes(b"x")
    done = call(numpy_only, "info", "artifact", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["variant"] == "ncnn-fp16"
    command = ["run", "--model", "artifact", "--out", "out", "photo.jpg"]
    text = one_line(call(numpy_only, *command, cwd=tmp_path))
    assert "pip install 'edgepose[ncnn]'" in text
    assert not (tmp_path / "out").exists()
