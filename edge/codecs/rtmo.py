"""RTMO's raw maps: who is there, in which box, which keypoints are seen, and pose vectors.

Formula: mmpose ``RTMOHead`` and ``DCC``: cells at (column + 0.5, row + 0.5) * stride - 0.5, box
centre = cell + (dx, dy) * stride, box size = exp(log w, log h) * stride, score = sigmoid(logit);
greedy non-maximum suppression; then, for the kept instances alone, the Dynamic
Coordinate Classifier: keypoint features from the pose vector, gated self-attention among them, and
along either axis a softmax over bins that are coded by their distance from the cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edge.codecs.finite import finite_outputs, hide_lost, real_boxes
from edge.codecs.nms import least_logit, pick, sigmoid, suppress
from edge.errors import SpecError
from edge.session import Array
from edge.spec import ModelSpec

__all__ = ["CONSTANTS", "decode", "place_keypoints"]

Floats = npt.NDArray[np.float32]

CONSTANTS = (
    *("dcc.keypoints.weight", "dcc.keypoints.bias", "dcc.gates.weight", "dcc.query.scale"),
    *("dcc.query.offset", "dcc.key.scale", "dcc.key.offset", "dcc.out.weight"),
    *("dcc.residual.scale", "dcc.x.weight", "dcc.x.bias", "dcc.x.bins"),
    *("dcc.y.weight", "dcc.y.bias", "dcc.y.bins", "dcc.periods"),
)
"""What the classifier needs and the network does not compute."""

_BOX_PADDING = np.float32(1.25)
"""The bins span the box widened by this factor; the network was trained with it."""


def decode(outputs: Mapping[str, Array], spec: ModelSpec) -> list[tuple[Floats, Floats]]:
    """Per image (boxes_xyxys (M, 5), keypoints (M, K, 3)), both float32, best first.

    Boxes are x1, y1, x2, y2 in input pixels and score; keypoints x, y in input pixels and the
    probability of being seen. ``outputs`` holds in the order of ``spec.outputs`` the logits
    (N, 1, Hs, Ws) of every stride, then in the same way boxes (N, 4, Hs, Ws) as dx, dy, log w,
    log h in strides, visibility logits (N, K, Hs, Ws) and pose vectors (N, C, Hs, Ws); beside
    them the classifier's weights under the names that ``place_keypoints`` lists.
    """
    missing = [name for name in CONSTANTS if name not in outputs]
    if missing:
        raise SpecError(
            f"{spec.name}: its spec names no constant {missing[0]!r}, which codec rtmo needs; "
            "`edge export` writes RTMO with all of them"
        )
    outputs = finite_outputs(outputs, spec)
    levels = len(spec.strides)
    tensors = [outputs[tensor.name] for tensor in spec.outputs]
    kinds = [tensors[start : start + levels] for start in range(0, 4 * levels, levels)]
    return [
        _decode_image([[maps[image] for maps in kind] for kind in kinds], outputs, spec)
        for image in range(len(tensors[0]))
    ]


def _decode_image(
    kinds: list[list[Array]], weights: Mapping[str, Array], spec: ModelSpec
) -> tuple[Floats, Floats]:
    visibility, pose = kinds[2:]
    kept_boxes, level, cell, cells_xy = _kept(kinds[0], kinds[1], spec)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is hidden below
        places_xy = place_keypoints(_at(pose, level, cell), kept_boxes[:, :4], cells_xy, weights)
    seen = sigmoid(_at(visibility, level, cell))
    return kept_boxes, hide_lost(np.concatenate([places_xy, seen[..., None]], axis=2))


def decode_boxes(outputs: Mapping[str, Array], spec: ModelSpec) -> list[Floats]:
    """The boxes (M, 5) of ``decode`` alone, which are a small part of the work."""
    outputs, levels = finite_outputs(outputs, spec), len(spec.strides)
    maps = [outputs[tensor.name] for tensor in spec.outputs[: 2 * levels]]
    return [
        _kept([one[i] for one in maps[:levels]], [one[i] for one in maps[levels:]], spec)[0]
        for i in range(len(maps[0]))
    ]


def _kept(
    logits: list[Array], boxes: list[Array], spec: ModelSpec
) -> tuple[Floats, npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """Boxes (M, 5) that the suppression leaves, their levels, cells and the cells' places."""
    level, cell = _pick_cells(logits, spec)
    stride = np.asarray(spec.strides, np.float32)[level, None]
    width = np.asarray([maps.shape[2] for maps in logits])[level]
    rows, columns = np.divmod(cell, width)
    column_row = np.stack([columns, rows], axis=1).astype(np.float32)
    cells_xy = (column_row + np.float32(0.5)) * stride - np.float32(0.5)
    raw = _at(boxes, level, cell)
    centre = cells_xy + raw[:, :2] * stride
    with np.errstate(over="ignore"):  # infinite boxes go below
        half = np.exp(raw[:, 2:]) * stride / 2
    boxes_xyxy = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    scores = sigmoid(_at(logits, level, cell)[:, 0])
    real = real_boxes(boxes_xyxy)
    level, cell, cells_xy = level[real], cell[real], cells_xy[real]
    boxes_xyxy, scores = boxes_xyxy[real], scores[real]

    one_class = np.zeros(len(cell), np.int64)
    kept = suppress(boxes_xyxy, scores, one_class, spec.nms_iou, spec.max_boxes)
    scored = np.concatenate([boxes_xyxy[kept], scores[kept, None]], axis=1)
    return scored, level[kept], cell[kept], cells_xy[kept]


