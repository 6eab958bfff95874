"""A board to deploy to, on a real sshd: this machine's Python, a systemctl that starts programs.

Engine and OpenCV are this environment's own, seen as ``/mnt/PACKAGE``; a wheel that names that
folder stands for theirs, so that environments are made as on a board, in seconds.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import signal
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact
from edge.errors import DeviceError, ParityError
from edge.runner import noise
from edge.session import open_session
from targets.deploy.deployment import DeployOptions, Judge, deploy
from targets.deploy.versions import Deployments, Version, Within, open_deployments
from targets.runners.python.session import PythonSession
from targets.runners.python.setup import find_python
from targets.transports.ssh import SshTransport
from targets.transports.transport import Done
from tests.conftest import ROOT
from tests.stand_ins.bench_phone import wait_until
from tests.stand_ins.ssh_server import SshServer, opened, ssh_server

__all__ = ["DeployBoard", "compare", "cut_in", "deploy_board", "make_film", "ready_python"]

_PACKAGES = ("numpy", "numpy.libs", "onnxruntime", "cv2", "opencv_python_headless.libs")
# systemd's user instance, for one unit: it logs its calls, fails or waits where a file says so, and
# starts what the unit says; a start ends when the program reports that it is ready (Type=notify).
_SYSTEMCTL = """#!/usr/bin/python3
import os, pathlib, re, signal, socket, subprocess, sys, time
home = pathlib.Path(os.environ["HOME"])
os.environ.pop("EDGEPOSE_RUN", None)  # systemd starts nothing in its clients' environment
unit = home / ".config/systemd/user/edgepose.service"
pid_file = home / "service.pid"
words = sys.argv[1:]
with (home / "systemctl.log").open("a") as log:
    print(*words, file=log)
assert words[0] == "--user" and os.environ["XDG_RUNTIME_DIR"], words
word = words[1]

def alive():
    try:
        text = pathlib.Path(f"/proc/{pid_file.read_text()}/stat").read_text()
        return text.rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

def stop():
    if alive():
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        os.kill(int(pid_file.read_text()), signal.SIGCONT)
        while alive():
            time.sleep(0.02)
    pid_file.unlink(missing_ok=True)

def start():
    program = re.search(r"^ExecStart=(.*)$", unit.read_text(), re.M)[1]
    assert "Type=notify" in unit.read_text()
    (home / "run").mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        address = f"{home}/run/notify.{os.getpid()}"
        ready.bind(address)
        ready.settimeout(0.1)
        env = {**os.environ, "NOTIFY_SOCKET": address, "XDG_RUNTIME_DIR": f"{home}/run"}
        with (home / "journal").open("w") as journal:
            process = subprocess.Popen(
                [program.replace("%h", str(home))], env=env, start_new_session=True, cwd=home,
                stdin=subprocess.DEVNULL, stdout=journal, stderr=journal,
            )
        pid_file.write_text(str(process.pid))
        try:
            while process.poll() is None:
                try:
                    if ready.recv(99) == b"READY=1":
                        # A film has no pace of its own: it waits for whoever wants to see it go.
                        os.kill(process.pid, signal.SIGSTOP)
                        return
                except TimeoutError:
                    pass
        finally:
            os.unlink(address)
    sys.exit("Job for edgepose.service failed.")

hold = home / "hold"
if hold.exists() and hold.read_text() == word:
    (home / "held").touch()
    while hold.exists():
        time.sleep(0.02)
if (home / "fail").exists() and (home / "fail").read_text() == word:
    sys.exit(f"{word} failed as it was told")
if word == "disable":
    assert words[2:] == ["--now", "edgepose.service"] and unit.exists()
    stop()
elif word == "restart":
    stop()
    start()
elif word == "is-active":
    sys.exit(0 if alive() else "inactive")
else:
    assert word in ("show", "daemon-reload", "enable"), words
