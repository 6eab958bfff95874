"""A part of an ONNX model, run once on the host: what the file alone does not tell.

A declaration may leave sizes open that are fixed in truth (mmdeploy's files name them after the
node that computes them), and what a graph computes is told most surely by its answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.graph.bounds import refuse_giants
from converters.graph.file import Graph, output_shapes
from converters.graph.walk import reads
from edge.errors import ModelFileError
from edge.session import Array, import_engine

__all__ = ["Shape", "known_shapes", "run_once"]

Shape = tuple[int | None, ...]


def run_once(
    model: Any, path: Path, feeds: Mapping[str, Array], outputs: Sequence[str]
) -> dict[str, Array]:
    """The values of some tensors, inner ones or outputs, for one input.

    Only what they depend on is computed, as it stands in the file (no graph optimisation). Raises
    ModelFileError where ONNX Runtime cannot run it.
    """
    runtime = import_engine("onnxruntime", "onnxruntime")
    part = _part(model, feeds, outputs)
    refuse_giants(part, path)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(
            part.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        taken = {one.name for one in session.get_inputs()}
        values = session.run(list(outputs), {k: v for k, v in feeds.items() if k in taken})
    except Exception as error:  # its exceptions share no base class but Exception
        sizes = ", ".join("x".join(map(str, value.shape)) for value in feeds.values())
        reason = " ".join(str(error).split()).rpartition("Message: ")[2].rpartition("] ")[2]
        raise ModelFileError(
            f"{path}: does not run on an input of {sizes} ({reason[:100]}); give a size that it "
            "takes with --size HxW (detectors need sides that are multiples of 32), or export it "
            "again"
        ) from None
    return {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}


def known_shapes(
    model: Any, path: Path, input_name: str, input_shape: Shape
) -> list[tuple[str, Shape]]:
    """Name and shape of each output; what the file leaves open is found by running it once.

    ``input_shape`` (N, 3, H, W) must have a height and a width. The first dimension, the batch,
    stays as open as it is. A size that varies with the picture, like the number of detections, is
    one that a single run cannot tell: it is the caller's to leave it open.
    """
    declared = output_shapes(model)
    if all(len(shape) > 1 and None not in shape[1:] for _, shape in declared):
        return declared
    image = np.zeros([size or 1 for size in input_shape], np.float32)
    values = run_once(model, path, {input_name: image}, [name for name, _ in declared])
    found: list[tuple[str, Shape]] = []
    for name, shape in declared:
        got = values[name].shape
        if len(shape) != len(got):  # a declaration without any shape
            shape = (None,) * len(got)
        # A size of 0 is that of a list in which nothing was found.
        sizes = [has or size or None for has, size in zip(shape[1:], got[1:], strict=True)]
        found.append((name, (*shape[:1], *sizes)))
    return found


def _part(model: Any, feeds: Mapping[str, Array], outputs: Sequence[str]) -> Any:
    """The model reduced to what some tensors depend on, its inputs of the feeds' shapes."""
    import onnx

    nodes = Graph(model).needed_by(outputs)
    used = {name for node in nodes for name in reads(node)}.union(outputs)
    part = onnx.ModelProto()
    part.ir_version = model.ir_version
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = "part"
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(one for one in model.graph.initializer if one.name in used)
    for value in model.graph.input:
        if value.name in feeds:
            kind = value.type.tensor_type.elem_type
            shape = feeds[value.name].shape
            part.graph.input.append(onnx.helper.make_tensor_value_info(value.name, kind, shape))
        elif value.name in used:
            part.graph.input.append(value)
    # Without a type: it follows from the graph.
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return part
