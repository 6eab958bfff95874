"""From a checkpoint of an official model to an ONNX file that carries its own spec.

describe -> build -> strict load -> export -> compare: nothing has to be said that the weights tell,
and whatever is said must agree with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from converters.architectures.checkpoint import (
    CheckpointError,
    Description,
    describe,
    load_strictly,
    read_checkpoint,
)
from converters.architectures.claims import Claims
from converters.architectures.export import export_onnx
from converters.architectures.model_spec import CODECS, Say, spec_of
from converters.architectures.pretrained import CSPNeXtBackbone, CSPNeXtClassifier, CSPNeXtHeatmaps
from converters.architectures.rtmdet import RTMDet
from converters.architectures.rtmo import RTMO, RTMO_SIZES, dcc_constants, switch_to_deploy
from converters.architectures.rtmpose import RTMPose
from converters.graph.recognise import SPEC_KEY
from edge.artifact import sha256_of
from edge.errors import ModelFileError, SpecError
from edge.spec import ModelSpec

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
    raise SpecError(f"{description.architecture!r} is none of {', '.join(CODECS)}")


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
    say: Say = lambda _: None,
) -> ModelSpec:
    """Write an RTMPose, RTMDet, RTMO or CSPNeXt-UDP checkpoint as ONNX with its spec inside.

    Names of keypoints, thresholds and pixels are the checkpoint's own where it tells them. The file
    answers as the torch model does (`export_onnx`); its outputs are raw maps, for RTMO
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
        keypoint_set: wins over what the file says of its points.
        say: is told what was assumed, a line each.

    Raises:
        CheckpointError: the file cannot be read, or is not one of these models.
        SpecError: what was said contradicts the weights, or makes no sense.
        ExportError: the exported file answers differently.
    """
    found = read_checkpoint(checkpoint)
    description = _described(found.state_dict, checkpoint)
    if description.architecture == "cspnext" and description.keypoints is None:
        raise ModelFileError(
            f"{checkpoint}: it is a bare backbone ({description}) and gives neither boxes nor "
            "keypoints; `edge export --backbone` writes it as a network to be measured only"
        )
    _agree(checkpoint, description, size, keypoints, num_classes, input_hw)
    if input_hw is None:
        input_hw = _claimed_input(description, found.claims, say)
    description = replace(description, input_hw=input_hw)
    _check_claims(checkpoint, description, found.claims)
    model = _loaded(description, found.state_dict, checkpoint)
    constants: Mapping[str, NDArray[np.float32]] = {}
    plain = None
    if isinstance(model, RTMO):
        plain, constants = switch_to_deploy(model), dcc_constants(model)
    spec = spec_of(
        name,
        description,
        _output_shapes(description),
        {key: value.shape for key, value in constants.items()},
        found.claims,
        keypoint_set,
        say,
    )
    metadata = {
        SPEC_KEY: json.dumps(spec.to_json()),
        SOURCE_KEY: _source(checkpoint, description, found.weights),
    }
    export_onnx(
        model,
        out,
        spec.input_hw,
        plain=plain,
        output_names=[tensor.name for tensor in spec.outputs],
        constants=constants,
        metadata=metadata,
        mean=spec.mean,
        std=spec.std,
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


def _output_shapes(description: Description) -> list[tuple[int, ...]]:
    with torch.inference_mode(), torch.device("meta"):
        found = build(description).eval()(torch.zeros(1, 3, *default_input_hw(description)))
    return [tuple(one.shape) for one in (found if isinstance(found, tuple) else (found,))]


def _claimed_input(description: Description, claims: Claims, say: Say) -> tuple[int, int]:
    """The input size that the weights tell, else the configuration, else the published one."""
    if description.input_hw is not None:
        return description.input_hw
    places = ("codec.input_size", "model.head.decoder.input_size", "model.test_cfg.input_size")
    for place in places if description.architecture != "rtmdet" else ():
        size = claims.config.get(place)
        if isinstance(size, list) and len(size) == 2 and all(type(one) is int for one in size):
            width, height = size
            if min(size) > 0 and width % _STRIDE == height % _STRIDE == 0:
                return height, width
    height, width = default_input_hw(description)
    if description.architecture == "cspnext":
        say(
            f"neither the weights nor the file tell the input size: {height}x{width} (height x "
            "width) is assumed; --size HxW says otherwise"
        )
    return height, width


def _check_claims(path: Path, description: Description, claims: Claims) -> None:
    """Refuse a RTMPose with another number of bins than two a pixel, or one decoded with DARK."""
    if description.architecture != "rtmpose":
        return
    ratio = claims.config.get("codec.simcc_split_ratio")
    if ratio not in (None, 2):
        raise CheckpointError(
            f"{path}: its configuration has {ratio} bins a pixel, and only RTMPose with 2 is "
            "exported; export it to ONNX with mmpose or mmdeploy and convert that file"
        )
    # The head's own codec is the one that decodes.
    dark = claims.config.get("model.head.decoder.use_dark", claims.config.get("codec.use_dark"))
    if dark is True:
        raise CheckpointError(
            f"{path}: its configuration decodes with DARK (use_dark = True), and SimCC is decoded "
            "without it here; export it to ONNX with use_dark = False and convert that file"
        )


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
    free_input = description.architecture in ("rtmdet", "rtmo", "cspnext")
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
