"""Judging answers: tensors one by one, and what they decode to.

Keypoints are compared in input pixels, kept boxes by their overlap. ``LIMITS`` is the one table of
what each precision may change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.codecs import BOX_CODECS, KEYPOINT_CODECS, KEYPOINT_SHORTFALLS, POSE_CODECS
from edge.session import Array
from edge.spec import QUANTISED, ModelSpec, Precision

__all__ = [
    "KEPT_BOX_SCORE",
    "KEPT_KEYPOINT_SCORE",
    "LIMITS",
    "BoxJudge",
    "KeypointJudge",
    "Limits",
    "PoseJudge",
    "TensorDifference",
    "TensorJudge",
    "iou",
]

KEPT_BOX_SCORE = 0.3
KEPT_KEYPOINT_SCORE = 0.3
# Places that the reference rates so alike are one answer to it, of scores from 0.3 to 1.
_EQUAL_SCORE = 0.0005


@dataclass(frozen=True)
class Limits:
    """What a precision may change.

    - ``cosine_min``: of each output tensor and image, as one vector. Catches wrong weights and
      swapped layouts, says little of single cells: those are judged by what they decode to.
    - ``keypoint_mean_px``, ``keypoint_max_px``: distance in input pixels over the keypoints that
      the reference scores at ``KEPT_KEYPOINT_SCORE`` or more; below, a SimCC distribution is flat
      and its maximum arbitrary. A tie is not counted: a keypoint that moved further, to a place
      that the reference itself rates within ``keypoint_score`` of its best. A shorter move to a
      place that it rates equally good (within 0.0005) is no distance.
    - ``keypoint_score``: largest change of a score of those.
    - ``box_iou_min``, ``box_score``: over boxes that either side scores above ``KEPT_BOX_SCORE``;
      each must have its counterpart.
    """

    cosine_min: float
    keypoint_mean_px: float
    keypoint_max_px: float
    keypoint_score: float
    box_iou_min: float
    box_score: float


# Why these: fp32 differs from the reference by the order of summation alone, which may still move
# a maximum between two equal neighbouring bins (half a pixel each). fp16 keeps 11 bits of every
# weight (and activation on ARM): logits move by about 0.01, boxes by a fraction of a pixel, and a
# flat maximum by a few bins. Measured figures are in the README's table of variants.
# Quantised answers are held to the accuracy on a whole data set (converters.gate). A single crop
# says little (an ankle may change sides), and so do the distances of background cells, which INT8
# moves far without any harm. What fails here is plainly broken.
_NO_LIMIT = 10_000.0
_QUANTISED = Limits(0.5, _NO_LIMIT, _NO_LIMIT, _NO_LIMIT, 0.7, 0.3)

LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(0.99999, 0.05, 1.0, 0.01, 0.995, 0.01),
    "fp16": Limits(0.998, 0.25, 3.0, 0.02, 0.98, 0.02),
    **dict.fromkeys(QUANTISED, _QUANTISED),
}


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
    ) -> None:
        """Take in both sides' outputs for one image with one person."""
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
        distance = np.linalg.norm(reference[:, :2] - answer[:, :2], axis=1)
        far = distance > self._limits.keypoint_max_px
        tie = kept & far & (shortfall <= self._limits.keypoint_score)
        # Of two equal maxima a rounding picks one: that is no distance.
        distance[~far & (shortfall <= _EQUAL_SCORE)] = 0.0
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
            if score[index] > self._limits.keypoint_score:
                self.failures.append(
                    f"the score of {names[index]} of {image} is {score[index]:.4f} off "
                    f"(limit {self._limits.keypoint_score:g})"
                )
        if len(distance[kept]) and distance[kept].mean() > self._limits.keypoint_mean_px:
            self.failures.append(
                f"the keypoints of {image} are {distance[kept].mean():.3f} px off on average "
                f"(limit {self._limits.keypoint_mean_px:g})"
            )

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


