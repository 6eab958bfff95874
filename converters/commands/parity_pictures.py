"""The pictures that answers are compared on, as commands name them."""

from __future__ import annotations

from pathlib import Path

from calibration.data.images import (
    PARITY_SEED,
    folder_fingerprint,
    folder_images,
    synthetic_images,
)
from converters.job import FeedSource, NamedFeeds
from edge.detector import detector_feeds
from edge.media.inputs import tell
from edge.pose import pose_feeds
from edge.spec import ModelSpec

__all__ = ["parity_images"]


def parity_images(folder: Path | None) -> FeedSource:
    """The pictures of a folder, or rendered people; made when first asked for."""
    counts = {"pose": 8, "detection": 4, "one-stage": 4}

    heard: set[str] = set()

    def say(line: str) -> None:
        if line not in heard:  # every model asks for its feeds
            heard.add(line)
            tell(line)

    def feeds(spec: ModelSpec) -> list[NamedFeeds]:
        pose = spec.task == "pose"
        if folder:
            images = folder_images(folder, say)
        else:
            images = synthetic_images(counts[spec.task], crops=pose)
        return [
            NamedFeeds(
                image.name,
                pose_feeds(spec, image.image_bgr, image.boxes_xyxy[:1])[0]
                if pose
                else detector_feeds(spec, image.image_bgr)[0],
            )
            for image in images
        ]

    text = (
        folder_fingerprint(folder)
        if folder
        else f"synthetic people, seed {PARITY_SEED} "
        f"({counts['pose']} crops or {counts['detection']} scenes)"
    )
    return FeedSource(text, feeds)
