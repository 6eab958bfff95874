"""From a checkpoint of an official model to an ONNX file that carries its own spec.

describe -> build -> strict load -> export -> compare: nothing has to be said that the weights tell,
and whatever is said must agree with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from converters.architectures.checkpoint import (
    Architecture,
    CheckpointError,
    Description,
    describe,
    load_strictly,
    read_checkpoint,
)
from converters.architectures.export import INPUT_NAME, SIMCC_OUTPUT_NAMES, export_onnx
from converters.architectures.pretrained import CSPNeXtBackbone, CSPNeXtClassifier, CSPNeXtHeatmaps
from converters.architectures.rtmdet import OUTPUT_NAMES as RTMDET_OUTPUT_NAMES
from converters.architectures.rtmdet import STRIDES as RTMDET_STRIDES
from converters.architectures.rtmdet import RTMDet
from converters.architectures.rtmo import OUTPUT_NAMES as RTMO_OUTPUT_NAMES
from converters.architectures.rtmo import RTMO, RTMO_SIZES, dcc_constants, switch_to_deploy
from converters.architectures.rtmo import STRIDES as RTMO_STRIDES
from converters.architectures.rtmpose import RTMPose
from converters.recognise import BGR_MEAN, BGR_STD, RGB_MEAN, RGB_STD, SPEC_KEY
from edge.artifact import sha256_of
from edge.errors import ModelFileError, SpecError
from edge.keypoints import find_keypoint_set
from edge.spec import ModelSpec, TensorSpec

__all__ = [
    "SOURCE_KEY",
    "SPEC_KEY",
    "Description",
    "build",
    "describe",
    "export_backbone",
    "export_checkpoint",
]

SOURCE_KEY = "edgepose.source"
"""Key of the JSON that says which weights the file was made of."""

_STRIDE = 32
_KEYPOINT_SETS = {
    17: "coco17",
    26: "halpe26",
    133: "coco-wholebody133",
    21: "hand21",
    106: "face106",
    14: "crowdpose14",
}
"""The set that a number of keypoints stands for unless the caller says otherwise."""


def default_input_hw(description: Description) -> tuple[int, int]:
    """The input size of the official model in px: the weights', or that of its configuration."""
    if description.input_hw is not None:
        return description.input_hw
    if description.architecture == "rtmo" and description.size in RTMO_SIZES:
        return RTMO_SIZES[description.size].input_hw
    if description.architecture == "rtmdet":
        return (320, 320) if description.size == "nano" else (640, 640)
    return (256, 192)


