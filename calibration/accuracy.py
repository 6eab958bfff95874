"""How good answers are, by the evaluators of the field."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoxScores", "box_scores"]


@dataclass(frozen=True)
class BoxScores:
    """COCO's average precision of boxes: over IoU 0.5 to 0.95, and at 0.5."""

    ap: float
    ap_50: float
    pictures: int

    def __str__(self) -> str:
        return f"AP@0.5 {self.ap_50:.4f}, AP {self.ap:.4f} ({self.pictures} pictures)"


def box_scores(
    truth_xyxy: Sequence[NDArray[np.float32]], answers_xyxys: Sequence[NDArray[np.float32]]
) -> BoxScores:
    """Score answers (M, 5) against boxes (G, 4), one of each a picture; one class.

    pycocotools computes it. Without any box to find both figures are -1, as it has it.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box: NDArray[np.float32]) -> list[float]:
        x1, y1, x2, y2 = box[:4].tolist()
        return [x1, y1, x2 - x1, y2 - y1]

    images = [{"id": index} for index in range(len(truth_xyxy))]
    boxes = [(index, box) for index, found in enumerate(truth_xyxy) for box in found]
    annotations = [
        # COCOeval takes an annotation's id of 0 for "not matched": ids begin at 1.
        {"id": number, "image_id": index, "category_id": 1, "iscrowd": 0, "bbox": xywh(box),
         "area": float(np.prod(box[2:4] - box[:2]))}
        for number, (index, box) in enumerate(boxes, start=1)
    ]  # fmt: skip
    results = [
        {"image_id": index, "category_id": 1, "bbox": xywh(box), "score": float(box[4])}
        for index, found in enumerate(answers_xyxys)
        for box in found
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
        coco.createIndex()
        if not results:
            return BoxScores(0.0 if boxes else -1.0, 0.0 if boxes else -1.0, len(images))
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return BoxScores(float(evaluation.stats[0]), float(evaluation.stats[1]), len(images))
