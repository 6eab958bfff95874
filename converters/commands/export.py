"""``edge export``: a checkpoint as a verified ONNX file."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from converters.zoo.models import zoo_entries, zoo_fetch
from edge.cli.options import add_insecure_mirror, count, size
from edge.errors import EngineMissingError, SpecError

__all__ = ["add", "need_torch", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("checkpoint", help=".pth file of RTMPose, RTMDet or RTMO, or zoo name")
    parser.add_argument(
        "--out", "-o", type=Path, metavar="FILE.onnx", help="default: named after the checkpoint"
    )
    parser.add_argument(
        "--size",
        type=size,
        metavar="HxW",
        help="input size (default: the official model's)",
    )
    parser.add_argument("--variant", help="nano, t, s, m, l or x; checked against the weights")
    parser.add_argument("--keypoints", type=count, help="checked against the weights")
    parser.add_argument("--classes", type=count, help="checked against the weights")
    parser.add_argument(
        "--keypoint-set", help="where the number does not name it, for example ap10k17"
    )
    parser.add_argument(
        "--backbone", action="store_true", help="a pretrained CSPNeXt: its features, to measure"
    )
    add_insecure_mirror(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write a checkpoint as a verified ONNX file that carries its spec."""
    need_torch()
    from converters.architectures.official import export_backbone, export_checkpoint

    entry = zoo_entries().get(arguments.checkpoint)
    path = (
        zoo_fetch(arguments.checkpoint, what="checkpoint") if entry else Path(arguments.checkpoint)
    )
    if not path.is_file():
        raise SpecError(f"{path}: neither a checkpoint file nor a zoo model; `edge zoo` lists them")
    out = arguments.out or Path(f"{arguments.checkpoint if entry else path.stem}.onnx")
    if out.suffix != ".onnx" or not out.parent.is_dir():
        raise SpecError(f"{out}: give the name of an .onnx file in a folder that exists with --out")
    input_hw = arguments.size or (entry.input_hw if entry else None)
    if arguments.backbone:
        found = export_backbone(path, out, input_hw=input_hw or (256, 192))
        print(f"{found} -> {out}: features only, without a spec, for measuring")
        return 0
    spec = export_checkpoint(
        path,
        out,
        out.stem,
        size=arguments.variant,
        keypoints=arguments.keypoints,
        num_classes=arguments.classes,
        input_hw=input_hw,
        keypoint_set=arguments.keypoint_set or (entry.keypoint_set if entry else None),
        say=lambda text: print(f"note: {text}", flush=True),
    )
    height, width = spec.input_hw
    finds = spec.keypoint_set or "boxes"
    print(f"{spec.task}, codec {spec.codec}, {height}x{width}, {finds} -> {out}")
    print(f"next: edge convert --model {out} --target android")
    return 0


def need_torch() -> None:
    """Raise EngineMissingError where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise EngineMissingError("PyTorch is not installed: run `make setup-torch`")
