"""Which Python of a device will do, and what of a lock it needs."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging import tags
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from edge.errors import DeviceError
from edge.spec import FORMATS, Format
from targets.runners.python.setup import find_python, python_for
from targets.runners.python.wheels import device_lock
from targets.transports.fake import FakeTransport
from targets.transports.local import LocalTransport
from targets.transports.transport import Done
from tests.conftest import ROOT
from tests.stand_ins.python_stand_in import board, probe_answer, python

LOCKS = ROOT / "targets" / "runners" / "python" / "locks"
ENGINES: dict[Format, str] = {
    "onnx": "onnxruntime",
    "ncnn": "ncnn",
    "openvino": "openvino",
    "tflite": "ai-edge-litert",
    "tensorrt": "cuda-python",
}


@pytest.mark.parametrize("version", ["3.10.12", "3.11.2", "3.12.3", "3.13.5"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_lock_gives_every_python_one_version_of_each(format_name: Format, version: str) -> None:
    text = device_lock(format_name, python(version))
    blocks = re.split(r"\n(?=\S)", text.strip())
    found = [Requirement(block.partition(" \\")[0]) for block in blocks]
    names = [requirement.name for requirement in found]
    assert len(set(names)) == len(names)
    assert {"numpy", ENGINES[format_name]} <= set(names)
    assert not {"pyreadline3", "colorama", "openvino-telemetry", "opencv-python"} & set(names)
    for block, requirement in zip(blocks, found, strict=True):
        assert [spec.operator for spec in requirement.specifier] == ["=="]
        assert requirement.marker is None
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}", block)
    # numpy's own word on which Pythons it takes: 2.2 the last for 3.10, 2.4 for 3.11.
    (numpy,) = (one for one in found if one.name == "numpy")
    newest = {"3.10": "<2.3", "3.11": "<2.5"}.get(version.rpartition(".")[0], ">=1.26")
    (pinned,) = numpy.specifier
    assert SpecifierSet(newest).contains(pinned.version)


def test_locks_are_those_of_the_extras() -> None:
    assert {path.stem for path in LOCKS.glob("*.lock")} == set(FORMATS)
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted: dict[Format, str] = {"onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn"}
    for format_name, extra in wanted.items():
        (requirement,) = map(Requirement, extras["optional-dependencies"][extra])
        for version in ("3.10.12", "3.13.5"):
            lock = device_lock(format_name, python(version))
            (pinned,) = re.findall(rf"(?m)^{requirement.name}==(\S+)", lock)
            assert requirement.specifier.contains(pinned)


def test_wheel_platforms_are_those_that_packaging_names() -> None:
    """For this machine, the same tags as its own pip would take, from glibc 2.17 on."""
    libc = os.confstr("CS_GNU_LIBC_VERSION") if hasattr(os, "confstr") else None
    if not libc or not libc.startswith("glibc 2."):
        pytest.skip("this machine has no glibc")
    machine = os.uname().machine
    ours = python("3.11.2", machine, libc.removeprefix("glibc ")).wheel_platforms()
    theirs = list(tags.platform_tags())
    assert set(ours) <= set(theirs)
    left = set(theirs) - set(ours)
    assert not [tag for tag in left if int((re.findall(r"2_(\d+)_", tag) or ["0"])[0]) >= 17]
    assert not [tag for tag in left if re.match(r"manylinux\d{4}|manylinux1_", tag)]
    assert python("3.11.2", glibc="").wheel_platforms() == ["linux_aarch64"]


# Which Python


def test_this_machine_and_phones(tmp_path: Path) -> None:
    transport = LocalTransport(tmp_path)
    assert python_for(transport, "onnx", say=print) == (sys.executable,)
    phone = FakeTransport(name="adb 1a2b")
    phone.kind = "adb"
    with pytest.raises(DeviceError, match=r"adb 1a2b: the Python runner needs a target over ssh"):
        python_for(phone, "onnx", say=print)
    assert phone.calls == []


def test_the_probe_is_true_here() -> None:
    """Against what packaging says of the same interpreter."""
    from packaging.markers import default_environment

    class Here(LocalTransport):
        def run(self, argv: Any, **options: Any) -> Done:
            name = sys.executable if argv[0] == "python3" else argv[0]
            return super().run([name, *argv[1:]], **options)

    found = find_python(Here(Path("/nowhere")))
    assert found.environment == {
        key: value for key, value in default_environment().items() if key != "extra"
    }
    assert found.executable == sys.executable
    assert found.has_venv


def test_pythons_that_will_not_do() -> None:
    with pytest.raises(DeviceError, match=r"no python3; on Debian .* install python3 python3-venv"):
        find_python(board(None))
    with pytest.raises(DeviceError, match=r"CPython 3\.10 or newer, there is 3\.8\.10; install"):
        find_python(board(python("3.8.10", glibc="2.31")))
    bare = replace(python("3.11.2"), has_venv=False)
    with pytest.raises(DeviceError, match=r"sudo apt-get install python3\.11-venv"):
        find_python(board(bare))
    for said in ("", "bash: welcome", "[]", '{"executable": 1}'):
        strange = board(None)
        strange.answers["python3", "-c", ...] = said
        with pytest.raises(DeviceError, match="ssh pi@board: its Python does not say what it is"):
            find_python(strange)


def test_a_newer_python_beside_an_old_one() -> None:
    fake = board(python("3.8.10"))
    newer = replace(python("3.11.9"), executable="/usr/local/bin/python3.11")
    fake.answers["python3.11", "-c", ...] = "a greeting of its sitecustomize\n" + probe_answer(
        newer
    )
    assert find_python(fake) == newer