"""
_JOURNALCTL = '#!/bin/sh\nexec cat "$HOME/journal"\n'


@dataclass(frozen=True)
class DeployBoard:
    """A server, the wheels that its versions are made of, and what its Python is."""

    server: SshServer
    wheelhouse: Path

    @property
    def root(self) -> Path:
        """The folder of all versions, seen from here."""
        return self.server.home / ".local/share/edgepose"

    @property
    def current(self) -> str:
        """The version that the link names, "" for none."""
        link = self.root / "current"
        return link.readlink().name if link.is_symlink() else ""

    @property
    def folders(self) -> list[str]:
        """Every folder of a version, whole or not."""
        versions = self.root / "versions"
        return sorted(path.name for path in versions.iterdir()) if versions.exists() else []

    @property
    def calls(self) -> list[str]:
        """What systemctl was asked."""
        log = self.server.home / "systemctl.log"
        return log.read_text().replace("--user ", "").splitlines() if log.exists() else []

    @property
    def serving(self) -> str:
        """The version whose folder the running service was started from, "" where none runs."""
        with suppress(OSError, ValueError):
            pid = (self.server.home / "service.pid").read_text()
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            return words[words.index("--model") + 1].partition("/versions/")[2].split("/")[0]
        return ""

    def options(self, **more: object) -> DeployOptions:
        """One thread, and this board's wheels."""
        known: dict[str, object] = {"threads": 1, "wheelhouse": self.wheelhouse}
        return DeployOptions(**{**known, **more})  # type: ignore[arg-type]

    def deploy(self, artifact: Artifact, judge: Judge | None = None, **more: object) -> Version:
        """A deployment over a connection of its own; without a judge nothing is compared."""
        with closing(opened(self.server)) as transport:
            known = open_deployments(transport)
            judge = judge or (lambda *_: "not compared")
            return deploy(known, [artifact], judge, self.options(**more), print)

    @contextmanager
    def open(self) -> Iterator[Deployments]:
        """What is deployed there."""
        with closing(opened(self.server)) as transport:
            yield open_deployments(transport)

    def clear(self) -> None:
        """As it was before anything was deployed."""
        with suppress(OSError, ValueError):
            os.kill(int((self.server.home / "service.pid").read_text()), signal.SIGKILL)
        with closing(opened(self.server)) as transport:
            paths = [
                ".local",
                ".config",
                ".cache",
                "run",
                "fail",
                "hold",
                "held",
                "begun",
                "journal",
            ]
            paths += ["systemctl.log", "service.pid"]
            argv = ["rm", "-rf", *(f"/home/pi/{path}" for path in paths)]
            assert transport.run(argv, timeout_s=60).returncode == 0
            transport.run(["sh", "-c", "rm -rf /home/pi/small/*"], timeout_s=60)


def compare(artifact: Artifact, session: PythonSession) -> str:
    """The board's answers to noise against those of the same engine here."""
    feeds = {artifact.spec.input.name: noise(artifact.spec)}
    with open_session(artifact) as here:
        want = here.run(feeds)
    for name, got in session.run(feeds).items():
        if not np.allclose(got, want[name], atol=1e-4):
            raise ParityError(f"{name} differs on {session.machine}")
    return "as here"


def make_film(board: DeployBoard) -> str:
    """A film on the board that stands for a camera."""
    import cv2

    path = board.server.home / "film.avi"
    if not path.exists():
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
        rng = np.random.default_rng(3)
        frame = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        for _ in range(3000):
            writer.write(frame)
        writer.release()
        path.chmod(0o644)
    return "/home/pi/film.avi"


