"""What functions are given: what is wrong with it ends in one line that says what to pass."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import ArgumentError
from edge.records import Rule, check, choice, number, share, shown, whole
from edge.spec import ModelSpec, Task

__all__ = [
    "check_boxes",
    "check_callable",
    "check_labels",
    "check_number",
    "check_session",
    "check_share",
    "check_whole",
    "check_words",
]


def check_share(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    return float(_checked(share(), name, value))


def check_number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number in a range."""
    return float(_checked(number(least, most), name, value))


def check_whole(name: str, value: Any, least: int = 0, most: int = 10**6) -> int:
    """A whole number in a range."""
    return int(_checked(whole(least, most), name, value))


def check_words(name: str, value: Any, *words: str) -> None:
    """One of some words."""
    _checked(choice(*words), name, value)


def _checked(rule: Rule, name: str, value: Any) -> Any:
    check(rule, value, name, error=ArgumentError)
    return value


def check_labels(label: Any) -> tuple[int, ...] | None:
    """One class or several as whole numbers from 0; None for all of them."""
    if label is None:
        return None
    labels = tuple(label) if isinstance(label, (Collection, np.ndarray)) else (label,)
    if isinstance(label, str) or not labels:
        raise ArgumentError(
            f"label must be the number of a class, several of them, or None for all, got "
            f"{shown(label)}; `edge.classes.find_labels` finds the numbers of names"
        )
    return tuple(check_whole("label", one) for one in labels)


def check_session(session: Any, task: Task, who: str) -> ModelSpec:
    """The spec of an open session of a model that does this task."""
    spec = getattr(session, "spec", None)
    if not isinstance(spec, ModelSpec) or not callable(getattr(session, "run", None)):
        raise ArgumentError(f"{who} takes a session, open_session(artifact), got {shown(session)}")
    if spec.task != task:
        raise ArgumentError(f"{who} takes a {task} model, and {spec.name} is a {spec.task} model")
    return spec


def check_callable(name: str, value: Any, kind: type, how: str) -> None:
    """An object of a class of this package, or another callable that is no session."""
    if not isinstance(value, kind) and (not callable(value) or hasattr(value, "spec")):
        raise ArgumentError(f"{name} must be {how}, got {shown(value)}")


def check_boxes(boxes_xyxy: Any) -> npt.NDArray[np.float32]:
    """Boxes (N, 4) as float32; for none an empty list will do."""
    if hasattr(boxes_xyxy, "boxes_xyxy"):
        raise ArgumentError(
            "boxes_xyxy must be an array (N, 4), and this is an object that has one: pass its "
            ".boxes_xyxy"
        )
    try:
        boxes = np.asarray(boxes_xyxy)
    except (ValueError, TypeError):
        boxes = np.empty((), object)
    if boxes.dtype.kind not in "fiu" or boxes.dtype.itemsize > 8:
        raise ArgumentError(
            f"boxes_xyxy must be an array (N, 4) of x1, y1, x2, y2 in pixels, got "
            f"{shown(boxes_xyxy)}"
        )
    if boxes.size == 0:
        return np.empty((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        more = ": leave the scores out, boxes[:, :4]" if boxes.shape[-1:] == (5,) else ""
        raise ArgumentError(
            f"boxes_xyxy must be (N, 4), x1, y1, x2, y2 in pixels, got {boxes.shape}{more}"
        )
    if not np.isfinite(boxes).all():
        raise ArgumentError("boxes_xyxy must be finite, got NaN or infinity")
    return boxes.astype(np.float32)
