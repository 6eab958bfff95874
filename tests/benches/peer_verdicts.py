"""What the figures of `make bench-peers` say: ratios with their intervals, and wrong answers.

Nobody is fast by being wrong: answers are held against those of our own runtime on the float32
network. The limits are shares of the longer side of the person's box, since the same fault is many
pixels on a near person and few on a far one. A step of a SimCC network is 0.24 % of it, and a
keypoint that the network is not sure of jumps from one place to another when anything changes: so
the middle keypoint must be within 1 %, and nine of ten within 3 %. The demo pair's figures: 0.2 and
0.7 % for mmdeploy's runtime, which crops in its own way, 0.3 and 0.8 % in int8, 0.04 and 0.4 % in
bf16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LEAST_SCORE", "Answer", "Difference", "Ratio", "Target", "difference", "ratio"]

LEAST_SCORE = 0.3
MIDDLE_LIMIT = 0.01
NINE_OF_TEN_LIMIT = 0.03
_LEAST_OVERLAP = 0.5
_RESAMPLES = 2000

F32 = npt.NDArray[np.float32]
# Of a picture: boxes (N, 4) xyxy, keypoints (N, K, 3) of x, y, score.
Answer = tuple[F32, F32]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast: the median of the rounds' ratios, and where it lies 9 times of 10."""

    median: float
    low: float
    high: float


def ratio(ours_ms: Sequence[float], theirs_ms: Sequence[float]) -> Ratio:
    """Theirs to ours, round by round: above 1 we are the faster ones.

    The interval is that of the medians of rounds drawn anew, with repetition (the bootstrap).
    """
    ratios = np.array([b / a for a, b in zip(ours_ms, theirs_ms, strict=True)])
    rng = np.random.default_rng(0)
    drawn = rng.choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [5, 95])
    return Ratio(float(np.median(ratios)), float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """How far answers are from the reference's, over all pictures.

    ``wrong`` says why nothing may be concluded from the contender's times, None where all is well.
    """

    keypoints: int
    median_px: float
    max_px: float
    median_share: float
    nine_of_ten_share: float
    wrong: str | None


def difference(want: Sequence[Answer], got: Sequence[Answer]) -> Difference:
    """Compare the pictures' answers; people are matched by their boxes' overlap."""
    lengths: list[float] = []
    shares: list[float] = []
    wrong = None
    for number, ((boxes, keypoints), (other_boxes, other)) in enumerate(
        zip(want, got, strict=True), 1
    ):
        if len(boxes) != len(other_boxes) or len(other) != len(other_boxes):
            wrong = wrong or f"{len(other)} people in picture {number}, where {len(boxes)} are"
            continue
        if not len(boxes):
            continue
        overlap = _overlaps(boxes, other_boxes)
        places = overlap.argmax(axis=1)
        if len(set(places.tolist())) < len(boxes) or (overlap.max(axis=1) < _LEAST_OVERLAP).any():
            wrong = wrong or f"people are elsewhere in picture {number}"
            continue
        for box, points, place in zip(boxes, keypoints, places, strict=True):
            sure = points[:, 2] > LEAST_SCORE
            apart = np.hypot(*(points[sure, :2] - other[place][sure, :2]).T)
            lengths += apart.tolist()
            shares += (apart / max(box[2] - box[0], box[3] - box[1])).tolist()
    if not lengths:
        nan = float("nan")
        return Difference(0, nan, nan, nan, nan, wrong or "no keypoint was found to compare")
    middle, most = median(shares), float(np.percentile(shares, 90))
    # Not the other way about: what is no number is wrong.
    if not (middle <= MIDDLE_LIMIT and most <= NINE_OF_TEN_LIMIT):
        wrong = (
            wrong or f"keypoints are off by {middle:.1%} of the person, one in ten by {most:.1%}"
        )
    return Difference(len(lengths), median(lengths), max(lengths), middle, most, wrong)


def _overlaps(boxes: F32, others: F32) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes (N, 4) and (M, 4): (N, M)."""
    a, b = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.clip(sides, 0, None).prod(axis=-1)
    areas = [(side[..., 2:] - side[..., :2]).prod(axis=-1) for side in (a, b)]
    return np.asarray(common / np.maximum(areas[0] + areas[1] - common, 1e-9))


@dataclass(frozen=True)
class Target:
    """A claim: so many times as fast as a peer, in the whole call for so many people."""

    ours: str
    peer: str
    people: int
    at_least: float

    def verdict(self, found: Ratio | None, differences: dict[str, Difference]) -> str:
        """``met``, ``not met`` or why that cannot be said."""
        wrong = [name for name in (self.ours, self.peer) if differences[name].wrong]
        if found is None or wrong:
            return f"not compared: {' and '.join(wrong)} WRONG" if wrong else "not compared"
        return "met" if found.median >= self.at_least else "NOT MET"


def rounds_ms(samples: Sequence[Sequence[Any]], column: int = 0) -> list[float]:
    """Each round's median of a column of its samples, from ns to ms."""
    return [median(row[column] for row in turn) / 1e6 for turn in samples]
