"""Which values an input takes: what the graph does itself, and what is left to the spec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from converters.graph.input_arithmetic import InputArithmetic, Unexplained
from edge.errors import ModelFileError, SpecError
from edge.spec import ColorOrder, ModelSpec

__all__ = ["BGR_MEAN", "BGR_STD", "RGB_MEAN", "RGB_STD", "check_described", "settle_assumed"]

Three = tuple[float, float, float]

RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BGR_MEAN, BGR_STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
_NONE: tuple[Three, Three] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_FRACTIONS: tuple[Three, Three] = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))

_CHECK = (
    "look at a picture drawn by `edge run`, and if points or boxes are off, describe the file with "
    "`edge convert --spec FILE`"
)


def settle_assumed(
    path: Path,
    spec: ModelSpec,
    inside: InputArithmetic | Unexplained | None,
    *,
    grey_levels: bool = False,
) -> tuple[ModelSpec, list[str]]:
    """The spec of a file that was recognised, and what to say of its normalisation.

    ``spec`` holds what is usual for its kind; what stands in the graph counts in its place, and
    the input then takes grey levels, or fractions of 255, as they are. Raises ModelFileError where
    the graph's arithmetic is a normalisation of neither. ``grey_levels``: the file's input was
    uint8, so that no mean and std can go before it.
    """
    if grey_levels and not (isinstance(inside, InputArithmetic) and inside.scales):
        mean, std = _NONE
        spec = replace(spec, mean=mean, std=std)
    if inside is None:
        return spec, [
            f"the file does not say how pixels become its input; assumed is {_text(spec)}, as "
            f"models of this kind are trained; {_CHECK}"
        ]
    if isinstance(inside, Unexplained):
        raise ModelFileError(
            f"{path}: its graph changes the picture before the first layer ({inside.nodes}) in a "
            "way that no mean and std of a channel describe; say with --spec FILE what goes before "
            "it, or export the model without these nodes"
        )
    order = _other(spec.color_order) if inside.swaps_channels else spec.color_order
    if not inside.scales:
        spec = replace(spec, color_order=order, mean=spec.mean[::-1], std=spec.std[::-1])
        return spec, [
            f"the graph itself turns the channels round ({inside.nodes}); assumed is "
            f"{_text(spec)}; {_CHECK}"
        ]
    for mean, std in (_NONE,) if grey_levels else (_NONE, _FRACTIONS):
        seen_mean, seen_std = _together(mean, std, inside)
        usual = np.allclose((*seen_mean, *seen_std), (*spec.mean, *spec.std), rtol=0.02, atol=0.02)
        if usual or _is_normalisation(seen_mean, seen_std):
            break
    else:
        raise ModelFileError(
            f"{path}: its graph computes {_formula(inside)} itself ({inside.nodes}), which is no "
            "normalisation of grey levels 0..255 or of fractions 0..1; say with --spec FILE which "
            "mean and std go before it"
        )
    order = _order_of(seen_mean) or order
    spec = replace(spec, color_order=order, mean=mean, std=std)
    takes = "grey levels 0..255" if std == _NONE[1] else "grey levels divided by 255"
    return spec, [
        f"the graph normalises its input itself ({inside.nodes}: {_formula(inside)}); it is given "
        f"{takes} in the order {order.upper()}; {_CHECK}"
    ]


def check_described(
    path: Path,
    spec: ModelSpec,
    inside: InputArithmetic | Unexplained | None,
    *,
    grey_levels: bool = False,
) -> list[str]:
    """What to say of a described file whose graph computes with its input, too.

    Raises SpecError where the description and the graph together normalise twice, or scale what
    the other takes as it is, and where it scales pixels for an input that was uint8.
    """
    if grey_levels and (spec.mean, spec.std) != _NONE:
        raise SpecError(
            f"{path}: its input is uint8, which takes grey levels as they are, but its description "
            f"says mean {_numbers(spec.mean)} and std {_numbers(spec.std)}; say mean [0, 0, 0] and "
            "std [1, 1, 1]"
        )
    if inside is None:
        return []
    if isinstance(inside, Unexplained):
        return [f"the graph changes the picture ({inside.nodes}), after the spec's mean and std"]
    if not inside.scales:
        return [
            f"the graph itself turns the channels round ({inside.nodes}), after the spec's order "
            f"{spec.color_order.upper()}"
        ]
    for mean, std in (_NONE, _FRACTIONS):
        if _is_normalisation(*_together(mean, std, inside)):
            break
    else:
        mean, std = spec.mean, spec.std
    if not _is_normalisation(*_together(spec.mean, spec.std, inside)) and (mean, std) != (
        spec.mean,
        spec.std,
    ):
        raise SpecError(
            f"{path}: its description says mean {_numbers(spec.mean)} and std "
            f"{_numbers(spec.std)}, but the graph computes {_formula(inside)} itself "
            f"({inside.nodes}): together no normalisation; with mean {_numbers(mean)} and std "
            f"{_numbers(std)} the graph's own counts"
        )
    return [
        f"the graph computes {_formula(inside)} itself ({inside.nodes}), after the spec's mean "
        f"{_numbers(spec.mean)} and std {_numbers(spec.std)}"
    ]


def _together(mean: Three, std: Three, inside: InputArithmetic) -> tuple[Three, Three]:
    """Mean and std, in grey levels, of one normalisation followed by the graph's."""
    means = [m + s * g for m, s, g in zip(mean, std, inside.mean, strict=True)]
    stds = [s * g for s, g in zip(std, inside.std, strict=True)]
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


def _is_normalisation(mean: Three, std: Three) -> bool:
    """Whether networks are trained so: grey levels scaled to the order of 1, or only centred."""
    if min(std) >= 20 and max(std) <= 300:
        return min(mean) >= -5 and max(mean) <= 200
    return min(std) >= 0.5 and max(std) <= 2 and min(mean) >= 50 and max(mean) <= 160


def _order_of(mean: Three) -> ColorOrder | None:
    """The channel order that ImageNet's means tell."""
    for order, known in (("rgb", RGB_MEAN), ("bgr", BGR_MEAN)):
        if np.allclose(mean, known, atol=2):
            return "rgb" if order == "rgb" else "bgr"
    return None


def _other(order: ColorOrder) -> ColorOrder:
    return "bgr" if order == "rgb" else "rgb"


def _text(spec: ModelSpec) -> str:
    scaled = (
        "grey levels as they are"
        if (spec.mean, spec.std) == _NONE
        else f"mean {_numbers(spec.mean)} and std {_numbers(spec.std)}"
    )
    return f"{spec.color_order.upper()}, {scaled}"


def _formula(inside: InputArithmetic) -> str:
    return f"(x - {_numbers(inside.mean)}) / {_numbers(inside.std)}"


def _numbers(values: Three) -> str:
    return f"[{', '.join(f'{value + 0.0:.6g}' for value in values)}]"
