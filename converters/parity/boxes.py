"""Judging boxes: each needs one counterpart of its class, and none may be left over.

What the suppression picks among boxes of one score hangs on the last bit: there both picks are
right, as long as either side found both boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from converters.parity.limits import KEPT_BOX_SCORE, MOST_BOXES, Limits
from edge.boxes import iou
from edge.codecs import BOX_CODECS, rtmo
from edge.session import Array
from edge.spec import ModelSpec

__all__ = ["Beside", "BoxJudge", "Found", "candidates", "compared_spec"]

# Less than this is no counterpart, but another box.
_COUNTERPART_IOU = 0.5
_ALL = 1_000_000


class Found(NamedTuple):
    """Boxes (M, 5) as x1, y1, x2, y2, score and labels (M,), best first."""

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def at(self, places: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> Found:
        """Some of them."""
        return Found(self.boxes[places], self.labels[places])


class Beside(NamedTuple):
    """What tells a tie: both sides' outputs before the suppression, which ``spec`` describes."""

    spec: ModelSpec
    want: Mapping[str, Array]
    got: Mapping[str, Array]


def compared_spec(spec: ModelSpec, limits: Limits) -> ModelSpec:
    """The spec that decodes little more than what is compared; no box hangs on a lower one.

    One box more than are compared shows that there are more.
    """
    threshold = max(spec.score_threshold, KEPT_BOX_SCORE - limits.box_score - 1e-6)
    most = min(spec.max_boxes, MOST_BOXES + 1)
    return replace(spec, score_threshold=threshold, max_boxes=most)


def candidates(outputs: Mapping[str, Array], spec: ModelSpec, slack: float) -> Found | None:
    """All boxes that outputs hold before the suppression; None where the file does that itself.

    Down to ``slack`` below the threshold of the scores.
    """
    threshold = max(0.0, max(spec.score_threshold, KEPT_BOX_SCORE - slack) - slack)
    loose = replace(spec, score_threshold=threshold, nms_iou=1.0, max_boxes=_ALL)
    if spec.codec == "rtmo":
        boxes = rtmo.decode_boxes(outputs, loose)[0]
        return Found(boxes, np.zeros(len(boxes), np.int64))
    return None if spec.codec == "detections" else Found(*BOX_CODECS[spec.codec](outputs, loose)[0])


