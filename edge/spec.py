"""What a model is: enough to run it with no other knowledge.

A ``ModelSpec`` is plain data. It travels as the ``spec`` block of ``artifact.json`` and, for
ONNX files that the kit cannot recognise, as a JSON or TOML file with the same keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NoReturn, get_args

from edge.errors import SpecError

__all__ = [
    "FORMATS",
    "KEYPOINT_SETS",
    "PRECISIONS",
    "Codec",
    "ColorOrder",
    "Format",
    "KeypointSet",
    "ModelSpec",
    "Precision",
    "Task",
    "TensorSpec",
    "Variant",
    "find_keypoint_set",
]

Format = Literal["onnx", "ncnn", "openvino", "tflite", "tensorrt"]
Precision = Literal["fp32", "fp16", "int8", "w8a16", "mixed"]
Task = Literal["detection", "pose"]
Codec = Literal["simcc", "rtmdet", "detections"]
ColorOrder = Literal["rgb", "bgr"]

FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


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
class KeypointSet:
    """Names, drawing order and statistics of one family of keypoints.

    ``skeleton`` and ``flip_pairs`` hold index pairs; ``sigmas`` are OKS constants, none where
    they are unknown.
    """

    name: str
    keypoints: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]


KEYPOINT_SETS: dict[str, KeypointSet] = {
    "coco17": KeypointSet(
        name="coco17",
        keypoints=(
            "nose",
            *("left_eye", "right_eye", "left_ear", "right_ear"),
            *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
            *("left_wrist", "right_wrist", "left_hip", "right_hip"),
            *("left_knee", "right_knee", "left_ankle", "right_ankle"),
        ),
        skeleton=(
            *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6)),
            *((5, 7), (6, 8), (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5)),
            (4, 6),
        ),
        flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
        sigmas=(
            *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
            *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
        ),
    )
}


def find_keypoint_set(name: str | None) -> KeypointSet:
    """A keypoint set by name; ``unnamed-K`` is K points of which nothing is known.

    Raises SpecError for any other name.
    """
    if name in KEYPOINT_SETS:
        return KEYPOINT_SETS[name]
    kind, _, count = (name or "").partition("-")
    if kind != "unnamed" or not count.isdigit() or int(count) < 1:
        raise SpecError(
            f"keypoint_set {name!r} is none of {', '.join(KEYPOINT_SETS)}, nor unnamed-K for "
            "K points without names"
        )
    names = tuple(f"point_{index}" for index in range(int(count)))
    return KeypointSet(str(name), names, (), (), ())


@dataclass(frozen=True)
class ModelSpec:
    """Everything the runtime needs to know of a network.

    ``input`` is one float32 image tensor (N, 3, H, W); ``mean`` and ``std`` are in the order of
    its channels, in grey levels of 0..255. ``pad_value`` fills the letterbox of a detector,
    ``box_padding`` widens the boxes of a pose model. The remaining fields belong to one codec
    each and are ignored by the others:

    - ``simcc``: ``simcc_split_ratio`` bins per input pixel.
    - ``rtmdet``: ``strides`` of the levels in the order of the outputs (logits of every level,
      then distances of every level), and the non-maximum suppression of mmdet's ``test_cfg``.
    - ``detections``: the same suppression, which happens in the file; it is kept for the day when
      the heads are cut and the runtime does it.
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
    pad_value: int = 114
    box_padding: float = 1.25
    simcc_split_ratio: float = 2.0
    strides: tuple[int, ...] = ()
    score_threshold: float = 0.05
    nms_iou: float = 0.6
    nms_candidates_per_level: int = 1000
    max_boxes: int = 100

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
        """The keypoint set of a pose model; SpecError for a detector."""
        if self.keypoint_set is None:
            raise SpecError(f"{self.name} is a {self.task} model and has no keypoints")
        return find_keypoint_set(self.keypoint_set)

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values; ``from_json`` reads it back."""
        return {
            field.name: _plain(getattr(self, field.name))
            for field in fields(self)
            if field.name not in _OTHER_CODECS_FIELDS[self.codec]
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "spec") -> ModelSpec:
        """Read a spec; an unknown, missing or mistyped key is a SpecError that names it."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise SpecError(
                f"{where}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}"
            )
        required = ["name", "task", "codec", "input", "outputs", "color_order", "mean", "std"]
        missing = [key for key in required if key not in data]
        if missing:
            raise SpecError(f"{where}: missing key {missing[0]!r}")
        values = dict(data)
        try:
            values["input"] = _tensor(data["input"])
            values["outputs"] = tuple(_tensor(output) for output in data["outputs"])
            for key in ("mean", "std"):
                values[key] = tuple(float(value) for value in data[key])
            if "strides" in data:
                values["strides"] = tuple(int(value) for value in data["strides"])
            return cls(**values)
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from None
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise SpecError(f"{where}: {error}") from None