@contextmanager
def ready_python(board: DeployBoard) -> Iterator[Path]:
    """One environment stands for each version's own, which take seconds to make; its packages."""
    folder = board.server.home / "ready"
    argv = ["python3", "-I", "-m", "venv", "--without-pip", "/home/pi/ready/venv"]
    if not folder.exists():
        with closing(opened(board.server)) as transport:
            assert transport.run(argv, timeout_s=120).returncode == 0
    (site,) = folder.glob("venv/lib/python3*/site-packages")
    (site / "here.pth").write_text("/mnt\n")

    def python_there(place: Within, *_: object, **__: object) -> tuple[str, ...]:
        # Something of its own is in the version all the same.
        place.run(["mkdir", "-p", f"{place.work_dir}/python"], timeout_s=60)
        return ("/home/pi/ready/venv/bin/python", "-I")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("targets.deploy.deployment.python_for", python_there)
        yield site


@contextmanager
def cut_in(board: DeployBoard, text: str, *, after: bool = False) -> Iterator[None]:
    """The connection breaks in the first command with this text: at its start, or when it is done.

    The command is then held by a shell around it, so that it can neither end nor go on before.
    """
    run, todo, begun = SshTransport.run, [text], board.server.home / "begun"
    script = '"$@"; touch "$HOME/begun"; sleep 4321' if after else 'touch "$HOME/begun"; sleep 4321'

    def held(transport: SshTransport, argv: Sequence[str], **options: Any) -> Done:
        if not todo or text not in " ".join(argv):
            return run(transport, argv, **options)
        todo.clear()
        cutter = threading.Thread(target=cut)
        cutter.start()
        try:
            return run(transport, ["sh", "-c", script, "sh", *argv], **options)
        finally:
            cutter.join()

    def cut() -> None:
        wait_until(begun.exists, f"{text} did not begin", 60.0)
        board.server.cut()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SshTransport, "run", held)
        yield
    assert not todo, f"no command with {text}"


@contextmanager
def deploy_board(folder: Path) -> Iterator[DeployBoard]:
    """A board with systemd; skips with a reason."""
    site = Path(_origin("numpy")).parents[1]
    _origin("onnxruntime"), _origin("cv2")
    packages = {name: site / name for name in _PACKAGES if (site / name).exists()}
    house, locks = folder / "house", folder / "locks"
    locks.mkdir(parents=True)
    (locks / "onnx.lock").write_text(_wheel(house, "engine", {"engine.pth": "/mnt\n"}))
    opencv = folder / "requirements.lock"
    opencv.write_text(_wheel(house, "opencv-python-headless", {"opencv_stands_here.py": ""}))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            patch.delenv(name)
        patch.setattr("targets.runners.python.wheels._LOCKS", locks)
        patch.setattr("targets.deploy.deployment._LOCK", opencv)
        packages["edge"] = ROOT / "edge"
        with ssh_server(folder / "server", folders=packages) as server:
            for name, text in {"systemctl": _SYSTEMCTL, "journalctl": _JOURNALCTL}.items():
                (server.programs / name).write_text(text)
            (server.programs / "loginctl").write_text("#!/bin/sh\n[ $1 = enable-linger ]\n")
            for path in server.programs.iterdir():
                path.chmod(0o755)
            with closing(opened(server)) as transport:
                try:
                    device = find_python(transport)
                except DeviceError as error:
                    pytest.skip(f"the Python of this system will not do: {error}")
            here = ".".join(map(str, sys.version_info[:2]))
            if device.short_version != here:
                pytest.skip(f"this system's Python is {device.short_version}, ours is {here}")
            yield DeployBoard(server, house)


def _origin(name: str) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed")
    return spec.origin


def _wheel(folder: Path, name: str, files: dict[str, str]) -> str:
    """A pure wheel with these files; its line of a lock."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-1.0"
    files = {
        **files,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{stem}.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    rows = [f"{path},{_digest(text)},{len(text)}\n" for path, text in files.items()]
    files[f"{stem}.dist-info/RECORD"] = "".join([*rows, f"{stem}.dist-info/RECORD,,\n"])
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(zipfile.ZipInfo(inside, (2026, 1, 1, 0, 0, 0)), text)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{name}==1.0 \\\n    --hash=sha256:{digest}\n"


def _digest(text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
