"""Stand-ins for two compiled parts that no network of the proof needs; install before mmcv.

- ``mmcv._ext``: mmcv-lite comes without its compiled operators. Suppression is given here in torch;
  any other operator raises when it is called.
- ``torchvision``: its wheel asks for the very PyTorch build that it was made with. mmpose and mmdet
  import names of it at the top of files that are not used here.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import torch


def nms(
    boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int = 0
) -> torch.Tensor:
    """Indices of the boxes (N, 4) that greedy suppression keeps, the best score first."""
    order = torch.argsort(scores, descending=True, stable=True)
    left_top, right_bottom = boxes[order, :2], boxes[order, 2:] + offset
    areas = (right_bottom - left_top).prod(1)
    alive = torch.ones(len(order), dtype=torch.bool)
    kept = []
    for index in range(len(order)):
        if not alive[index]:
            continue
        kept.append(order[index])
        low = torch.maximum(left_top[index], left_top)
        high = torch.minimum(right_bottom[index], right_bottom)
        shared = (high - low).clamp(min=0).prod(1)
        alive &= shared <= iou_threshold * (areas[index] + areas - shared)
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.long)


class _Operators(types.ModuleType):
    """Every name is there; what is not a stand-in says so when it is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(*_: Any, **__: Any) -> Any:
            raise NotImplementedError(f"mmcv's operator {name} is compiled code, which is not here")

        return absent


class _Names(types.ModuleType):
    """A package in which every name is an empty class."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # a package, so that parts of it can be imported

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def install() -> None:
    """Put the stand-ins where imports look first."""
    operators = _Operators("mmcv._ext")
    operators.nms = nms  # type: ignore[attr-defined]
    sys.modules["mmcv._ext"] = operators
    for name in (
        *("torchvision", "torchvision.models", "torchvision.ops", "torchvision.ops.boxes"),
        *("torchvision.transforms", "torchvision.transforms.functional"),
        "torchvision.transforms.transforms",
    ):
        sys.modules[name] = _Names(name)
        package, _, child = name.rpartition(".")
        if package:
            setattr(sys.modules[package], child, sys.modules[name])