_SIMCC_FIELDS = {"simcc_split_ratio"}
_RTMDET_FIELDS = {"strides", "nms_iou", "nms_candidates_per_level", "max_boxes"}
_DETECTOR_FIELDS = {"pad_value", "score_threshold"}
_POSE_FIELDS = {"box_padding", "keypoint_set"}
_OTHER_CODECS_FIELDS: dict[Codec, set[str]] = {
    "simcc": _RTMDET_FIELDS | _DETECTOR_FIELDS,
    "rtmdet": _SIMCC_FIELDS | _POSE_FIELDS,
    "detections": _SIMCC_FIELDS | _POSE_FIELDS | {"strides"},
}
_CODEC_TASKS: dict[Codec, Task] = {
    "simcc": "pose",
    "rtmdet": "detection",
    "detections": "detection",
}


def _plain(value: Any) -> Any:
    if isinstance(value, TensorSpec):
        return {"name": value.name, "shape": list(value.shape), "dtype": value.dtype}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _tensor(data: Any) -> TensorSpec:
    if not isinstance(data, Mapping) or not {"name", "shape"} <= set(data) <= {
        "name",
        "shape",
        "dtype",
    }:
        raise SpecError(f"a tensor is {{name, shape, dtype}}, not {data!r}")
    # TOML has no null: -1 stands for a dimension that is decided at run time, as in ONNX tools.
    shape = tuple(None if size in (None, -1) else int(size) for size in data["shape"])
    return TensorSpec(str(data["name"]), shape, data.get("dtype", "float32"))


def _check(spec: ModelSpec) -> None:
    def refuse(text: str) -> NoReturn:
        raise SpecError(f"{spec.name}: {text}")

    words = ((spec.task, Task), (spec.codec, Codec), (spec.color_order, ColorOrder))
    for value, allowed in words:
        if value not in get_args(allowed):
            refuse(f"{value!r} is none of {', '.join(get_args(allowed))}")
    if spec.task != _CODEC_TASKS[spec.codec]:
        refuse(f"codec {spec.codec} belongs to a {_CODEC_TASKS[spec.codec]} model")
    for tensor in (spec.input, *spec.outputs):
        if tensor.dtype not in ("float32", "int64"):
            refuse(f"tensor {tensor.name}: dtype {tensor.dtype!r} is neither float32 nor int64")
        if any(size is not None and size < 1 for size in tensor.shape):
            refuse(f"tensor {tensor.name}: shape {tensor.shape} has a dimension below 1")
    if len(spec.input.shape) != 4 or spec.input.shape[1] != 3:
        refuse(f"input shape {spec.input.shape} is not that of an image, (N, 3, H, W)")
    names = [tensor.name for tensor in (spec.input, *spec.outputs)]
    if len(set(names)) != len(names) or not all(name and name.split() == [name] for name in names):
        refuse(f"tensor names must differ and hold no blanks: {names}")
    if len(spec.mean) != 3 or len(spec.std) != 3:
        refuse("mean and std have three values each")
    if not all(math.isfinite(value) for value in spec.mean + spec.std) or min(spec.std) <= 0:
        refuse("mean must be finite and std positive")
    if spec.codec == "simcc":
        _check_simcc(spec, refuse)
    elif spec.codec == "rtmdet":
        _check_rtmdet(spec, refuse)
    elif len(spec.outputs) != 2:
        refuse("codec detections needs the outputs dets (N, M, 5) and labels (N, M)")


def _check_simcc(spec: ModelSpec, refuse: Any) -> None:
    try:
        count = len(find_keypoint_set(spec.keypoint_set).keypoints)
    except SpecError as error:
        refuse(str(error))
    height, width = spec.input_hw
    bins = [round(size * spec.simcc_split_ratio) for size in (width, height)]
    got = [tensor.shape[1:] for tensor in spec.outputs]
    want = [(count, size) for size in bins]
    if got != want:
        refuse(
            f"simcc outputs of shape {got} do not fit {count} keypoints at {height}x{width} "
            f"(height x width) and {spec.simcc_split_ratio:g} bins per pixel: expected {want}"
        )


def _check_rtmdet(spec: ModelSpec, refuse: Any) -> None:
    levels = len(spec.strides)
    if levels == 0 or len(spec.outputs) != 2 * levels:
        refuse(
            f"codec rtmdet needs logits and distances of each of its {levels} strides, "
            f"got {len(spec.outputs)} outputs"
        )
    height, width = spec.input_hw
    for index, tensor in enumerate(spec.outputs):
        stride = spec.strides[index % levels]
        want = (-(-height // stride), -(-width // stride))
        if len(tensor.shape) != 4 or tensor.shape[2:] != want:
            refuse(f"output {tensor.name} has shape {tensor.shape}, stride {stride} needs {want}")
        if index >= levels and tensor.shape[1] != 4:
            refuse(f"output {tensor.name} has {tensor.shape[1]} channels, distances have 4")