def build(description: Description) -> nn.Module:
    """The network of a description, with random weights.

    Without an `input_hw` the official one is taken, without a number of keypoints or classes the
    usual one (17; 1 for a detector).

    Raises:
        SpecError: there is no such network.
    """
    size, classes = description.size, description.classes
    keypoints = 17 if description.keypoints is None else description.keypoints
    input_hw = default_input_hw(description)
    try:
        match description.architecture:
            case "rtmpose":
                return RTMPose(size, input_hw, keypoints)
            case "rtmdet":
                return RTMDet(size, 1 if classes is None else classes)
            case "rtmo":
                return RTMO(size, keypoints, input_hw)
            case "cspnext" if classes is not None:
                return CSPNeXtClassifier(size, classes)
            case "cspnext" if description.keypoints is not None:
                return CSPNeXtHeatmaps(size, keypoints)
            case "cspnext":
                return CSPNeXtBackbone(size)
    except ValueError as error:
        raise SpecError(f"{description}: {error}") from None
    raise SpecError(f"{description.architecture!r} is none of {', '.join(_CODECS)}, cspnext")


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    name: str,
    *,
    size: str | None = None,
    keypoints: int | None = None,
    num_classes: int | None = None,
    input_hw: tuple[int, int] | None = None,
    keypoint_set: str | None = None,
) -> ModelSpec:
    """Write an RTMPose, RTMDet or RTMO checkpoint as an ONNX file with its spec inside.

    The file answers as the torch model does (`export_onnx`); its outputs are raw maps, for RTMO
    beside the constants that its codec needs. Its metadata_props hold the spec (SPEC_KEY) and the
    checkpoint's name, sha256 and kind of weights (SOURCE_KEY). It appears whole or not at all.

    Args:
        checkpoint: a .pth file of the official layout.
        out: the ONNX file to write.
        name: of the model, for the spec.
        size: t, s, m, ...; as the other arguments that the weights tell, only to be checked.
        keypoints: of a pose or one-stage model; checked.
        num_classes: of a detector; checked.
        input_hw: height and width in px, multiples of 32. Told by RTMPose's weights and checked;
            of RTMDet (320x320 for nano, 640x640 otherwise) and RTMO (416x416 for t, 640x640
            otherwise) the caller's choice.
        keypoint_set: where the number of keypoints does not name it, as with ``ap10k17``.

    Raises:
        CheckpointError: the file cannot be read, or is not one of these models.
        SpecError: what was said contradicts the weights, or makes no sense.
        ExportError: the exported file answers differently.
    """
    found = read_checkpoint(checkpoint)
    description = _described(found.state_dict, checkpoint)
    if description.architecture == "cspnext":
        raise ModelFileError(
            f"{checkpoint}: it is a bare backbone ({description}) and gives neither boxes nor "
            "keypoints; `edge export --backbone` writes it as a network to be measured only"
        )
    _agree(checkpoint, description, size, keypoints, num_classes, input_hw)
    description = replace(description, input_hw=input_hw or default_input_hw(description))
    model = _loaded(description, found.state_dict, checkpoint)
    codec = _CODECS[description.architecture]
    constants: Mapping[str, NDArray[np.float32]] = {}
    plain = None
    if isinstance(model, RTMO):
        plain, constants = switch_to_deploy(model), dcc_constants(model)
    spec = _spec(name, description, codec, constants, keypoint_set)
    metadata = {
        SPEC_KEY: json.dumps(spec.to_json()),
        SOURCE_KEY: _source(checkpoint, description, found.weights),
    }
    export_onnx(
        model,
        out,
        spec.input_hw,
        plain=plain,
        output_names=codec.output_names,
        constants=constants,
        metadata=metadata,
    )
    return spec


def export_backbone(
    checkpoint: Path, out: Path, *, input_hw: tuple[int, int] = (256, 192)
) -> Description:
    """Write a pretrained CSPNeXt as an ONNX file without its head, for measuring only.

    Input `input` (batch, 3, H, W), output `features` (batch, C, H / 32, W / 32). There is nothing
    to decode in features, so the file carries no spec.

    Raises:
        CheckpointError: the file cannot be read, or is no such checkpoint.
        SpecError: `input_hw` are no multiples of 32.
        ExportError: the exported file answers differently.
    """
    found = read_checkpoint(checkpoint)
    description = _described(found.state_dict, checkpoint)
    if description.architecture != "cspnext":
        raise CheckpointError(
            f"{checkpoint}: it is a whole model ({description}); export it without --backbone"
        )
    _check_input(checkpoint, input_hw)
    model = _loaded(description, found.state_dict, checkpoint)
    backbone = CSPNeXtBackbone(description.size)
    backbone.backbone = model.backbone
    metadata = {SOURCE_KEY: _source(checkpoint, description, found.weights)}
    export_onnx(backbone, out, input_hw, output_names=("features",), metadata=metadata)
    return description


@dataclass(frozen=True)
class _Codec:
    """What the specs of an architecture have in common."""

    output_names: Sequence[str]
    fields: Mapping[str, Any]


_CODECS: dict[Architecture, _Codec] = {
    "rtmpose": _Codec(
        SIMCC_OUTPUT_NAMES,
        {"task": "pose", "codec": "simcc", "color_order": "rgb", "mean": RGB_MEAN, "std": RGB_STD},
    ),
    # Thresholds are those of the published configurations' test_cfg.
    "rtmdet": _Codec(
        RTMDET_OUTPUT_NAMES,
        {
            "task": "detection",
            "codec": "rtmdet",
            "strides": RTMDET_STRIDES,
            "color_order": "bgr",
            "mean": BGR_MEAN,
            "std": BGR_STD,
            "score_threshold": 0.05,
            "nms_iou": 0.6,
            "pad_value": 114,
            "nms_candidates_per_level": 1000,
            "max_boxes": 100,
        },
    ),
    "rtmo": _Codec(
        RTMO_OUTPUT_NAMES,
        {
            "task": "one-stage",
            "codec": "rtmo",
            "strides": RTMO_STRIDES,
            "color_order": "bgr",
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "score_threshold": 0.1,
            "nms_iou": 0.65,
            "pad_value": 114,
            "letterbox": "center",
        },
    ),
}


