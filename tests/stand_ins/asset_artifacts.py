"""Artifacts for app assets, and where a zip keeps a file."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.artifact import Artifact, load_artifact, sha256_of
from edge.spec import Variant
from tests.stand_ins.header_build import POSE, detector_spec

__all__ = ["SAFE", "data_offset", "make_artifact"]

SAFE = {"checked": True, "safe": "fp16-storage", "text": "ARM: uses fp16-storage"}


def make_artifact(
    folder: Path,
    *,
    name: str = "pose",
    variant: str = "ncnn-fp16",
    arm: dict[str, Any] | None = None,
    weights: bytes = b"\x01\x02\x03" * 9999,
) -> Artifact:
    """An artifact whose files hold anything."""
    spec = replace(POSE if name != "people" else detector_spec((320, 320)), name=name)
    folder = folder / f"{name}-{variant}"
    folder.mkdir(parents=True)
    files = {"model": f"{name}.param", "weights": f"{name}.bin"}
    (folder / files["model"]).write_bytes(b"7767517\n")
    (folder / files["weights"]).write_bytes(weights)
    artifact = Artifact(
        folder=folder,
        variant=Variant.parse(variant),
        spec=spec,
        files=files,
        sha256={file: sha256_of(folder / file) for file in files.values()},
        key="k",
        source={"file": "m.onnx", "sha256": "ab", "path": "/home/somebody/m.onnx"},
        tools={"ncnn": "1.0"},
        parity={"passed": True, "summary": "pass: 90 keypoints"},
        arm=SAFE if arm is None else arm,
    )
    artifact.write_manifest()
    return load_artifact(folder)


def data_offset(path: Path, name: str) -> int:
    """Where an entry's bytes begin, by its local header (APPNOTE 4.3.7)."""
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name).header_offset
    header = path.read_bytes()[start : start + 30]
    return (
        start
        + 30
        + int.from_bytes(header[26:28], "little")
        + int.from_bytes(header[28:30], "little")
    )
