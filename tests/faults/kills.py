"""SIGKILLs at random moments: nothing half-written under a final name, and the next run works."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge.artifact import load_artifact
from tests.conftest import ROOT

__all__ = ["kill_convert", "kill_deploy", "kill_run"]

_ALONE = ["unshare", "-r", "-p", "-f", "--mount-proc"]
_MODEL = "rtmdet-nano-demo"


def _edge(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "edge", *map(str, arguments)]


def _environment(folder: Path) -> dict[str, str]:
    (folder / "tmp").mkdir(exist_ok=True)
    # Of what this harness was told only what it runs with.
    return os.environ | {
        "EDGEPOSE_CACHE": str(folder / "cache"),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": str(ROOT),
    }


def _finished(argv: Sequence[str], folder: Path) -> float:
    """Run to the end; the seconds that it took. It has to work."""
    start = time.monotonic()
    done = subprocess.run(
        argv, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr[-2000:]}"
    return time.monotonic() - start


def _killed(argv: Sequence[str], folder: Path, after_s: float) -> bool:
    """Start it and kill it, with all that it started; whether it was still running."""
    process = subprocess.Popen(
        argv,
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(after_s)
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _leftovers(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*.part")]


def has_namespaces() -> bool:
    """Whether this user may make a namespace of process numbers."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_ALONE, "true"], capture_output=True, check=False).returncode == 0


def kill_convert(folder: Path, times: int, seed: int = 0, *, alone: bool = False) -> str:
    """Conversions of a model that is there already, again and again, killed.

    The artifact that was there, or its successor, is whole at every moment. ``alone``: each in a
    namespace of its own, where it is process number 1 or 2, as in a container.
    """
    rng = random.Random(seed)
    argv = _edge("convert", "--target", "x86", "--model", _MODEL, "--formats", "onnx-fp32")
    argv = [*(_ALONE if alone else []), *argv, "--out", str(folder / "out")]
    took_s = _finished(argv, folder)
    (place,) = [path.parent for path in (folder / "out").rglob("artifact.json")]
    killed = 0
    for _ in range(times):
        killed += _killed([*argv, "--force"], folder, rng.uniform(0, took_s))
        load_artifact(place)
    _finished([*argv, "--force"], folder)
    load_artifact(place)
    assert not _leftovers(folder), _leftovers(folder)
    return f"convert{' alone' if alone else ''}: {killed} of {times} killed, the artifact whole"


def kill_run(folder: Path, times: int, seed: int = 0) -> str:
    """Runs on pictures killed: files are whole or absent, and what is left goes with the next."""
    import cv2

    rng = random.Random(seed)
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(12):
        noise = np.random.default_rng(number).integers(0, 255, (200, 200, 3), dtype=np.uint8)
        cv2.imwrite(str(pictures / f"{number}.png"), noise)
    argv = _edge("run", "--model", "rtmpose-t-demo", "--out", folder / "out", "--json", pictures)
    took_s = _finished(argv, folder)
    shutil.rmtree(folder / "out")
    killed = 0
    for _ in range(times):
        killed += _killed(argv, folder, rng.uniform(0, took_s))
        for path in (folder / "out").glob("*.json"):
            json.loads(path.read_text())
        for path in (folder / "out").glob("*.png"):
            assert cv2.imread(str(path)) is not None, f"{path} is half-written"
    _finished(argv, folder)
    assert not _leftovers(folder), _leftovers(folder)
    return f"run: {killed} of {times} killed, every file whole"


def kill_deploy(folder: Path, times: int, seed: int = 0) -> str:
    """Deployments killed: what is current is a whole version that answers."""
    from tests.stand_ins.deploy_board import compare, deploy_board, ready_python
    from tests.stand_ins.python_runners import tiny_artifact

    rng = random.Random(seed)
    artifact = tiny_artifact(folder / "tiny")
    with deploy_board(folder / "board") as board, ready_python(board):
        start = time.monotonic()
        board.deploy(artifact, compare)
        took_s = time.monotonic() - start
        killed = 0
        for _ in range(times):
            child = os.fork()
            if not child:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                board.deploy(artifact, compare)
                os._exit(0)
            time.sleep(rng.uniform(0, took_s))
            os.kill(child, signal.SIGKILL)
            killed += os.waitpid(child, 0)[1] == signal.SIGKILL
            assert board.current in board.folders
            with board.open() as known:
                versions = {version.name for version in known.read().versions}
                assert board.current in versions, "what is current is not whole"
        board.deploy(artifact, compare)
    return f"deploy: {killed} of {times} killed, current answered each time"
