"""Sessions without an engine, for detectors and pose models."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge.session import Array, Feeds
from edge.spec import ModelSpec
from tests.stand_ins.specs import detector_spec

__all__ = ["FakeSession", "bright_spot", "one_person", "two_class_detector"]


class FakeSession:
    """A session whose answers a function makes; it keeps what it was asked."""

    engine = "fake"
    inference_precision = "fp32"
    starts_process = False

    def __init__(self, spec: ModelSpec, answer: Any, max_batch: int | None = None) -> None:
        self.spec = spec
        self.answer = answer
        self.max_batch = max_batch
        self.batches: list[Array] = []

    def run(self, feeds: Feeds) -> dict[str, Array]:
        batch = feeds["input"].copy()
        self.batches.append(batch)
        names = [tensor.name for tensor in self.spec.outputs]
        return dict(zip(names, self.answer(batch), strict=True))

    def close(self) -> None: ...

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: object) -> None: ...


def bright_spot(batch: Array) -> tuple[Array, Array]:
    """A pose network that puts all keypoints on the brightest pixel."""
    count = len(batch)
    x, y = np.zeros((count, 17, 384), np.float32), np.zeros((count, 17, 512), np.float32)
    for n, image in enumerate(batch):
        row, column = np.unravel_index(image.sum(0).argmax(), image.shape[1:])
        x[n, :, 2 * column] = 0.9
        y[n, :, 2 * row] = 0.8
    return x, y


def one_person(score_logit: float, label: int = 0) -> Any:
    """A detector that sees one box of 80x160 input pixels about the point (160, 96)."""

    def answer(batch: Array) -> list[Array]:
        del batch
        maps = []
        for channels in (2, 4):
            for size in (40, 20, 10):
                value = -9.0 if channels == 2 else 0.0
                maps.append(np.full((1, channels, size, size), value, np.float32))
        maps[0][0, label, 12, 20] = score_logit
        maps[3][0, :, 12, 20] = (40, 80, 40, 80)
        return maps

    return answer


def two_class_detector(answer: Any) -> FakeSession:
    outputs = [t.__dict__ for t in detector_spec().outputs]
    spec = ModelSpec.from_json(
        detector_spec().to_json()
        | {
            "outputs": [
                {"name": o["name"], "shape": [1, 2 if i < 3 else 4, *o["shape"][2:]]}
                for i, o in enumerate(outputs)
            ]
        }
    )
    return FakeSession(spec, answer)
