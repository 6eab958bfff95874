"""What a checkpoint is, and its strict loading into the definitions of this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from converters.architectures.cspnext import CSPNEXT_SIZES
from converters.architectures.reading import (
    Checkpoint,
    CheckpointError,
    listed,
    read_checkpoint,
)

__all__ = [
    "Architecture",
    "Checkpoint",
    "CheckpointError",
    "Description",
    "describe",
    "load_checkpoint",
    "load_state_dict",
    "load_strictly",
    "read_checkpoint",
]

Architecture = Literal["rtmpose", "rtmdet", "rtmo", "cspnext"]

_NAMES: dict[Architecture, str] = {
    "rtmpose": "RTMPose",
    "rtmdet": "RTMDet",
    "rtmo": "RTMO",
    "cspnext": "CSPNeXt",
}


# --- what it is -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Description:
    """A model as its weights tell of it; None for what they do not tell.

    ``input_hw`` is told by RTMPose's weights alone. A ``cspnext`` is a backbone: with ``classes``
    it has been trained as a classifier, with ``keypoints`` on heatmaps.
    """

    architecture: Architecture
    size: str
    keypoints: int | None = None
    classes: int | None = None
    input_hw: tuple[int, int] | None = None

    def __str__(self) -> str:
        parts = [f"{_NAMES[self.architecture]}-{self.size}"]
        if self.keypoints is not None:
            parts.append(f"{self.keypoints} keypoint{'s' * (self.keypoints != 1)}")
        if self.classes is not None:
            parts.append(f"{self.classes} class{'es' * (self.classes != 1)}")
        if self.input_hw is not None:
            parts.append(f"{self.input_hw[0]}x{self.input_hw[1]}")
        return ", ".join(parts)


# The layers that only one kind of model has, most telling first.
_SIGNS: tuple[tuple[str, Architecture], ...] = (
    ("head.head_module.", "rtmo"),
    ("head.dcc.", "rtmo"),
    ("bbox_head.rtm_cls.", "rtmdet"),
    ("bbox_head.rtm_reg.", "rtmdet"),
    ("head.gau.", "rtmpose"),
    ("head.cls_x.", "rtmpose"),
    ("head.mlp.", "rtmpose"),
)
_CSPNEXT_PARTS = ("backbone.", "head.fc.", "head.deconv_layers.", "head.final_layer.")
# The backbones' layers that a width can be read from: output channels at a width factor of 1.
_WIDTHS = {
    "backbone.stem.2.conv.weight": 64,
    "backbone.stem.conv.conv.weight": 64,
    "backbone.stage1.1.final_conv.conv.weight": 128,
    "backbone.stage2.1.final_conv.conv.weight": 256,
    "backbone.stage4.2.final_conv.conv.weight": 1024,
}


def describe(state_dict: Mapping[str, Any]) -> Description:
    """Architecture, size and sizes of the ends, read from the names and shapes of the weights.

    A few weights decide; whether the others fit is what loading finds out.

    Raises:
        CheckpointError: these are the weights of none of the supported networks.
    """
    size = _size(state_dict)
    architecture = _architecture(state_dict)
    if size is None or architecture is None:
        keys = [str(key) for key in state_dict]
        # Backbones have much in common; what follows them tells more.
        telling = [key for key in keys if not key.startswith("backbone.")] or keys
        raise CheckpointError(
            f"of none of the networks RTMPose, RTMDet, RTMO and CSPNeXt; it holds {listed(telling)}"
        )

    def channels(key: str) -> int | None:
        return _channels(state_dict, key)

    if architecture == "rtmdet":
        return Description(architecture, size, classes=channels("bbox_head.rtm_cls.0.weight"))
    if architecture == "rtmo":
        keypoints = channels("head.head_module.out_kpt_vis.0.weight")
        return Description(architecture, size, keypoints)
    keypoints = channels("head.final_layer.weight")
    if architecture == "cspnext":
        return Description(architecture, size, keypoints, channels("head.fc.weight"))
    bins_x, bins_y = channels("head.cls_x.weight"), channels("head.cls_y.weight")
    # Two bins a pixel, in every official file.
    input_hw = None if bins_x is None or bins_y is None else (bins_y // 2, bins_x // 2)
    return Description(architecture, size, keypoints, input_hw=input_hw)


def _architecture(state_dict: Mapping[str, Any]) -> Architecture | None:
    for sign, architecture in _SIGNS:
        if any(key.startswith(sign) for key in state_dict):
            return architecture
    is_cspnext = "backbone.stem.2.conv.weight" in state_dict and all(
        key.startswith(_CSPNEXT_PARTS) for key in state_dict
    )
    return "cspnext" if is_cspnext else None


def _size(state_dict: Mapping[str, Any]) -> str | None:
    for key, base in _WIDTHS.items():
        found = _channels(state_dict, key)
        for name, factors in CSPNEXT_SIZES.items():
            if found == int(base * factors.widen):
                return name
    return None


def _channels(state_dict: Mapping[str, Any], key: str) -> int | None:
    """The first dimension of a weight, None without the weight or without a dimension."""
    shape: tuple[int, ...] = tuple(state_dict[key].shape) if key in state_dict else ()
    return shape[0] if shape else None


# --- loading --------------------------------------------------------------------------------------


# Counters of training, which no answer depends on.
_WITHOUT_INFLUENCE = ".num_batches_tracked"


def load_state_dict(path: Path) -> dict[str, Any]:
    """The weights of a .pth file, name -> tensor on the CPU; see `read_checkpoint`."""
    return read_checkpoint(path).state_dict


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into `model`; every key and shape must match but for counters of batches.

    Raises:
        CheckpointError: as `read_checkpoint` and `load_strictly`.
    """
    load_strictly(model, load_state_dict(path), path)


def load_strictly(model: nn.Module, state_dict: Mapping[str, Any], path: Path) -> None:
    """Load the weights of the file at `path` into `model`; every key and shape must match.

    Counters of batches may be missing: they do nothing.

    Raises:
        CheckpointError: keys are missing, surplus or of another shape, or values are not finite;
            the message names them and what the file seems to be.
    """
    wanted = model.state_dict()
    missing = [
        key for key in wanted if key not in state_dict and not key.endswith(_WITHOUT_INFLUENCE)
    ]
    surplus = [key for key in state_dict if key not in wanted]
    misshapen = [
        f"{key} is {tuple(state_dict[key].shape)} and should be {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state_dict and state_dict[key].shape != value.shape
    ]
    not_finite = [key for key, value in state_dict.items() if not torch.isfinite(value).all()]
    found = (
        *(("missing", missing), ("surplus", surplus)),
        *(("of another shape", misshapen), ("with NaN or infinity", not_finite)),
    )
    faults = [f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in found if keys]
    if faults:
        try:
            seems = f"it looks like {describe(state_dict)}"
        except CheckpointError as error:
            seems = f"it is one {error}"
        raise CheckpointError(
            f"{path}: not a checkpoint of this model; {'; '.join(faults)}; {seems}"
        )
    model.load_state_dict({**wanted, **state_dict})
