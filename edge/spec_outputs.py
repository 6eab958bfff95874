"""What each codec wants of a model's outputs: their number, shapes and keypoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn

from edge.errors import SpecError
from edge.keypoints import KEYPOINT_SETS, find_keypoint_set
from edge.spec_keys import Codec

if TYPE_CHECKING:
    from edge.spec import ModelSpec, TensorSpec

__all__ = ["CODEC_CHECKS", "Refuse"]

Refuse = Callable[[str], NoReturn]
_NAME = re.compile(r"[\w.-]{1,80}", re.ASCII)


def _keypoint_count(spec: ModelSpec, refuse: Refuse) -> int:
    own = spec.own_keypoints
    if own is not None:
        known = KEYPOINT_SETS.get(own.name)
        if own.name != spec.keypoint_set or not _NAME.fullmatch(own.name):
            refuse(
                f"keypoint_set {spec.keypoint_set!r} beside own_keypoints is a word of letters, "
                "digits, '-', '_' and '.'"
            )
        if known is not None and known.keypoints != own.keypoints:
            refuse(f"own_keypoints are not those of the known set {own.name}: give another name")
        return len(own.keypoints)
    try:
        return len(find_keypoint_set(spec.keypoint_set).keypoints)
    except SpecError as error:
        refuse(str(error))


def _check_simcc(spec: ModelSpec, refuse: Refuse) -> None:
    count = _keypoint_count(spec, refuse)
    height, width = spec.input_hw
    bins = [round(size * spec.simcc_split_ratio) for size in (width, height)]
    got = [tensor.shape[1:] for tensor in spec.outputs]
    want = [(count, size) for size in bins]
    if got != want:
        refuse(
            f"simcc outputs of shape {got} do not fit {count} keypoints at {height}x{width} "
            f"(height x width) and {spec.simcc_split_ratio:g} bins per pixel: expected {want}"
        )


def _check_heatmap(spec: ModelSpec, refuse: Refuse) -> None:
    count = _keypoint_count(spec, refuse)
    if len(spec.outputs) != 1 or len(spec.outputs[0].shape) != 4:
        refuse(f"codec heatmap needs one output (N, K, h, w), got {_shapes(spec.outputs)}")
    _, channels, rows, columns = spec.outputs[0].shape
    if channels != count:
        refuse(f"{channels} heatmaps do not fit {count} keypoints")
    height, width = spec.input_hw
    if rows is None or columns is None or min(rows, columns) < 2:
        refuse(f"a heatmap has a fixed size of 2x2 or more, not {spec.outputs[0].shape}")
    if height % rows or width % columns or height // rows != width // columns:
        refuse(
            f"a heatmap of {rows}x{columns} (height x width) does not divide the input's "
            f"{height}x{width} by the same whole number on both axes"
        )


def _check_maps(spec: ModelSpec, refuse: Refuse, channels: Mapping[str, int | None]) -> None:
    """Whether the outputs are one map a stride of each kind; ``channels`` None: as many as any."""
    levels, kinds = len(spec.strides), list(channels)
    if levels == 0:
        refuse(f"codec {spec.codec} needs the 'strides' of its levels, got {spec.strides}")
    if len(spec.outputs) != len(kinds) * levels:
        refuse(
            f"codec {spec.codec} needs {', '.join(kinds)}, each of all {levels} strides, "
            f"got {len(spec.outputs)} outputs"
        )
    height, width = spec.input_hw
    for index, kind in enumerate(kinds):
        maps = spec.outputs[index * levels : (index + 1) * levels]
        for tensor, stride in zip(maps, spec.strides, strict=True):
            size = (-(-height // stride), -(-width // stride))
            if len(tensor.shape) != 4 or tensor.shape[2:] != size:
                refuse(
                    f"output {tensor.name} has shape {tensor.shape}, stride {stride} needs {size}"
                )
            count = channels[kind] or maps[0].shape[1]
            if tensor.shape[1] != count:
                refuse(f"output {tensor.name} has {tensor.shape[1]} channels, {kind} have {count}")


def _check_rtmdet(spec: ModelSpec, refuse: Refuse) -> None:
    _check_maps(spec, refuse, {"logits": None, "distances": 4})


def _check_yolox(spec: ModelSpec, refuse: Refuse) -> None:
    if len(spec.outputs) != 1:
        _check_maps(spec, refuse, {"class logits": None, "boxes": 4, "objectness": 1})
        return
    height, width = spec.input_hw
    anchors = sum(-(-height // stride) * -(-width // stride) for stride in spec.strides)
    shape = spec.outputs[0].shape
    if len(shape) != 3 or shape[1] != anchors or shape[2] is None or shape[2] < 6:
        refuse(
            f"output {spec.outputs[0].name} has shape {shape}, strides {spec.strides} at "
            f"{height}x{width} (height x width) need (N, {anchors}, 5 + classes)"
        )


def _check_rtmo(spec: ModelSpec, refuse: Refuse) -> None:
    count = _keypoint_count(spec, refuse)
    _check_maps(spec, refuse, {"logits": 1, "boxes": 4, "visibility": count, "pose vectors": None})


def _check_detections(spec: ModelSpec, refuse: Refuse) -> None:
    want: tuple[tuple[int | None, ...], ...] = ((None, None, 5), (None, None))
    text = "dets (N, M, 5) and labels (N, M)"
    if spec.task == "one-stage":
        count = _keypoint_count(spec, refuse)
        want = ((None, None, 5), (None, None, count, 3))
        text = f"dets (N, M, 5) and keypoints (N, M, {count}, 3)"
    # Such files often leave even the sizes open that cannot vary.
    fits = len(spec.outputs) == 2 and all(
        len(tensor.shape) == len(shape)
        and all(
            None in pair or pair[0] == pair[1] for pair in zip(tensor.shape, shape, strict=True)
        )
        for tensor, shape in zip(spec.outputs, want, strict=True)
    )
    if not fits:
        refuse(
            f"codec detections of a {spec.task} model needs the outputs {text}, "
            f"got {_shapes(spec.outputs)}"
        )


def _shapes(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor.shape}" for tensor in tensors)


CODEC_CHECKS: dict[Codec, Callable[[ModelSpec, Refuse], None]] = {
    "simcc": _check_simcc,
    "heatmap": _check_heatmap,
    "rtmdet": _check_rtmdet,
    "yolox": _check_yolox,
    "rtmo": _check_rtmo,
    "detections": _check_detections,
}
