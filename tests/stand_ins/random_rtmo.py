"""RTMO with random weights, and its blocks as naive formulas use them."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from converters.architectures.rtmo import RTMO

__all__ = [
    "HEIGHT",
    "WIDTH",
    "Array",
    "close",
    "model",
    "norm",
    "random_images",
    "random_rtmo",
    "randomise",
    "sigmoid",
    "weights_of",
]

Array = NDArray[np.float64]
HEIGHT, WIDTH = 96, 160


def randomise(model: Any, seed: int, images: Any) -> Any:
    """Random weights; batch norms see `images`, so that activations keep to the order of 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(value: Any, mean: float, spread: float) -> None:
        value.copy_(mean + spread * torch.randn(value.shape, generator=generator))

    model.train()
    for module in model.modules():
        norm = isinstance(module, torch.nn.modules.batchnorm._BatchNorm | torch.nn.LayerNorm)
        for name, value in module.named_parameters(recurse=False):
            if norm:
                normal(value.data, float(name == "weight"), 0.2)
            elif value.ndim > 1:
                normal(value.data, 0, 1 / math.sqrt(value[0].numel()))
            else:
                normal(value.data, 0.5, 0.3)
    norms = [module for module in model.modules() if hasattr(module, "running_var")]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.running_mean += 0.1 * torch.randn(norm.running_mean.shape, generator=generator)
        norm.running_var *= 0.7 + torch.rand(norm.running_var.shape, generator=generator)
    return model.eval()


def random_images() -> Any:
    generator = torch.Generator().manual_seed(0)
    return 255 * torch.rand(2, 3, HEIGHT, WIDTH, generator=generator)


@functools.cache
def random_rtmo() -> Any:
    """RTMO-t with random weights, for both test files; none may change it."""
    return randomise(RTMO("t", input_hw=(HEIGHT, WIDTH)), 1, random_images())


@pytest.fixture(scope="module")
def model() -> Any:
    return random_rtmo()


def weights_of(model: Any) -> dict[str, Array]:
    return {key: value.numpy().astype(np.float64) for key, value in model.state_dict().items()}


def close(found: Any, wanted: Array, limit: float = 1e-4) -> None:
    assert tuple(found.shape) == wanted.shape
    assert wanted.std() > 0.05  # of the order of 1: the limit means something
    assert np.abs(found.detach().numpy() - wanted).max() <= limit


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def norm(x: Array, w: dict[str, Array], name: str, eps: float) -> Array:
    gain = w[f"{name}.weight"] / np.sqrt(w[f"{name}.running_var"] + eps)
    shift = w[f"{name}.bias"] - w[f"{name}.running_mean"] * gain
    return x * gain[:, None, None] + shift[:, None, None]
