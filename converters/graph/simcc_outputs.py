"""SimCC pose models told by their two outputs: (N, K, W * r) and (N, K, H * r) with one ratio r."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from converters.graph.normalisation import RGB_MEAN, RGB_STD
from converters.graph.run_once import Shape
from edge.errors import ModelFileError
from edge.keypoints import usual_set
from edge.spec import ModelSpec, TensorSpec

__all__ = ["ratio_text", "recognise_simcc", "simcc_sizes"]


# Bins a pixel: 2 in nearly all that is published; papers and other exporters have the others.
_RATIOS = (2.0, 1.0, 1.5, 3.0, 4.0)
_AXIS_WORDS = {
    **dict.fromkeys(("x", "horizontal", "width", "w", "column", "columns", "col", "cols"), "x"),
    **dict.fromkeys(("y", "vertical", "height", "h", "row", "rows"), "y"),
}

Outputs = Sequence[tuple[str, Shape]]


def recognise_simcc(
    path: Path,
    name: str,
    input_name: str,
    input_shape: Shape,
    outputs: Outputs,
    keypoint_set: str | None = None,
) -> tuple[ModelSpec, list[str]] | None:
    """The spec of a file with such outputs and notes on what was assumed, or None.

    ``keypoint_set`` names the points; without it they are what so many usually are, with a note
    where that is a guess. The axes are told by their lengths, and those of a square input by the
    outputs' names. Raises ModelFileError where neither tells which is which, or where the two
    contradict each other.
    """
    pair = _pair(outputs)
    batch, _, height, width = input_shape
    if pair is None or height is None or width is None:
        return None
    keypoints = pair[0][1]
    (name_a, _, bins), (name_b, *_) = pair
    by_size = [
        (x, y)
        for x, y in ((pair[0], pair[1]), (pair[1], pair[0]))
        if x[2] * height == y[2] * width and x[2] / width in _RATIOS
    ]
    if not by_size:
        return None
    told = (_axis_of(name_a, name_b), _axis_of(name_b, name_a))
    by_name = {("x", "y"): (pair[0], pair[1]), ("y", "x"): (pair[1], pair[0])}.get(told)
    if len(by_size) == 2 and by_name is None:
        raise ModelFileError(
            f"{path}: its outputs {name_a!r} and {name_b!r} are both {bins} bins long, and "
            f"neither their names nor their sizes tell which is x: describe it with --spec FILE, "
            f"whose outputs are {name_a!r}, {name_b!r} (x first) or {name_b!r}, {name_a!r}"
        )
    if by_name is not None and by_name not in by_size:
        raise ModelFileError(
            f"{path}: by their names {by_name[0][0]!r} is x and {by_name[1][0]!r} is y, but for an "
            f"input of {height}x{width} (height x width) their {by_name[0][2]} and "
            f"{by_name[1][2]} bins fit the other way round; describe it with --spec FILE, whose "
            "outputs are in the order x, y"
        )
    (name_x, _, bins_x), (name_y, _, bins_y) = by_name or by_size[0]
    usual, note = usual_set(keypoints) if keypoint_set is None else (keypoint_set, "")
    spec = ModelSpec(
        name=name,
        task="pose",
        codec="simcc",
        input=TensorSpec(input_name, (batch, 3, height, width)),
        outputs=(
            TensorSpec(name_x, (batch, keypoints, bins_x)),
            TensorSpec(name_y, (batch, keypoints, bins_y)),
        ),
        color_order="rgb",
        mean=RGB_MEAN,
        std=RGB_STD,
        keypoint_set=usual,
        simcc_split_ratio=bins_x / width,
    )
    return spec, [note] if note else []


def simcc_sizes(outputs: Outputs) -> str:
    """What two outputs that are almost SimCC's would need of an open input; empty for others."""
    pair = _pair(outputs)
    if pair is None:
        return ""
    bins = {
        _axis_of(pair[0][0], pair[1][0]): pair[0][2],
        _axis_of(pair[1][0], pair[0][0]): pair[1][2],
    }
    if set(bins) != {"x", "y"} or bins["x"] % 2 or bins["y"] % 2:
        return ""
    return f"{bins['y'] // 2}x{bins['x'] // 2}"


def ratio_text(outputs: Outputs, input_shape: Shape) -> str:
    """What tells two outputs of one length a keypoint from SimCC's; empty for others."""
    pair = _pair(outputs)
    height, width = input_shape[2:]
    if pair is None or not height or not width:
        return ""
    (_, keypoints, first), (_, _, second) = pair
    return (
        f"; two outputs (N, {keypoints}, {first}) and (N, {keypoints}, {second}) for an input of "
        f"{height}x{width} (height x width) would be {first / width:.2f} and {second / height:.2f} "
        f"bins a pixel, and SimCC has one of {', '.join(f'{r:g}' for r in sorted(_RATIOS))} on "
        "both axes"
    )


def _pair(outputs: Outputs) -> tuple[tuple[str, int, int], tuple[str, int, int]] | None:
    """Name, keypoints and bins of two outputs (N, K, bins) of one K, or None."""
    found = [
        (name, shape[1], shape[2])
        for name, shape in outputs
        if len(shape) == 3 and shape[1] is not None and shape[2] is not None
    ]
    if len(outputs) != 2 or len(found) != 2 or found[0][1] != found[1][1]:
        return None
    return found[0], found[1]


def _axis_of(name: str, other: str) -> str:
    """The axis that a name says, wherever in it, beside the other output's name; or empty.

    A word of it that stands for an axis (``simcc_x``, ``y_simcc``, ``predX``, ``width``); else the
    one letter by which the two names differ (``simccx`` and ``simccy``).
    """
    own, others = set(_words(name)), set(_words(other))
    axes = {_AXIS_WORDS[word] for word in own - others if word in _AXIS_WORDS}
    if len(axes) == 1:
        return axes.pop()
    differing = [(a, b) for a, b in zip(name.lower(), other.lower(), strict=False) if a != b]
    if len(name) == len(other) and differing in ([("x", "y")], [("y", "x")]):
        return differing[0][0]
    return ""


def _words(name: str) -> list[str]:
    """``simccX_0`` as simcc, x, 0."""
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return re.findall(r"[a-z]+|[0-9]+", split.lower())
