"""The header's test program, compiled."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge.spec import ModelSpec, TensorSpec
from targets.runners.native.check import emulator_argv
from targets.runners.native.toolchain import host_arch
from tests.conftest import ROOT

__all__ = ["F32", "POSE", "build_header_program", "detector_spec"]

F32 = npt.NDArray[np.float32]
POSE = ModelSpec(
    name="pose",
    task="pose",
    codec="simcc",
    input=TensorSpec("input", (1, 3, 256, 192)),
    outputs=(TensorSpec("x", (1, 17, 384)), TensorSpec("y", (1, 17, 512))),
    color_order="rgb",
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    keypoint_set="coco17",
)


def detector_spec(input_hw: tuple[int, int], classes: int = 1, **changes: Any) -> ModelSpec:
    height, width = input_hw
    sizes = [(stride, height // stride, width // stride) for stride in (8, 16, 32)]
    return ModelSpec(
        **{
            "name": "detector",
            "task": "detection",
            "codec": "rtmdet",
            "input": TensorSpec("in", (1, 3, height, width)),
            "outputs": (
                *(TensorSpec(f"logits_{s}", (1, classes, h, w)) for s, h, w in sizes),
                *(TensorSpec(f"distances_{s}", (1, 4, h, w)) for s, h, w in sizes),
            ),
            "color_order": "bgr",
            "mean": (103.53, 116.28, 123.675),
            "std": (57.375, 57.12, 58.395),
            "strides": (8, 16, 32),
            **changes,
        }
    )


def build_header_program(arch: str, program: Path, flags: Sequence[str] = ()) -> list[str]:
    """Compile the test program without warnings; how to start it. Skips where it cannot be."""
    native = arch == host_arch()
    compiler = shutil.which("g++" if native else f"{arch.replace('_', '-')}-linux-gnu-g++")
    if compiler is None:
        pytest.skip(f"no C++ compiler for {arch}")
    emulator = [] if native else emulator_argv() if arch == "aarch64" else None
    if emulator is None:
        pytest.skip(f"nothing runs programs for {arch} here")
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
    argv = [
        compiler,
        "-std=c++17",
        "-O2",
        "-static",
        *warnings,
        f"-I{ROOT / 'targets/app/android'}",
    ]
    argv += [str(ROOT / "tests/stand_ins/header_program.cpp"), *flags, "-o", str(program)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return [*emulator, str(program)]
