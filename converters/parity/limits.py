"""What each precision may change, in one table."""

from __future__ import annotations

from dataclasses import dataclass

from edge.spec import QUANTISED, Precision

__all__ = ["KEPT_BOX_SCORE", "KEPT_KEYPOINT_SCORE", "LIMITS", "MOST_BOXES", "NO_LIMIT", "Limits"]

KEPT_BOX_SCORE = 0.3
KEPT_KEYPOINT_SCORE = 0.3
MOST_BOXES = 200
"""Of an image, the best ones, are compared: networks that find people everywhere took minutes."""


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
    - ``keypoint_score``: largest change of a score of those; of a score above 1, as a share of it.
    - ``box_iou_min``, ``box_score``: over boxes that either side scores above ``KEPT_BOX_SCORE``;
      each must have its counterpart. A tie is no change: a box that the other side found as well,
      within these limits, and that its suppression took away for one that it rates alike.
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
# flat maximum by a few bins. Measured figures are in docs/parity.md.
# Quantised answers are held to the accuracy on a whole data set (`accuracy` in this room). A single
# crop says little (an ankle may change sides), and so do the distances of background cells, which
# INT8 moves far without any harm. What fails here is plainly broken.
NO_LIMIT = 10_000.0
_QUANTISED = Limits(0.5, NO_LIMIT, NO_LIMIT, NO_LIMIT, 0.7, 0.3)

LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(0.99999, 0.05, 1.0, 0.01, 0.995, 0.01),
    "fp16": Limits(0.998, 0.25, 3.0, 0.02, 0.98, 0.02),
    **dict.fromkeys(QUANTISED, _QUANTISED),
}
