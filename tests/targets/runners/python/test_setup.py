"""Python on a device: found, installed, reused, and what is said where that cannot be."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact, load_artifact
from edge.errors import DeviceError
from edge.latency import LatencySettings
from edge.runner import noise
from edge.session import EngineSettings, open_session
from targets.runners.placement import place_artifact
from targets.runners.python.session import PythonSession
from targets.runners.python.setup import find_python, python_for
from targets.runners.python.wheels import collect_wheels, device_lock, edge_wheel
from targets.transports.fake import FakeTransport
from targets.transports.local import LocalTransport
from targets.transports.transport import Done, Transport
from tests.conftest import ROOT
from tests.stand_ins.python_stand_in import board, probe_answer, python

# Installing, on a board that is scripted


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of edge that costs nothing to build."""
    path = tmp_path / "edgepose-0.1.0-py3-none-any.whl"
    path.write_bytes(b"the first")
    monkeypatch.setattr("targets.runners.python.setup.edge_wheel", lambda _: path)
    return path


def installs(fake: FakeTransport) -> list[tuple[str, ...]]:
    return [argv for argv in fake.ran if "pip" in argv or "venv" in argv]


def with_pip(fake: FakeTransport, answer: Any = "") -> None:
    """Script the pip of whichever environment is made."""
    own = re.compile(r".*/python/[0-9a-f]{16}/venv/bin/python")
    run = fake.run

    def scripted(argv: Any, **options: Any) -> Done:
        if own.fullmatch(argv[0]):
            fake.answers[tuple(argv)] = answer
        return run(argv, **options)

    fake.run = scripted  # type: ignore[method-assign]


def test_installed_once_and_edge_alone_again(wheel: Path) -> None:
    fake = board(python("3.11.2"))
    with_pip(fake)
    said: list[str] = []
    argv = python_for(fake, "onnx", say=said.append)
    folder = argv[0].removesuffix("/venv/bin/python")
    assert argv == (f"{folder}/venv/bin/python", "-I")
    assert folder.startswith(f"{fake.work_dir}/python/")
    venv, packages, own = installs(fake)
    assert venv == ("/usr/bin/python3", "-I", "-m", "venv", f"{folder}/venv")
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(packages)
    assert "--no-index" not in packages
    assert packages[-2:] == ("-r", f"{folder}/requirements.lock")
    lock = fake.files[f"{folder}/requirements.lock"].decode()
    assert lock == device_lock("onnx", python("3.11.2"))
    assert own[-1] == f"{folder}/{wheel.name}"
    assert fake.files[f"{folder}/{wheel.name}"] == b"the first"
    assert any("onnxruntime==" in text for text in said)

    before = len(fake.calls)
    assert python_for(fake, "onnx", say=said.append) == argv
    assert {call.verb for call in fake.calls[before:]} == {"run"}
    assert len(installs(fake)) == 3

    wheel.write_bytes(b"the second")
    assert python_for(fake, "onnx", say=said.append) == argv
    assert len(installs(fake)) == 4
    assert installs(fake)[-1] == own
    assert fake.files[f"{folder}/{wheel.name}"] == b"the second"

    # Another format, another Python: folders of their own.
    assert python_for(fake, "tflite", say=said.append) != argv
    fake.answers["python3", "-c", ...] = probe_answer(python("3.11.9"))
    assert python_for(fake, "onnx", say=said.append) != argv


@pytest.mark.usefixtures("wheel")
def test_tensorrt_sees_the_system_s_packages() -> None:
    fake = board(python("3.10.12", glibc="2.35"))
    with_pip(fake)
    python_for(fake, "tensorrt", say=print)
    venv = installs(fake)[0]
    assert "--system-site-packages" in venv
    lock = next(data for path, data in fake.files.items() if path.endswith(".lock")).decode()
    assert re.search(r"(?m)^numpy==1\.26", lock)
    assert not re.search(r"(?m)^tensorrt", lock)


PIP_SAYS = {
    "no network": (
        "WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError(...: "
        "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')'\n"
        "ERROR: No matching distribution found for numpy==2.4.6\n",
        r"does not reach its package registry; --wheelhouse DIR",
    ),
    "no wheel": (
        "ERROR: Could not find a version that satisfies the requirement onnxruntime==1.31.1 (from "
        "versions: none)\nERROR: No matching distribution found for onnxruntime==1.31.1\n",
        r"no wheel of onnxruntime==1\.31\.1 for Python 3\.11 on aarch64 with glibc 2\.36; take",
    ),
    "no room": (
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n",
        r"no room is left for the packages of onnx in /home/pi/.*; make some, or `edge clean`",
    ),
    "another hash": (
        "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n",
        r"installing onnx's packages on ssh pi@board: .*exited with 1:\n.*DO NOT MATCH",
    ),
}


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize("trouble", PIP_SAYS)
def test_what_pip_may_say(trouble: str) -> None:
    says, words = PIP_SAYS[trouble]
    fake = board(python("3.11.2"))
    with_pip(fake, Done(("pip",), 1, b"", says.encode()))
    with pytest.raises(DeviceError, match=words) as caught:
        python_for(fake, "onnx", say=print)
    assert "ssh pi@board" in str(caught.value)
    assert fake.files == {}