class BoxJudge:
    """Compares kept boxes.

    Boxes without an area, of sides that are inverted, are left out on both sides, as `Detector`
    leaves them out; ``without_area`` is their number of the reference.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ious: list[float] = []
        self._scores: list[float] = []
        self._gone = 0
        self._ties = 0
        self._most = 0
        self.without_area = 0
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
        """Take in both sides' outputs for one image.

        ``same`` are the reference's values of the tensors that ``got`` has.
        """
        sides = [
            Found(*BOX_CODECS[spec.codec](outputs, compared_spec(spec, self._limits))[0])
            for spec, outputs in ((want_spec, want), (got_spec, got))
        ]
        self.compare(image, sides[0], sides[1], Beside(got_spec, same, got))

    def compare(
        self, image: str, want: Found, got: Found, beside: Beside | None = None
    ) -> list[tuple[int, int]]:
        """Take in the boxes of both sides; which belong together, by their places.

        Without ``beside`` no difference is a tie.
        """
        most = min(MOST_BOXES, beside.spec.max_boxes if beside else MOST_BOXES)
        places = [_judged(side, most) for side in (want, got)]
        self.without_area += len(want.boxes[:most]) - len(places[0])
        a, b = (_Side(side.at(own)) for side, own in zip((want, got), places, strict=True))
        a.full, b.full = (len(side.boxes) >= most for side in (want, got))
        if len(want.boxes) > most:
            self._most = most
        pairs = self._match(a, b)
        missing, new = a.left(), b.left()
        if beside and (missing or new):
            for side, outputs in ((a, beside.want), (b, beside.got)):
                side.candidates = candidates(outputs, beside.spec, self._limits.box_score)
            everything = len(missing)
            missing, new = (
                [
                    place
                    for place in places
                    if not other.found_too(side.found, place, beside.spec, self._limits)
                ]
                for side, places, other in ((a, missing, b), (b, new, a))
            )
            self._ties += everything - len(missing)
        pairs += self._judge_missing(image, a.found, missing, b, new)
        for index in new:
            score = b.found.boxes[index, 4]
            if not b.matched[index] and score > KEPT_BOX_SCORE + self._limits.box_score:
                self.failures.append(
                    f"{image} has a box too many at {_rounded(b.found.boxes[index])} "
                    f"with score {score:.3f}"
                )
        return [(int(places[0][mine]), int(places[1][other])) for mine, other in pairs]

    def _match(self, a: _Side, b: _Side) -> list[tuple[int, int]]:
        """Pair what is alike within the limits; the best box of the reference chooses first."""
        limits, pairs = self._limits, []
        overlaps = iou(a.found.boxes, b.found.boxes)
        gaps = np.abs(a.found.boxes[:, 4:5] - b.found.boxes[:, 4])
        alike = (overlaps >= limits.box_iou_min) & (gaps <= limits.box_score)
        alike &= a.found.labels[:, None] == b.found.labels
        for mine in np.flatnonzero(alike.any(axis=1)).tolist():
            row = np.where(alike[mine] & ~b.matched, overlaps[mine], -1.0)
            other = int(row.argmax())
            if row[other] < 0:
                continue
            a.matched[mine] = b.matched[other] = True
            # About the threshold a counterpart may lie on the other side of it.
            if a.found.boxes[mine, 4] > KEPT_BOX_SCORE:
                pairs.append((mine, other))
                self._record(float(overlaps[mine, other]), float(gaps[mine, other]))
        return pairs

    def _judge_missing(
        self, image: str, want: Found, missing: list[int], b: _Side, new: list[int]
    ) -> list[tuple[int, int]]:
        """Say what became of boxes without a counterpart; the pairs of those that only changed."""
        limits, pairs = self._limits, []
        below = [i for i in np.flatnonzero(~b.matched).tolist() if i not in b.left()]
        for mine in missing:
            box = want.boxes[mine]
            where = f"the box of {image} at {_rounded(box)}"
            free = [
                i
                for i in (*new, *below)
                if not b.matched[i] and b.found.labels[i] == want.labels[mine]
            ]
            overlaps = iou(box[None], b.found.boxes[free])[0]
            if not free or overlaps.max() < _COUNTERPART_IOU:
                self._gone += 1
                self.failures.append(f"{where} with score {box[4]:.3f} is gone")
                continue
            overlap, best = float(overlaps.max()), free[int(overlaps.argmax())]
            b.matched[best] = True
            pairs.append((mine, best))
            score = abs(float(box[4] - b.found.boxes[best, 4]))
            self._record(overlap, score)
            if overlap < limits.box_iou_min:
                self.failures.append(
                    f"{where} keeps an IoU of {overlap:.4f} (limit {limits.box_iou_min})"
                )
            if score > limits.box_score:
                self.failures.append(
                    f"{where} has a score {score:.4f} off (limit {limits.box_score})"
                )
        return pairs

    def _record(self, overlap: float, score: float) -> None:
        self._ious.append(overlap)
        self._scores.append(score)

    @property
    def count(self) -> int:
        """How many boxes there were to compare: those that are gone and ties among them."""
        return len(self._ious) + self._gone + self._ties

    def summary(self) -> dict[str, float]:
        """Number of boxes that were found again, least overlap, largest change of score, ties.

        With ``most_boxes`` where an image had more than so many, of which the best were compared.
        """
        found = {
            "boxes": float(len(self._ious)),
            "iou_min": min(self._ious, default=1.0),
            "score": max(self._scores, default=0.0),
            "box_ties": float(self._ties),
        }
        return {**found, "most_boxes": float(self._most)} if self._most else found


class _Side:
    """The boxes of one side while they are paired."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.matched = np.zeros(len(found.boxes), bool)
        self.full = False
        self.candidates: Found | None = None

    def left(self) -> list[int]:
        """The places of answers without a counterpart."""
        above = self.found.boxes[:, 4] > KEPT_BOX_SCORE
        return [int(place) for place in np.flatnonzero(above & ~self.matched)]

    def found_too(self, kept: Found, at: int, spec: ModelSpec, limits: Limits) -> bool:
        """Whether this side found a box that the other one kept, and not keeping it is a tie.

        It was kept back by a box that the other side did not keep or that overlaps just as much
        as may be, or lies at the threshold, or behind the last box that is kept.
        """
        if self.candidates is None:
            return False
        box, label = kept.boxes[at], kept.labels[at]
        same = self.candidates.at(self.candidates.labels == label)
        overlaps = iou(box[None], same.boxes)[0]
        gaps = np.abs(same.boxes[:, 4] - box[4])
        alike = (overlaps >= limits.box_iou_min) & (gaps <= limits.box_score)
        if not alike.any():
            return False
        place = int(np.where(alike, overlaps, -1).argmax())
        own = same.boxes[place]
        if own[4] <= max(spec.score_threshold, KEPT_BOX_SCORE):
            return True
        if self.full and own[4] <= self.found.boxes[:, 4].min(initial=1.0) + limits.box_score:
            return True
        slack = 1 - limits.box_iou_min
        over = iou(own[None], self.found.boxes)[0]
        over[self.found.labels != label] = 0.0
        suppresses = over > spec.nms_iou - slack
        on_the_edge = np.abs(over - spec.nms_iou) <= slack
        return bool((suppresses & (~self.matched | on_the_edge)).any())


def _judged(side: Found, most: int) -> npt.NDArray[np.intp]:
    """The places of the best boxes, those with an area, best first."""
    order = np.argsort(-side.boxes[:, 4], kind="stable")[:most]
    extent = side.boxes[order, 2:4] - side.boxes[order, :2]
    return np.asarray(order[(extent > 0).all(axis=1)])


def _rounded(box: npt.NDArray[np.float32]) -> list[float]:
    return [round(float(value), 1) for value in box[:4]]