class BoxJudge:
    """Compares kept boxes: each needs one counterpart of its class, and none may be left over."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ious: list[float] = []
        self._scores: list[float] = []
        self.failures: list[str] = []

    def add(
        self,
        image: str,
        want_spec: ModelSpec,
        want: dict[str, Array],
        got_spec: ModelSpec,
        got: dict[str, Array],
    ) -> None:
        """Take in both sides' outputs for one image."""
        self.compare(
            image,
            *BOX_CODECS[want_spec.codec](want, want_spec)[0],
            *BOX_CODECS[got_spec.codec](got, got_spec)[0],
        )

    def compare(
        self,
        image: str,
        boxes: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        answers: npt.NDArray[np.float32],
        answer_labels: npt.NDArray[np.int64],
    ) -> list[tuple[int, int]]:
        """Take in boxes (M, 5) and labels (M,) of both sides; the pairs that belong together."""
        pairs = []
        # A counterpart may lie just below the score, a leftover may not lie clearly above it.
        slack = self._limits.box_score
        free = [i for i in range(len(answers)) if answers[i, 4] > KEPT_BOX_SCORE - slack]
        for number, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            same = [i for i in free if answer_labels[i] == label]
            ious = [iou(box, answers[i]) for i in same]
            if box[4] <= KEPT_BOX_SCORE:
                # Takes its counterpart away from the leftovers, and is not judged itself.
                if ious and max(ious) >= self._limits.box_iou_min:
                    free.remove(same[int(np.argmax(ious))])
                continue
            where = f"the box of {image} at {_rounded(box)}"
            if not ious or max(ious) < 0.5:
                self.failures.append(f"{where} with score {box[4]:.3f} is gone")
                continue
            best = same[int(np.argmax(ious))]
            free.remove(best)
            pairs.append((number, best))
            score = abs(float(box[4] - answers[best, 4]))
            self._ious.append(max(ious))
            self._scores.append(score)
            if max(ious) < self._limits.box_iou_min:
                self.failures.append(
                    f"{where} keeps an IoU of {max(ious):.4f} (limit {self._limits.box_iou_min})"
                )
            if score > self._limits.box_score:
                self.failures.append(
                    f"{where} has a score {score:.4f} off (limit {self._limits.box_score})"
                )
        for index in free:
            if answers[index, 4] > KEPT_BOX_SCORE + slack:
                self.failures.append(
                    f"{image} has a box too many at {_rounded(answers[index])} "
                    f"with score {answers[index, 4]:.3f}"
                )
        return pairs

    @property
    def count(self) -> int:
        """How many boxes there were to compare."""
        # Boxes that are gone were there to compare too.
        return len(self._ious) + len(self.failures)

    def summary(self) -> dict[str, float]:
        """Number of boxes that were found again, least overlap, largest change of score."""
        return {
            "boxes": float(len(self._ious)),
            "iou_min": min(self._ious, default=1.0),
            "score": max(self._scores, default=0.0),
        }


class PoseJudge:
    """Compares the boxes of a one-stage model, and the keypoints of those that belong together."""

    def __init__(self, limits: Limits) -> None:
        self._boxes = BoxJudge(limits)
        self._keypoints = KeypointJudge(limits)

    def add(
        self,
        image: str,
        want_spec: ModelSpec,
        want: dict[str, Array],
        got_spec: ModelSpec,
        got: dict[str, Array],
    ) -> None:
        """Take in both sides' outputs for one image."""
        boxes, people = POSE_CODECS[want_spec.codec](want, want_spec)[0]
        answers, answered = POSE_CODECS[got_spec.codec](got, got_spec)[0]
        one_class = [np.zeros(len(side), np.int64) for side in (boxes, answers)]
        pairs = self._boxes.compare(image, boxes, one_class[0], answers, one_class[1])
        names = want_spec.keypoints.keypoints
        for number, best in pairs:
            reference, answer = people[number].astype(np.float64), answered[best].astype(np.float64)
            # Coordinates are expectations here: there is no maximum that two places could share.
            shortfall = np.full(len(names), np.inf)
            self._keypoints.compare(image, names, reference, answer, shortfall)

    @property
    def failures(self) -> list[str]:
        """What is beyond the limits."""
        return self._boxes.failures + self._keypoints.failures

    @property
    def count(self) -> int:
        """How many boxes there were to compare."""
        return self._boxes.count

    def summary(self) -> dict[str, float]:
        """Both judges' figures; ``box_score`` is the change of the boxes' scores."""
        boxes, keypoints = self._boxes.summary(), self._keypoints.summary()
        return {**boxes, **keypoints, "box_score": boxes["score"]}


def _rounded(box: Array) -> list[float]:
    return [round(float(value), 1) for value in box[:4]]


def iou(a: Array, b: Array) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2 (further columns are ignored)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return float(overlap / union) if union > 0 else 0.0
