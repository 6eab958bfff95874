"""What kind of model an ONNX file holds: as it is described, or else found by structure.

A description comes from the user, from an SDK archive, or from the file's own metadata where this
kit exported it. By structure, and not by names, three kinds are known:

- ``simcc`` pose models: two outputs (N, K, W * r) and (N, K, H * r) with one ratio r for an input
  (N, 3, H, W); see ``converters.graph.simcc_outputs``.
- ``rtmdet`` and ``yolox`` detectors with a non-maximum suppression in the file, which is given
  what these codecs make of the graph's last maps; see ``converters.graph.detector_heads``.

What a declaration leaves open is found by running the file once. What was assumed beyond the file
is a note.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters.graph.border import takes_grey_levels
from converters.graph.detector_heads import (
    DetectorHeads,
    find_detector_heads,
    find_suppression,
    most_boxes,
)
from converters.graph.file import Graph, image_input_shape, output_shapes
from converters.graph.input_arithmetic import find_input_arithmetic
from converters.graph.normalisation import (
    BGR_MEAN,
    BGR_STD,
    RGB_MEAN,
    RGB_STD,
    check_described,
    settle_assumed,
)
from converters.graph.run_once import Shape, known_shapes
from converters.graph.simcc_outputs import Outputs, ratio_text, recognise_simcc, simcc_sizes
from edge.errors import ModelFileError, SpecError
from edge.spec import ModelSpec, TensorSpec
from edge.texts import parse_json

__all__ = ["BGR_MEAN", "BGR_STD", "RGB_MEAN", "RGB_STD", "SPEC_KEY", "Recognised", "recognise"]

SPEC_KEY = "edgepose.spec"
"""Key of an ONNX file's metadata that holds `ModelSpec.to_json()` as JSON text."""

# RTMDet files rarely fix their input; 320x320 is the size of RTMDet-nano, the usual edge choice.
DEFAULT_DETECTOR_HW = (320, 320)


@dataclass(frozen=True)
class Recognised:
    """How the untouched file is run, and where its raw heads are.

    ``source_spec`` describes the file as it is, at the spatial size that was asked for.
    ``heads`` is None where the file's own outputs are already what a codec takes. ``notes`` say
    what was assumed that the file does not tell, and what was read from its graph.
    """

    source_spec: ModelSpec
    heads: DetectorHeads | None
    notes: tuple[str, ...] = ()


def recognise(
    model: Any,
    path: Path,
    name: str,
    spec: ModelSpec | None = None,
    input_hw: tuple[int, int] | None = None,
    keypoint_set: str | None = None,
) -> Recognised:
    """Find out what a checked ONNX model is.

    ``spec`` is a description from outside and wins over the file's own; ``input_hw`` fixes a
    dynamic input; ``keypoint_set`` names the points whatever file and description say. Raises
    ModelFileError, which says what was looked for, when no kind fits, and SpecError for a
    description that does not fit the file.
    """
    found = _recognise(model, path, name, spec, input_hw, keypoint_set)
    if keypoint_set is None:
        return found
    named = found.source_spec
    if named.keypoint_set is None:
        raise SpecError(f"{path}: a detector has no keypoints to be called {keypoint_set!r}")
    named = replace(named, keypoint_set=keypoint_set, own_keypoints=None)
    return replace(found, source_spec=named)