@pytest.mark.usefixtures("wheel")
def test_an_interrupted_installation_starts_over() -> None:
    fake = board(python("3.11.2"))
    with_pip(fake, DeviceError("ssh pi@board: the connection was lost"))
    with pytest.raises(DeviceError, match="connection was lost"):
        python_for(fake, "onnx", say=print)
    folder = next(argv[4] for argv in fake.ran if argv[3:4] == ("venv",)).removesuffix("/venv")
    # Left from before the connection broke, but for the marks.
    fake.files[f"{folder}/venv/half"] = b"x"
    fake = board(python("3.11.2"))
    fake.files[f"{folder}/venv/half"] = b"x"
    with_pip(fake)
    python_for(fake, "onnx", say=print)
    assert f"{folder}/venv/half" not in fake.files
    assert len(installs(fake)) == 3


# Wheels, by the real pip


def make_wheel(folder: Path, name: str, tag: str = "py3-none-any", version: str = "1.0") -> str:
    """A wheel with one empty module; its line of a lock."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files: dict[str, str] = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = ""
    for inside, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{inside},sha256={digest.decode()},{len(text)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(zipfile.ZipInfo(inside, (2026, 1, 1, 0, 0, 0)), text)
    return (
        f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
    )


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's registry: a folder with a page a package, as PEP 503 has it."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", folder.as_uri())
    return folder


def offer(registry: Path, name: str, tag: str) -> str:
    line = make_wheel(registry / name, name, tag)
    links = "".join(f'<a href="{p.name}">{p.name}</a>' for p in (registry / name).glob("*.whl"))
    (registry / name / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    return line


def test_a_wheelhouse_is_filled_once(registry: Path, tmp_path: Path) -> None:
    """For the device's Python, not for the one that pip runs in here."""
    arm = "cp310-cp310-manylinux_2_28_aarch64"
    lines = offer(registry, "engine", arm) + offer(registry, "pure", "py3-none-any")
    offer(registry, "engine", "cp311-cp311-manylinux_2_28_x86_64")
    lock, house = tmp_path / "lock", tmp_path / "house"
    lock.write_text(lines)
    said: list[str] = []
    device = python("3.10.12", glibc="2.31")
    names = [f"engine-1.0-{arm}.whl", "pure-1.0-py3-none-any.whl"]
    wheels = collect_wheels(house, lock, device, "ssh pi@board", said.append)
    assert [path.name for path in wheels] == names
    assert [path.name for path in sorted(house.iterdir())] == names
    assert len(said) == 1
    for path in registry.rglob("*.whl"):
        path.unlink()
    again = collect_wheels(house, lock, device, "ssh pi@board", said.append)
    assert again == wheels
    assert len(said) == 1
    # Another board may share the folder; what does not suit it is left alone.
    older = python("3.10.12", glibc="2.27")
    with pytest.raises(DeviceError, match=r"no wheel of engine==1\.0 for Python 3\.10 on aarch64"):
        collect_wheels(house, lock, older, "ssh pi@board", said.append)
    assert [path.name for path in sorted(house.iterdir())] == names


