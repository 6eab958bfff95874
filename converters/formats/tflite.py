"""Prepared ONNX -> .tflite: floats by onnx2tf, weights in halves or int8 by ai-edge-quantizer."""

from __future__ import annotations

from converters.formats.tflite_float import float_graph
from converters.formats.tflite_graph import read_graph, write_graph, write_layout
from converters.formats.tflite_quantise import quantise_weights
from converters.job import Job

__all__ = ["convert_tflite"]


def convert_tflite(job: Job) -> dict[str, str]:
    """Write ``<model>.tflite`` and how its axes lie; role -> file name.

    ``fp32`` holds floats, ``fp16`` the weights of layers in halves, ``dynamic-range`` in int8 of
    one scale a channel; the latter two compute in floats and, where the engine can, in integers
    with scales of their own for every call.
    """
    named = float_graph(job)
    name = f"{job.spec.name}.tflite"
    path = job.folder / name
    if job.precision == "fp32":
        write_graph(named.model, path)
    else:
        floats = job.folder / "floats.tflite"
        write_graph(named.model, floats)
        path.write_bytes(quantise_weights(floats, half=job.precision == "fp16"))
        # Names alone would make the halves of a small network more than half.
        write_graph(read_graph(path), path, named=False)
        floats.unlink()
    return {"model": name, "layout": write_layout(named.layout, job.folder)}