def _pick_cells(
    logits: list[Array], spec: ModelSpec
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Level and cell of at most ``nms_candidates_per_level`` cells above the threshold."""
    least = least_logit(spec.score_threshold)
    cells = [pick(maps.reshape(-1), least, spec.nms_candidates_per_level) for maps in logits]
    levels = np.repeat(np.arange(len(cells)), [len(picked) for picked in cells])
    return levels, np.concatenate(cells)


def _at(maps: Sequence[Array], level: npt.NDArray[np.intp], cell: npt.NDArray[np.intp]) -> Floats:
    """The channels of these cells, (M, C), from maps (C, Hs, Ws) of every level."""
    channels = maps[0].shape[0]
    values = np.empty((len(cell), channels), np.float32)
    for index, level_map in enumerate(maps):
        here = level == index
        values[here] = level_map.reshape(channels, -1)[:, cell[here]].T
    return values


def place_keypoints(
    pose: Floats, boxes_xyxy: Floats, cells_xy: Floats, weights: Mapping[str, Array]
) -> Floats:
    """The Dynamic Coordinate Classifier: (M, K, 2) float32 in the pixels of the boxes.

    Takes pose vectors (M, C), boxes (M, 4) and the cells (M, 2) that they come from. ``weights``
    (float32, d channels a keypoint, e expanded, s of attention, P periods; matrices multiply from
    the right):

    - ``dcc.keypoints.weight`` (C, K d) and ``.bias`` (K d): pose vector to keypoint features
    - ``dcc.gates.weight`` (d, 2 e + s), ``dcc.query.scale`` and ``dcc.key.scale`` (s),
      ``dcc.query.offset`` and ``dcc.key.offset`` (K, s), ``dcc.out.weight`` (e, d),
      ``dcc.residual.scale`` (d): attention, with its gain and 1 / sqrt(s) merged
    - ``dcc.x.weight`` (d, 2 P), ``dcc.x.bias`` (d), ``dcc.x.bins`` (B), and so for y; bins in
      widths (heights) of the widened box from its centre
    - ``dcc.periods`` (P): a bin's code is cos, then sin, of its distance from the cell over these
    """
    features = _attend(_features(pose, weights), weights)
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    centre = np.asarray((low + high) / 2 - cells_xy, np.float32)
    extent = np.asarray((high - low) * _BOX_PADDING, np.float32)
    places = [
        _place(features, centre[:, [axis]], extent[:, [axis]], f"dcc.{name}", weights)
        for axis, name in enumerate("xy")
    ]
    return np.stack(places, axis=2) + cells_xy[:, None]


def _features(pose: Floats, weights: Mapping[str, Array]) -> Floats:
    flat: Floats = pose @ weights["dcc.keypoints.weight"] + weights["dcc.keypoints.bias"]
    # Sizes in full: none can be inferred where no instance was kept.
    keypoints, channels = len(weights["dcc.query.offset"]), len(weights["dcc.gates.weight"])
    return flat.reshape(len(pose), keypoints, channels)


def _attend(x: Floats, weights: Mapping[str, Array]) -> Floats:
    """One gated attention unit with scale norm, (M, K, d) -> (M, K, d)."""
    count, keypoints, channels = x.shape
    norm = np.sqrt(np.einsum("mkd,mkd->mk", x, x) / np.float32(channels))
    normed = x / np.maximum(norm, np.float32(1e-5))[..., None]
    # Two axes instead of three: one large product instead of many small ones.
    gates = normed.reshape(-1, channels) @ weights["dcc.gates.weight"]
    gates *= sigmoid(gates)
    gates = gates.reshape(count, keypoints, gates.shape[1])
    expanded = len(weights["dcc.out.weight"])
    u, v, base = np.split(gates, [expanded, 2 * expanded], axis=2)
    query = base * weights["dcc.query.scale"] + weights["dcc.query.offset"]
    key = base * weights["dcc.key.scale"] + weights["dcc.key.offset"]
    scores = np.maximum(query @ key.transpose(0, 2, 1), 0)
    mixed = (u * ((scores * scores) @ v)).reshape(-1, expanded) @ weights["dcc.out.weight"]
    answer: Floats = x * weights["dcc.residual.scale"] + mixed.reshape(x.shape)
    return answer


def _place(
    features: Floats, centre: Floats, extent: Floats, name: str, weights: Mapping[str, Array]
) -> Floats:
    """Expected distance from the cell along one axis, (M, K); centre and extent are (M, 1)."""
    distance = weights[f"{name}.bins"] * extent + centre
    angle = distance[..., None] / weights["dcc.periods"]
    code = np.concatenate([np.cos(angle), np.sin(angle)], axis=2)
    # f (W c + b) = (f W) c + f b: K rows go through the matrix instead of some 200 bins.
    heat = (features @ weights[f"{name}.weight"]) @ code.transpose(0, 2, 1)
    heat += (features @ weights[f"{name}.bias"])[..., None]
    np.clip(heat, -5e4, 5e4, out=heat)
    heat -= heat.max(axis=2, keepdims=True)
    parts = np.exp(heat, out=heat)
    total = parts.sum(axis=2) + np.float32(1e-8)
    return np.asarray((parts @ distance[..., None])[..., 0] / total, np.float32)
