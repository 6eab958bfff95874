"""Options that several commands take, and what their values may be."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from edge.digits import parse_digits
from edge.session import default_threads

__all__ = [
    "DEFAULT_DETECTOR",
    "DEFAULT_MODEL",
    "add_classes",
    "add_engine",
    "add_inference_precision",
    "add_insecure_mirror",
    "count",
    "cpu_mask",
    "keypoint_score",
    "share",
    "size",
]

# The demo pair: made where no model is named.
DEFAULT_MODEL = "rtmpose-t-demo"
DEFAULT_DETECTOR = "rtmdet-nano-demo"


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


def add_engine(parser: Any) -> None:
    """Add how an engine runs."""
    parser.add_argument(
        "--threads",
        type=count,
        default=default_threads(),
        help="CPU threads of the engine (default here: %(default)s)",
    )
    add_inference_precision(parser)
    parser.add_argument(
        "--allow-failed", action="store_true", help="use artifacts that failed their parity check"
    )


def add_inference_precision(parser: Any) -> None:
    """Add the arithmetic that an engine may use."""
    parser.add_argument(
        "--inference-precision",
        choices=["fp32", "fp16", "bf16"],
        help="arithmetic the engine may use; bf16: openvino only (default: the variant's own)",
    )


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
