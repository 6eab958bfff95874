"""What the tests of `edge bench` over ssh have at hand: a board on a real sshd, small artifacts.

The board is one of this machine's own architecture or an emulated arm64 one. It stays for a module,
so that runner and artifact need not be pushed for each test; its facts are turned back before each.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge.cli import main
from edge.errors import ToolError
from edge.files import cache_folder
from targets.result import RunResult, read_runs
from targets.runners.native import build as runner_build
from targets.runners.native.toolchain import Arch
from targets.transports.ssh import SshTransport
from targets.transports.ssh_login import PASSWORD_VARIABLE
from targets.transports.transport import Done
from tests.conftest import ROOT, heed_interrupts
from tests.stand_ins.bench_phone import Outcome, wait_until
from tests.stand_ins.built_runner import skip_or_raise
from tests.stand_ins.ssh_server import SshServer, opened

__all__ = [
    "ANSWERING",
    "FEW",
    "LINE_CHARS",
    "LONG",
    "MEASURING",
    "Board",
    "at_rest",
    "login_as",
    "native_runner",
    "on_command",
]

# The measuring run of the native runner, and a run for its answers alone.
MEASURING, ANSWERING = "--min-iterations 3", "--min-iterations 0"
FEW = (
    *("--min-count", "3", "--min-seconds", "0", "--warmup-count", "1", "--warmup-seconds", "0"),
    *("--cpu-mask", "1", "--threads", "1", "--repeat", "1"),
)
LONG = ("--min-seconds", "60")
# A line that is read before what comes after it.
LINE_CHARS = 800
_COOL = {
    "measure_temp": "temp=48.3'C\n",
    "measure_clock": "frequency(0)=2400033792\n",
    "get_throttled": "throttled=0x0\n",
}


@dataclass(frozen=True)
class Board:
    """A board on a server; ``target`` are the options that name its profile."""

    server: SshServer
    target: tuple[str, ...]
    artifact: Path
    pictures: Path
    out: Path
    capture: pytest.CaptureFixture[str]
    plain: tuple[str, ...] = FEW

    @property
    def work(self) -> Path:
        """Its working folder, seen from here."""
        return self.server.home / ".cache/edgepose/device"

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"ssh {self.server.host}"

    def argv(self, *more: str, artifacts: tuple[Path, ...] = ()) -> list[str]:
        """The command line of a bench; options in ``more`` win over those of all tests."""
        named = [str(path) for path in artifacts or (self.artifact,)]
        plain = [*self.target, "--host", self.server.host, *self.plain]
        plain += ["--images", str(self.pictures), "--out", str(self.out)]
        return ["bench", *named, *plain, *more]

    def bench(self, *more: str, artifacts: tuple[Path, ...] = ()) -> Outcome:
        """`edge bench` in this process."""
        self.capture.readouterr()
        code = main(self.argv(*more, artifacts=artifacts))
        printed = self.capture.readouterr()
        return Outcome(code, printed.err.splitlines(), printed.out, self.runs())

    def process(self, *more: str) -> subprocess.Popen[str]:
        """`edge bench` as a process that takes signals."""
        return subprocess.Popen(
            [sys.executable, "-m", "edge", *self.argv(*more)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
        )

    def runs(self) -> list[RunResult]:
        """The runs that were stored; nothing else lies where they do."""
        folder = self.out / "results"
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        assert all(name.endswith(".json") and name[0] != "." for name in names), names
        return list(read_runs([folder])) if names else []

    def firmware(self, question: str, answer: str) -> None:
        """What `vcgencmd` answers from now on."""
        path = self.server.home / "firmware" / question
        path.with_name("new").write_text(answer)
        path.with_name("new").replace(path)

    def program(self, name: str, body: str) -> None:
        """A program of the board's in place of its own, or of none."""
        path = self.server.programs / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def runners(self, text: str = "") -> list[int]:
        """Process ids of native runners with this text in their command lines."""
        found = []
        for pid in self.server.running(text):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                # The shell that starts it has all of it in one word.
                if any(b"/edgepose-runner-" in word and b" " not in word for word in words):
                    found.append(pid)
        return found

    def asked(self, *argv: str) -> list[str]:
        """The lines that a program prints there."""
        with contextlib.closing(opened(self.server)) as transport:
            return transport.run(argv, timeout_s=60).stdout.decode().splitlines()

    @contextlib.contextmanager
    def when_measuring(self, action: Callable[[], object], text: str = MEASURING) -> Iterator[None]:
        """Do something as soon as a runner with this text in its command line runs."""
        over = threading.Event()
        done: list[bool] = []

        def watch() -> None:
            while not over.is_set():
                if self.runners(text):
                    action()
                    done.append(True)
                    return
                over.wait(0.03)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
        assert done, "nothing was measured"

    def pushed(self) -> dict[str, int]:
        """Files in the working folder: each has a new number whenever it is pushed."""
        return {
            str(path.relative_to(self.work)): path.stat().st_ino
            for path in self.work.rglob("*")
            if path.is_file()
        }


