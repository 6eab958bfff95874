"""An image in, boxes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge.arguments import check_labels, check_session, check_share
from edge.codecs import BOX_CODECS
from edge.codecs.finite import count_lost
from edge.image import Normalization, Placement, center_letterbox, letterbox
from edge.session import Array, Session
from edge.spec import ModelSpec

__all__ = [
    "Boxes",
    "Detector",
    "boxes_in_image",
    "detector_feeds",
    "normalization_of",
    "spec_above",
]


@dataclass(frozen=True)
class Boxes:
    """Detections of one image, best first.

    ``boxes_xyxy`` (N, 4) float32 in image pixels, ``scores`` (N,) float32, ``labels`` (N,) int64.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


def normalization_of(spec: ModelSpec) -> Normalization:
    """How BGR pixels become a model's input values."""
    return Normalization(spec.mean, spec.std, swap_channels=spec.color_order == "rgb")


def detector_feeds(
    spec: ModelSpec, image_bgr: npt.NDArray[np.uint8]
) -> tuple[dict[str, Array], Placement]:
    """The feeds (1, 3, H, W) of a whole image, letterboxed, and the way back to its pixels.

    For detection and one-stage models alike.
    """
    height, width = spec.input_hw
    batch = np.empty((1, 3, height, width), np.float32)
    fit = center_letterbox if spec.letterbox == "center" else letterbox
    _, placement = fit(
        image_bgr, (height, width), spec.pad_value, normalization_of(spec), out=batch[0]
    )
    return {spec.input.name: batch}, placement


class Detector:
    """A detection session with everything around it.

    ``score_threshold`` and ``label``, one class or several, choose what is returned; the label of a
    person is 0 in the official person models and in COCO, and ``edge.classes.find_labels`` knows
    others. Counted over all calls: ``other_counts``, by label, the boxes above the threshold that
    are of none of the chosen classes, and ``lost_count``, the answers of the network that were not
    finite and were left out.
    """

    def __init__(
        self,
        session: Session,
        *,
        score_threshold: float = 0.3,
        label: int | Collection[int] | None = None,
    ) -> None:
        spec = check_session(session, "detection", "Detector")
        self.session = session
        self.score_threshold = check_share("score_threshold", score_threshold)
        self.label = label
        self.labels = check_labels(label)
        self.other_counts: Counter[int] = Counter()
        self.lost_count = 0
        self._spec = spec_above(spec, self.score_threshold)

    def __call__(self, image_bgr: npt.NDArray[np.uint8]) -> Boxes:
        """Boxes of an (H, W, 3) uint8 BGR image, clipped to it."""
        spec = self._spec
        feeds, placement = detector_feeds(spec, image_bgr)
        outputs = self.session.run(feeds)
        self.lost_count += count_lost(outputs, spec)
        boxes, labels = BOX_CODECS[spec.codec](outputs, spec)[0]
        kept = boxes[:, 4] > self.score_threshold
        if self.labels is not None:
            wanted = np.isin(labels, self.labels)
            self.other_counts.update(labels[kept & ~wanted].tolist())
            kept &= wanted
        boxes, labels = boxes[kept], labels[kept]
        boxes_xyxy, real = boxes_in_image(boxes[:, :4], placement, image_bgr)
        return Boxes(boxes_xyxy, boxes[real, 4], labels[real])


def spec_above(spec: ModelSpec, score_threshold: float) -> ModelSpec:
    """The spec with which a codec leaves out most of what scores ``score_threshold`` or less.

    No box is suppressed by one that scores less: those above are the same as with the spec's own
    lower threshold, and there are far fewer to compare, which in numpy takes most of the time.
    """
    # A little less, as codecs compare logits: whoever asks compares the scores themselves.
    least = score_threshold * (1 - 1e-6)
    return replace(spec, score_threshold=least) if spec.score_threshold < least < 1 else spec


def boxes_in_image(
    boxes_xyxy: npt.NDArray[np.float32], placement: Placement, image_bgr: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """Boxes (M, 4) of input pixels in those of the image, clipped to it, and which are left.

    What lies wholly beside the image has no area left and goes.
    """
    height, width = image_bgr.shape[:2]
    corners = placement.to_image(boxes_xyxy.reshape(-1, 2, 2))
    limit = np.array([width, height], np.float32)
    corners = np.minimum(np.maximum(corners, np.float32(0)), limit)
    sides = corners[:, 1] - corners[:, 0]
    real = np.flatnonzero((sides[:, 0] > 0) & (sides[:, 1] > 0))
    return corners[real].reshape(-1, 4), real
