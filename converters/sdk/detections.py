"""Decoding and non-maximum suppression as ONNX nodes behind a detector's raw heads.

mmdeploy's SDK expects both inside a detector's file: ``dets`` (1, n, 5) of x1, y1, x2, y2 in input
pixels and score, best first, and ``labels`` (1, n). What is computed is ``edge.codecs.rtmdet``,
cell for cell; like mmdeploy's own export, the answer ends in one row of zeros where less than
``max_boxes`` are kept, so that it never is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge.errors import ModelFileError
from edge.spec import ModelSpec, TensorSpec

__all__ = ["DETECTIONS", "append_detections"]

# Outputs of such a file, as the SDK's ResizeBBox looks for them.
DETECTIONS = (
    TensorSpec("dets", (1, None, 5)),
    TensorSpec("labels", (1, None), "int64"),
)
# TopK with a computed count, and Gather that counts from the end: both of opset 11.
_LEAST_OPSET = 11


def append_detections(model: Any, spec: ModelSpec) -> None:
    """Put ``dets`` and ``labels`` in the place of a detector's raw heads, in the model itself.

    ``spec`` is that of the raw heads, codec ``rtmdet``. The batch becomes 1. Raises ModelFileError
    for an opset below 11.
    """
    import onnx
    from onnx import helper

    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    if opset < _LEAST_OPSET:
        raise ModelFileError(
            f"{spec.name}: opset {opset} knows no suppression that fits; export the model with "
            f"opset {_LEAST_OPSET} or later"
        )
    image = next(value for value in model.graph.input if value.name == spec.input.name)
    image.type.tensor_type.shape.dim[0].dim_value = 1
    # What was inferred for an open batch no longer holds.
    del model.graph.value_info[:]
    graph = _Nodes(model)
    levels = len(spec.strides)
    pairs = zip(spec.outputs[:levels], spec.outputs[levels:], spec.strides, strict=True)
    parts = [_level(graph, spec, *level) for level in pairs]
    boxes, logits, labels = (
        graph.add("Concat", *same, axis=0) for same in zip(*parts, strict=True)
    )
    scores = graph.add("Sigmoid", logits)
    if spec.cut_at_rim:
        boxes, real = _cut_off(graph, spec, boxes)
        none = graph.constant(-1, np.float32)  # below every threshold
        scores = graph.add("Where", real, scores, none)
    _suppress(graph, spec, boxes, scores, labels)
    del model.graph.output[:]
    for tensor in DETECTIONS:
        kind = onnx.TensorProto.INT64 if tensor.dtype == "int64" else onnx.TensorProto.FLOAT
        shape = ["kept" if size is None else size for size in tensor.shape]
        model.graph.output.append(helper.make_tensor_value_info(tensor.name, kind, shape))


class _Nodes:
    """Appends nodes and constants to a graph, under names that nothing else in it has."""

    def __init__(self, model: Any) -> None:
        self._graph = model.graph
        taken = {name for node in model.graph.node for name in node.output}
        taken |= {value.name for value in (*model.graph.input, *model.graph.initializer)}
        self._taken = taken
        for tensor in DETECTIONS:
            if tensor.name in taken:
                raise ModelFileError(f"the model has a tensor {tensor.name!r} already")

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; the name of its output, or the names of its several outputs."""
        names = [self._name(kind) for _ in range(outputs)]
        self._put(kind, inputs, names, attributes)
        return names[0] if outputs == 1 else names

    def result(self, name: str, kind: str, *inputs: str, **attributes: Any) -> None:
        """A node whose output is one of the graph's."""
        self._put(kind, inputs, [name], attributes)

    def constant(self, value: Any, dtype: type = np.int64) -> str:
        """An initializer; its name."""
        from onnx import numpy_helper

        name = self._name("constant")
        self._graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def _put(
        self, kind: str, inputs: Sequence[str], names: list[str], attributes: dict[str, Any]
    ) -> None:
        from onnx import helper

        node = helper.make_node(kind, list(inputs), names, name=f"{names[0]}_node", **attributes)
        self._graph.node.append(node)

    def _name(self, kind: str) -> str:
        number = 0
        while (name := f"sdk_{kind.lower()}_{number}") in self._taken:
            number += 1
        self._taken.add(name)
        return name


