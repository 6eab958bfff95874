"""What a checkpoint says of itself beside its weights: keypoints, classes, thresholds, pixels.

mmengine stores a description of the data set (``meta.dataset_meta``) and the whole configuration as
Python text (``meta.cfg``). The text is parsed and its literals are read; it is never run.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from converters.architectures.plain_pickle import PickledArray
from edge.errors import SpecError
from edge.keypoints import KEYPOINT_SETS, KeypointSet, read_keypoint_set

__all__ = ["Claims", "claims_of"]

_LONGEST_CONFIG = 1 << 20
_MOST_ITEMS = 5000
_DEEPEST = 6
# Data sets as mmpose calls them, whose order of points is that of a known set.
_DATA_SETS = {
    **dict.fromkeys(("coco", "humanart", "ochuman"), "coco17"),
    **dict.fromkeys(("cocowholebody", "ubody", "ubody2d"), "coco-wholebody133"),
    **dict.fromkeys(("halpe26", "body8halpe26"), "halpe26"),
    **dict.fromkeys(("cocowholebodyhand", "onehand10k", "freihand", "freihand2d"), "hand21"),
    **dict.fromkeys(("lapa", "face106"), "face106"),
    "ap10k": "ap10k17",
    "crowdpose": "crowdpose14",
}


@dataclass(frozen=True)
class Claims:
    """What a file says; None or empty where it is silent.

    ``data_set`` is the name of the data set, ``keypoints`` what the file tells of its points with
    the name of a known set where they are that set's. ``config`` holds literals of the training
    configuration by their dotted place, ``model.test_cfg.score_thr`` for instance.
    """

    data_set: str = ""
    keypoints: KeypointSet | None = None
    classes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    def number(self, *places: str, low: float, high: float) -> float | None:
        """The first number at one of these places of the configuration that is in the range."""
        for place in places:
            value = self.config.get(place)
            if type(value) in (int, float) and low <= float(value or 0) <= high:
                return float(value or 0)
        return None

    def triple(self, place: str) -> tuple[float, float, float] | None:
        """Three finite numbers at a place of the configuration."""
        value = self.config.get(place)
        if not isinstance(value, list) or len(value) != 3:
            return None
        if not all(isinstance(one, int | float) and math.isfinite(one) for one in value):
            return None
        return float(value[0]), float(value[1]), float(value[2])


def claims_of(content: Any) -> Claims:
    """Read what `read_torch_file` found beside the weights."""
    meta = _table(content, "meta")
    data_set = _table(meta, "dataset_meta") or _table(content, "dataset_meta")
    facts = _plain(data_set)
    config = _config(next((meta[key] for key in ("cfg", "config") if key in meta), None))
    name = facts.get("dataset_name")
    if not isinstance(name, str) or not name:
        name = _data_set_of(config)
    classes = facts.get("classes") or facts.get("CLASSES") or _plain(meta.get("CLASSES"))
    return Claims(
        name,
        _keypoints(facts, name),
        tuple(classes)
        if isinstance(classes, list) and all(isinstance(one, str) for one in classes)
        else (),
        config,
    )


def _table(content: Any, key: str) -> Mapping[Any, Any]:
    value = content.get(key) if isinstance(content, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any, depth: int = 0) -> Any:
    """Dicts, lists, texts and numbers of a bounded size; None for anything else."""
    if isinstance(value, PickledArray):
        array = value.value()
        value = array.tolist() if isinstance(array, np.ndarray) and array.size < 1e6 else array
    if isinstance(value, str | int | float):
        return value
    if depth > _DEEPEST:
        return None
    if isinstance(value, Mapping):
        items = islice(value.items(), _MOST_ITEMS)
        return {key: _plain(one, depth + 1) for key, one in items if isinstance(key, str | int)}
    if isinstance(value, list | tuple):
        return [_plain(one, depth + 1) for one in islice(value, _MOST_ITEMS)]
    return None


# --- keypoints ------------------------------------------------------------------------------------


def _keypoints(facts: Mapping[Any, Any], data_set: str) -> KeypointSet | None:
    """The points of a data set's description, which a known set completes where it is silent."""
    listed = facts.get("keypoint_id2name")
    names: list[Any] = []
    if isinstance(listed, dict) and set(listed) == set(range(len(listed))):
        names = [listed[index] for index in range(len(listed))]
    if not all(isinstance(name, str) for name in names):
        names = []
    known = _known(names, data_set)
    if known is None and not names:
        return None
    own = {
        "keypoints": names,
        "skeleton": _pairs(facts.get("skeleton_links")),
        "flip_pairs": _pairs(facts.get("flip_pairs")) or _swapped(facts.get("flip_indices")),
        "sigmas": facts.get("sigmas") or [],
    }
    if known is not None:
        # One spelling of the names, by which drawing tells left from right.
        own["keypoints"] = list(known.keypoints)
        for key, value in known.to_json().items():
            own[key] = own[key] or value
    try:
        found = read_keypoint_set(known.name if known else _name(data_set, len(names)), own)
    except (SpecError, TypeError):
        return known
    return known if known is not None and _agree(found, known) else found


