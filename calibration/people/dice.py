"""Scalar random draws: what a person's shape, posture and clothes are thrown with."""

from __future__ import annotations

import numpy as np

__all__ = ["Dice"]


class Dice:
    """Scalar draws from a generator, in Python floats.

    The order of throws is part of the data set: with one more, one less or two exchanged, every
    seed gives another picture.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def u(self, low: float, high: float) -> float:
        """Uniform from `low` to `high`."""
        return low + (high - low) * self.rng.random()

    def n(self, mean: float, deviation: float, limit: float = 2.5) -> float:
        """Normal, held within `limit` deviations of the mean."""
        draw = float(self.rng.standard_normal())
        return mean + deviation * min(max(draw, -limit), limit)

    def chance(self, probability: float) -> bool:
        """True as often as `probability` says."""
        return self.rng.random() < probability

    def pick(self, weights: tuple[float, ...]) -> int:
        """A place in `weights`, each as often as its share of their sum."""
        draw = self.rng.random() * sum(weights)
        for place, weight in enumerate(weights):
            draw -= weight
            if draw < 0:
                return place
        return len(weights) - 1
