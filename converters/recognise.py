"""What kind of model an ONNX file holds: as it is described, or else found by structure.

A description comes from the user, from an SDK archive, or from the file's own metadata where this
kit exported it. By structure, and not by names, three kinds are known:

- ``simcc`` pose models: two outputs (N, K, W * r) and (N, K, H * r) with one ratio r for a fixed
  input (N, 3, H, W).
- ``rtmdet`` detectors: behind the last convolutions of the graph there are, for every level, one
  map of class logits and one of 4 distances, which feed a non-maximum suppression in the file.
- ``yolox`` detectors: the same with a third map of one channel a level, the objectness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from converters.onnx_file import Graph, image_input_shape, output_shapes
from edge.errors import ModelFileError, SpecError
from edge.spec import KEYPOINT_SETS, ModelSpec, TensorSpec
from edge.texts import parse_json

__all__ = ["SPEC_KEY", "DetectorHeads", "Recognised", "find_detector_heads", "recognise"]

SPEC_KEY = "edgepose.spec"
"""Key of an ONNX file's metadata that holds `ModelSpec.to_json()` as JSON text."""

RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BGR_MEAN, BGR_STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)

# RTMDet files rarely fix their input; 320x320 is the size of RTMDet-nano, the usual edge choice.
DEFAULT_DETECTOR_HW = (320, 320)


@dataclass(frozen=True)
class DetectorHeads:
    """The raw maps that a codec takes: tensor names, a tuple a kind, in the codec's order of kinds.

    Within a kind they are in the file's order of levels. ``rtmdet`` has logits and distances,
    ``yolox`` logits, boxes and objectness.
    """

    codec: Literal["rtmdet", "yolox"]
    maps: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Recognised:
    """How the untouched file is run, and where its raw heads are.

    ``source_spec`` describes the file as it is, at the spatial size that was asked for.
    ``heads`` is None where the file's own outputs are already what a codec takes.
    """

    source_spec: ModelSpec
    heads: DetectorHeads | None


