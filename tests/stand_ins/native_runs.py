"""A tiny network for the native runner, and one run of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets.runners.native.call import (
    NativeNetwork,
    NativeRun,
    finished_run,
    read_dump,
    runner_argv,
)
from targets.transports.programs import run_program
from targets.transports.transport import Done
from tests.conftest import tiny_simcc_model
from tests.stand_ins.native_networks import Array, ncnn_files, network_of, noise
from tests.stand_ins.runner_programs import arm, refused, x86  # noqa: F401

__all__ = ["Tiny", "answers", "cosine", "run", "start", "tiny"]


@dataclass(frozen=True)
class Tiny:
    param: Path
    weights: Path
    spec: Any
    image: Array
    network: NativeNetwork


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny SimCC network as ncnn files, with an input."""
    import onnx

    folder = tmp_path_factory.mktemp("tiny")
    onnx.save(tiny_simcc_model(scale_norm=True), str(folder / "tiny.onnx"))
    param, weights, spec = ncnn_files(folder / "tiny.onnx", folder / "ncnn")
    image = noise((1, *spec.input.shape[1:]))
    return Tiny(param, weights, spec, image, network_of(param, weights, spec, image, folder))


def start(program: Sequence[str], network: NativeNetwork, **options: Any) -> Done:
    given: dict[str, Any] = {"precision": "fp32", "threads": 1} | options
    argv = runner_argv(program[-1], network, **given)
    return run_program([*program[:-1], *argv], timeout_s=300.0)


def run(program: Sequence[str], network: NativeNetwork, **options: Any) -> NativeRun:
    done = start(program, network, **options)
    # One line and nothing else, on success also nothing on stderr.
    assert done.stdout.count(b"\n") <= 1 and (done.returncode or not done.stderr), done
    return finished_run(done, "here")


def answers(
    program: Sequence[str], network: NativeNetwork, folder: Path, **options: Any
) -> dict[str, Array]:
    folder.mkdir(exist_ok=True)
    ran = run(program, network, dump=str(folder / "out"), **options)
    arrays = read_dump(ran.outputs, folder / "out", "here")
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(
        output.file or "" for output in ran.outputs
    )
    return {name: found[0] for name, found in arrays.items()}


def cosine(a: Array, b: Array) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
