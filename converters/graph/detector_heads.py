"""The raw maps of a detector, told by what the file itself makes of them.

Maps of logits, sides and objectness look alike by their channels: four classes have as many as
four sides, and FCOS, YOLOv6 or NanoDet have maps of the shapes of YOLOX's or RTMDet's and decode
them otherwise. So the file is run once, and a codec's decoding of its maps is compared with the
boxes and scores that the file's own suppression is given (or with its one output): the
assignment that gives the same is the right one, and where none does it is another detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from converters.graph.file import Graph
from converters.graph.run_once import run_once
from edge.errors import ModelFileError
from edge.session import Array

__all__ = ["DetectorHeads", "find_detector_heads", "find_suppression", "most_boxes"]

Codec = Literal["rtmdet", "yolox"]
F64 = npt.NDArray[np.float64]

_ELEMENTWISE = ("Mul", "Exp", "Identity", "Relu", "Clip")
# Pixels, and their part of a large box, by which two ways to compute the same box may differ.
_BOX_PX, _BOX_PART = 0.05, 2e-3
# Scores may be tiny on the noise that is compared: sigmoids keep their digits.
_SCORE_PART, _SCORE = 0.01, 1e-7
# Boxes that are compared: the file's best, of which a wrong decoding gets none right.
_COMPARED = 200
# More boxes than any suppression leaves.
_MANY = 5000


@dataclass(frozen=True)
class DetectorHeads:
    """The raw maps that a codec takes: tensor names, a tuple a kind, in the codec's order of kinds.

    Within a kind they are in the file's order of levels. ``rtmdet`` has logits and distances,
    ``yolox`` logits, boxes and objectness. ``cut_at_rim`` tells whether the file's boxes end at the
    input's rim.
    """

    codec: Codec
    maps: tuple[tuple[str, ...], ...]
    cut_at_rim: bool = False


@dataclass(frozen=True)
class _Map:
    """A last convolution: its output, and what directly follows by constant factors or exp."""

    raw: str
    scaled: str


def find_suppression(model: Any) -> Any | None:
    """The file's first NonMaxSuppression node, None where it has none."""
    return next((n for n in model.graph.node if n.op_type == "NonMaxSuppression"), None)


def find_detector_heads(
    model: Any,
    path: Path,
    input_name: str,
    input_hw: tuple[int, int],
    outputs: Sequence[str] = (),
) -> DetectorHeads | None:
    """The raw maps of a detector's graph, or None.

    The last convolutions (those that no other convolution follows) are, for every level, the
    class logits, the four sides and for YOLOX the objectness; RTMDet's sides are taken behind the
    constant factor (their stride) or the exponential that directly follows. ``outputs`` narrows
    the graph to what these depend on; a single output of rows (N, A, 5 + classes) is compared as
    YOLOX's, everything else needs a non-maximum suppression.
    """
    graph = Graph(model)
    nodes = graph.needed_by(outputs) if outputs else list(model.graph.node)
    suppression = next((n for n in nodes if n.op_type == "NonMaxSuppression"), None)
    if suppression is None and len(outputs) != 1:
        return None
    asked = list(outputs) if suppression is None else list(suppression.input[:2])
    maps = _last_convolutions(graph, nodes)
    if not maps:
        return None
    names = dict.fromkeys([*asked, *(name for one in maps for name in (one.raw, one.scaled))])
    for image in _images(input_hw):
        try:
            values = run_once(model, path, {input_name: image}, list(names))
        except ModelFileError:
            return None  # whoever reads the file at this size says so
        if suppression is None:
            agrees = partial(_are_rows, values[asked[0]][0].astype(np.float64))
            return _matching(_levels(maps, values), values, input_hw, agrees)
        given = _candidates(suppression, values[asked[0]], values[asked[1]])
        if given is not None:
            levels = _levels(maps, values)
            agrees = partial(_are_candidates, *given, None)
            found = _matching(levels, values, input_hw, agrees)
            if found is None:
                agrees = partial(_are_candidates, *given, input_hw)
                found = _matching(levels, values, input_hw, agrees)
                found = found and replace(found, cut_at_rim=True)
            return found
    return None


def _images(input_hw: tuple[int, int]) -> Iterator[Array]:
    """Inputs on which a file may have something to say: normalised values, and grey levels."""
    rng = np.random.default_rng(21)
    noise = rng.normal(0, 1, (1, 3, *input_hw)).astype(np.float32)
    yield noise
    yield np.float32(128) + noise * np.float32(60)