def _recognise(
    model: Any,
    path: Path,
    name: str,
    spec: ModelSpec | None,
    input_hw: tuple[int, int] | None,
    keypoint_set: str | None,
) -> Recognised:
    input_name, shape = image_input_shape(model, path)
    if shape[0] not in (None, 1):
        raise ModelFileError(
            f"{path}: its batch is fixed at {shape[0]}; export it with a batch of 1 or an open one"
        )
    spec = spec or _own_spec(model, path, name)
    if spec is not None:
        return _as_described(model, path, spec, input_name, shape, input_hw)
    notes = []
    size = _input_hw(path, shape, input_hw)
    if size is None:
        if find_suppression(model) is None:
            raise ModelFileError(_open_size(path, output_shapes(model)))
        size = DEFAULT_DETECTOR_HW
        notes.append(
            f"the input's size is open: {size[0]}x{size[1]} (height x width) is taken, --size HxW "
            "says another"
        )
    shape = (shape[0], 3, *size)
    outputs = known_shapes(model, path, input_name, shape)
    heads = None
    pose = recognise_simcc(path, name, input_name, shape, outputs, keypoint_set)
    if pose is not None:
        source, said = pose
    else:
        heads = find_detector_heads(model, path, input_name, size)
        if heads is None:
            raise ModelFileError(_unknown(model, path, outputs, shape))
        source, said = _source_detector(model, path, name, input_name, shape, outputs)
        if heads.codec == "yolox":
            # The official YOLOX models take grey levels as they are.
            source = replace(source, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    inside = find_input_arithmetic(model, path, input_name, size)
    source, settled = settle_assumed(path, source, inside, grey_levels=takes_grey_levels(model))
    return Recognised(source, heads, (*notes, *said, *settled))


def _unknown(model: Any, path: Path, outputs: Outputs, shape: Shape) -> str:
    found = f"found the outputs {_outputs_text(output_shapes(model))}{ratio_text(outputs, shape)}"
    if find_suppression(model) is not None:
        found += (
            "; its suppression is given boxes and scores that are neither RTMDet's nor YOLOX's of "
            "the graph's last maps"
        )
    way = (
        "Describe it with --spec FILE"
        if any(len(sizes) in (3, 4) for _, sizes in outputs)
        else "No codec takes such outputs, so that no --spec can describe it"
    )
    return (
        f"{path}: this kind of model is not recognised. Looked for SimCC outputs (N, K, W*r) and "
        "(N, K, H*r), and for RTMDet or YOLOX (maps of logits, of 4 sides and of objectness a "
        f"level that feed a NonMaxSuppression); {found}. {way}"
    )


def _open_size(path: Path, outputs: Outputs) -> str:
    guess = simcc_sizes(outputs)
    fits = f"; its outputs fit {guess} at 2 bins a pixel" if guess else ""
    return (
        f"{path}: the height and width of its input are open; say which with --size HxW, for "
        f"example {guess or '256x192'}{fits} (where a detector is converted as well --size is the "
        "detector's: convert this model alone)"
    )


def _own_spec(model: Any, path: Path, name: str) -> ModelSpec | None:
    """The description that an exported file carries, under the name that is asked for."""
    text = next((entry.value for entry in model.metadata_props if entry.key == SPEC_KEY), None)
    if text is None:
        return None
    data = parse_json(text, f"{path}: its metadata {SPEC_KEY}")
    if not isinstance(data, dict):
        raise SpecError(f"{path}: its metadata {SPEC_KEY} is no table of keys")
    return replace(ModelSpec.from_json(data, where=f"{path}: {SPEC_KEY}"), name=name)


def _input_hw(path: Path, shape: Shape, asked: tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width: the file's, or where it leaves one open those that are asked for."""
    height, width = shape[2:]
    if asked is not None and (height or asked[0], width or asked[1]) != asked:
        raise ModelFileError(_fixed_size(path, (height, width), asked))
    if height is None or width is None:
        return asked
    return height, width


def _fixed_size(path: Path, has: tuple[int | None, int | None], asked: tuple[int, int]) -> str:
    return (
        f"{path}: its input is fixed at {has[0] or '?'}x{has[1] or '?'} (height x width) and "
        "cannot become "
        f"{asked[0]}x{asked[1]}; export the model at that size"
    )


def _as_described(
    model: Any,
    path: Path,
    spec: ModelSpec,
    input_name: str,
    shape: Shape,
    asked_hw: tuple[int, int] | None,
) -> Recognised:
    names = {value.name for value in model.graph.output}
    named = [tensor.name for tensor in (*spec.outputs, *spec.constants)]
    if spec.input.name != input_name or not names.issuperset(named):
        raise SpecError(
            f"{path}: the spec names input {spec.input.name!r} and outputs {named}, the file has "
            f"{input_name!r} and {_outputs_text(output_shapes(model))}"
        )
    size = _input_hw(path, shape, asked_hw or spec.input_hw)
    if size != spec.input_hw:
        raise SpecError(
            f"{path}: the spec says {spec.input_hw[0]}x{spec.input_hw[1]} (height x width), "
            f"but {size} was asked for"
        )
    inside = find_input_arithmetic(model, path, input_name, spec.input_hw)
    notes = check_described(path, spec, inside, grey_levels=takes_grey_levels(model))
    return Recognised(spec, _heads_of(model, path, spec), tuple(notes))


def _heads_of(model: Any, path: Path, spec: ModelSpec) -> DetectorHeads | None:
    """Raw maps behind described outputs that an engine or a precision may not be able to give.

    A suppression in the file, which few engines know; and YOLOX's one output, in which logits and
    pixels would share a scale.
    """
    if spec.task != "detection" or (spec.codec, len(spec.outputs)) not in (
        ("detections", 2),
        ("yolox", 1),
    ):
        return None
    names = [tensor.name for tensor in spec.outputs]
    return find_detector_heads(model, path, spec.input.name, spec.input_hw, names)


def _outputs_text(outputs: Outputs) -> str:
    return ", ".join(
        f"{name} ({', '.join('?' if size is None else str(size) for size in shape)})"
        for name, shape in outputs
    )


def _source_detector(
    model: Any, path: Path, name: str, input_name: str, shape: Shape, outputs: Outputs
) -> tuple[ModelSpec, list[str]]:
    """The spec of a detector as its file is, with the limits of its suppression, and notes."""
    dets = [n for n, dims in outputs if len(dims) == 3]
    labels = [n for n, dims in outputs if len(dims) == 2]
    if len(outputs) != 2 or len(dets) != 1 or len(labels) != 1:
        raise ModelFileError(
            f"{path}: a detector with its own non-maximum suppression should give dets (N, M, 5) "
            f"and labels (N, M), this one gives {_outputs_text(outputs)}"
        )
    spec = ModelSpec(
        name=name,
        task="detection",
        codec="detections",
        input=TensorSpec(input_name, shape),
        outputs=(
            TensorSpec(dets[0], (shape[0], None, 5)),
            TensorSpec(labels[0], (shape[0], None), "int64"),
        ),
        color_order="bgr",
        mean=BGR_MEAN,
        std=BGR_STD,
    )
    # Inputs of NonMaxSuppression: boxes, scores, max per class, IoU limit, score limit.
    suppression, graph = find_suppression(model), Graph(model)
    assert suppression is not None
    limits = [graph.scalar(n) if n else None for n in suppression.input[3:5]] + [None, None]
    iou, score = limits[:2]
    notes = []
    if iou is not None and 0 < iou <= 1:  # ONNX Runtime runs no other
        spec = replace(spec, nms_iou=round(iou, 6))
    if score is not None and 0 <= score < 1:
        spec = replace(spec, score_threshold=round(score, 6))
    elif score is not None:
        notes.append(
            f"the suppression in the file has a score limit of {score:g}, so that "
            f"{spec.score_threshold:g} is taken"
        )
    most = most_boxes(model, path, input_name, spec.input_hw, dets[0])
    return (replace(spec, max_boxes=most) if most else spec), notes
