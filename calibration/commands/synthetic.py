"""``edge synthetic``: rendered people with COCO annotations."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from calibration.people.synthetic import coco_annotations, crop_scene, scene
from edge.cli.options import count
from edge.files import write_bytes
from edge.picture import write_image

__all__ = ["add", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--out", "-o", type=Path, required=True, metavar="DIR")
    parser.add_argument("--count", type=count, default=16, help="pictures (default: 16)")
    parser.add_argument("--seed", type=int, default=7, help="same seed, same pictures")
    parser.add_argument("--crops", action="store_true", help="one person that fills a picture")


def run(arguments: argparse.Namespace) -> int:
    """Render a data set with COCO annotations."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    make = crop_scene if arguments.crops else scene
    scenes = [make(arguments.seed, index) for index in range(arguments.count)]
    annotations = coco_annotations(scenes)
    for made, entry in zip(scenes, annotations["images"], strict=True):
        write_image(arguments.out / entry["file_name"], made.image_bgr)
    write_bytes(arguments.out / "annotations.json", json.dumps(annotations).encode())
    people = len(annotations["annotations"])
    print(f"{arguments.count} pictures with {people} people in {arguments.out}")
    return 0