def most_boxes(
    model: Any, path: Path, input_name: str, input_hw: tuple[int, int], dets: str
) -> int | None:
    """How many boxes a file with a suppression gives at most; None where that cannot be told.

    What follows the suppression is given more boxes than any leaves, and gives as many of them as
    it ever does. Where that is all of them, the suppression's limit of one class is taken, although
    the file gives as many of each.
    """
    import onnx

    node = find_suppression(model)
    limit = Graph(model).scalar(node.input[2]) if node and len(node.input) > 2 else None
    if node is None or limit is None or limit < 1:
        return None
    image = next(_images(input_hw))
    try:
        scores = run_once(model, path, {input_name: image}, [node.input[1]])[node.input[1]]
        classes, candidates = scores.shape[1:]
        picked = np.zeros((_MANY, 3), np.int64)
        picked[:, 1] = np.arange(_MANY) % classes
        picked[:, 2] = np.arange(_MANY) % candidates
        rest = onnx.ModelProto()
        rest.CopyFrom(model)
        rest.graph.node.remove(find_suppression(rest))
        name, kind = node.output[0], onnx.TensorProto.INT64
        rest.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, picked.shape))
        given = run_once(rest, path, {input_name: image, name: picked}, [dets])[dets]
    except (ModelFileError, ValueError, ZeroDivisionError):
        return None
    rows = int(given.shape[1])
    return min(int(limit) * int(classes), rows) if rows < _MANY else int(limit)


# --- the maps -------------------------------------------------------------------------------------


def _last_convolutions(graph: Graph, nodes: Sequence[Any]) -> list[_Map]:
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    feeds_conv: set[str] = set()
    for node in graph.needed_by(convolution.input[0] for convolution in convolutions):
        feeds_conv.update(node.output)
    last = [node.output[0] for node in convolutions if node.output[0] not in feeds_conv]
    return [_Map(name, _through_scaling(graph, name)) for name in last]


def _through_scaling(graph: Graph, name: str) -> str:
    """Follow elementwise nodes with constants to the last tensor."""
    while True:
        following = [n for n in graph.consumers.get(name, []) if n.op_type != "Shape"]
        if len(following) != 1 or following[0].op_type not in _ELEMENTWISE:
            return name
        node = following[0]
        if any(other != name and graph.constant(other) is None for other in node.input if other):
            return name
        name = node.output[0]


def _levels(maps: Sequence[_Map], values: dict[str, Array]) -> list[list[_Map]]:
    """The maps by their size, the largest first; none where they are not of so many a level."""
    sizes: dict[tuple[int, ...], list[_Map]] = {}
    for one in maps:
        if values[one.raw].ndim != 4:
            return []
        sizes.setdefault(values[one.raw].shape[2:], []).append(one)
    levels = [sizes[size] for size in sorted(sizes, reverse=True)]
    counts = {len(level) for level in levels}
    return levels if counts in ({2}, {3}) else []


def _matching(
    levels: Sequence[Sequence[_Map]],
    values: dict[str, Array],
    input_hw: tuple[int, int],
    agrees: Callable[[Codec, Sequence[_Level]], bool],
) -> DetectorHeads | None:
    """The assignment of the maps to kinds, the same on every level, that gives the file's boxes."""
    if not levels:
        return None
    codec: Codec = "rtmdet" if len(levels[0]) == 2 else "yolox"
    for order in permutations(range(len(levels[0]))):
        # RTMDet's sides are the file's once they are in pixels.
        names = [
            [
                level[index].scaled if (codec, kind) == ("rtmdet", 1) else level[index].raw
                for kind, index in enumerate(order)
            ]
            for level in levels
        ]
        read = [_read_level([values[name] for name in level], input_hw) for level in names]
        good = [level for level in read if level is not None]
        same = len({level.rows.shape[1] for level in good}) == 1
        if len(good) == len(levels) and same and agrees(codec, good):
            return DetectorHeads(codec, tuple(zip(*names, strict=True)))
    return None


@dataclass(frozen=True)
class _Level:
    """One level's maps as rows (cells, 5 + classes): sides as they are, objectness, scores.

    The objectness is 1 where there is none. ``columns`` cells are in a row of the map.
    """

    rows: F64
    columns: int
    stride: float

    def boxes(self, codec: Codec) -> F64:
        """The cells' corners (cells, 4) in input pixels, by the formulas of ``edge.codecs``."""
        y, x = np.divmod(np.arange(len(self.rows)), self.columns)
        cells = np.stack([x, y], axis=1)
        first, second = self.rows[:, :2], self.rows[:, 2:4]
        if codec == "rtmdet":
            centre = cells * self.stride
            return np.concatenate([centre - first, centre + second], axis=1)
        centre, half = (first + cells) * self.stride, np.exp(second) * (self.stride / 2)
        return np.concatenate([centre - half, centre + half], axis=1)


