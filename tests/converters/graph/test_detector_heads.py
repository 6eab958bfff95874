from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.graph.detector_heads import find_detector_heads
from converters.graph.prepare import prepare
from converters.graph.recognise import recognise
from converters.graph.run_once import run_once
from edge.codecs import BOX_CODECS
from edge.errors import ModelFileError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

HW, STRIDES = (64, 96), (8, 16, 32)


class Detector:
    """A detector of one convolution a map, with the decoding of a family and its suppression."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.rng = np.random.default_rng(5)

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{op.lower()}_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def features(self, stride: int) -> str:
        kernel = self.rng.normal(0, 0.4 / stride, (6, 3, stride, stride))
        return str(self.add("Conv", "input", self.weight(kernel), strides=[stride, stride]))

    def map(self, features: str, channels: int, scale: float = 0.3, bias: float = 0.0) -> str:
        kernel = self.rng.normal(0, scale, (channels, 6, 1, 1))
        return str(
            self.add("Conv", features, self.weight(kernel), self.weight(np.full(channels, bias)))
        )

    def flat(self, name: str, channels: int) -> str:
        shape = self.weight([1, channels, -1], np.int64)
        return str(self.add("Transpose", self.add("Reshape", name, shape), perm=[0, 2, 1]))

    def model(self, boxes: str, scores: str, *, limits: tuple[float, float] = (0.65, 0.3)) -> Any:
        """With a suppression that is given boxes (1, A, 4) and scores (1, A, C)."""
        scores = self.add("Transpose", scores, perm=[0, 2, 1])
        most = self.weight([100], np.int64)
        iou, score = (self.weight([limit]) for limit in limits)
        kept = self.add("NonMaxSuppression", boxes, scores, most, iou, score)
        columns = self.weight([1, 1, 1], np.int64)
        picture, label, place = self.add("Split", kept, columns, outputs=3, axis=1)
        score = self.add("GatherND", scores, kept)
        box = self.add("GatherND", boxes, self.add("Concat", picture, place, axis=1))
        column = self.add("Unsqueeze", score, self.weight([1], np.int64))
        rows = self.add("Concat", box, column, axis=1)
        _, order = self.add("TopK", score, self.add("Shape", score), outputs=2, axis=0)
        first = self.weight([0], np.int64)
        for name, value in (("dets", rows), ("labels", self.add("Squeeze", label))):
            ordered = self.add("Gather", value, order, axis=0)
            self.nodes.append(helper.make_node("Unsqueeze", [ordered, first], [name]))
        graph = helper.make_graph(
            self.nodes,
            "detector",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, *HW])],
            [
                helper.make_tensor_value_info("dets", TensorProto.FLOAT, [1, "kept", 5]),
                helper.make_tensor_value_info("labels", TensorProto.INT64, [1, "kept"]),
            ],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def cells(offset: float = 0.0) -> tuple[Any, Any]:
    """Places in pixels (A, 2) and strides (A, 1) of all cells, level by level and row by row."""
    places, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: HW[0] // stride, : HW[1] // stride]
        places.append((np.stack([x, y], -1).reshape(-1, 2) + offset) * stride)
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(places), np.concatenate(strides)


def distances(
    classes: int,
    *,
    exponential: bool = False,
    offset: float = 0.0,
    centerness: bool = False,
    sides_first: bool = False,
) -> Any:
    """RTMDet's head; with an offset YOLOv6's or FCOS's, with a centreness FCOS's alone."""
    d, boxes, scores, centres = Detector(), [], [], []
    for stride in STRIDES:
        features = d.features(stride)
        bias = 0.5 if exponential else 1.5
        if sides_first:
            sides = d.map(features, 4, 0.2, bias)
            logits = d.map(features, classes, 2.0)
        else:
            logits = d.map(features, classes, 2.0)
            sides = d.map(features, 4, 0.2, bias)
        if exponential:
            sides = d.add("Exp", sides)
        sides = d.add("Mul", sides, d.weight(float(stride)))
        boxes.append(d.flat(sides, 4))
        scores.append(d.flat(d.add("Sigmoid", logits), classes))
        if centerness:
            centres.append(d.flat(d.add("Sigmoid", d.map(features, 1, 2.0)), 1))
    joined = d.add("Concat", *boxes, axis=1)
    first_sides, second_sides = d.add("Split", joined, outputs=2, axis=2)
    places = d.weight(cells(offset)[0][None])
    corners = d.add(
        "Concat", d.add("Sub", places, first_sides), d.add("Add", places, second_sides), axis=2
    )
    score = d.add("Concat", *scores, axis=1)
    if centerness:
        score = d.add("Sqrt", d.add("Mul", score, d.add("Concat", *centres, axis=1)))
    return d.model(corners, score)


def yolox(
    classes: int, order: str = "box object class", *, anchors: float = 0.0, form: str = "exp"
) -> Any:
    """YOLOX's head, its maps in any order; with anchors or another growth it is another's."""
    d, boxes, scores, objects = Detector(), [], [], []
    channels = {"box": (4, 0.2), "object": (1, 2.0), "class": (classes, 2.0)}
    for stride in STRIDES:
        features = d.features(stride)
        maps = {kind: d.map(features, *channels[kind]) for kind in order.split()}
        boxes.append(d.flat(maps["box"], 4))
        scores.append(d.flat(d.add("Sigmoid", maps["class"]), classes))
        objects.append(d.flat(d.add("Sigmoid", maps["object"]), 1))
    joined = d.add("Concat", *boxes, axis=1)
    xy, wh = d.add("Split", joined, outputs=2, axis=2)
    places, strides = cells()
    centre = d.add("Mul", xy, d.weight(strides[None]))
    centre = d.add("Add", centre, d.weight(places[None]))
    if form == "exp":
        size = d.add("Exp", wh)
    else:  # (2 sigmoid)^2, as YOLOv5 has it
        twice = d.add("Mul", d.add("Sigmoid", wh), d.weight(2.0))
        size = d.add("Mul", twice, twice)
    size = d.add("Mul", size, d.weight(strides[None] * (1 + anchors)))
    half = d.add("Mul", size, d.weight(0.5))
    corners = d.add("Concat", d.add("Sub", centre, half), d.add("Add", centre, half), axis=2)
    score = d.add("Mul", d.add("Concat", *scores, axis=1), d.add("Concat", *objects, axis=1))
    return d.model(corners, score)


def cut_off(model: Any) -> None:
    """Boxes end at the input's rim before the suppression, as in mmdet."""
    nodes = model.graph.node
    index, nms = next((i, n) for i, n in enumerate(nodes) if n.op_type == "NonMaxSuppression")
    boxes = nms.input[0]
    for node in nodes:
        node.input[:] = ["boxes_cut" if name == boxes else name for name in node.input]
    for name, value in (("nothing", 0), ("rim", [HW[1], HW[0]] * 2)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    nodes.insert(index, helper.make_node("Max", [boxes, "nothing"], ["boxes_low"]))
    nodes.insert(index + 1, helper.make_node("Min", ["boxes_low", "rim"], ["boxes_cut"]))


def same_boxes(model: Any, path: Path) -> int:
    """How many boxes the prepared maps and the file itself give alike, for noise."""
    onnx.save(model, path)
    made = prepare(path, "detector")
    image = np.random.default_rng(9).normal(0, 1, (1, 3, *HW)).astype(np.float32)
    own = run_once(model, path, {"input": image}, ["dets", "labels"])
    names = [tensor.name for tensor in made.spec.outputs]
    maps = run_once(made.model, path, {"input": image}, names)
    boxes, labels = BOX_CODECS[made.spec.codec](maps, made.spec)[0]
    # A cell may answer for several classes in these files: its best one is compared.
    want = {
        (int(label), *np.round(row, 1).tolist())
        for row, label in zip(own["dets"][0], own["labels"][0], strict=True)
    }
    got = {
        (int(label), *np.round(row, 1).tolist()) for row, label in zip(boxes, labels, strict=True)
    }
    assert got <= want or len(got & want) > 0.9 * len(got)
    return len(got & want)


@pytest.mark.parametrize("classes", [1, 2, 4, 80])
@pytest.mark.parametrize("exponential", [False, True])
@pytest.mark.parametrize("sides_first", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_rtmdet_of_any_number_of_classes(
    classes: int, exponential: bool, sides_first: bool, cut: bool, tmp_path: Path
) -> None:
    model = distances(classes, exponential=exponential, sides_first=sides_first)
    if cut:
        cut_off(model)
    heads = find_detector_heads(model, tmp_path, "input", HW)
    assert heads is not None
    assert (heads.codec, heads.cut_at_rim) == ("rtmdet", cut)
    assert same_boxes(model, tmp_path / "detector.onnx") > 10


@pytest.mark.parametrize("classes", [1, 3, 4, 80])
@pytest.mark.parametrize("order", ["box object class", "class box object", "object class box"])
def test_yolox_of_any_number_of_classes(classes: int, order: str, tmp_path: Path) -> None:
    """Four classes have as many channels as the boxes, one class as many as the objectness."""
    model = yolox(classes, order)
    heads = find_detector_heads(model, tmp_path, "input", HW)
    assert heads is not None
    assert heads.codec == "yolox"
    assert same_boxes(model, tmp_path / "detector.onnx") > 10


LOOKALIKES = {
    "YOLOv6: cells counted from their centres": lambda: distances(3, offset=0.5),
    "FCOS: maps of YOLOX's shapes": lambda: distances(3, offset=0.5, centerness=True),
    "FCOS with exp": lambda: distances(1, exponential=True, offset=0.5, centerness=True),
    "RTMDet's maps and a centreness": lambda: distances(4, centerness=True),
    "YOLOX with anchors": lambda: yolox(3, anchors=0.5),
    "YOLOv5's growth": lambda: yolox(4, form="sigmoid"),
}


@pytest.mark.parametrize("make", LOOKALIKES.values(), ids=LOOKALIKES)
def test_what_merely_looks_like_one_is_refused(make: Callable[[], Any], tmp_path: Path) -> None:
    model, path = make(), tmp_path / "detector.onnx"
    assert find_detector_heads(model, path, "input", HW) is None
    with pytest.raises(ModelFileError, match=r"neither RTMDet's nor YOLOX's .*--spec FILE"):
        recognise(model, path, "detector")


def test_limits_are_those_of_the_file_where_they_can_be_some(tmp_path: Path) -> None:
    found = recognise(distances(1), tmp_path / "d.onnx", "d").source_spec
    assert (found.nms_iou, found.score_threshold, found.max_boxes) == (0.65, 0.3, 100)
    odd = distances(1)
    suppression = next(node for node in odd.graph.node if node.op_type == "NonMaxSuppression")
    for weight in odd.graph.initializer:
        if weight.name == suppression.input[4]:
            weight.CopyFrom(numpy_helper.from_array(np.array([30], np.float32), weight.name))
    said = recognise(odd, tmp_path / "d.onnx", "d")
    assert (said.source_spec.nms_iou, said.source_spec.score_threshold) == (0.65, 0.05)
    assert "a score limit of 30, so that 0.05 is taken" in said.notes[0]


def test_the_real_detector_keeps_as_many_boxes_as_its_file(rtmdet_file: Path) -> None:
    """mmdeploy's suppression keeps 200, and what follows 100 of them."""
    model = onnx.load(rtmdet_file)
    assert recognise(model, rtmdet_file, "nano").source_spec.max_boxes == 100
