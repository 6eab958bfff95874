"""``edge convert``: models as verified artifacts for a target."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from converters.commands.conversions import ConversionTable, make_artifacts, raise_failures
from converters.commands.options import add_conversion
from converters.convert import ConvertedVariant
from edge.artifact import read_manifest
from edge.cli.options import add_insecure_mirror, count
from targets.commands.arm import add_arm, on_arm
from targets.profile import Profile, load_profile

__all__ = ["add", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--target", default="android", help="target name (default: android)")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE.toml", help="a target profile of your own instead"
    )
    add_conversion(parser)
    parser.add_argument(
        "--batch",
        type=count,
        help="fix the batch, for throughput (default: open where the format can, else 1)",
    )
    add_arm(parser)
    parser.add_argument("--force", action="store_true", help="convert even what is up to date")
    parser.add_argument(
        "--keep-failed", action="store_true", help="keep artifacts that fail a check, marked so"
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    add_insecure_mirror(parser)


def run(arguments: argparse.Namespace) -> int:
    """Convert a pose model, and a detector if given, and say what comes next."""
    profile = load_profile(str(arguments.profile or arguments.target))
    made = make_artifacts(
        arguments,
        ConversionTable(sys.stdout, arguments.json),
        target=profile.name,
        variants=profile.variants,
        checks=on_arm(arguments, profile),
    )
    good = [one for one in made if one.error is None]
    if good and not arguments.json:
        _say_next(good, _how(arguments), profile)
    raise_failures(made)
    return 0


def _how(arguments: argparse.Namespace) -> str:
    """The options that name the target again."""
    if arguments.profile:
        return f"--profile {arguments.profile}"
    return f"--target {arguments.target}"


def _say_next(made: Sequence[ConvertedVariant], how: str, profile: Profile) -> None:
    print("\nartifacts:")
    for one in made:
        print(f"  {one.folder}")
    print("next:")
    if shutil.which("edge") is None:
        print(f"  source {os.path.relpath(Path(sys.prefix) / 'bin/activate')}")
    for command in _next_commands(made, how, profile):
        print(f"  {command}")


def _next_commands(made: Sequence[ConvertedVariant], how: str, profile: Profile) -> Iterator[str]:
    """What leads on to the target: pictures here, latency there, and what ships."""
    runnable = [one for one in made if one.variant.format != "tensorrt"]
    if runnable and read_manifest(runnable[0].folder)["spec"]["task"] != "detection":
        first = runnable[0]
        pair = [
            one for one in runnable if one.model != first.model and one.variant == first.variant
        ]
        detector = f" --detector {pair[0].folder}" if pair else ""
        here = "" if profile.transport == "local" else "   # the same answers, on this machine"
        yield f"edge run --model {first.folder}{detector} PHOTO.jpg --out build/run{here}"
    host = " --host USER@ADDRESS" if profile.transport == "ssh" else ""
    yield f"edge bench {how}{host}"
    if profile.kind == "android":
        yield f"edge assets {how}"
    elif host:
        yield f"edge deploy {how}{host}"
    yield f"edge info {made[0].folder}"
