"""What is the same of the kit and the real models: raw maps, inputs, keypoints, boxes, people."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge import Detector, OneStage, PoseEstimator
from edge.session import Session

__all__ = [
    "Answers",
    "OnTensor",
    "same_boxes",
    "same_keypoints",
    "same_people",
    "same_raw_outputs",
    "same_tensor",
]

Answers = dict[str, np.ndarray[Any, Any]]


class OnTensor:
    """A session that is given the real pipeline's tensor in place of the kit's own."""

    max_batch: int | None = None

    def __init__(self, session: Session, x: Any) -> None:
        self.session, self.spec, self.x = session, session.spec, x
        self.own = x  # what it was given last
        self.outputs: dict[str, Any] | None = None  # answers with these, where there are any

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """The answers on the real tensor, as many at a time as the file takes."""
        (name,) = feeds
        assert feeds[name].shape == self.x.shape
        self.own = feeds[name].copy()
        if self.outputs is not None:
            return self.outputs
        step = self.session.max_batch or len(self.x)
        parts = [
            self.session.run({name: np.ascontiguousarray(self.x[start : start + step])})
            for start in range(0, len(self.x), step)
        ]
        # Constants of a one-stage model come once.
        return {
            key: np.concatenate([part[key] for part in parts]) if len(parts) > 1 else value
            for key, value in parts[0].items()
        }


def same_raw_outputs(session: Session, real: Answers) -> None:
    """Every raw map, within what float32 rounds."""
    spec = session.spec
    found = session.run({spec.input.name: real["x"][:1]})
    raw = [real[key] for key in sorted(real, key=lambda key: (len(key), key)) if "raw_" in key]
    # Of several stages the last one is decoded.
    raw = raw[-len(spec.outputs) :]
    for tensor, right in zip(spec.outputs, raw, strict=True):
        # Random weights amplify what float32 rounds: a few cells are further off than trained ones.
        gaps = np.abs(found[tensor.name] - right[:1]) / max(1.0, float(np.abs(right).max()))
        assert gaps.max() <= 1e-3, tensor.name
        assert np.median(gaps) <= 1e-4, tensor.name


def same_keypoints(
    estimate: PoseEstimator,
    image: Any,
    real: Answers,
    limit_px: float,
    limit_score: float = 2e-3,
    rare: int = 200,
) -> None:
    """Keypoints of the asked boxes: places in px, scores."""
    found = estimate(image, real["boxes"].astype(np.float32))
    far = np.linalg.norm(found[..., :2] - real["keypoints"], axis=-1)
    # A maximum of two bins of one height may fall on either: one keypoint, and one in so many.
    worst = np.sort(far.ravel())[::-1]
    assert worst[1 + len(worst) // rare] <= limit_px, f"{worst[:5]} px"
    np.testing.assert_allclose(found[..., 2], real["scores"], rtol=1e-3, atol=limit_score)


def same_tensor(asked: OnTensor) -> None:
    """The kit's own crop or letterbox: the real one but for OpenCV's rounding, in grey levels.

    A warp of OpenCV takes its places to 1/32 px, its resize weights to 1/2048 and cuts off digits.
    """
    std = np.array(asked.spec.std)[:, None, None]
    off = np.abs((asked.own - asked.x) * std)
    assert np.mean(off) <= 0.4
    assert np.quantile(off, 0.999) <= 4


def same_boxes(
    detect: Detector, image: Any, real: Answers, above: float = 0.0, slack: float = 0.05
) -> None:
    """Boxes, scores and classes, each real one with one of the kit's."""
    found = detect(image)
    kept = inside(real, image)
    kept = kept[real["scores"][kept] > above]
    # A class far away in the image is never the same box.
    boxes = real["boxes"][kept] + 1e4 * real["labels"][kept][:, None]
    own = found.boxes_xyxy + 1e4 * found.labels[:, None]
    pairs = paired(boxes, real["scores"][kept], own, found.scores, slack)
    assert len(kept) > 0
    # One overlap in a hundred may meet the suppression's limit to the last digit.
    assert len(pairs) >= np.floor(0.99 * len(kept)), f"{len(pairs)} of {len(kept)}"


def same_people(estimate: OneStage, image: Any, real: Answers) -> None:
    """People of a one-stage model with their keypoints."""
    people = estimate(image)
    kept = inside(real, image)
    boxes = np.array([one.box_xyxy for one in people]).reshape(-1, 4)
    pairs = paired(
        real["boxes"][kept], real["scores"][kept], boxes, np.array([p.box_score for p in people])
    )
    assert len(kept) > 0
    assert len(pairs) >= 0.98 * len(kept), f"{len(pairs)} of {len(kept)}"
    off = np.abs([people[o].keypoints[:, :2] - real["keypoints"][kept][one] for one, o in pairs])
    assert np.median(off) < 0.01
    assert np.quantile(off, 0.99) < 0.1, f"{np.sort(off.ravel())[-5:]} px"
    for one, other in pairs:
        np.testing.assert_allclose(
            people[other].keypoints[:, 2], real["visible"][kept][one], atol=1e-3
        )


def inside(real: Answers, image: Any) -> Any:
    """The real boxes that lie in the picture; the kit cuts boxes at its rim."""
    size = np.array([image.shape[1], image.shape[0]] * 2)
    real["boxes"] = np.clip(real["boxes"], 0, size)
    return np.flatnonzero((real["boxes"][:, 2:] > real["boxes"][:, :2] + 1).all(axis=1))


def paired(
    boxes: Any, scores: Any, own_boxes: Any, own_scores: Any, slack: float = 0.5
) -> list[tuple[int, int]]:
    """Pairs of a real box and its own: px off and 100 times the scores' gap within `slack`."""
    pairs = []
    for index, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        off = np.abs(own_boxes - box).max(axis=1) + 100 * np.abs(own_scores - score)
        if len(off) and off.min() <= slack:
            pairs.append((index, int(off.argmin())))
    return pairs
