"""``edge verify``: the parity check of an artifact again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from converters.commands.parity_pictures import parity_images
from converters.convert import verify_artifact
from edge.cli.info import parity_lines
from edge.cli.options import add_inference_precision

__all__ = ["add", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="an artifact's folder")
    parser.add_argument("--source", type=Path, help="the ONNX file it was made of, if it moved")
    parser.add_argument("--images", type=Path, help="folder of pictures to compare answers on")
    add_inference_precision(parser)
    parser.add_argument(
        "--allow-failed", action="store_true", help="compare one that failed its check as well"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Repeat an artifact's parity check; ParityError where it fails."""
    report = verify_artifact(
        arguments.artifact,
        parity_images(arguments.images),
        source_path=arguments.source,
        allow_failed=arguments.allow_failed,
        inference_precision=arguments.inference_precision,
    )
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print("\n".join(parity_lines(report.to_json())))
    report.raise_if_failed()
    return 0
