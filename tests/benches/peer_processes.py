"""The processes of `make bench-peers`: one a contender, of which one at a time computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import pytest

from edge.errors import ToolError
from tests.benches.mmdeploy_runtime import RTMLIB, RUNTIME, peer_python
from tests.conftest import ROOT

__all__ = ["Process", "others_share", "processes", "start"]

_LOAD_TIMEOUT_S = 300
# Until the threads of whoever computed last have stopped to look for work.
_ASLEEP_S = 0.1
_TICK = os.sysconf("SC_CLK_TCK")


class Process:
    """A contender that waits for questions; ``about`` is what it says of itself."""

    def __init__(
        self, name: str, connection: Connection, process: subprocess.Popen[bytes], log: Path
    ) -> None:
        self.name = name
        self._connection = connection
        self._process = process
        self._log = log
        self.about = self._answer()
        if "failed" in self.about:
            raise ToolError(f"{name} cannot be loaded: {self.about['failed']}")

    def ask(self, *request: Any) -> Any:
        """Its answer; ToolError where the process ends instead."""
        with suppress(OSError):  # where it is gone, the reason is in its log
            self._connection.send(request)
        return self._answer()

    def turn(self, everybody: Sequence[Process], *request: Any) -> tuple[Any, float]:
        """Ask after a moment of rest, and which share of the time the others computed."""
        time.sleep(_ASLEEP_S)
        others = [one for one in everybody if one is not self]
        start, before = time.perf_counter(), [one.cpu_s() for one in others]
        answer = self.ask(*request)
        awake_s = sum(one.cpu_s() - was for one, was in zip(others, before, strict=True))
        return answer, awake_s / (time.perf_counter() - start)

    def cpu_s(self) -> float:
        """What it has taken of the CPUs."""
        return _cpu_s(self._process.pid)

    def _answer(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            code = self._process.wait(timeout=60)
            said = self._log.read_text(errors="replace").strip()[-500:]
            raise ToolError(f"{self.name} ended with {code}: {said}") from None


@contextmanager
def start(name: str, config: dict[str, Any], threads: int) -> Iterator[Process]:
    """A contender, until the block ends; ToolError where it cannot be had or loaded.

    It may use as many CPUs as it has threads.
    """
    python = _python(config["kind"])
    available = sorted(os.sched_getaffinity(0))
    if threads > len(available):
        raise ToolError(f"{threads} threads on {len(available)} CPUs: give --threads less")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="edgepose-") as folder:
        address, log = str(Path(folder) / "socket"), Path(folder) / "log"
        with Listener(address, "AF_UNIX") as listener, log.open("wb") as stream:
            process = subprocess.Popen(
                [python, "-m", "tests.benches.contender", address, json.dumps(config)],
                stdout=stream,
                stderr=stream,
                cwd=ROOT,
                env=environment,
                preexec_fn=partial(os.sched_setaffinity, 0, set(available[:threads])),
            )
            try:
                with _accepted(listener, process, name, log) as connection:
                    yield Process(name, connection, process, log)
            finally:
                process.kill()
                process.wait(timeout=60)


def _accepted(
    listener: Listener, process: subprocess.Popen[bytes], name: str, log: Path
) -> Connection:
    listener._listener._socket.settimeout(1)  # type: ignore[attr-defined]
    for _ in range(_LOAD_TIMEOUT_S):
        try:
            connection: Connection = listener.accept()
        except TimeoutError:
            if process.poll() is None:
                continue
            break
        return connection
    said = log.read_text(errors="replace").strip()[-500:]
    raise ToolError(f"{name} did not start: {said}")


def _python(kind: str) -> str:
    """The interpreter of a kind of contender; the engines' versions are those of ours."""
    if kind == "ours":
        return sys.executable
    pins: Sequence[str] = RUNTIME
    if kind == "rtmlib":
        same = ("numpy", "onnxruntime", "openvino", "opencv-python-headless")
        kept = [pin for pin in RTMLIB if pin.partition("==")[0] not in same]
        pins = [*kept, *(f"{package}=={version(package)}" for package in same)]
    try:
        return str(peer_python(pins))
    except pytest.skip.Exception as reason:
        raise ToolError(str(reason)) from None


# --- who else computes ----------------------------------------------------------------------------


def others_share(seconds: float) -> float:
    """Which share of the CPUs other programs took, this process being the only one of ours."""
    with processes([]) as load:
        time.sleep(seconds)
    return load["others"]


@contextmanager
def processes(ours: Iterable[Process]) -> Iterator[dict[str, float]]:
    """Which share of the CPUs others took in the block, and the host of a virtual machine.

    Both are known when the block ends: ``others`` and ``stolen``.
    """
    load: dict[str, float] = {}
    known = list(ours)
    before = _machine_s(), _known_s(known)
    yield load
    (all_s, busy_s, stolen_s), known_s = (
        [b - a for a, b in zip(before[0], _machine_s(), strict=True)],
        _known_s(known) - before[1],
    )
    load["others"] = max(0.0, busy_s - known_s) / max(all_s, 1e-9)
    load["stolen"] = stolen_s / max(all_s, 1e-9)


def _known_s(known: Iterable[Process]) -> float:
    return _cpu_s(os.getpid()) + sum(one.cpu_s() for one in known)


def _cpu_s(pid: int) -> float:
    """Time in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _machine_s() -> tuple[float, float, float]:
    """Of all CPUs together, in s: time, time in which anybody computed, time stolen by the host."""
    first = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, idle, waiting, irq, soft, stolen = map(int, first.split()[1:9])
    busy = user + nice + system + irq + soft
    return (busy + idle + waiting + stolen) / _TICK, busy / _TICK, stolen / _TICK