def _known(names: Sequence[str], data_set: str) -> KeypointSet | None:
    """The known set with these names; without names that of the data set."""
    if names:
        spelt = [_spelt(name) for name in names]
        return next(
            (one for one in KEYPOINT_SETS.values() if [_spelt(n) for n in one.keypoints] == spelt),
            None,
        )
    return KEYPOINT_SETS.get(_DATA_SETS.get(re.sub(r"[\W_]|dataset$", "", data_set.lower()), ""))


def _spelt(name: str) -> str:
    """One spelling of what several files write: ``L_F_Paw`` is ``left_front_paw``."""
    words = re.split(r"[\W_]+", name.strip().lower())
    long = {"l": "left", "r": "right", "f": "front", "b": "back"}
    return "_".join(long.get(word, word) for word in words)


def _name(data_set: str, count: int) -> str:
    """A word for a set that has none: the data set's name and the number of points."""
    word = re.sub(r"[^a-z0-9.]+", "-", data_set.lower()).strip("-")[:60] or "own"
    name = word if word.endswith(str(count)) else f"{word}{count}"
    return f"own-{name}" if name in KEYPOINT_SETS or name.startswith("unnamed-") else name


def _pairs(value: Any) -> list[list[int]]:
    """Pairs of indices, each once, in their order of appearance."""
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(one) is int for one in pair)
        for pair in value
    ):
        return []
    once = {frozenset(pair): sorted(pair) for pair in reversed(value)}
    return [list(pair) for pair in reversed(once.values())]


def _swapped(indices: Any) -> list[list[int]]:
    """Pairs of ``flip_indices``: which point each becomes in a mirror."""
    if not isinstance(indices, list) or not all(type(index) is int for index in indices):
        return []
    return [[here, there] for here, there in enumerate(indices) if here < there]


def _agree(found: KeypointSet, known: KeypointSet) -> bool:
    def bag(pairs: Any) -> set[frozenset[int]]:
        return {frozenset(pair) for pair in pairs}

    return (
        bag(found.skeleton) == bag(known.skeleton)
        and bag(found.flip_pairs) == bag(known.flip_pairs)
        and np.allclose(found.sigmas, known.sigmas, atol=1e-6)
    )


# --- configuration --------------------------------------------------------------------------------


def _config(text: Any) -> dict[str, Any]:
    """Literals of a configuration by their dotted place; lists stay whole."""
    if not isinstance(text, str) or len(text) > _LONGEST_CONFIG:
        return {}
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, Any] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            _flatten(statement.targets[0].id, _literal(statement.value), found)
    return found


def _flatten(place: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, one in value.items():
            _flatten(f"{place}.{key}", one, found)
    else:
        found[place] = value


def _literal(node: ast.expr) -> Any:
    """A literal or a ``dict(...)`` of literals; None for every other expression."""
    match node:
        case ast.Constant(value=value) if isinstance(value, str | int | float):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {
                key.value: _literal(value)
                for key, value in zip(keys, values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            }
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return {one.arg: _literal(one.value) for one in keywords if one.arg is not None}
    return None


def _data_set_of(config: Mapping[str, Any]) -> str:
    """The data set of a configuration: its class without the word that all of them end on."""
    places = ("test_dataloader.dataset.type", "val_dataloader.dataset.type", "dataset_type")
    for place in places:
        name = config.get(place)
        if isinstance(name, str) and name not in ("CombinedDataset", "RepeatDataset"):
            return name.removesuffix("Dataset").lower()
    return ""
