"""What a model is: enough to run it with no other knowledge.

A ``ModelSpec`` is plain data. It travels as the ``spec`` block of ``artifact.json`` and, for
ONNX files that the kit cannot recognise, as a JSON or TOML file with the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NoReturn, get_args

import numpy as np

from edge.errors import SpecError
from edge.keypoints import KEYPOINT_SETS, KeypointSet, find_keypoint_set, read_keypoint_set
from edge.records import check, record, shown
from edge.spec_keys import (
    REQUIRED_KEYS,
    SPEC_KEYS,
    Codec,
    ColorOrder,
    HeatmapRefinement,
    Letterbox,
    Task,
    fraction_hint,
)
from edge.spec_outputs import CODEC_CHECKS

__all__ = [
    "FORMATS",
    "KEYPOINT_SETS",
    "PRECISIONS",
    "QUANTISED",
    "Codec",
    "ColorOrder",
    "Format",
    "HeatmapRefinement",
    "KeypointSet",
    "Letterbox",
    "ModelSpec",
    "Precision",
    "Task",
    "TensorSpec",
    "Variant",
    "find_keypoint_set",
]

Format = Literal["onnx", "ncnn", "openvino", "tflite", "tensorrt"]
# dynamic-range: int8 weights alone; w8a16: int16 activations; mixed: int8 with named float parts.
Precision = Literal["fp32", "fp16", "dynamic-range", "int8", "mixed", "w8a16"]

FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
QUANTISED: frozenset[Precision] = frozenset({"dynamic-range", "int8", "mixed", "w8a16"})


@dataclass(frozen=True)
class Variant:
    """A format and a precision, written ``ncnn-fp16``."""

    format: Format
    precision: Precision

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read ``FORMAT-PRECISION``; anything else is a SpecError that lists the words."""
        format_name, _, precision = text.strip().partition("-")
        if format_name not in FORMATS or precision not in PRECISIONS:
            raise SpecError(
                f"unknown variant {text.strip()!r}: a variant is FORMAT-PRECISION with a format of "
                f"{', '.join(FORMATS)} and a precision of {', '.join(PRECISIONS)}"
            )
        return cls(format_name, precision)

    def __str__(self) -> str:
        return f"{self.format}-{self.precision}"


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of one network input or output.

    A dimension of ``None`` is decided at run time (the batch, the number of detections).
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: Literal["float32", "int64"] = "float32"

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape fits."""
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class ModelSpec:
    """Everything the runtime needs to know of a network.

    ``input`` is one float32 image tensor (N, 3, H, W); ``mean`` and ``std`` are in the order of
    its channels, in grey levels of 0..255. The remaining fields belong to some tasks or codecs and
    are ignored by the others:

    - pose: ``box_padding`` widens the boxes; ``udp`` crops by the unbiased scale (W - 1) / box
      width, which a heatmap's cells then follow too.
    - detection: ``class_names`` are those of its labels, in order; none where nobody knows them.
    - detection and one-stage: ``letterbox`` places the whole image, ``pad_value`` fills the rest;
      ``score_threshold`` and the other figures of the non-maximum suppression are those of the
      model's ``test_cfg``. ``strides`` of the levels are in the order of the outputs.
    - ``simcc``: ``simcc_split_ratio`` bins per input pixel.
    - ``heatmap``: one output (N, K, h, w); ``heatmap_refinement`` says how a maximum becomes finer
      than a cell, ``heatmap_blur_kernel`` is the size in cells of the blur that some start with.
    - ``rtmdet``: logits of every stride, then distances of every stride. With ``cut_at_rim`` boxes
      end at the input's rim before the suppression, as in mmdet; mmdeploy's files leave that out.
    - ``yolox``: one output (N, anchors, 5 + classes), or class logits, boxes and objectness, each
      of every stride. With ``several_labels`` a cell answers for every class, else for its best.
    - ``rtmo``: logits, boxes, visibility and pose vectors, each of every stride. ``constants`` are
      arrays that decoding needs and the network does not compute.
    - ``own_keypoints``: names, links, mirrored pairs and sigmas that the model brings itself, for a
      ``keypoint_set`` that the kit does not know, or whose published figures are others.
    - ``detections``: the suppression happens in the file. Outputs are dets (N, M, 5) and labels
      (N, M), or, of a one-stage model, dets and keypoints (N, M, K, 3).
    """

    name: str
    task: Task
    codec: Codec
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    color_order: ColorOrder
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    keypoint_set: str | None = None
    class_names: tuple[str, ...] = ()
    pad_value: int = 114
    letterbox: Letterbox = "top-left"
    box_padding: float = 1.25
    udp: bool = False
    simcc_split_ratio: float = 2.0
    heatmap_refinement: HeatmapRefinement = "shift"
    heatmap_blur_kernel: int = 11
    strides: tuple[int, ...] = ()
    score_threshold: float = 0.05
    nms_iou: float = 0.6
    nms_candidates_per_level: int = 1000
    max_boxes: int = 100
    several_labels: bool = False
    cut_at_rim: bool = False
    constants: tuple[TensorSpec, ...] = ()
    own_keypoints: KeypointSet | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        height, width = self.input.shape[2:]
        if height is None or width is None:
            raise SpecError(
                f"{self.name}: the input size is not fixed; convert it with --size HxW first"
            )
        return height, width

    @property
    def keypoints(self) -> KeypointSet:
        """The keypoint set of a pose or one-stage model; SpecError for a detector."""
        if self.keypoint_set is None:
            raise SpecError(f"{self.name} is a {self.task} model and has no keypoints")
        return self.own_keypoints or find_keypoint_set(self.keypoint_set)

    @property
    def class_count(self) -> int | None:
        """How many classes a detector tells apart; None where its outputs do not say."""
        if self.codec == "rtmdet":
            return self.outputs[0].shape[1]
        if self.codec == "yolox" and len(self.outputs) == 1:
            size = self.outputs[0].shape[-1]
            return None if size is None else size - 5
        return self.outputs[0].shape[1] if self.codec == "yolox" else None

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values; ``from_json`` reads it back."""
        used = _TASK_FIELDS[self.task] | _CODEC_FIELDS[self.codec]
        return {
            field.name: _plain(getattr(self, field.name))
            for field in fields(self)
            if field.name in used or field.name not in _SPECIAL_FIELDS
            if field.name != "own_keypoints" or self.own_keypoints is not None
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "spec") -> ModelSpec:
        """Read a spec; an unknown, missing or mistyped key is a SpecError that names it."""
        check(record(SPEC_KEYS, REQUIRED_KEYS), data, where=where)
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        values["input"] = _tensor(data["input"])
        for key in ("outputs", "constants"):
            if key in data:
                values[key] = tuple(_tensor(tensor) for tensor in data[key])
        for key in ("mean", "std"):
            values[key] = tuple(float(value) for value in data[key])
        try:
            own = data.get("own_keypoints")
            if own is not None:
                values["own_keypoints"] = read_keypoint_set(str(data.get("keypoint_set")), own)
            return cls(**values)
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from None


