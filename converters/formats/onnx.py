"""The prepared ONNX file as an artifact of its own."""

from __future__ import annotations

import shutil
import warnings

from converters.graph.compact import compact
from converters.job import Job

__all__ = ["convert_onnx"]


def convert_onnx(job: Job) -> dict[str, str]:
    """Put the prepared file into the folder; role -> file name.

    ``fp32`` is a copy. ``fp16`` turns weights and activations into half floats and keeps float32
    at the inputs and outputs, by the converter that ONNX Runtime ships.
    """
    name = f"{job.spec.name}.onnx"
    if job.precision == "fp32":
        shutil.copyfile(job.onnx_path, job.folder / name)
        return {"model": name}
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with warnings.catch_warnings():
        # It announces each weight below FP16's least number, which becomes that or 0.
        warnings.simplefilter("ignore", UserWarning)
        half = convert_float_to_float16(onnx.load(job.onnx_path), keep_io_types=True)
    # It puts its conversions last; onnx.checker and other runtimes want them before their use.
    OnnxModel.graph_topological_sort(half.graph, is_deterministic=True)
    compact(half)
    onnx.save(half, job.folder / name)
    return {"model": name}