def test_a_wheelhouse_that_lacks_a_wheel(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    lock.write_text(offer(registry, "engine", "cp311-cp311-manylinux_2_34_aarch64"))
    with pytest.raises(DeviceError) as caught:
        collect_wheels(tmp_path / "house", lock, python("3.11.2", glibc="2.31"), "x", print)
    assert str(caught.value) == (
        "x: there is no wheel of engine==1.0 for Python 3.11 on aarch64 with glibc 2.31; take a "
        "newer system there, or another variant"
    )
    with socket.socket() as held:
        # Nobody listens there, and nobody else can meanwhile.
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{held.getsockname()[1]}/simple")
        with pytest.raises(DeviceError) as caught:
            collect_wheels(tmp_path / "house", lock, python("3.11.2"), "x", print)
    assert "lacks engine==1.0 for Python 3.11 on aarch64 with glibc 2.36" in str(caught.value)
    assert "this machine has no network to fetch it" in str(caught.value)
    assert not list((tmp_path / "house").iterdir())


def test_a_wheel_with_another_hash_is_refused(registry: Path, tmp_path: Path) -> None:
    line = offer(registry, "engine", "py3-none-any")
    lock = tmp_path / "lock"
    lock.write_text(re.sub(r"sha256:.{4}", "sha256:0000", line))
    with pytest.raises(DeviceError, match=r"x: engine==1.0 from file:.* is not what the lock"):
        collect_wheels(tmp_path / "house", lock, python("3.11.2"), "x", print)
    assert not list((tmp_path / "house").iterdir())


class Board(LocalTransport):
    """This machine in the place of a board: its Python makes a real environment."""

    kind = "ssh"
    name = "ssh pi@board"

    def run(self, argv: Any, **options: Any) -> Done:
        return super().run(
            [sys.executable if argv[0] == "python3" else argv[0], *argv[1:]], **options
        )


def test_a_real_environment_from_a_wheelhouse(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = tmp_path / "locks"
    locks.mkdir()
    lines = offer(registry, "engine", "py3-none-any")
    marked = make_wheel(tmp_path / "other", "windows").replace(
        " \\\n", " ; sys_platform == 'win32' \\\n"
    )
    (locks / "onnx.lock").write_text(lines + marked)
    monkeypatch.setattr("targets.runners.python.wheels._LOCKS", locks)
    wheel = edge_wheel(print)
    monkeypatch.setattr("targets.runners.python.setup.edge_wheel", lambda _: wheel)
    device = Board(tmp_path / "edgepose/device")
    said: list[str] = []
    house = tmp_path / "house"
    argv = python_for(device, "onnx", wheelhouse=house, say=said.append)
    code = (
        "import engine, importlib.metadata as m, importlib.util as u; "
        "print(engine.version, m.version('edgepose'), u.find_spec('edge').origin, "
        "u.find_spec('windows'))"
    )
    done = subprocess.run([*argv, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    engine, edge, origin, windows = done.stdout.split()
    assert (engine, windows) == ("1.0", "None")
    assert f'\nversion = "{edge}"\n' in (ROOT / "pyproject.toml").read_text()
    # Not the checkout in which it was started.
    assert Path(origin).is_relative_to(Path(argv[0]).parents[1])
    folder = Path(argv[0]).parents[2]
    assert not (folder / "wheels").exists()
    count = len(said)
    assert python_for(device, "onnx", wheelhouse=house, say=said.append) == argv
    assert len(said) == count


# A real board


def test_a_full_disk(tmp_path: Path, registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 MiB holds no virtual environment; nothing of it is left."""
    from tests.stand_ins.ssh_server import opened, ssh_server

    locks = tmp_path / "locks"
    locks.mkdir()
    (locks / "onnx.lock").write_text(offer(registry, "engine", "py3-none-any"))
    monkeypatch.setattr("targets.runners.python.wheels._LOCKS", locks)
    with ssh_server(tmp_path / "server") as server, closing(opened(server)) as transport:
        try:
            find_python(transport)
        except DeviceError as error:
            pytest.skip(f"the Python of this system will not do: {error}")
        transport.work_dir = "/home/pi/small/edgepose/device"
        with pytest.raises(DeviceError, match="no room is left for the packages of onnx in /home"):
            python_for(transport, "onnx", say=print)
        left = transport.run(["find", "/home/pi/small", "-type", "f"], timeout_s=30).stdout
        assert left == b""


# A board, emulated


@pytest.fixture(scope="module")
def pi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
    from tests.stand_ins.arm_userland import arm_userland
    from tests.stand_ins.ssh_server import opened, ssh_server

    userland = arm_userland("libstdc++6", "python3", "python3-venv")
    with ssh_server(tmp_path_factory.mktemp("pi"), userland=userland) as server:
        server.config.parent.chmod(0o755)
        with closing(opened(server)) as transport:
            yield transport


@pytest.fixture
def converted(tmp_path: Path, tiny_onnx: Path) -> Callable[[str], Artifact]:
    """A variant of the tiny model, as the command line leaves it."""

    def convert(variant: str) -> Artifact:
        from edge.cli import main

        command = ["convert", "--model", str(tiny_onnx), "--target", "x86", "--formats", variant]
        assert main([*command, "--out", str(tmp_path)]) == 0
        return load_artifact(tmp_path / "x86" / f"tiny-{variant}")

    return convert


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["onnx-fp32", "tflite-fp32"])
def test_a_raspberry_pi_without_network(
    pi: Transport,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    converted: Callable[[str], Artifact],
    variant: str,
) -> None:
    """The wheels for aarch64 run there, under emulation: true answers, times that say nothing."""
    artifact, wheel = converted(variant), edge_wheel(print)
    monkeypatch.setattr("targets.runners.python.setup.edge_wheel", lambda _: wheel)
    kind, house = artifact.variant.format, tmp_path / "house"
    capsys.readouterr()
    try:
        argv = python_for(pi, kind, wheelhouse=house, say=print)
    except DeviceError as error:
        if "this machine has no network" in str(error):
            pytest.skip(str(error))
        raise
    assert "aarch64" in capsys.readouterr().out
    assert python_for(pi, kind, wheelhouse=house, say=print) == argv
    assert capsys.readouterr().out == ""
    folder = place_artifact(pi, artifact)
    session = PythonSession(pi, artifact, python=argv, folder=folder, threads=1)
    feeds = {"input": noise(artifact.spec)}
    got = session.run(feeds)
    with open_session(artifact, EngineSettings(1)) as here:
        for name, want in here.run(feeds).items():
            np.testing.assert_allclose(got[name], want, atol=1e-4)
        engine = here.engine.partition(" ")[0]
    timed = session.measure(feeds, LatencySettings(1, 0.0, 5, 0.0, 60.0))
    assert timed.reasons == ()
    assert len(timed.samples_ns) == 5
    assert timed.engine.partition(" ")[0] == engine
    assert pi.run(["ls", f"{pi.work_dir}/tmp"], timeout_s=60).stdout == b""