def _spec(
    name: str,
    description: Description,
    codec: _Codec,
    constants: Mapping[str, NDArray[np.float32]],
    keypoint_set: str | None,
) -> ModelSpec:
    assert description.input_hw is not None
    height, width = description.input_hw
    fields = dict(codec.fields)
    if description.keypoints is not None:
        fields["keypoint_set"] = _keypoint_set(name, description.keypoints, keypoint_set)
    elif keypoint_set is not None:
        raise SpecError(f"{name}: a detector ({description}) has no keypoint set {keypoint_set!r}")
    if constants:
        fields["constants"] = tuple(
            TensorSpec(key, value.shape) for key, value in constants.items()
        )
    if description.architecture == "rtmo":
        # The published configurations keep every person: as many as there are cells.
        cells = sum((height // stride) * (width // stride) for stride in RTMO_STRIDES)
        fields |= {"nms_candidates_per_level": cells, "max_boxes": cells}
    with torch.inference_mode(), torch.device("meta"):
        outputs = build(description).eval()(torch.zeros(1, 3, height, width))
    return ModelSpec(
        name=name,
        input=TensorSpec(INPUT_NAME, (None, 3, height, width)),
        outputs=tuple(
            TensorSpec(key, (None, *output.shape[1:]))
            for key, output in zip(codec.output_names, outputs, strict=True)
        ),
        **fields,
    )


def _keypoint_set(name: str, count: int, asked: str | None) -> str:
    if asked is None:
        return _KEYPOINT_SETS.get(count, f"unnamed-{count}")
    known = len(find_keypoint_set(asked).keypoints)
    if known != count:
        raise SpecError(
            f"{name}: the checkpoint has {count} keypoints and the keypoint set {asked!r} {known}; "
            f"name a set of {count}, or unnamed-{count}"
        )
    return asked


def _described(state_dict: Mapping[str, Any], path: Path) -> Description:
    try:
        return describe(state_dict)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: a checkpoint {error}") from None


def _agree(
    path: Path,
    description: Description,
    size: str | None,
    keypoints: int | None,
    classes: int | None,
    input_hw: tuple[int, int] | None,
) -> None:
    """Refuse what contradicts the weights."""
    free_input = description.architecture in ("rtmdet", "rtmo")
    said: tuple[tuple[str, Any, Any], ...] = (
        ("size", {"tiny": "t"}.get(size or "", size), description.size),
        ("keypoints", keypoints, description.keypoints),
        ("classes", classes, description.classes),
        ("input", input_hw, input_hw if free_input else description.input_hw),
    )
    for what, asked, has in said:
        if asked is None or asked == has:
            continue
        text = f"{asked[0]}x{asked[1]}" if isinstance(asked, tuple) else str(asked)
        raise SpecError(
            f"{path}: {what} {text} was said, but the weights are those of {description}; leave "
            "the option out, or take the checkpoint that fits"
        )
    if input_hw is not None:
        _check_input(path, input_hw)


def _check_input(path: Path, input_hw: tuple[int, int]) -> None:
    if any(side <= 0 or side % _STRIDE for side in input_hw):
        raise SpecError(
            f"{path}: input {input_hw[0]}x{input_hw[1]} (height x width): both sides must be "
            f"multiples of {_STRIDE}"
        )


def _loaded(description: Description, state_dict: Mapping[str, Any], path: Path) -> Any:
    try:
        model = build(description)
    except SpecError as error:
        raise CheckpointError(f"{path}: no model that is supported: {error}") from None
    load_strictly(model, state_dict, path)
    return model


def _source(path: Path, description: Description, weights: str) -> str:
    return json.dumps(
        {
            "checkpoint": path.name,
            "sha256": sha256_of(path),
            "model": str(description),
            "weights": weights,
        }
    )
