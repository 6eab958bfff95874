"""Judging answers: tensors one by one, and what they decode to.

Keypoints are compared in input pixels; kept boxes by their overlap, in ``converters.parity.boxes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.parity.boxes import Beside, BoxJudge, Found, compared_spec
from converters.parity.limits import KEPT_KEYPOINT_SCORE, Limits
from edge.codecs import KEYPOINT_CODECS, KEYPOINT_SHORTFALLS, POSE_CODECS
from edge.session import Array
from edge.spec import ModelSpec

__all__ = ["KeypointJudge", "PoseJudge", "TensorDifference", "TensorJudge"]

# Places that the reference rates so alike are one answer to it, of scores from 0.3 to 1.
_EQUAL_SCORE = 0.0005


@dataclass(frozen=True)
class TensorDifference:
    """Differences of one output over all images: the largest, the mean, the least cosine."""

    name: str
    max_abs: float
    mean_abs: float
    cosine_min: float


class TensorJudge:
    """Collects tensor differences over the images.

    ``broken`` are tensors that cannot be compared at all, ``failures`` those beyond the limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rows: dict[str, list[tuple[float, float, float]]] = {}
        self.broken: list[str] = []
        self.failures: list[str] = []

    def add(self, image: str, name: str, want: Array, got: Array) -> None:
        """Take in one tensor of one image."""
        if want.shape != got.shape:
            self.broken.append(f"{name} of {image} has shape {got.shape}, not {want.shape}")
            return
        if not np.isfinite(got).all():
            bad = int((~np.isfinite(got)).sum())
            self.broken.append(f"{name} of {image} holds {bad} values that are not finite")
            return
        a, b = want.astype(np.float64).reshape(-1), got.astype(np.float64).reshape(-1)
        difference = np.abs(a - b)
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        cosine = float(a @ b) / norm if norm > 0 else float(np.array_equal(a, b))
        self._rows.setdefault(name, []).append(
            (float(difference.max(initial=0)), float(difference.mean()), cosine)
        )
        if cosine < self._limits.cosine_min:
            self.failures.append(
                f"{name} of {image}: cosine {cosine:.6f} is below {self._limits.cosine_min} "
                f"(max abs difference {difference.max():.4g})"
            )

    def differences(self) -> list[TensorDifference]:
        """The worst of each tensor over the images."""
        return [
            TensorDifference(
                name,
                max(row[0] for row in rows),
                sum(row[1] for row in rows) / len(rows),
                min(row[2] for row in rows),
            )
            for name, rows in self._rows.items()
        ]


