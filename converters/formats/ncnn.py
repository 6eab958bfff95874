"""Prepared ONNX -> ncnn ``.param`` and ``.bin`` with pnnx."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np

from converters.formats.ncnn_weights import layer_weights
from converters.formats.openvino import read_onnx
from converters.job import Job
from converters.tools import run_tool
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.engines.openvino import import_openvino
from edge.errors import EdgeError, ToolError
from edge.session import Array, EngineSettings

__all__ = ["convert_ncnn", "pnnx_program", "rename_blobs"]

# Share of a layer's weights, and of their sum, that a writer may lose.
_MOST_LOST = 0.01


def pnnx_program() -> Path:
    """The pnnx binary inside its Python package.

    The package's console script imports PyTorch, which the ONNX route does not need; so the
    binary is found without importing the package (pnnx 20261020).
    """
    found = importlib.util.find_spec("pnnx")
    if found is None or not found.submodule_search_locations:
        raise ToolError("pnnx is not installed; run `make setup`")
    program = Path(next(iter(found.submodule_search_locations))).absolute() / "pnnx"
    if not program.is_file():
        raise ToolError(f"{program}: the pnnx package holds no binary for this platform")
    return program


def convert_ncnn(job: Job) -> dict[str, str]:
    """Write ``<model>.param`` and ``<model>.bin``; role -> file name.

    ``fp16`` stores weights as half floats, ``fp32`` as floats. The shape must be fixed. pnnx calls
    its blobs in0, out0, out1, ...; the artifact's are the spec's.
    """
    param, weights = f"{job.spec.name}.param", f"{job.spec.name}.bin"
    work = job.folder / "pnnx"
    text = _run_pnnx(job, work, param, weights, half=job.precision == "fp16")
    _refuse_unknown_layers(text, job)
    if job.precision == "fp16":
        _refuse_lost_weights(job, text, (work / weights).read_bytes())
    names = {"in0": job.spec.input.name}
    names |= {f"out{index}": tensor.name for index, tensor in enumerate(job.spec.outputs)}
    (job.folder / param).write_text(rename_blobs(text, names), encoding="ascii")
    (work / weights).rename(job.folder / weights)
    shutil.rmtree(work)
    return {"model": param, "weights": weights}


def _run_pnnx(job: Job, work: Path, param: str, weights: str, *, half: bool) -> str:
    """Let pnnx write a network into a new folder; the text of its ``.param``."""
    shape = ",".join(str(size) for size in job.spec.input.shape)
    work.mkdir()
    # pnnx writes a simplified copy beside its input: a link keeps it in here.
    (work / "model.onnx").symlink_to(job.onnx_path.resolve())
    log = run_tool(
        [
            str(pnnx_program()),
            "model.onnx",
            f"inputshape=[{shape}]f32",
            f"fp16={int(half)}",
            "pnnxparam=m.pnnx.param",
            "pnnxbin=m.pnnx.bin",
            "pnnxpy=m_pnnx.py",
            "pnnxonnx=m.pnnx.onnx",
            f"ncnnparam={param}",
            f"ncnnbin={weights}",
            "ncnnpy=m_ncnn.py",
        ],
        cwd=work,
    )
    for name in (param, weights):
        # pnnx says 0 also when it gave up half way.
        if not (work / name).is_file() or (work / name).stat().st_size == 0:
            last = " | ".join(log.splitlines()[-3:])
            raise ToolError(f"pnnx left no {name}; it said: {last}")
    return (work / param).read_text(encoding="ascii")


def _refuse_lost_weights(job: Job, param: str, data: bytes) -> None:
    """Raise ToolError where the halves that pnnx wrote are not the weights.

    It makes zeros of what lies below 2^-14 (pnnx 20261020). Where a layer has many zeros the
    same network is written in floats, which tells those that were none.
    """
    halves = layer_weights(param, data)
    if halves is None or not any(_looks_lost(values) for values in halves.values()):
        return
    work = job.folder / "pnnx-fp32"
    text = _run_pnnx(job, work, "m.param", "m.bin", half=False)
    floats = layer_weights(text, (work / "m.bin").read_bytes()) or {}
    shutil.rmtree(work)
    for name, values in halves.items():
        exact = floats.get(name)
        if exact is None or exact.shape != values.shape or not _looks_lost(values):
            continue
        total = float(np.abs(exact, dtype=np.float64).sum())
        off = np.abs(exact - np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0))
        if float(off.sum()) > _MOST_LOST * total:
            raise ToolError(
                f"pnnx wrote {float(off.sum()) / total:.0%} of the weights of layer {name!r} of "
                f"{job.spec.name} as zeros or infinities, which FP16 cannot hold: take ncnn-fp32"
            )


def _looks_lost(values: Array) -> bool:
    return bool(np.mean((values == 0) | ~np.isfinite(values)) > _MOST_LOST)


def _refuse_unknown_layers(param: str, job: Job) -> None:
    """Raise ToolError for a layer that ncnn lacks: pnnx passes on what it cannot convert."""
    import ncnn

    for line in param.splitlines()[2:]:
        kind, layer = line.split()[:2]
        if ncnn.layer_to_index(kind) < 0:
            raise ToolError(
                f"ncnn has no operator {kind} (layer {layer!r} of {job.spec.name}); the formats "
                f"that have it: {_others(job)}"
            )


def _others(job: Job) -> str:
    """ONNX, and OpenVINO where it answers alike; TFLite shows that in minutes only."""
    shape = [size or 1 for size in job.spec.input.shape]
    image = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    try:
        with OnnxRuntimeSession(job.onnx_path, job.spec, EngineSettings()) as session:
            want = session.run({job.spec.input.name: image})
        model = read_onnx(job.onnx_path, job.spec.name)
        got = import_openvino().compile_model(model, "CPU")({job.spec.input.name: image})
    except (EdgeError, RuntimeError):  # what OpenVINO raises for what it cannot compile
        return "onnx"
    alike = all(
        np.allclose(got[name], value, rtol=0, atol=0.005 * float(np.abs(value).max()))
        for name, value in want.items()
    )
    return "onnx, openvino" if alike else "onnx"


def rename_blobs(param: str, names: dict[str, str]) -> str:
    """A ``.param`` text with blobs renamed; ToolError if one of them does not occur.

    Format: two header lines, then a layer a line: type, name, number of inputs, number of outputs,
    input blobs, output blobs, parameters. Blob names are at most 255 characters without blanks.
    """
    magic, counts, *lines = param.splitlines()
    seen: set[str] = set()
    renamed = []
    for line in lines:
        parts = line.split()
        blobs = range(4, 4 + int(parts[2]) + int(parts[3]))
        for index in blobs:
            seen.add(parts[index])
            parts[index] = names.get(parts[index], parts[index])
        renamed.append(f"{parts[0]:<24} {parts[1]:<24} {' '.join(parts[2:])}")
    missing = sorted(set(names) - seen)
    taken = sorted(set(names.values()) & (seen - set(names)))
    if missing or taken:
        raise ToolError(
            f"the network that pnnx wrote has no blob {', '.join(missing)}"
            if missing
            else f"the network that pnnx wrote already has a blob {', '.join(taken)}"
        )
    return "\n".join([magic, counts, *renamed]) + "\n"
