"""YOLOX as others publish it: by PyTorch with the official stem, and its files' suppression.

Random weights; the last layers' are such that something is found everywhere.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
HW = (96, 128)


class Builder:
    """Nodes and weights of a small detector, written one by one."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.rng = np.random.default_rng(3)

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def focus(self, source: str) -> str:
        """Every second row and column four times, put one behind the other, as torch exports it."""
        patches = []
        self.constant("focus.end", [2**63 - 1], np.int64)
        self.constant("focus.step", [2], np.int64)
        for axis in (2, 3):
            self.constant(f"focus.axis_{axis}", [axis], np.int64)
        for first in (0, 1):
            self.constant(f"focus.start_{first}", [first], np.int64)
        for column in (0, 1):
            for row in (0, 1):
                name = f"focus.{row}{column}"
                for axis, first, into in ((2, row, f"{name}.rows"), (3, column, name)):
                    places = [f"focus.start_{first}", "focus.end", f"focus.axis_{axis}"]
                    part = source if axis == 2 else f"{name}.rows"
                    self.add("Slice", [part, *places, "focus.step"], into)
                patches.append(name)
        return self.add("Concat", patches, "focus", axis=1)

    def conv(
        self, source: str, output: str, channels: tuple[int, int], stride: int, scale: float
    ) -> str:
        kernel = stride
        weight = self.rng.normal(0, scale, (channels[1], channels[0], kernel, kernel))
        return self.add(
            "Conv",
            [source, self.constant(f"{output}.w", weight)],
            output,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
        )