@contextlib.contextmanager
def at_rest(board: Board) -> Iterator[Board]:
    """A board as nobody has touched it; afterwards nothing runs there and nothing half-done lies.

    Its firmware is a Raspberry Pi's.
    """
    board.program("vcgencmd", 'exec cat "/home/pi/firmware/$1"')
    (board.server.home / "firmware").mkdir(exist_ok=True)
    for question, answer in _COOL.items():
        board.firmware(question, answer)
    own = board.out.parent / "host-tmp"
    own.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(own))
        patch.setenv("TMPDIR", str(own))
        yield board
    wait_until(lambda: not board.runners(), "a runner was left running", 5.0)
    # .ses is what ONNX Runtime 1.31 notes of a process.
    left = [path for path in own.iterdir() if path.name != ".ses"]
    left += [*board.server.home.rglob("*.part"), *board.work.glob("tmp/*")]
    shutil.rmtree(board.work / "tmp", ignore_errors=True)
    assert not left, f"files were left: {left}"


@contextlib.contextmanager
def login_as(user: Path, server: SshServer) -> Iterator[None]:
    """A home of the tests' own, whose ssh knows the server and has its key, and nothing else."""
    ssh = user / ".ssh"
    ssh.mkdir(parents=True, exist_ok=True)
    (ssh / "config").write_text(server.config.read_text())
    (ssh / "known_hosts").write_text(server.known_hosts.read_text())
    with pytest.MonkeyPatch.context() as patch:
        # The runner was built into the cache of whoever runs the tests.
        patch.setenv("EDGEPOSE_CACHE", str(cache_folder()))
        patch.setenv("HOME", str(user))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("SSH_AUTH_SOCK", PASSWORD_VARIABLE):
            patch.delenv(name, raising=False)
        yield


def native_runner(arch: Arch, *, build: bool) -> Path:
    """The runner of an architecture; skips with a reason where there is none.

    Without ``build`` what takes minutes is left to the tests that are marked slow.
    """

    def unpack(*_: object) -> None:
        pytest.skip(f"the native runner for {arch} is not built yet (-m slow builds it)")

    with pytest.MonkeyPatch.context() as patch:
        if not build:
            patch.setattr(runner_build, "ncnn_archive", unpack)
        try:
            return runner_build.find_runner(arch).path
        except ToolError as error:
            skip_or_raise(error)


@contextlib.contextmanager
def on_command(text: str, action: Callable[[], object]) -> Iterator[None]:
    """Do something once, just before the first command with this text goes to a board."""
    run = SshTransport.run
    todo = [action]

    def watched(transport: SshTransport, argv: Sequence[str], **options: Any) -> Done:
        if todo and text in " ".join(argv):
            todo.pop()()
        return run(transport, argv, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SshTransport, "run", watched)
        yield
    assert not todo, f"no command with {text}"
