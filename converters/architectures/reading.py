"""Which weights of a checkpoint count, and under which names, whatever a training tool wraps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from converters.architectures.claims import Claims, claims_of
from converters.architectures.plain_pickle import PickleError, Skipped, UnsafePickleError
from converters.architectures.torch_file import StoredTensor, read_torch_file
from converters.graph.file_kind import refuse_other_kind
from edge.errors import ModelFileError

__all__ = ["Checkpoint", "CheckpointError", "listed", "read_checkpoint"]

_SHOWN = 5
# Present where a preprocessor was saved with the model. The spec says the same.
_NO_WEIGHTS = ("data_preprocessor.mean", "data_preprocessor.std")
# Entries that hold a state dict, or an object with one, the averaged ones before the others.
_AVERAGED_ENTRIES = (
    *("ema_state_dict", "state_dict_ema", "model_ema_state_dict", "model_ema", "params_ema"),
    *("ema_model", "averaged_model", "ema"),
)
_ENTRIES = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params"),
    *("weights", "module"),
)
_AVERAGED_ROOTS = ("ema", "ema_model", "model_ema", "averaged_model")
# What torch.compile, DataParallel and averaging put between the parts of a name.
_WRAPPERS = ("_orig_mod", "module")
_ROOT = "backbone."
_DEEPEST = 4


class CheckpointError(ModelFileError):
    """A checkpoint that cannot be read safely, or that is not one of this model."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file, name -> tensor on the CPU, and which of its weights they are.

    ``claims`` is what the file says of itself besides.
    """

    state_dict: dict[str, Any]
    weights: str
    claims: Claims = field(default_factory=Claims)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights of a .pth file of torch.save, in its zip format or the legacy one.

    Accepts a state dict, or a dict or saved model that holds one (as 'state_dict', 'model', 'ema'
    and the like), and strips what training tools put before or between the parts of a name
    (`module.`, `_orig_mod.`, the attribute of a wrapper). Of two sets of weights the averaged one
    counts, which is what published files hold and what their figures were measured with:
    'ema_state_dict', or the entries with a prefix like `ema.`. A file of mmengine's EMAHook
    ('ema_state_dict' with an entry 'steps') is the exception that it looks like: the hook swaps the
    two sets as it saves, so that the averaged weights are in 'state_dict' (mmengine 0.10,
    `EMAHook.before_save_checkpoint`). So does mmcv's, whose other set are buffers like
    `ema_backbone_stem` beside the weights (mmcv 1.7, `EMAHook.after_train_epoch`).

    A checkpoint cannot run code: only tensors and plain data are read of it, everything else is
    skipped (`read_torch_file`).

    Raises:
        CheckpointError: there is no such file, it is not a checkpoint, asks for calls that no
            checkpoint needs, or holds anything but tensors among its weights.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}")
    try:
        refuse_other_kind(path, "checkpoint")
    except ModelFileError as error:
        raise CheckpointError(str(error)) from None
    try:
        content = read_torch_file(path)
        found, weights = _weights(content)
        if found is None:
            raise CheckpointError(f"{path}: holds no state dict, but {_what(content)}")
        strays = [str(key) for key, value in found.items() if not isinstance(value, StoredTensor)]
        if strays:
            raise CheckpointError(f"{path}: these entries are no tensors: {listed(strays)}")
        weights_by_name = {str(key): value for key, value in found.items()}
        twins = {f"ema_{key.replace('.', '_')}" for key in weights_by_name}
        own = {key: value for key, value in weights_by_name.items() if key not in twins}
        if len(own) < len(weights_by_name):
            weights = "the averaged weights, which mmcv saves under the model's own names"
        named, root = _plainly_named(own, path)
        state_dict: dict[str, Tensor] = {
            key: value.load() for key, value in named.items() if key not in _NO_WEIGHTS
        }
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except UnsafePickleError as error:
        raise CheckpointError(
            f"{path}: cannot be read safely: it holds objects that are made by running code "
            f"({error}); save its state dict alone with torch.save(model.state_dict(), path)"
        ) from error
    except PickleError as error:
        raise CheckpointError(
            f"{path}: not a checkpoint, or a truncated one ({error}); download or save it again"
        ) from error
    if root.partition(".")[0] in _AVERAGED_ROOTS:
        weights = f"the averaged weights, {root}*"
    return Checkpoint(state_dict, weights, claims_of(content))


def listed(keys: list[str]) -> str:
    """The first few of many names."""
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _what(content: Any) -> str:
    if isinstance(content, Skipped):
        return content.name
    if isinstance(content, Mapping):
        keys = [str(key) for key in content]
        return f"a dict with {listed(keys)}" if keys else "an empty dict"
    return type(content).__name__


def _weights(content: Any) -> tuple[Mapping[Any, Any] | None, str]:
    """The state dict that counts and what to call it."""
    if isinstance(content, Mapping):
        raw = _state_dict(content.get("state_dict"))
        averaged = content.get("ema_state_dict")
        if raw is not None and isinstance(averaged, Mapping) and "steps" in averaged:
            return raw, "the averaged weights, which mmengine saves as state_dict"
        for entry in _AVERAGED_ENTRIES:
            found = _state_dict(content.get(entry))
            if found is not None:
                return found, f"the averaged weights, {entry}"
    return _state_dict(content), "the file's only weights"


def _state_dict(value: Any, depth: int = 0) -> dict[Any, Any] | None:
    """The state dict that a value is or wraps; None where there is none."""
    if depth > _DEEPEST or not isinstance(value, Mapping):
        return None
    if isinstance(value, Skipped) and isinstance(value.state, dict) and not value:
        state = value.state
        return _of_module(state) if "_modules" in state else _state_dict(state, depth + 1)
    for entry in _ENTRIES:
        found = _state_dict(value.get(entry), depth + 1)
        if found is not None:
            return found
    # Averaging tools count their updates beside the weights, as a tensor of one element.
    found = {key: one for key, one in value.items() if key not in ("n_averaged", "steps")}
    has_weights = any(isinstance(one, StoredTensor) for one in found.values())
    return found if has_weights else None


def _of_module(state: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[Any, Any]:
    """The state dict of a whole model that was pickled: its parameters, buffers and parts."""
    found: dict[Any, Any] = {}
    transient = state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        entries = state.get(kind)
        for name, value in entries.items() if isinstance(entries, Mapping) else ():
            if value is not None and name not in transient:
                found[f"{prefix}{name}"] = value
    parts = state.get("_modules")
    for name, part in parts.items() if isinstance(parts, Mapping) and depth < 50 else ():
        if isinstance(part, Skipped) and isinstance(part.state, dict):
            found |= _of_module(part.state, f"{prefix}{name}.", depth + 1)
    return found


def _plainly_named(
    state_dict: dict[str, StoredTensor], path: Path
) -> tuple[dict[str, StoredTensor], str]:
    """The weights of one network under its own names, and what stood before all of them.

    What stands before ``backbone.`` is a wrapper's; weights without it are the wrapper's own, a
    loss for instance. Of several networks the averaged one counts.
    """
    roots: dict[str, None] = {}
    for key in state_dict:
        before, found, _ = f".{key}".partition(f".{_ROOT}")
        if found:
            roots[f"{before}.".lstrip(".")] = None
    averaged = [root for root in roots if root.partition(".")[0] in _AVERAGED_ROOTS]
    chosen = averaged or list(roots) or [""]
    if len(chosen) > 1 and not averaged:
        plain = {_unwrapped(root): root for root in chosen}
        if len(plain) > 1:
            raise CheckpointError(
                f"{path}: holds several networks ({listed([f'{root}{_ROOT}*' for root in chosen])})"
                "; save the state dict of the one to export alone"
            )
    root = chosen[0]
    named: dict[str, StoredTensor] = {}
    for key, value in state_dict.items():
        if key.startswith(root):
            name = _unwrapped(key.removeprefix(root))
            if name in named:
                raise CheckpointError(f"{path}: holds two weights that are called {name}")
            named[name] = value
    return named, root


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
