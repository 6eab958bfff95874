"""RTMO's spec, outputs and weights, small and random."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge.session import Array
from edge.spec import ModelSpec, TensorSpec

__all__ = [
    "BINS",
    "HEIGHT",
    "KEYPOINTS",
    "STRIDES",
    "VECTOR",
    "WIDTH",
    "D",
    "E",
    "P",
    "S",
    "maps_of",
    "spec_of",
    "weights_of",
]

STRIDES = (16, 32)
HEIGHT, WIDTH = 96, 160
KEYPOINTS, VECTOR = 5, 12
# Channels of a keypoint, expanded channels, attention channels, periods of the bins' code; bins.
D, E, S, P = 16, 24, 8, 8
BINS = {"x": 10, "y": 14}


def spec_of(**changes: Any) -> ModelSpec:
    channels = {"logits": 1, "boxes": 4, "visibility": KEYPOINTS, "pose": VECTOR}
    outputs = tuple(
        TensorSpec(f"{kind}_{stride}", (None, count, HEIGHT // stride, WIDTH // stride))
        for kind, count in channels.items()
        for stride in STRIDES
    )
    fields: dict[str, Any] = {
        "score_threshold": 0.1,
        "nms_iou": 0.65,
        "max_boxes": 100,
        "keypoint_set": f"unnamed-{KEYPOINTS}",
        **changes,
    }
    return ModelSpec(
        name="rtmo",
        task="one-stage",
        codec="rtmo",
        input=TensorSpec("input", (None, 3, HEIGHT, WIDTH)),
        outputs=outputs,
        color_order="bgr",
        mean=(0, 0, 0),
        std=(1, 1, 1),
        strides=STRIDES,
        **fields,
    )


def weights_of(seed: int) -> dict[str, Array]:
    shapes: dict[str, tuple[int, ...]] = {
        "keypoints.weight": (VECTOR, KEYPOINTS * D),
        "keypoints.bias": (KEYPOINTS * D,),
        "gates.weight": (D, 2 * E + S),
        "query.scale": (S,),
        "query.offset": (KEYPOINTS, S),
        "key.scale": (S,),
        "key.offset": (KEYPOINTS, S),
        "out.weight": (E, D),
        "residual.scale": (D,),
        "x.weight": (D, 2 * P),
        "x.bias": (D,),
        "y.weight": (D, 2 * P),
        "y.bias": (D,),
    }
    rng = np.random.default_rng(seed)
    weights = {
        f"dcc.{name}": (rng.normal(0, 1, shape) / math.sqrt(shape[0])).astype(np.float32)
        for name, shape in shapes.items()
    }
    for axis, count in BINS.items():
        weights[f"dcc.{axis}.bins"] = np.linspace(-0.5, 0.5, count, dtype=np.float32)
    weights["dcc.periods"] = (300 ** (np.arange(P) / P)).astype(np.float32)
    return weights


def maps_of(seed: int, images: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    spread = {"logits": 2.5, "boxes": 0.7, "visibility": 2.0, "pose": 1.0}
    maps = {}
    for tensor in spec_of().outputs:
        shape = (images, *(size or 0 for size in tensor.shape[1:]))
        values = rng.normal(0, spread[tensor.name.partition("_")[0]], shape)
        maps[tensor.name] = values.astype(np.float32)
    for stride in STRIDES:  # people larger than a cell, so that they overlap
        maps[f"boxes_{stride}"] *= 0.4
        maps[f"boxes_{stride}"][:, 2:] += math.log(90 / stride)
    return maps