def _read_level(maps: Sequence[Array], input_hw: tuple[int, int]) -> _Level | None:
    """The maps of logits, sides and objectness; None where their channels rule that out."""
    logits, sides, *objectness = (one[0].astype(np.float64) for one in maps)
    if len(sides) != 4 or (objectness and len(objectness[0]) != 1):
        return None
    rows, columns = logits.shape[1:]
    if sides.shape[1:] != (rows, columns) or not rows * columns:
        return None
    object_score = _sigmoid(objectness[0]) if objectness else np.ones((1, rows, columns))
    planes = [*sides, *object_score, *_sigmoid(logits)]
    return _Level(
        np.stack([plane.reshape(-1) for plane in planes], axis=1), columns, input_hw[0] / rows
    )


def _sigmoid(values: F64) -> F64:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -500, 500))), np.float64)


# --- what the file makes of them ------------------------------------------------------------------


def _are_rows(truth: F64, codec: Codec, levels: Sequence[_Level]) -> bool:
    """Whether the maps are the rows (A, 5 + classes) of YOLOX's one output."""
    rows = np.concatenate([level.rows for level in levels])
    return (
        codec == "yolox"
        and rows.shape == truth.shape
        and bool(np.allclose(rows, truth, rtol=_SCORE_PART, atol=1e-4))
    )


def _are_candidates(
    boxes: F64,
    scores: F64,
    rim_hw: tuple[int, int] | None,
    codec: Codec,
    levels: Sequence[_Level],
) -> bool:
    """Whether the maps decode to the boxes (M, 4) and scores (C, M) that the suppression gets.

    It may get a selection of the cells, in any order, corners as x, y or y, x, and of each the
    score of one class alone (of the others 0 or less). With ``rim_hw`` RTMDet's boxes end there.
    """
    own_boxes = np.concatenate([level.boxes(codec) for level in levels])
    if rim_hw is not None:
        if codec != "rtmdet":
            return False
        own_boxes = np.clip(own_boxes, 0, [*rim_hw[::-1], *rim_hw[::-1]])
    own_scores = np.concatenate([level.rows[:, 4:5] * level.rows[:, 5:] for level in levels])
    if len(scores) not in (1, own_scores.shape[1]):
        return False
    if len(scores) == 1:
        own_scores = own_scores.max(axis=1, keepdims=True)
    best = np.argsort(-scores.max(axis=0), kind="stable")[:_COMPARED]
    for corners in (boxes[best], boxes[best][:, [1, 0, 3, 2]]):
        cells = np.array(
            [
                _nearest(own_boxes, own_scores, box, one if rim_hw else None)
                for box, one in zip(corners, scores[:, best].T, strict=True)
            ]
        )
        limit = _BOX_PX + _BOX_PART * np.abs(corners).max(axis=1, keepdims=True)
        given = scores[:, best].T
        moved = np.abs(own_boxes[cells] - corners)
        changed = np.abs(own_scores[cells] - given)[given > 0]
        if bool((moved <= limit).all()) and bool(
            (changed <= _SCORE + _SCORE_PART * given[given > 0]).all()
        ):
            return True
    return False


def _nearest(boxes: F64, scores: F64, box: F64, score: F64 | None) -> int:
    """The box (4,) among boxes (A, 4); of those that end at one rim, that of its score (C,)."""
    far = np.abs(boxes - box).sum(axis=1)
    if score is not None:
        far += np.where(score > 0, np.abs(scores - score), 0).sum(axis=1)
    return int(far.argmin())


def _candidates(node: Any, boxes: Array, scores: Array) -> tuple[F64, F64] | None:
    """A suppression's inputs of one image: corners (M, 4) and scores (C, M); None without any."""
    if boxes.ndim != 3 or scores.ndim != 3 or not boxes.shape[1] or scores.max(initial=0) <= 0:
        return None
    corners = boxes[0].astype(np.float64)
    if any(one.name == "center_point_box" and one.i for one in node.attribute):
        half = corners[:, 2:] / 2
        corners = np.concatenate([corners[:, :2] - half, corners[:, :2] + half], axis=1)
    return corners, scores[0].astype(np.float64)