_IMAGE_FIELDS = {
    *("pad_value", "letterbox", "score_threshold"),
    *("nms_iou", "nms_candidates_per_level", "max_boxes"),
}
_TASK_FIELDS: dict[Task, set[str]] = {
    "detection": _IMAGE_FIELDS | {"class_names"},
    "pose": {"keypoint_set", "box_padding", "udp"},
    "one-stage": _IMAGE_FIELDS | {"keypoint_set"},
}
_CODEC_FIELDS: dict[Codec, set[str]] = {
    "simcc": {"simcc_split_ratio"},
    "heatmap": {"heatmap_refinement", "heatmap_blur_kernel"},
    "rtmdet": {"strides", "cut_at_rim"},
    "yolox": {"strides", "several_labels"},
    "rtmo": {"strides", "constants"},
    "detections": set(),
}
_SPECIAL_FIELDS = set().union(*_TASK_FIELDS.values(), *_CODEC_FIELDS.values())
_CODEC_TASKS: dict[Codec, tuple[Task, ...]] = {
    "simcc": ("pose",),
    "heatmap": ("pose",),
    "rtmdet": ("detection",),
    "yolox": ("detection",),
    "rtmo": ("one-stage",),
    "detections": ("detection", "one-stage"),
}


def _plain(value: Any) -> Any:
    if isinstance(value, TensorSpec):
        return {"name": value.name, "shape": list(value.shape), "dtype": value.dtype}
    if isinstance(value, KeypointSet):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _tensor(data: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(None if size == -1 else size for size in data["shape"])
    return TensorSpec(data["name"], shape, data.get("dtype", "float32"))


def _check_types(spec: ModelSpec) -> None:
    """What no file can get wrong: the types of arguments that hold others."""
    for name, value in (("outputs", spec.outputs), ("constants", spec.constants)):
        if not isinstance(value, tuple) or not all(isinstance(one, TensorSpec) for one in value):
            raise SpecError(f"{name} must be a tuple of TensorSpec, got {shown(value)}")
    if not isinstance(spec.own_keypoints, KeypointSet | None):
        raise SpecError(f"own_keypoints must be a KeypointSet, got {shown(spec.own_keypoints)}")
    if not isinstance(spec.input, TensorSpec):
        raise SpecError(f"input must be a TensorSpec, got {shown(spec.input)}")
    for tensor in (spec.input, *spec.outputs, *spec.constants):
        if not isinstance(tensor.shape, tuple):
            raise SpecError(f"the shape of a TensorSpec must be a tuple, got {shown(tensor.shape)}")


def _check(spec: ModelSpec) -> None:
    def refuse(text: str) -> NoReturn:
        raise SpecError(f"{spec.name}: {text}")

    _check_types(spec)
    check(SPEC_KEYS["name"], spec.name, "name")
    for key, rule in SPEC_KEYS.items():
        check(rule, _plain(getattr(spec, key)), key, spec.name)
    if spec.task not in _CODEC_TASKS[spec.codec]:
        refuse(f"codec {spec.codec} belongs to a {' or '.join(_CODEC_TASKS[spec.codec])} model")
    if spec.own_keypoints is not None and spec.task == "detection":
        refuse("a detector has no own_keypoints")
    if spec.constants and spec.codec != "rtmo":
        refuse(f"codec {spec.codec} knows no constants")
    tensors = (spec.input, *spec.outputs, *spec.constants)
    for tensor in spec.constants:
        if tensor.dtype != "float32" or None in tensor.shape:
            refuse(f"constant {tensor.name} must be float32 of a fixed shape, not {tensor.shape}")
    if len(spec.input.shape) != 4 or spec.input.shape[1] != 3:
        refuse(f"input shape {spec.input.shape} is not that of an image, (N, 3, H, W)")
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        refuse(f"tensor names must differ: {names}")
    wrong = fraction_hint(spec.mean, spec.std)
    if wrong:
        refuse(wrong)
    CODEC_CHECKS[spec.codec](spec, refuse)
    if spec.class_names and spec.class_count and len(spec.class_names) != spec.class_count:
        refuse(
            f"'class_names' has {len(spec.class_names)} names, and the outputs are of "
            f"{spec.class_count} classes"
        )
