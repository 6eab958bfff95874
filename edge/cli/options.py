"""Options that several commands take, and what their values may be."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from edge.cli.host import DEFAULT_DETECTOR, DEFAULT_MODEL
from edge.cli.quantisation import add_quantisation
from edge.digits import parse_digits
from edge.spec import PRECISIONS

__all__ = [
    "add_classes",
    "add_conversion",
    "add_insecure_mirror",
    "count",
    "cpu_mask",
    "keypoint_score",
    "share",
    "size",
]


class _AllowInsecureMirror(argparse.Action):
    """Set the variable, for what fetches in other processes as well."""

    def __call__(self, *_: object, **__: object) -> None:
        os.environ["EDGEPOSE_INSECURE_MIRROR"] = "1"


def add_insecure_mirror(parser: Any) -> None:
    """Add what a command that may fetch a model needs for an http mirror."""
    parser.add_argument(
        "--insecure-mirror",
        action=_AllowInsecureMirror,
        nargs=0,
        help="take models from an EDGEPOSE_MIRROR over http as well, where anybody on the way can "
        "change them",
    )


def add_conversion(parser: Any) -> None:
    """Add what decides which variants of which models there are, and what they are compared on."""
    parser.add_argument(
        "--model",
        help="zoo name, ONNX file, SDK folder or .zip, or checkpoint "
        f"(default: {DEFAULT_MODEL} with the detector {DEFAULT_DETECTOR})",
    )
    parser.add_argument("--detector", help="a detector as well, named in the same ways")
    parser.add_argument(
        "--formats",
        help="variants instead of the target's: comma-separated, for example onnx-fp32,ncnn-fp16, "
        "or all",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of all --formats, which are then named alone: --formats tflite --precision mixed",
    )
    parser.add_argument("--name", help="name of the pose model (default: after its file)")
    parser.add_argument("--spec", type=Path, help="TOML or JSON spec of the pose model's file")
    parser.add_argument(
        "--keypoint-set",
        metavar="NAME",
        help="what the points of the pose model are, where its file does not say: coco17, ap10k17, "
        "..., or unnamed-K",
    )
    parser.add_argument(
        "--size",
        type=size,
        help="HxW of the detector's (or only model's) input, where it can be chosen",
    )
    parser.add_argument("--images", type=Path, help="folder of pictures to compare answers on")
    add_quantisation(parser)
    parser.add_argument(
        "--float-parts",
        metavar="PART,...|FILE.json",
        help="what mixed variants keep float: names, or what `edge sensitivity` wrote (default: "
        "what that left under --out, else what is no convolution and the last layers)",
    )
    parser.add_argument(
        "--any-version",
        action="store_true",
        help="accept tools of other versions than the lock's",
    )
    parser.add_argument("--out", type=Path, default=Path("build"), help="default: build")


def add_classes(parser: Any) -> None:
    """Add which classes of a detector are people to it, or whatever the pose model is for."""
    parser.add_argument(
        "--classes",
        metavar="CLASS,...",
        help="the detector's classes that count, by number or name (default: person, or else 0)",
    )


def share(text: str) -> float:
    """A number from 0 to 1."""
    return _number(text, 1.0, "a share, not percent: 0.3 for 30 %")


def keypoint_score(text: str) -> float:
    """A score of a keypoint; those of SimCC may exceed 1."""
    return _number(text, 10.0, "scores are about 0 to 1, not percent")


def _number(text: str, most: float, why: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= value <= most:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {most:g} ({why})")
    return value


def count(text: str) -> int:
    """A whole number from 1."""
    value = parse_digits(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return value


def size(text: str) -> tuple[int, int]:
    """``HxW``, height first."""
    rows, _, columns = text.partition("x")
    height, width = parse_digits(rows, most=6), parse_digits(columns, most=6)
    if not height or not width:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, for example 320x320")
    return height, width


def cpu_mask(text: str) -> str:
    """A CPU mask in hexadecimal without 0x, of one CPU or more."""
    if not re.fullmatch("[0-9a-fA-F]+", text) or not int(text, 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no mask of CPUs in hexadecimal, like f0")
    return text.lower()
