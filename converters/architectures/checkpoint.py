"""What a checkpoint is, and its strict, safe loading into the definitions of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from converters.architectures.cspnext import CSPNEXT_SIZES
from edge.errors import ModelFileError

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

_SHOWN = 5
_NAMES: dict[Architecture, str] = {
    "rtmpose": "RTMPose",
    "rtmdet": "RTMDet",
    "rtmo": "RTMO",
    "cspnext": "CSPNeXt",
}


class CheckpointError(ModelFileError):
    """A checkpoint that cannot be read safely, or that is not one of this model."""


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
            "of none of the networks RTMPose, RTMDet, RTMO and CSPNeXt; it holds "
            f"{_listed(telling)}"
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


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file, name -> tensor on the CPU, and which of its weights they are."""

    state_dict: dict[str, Any]
    weights: str


class _Ignored:
    """Stands for an object of a training framework or of numpy that the file holds besides."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Training logs and data set descriptions are made of these; none is imported or called here.
_IGNORED_PACKAGES = ("mmengine", "mmcv", "mmdet", "mmpose", "mmpretrain", "mmcls", "numpy")
_IGNORED_NAMES = ("getattr", "builtins.getattr", "__builtin__.getattr")
# Present where a preprocessor was saved with the model. The spec says the same.
_NO_WEIGHTS = ("data_preprocessor.mean", "data_preprocessor.std")
_AVERAGED_PREFIXES = ("ema.module.", "ema_model.module.", "ema_model.", "ema.")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights of a .pth file.

    Accepts a plain state dict or a dict with a 'state_dict' entry, and strips the `module.`
    prefix that DataParallel leaves. Of two sets of weights the averaged one counts, which is what
    published files hold and what their figures were measured with: 'ema_state_dict', or the
    entries with a prefix like `ema.`. A file of mmengine's EMAHook ('ema_state_dict' with an entry
    'steps') is the exception that it looks like: the hook swaps the two sets as it saves, so that
    the averaged weights are in 'state_dict' (mmengine 0.10, `EMAHook.before_save_checkpoint`).

    Only tensors and plain containers are unpickled (`weights_only=True`): a checkpoint cannot run
    code. Objects of the training framework beside the weights are skipped unread.

    Raises:
        CheckpointError: there is no such file, it is not a checkpoint, needs unsafe unpickling or
            holds anything but tensors.
    """
    content = _unpickle(path)
    weights = "the file's only weights"
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        averaged = content.get("ema_state_dict")
        content = content["state_dict"]
        if isinstance(averaged, Mapping) and "steps" in averaged:
            weights = "the averaged weights, which mmengine saves as state_dict"
        elif isinstance(averaged, Mapping):
            content = {key: value for key, value in averaged.items() if key != "n_averaged"}
            weights = "the averaged weights, ema_state_dict"
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: holds no state dict, but {type(content).__name__}")
    strays = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if strays:
        raise CheckpointError(f"{path}: these entries are no tensors: {_listed(strays)}")
    state_dict = {str(key): value for key, value in content.items()}
    for prefix in _AVERAGED_PREFIXES:
        if any(key.startswith(prefix) for key in state_dict):
            state_dict = {
                key.removeprefix(prefix): value
                for key, value in state_dict.items()
                if key.startswith(prefix)
            }
            weights = f"the averaged weights, {prefix}*"
    state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    for key in _NO_WEIGHTS:
        state_dict.pop(key, None)
    return Checkpoint(state_dict, weights)


def load_state_dict(path: Path) -> dict[str, Any]:
    """The weights of a .pth file, name -> tensor on the CPU; see `read_checkpoint`."""
    return read_checkpoint(path).state_dict


def _unpickle(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}")
    try:
        with safe_globals([(_Ignored, name) for name in _skippable(path)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    # What a damaged pickle raises depends on the byte that is wrong.
    except Exception as error:
        unsafe = sorted(_unsafe_globals(path) - _skippable(path))
        unsafe = unsafe or re.findall(r"GLOBAL ([\w.]+)", str(error))
        if unsafe:
            raise CheckpointError(
                f"{path}: cannot be read safely: it holds objects that are made by running code "
                f"({_listed(unsafe)}); save its state dict alone with "
                "torch.save(model.state_dict(), path)"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise CheckpointError(
            f"{path}: not a checkpoint, or a truncated one ({reason}); download or save it again"
        ) from error


def _unsafe_globals(path: Path) -> set[str]:
    """The classes and functions that the file asks for and torch does not trust by itself."""
    try:
        return set(get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a file of torch < 1.6, or none at all: loading says what is wrong with it
        return set()


def _skippable(path: Path) -> set[str]:
    return {
        name
        for name in _unsafe_globals(path)
        if name.partition(".")[0] in _IGNORED_PACKAGES or name in _IGNORED_NAMES
    }


# --- loading --------------------------------------------------------------------------------------


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into `model`; every key and shape must match.

    Raises:
        CheckpointError: as `read_checkpoint` and `load_strictly`.
    """
    load_strictly(model, load_state_dict(path), path)


def load_strictly(model: nn.Module, state_dict: Mapping[str, Any], path: Path) -> None:
    """Load the weights of the file at `path` into `model`; every key and shape must match.

    Raises:
        CheckpointError: keys are missing, surplus or of another shape, or values are not finite;
            the message names them and what the file seems to be.
    """
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in state_dict]
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
    faults = [f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in found if keys]
    if faults:
        try:
            seems = f"it looks like {describe(state_dict)}"
        except CheckpointError as error:
            seems = f"it is one {error}"
        raise CheckpointError(
            f"{path}: not a checkpoint of this model; {'; '.join(faults)}; {seems}"
        )
    model.load_state_dict(state_dict)


def _listed(keys: list[str]) -> str:
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