class KeypointJudge:
    """Compares decoded keypoints, one person an image."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._distances: list[npt.NDArray[np.float64]] = []
        self._scores: list[float] = []
        self._ties = 0
        self.failures: list[str] = []

    def add(
        self,
        image: str,
        want_spec: ModelSpec,
        want: dict[str, Array],
        got_spec: ModelSpec,
        got: dict[str, Array],
        same: dict[str, Array],
    ) -> None:
        """Take in both sides' outputs for one image with one person; ``same`` is not needed."""
        del same
        reference = KEYPOINT_CODECS[want_spec.codec](want, want_spec)[0].astype(np.float64)
        answer = KEYPOINT_CODECS[got_spec.codec](got, got_spec)[0].astype(np.float64)
        points = answer[None, :, :2].astype(np.float32)
        shortfall = KEYPOINT_SHORTFALLS[want_spec.codec](want, want_spec, points)[0]
        self.compare(image, want_spec.keypoints.keypoints, reference, answer, shortfall)

    def compare(
        self,
        image: str,
        names: Sequence[str],
        reference: npt.NDArray[np.float64],
        answer: npt.NDArray[np.float64],
        shortfall: npt.NDArray[np.floating[Any]],
    ) -> None:
        """Take in one person's keypoints (K, 3) of both sides, px and score.

        ``shortfall`` (K,): by how much the reference rates the answer's place below its own.
        """
        kept = reference[:, 2] >= KEPT_KEYPOINT_SCORE
        # Scores of networks without a scale of their own reach tens, and rounding grows with them.
        unit = np.maximum(1.0, reference[:, 2])
        limit = self._limits.keypoint_score * unit
        distance = np.linalg.norm(reference[:, :2] - answer[:, :2], axis=1)
        far = distance > self._limits.keypoint_max_px
        tie = kept & far & (shortfall <= limit)
        # Of two equal maxima a rounding picks one: that is no distance.
        distance[~far & (shortfall <= _EQUAL_SCORE * unit)] = 0.0
        kept &= ~tie
        self._ties += int(tie.sum())
        score = np.abs(reference[:, 2] - answer[:, 2])
        self._distances.append(distance[kept])
        self._scores.append(float(score[kept].max(initial=0)))
        for index in np.flatnonzero(kept).tolist():
            if distance[index] > self._limits.keypoint_max_px:
                self.failures.append(
                    f"{names[index]} of {image} is {distance[index]:.2f} px off "
                    f"(limit {self._limits.keypoint_max_px:g})"
                )
            if score[index] > limit[index]:
                self.failures.append(
                    f"the score of {names[index]} of {image} is {score[index]:.4f} off "
                    f"(limit {limit[index]:.3g})"
                )
        if len(distance[kept]) and distance[kept].mean() > self._limits.keypoint_mean_px:
            self.failures.append(
                f"the keypoints of {image} are {distance[kept].mean():.3f} px off on average "
                f"(limit {self._limits.keypoint_mean_px:g})"
            )

    without_area = 0

    @property
    def count(self) -> int:
        """How many keypoints were compared."""
        return sum(len(distances) for distances in self._distances)

    def summary(self) -> dict[str, float]:
        """Number of keypoints, mean and largest distance in px, change of score, and ties."""
        every = np.concatenate([np.empty(0), *self._distances])
        return {
            "keypoints": float(len(every)),
            "mean_px": float(every.mean()) if len(every) else 0.0,
            "max_px": float(every.max(initial=0)),
            "score": max(self._scores, default=0.0),
            "ties": float(self._ties),
        }


class PoseJudge:
    """Compares the boxes of a one-stage model, and the keypoints of those that belong together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._boxes = BoxJudge(limits)
        self._keypoints = KeypointJudge(limits)

    def add(
        self,
        image: str,
        want_spec: ModelSpec,
        want: dict[str, Array],
        got_spec: ModelSpec,
        got: dict[str, Array],
        same: dict[str, Array],
    ) -> None:
        """Take in both sides' outputs for one image; ``same`` as in `BoxJudge.add`."""
        sides, people = [], []
        for spec, outputs in ((want_spec, want), (got_spec, got)):
            boxes, keypoints = POSE_CODECS[spec.codec](outputs, compared_spec(spec, self._limits))[
                0
            ]
            sides.append(Found(boxes, np.zeros(len(boxes), np.int64)))
            people.append(keypoints.astype(np.float64))
        names = want_spec.keypoints.keypoints
        # Coordinates are expectations here: there is no maximum that two places could share.
        shortfall = np.full(len(names), np.inf)
        beside = Beside(got_spec, same, got)
        for mine, other in self._boxes.compare(image, sides[0], sides[1], beside):
            self._keypoints.compare(image, names, people[0][mine], people[1][other], shortfall)

    @property
    def failures(self) -> list[str]:
        """What is beyond the limits."""
        return self._boxes.failures + self._keypoints.failures

    @property
    def count(self) -> int:
        """How many boxes there were to compare."""
        return self._boxes.count

    @property
    def without_area(self) -> int:
        """How many boxes of the reference have no area."""
        return self._boxes.without_area

    def summary(self) -> dict[str, float]:
        """Both judges' figures; ``box_score`` is the change of the boxes' scores."""
        boxes, keypoints = self._boxes.summary(), self._keypoints.summary()
        return {**boxes, **keypoints, "box_score": boxes["score"]}
