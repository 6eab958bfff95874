"""A tiny ONNX artifact, and an engine that misbehaves, for the tests of the Python runner."""

from __future__ import annotations

import os
from pathlib import Path

from edge.artifact import MANIFEST, Artifact, load_artifact, sha256_of
from edge.spec import ModelSpec, TensorSpec, Variant
from tests.conftest import tiny_simcc_model

__all__ = ["SPEC", "misbehaving_engine", "python_environment", "tiny_artifact"]

SPEC = ModelSpec(
    name="tiny",
    task="pose",
    codec="simcc",
    input=TensorSpec("input", (None, 3, 64, 48)),
    outputs=(
        TensorSpec("simcc_x", (None, 17, 96)),
        TensorSpec("simcc_y", (None, 17, 128)),
    ),
    color_order="rgb",
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    keypoint_set="coco17",
)


def tiny_artifact(folder: Path, key: str = "0123456789abcdef" * 4) -> Artifact:
    """The tiny SimCC model as an ``onnx-fp32`` artifact in a new folder."""
    import onnx

    folder.mkdir(parents=True)
    onnx.save(tiny_simcc_model(), str(folder / "tiny.onnx"))
    hashes = {"tiny.onnx": sha256_of(folder / "tiny.onnx")}
    artifact = Artifact(
        folder, Variant("onnx", "fp32"), SPEC, {"model": "tiny.onnx"}, hashes, key=key
    )
    artifact.write_manifest()
    assert (folder / MANIFEST).is_file()
    return load_artifact(folder)


# The engine's package as `edge` meets it. MODE decides what is wrong with it.
_ENGINE = """
import ctypes, os, threading, time
import numpy as np
__version__ = "0.of-the-test"
MODE = os.environ.get("ENGINE_MODE", "")
os.write(1, b"written to the descriptor\\n")
print("printed")
ctypes.CDLL(None).printf(b"held back by C until the process ends\\n")
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

class SessionOptions:
    def add_session_config_entry(self, key, value):
        pass

class InferenceSession:
    def __init__(self, *arguments, **options):
        self.calls = 0
        if MODE == "fails":
            raise RuntimeError("no kernel for\\nthis model")

    def run(self, names, feeds):
        self.calls += 1
        print("it computes", flush=True)
        if MODE == "killed" and self.calls > 2:
            os.kill(os.getpid(), 9)
        batch = len(next(iter(feeds.values())))
        answers = [np.zeros((batch, 17, 96), np.float32), np.zeros((batch, 17, 128), np.float32)]
        if MODE == "nan":
            answers[0][0, 0, :3] = np.nan, np.inf, -np.inf
        if MODE == "fickle":
            answers[1] += self.calls
        if MODE == "pins":
            os.sched_setaffinity(0, range(os.cpu_count()))
        time.sleep(1e-4)
        return answers
"""


def misbehaving_engine(folder: Path) -> Path:
    """A folder for PYTHONPATH with a package ``onnxruntime``, which writes to stdout at will."""
    folder.mkdir()
    (folder / "onnxruntime.py").write_text(_ENGINE)
    return folder


def python_environment(mode: str, folder: Path) -> dict[str, str]:
    """The environment of a Python that has the misbehaving engine."""
    return {**os.environ, "PYTHONPATH": str(folder), "ENGINE_MODE": mode}
