"""What each key of a spec may be, and the words that its values are made of."""

from __future__ import annotations

from typing import Any, Literal, get_args

from edge.records import (
    Rule,
    choice,
    flag,
    list_of,
    number,
    one_of,
    record,
    share,
    shown,
    text,
    whole,
)

__all__ = [
    "REQUIRED_KEYS",
    "SPEC_KEYS",
    "TENSOR_KEYS",
    "Codec",
    "ColorOrder",
    "HeatmapRefinement",
    "Letterbox",
    "Task",
    "fraction_hint",
]

# image -> boxes; the crop of a box -> keypoints; image -> boxes with keypoints.
Task = Literal["detection", "pose", "one-stage"]
Codec = Literal["simcc", "heatmap", "rtmdet", "yolox", "rtmo", "detections"]
ColorOrder = Literal["rgb", "bgr"]
Letterbox = Literal["top-left", "center"]
HeatmapRefinement = Literal["none", "shift", "dark", "dark-udp", "megvii"]

# No input or output has a side as long as this.
_LONGEST = 10**6


def _name(words: str) -> Rule:
    """A model's name: folders and files are called so."""
    rule = text(most=100)
    return Rule(
        words,
        lambda value: (
            rule.fits(value) and not set(value) & set("/\\") and not value.startswith(".")
        ),
    )


def _tensor_name() -> Rule:
    rule = text(most=512)
    return Rule(
        "a name without blanks", lambda value: rule.fits(value) and value.split() == [value]
    )


def _size() -> Rule:
    """TOML has no null: -1 stands for a dimension that is decided at run time, as in ONNX tools."""
    known = whole(1, _LONGEST)
    return Rule(
        f"a whole number from 1 to {_LONGEST}, or null or -1 for an open one",
        lambda value: (
            value is None or known.fits(value) or (isinstance(value, int) and value == -1)
        ),
    )


def _odd() -> Rule:
    rule = whole(3, 255)
    return Rule(
        "an odd whole number from 3 to 255", lambda value: rule.fits(value) and value % 2 == 1
    )


def _channels(rule: Rule, words: str) -> Rule:
    return list_of(rule, words, least=3, most=3)


_NULL = Rule("null", lambda value: value is None)

TENSOR_KEYS: dict[str, Rule] = {
    "name": _tensor_name(),
    "shape": list_of(_size(), "a list of sizes", most=8),
    "dtype": choice("float32", "int64"),
}
"""The keys of a tensor; all but ``dtype`` (float32) are needed."""

_TENSOR = record(TENSOR_KEYS, ("name", "shape"))
_TENSOR = Rule("a table {name, shape, dtype}", _TENSOR.fits, inside=_TENSOR.inside)

_PAIRS = list_of(
    list_of(whole(0, 2000), "a pair of indices", least=2, most=2), "a list of pairs of indices"
)
_OWN_KEYPOINTS = record(
    {
        "keypoints": list_of(text(most=80), "a list of names", least=1, most=2000),
        "skeleton": _PAIRS,
        "flip_pairs": _PAIRS,
        "sigmas": list_of(number(above=0), "a list of numbers above 0"),
    },
    ("keypoints",),
)

SPEC_KEYS: dict[str, Rule] = {
    "name": _name("a name of up to 100 signs without / and \\"),
    "task": choice(*get_args(Task)),
    "codec": choice(*get_args(Codec)),
    "input": _TENSOR,
    "outputs": list_of(_TENSOR, "a list of tables {name, shape, dtype}", least=1, most=100),
    "color_order": choice(*get_args(ColorOrder)),
    "mean": _channels(number(0, 255), "three numbers, one a channel"),
    "std": _channels(number(above=0, most=65535), "three numbers, one a channel"),
    "keypoint_set": one_of(text(most=100), _NULL),
    "class_names": list_of(text(most=100), "a list of names", most=10**5),
    "pad_value": whole(0, 255),
    "letterbox": choice(*get_args(Letterbox)),
    "box_padding": number(above=0, most=10),
    "udp": flag(),
    "simcc_split_ratio": number(above=0, most=16),
    "heatmap_refinement": choice(*get_args(HeatmapRefinement)),
    "heatmap_blur_kernel": _odd(),
    "strides": list_of(whole(1, 4096), "a list of whole numbers", most=100),
    "score_threshold": share(),
    "nms_iou": share(),
    "nms_candidates_per_level": whole(1),
    "max_boxes": whole(1),
    "several_labels": flag(),
    "cut_at_rim": flag(),
    "constants": list_of(_TENSOR, "a list of tables {name, shape, dtype}", most=100),
    "own_keypoints": one_of(
        Rule(
            "a table {keypoints, skeleton, flip_pairs, sigmas}",
            _OWN_KEYPOINTS.fits,
            inside=_OWN_KEYPOINTS.inside,
        ),
        _NULL,
    ),
}
"""Every key of a spec and what it may be."""

REQUIRED_KEYS = ("name", "task", "codec", "input", "outputs", "color_order", "mean", "std")


def fraction_hint(mean: Any, std: Any) -> str:
    """What is wrong with a mean and std that are for pixels of 0..1; "" where they are not.

    Both are in grey levels of 0..255. There a deviation below 1 makes no sense, and neither does a
    mean of up to 1 that is not 0.
    """
    if min(std) >= 1 and not (max(mean) <= 1 and any(mean)):
        return ""
    right = ", ".join(
        f"{key} {shown([round(value * 255, 3) for value in values])}"
        for key, values in (("mean", mean), ("std", std))
    )
    return (
        f"'mean' and 'std' are in grey levels of 0..255, and {shown(list(mean))} and "
        f"{shown(list(std))} are for pixels of 0..1: multiply both by 255 ({right})"
    )
