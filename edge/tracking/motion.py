"""Where a tracked point will be next, and how its path is smoothed.

Formulas: the Kalman filter of a constant velocity as mmdeploy's SDK sets it up for poses, and the
one-euro filter (Casiez, Roussel, Vogel: 1 Euro Filter, CHI 2012) with a step of one frame.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge.tracking.matching import squared_length

__all__ = ["ConstantVelocity", "OneEuro"]

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class ConstantVelocity:
    """Kalman filters of N points (N, D) whose D axes are independent and equally uncertain.

    So a point's covariance is three numbers: of its position, of position with velocity, of its
    velocity. All noise is in proportion to the size of the person, sqrt(w * h) of its box in px:
    a position's deviation is ``weight_position`` and a velocity's ``weight_velocity`` times that,
    a new point's 2 and 10 times as much.
    """

    def __init__(
        self, position: F32, size: float, weight_position: float, weight_velocity: float
    ) -> None:
        self.position = position.copy()
        self.velocity = np.zeros_like(position)
        self.weight_position = weight_position
        self.weight_velocity = weight_velocity
        # (3, N): position, position with velocity, velocity
        self.variance = np.zeros((3, len(position)), np.float32)
        self.restart(np.ones(len(position), np.bool_), position, size)

    def restart(
        self, points: Mask, position: F32, size: float, *, forget_velocity: bool = True
    ) -> None:
        """Begin anew with some of the points; the velocity and its link may be left as they are."""
        self.position[points] = position[points]
        self.variance[0, points] = (2 * self.weight_position * size) ** 2
        self.variance[2, points] = (10 * self.weight_velocity * size) ** 2
        if forget_velocity:
            self.velocity[points] = 0
            self.variance[1, points] = 0

    def predict(self, size: float) -> None:
        """Move on by one frame."""
        position, link, velocity = self.variance
        self.position = self.position + self.velocity
        self.variance = np.array(
            [
                position + 2 * link + velocity + (self.weight_position * size) ** 2,
                link + velocity,
                velocity + (self.weight_velocity * size) ** 2,
            ],
            np.float32,
        )

    def distance(self, measured: F32, size: float) -> F32:
        """Squared Mahalanobis distances (..., M) of measurements (..., M, D) of the first M."""
        count = measured.shape[-2]
        squared = np.square(measured - self.position[:count]).sum(axis=-1)
        expected = self.variance[0, :count] + np.float32((self.weight_position * size) ** 2)
        # No uncertainty at all: OpenCV's inverse of a singular matrix is 0.
        safe = np.where(expected == 0, np.float32(math.inf), expected)
        return np.asarray(squared / safe, np.float32)

    def correct(self, points: Mask, measured: F32, size: float) -> None:
        """Take in what was measured (N, D) for some of the points."""
        variance = self.variance[:, points]
        expected = variance[0] + np.float32((self.weight_position * size) ** 2)
        gain = variance[:2] / np.where(expected == 0, 1, expected)
        surprise = measured[points] - self.position[points]
        self.position[points] += gain[0, :, None] * surprise
        self.velocity[points] += gain[1, :, None] * surprise
        self.variance[:2, points] -= gain[0] * variance[:2]
        self.variance[2, points] -= gain[1] * variance[1]


class OneEuro:
    """Smoothed values (N, 2): the faster one moves, the less it lags.

    A row is a point with one speed; but the last row is two lengths, each with a speed of its own,
    which with ``signed`` counts as negative while the length shrinks. ``parameters`` are beta, the
    least cutoff and the cutoff of the velocity, per frame.
    """

    def __init__(
        self, values: F32, parameters: tuple[float, float, float], *, signed: bool = False
    ) -> None:
        self.parameters = parameters
        self.signed = signed
        self.reset(values)

    def reset(self, values: F32) -> None:
        """Begin anew, at rest."""
        self.values = values.copy()
        self.velocity = np.zeros_like(values)

    def restart(self, points: Mask, values: F32) -> None:
        """Begin anew with some of the points, at rest."""
        self.values[points] = values[points]
        self.velocity[points] = 0

    def step(self, values: F32) -> F32:
        """The smoothed values after one more frame."""
        beta, least, velocity_cutoff = self.parameters
        share = _factor(np.array([velocity_cutoff], np.float32))
        self.velocity = _blend(share, self.velocity, values - self.values)
        speed = np.empty_like(self.velocity)
        speed[...] = np.sqrt(squared_length(self.velocity))[:, None]
        speed[-1] = self.velocity[-1] if self.signed else np.abs(self.velocity[-1])
        speed *= np.float32(beta)
        self.values = _blend(_factor(speed + np.float32(least)), self.values, values)
        return self.values


def _factor(cutoff: F32) -> F32:
    turn = np.float32(2 * math.pi) * cutoff
    return np.asarray(turn / (turn + 1), np.float32)


def _blend(share: F32, old: F32, new: F32) -> F32:
    return np.asarray((1 - share) * old + share * new, np.float32)
