"""``edge assets``: artifacts as an Android app takes them."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from edge.artifact import MANIFEST, Artifact, load_artifact, read_manifest
from edge.errors import ArtifactError, SpecError
from targets.app.assets import weight_table, write_assets
from targets.app.manifest import arithmetic_of
from targets.profile import Profile, load_profile

__all__ = ["add", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "artifacts",
        nargs="*",
        type=Path,
        metavar="ARTIFACT",
        help="folders (default: what `edge convert --target TARGET` left of its variants)",
    )
    parser.add_argument("--target", default="android", help="default: android")
    parser.add_argument(
        "--build", type=Path, default=Path("build"), metavar="DIR", help="default: build"
    )
    parser.add_argument(
        "--out", "-o", type=Path, metavar="DIR", help="default: dist/TARGET; written anew"
    )
    parser.add_argument(
        "--classes",
        metavar="CLASS,...",
        help="the detector's classes that count in the app, by number or name "
        "(default: person, or else 0)",
    )
    parser.add_argument(
        "--max-mb",
        type=_megabytes,
        metavar="N",
        help="fail, with a table of what weighs what, where the assets are larger",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the folder and say what is in it."""
    profile = load_profile(arguments.target)
    if profile.kind != "android":
        raise SpecError(f"{arguments.target} is no Android target; assets are for apps")
    folders = arguments.artifacts or _converted(arguments.build / profile.name, profile, arguments)
    artifacts: list[Artifact] = [load_artifact(folder) for folder in folders]
    out: Path = arguments.out or Path("dist") / arguments.target
    if arguments.classes is not None and all(one.spec.task != "detection" for one in artifacts):
        raise SpecError("--classes are those of a detector, and none is among the artifacts")
    weights = write_assets(artifacts, out, max_mb=arguments.max_mb, classes=arguments.classes)
    for artifact in artifacts:
        arithmetic = arithmetic_of(artifact)
        if arithmetic is not None:
            text = artifact.arm.get("text") or "ARM: not checked"
            print(f"{artifact.spec.name}: computes in {arithmetic} ({text})")
    print(f"\n{out}:\n{weight_table(weights)}")
    print(
        f"next: {out / 'edgepose-assets.aar'} into the app's libs folder, "
        f"{out / 'gradle/edgepose.gradle.kts'} beside its build file, {out / 'example'} to begin "
        "with (docs/android.md)"
    )
    return 0


def _converted(folder: Path, profile: Profile, arguments: argparse.Namespace) -> list[Path]:
    """The artifacts of a target's own variants."""
    wanted = {str(variant) for variant in profile.variants}
    found = [
        path.parent
        for path in sorted(folder.glob(f"*/{MANIFEST}"))
        if read_manifest(path.parent).get("variant") in wanted
    ]
    if not found:
        raise ArtifactError(
            f"{folder}: no artifact of {', '.join(sorted(wanted))}; make them with "
            f"`edge convert --target {arguments.target}`, or name folders"
        )
    return found


def _megabytes(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise argparse.ArgumentTypeError(f"more than 0, not {text}")
    return value
