"""Prepared ONNX -> OpenVINO's ``.xml`` and ``.bin``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from converters.formats.openvino_ir import save_ir
from converters.graph.parts import node_name
from converters.job import Job
from edge.engines.openvino import import_openvino
from edge.errors import ToolError, last_line

__all__ = ["convert_openvino", "read_onnx"]


def convert_openvino(job: Job) -> dict[str, str]:
    """Write ``<model>.xml`` and ``<model>.bin``; role -> file name.

    ``fp16`` stores weights as half floats and its XML small, ``fp32`` as floats with all that
    there is to see in it; inputs and outputs are float32 either way, under the spec's names. An
    open batch stays open.
    """
    model = read_onnx(job.onnx_path, job.spec.name)
    return save_ir(model, job.folder, job.spec.name, small=job.precision == "fp16")


def read_onnx(path: Path, name: str) -> Any:
    """An ONNX file as an ``openvino.Model``; ToolError where OpenVINO lacks an operator of it."""
    openvino = import_openvino()
    try:
        return openvino.convert_model(path)
    except Exception as error:  # its exceptions share no base class but Exception
        reason = last_line(error).strip(" -")
    missing = re.search(r"No conversion rule found for operations: (?:[\w.]+\.)?(\w+)", reason)
    if missing:
        import onnx

        operator = missing[1]
        nodes = (node for node in onnx.load(path).graph.node if node.op_type == operator)
        raise ToolError(
            f"OpenVINO has no operator for {operator} (node {node_name(next(nodes))!r} of {name}); "
            "formats that have it: onnx"
        )
    raise ToolError(f"OpenVINO cannot convert {name}: {reason}")
