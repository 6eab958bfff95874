"""Peers of the tracker as they come from the package index, each in an environment of its own.

mmdeploy's runtime exists for CPython 3.8 to 3.11 on x86-64 alone and ends its process on a model
that it does not like: it lives in a process of its own and answers over a socket.

Environments are built once and kept in EDGEPOSE_TEST_CACHE, or else ``edgepose-tests`` in
XDG_CACHE_HOME or ~/.cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.stand_ins.sdk_bundles import Files

__all__ = ["RTMLIB", "RUNTIME", "SdkRuntime", "peer_python", "sdk_runtime", "write_bundle"]

# Its bindings know the layout of numpy 1: with numpy 2 all ids of a frame are those of the first.
RUNTIME = ("mmdeploy-runtime==1.3.1", "numpy==1.26.4")
RTMLIB = (
    *("rtmlib==0.0.16", "numpy==2.4.6", "tqdm==4.67.1"),
    *("onnxruntime==1.23.2", "opencv-python-headless==4.12.0.88"),
)
_TIMEOUT_S = 600.0
F32 = npt.NDArray[np.float32]


def peer_python(pins: Sequence[str]) -> Path:
    """The interpreter of an environment with exactly these packages; skips with a reason."""
    if platform.machine() != "x86_64" or not sys.platform.startswith("linux"):
        pytest.skip("the peers have wheels for Linux on x86-64")
    if sys.version_info[:2] > (3, 11):
        pytest.skip("mmdeploy-runtime has no wheel for a Python above 3.11")
    key = hashlib.sha256(f"{sys.version_info[:2]} {sorted(pins)}".encode()).hexdigest()[:12]
    root = _cache() / f"peer-{key}"
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "ready").exists():
            shutil.rmtree(root, ignore_errors=True)
            venv.create(root, with_pip=True)
            names = ", ".join(pins)
            print(f"fetching {names} with pip, once, up to 100 MB", file=sys.stderr, flush=True)
            argv = [str(root / "bin/python"), "-m", "pip", "install", "-q", "--no-deps", *pins]
            try:
                done = subprocess.run(
                    argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
                )
            except subprocess.TimeoutExpired:
                pytest.skip(f"{pins[0]} cannot be installed: pip took over {_TIMEOUT_S:g} s")
            if done.returncode != 0:
                last = done.stderr.strip().splitlines()[-1:]
                pytest.skip(f"{pins[0]} cannot be installed: {last[0] if last else '?'}")
            (root / "ready").touch()
    return root / "bin/python"


def _cache() -> Path:
    given = os.environ.get("EDGEPOSE_TEST_CACHE")
    if given:
        return Path(given)
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path("~/.cache").expanduser()) / "edgepose-tests"


def write_bundle(folder: Path, files: Files, network: bytes) -> Path:
    """A model folder as the runtime loads it."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "end2end.onnx").write_bytes(network)
    return folder


class SdkRuntime:
    """A running process of mmdeploy's runtime with a detector, a pose model and a tracker."""

    def __init__(self, connection: Connection, process: subprocess.Popen[str], log: Path) -> None:
        self._connection = connection
        self._process = process
        self._log = log

    def frame(self, image_bgr: npt.NDArray[np.uint8]) -> None:
        """The picture that all of the following is about."""
        self._ask("frame", image_bgr.shape, image_bgr.tobytes())

    def detect(self) -> tuple[F32, F32, npt.NDArray[np.int64]]:
        """Boxes (N, 4), scores (N,) and labels (N,) of the detector alone."""
        boxes, labels = self._ask("detect")
        table = np.array(boxes, np.float32).reshape(-1, 5)
        return table[:, :4], table[:, 4], np.array(labels, np.int64)

    def estimate(self, boxes_xyxy: F32) -> F32:
        """Keypoints (N, K, 3) of the pose model alone; boxes as x, y, x + width, y + height."""
        # The runtime counts both ends of a box in.
        boxes = np.asarray(boxes_xyxy, np.float32) - np.array([0, 0, 1, 1], np.float32)
        return np.array(self._ask("estimate", boxes.tolist()), np.float32)

    def start(self, **params: Any) -> None:
        """A new tracker."""
        self._ask("start", params)

    def track(self, detect: int = -1) -> tuple[F32, F32, list[int]]:
        """Keypoints (N, K, 3), boxes (N, 4) and ids of the runtime's tracker."""
        keypoints, boxes, ids = self._ask("track", detect)
        return np.array(keypoints, np.float32), np.array(boxes, np.float32), ids

    def _ask(self, *request: Any) -> Any:
        try:
            self._connection.send(request)
            return self._connection.recv()
        except (EOFError, OSError):
            code = self._process.wait(timeout=60)
            said = self._log.read_text()[-500:].strip()
            raise AssertionError(f"the runtime ended with {code} on {request[0]}: {said}") from None


@contextmanager
def sdk_runtime(detector: Path, pose: Path) -> Iterator[SdkRuntime]:
    """The real runtime with two bundles, for as long as the block lasts."""
    python = peer_python(RUNTIME)
    with tempfile.TemporaryDirectory() as folder:
        address = str(Path(folder) / "socket")
        log = Path(folder) / "log"
        with Listener(address, "AF_UNIX") as listener, log.open("w") as stream:
            process = subprocess.Popen(
                [python, "-c", _SERVER, address, str(detector), str(pose)],
                stdout=stream,
                stderr=stream,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            try:
                listener._listener._socket.settimeout(120)  # type: ignore[attr-defined]
                with listener.accept() as connection:
                    yield SdkRuntime(connection, process, log)
            finally:
                process.kill()
                process.wait(timeout=60)


_SERVER = """
import sys
from multiprocessing.connection import Client
import numpy as np
from mmdeploy_runtime import Detector, PoseDetector, PoseTracker

address, det, pose = sys.argv[1:]
detector = Detector(det, "cpu", 0)
estimator = PoseDetector(pose, "cpu", 0)
tracker = PoseTracker(det, pose, "cpu", 0)
connection = Client(address, "AF_UNIX")
image = state = None
while True:
    try:
        name, *arguments = connection.recv()
    except EOFError:
        break
    answer = None
    if name == "frame":
        shape, pixels = arguments
        image = np.frombuffer(pixels, np.uint8).reshape(shape).copy()
    elif name == "detect":
        boxes, labels, _ = detector(image)
        answer = boxes.tolist(), labels.tolist()
    elif name == "estimate":
        answer = estimator(image, np.array(arguments[0], np.float32)).tolist()
    elif name == "start":
        state = tracker.create_state(**arguments[0])
    elif name == "track":
        points, boxes, ids = tracker(state, image, arguments[0])
        answer = np.asarray(points).tolist(), np.asarray(boxes).tolist(), np.asarray(ids).tolist()
    connection.send(answer)
"""
