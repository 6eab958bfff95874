"""Options of the commands that convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.commands.quantisation import add_quantisation
from edge.cli.options import DEFAULT_DETECTOR, DEFAULT_MODEL, size
from edge.spec import PRECISIONS

__all__ = ["add_conversion"]


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
