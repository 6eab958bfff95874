"""Specs of every task and codec."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edge.spec import ModelSpec, TensorSpec

__all__ = [
    "EVERY_SPEC",
    "detector_spec",
    "finished_poses_spec",
    "heatmap_spec",
    "maps",
    "pose_spec",
    "rtmo_spec",
    "yolox_maps_spec",
    "yolox_spec",
]


def pose_spec(**changes: Any) -> ModelSpec:
    spec = ModelSpec(
        name="pose",
        task="pose",
        codec="simcc",
        input=TensorSpec("input", (None, 3, 256, 192)),
        outputs=(TensorSpec("simcc_x", (None, 17, 384)), TensorSpec("simcc_y", (None, 17, 512))),
        color_order="rgb",
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        keypoint_set="coco17",
    )
    return replace(spec, **changes)


def detector_spec(**changes: Any) -> ModelSpec:
    sizes = {8: 40, 16: 20, 32: 10}
    spec = ModelSpec(
        name="detector",
        task="detection",
        codec="rtmdet",
        input=TensorSpec("input", (1, 3, 320, 320)),
        outputs=(
            *(TensorSpec(f"logits_{s}", (1, 1, n, n)) for s, n in sizes.items()),
            *(TensorSpec(f"distances_{s}", (1, 4, n, n)) for s, n in sizes.items()),
        ),
        color_order="bgr",
        mean=(103.53, 116.28, 123.675),
        std=(57.375, 57.12, 58.395),
        strides=(8, 16, 32),
    )
    return replace(spec, **changes)


def heatmap_spec(**changes: Any) -> ModelSpec:
    spec = pose_spec(codec="heatmap", outputs=(TensorSpec("heatmaps", (None, 17, 64, 48)),))
    return replace(spec, **changes)


def yolox_spec(**changes: Any) -> ModelSpec:
    """One output with 3 classes."""
    outputs = (TensorSpec("output", (1, 40 * 40 + 20 * 20 + 10 * 10, 8)),)
    return detector_spec(codec="yolox", outputs=outputs, **changes)


def yolox_maps_spec(**changes: Any) -> ModelSpec:
    """The same as maps."""
    spec = detector_spec(codec="yolox", outputs=maps((8, 16, 32), 320, 3, 4, 1))
    return replace(spec, **changes)


def maps(strides: tuple[int, ...], side: int, *channels: int) -> tuple[TensorSpec, ...]:
    """Outputs ``kind0_s8`` and so on, of every kind one a stride."""
    return tuple(
        TensorSpec(f"kind{kind}_s{s}", (1, count, side // s, side // s))
        for kind, count in enumerate(channels)
        for s in strides
    )


def rtmo_spec(**changes: Any) -> ModelSpec:
    spec = detector_spec(
        name="rtmo",
        task="one-stage",
        codec="rtmo",
        input=TensorSpec("input", (1, 3, 128, 128)),
        outputs=maps((16, 32), 128, 1, 4, 17, 24),
        strides=(16, 32),
        keypoint_set="coco17",
        letterbox="center",
        constants=(TensorSpec("dcc.periods", (64,)), TensorSpec("dcc.x.weight", (24, 8))),
    )
    return replace(spec, **changes)


def finished_poses_spec(**changes: Any) -> ModelSpec:
    """A one-stage file with its suppression inside, five keypoints."""
    spec = rtmo_spec(
        codec="detections",
        outputs=(TensorSpec("dets", (1, None, 5)), TensorSpec("keypoints", (1, None, 5, 3))),
        keypoint_set="unnamed-5",
        strides=(),
        constants=(),
    )
    return replace(spec, **changes)


EVERY_SPEC = [
    *(pose_spec, heatmap_spec, detector_spec, yolox_spec, yolox_maps_spec, rtmo_spec),
    finished_poses_spec,
]
