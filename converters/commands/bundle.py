"""``edge bundle``: artifacts as models of other runtimes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from converters.commands.parity_pictures import parity_images
from converters.sdk.bundle import check_bundled, write_sdk_bundle
from edge.artifact import load_artifact
from edge.errors import ArtifactError, SpecError

__all__ = ["add", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    parser.add_argument(
        "--sdk",
        action="store_true",
        help="for the SDK of mmdeploy 1.3 (default)",
    )
    parser.add_argument(
        "--out",
        "-o",
        type=Path,
        required=True,
        metavar="DIR|FILE.zip",
        help="of several artifacts: DIR, with a folder of each in it",
    )
    parser.add_argument("--images", type=Path, help="folder of pictures to compare answers on")
    parser.add_argument("--allow-failed", action="store_true")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Write a bundle of each artifact; all are looked at before the first is written."""
    out: Path = arguments.out
    artifacts = [
        load_artifact(folder, allow_failed=arguments.allow_failed) for folder in arguments.artifacts
    ]
    for artifact in artifacts:
        check_bundled(artifact)
    paths = [out]
    if len(artifacts) > 1:
        if out.suffix.lower() == ".zip":
            raise SpecError(
                f"{out}: the SDK reads one model of a zip; bundle them one by one, or into a folder"
            )
        names = [artifact.spec.name for artifact in artifacts]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise SpecError(f"two of the artifacts are of {twice[0]}; bundle them into two folders")
        paths = [out / name for name in names]
    for path in paths:
        if path.exists():
            raise ArtifactError(f"{path}: exists already; remove it or choose another place")
    images = parity_images(arguments.images)
    made = [
        write_sdk_bundle(artifact, path, images)
        for artifact, path in zip(artifacts, paths, strict=True)
    ]
    if arguments.json:
        rows = [
            {
                "model": one.spec.name,
                "task": one.spec.task,
                "path": str(one.path),
                "size_bytes": one.size_bytes,
                "compared": one.compared,
            }
            for one in made
        ]
        print(json.dumps({"bundles": rows}, indent=2))
        return 0
    for one in made:
        print(f"{one.spec.name}: {one.path}, {one.size_bytes / 1e6:.2f} MB")
        print(f"  answers as the artifact does on {one.compared}")
    return 0