def suppress(
    b: Builder,
    classes: int,
    hw: tuple[int, int],
    strides_px: Sequence[int],
    *,
    several: bool = False,
    least: float = 0.5,
) -> list[Any]:
    """Decoding and suppression of one image, as detectors carry it: dets (1, M, 5), labels.

    ``several``: a cell answers for every class above the threshold, as mmdeploy writes it.
    """
    cells, strides = [], []
    for stride in strides_px:
        y, x = np.mgrid[: hw[0] // stride, : hw[1] // stride]
        cells.append(np.stack([x, y], -1).reshape(-1, 2) * stride)
        strides.append(np.full((x.size, 1), stride))
    b.constant("cells", np.concatenate(cells)[None])
    b.constant("strides", np.concatenate(strides)[None])
    b.constant("sizes", [2, 2, 1, classes], np.int64)
    parts = ["xy", "wh", "objectness", "classes"]
    b.nodes.append(helper.make_node("Split", ["output", "sizes"], parts, axis=2))
    centre = b.add("Add", [b.add("Mul", ["xy", "strides"], "xy.px"), "cells"], "centre")
    size = b.add("Mul", [b.add("Exp", ["wh"], "wh.exp"), "strides"], "size")
    half = b.add("Mul", [size, b.constant("half", 0.5)], "half_size")
    corners = [b.add("Sub", [centre, half], "low"), b.add("Add", [centre, half], "high")]
    b.add("Concat", corners, "boxes", axis=2)
    answers = "classes"
    if not several:  # a cell answers for its best class alone
        b.add("ReduceMax", ["classes"], "best", axes=[2], keepdims=1)
        is_best = b.add("Equal", ["classes", "best"], "is_best")
        answers = b.add("Where", [is_best, "classes", b.constant("none", 0.0)], "one_class")
    b.add("Mul", [answers, "objectness"], "product")
    b.add("Transpose", ["product"], "scores", perm=[0, 2, 1])
    limits = [
        b.constant("most", 100, np.int64),
        b.constant("iou", 0.65),
        b.constant("least", least),
    ]
    b.add("NonMaxSuppression", ["boxes", "scores", *limits], "kept")
    b.constant("columns", [1, 1, 1], np.int64)
    b.nodes.append(
        helper.make_node("Split", ["kept", "columns"], ["picture", "class", "anchor"], axis=1)
    )
    where = b.add("Concat", ["picture", "class", "anchor"], "where", axis=1)
    score = b.add("GatherND", ["scores", where], "score")
    place = b.add("Concat", ["picture", "anchor"], "place", axis=1)
    box = b.add("GatherND", ["boxes", place], "box")
    b.constant("axis_1", [1], np.int64)
    b.constant("axis_0", [0], np.int64)
    column = b.add("Unsqueeze", [score, "axis_1"], "score.column")
    b.add("Unsqueeze", [b.add("Concat", [box, column], "rows", axis=1), "axis_0"], "dets.any")
    # Best first over all classes, as these files come.
    b.add("Shape", [score], "count")
    b.nodes.append(helper.make_node("TopK", [score, "count"], ["score.sorted", "order"], axis=0))
    b.add("Gather", ["dets.any", "order"], "dets", axis=1)
    flat = b.add("Squeeze", ["class", "axis_1"], "class.flat")
    b.add("Unsqueeze", [b.add("Gather", [flat, "order"], "class.sorted"), "axis_0"], "labels")
    return [
        helper.make_tensor_value_info("dets", TensorProto.FLOAT, [1, None, 5]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [1, None]),
    ]


def with_suppression(model: Any, classes: int, *, several: bool = True) -> Any:
    """The network of ``official_network`` with the suppression in the file; one image."""
    b = Builder()
    outputs = suppress(b, classes, HW, STRIDES, several=several, least=0.3)
    model.graph.node.extend(b.nodes)
    model.graph.initializer.extend(b.weights)
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return model


def official_network(
    classes: int,
    order: Literal["megvii", "mmdet"] = "megvii",
    *,
    gain: float = 1.0,
    opset: int = 17,
) -> Any:
    """ONNX with Megvii's one output (N, A, 5 + classes) of a small YOLOX with the Focus stem.

    ``order`` is that of a level's branches: box, objectness, classes (Megvii), or classes, box,
    objectness (mmdet). ``gain`` multiplies the first layer's weights and divides the picture.
    """
    import torch
    from torch import nn

    def layer(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.SiLU())

    class Head(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.of_class, self.of_box = (
                layer(24, 16, 1),
                layer(16, 16, 3),
                layer(16, 16, 3),
            )
            self.classes, self.box = nn.Conv2d(16, classes, 1), nn.Conv2d(16, 4, 1)
            self.objectness = nn.Conv2d(16, 1, 1)
            nn.init.normal_(self.classes.weight, std=0.8)
            nn.init.normal_(self.objectness.weight, std=0.8)
            nn.init.normal_(self.box.weight, std=0.15)
            nn.init.constant_(self.box.bias, 0.5)

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            if order == "mmdet":
                classes_, box = self.classes(self.of_class(x)), self.box(self.of_box(x))
                seen = self.objectness(self.of_box(x))
            else:
                classes_ = self.classes(self.of_class(x))
                features = self.of_box(x)
                box, seen = self.box(features), self.objectness(features)
            return torch.cat([box, seen.sigmoid(), classes_.sigmoid()], 1).flatten(2)

    class Yolox(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem = layer(12, 12, 3)
            self.first = nn.Sequential(layer(12, 24, 3, 2), layer(24, 24, 3, 2))
            self.levels = nn.ModuleList([layer(24, 24, 3, 2), layer(24, 24, 3, 2)])
            self.heads = nn.ModuleList([Head() for _ in STRIDES])

        def forward(self, x: Any) -> Any:
            left_right = [x[..., first::2, second::2] for second in (0, 1) for first in (0, 1)]
            x = self.first(self.stem(torch.cat(left_right, 1)))
            levels = [x]
            for level in self.levels:
                levels.append(level(levels[-1]))
            rows = [head(x) for head, x in zip(self.heads, levels, strict=True)]
            return torch.cat(rows, 2).permute(0, 2, 1)

    torch.manual_seed(0)
    model = Yolox().eval()
    with torch.no_grad():
        model.stem[0].weight.mul_(gain)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # of grey levels in, and of the order of 1 out
                module.running_var.fill_((60.0 * gain) ** 2 if module is model.stem[1] else 0.3)
                if module is model.stem[1]:
                    module.eps = 0.0
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter, which others still use
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, *HW),),
            file,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )
    import onnx

    return onnx.load_from_string(file.getvalue())
