"""What is not finite in a network's outputs is no answer, and never becomes one.

Half-precision arithmetic that overflows, a damaged weight or a division by zero give NaN and
infinities. A keypoint with one of them is one that was not seen, a cell or row with one of them is
no detection; everything beside them stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edge.session import Array
from edge.spec import Codec, ModelSpec

__all__ = ["FARTHEST_PX", "count_lost", "finite_outputs", "hide_lost", "real_boxes"]

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FARTHEST_PX = 1e6
"""No answer lies farther out, in input pixels: the way back to the picture would overflow."""


def finite_outputs(outputs: Mapping[str, Array], spec: ModelSpec) -> Mapping[str, Array]:
    """The outputs with all that is not finite taken out; themselves where all is finite.

    A keypoint's distribution or map becomes 0 throughout, the score or logit of a cell or row
    becomes minus infinity, which no threshold lets pass.
    """
    if _all_finite(outputs, spec):
        return outputs
    changed = {**outputs, **{t.name: np.array(outputs[t.name]) for t in spec.outputs}}
    _CODECS[spec.codec](changed, spec)
    return changed


def count_lost(outputs: Mapping[str, Array], spec: ModelSpec) -> int:
    """How many keypoints, cells or rows of the outputs hold what is not finite."""
    if _all_finite(outputs, spec):
        return 0
    changed = {t.name: np.array(outputs[t.name]) for t in spec.outputs}
    return _CODECS[spec.codec](changed, spec)


def hide_lost(keypoints: F32) -> F32:
    """Keypoints (..., 3) in input pixels, in place: at (-1, -1) with score 0 where not finite."""
    lost = ~np.isfinite(keypoints).all(axis=-1) | (np.abs(keypoints[..., :2]) > FARTHEST_PX).any(
        axis=-1
    )
    keypoints[lost] = (-1, -1, 0)
    return keypoints


def real_boxes(boxes_xyxy: F32) -> Mask:
    """Which of the boxes (M, 4) in input pixels are finite, and not beyond any picture."""
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(boxes_xyxy) <= FARTHEST_PX).all(axis=1), np.bool_)


def _all_finite(outputs: Mapping[str, Array], spec: ModelSpec) -> bool:
    return all(bool(np.isfinite(outputs[tensor.name]).all()) for tensor in spec.outputs)


# --- each changes its arrays in place, and says how many answers are lost -------------------------


def _keypoints(outputs: dict[str, Array], spec: ModelSpec) -> int:
    arrays = [outputs[tensor.name] for tensor in spec.outputs]
    lost = np.zeros(arrays[0].shape[:2], np.bool_)
    for array in arrays:
        lost |= ~np.isfinite(array).reshape(*array.shape[:2], -1).all(axis=2)
    for array in arrays:
        array[lost] = 0
    return int(lost.sum())


def _cells(kinds: Sequence[Sequence[Array]], scores: Sequence[Array]) -> int:
    """Maps (N, C, Hs, Ws) of every stride, kind by kind, and those that decide about a cell."""
    lost = 0
    for *maps, score in zip(*kinds, scores, strict=True):
        bad = np.any([~np.isfinite(one).all(axis=1) for one in maps], axis=0)
        lost += int(bad.sum())
        score[np.broadcast_to(bad[:, None], score.shape)] = -np.inf
    return lost


def _kinds(outputs: dict[str, Array], spec: ModelSpec) -> list[list[Array]]:
    arrays, levels = [outputs[tensor.name] for tensor in spec.outputs], len(spec.strides)
    return [arrays[start : start + levels] for start in range(0, len(arrays), levels)]


def _rtmdet(outputs: dict[str, Array], spec: ModelSpec) -> int:
    logits, distances = _kinds(outputs, spec)
    return _cells((logits, distances), logits)


def _yolox(outputs: dict[str, Array], spec: ModelSpec) -> int:
    if len(spec.outputs) > 1:
        # The other maps stay as they are: what objectness leaves out is never looked at.
        kinds = _kinds(outputs, spec)
        return _cells(kinds, kinds[2])
    rows = outputs[spec.outputs[0].name]
    lost = ~np.isfinite(rows).all(axis=2)
    rows[lost, 4] = -np.inf
    return int(lost.sum())


def _rtmo(outputs: dict[str, Array], spec: ModelSpec) -> int:
    logits, boxes, visibility, pose = _kinds(outputs, spec)
    lost = 0
    for maps in visibility:  # of one keypoint each
        bad = ~np.isfinite(maps)
        maps[bad] = -np.inf
        lost += int(bad.sum())
    return lost + _cells((logits, boxes, pose), logits)


def _detections(outputs: dict[str, Array], spec: ModelSpec) -> int:
    dets, second = (outputs[tensor.name] for tensor in spec.outputs)
    lost = ~np.isfinite(dets).all(axis=2)
    count = 0
    if spec.task == "one-stage":
        points = ~np.isfinite(second).all(axis=3)
        second[points] = (-1, -1, 0)
        count = int(points.sum())
    else:
        lost |= ~np.isfinite(second)
        second[~np.isfinite(second)] = -1
    dets[lost, 4] = -np.inf
    return count + int(lost.sum())


_CODECS: dict[Codec, Callable[[dict[str, Array], ModelSpec], int]] = {
    "simcc": _keypoints,
    "heatmap": _keypoints,
    "rtmdet": _rtmdet,
    "yolox": _yolox,
    "rtmo": _rtmo,
    "detections": _detections,
}
