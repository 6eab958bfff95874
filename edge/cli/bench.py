"""``edge bench``: the latency of artifacts, on this machine or on a target over adb or ssh.

Without a target it is the Python runner and needs ``edge`` and an engine alone, as on a device.
With one it is the host's side and needs a checkout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.cli import options
from edge.cli.bench_here import add_here_options, bench_here
from edge.errors import SpecError

__all__ = ["add_bench", "bench"]

_NATIVE_PRECISIONS = ("fp32", "fp16", "fp16-storage", "bf16")


def add_bench(command: Callable[[str, Callable[[argparse.Namespace], int], str], Any]) -> None:
    """Add the command; ``command(name, run, text)`` makes its parser."""
    parser = command("bench", bench, "Time artifacts, on this machine or on a target.")
    parser.epilog = (
        "Without a target ARTIFACT is timed on this machine, by the Python runner. With one, what\n"
        "is missing is converted, pushed, compared with the reference on the device, warmed up,\n"
        "timed in turn, judged, and stored: one JSON file a run in OUT/results, for `edge report`."
    )
    parser.add_argument(
        "artifacts",
        nargs="*",
        metavar="ARTIFACT",
        help="artifact folders (with a target, default: its variants of --model are converted)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--threads", type=options.count, help="CPU threads (default: the target's)")
    parser.add_argument(
        "--cpu-mask",
        type=options.cpu_mask,
        metavar="HEX",
        help="cores to keep to, for example f0 (default: the target's)",
    )
    parser.add_argument(
        "--inference-precision",
        choices=_NATIVE_PRECISIONS,
        help="arithmetic of the engine (default: what is safe for the artifact there)",
    )
    parser.add_argument(
        "--mode",
        choices=["burst", "sustained"],
        default="burst",
        help="sustained: 60 s or more without a pause, so that heat shows (default: burst)",
    )
    parser.add_argument(
        "--allow-failed", action="store_true", help="use artifacts that failed their checks"
    )
    add_here_options(parser)
    target = parser.add_argument_group("on a target")
    target.add_argument("--target", help="android, raspberry-pi, jetson, x86, or a name of these")
    target.add_argument(
        "--profile", type=Path, metavar="FILE.toml", help="a target profile of your own"
    )
    target.add_argument("--host", metavar="[USER@]HOST", help="which machine, over ssh")
    target.add_argument("--serial", help="which phone, where several are connected")
    target.add_argument(
        "--repeat",
        type=options.count,
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
        type=options.count,
        default=5,
        metavar="N",
        help="--pipeline: the detector in every Nth frame (default: 5)",
    )
    target.add_argument(
        "--people",
        type=options.count,
        default=1,
        metavar="K",
        help="--pipeline: per frame (default: 1)",
    )
    options.add_classes(target)
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
    options.add_conversion(target)
    target.set_defaults(batch=None, force=False, keep_failed=False, no_arm_check=False)


def bench(arguments: argparse.Namespace) -> int:
    """Time artifacts; exit code 1 where one could not be timed or no run of it is valid."""
    if arguments.classes is not None and not arguments.pipeline:
        raise SpecError("--classes is for --pipeline: a network alone gives all of its classes")
    if arguments.networks_alone and not arguments.pipeline:
        raise SpecError("--networks-alone is for --pipeline: without it networks are timed alone")
    if arguments.target is None and arguments.profile is None:
        if len(arguments.artifacts) != 1:
            raise SpecError(
                "name one ARTIFACT to time here, or a target: edge bench --target android"
            )
        return bench_here(arguments)
    from edge.cli.bench_target import bench_target

    return bench_target(arguments)
