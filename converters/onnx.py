"""The prepared ONNX file as an artifact of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge.spec import ModelSpec, Precision

__all__ = ["convert_onnx"]


def convert_onnx(
    onnx_path: Path, spec: ModelSpec, precision: Precision, folder: Path
) -> dict[str, str]:
    """Copy the prepared file into a folder; role -> file name."""
    assert precision == "fp32", precision
    name = f"{spec.name}.onnx"
    shutil.copyfile(onnx_path, folder / name)
    return {"model": name}
