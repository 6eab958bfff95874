"""Options of the commands that convert."""

from __future__ import annotations

import argparse
from pathlib import Path

from converters.commands.quantisation import add_quantisation
from edge.cli.options import DEFAULT_DETECTOR, DEFAULT_MODEL, size
from edge.spec import PRECISIONS

__all__ = ["add_conversion"]


def add_conversion(parser: argparse.ArgumentParser) -> None:
    """Add what decides which variants of which models there are, and what they are compared on."""
    what = parser.add_argument_group("what to convert")
    what.add_argument(
        "--model",
        help="zoo name, ONNX file, SDK folder or .zip, or checkpoint "
        f"(default: {DEFAULT_MODEL} with the detector {DEFAULT_DETECTOR})",
    )
    what.add_argument("--detector", help="a detector as well, named in the same ways")
    what.add_argument(
        "--formats",
        help="what to make instead of the target's own variants: onnx-fp32,ncnn-fp16, or a format "
        "alone in the target's precision, or all",
    )
    what.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="one for all --formats, which then have none: --formats tflite --precision mixed",
    )
    what.add_argument("--name", help="name of the pose model (default: after its file)")
    what.add_argument("--spec", type=Path, help="TOML or JSON spec of the pose model's file")
    what.add_argument(
        "--keypoint-set",
        metavar="NAME",
        help="what the points of the pose model are, where its file does not say: coco17, ap10k17, "
        "..., or unnamed-K",
    )
    what.add_argument(
        "--size",
        type=size,
        help="HxW of the detector's (or only model's) input, where it can be chosen",
    )
    what.add_argument("--images", type=Path, help="folder of pictures to compare answers on")
    accuracy = parser.add_argument_group("accuracy of quantised variants")
    add_quantisation(accuracy)
    accuracy.add_argument(
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
    parser.add_argument(
        "--out", "-o", type=Path, default=Path("build"), metavar="DIR", help="default: build"
    )