def _level(
    graph: _Nodes, spec: ModelSpec, logits: TensorSpec, distances: TensorSpec, stride: int
) -> tuple[str, str, str]:
    """One level's best cells: boxes (M, 4), logits (M,) and labels (M,)."""
    classes, (rows, columns) = int(logits.shape[1] or 1), (int(n or 1) for n in logits.shape[2:])
    cells = rows * columns
    y, x = np.divmod(np.arange(cells), columns)
    prior = np.stack([x, y, x, y], axis=1) * np.float32(stride)
    sides = graph.add("Reshape", distances.name, graph.constant([4, cells]))
    sides = graph.add("Transpose", sides, perm=[1, 0])
    signed = graph.add("Mul", sides, graph.constant([-1, -1, 1, 1], np.float32))
    boxes = graph.add("Add", signed, graph.constant(prior, np.float32))
    flat = graph.add("Reshape", logits.name, graph.constant([classes * cells]))
    if classes * cells > spec.nms_candidates_per_level:
        count = graph.constant([spec.nms_candidates_per_level])
        flat, picked = graph.add("TopK", flat, count, outputs=2, axis=0)
    else:
        picked = graph.constant(np.arange(classes * cells))
    if classes == 1:
        # Cells as they are, or the best of them; no class to tell apart.
        zeros = graph.add("Sub", picked, picked)
        return graph.add("Gather", boxes, picked, axis=0), flat, zeros
    size = graph.constant(cells)
    label = graph.add("Div", picked, size)
    cell = graph.add("Sub", picked, graph.add("Mul", label, size))
    return graph.add("Gather", boxes, cell, axis=0), flat, label


def _cut_off(graph: _Nodes, spec: ModelSpec, boxes: str) -> tuple[str, str]:
    """Boxes (M, 4) cut off at the input's rim, and which of them (M,) have an area left."""
    height, width = spec.input_hw
    boxes = graph.add("Max", boxes, graph.constant(0, np.float32))
    rim = graph.constant([width, height, width, height], np.float32)
    boxes = graph.add("Min", boxes, rim)
    x1, y1, x2, y2 = (
        graph.add("Gather", boxes, graph.constant(column), axis=1) for column in range(4)
    )
    return boxes, graph.add("And", graph.add("Greater", x2, x1), graph.add("Greater", y2, y1))


def _suppress(graph: _Nodes, spec: ModelSpec, boxes: str, scores: str, labels: str) -> None:
    """``dets`` and ``labels`` of candidates: boxes (M, 4), scores (M,) and labels (M,)."""
    classes = int(spec.outputs[0].shape[1] or 1)
    table = graph.add("Reshape", scores, graph.constant([1, 1, -1]))
    if classes > 1:
        # A candidate has one class: its score there, nothing in the others.
        of_class = graph.constant(np.arange(classes).reshape(1, classes, 1))
        own = graph.add("Equal", graph.add("Reshape", labels, graph.constant([1, 1, -1])), of_class)
        table = graph.add("Where", own, table, graph.constant(-1, np.float32))
    selected = graph.add(
        "NonMaxSuppression",
        graph.add("Reshape", boxes, graph.constant([1, -1, 4])),
        table,
        graph.constant([spec.max_boxes]),
        graph.constant([spec.nms_iou], np.float32),
        graph.constant([spec.score_threshold], np.float32),
    )
    # Rows of image, class and candidate; the classes follow one another.
    kept = graph.add("Gather", selected, graph.constant(2), axis=1)
    kept_scores = graph.add("Gather", scores, kept, axis=0)
    kept_scores = graph.add("Concat", kept_scores, graph.constant([0], np.float32), axis=0)
    kept_boxes = graph.add("Gather", boxes, kept, axis=0)
    kept_boxes = graph.add("Concat", kept_boxes, graph.constant([[0] * 4], np.float32), axis=0)
    kept_labels = graph.add("Gather", labels, kept, axis=0)
    kept_labels = graph.add("Concat", kept_labels, graph.constant([0]), axis=0)
    ordered, order = graph.add(
        "TopK", kept_scores, graph.add("Shape", kept_scores), outputs=2, axis=0
    )
    first, last = graph.constant([0]), graph.constant([spec.max_boxes])
    order = graph.add("Slice", order, first, last)
    ordered = graph.add("Slice", ordered, first, last)
    rows = graph.add(
        "Concat",
        graph.add("Gather", kept_boxes, order, axis=0),
        graph.add("Reshape", ordered, graph.constant([-1, 1])),
        axis=1,
    )
    graph.result("dets", "Reshape", rows, graph.constant([1, -1, 5]))
    labels_row = graph.add("Gather", kept_labels, order, axis=0)
    graph.result("labels", "Reshape", labels_row, graph.constant([1, -1]))
