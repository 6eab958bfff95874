"""Prepared ONNX -> the float .tflite network that every variant of the format starts from."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
import tempfile
from pathlib import Path

from converters.formats.onnx2tf import (
    LOCK,
    MissingOperatorError,
    onnx2tf_python,
    refuse_flex,
    run_onnx2tf,
)
from converters.formats.tflite_graph import NamedGraph, builtin_names, name_graph, read_graph
from converters.graph.file import load_onnx
from converters.job import Job
from converters.parity.limits import LIMITS
from edge.errors import ToolError
from edge.files import cache_folder, replacing

__all__ = ["float_graph"]

# What fp32 may change at all, as the norm of the difference over that of the output: pictures and
# their answers are judged afterwards. White noise makes rounding errors of a deep network larger
# than any picture does.
_LARGEST_ERROR = math.sqrt(2 * (1 - LIMITS["fp32"].cosine_min))


def float_graph(job: Job) -> NamedGraph:
    """The float network, every tensor named, its outputs compared with ONNX Runtime's.

    onnx2tf takes half a minute: what it made of a file is kept in the cache under the hash of the
    file and of the lock. Where its plain conversion fails or gives other outputs it is run again
    with its search for axis orders, which takes minutes. Raises ToolError where that is no good
    either, its environment cannot be built, or an operator is not TFLite's; of the same file once
    more without another try.
    """
    refused = job.onnx_path.with_name(f"{job.onnx_path.name}.no-tflite")
    if refused.is_file():
        raise ToolError(refused.read_text(encoding="utf-8"))
    try:
        return _float_graph(job)
    except ToolError as error:
        # The variants of a model share its file: none of them tries for minutes what failed.
        refused.write_text(str(error), encoding="utf-8")
        raise


def _float_graph(job: Job) -> NamedGraph:
    model = load_onnx(job.onnx_path)
    digest = hashlib.sha256(job.onnx_path.read_bytes() + LOCK.read_bytes()).hexdigest()
    kept = cache_folder() / "tflite" / f"{digest}.tflite"
    if kept.is_file():
        with contextlib.suppress(ToolError):  # damaged: made anew
            return name_graph(kept, model, job.spec)
    onnx2tf_python()
    why = ""
    with tempfile.TemporaryDirectory(dir=job.folder) as private:
        for search in (False, True):
            folder = Path(private) / ("search" if search else "plain")
            folder.mkdir()
            source = folder / "model.onnx"
            shutil.copy(job.onnx_path, source)
            try:
                made = run_onnx2tf(source, model, folder, search=search)
                refuse_flex(builtin_names(read_graph(made)), model)
                named = name_graph(made, model, job.spec)
            except MissingOperatorError:
                raise
            except ToolError as error:
                why = str(error)
                continue
            if named.error <= _LARGEST_ERROR:
                _keep(made, kept)
                return named
            # The axes are right: to search for other orders of them would be for nothing.
            raise ToolError(
                f"what onnx2tf made of {job.spec.name} is off by {named.error:.2g} of an output "
                f"(limit {_LARGEST_ERROR:.2g}); choose other formats with --formats"
            )
    raise ToolError(
        f"onnx2tf cannot convert {job.spec.name}, also with its search for axis orders; choose "
        f"other formats with --formats. {why}"
    )


def _keep(made: Path, kept: Path) -> None:
    """Into the cache, where nothing half-written is ever found."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replacing(kept) as private:
        shutil.copy(made, private)
