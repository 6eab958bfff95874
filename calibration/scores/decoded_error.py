"""How far answers moved: a session against a reference on the same feeds, in one number.

It decides nothing; it ranks. What a variant may change is for parity and accuracy to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.boxes import iou
from edge.codecs import BOX_CODECS, KEYPOINT_CODECS, POSE_CODECS
from edge.errors import EngineError, ImageError, SpecError
from edge.session import Array, Feeds, Session
from edge.spec import ModelSpec

__all__ = ["Answers", "DecodedError", "decoded_answers", "decoded_error"]

F32 = NDArray[np.float32]

KEPT_SCORE = 0.3
"""Boxes above it and keypoints from it on are the reference's answers."""
COUNTERPART_SCORE = 0.2
"""A box of this score may still stand for one of the reference's."""
COUNTERPART_IOU = 0.5


@dataclass(frozen=True)
class Answers:
    """What one feed (a batch of one) decodes to, in px of the network's input.

    ``boxes`` (M, 5) x1, y1, x2, y2, score, best first, with ``labels`` (M,) and, of a keypoint
    model, ``keypoints`` (M, K, 3). A pose model has one row and no box: its boxes are (1, 0).
    """

    boxes: F32
    labels: NDArray[np.int64]
    keypoints: F32


@dataclass(frozen=True)
class DecodedError:
    """The error, its unit, over how many answers it is a mean, and the share that is missing."""

    value: float
    unit: str
    answers: int
    missing: float = 0.0

    def __str__(self) -> str:
        lost = f", {self.missing:.1%} missing" if self.missing else ""
        return f"{self.value:.3g} {self.unit} over {self.answers} answers{lost}"


def decoded_answers(session: Session, feeds: Iterable[Feeds]) -> list[Answers]:
    """A session's answers for feeds of one image each; EngineError where they are not finite."""
    return [_decoded(session.spec, session.run(one), place) for place, one in enumerate(feeds)]


def _decoded(spec: ModelSpec, outputs: dict[str, Array], place: int) -> Answers:
    for tensor in spec.outputs:
        if not np.isfinite(outputs[tensor.name]).all():
            raise EngineError(
                f"{spec.name}: output {tensor.name} of calibration feed {place} holds values that "
                "are not finite"
            )
    if spec.task == "pose":
        keypoints = KEYPOINT_CODECS[spec.codec](outputs, spec)[:1]
        return Answers(np.empty((1, 0), np.float32), np.zeros(1, np.int64), keypoints)
    if spec.task == "detection":
        boxes, labels = BOX_CODECS[spec.codec](outputs, spec)[0]
        return Answers(boxes, labels, np.empty((len(boxes), 0, 3), np.float32))
    boxes, keypoints = POSE_CODECS[spec.codec](outputs, spec)[0]
    return Answers(boxes, np.zeros(len(boxes), np.int64), keypoints)


def decoded_error(
    reference: Sequence[Answers], session: Session, feeds: Iterable[Feeds]
) -> DecodedError:
    """How far a session's answers are from the reference's (``decoded_answers``), same feeds.

    - pose: mean distance in input px of the keypoints that the reference scores 0.3 or more.
    - detection: mean of 1 - IoU over the boxes that the reference scores above 0.3; one that has no
      counterpart of its class counts 1, and so does a new box above 0.3 that is none's.
    - one-stage: mean distance in input px of the keypoints of the reference's people, paired by
      their boxes; one who is missing, or new, counts as far off as the long side of the box.

    Raises ImageError where the reference has no answer to compare, SpecError where the number of
    feeds differs from the reference's.
    """
    answers = decoded_answers(session, feeds)
    if len(answers) != len(reference):
        raise SpecError(f"{len(answers)} feeds for the answers of {len(reference)}: give the same")
    task = session.spec.task
    errors: list[float] = []
    missing = 0
    for want, got in zip(reference, answers, strict=True):
        if task == "pose":
            errors += _moved(want.keypoints[0], got.keypoints[0])
            continue
        pairs, lost, new = _paired(want, got)
        missing += len(lost)
        for mine, other, overlap in pairs:
            if task == "detection":
                errors.append(1 - overlap)
            else:
                moved = _moved(want.keypoints[mine], got.keypoints[other], least=-np.inf)
                errors.append(float(np.mean(moved)))
        alone = [want.boxes[i] for i in lost] + [got.boxes[i] for i in new]
        errors += [1.0 if task == "detection" else _long_side(box) for box in alone]
    if not errors:
        raise ImageError(
            f"the reference finds nothing in {len(reference)} calibration pictures; choose "
            "pictures with people"
        )
    unit = "1 - IoU" if task == "detection" else "px"
    return DecodedError(float(np.mean(errors)), unit, len(errors), missing / len(errors))


def _moved(want: F32, got: F32, least: float = KEPT_SCORE) -> list[float]:
    distances = np.linalg.norm((want - got)[:, :2].astype(np.float64), axis=1)
    moved: list[float] = distances[want[:, 2] >= least].tolist()
    return moved


def _long_side(box: F32) -> float:
    return float((box[2:4] - box[:2]).max())


def _paired(
    want: Answers, got: Answers
) -> tuple[list[tuple[int, int, float]], list[int], list[int]]:
    """Pairs of (reference, answer, IoU), references that are left over, answers that are new.

    The best box of the reference chooses first, by overlap. Boxes below the threshold of both
    sides pair as well, so that none is called new that only rose above it, but are no result.
    """
    free = [i for i in range(len(got.boxes)) if got.boxes[i, 4] > COUNTERPART_SCORE]
    pairs, lost = [], []
    for mine, box in enumerate(want.boxes):
        if box[4] <= COUNTERPART_SCORE:
            continue
        same = [i for i in free if got.labels[i] == want.labels[mine]]
        overlaps = iou(box[None], got.boxes[same])[0]
        kept = bool(box[4] > KEPT_SCORE)
        if not len(overlaps) or overlaps.max() < COUNTERPART_IOU:
            lost += [mine] if kept else []
            continue
        best = int(overlaps.argmax())
        free.remove(same[best])
        if kept:
            pairs.append((mine, same[best], float(overlaps[best])))
    return pairs, lost, [i for i in free if got.boxes[i, 4] > KEPT_SCORE]