def recognise(
    model: Any,
    path: Path,
    name: str,
    spec: ModelSpec | None = None,
    input_hw: tuple[int, int] | None = None,
) -> Recognised:
    """Find out what a checked ONNX model is.

    ``spec`` is a description from outside and wins over the file's own; ``input_hw`` fixes a
    dynamic input. Raises ModelFileError, which says what was looked for, when no kind fits.
    """
    input_name, shape = image_input_shape(model, path)
    if shape[0] not in (None, 1):
        raise ModelFileError(
            f"{path}: its batch is fixed at {shape[0]}; export it with a batch of 1 or an open one"
        )
    spec = spec or _own_spec(model, path, name)
    if spec is not None:
        return _as_described(model, path, spec, input_name, shape, input_hw)
    size = _input_hw(path, shape, input_hw)
    pose = _recognise_simcc(model, name, input_name, shape)
    if pose is not None:
        if size is not None and size != pose.input_hw:
            raise ModelFileError(_fixed_size(path, pose.input_hw, size))
        return Recognised(pose, None)
    heads = find_detector_heads(model)
    if heads is None:
        raise ModelFileError(
            f"{path}: this kind of model is not recognised. Looked for SimCC outputs "
            "(N, K, W*r) and (N, K, H*r), and for RTMDet or YOLOX (maps of logits, of 4 sides and "
            "of objectness a level that feed a NonMaxSuppression); found the outputs "
            f"{_outputs_text(model)}. Describe it with --spec FILE"
        )
    size = size or DEFAULT_DETECTOR_HW
    source = _source_detector(model, path, name, input_name, shape[0], size)
    if heads.codec == "yolox":
        # The official YOLOX models take grey levels as they are.
        source = replace(source, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return Recognised(source, heads)


def _own_spec(model: Any, path: Path, name: str) -> ModelSpec | None:
    """The description that an exported file carries, under the name that is asked for."""
    text = next((entry.value for entry in model.metadata_props if entry.key == SPEC_KEY), None)
    if text is None:
        return None
    data = parse_json(text, f"{path}: its metadata {SPEC_KEY}")
    if not isinstance(data, dict):
        raise SpecError(f"{path}: its metadata {SPEC_KEY} is no table of keys")
    return replace(ModelSpec.from_json(data, where=f"{path}: {SPEC_KEY}"), name=name)


def _input_hw(
    path: Path, shape: tuple[int | None, ...], asked: tuple[int, int] | None
) -> tuple[int, int] | None:
    height, width = shape[2:]
    if height is None or width is None:
        return asked
    if asked is not None and asked != (height, width):
        raise ModelFileError(_fixed_size(path, (height, width), asked))
    return height, width


def _fixed_size(path: Path, has: tuple[int, int], asked: tuple[int, int]) -> str:
    return (
        f"{path}: its input is fixed at {has[0]}x{has[1]} (height x width) and cannot become "
        f"{asked[0]}x{asked[1]}; export the model at that size"
    )


def _as_described(
    model: Any,
    path: Path,
    spec: ModelSpec,
    input_name: str,
    shape: tuple[int | None, ...],
    asked_hw: tuple[int, int] | None,
) -> Recognised:
    names = {value.name for value in model.graph.output}
    named = [tensor.name for tensor in (*spec.outputs, *spec.constants)]
    if spec.input.name != input_name or not names.issuperset(named):
        raise SpecError(
            f"{path}: the spec names input {spec.input.name!r} and outputs {named}, the file has "
            f"{input_name!r} and {_outputs_text(model)}"
        )
    size = _input_hw(path, shape, asked_hw or spec.input_hw)
    if size != spec.input_hw:
        raise SpecError(
            f"{path}: the spec says {spec.input_hw[0]}x{spec.input_hw[1]} (height x width), "
            f"but {size} was asked for"
        )
    return Recognised(spec, _heads_of(model, spec))


def _heads_of(model: Any, spec: ModelSpec) -> DetectorHeads | None:
    """Raw maps behind described outputs that an engine or a precision may not be able to give.

    A suppression in the file, which few engines know; and YOLOX's one output, in which logits and
    pixels would share a scale.
    """
    if spec.task != "detection" or (spec.codec, len(spec.outputs)) not in (
        ("detections", 2),
        ("yolox", 1),
    ):
        return None
    heads = find_detector_heads(model, [tensor.name for tensor in spec.outputs])
    if heads is None or (spec.codec == "yolox" and heads.codec != "yolox"):
        return None
    return heads


def _outputs_text(model: Any) -> str:
    return ", ".join(
        f"{name} ({', '.join('?' if size is None else str(size) for size in shape)})"
        for name, shape in output_shapes(model)
    )


def _recognise_simcc(
    model: Any, name: str, input_name: str, shape: tuple[int | None, ...]
) -> ModelSpec | None:
    height, width = shape[2:]
    outputs = output_shapes(model)
    if len(outputs) != 2 or height is None or width is None:
        return None
    if any(len(dims) != 3 or dims[1] is None or dims[2] is None for _, dims in outputs):
        return None
    if outputs[0][1][1] != outputs[1][1][1]:
        return None
    # The axis of a square model's outputs cannot be told by their sizes; the order can.
    for first, second in ((0, 1), (1, 0)):
        (name_x, dims_x), (name_y, dims_y) = outputs[first], outputs[second]
        bins_x, bins_y, keypoints = dims_x[2], dims_y[2], dims_x[1]
        assert bins_x is not None and bins_y is not None and keypoints is not None
        if bins_x * height == bins_y * width and bins_x >= width:
            break
    else:
        return None
    if bins_x == bins_y and "y" in name_x.lower()[-1:] and "x" in name_y.lower()[-1:]:
        name_x, name_y = name_y, name_x
    # The number of points is all that a file tells of them.
    known = (key for key, value in KEYPOINT_SETS.items() if len(value.keypoints) == keypoints)
    keypoint_set = next(known, f"unnamed-{keypoints}")
    return ModelSpec(
        name=name,
        task="pose",
        codec="simcc",
        input=TensorSpec(input_name, (shape[0], 3, height, width)),
        outputs=(
            TensorSpec(name_x, (shape[0], keypoints, bins_x)),
            TensorSpec(name_y, (shape[0], keypoints, bins_y)),
        ),
        color_order="rgb",
        mean=RGB_MEAN,
        std=RGB_STD,
        keypoint_set=keypoint_set,
        simcc_split_ratio=bins_x / width,
    )


_ELEMENTWISE = ("Mul", "Exp", "Identity", "Relu", "Clip")


def find_detector_heads(model: Any, outputs: Sequence[str] = ()) -> DetectorHeads | None:
    """The raw maps of a detector's graph, or None.

    The last convolutions (those that no other convolution follows) must be, for every level, one
    map of 4 channels, the sides, one of a channel a class, the logits, and for YOLOX one of a
    single channel, the objectness. RTMDet's distances are taken behind the constant factor (their
    stride) or the exponential that directly follows. ``outputs`` narrows the graph to what these
    depend on; without them there must be a non-maximum suppression.
    """
    if not outputs and not any(node.op_type == "NonMaxSuppression" for node in model.graph.node):
        return None
    graph = Graph(model)
    nodes = graph.needed_by(outputs) if outputs else model.graph.node
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    feeds_conv: set[str] = set()
    for node in graph.needed_by(convolution.input[0] for convolution in convolutions):
        feeds_conv.update(node.output)
    last = [node for node in convolutions if node.output[0] not in feeds_conv]
    ends = [(node.output[0], *_through_scaling(graph, node.output[0])) for node in last]
    channels = []
    for node in last:
        weight = graph.constant(node.input[1])
        channels.append(None if weight is None else int(weight.shape[0]))
    rows = list(zip(channels, ends, strict=True))
    fours = [row for row in rows if row[0] == 4]
    if len(fours) * 3 == len(rows):
        return _yolox_heads(rows)
    # A detector of four classes: only the scaling tells distances from logits.
    several = len(fours) * 2 == len(rows)
    is_distance = [count == 4 and (several or scaled) for count, (_, _, scaled) in rows]
    distances = tuple(end for (_, (_, end, _)), box in zip(rows, is_distance, strict=True) if box)
    others = [row for row, box in zip(rows, is_distance, strict=True) if not box]
    logits = tuple(raw for _, (raw, _, _) in others)
    if not distances or len(distances) != len(logits) or len({count for count, _ in others}) != 1:
        return None
    return DetectorHeads("rtmdet", (logits, distances))


def _yolox_heads(rows: list[tuple[int | None, tuple[str, str, bool]]]) -> DetectorHeads | None:
    """Logits, boxes and objectness, of which the last two have 4 channels and 1.

    With one class, logits and objectness are told by their order alone; the score is the product of
    both, so that nothing depends on it.
    """
    boxes = tuple(raw for count, (raw, _, _) in rows if count == 4)
    rest = [(count, raw) for count, (raw, _, _) in rows if count != 4]
    classes = {count for count, _ in rest} - {1}
    if not classes:
        logits, objectness = rest[::2], rest[1::2]
    elif len(classes) == 1:
        logits = [row for row in rest if row[0] != 1]
        objectness = [row for row in rest if row[0] == 1]
    else:
        return None
    if len(logits) != len(boxes) or len(objectness) != len(boxes):
        return None
    kinds = (logits, [(4, name) for name in boxes], objectness)
    return DetectorHeads("yolox", tuple(tuple(name for _, name in kind) for kind in kinds))


def _through_scaling(graph: Graph, name: str) -> tuple[str, bool]:
    """Follow elementwise nodes with constants; the last tensor and whether there was any."""
    scaled = False
    while True:
        following = [n for n in graph.consumers.get(name, []) if n.op_type != "Shape"]
        if len(following) != 1 or following[0].op_type not in _ELEMENTWISE:
            return name, scaled
        node = following[0]
        if any(other != name and graph.constant(other) is None for other in node.input if other):
            return name, scaled
        name, scaled = node.output[0], scaled or node.op_type in ("Mul", "Exp")


def _source_detector(
    model: Any,
    path: Path,
    name: str,
    input_name: str,
    batch: int | None,
    input_hw: tuple[int, int],
) -> ModelSpec:
    common = {
        "name": name,
        "task": "detection",
        "input": TensorSpec(input_name, (batch, 3, *input_hw)),
        "color_order": "bgr",
        "mean": BGR_MEAN,
        "std": BGR_STD,
    }
    outputs = output_shapes(model)
    suppression = next(n for n in model.graph.node if n.op_type == "NonMaxSuppression")
    graph = Graph(model)
    dets = [n for n, dims in outputs if len(dims) == 3]
    labels = [n for n, dims in outputs if len(dims) == 2]
    if len(outputs) != 2 or len(dets) != 1 or len(labels) != 1:
        raise ModelFileError(
            f"{path}: a detector with its own non-maximum suppression should give dets (N, M, 5) "
            f"and labels (N, M), this one gives {_outputs_text(model)}"
        )
    # Inputs of NonMaxSuppression: boxes, scores, max per class, IoU limit, score limit.
    limits = [graph.scalar(n) if n else None for n in suppression.input[3:5]] + [None, None]
    iou, score = limits[:2]
    spec = ModelSpec(
        codec="detections",
        outputs=(
            TensorSpec(dets[0], (batch, None, 5)),
            TensorSpec(labels[0], (batch, None), "int64"),
        ),
        **common,  # type: ignore[arg-type]
    )
    return replace(
        spec,
        nms_iou=spec.nms_iou if iou is None else round(iou, 6),
        score_threshold=spec.score_threshold if score is None else round(score, 6),
    )
