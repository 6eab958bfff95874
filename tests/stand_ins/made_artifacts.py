"""Artifact folders that no converter made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import MANIFEST, Artifact, sha256_of
from edge.spec import Variant
from tests.stand_ins.specs import pose_spec, rtmo_spec

__all__ = ["edit", "make_artifact", "some_constants"]


def make_artifact(
    folder: Path, more_files: dict[str, str] | None = None, **changes: Any
) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pose.param").write_bytes(b"7767517\n")
    (folder / "pose.bin").write_bytes(bytes(range(256)))
    files = {"model": "pose.param", "weights": "pose.bin"} | (more_files or {})
    values: dict[str, Any] = {
        "folder": folder,
        "variant": Variant("ncnn", "fp16"),
        "spec": pose_spec(),
        "files": files,
        "sha256": {name: sha256_of(folder / name) for name in files.values()},
        "key": "k",
        "source": {"file": "pose.onnx"},
        "tools": {"pnnx": "1"},
        "parity": {"passed": True},
    }
    artifact = Artifact(**(values | changes))
    artifact.write_manifest()
    return artifact


def edit(folder: Path, change: Any) -> None:
    path = folder / MANIFEST
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def some_constants() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        tensor.name: rng.normal(0, 1, [size or 0 for size in tensor.shape]).astype(np.float32)
        for tensor in rtmo_spec().constants
    }
