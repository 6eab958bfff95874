"""Prepared ONNX -> ncnn ``.param`` and ``.bin`` with pnnx."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from converters.job import Job
from converters.tools import run_tool
from edge.errors import ToolError

__all__ = ["convert_ncnn", "pnnx_program", "rename_blobs"]


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
    shape = ",".join(str(size) for size in job.spec.input.shape)
    param, weights = f"{job.spec.name}.param", f"{job.spec.name}.bin"
    work = job.folder / "pnnx"
    work.mkdir()
    # pnnx writes a simplified copy beside its input: a link keeps it in here.
    (work / "model.onnx").symlink_to(job.onnx_path.resolve())
    log = run_tool(
        [
            str(pnnx_program()),
            "model.onnx",
            f"inputshape=[{shape}]f32",
            f"fp16={1 if job.precision == 'fp16' else 0}",
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
    text = (work / param).read_text(encoding="ascii")
    _refuse_unknown_layers(text, job.spec.name)
    names = {"in0": job.spec.input.name}
    names |= {f"out{index}": tensor.name for index, tensor in enumerate(job.spec.outputs)}
    (job.folder / param).write_text(rename_blobs(text, names), encoding="ascii")
    (work / weights).rename(job.folder / weights)
    shutil.rmtree(work)
    return {"model": param, "weights": weights}


def _refuse_unknown_layers(param: str, name: str) -> None:
    """Raise ToolError for a layer that ncnn lacks: pnnx passes on what it cannot convert."""
    import ncnn

    for line in param.splitlines()[2:]:
        kind, layer = line.split()[:2]
        if ncnn.layer_to_index(kind) < 0:
            raise ToolError(
                f"ncnn has no operator {kind} (layer {layer!r} of {name}); the formats that have "
                "it: onnx"
            )


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
