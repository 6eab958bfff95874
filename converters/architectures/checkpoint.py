"""Strict, safe loading of checkpoints into the definitions of this package."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge.errors import ModelFileError

_SHOWN = 5


class CheckpointError(ModelFileError):
    """A checkpoint that cannot be read safely, or that is not one of this model."""


def load_state_dict(path: Path) -> dict[str, Any]:
    """Read the state dict of a .pth file: name -> tensor, on the CPU.

    Accepts a plain state dict or a dict with a 'state_dict' entry, and strips the `module.`
    prefix that DataParallel leaves. Only tensors and plain containers are unpickled
    (`weights_only=True`): a checkpoint cannot run code.

    Raises:
        CheckpointError: the file is not a checkpoint, needs unsafe unpickling or holds anything
            but tensors.
        FileNotFoundError: there is no such file.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path}: not a checkpoint that can be read safely ({first_line}); save its state "
            "dict alone with torch.save(model.state_dict(), path)"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: holds no state dict, but {type(content).__name__}")
    strays = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if strays:
        raise CheckpointError(f"{path}: these entries are no tensors: {_listed(strays)}")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into `model`; every key and shape must match.

    Raises:
        CheckpointError: as `load_state_dict`, or keys are missing, surplus or of another shape;
            the message names them.
    """
    loaded = load_state_dict(path)
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in loaded]
    surplus = [key for key in loaded if key not in wanted]
    misshapen = [
        f"{key} is {tuple(loaded[key].shape)} and should be {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in loaded and loaded[key].shape != value.shape
    ]
    found = (("missing", missing), ("surplus", surplus), ("of another shape", misshapen))
    faults = [f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in found if keys]
    if faults:
        raise CheckpointError(f"{path}: not a checkpoint of this model; " + "; ".join(faults))
    model.load_state_dict(loaded)


def _listed(keys: list[str]) -> str:
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
