from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from converters.parity.nothing_found import NothingFound
from edge.spec import ModelSpec, TensorSpec


def simcc_spec() -> ModelSpec:
    return ModelSpec(
        name="pose",
        task="pose",
        codec="simcc",
        input=TensorSpec("input", (None, 3, 64, 48)),
        outputs=(TensorSpec("x", (None, 17, 96)), TensorSpec("y", (None, 17, 128))),
        color_order="rgb",
        mean=(0, 0, 0),
        std=(1, 1, 1),
        keypoint_set="coco17",
    )


def heatmap_spec() -> ModelSpec:
    maps = (TensorSpec("maps", (None, 17, 16, 12)),)
    return replace(simcc_spec(), codec="heatmap", outputs=maps)


def logits(spec: ModelSpec, *, softmax: bool) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    values = {}
    for tensor in spec.outputs:
        shape = [size or 1 for size in tensor.shape]
        value = rng.normal(0, 0.02, shape).astype(np.float32)
        if softmax:
            flat = np.exp(value.reshape(*shape[:2], -1))
            value = (flat / flat.sum(axis=-1, keepdims=True)).reshape(shape)
        values[tensor.name] = value
    return values


@pytest.mark.parametrize("spec", [simcc_spec(), heatmap_spec()], ids=["simcc", "heatmap"])
def test_scores_behind_a_softmax_are_told(spec: ModelSpec) -> None:
    outputs = logits(spec, softmax=True)
    best = max(value.max() for value in outputs.values())
    found = NothingFound()
    found.add(spec, outputs)
    text = found.text(spec, "two pictures")
    assert "finds nothing in two pictures" in text
    assert "softmax" in text
    assert float(text.split("score is ")[1].split(",")[0]) <= best * 1.05


@pytest.mark.parametrize("spec", [simcc_spec(), heatmap_spec()], ids=["simcc", "heatmap"])
def test_small_logits_are_no_softmax(spec: ModelSpec) -> None:
    found = NothingFound()
    found.add(spec, logits(spec, softmax=True))
    found.add(spec, logits(spec, softmax=False))
    text = found.text(spec, "two pictures")
    assert "softmax" not in text
    assert "--images DIR" in text


def test_the_largest_score_of_a_detector() -> None:
    spec = ModelSpec(
        name="detector",
        task="detection",
        codec="rtmdet",
        input=TensorSpec("input", (None, 3, 32, 32)),
        outputs=(TensorSpec("logits", (None, 1, 4, 4)), TensorSpec("sides", (None, 4, 4, 4))),
        color_order="bgr",
        mean=(0, 0, 0),
        std=(1, 1, 1),
        strides=(8,),
    )
    found = NothingFound()
    for logit in (-4.0, -3.0):
        maps = np.full((1, 1, 4, 4), -9, np.float32)
        maps[0, 0, 1, 2] = logit
        found.add(spec, {"logits": maps, "sides": np.ones((1, 4, 4, 4), np.float32)})
    text = found.text(spec, "two pictures")
    assert f"its largest box score is {1 / (1 + np.exp(3.0)):.2g}, and 0.3 is asked" in text
    assert "mean, std or channel order" in text
