"""Prepared ONNX -> OpenVINO's ``.xml`` and ``.bin``."""

from __future__ import annotations

from pathlib import Path

from edge.engines.openvino import import_openvino, last_line
from edge.errors import ToolError
from edge.spec import ModelSpec, Precision

__all__ = ["convert_openvino"]


def convert_openvino(
    onnx_path: Path, spec: ModelSpec, precision: Precision, folder: Path
) -> dict[str, str]:
    """Write ``<model>.xml`` and ``<model>.bin`` into a folder; role -> file name.

    ``fp16`` stores weights as half floats, ``fp32`` as floats; inputs and outputs are float32
    either way, under the spec's names. An open batch stays open.
    """
    openvino = import_openvino()
    try:
        model = openvino.convert_model(onnx_path)
        # Otherwise every network is called after the reader of its file.
        model.set_friendly_name(spec.name)
        openvino.save_model(
            model, folder / f"{spec.name}.xml", compress_to_fp16=precision == "fp16"
        )
    except Exception as error:  # its exceptions share no base class but Exception
        raise ToolError(f"OpenVINO cannot convert {spec.name}: {last_line(error)}") from None
    return {"model": f"{spec.name}.xml", "weights": f"{spec.name}.bin"}
