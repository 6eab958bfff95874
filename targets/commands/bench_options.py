"""The options of ``edge bench`` on a target, apart from what runs there.

A run on this machine reads them too, with numpy and an engine alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from converters.commands.options import add_conversion
from edge.cli.options import add_classes, add_insecure_mirror, count
from edge.errors import SpecError

__all__ = ["add_target_options", "check_pipeline_options"]


def add_target_options(parser: argparse.ArgumentParser, target: Any) -> None:
    """Add the options of a run on a target to those of `edge bench`."""
    target.add_argument("--host", metavar="[USER@]HOST", help="which machine, over ssh")
    target.add_argument("--serial", help="which phone, where several are connected")
    target.add_argument(
        "--repeat",
        type=count,
        default=3,
        metavar="N",
        help="runs of each in turn (default: 3)",
    )
    target.add_argument(
        "--runner", type=Path, metavar="FILE", help="a native runner of your own (NDK build)"
    )
    target.add_argument(
        "--python", action="store_true", help="time ncnn and TensorRT through Python as well"
    )
    target.add_argument(
        "--wheelhouse", type=Path, metavar="DIR", help="wheels for a device without network"
    )
    target.add_argument(
        "--pipeline",
        action="store_true",
        help="frames of detector and pose model together (ncnn), from pixels to keypoints",
    )
    target.add_argument(
        "--networks-alone",
        action="store_true",
        help="--pipeline: without letterbox, crops and decoding; for codecs besides rtmdet, simcc",
    )
    target.add_argument(
        "--interval",
        type=count,
        default=5,
        metavar="N",
        help="--pipeline: the detector in every Nth frame (default: 5)",
    )
    target.add_argument(
        "--people",
        type=count,
        default=1,
        metavar="K",
        help="--pipeline: per frame (default: 1)",
    )
    add_classes(target)
    target.add_argument(
        "--lock-clocks", action="store_true", help="Jetson: at their maximum, and back afterwards"
    )
    target.add_argument(
        "--leave-settings",
        action="store_true",
        help="Android: set neither stay-awake nor the fixed-performance mode",
    )
    target.add_argument(
        "--no-cooldown", action="store_true", help="start each run however hot the device is"
    )
    add_conversion(parser)
    parser.set_defaults(batch=None, force=False, keep_failed=False, no_arm_check=False)
    add_insecure_mirror(target)


def check_pipeline_options(arguments: argparse.Namespace) -> None:
    """Raise SpecError for options of ``--pipeline`` without it."""
    if arguments.classes is not None and not arguments.pipeline:
        raise SpecError("--classes is for --pipeline: a network alone gives all of its classes")
    if arguments.networks_alone and not arguments.pipeline:
        raise SpecError("--networks-alone is for --pipeline: without it networks are timed alone")
