"""Images to compare and calibrate on: the user's folder, or rendered people."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge.errors import ImageError
from edge.picture import find_images, read_image

__all__ = ["LabelledImage", "folder_fingerprint", "folder_images", "synthetic_images"]

# Apart from the seeds that the demo model was trained (1) and is tested (2) with.
PARITY_SEED = 7


@dataclass(frozen=True)
class LabelledImage:
    """A picture and the people in it: (H, W, 3) uint8 BGR and boxes (N, 4) x1, y1, x2, y2 in px."""

    name: str
    image_bgr: npt.NDArray[np.uint8]
    boxes_xyxy: npt.NDArray[np.float32]


def synthetic_images(count: int, *, seed: int = PARITY_SEED, crops: bool) -> list[LabelledImage]:
    """Rendered people: one person that fills the picture (``crops``), or whole scenes."""
    from calibration.synthetic import crop_scene, scene

    images = []
    for index in range(count):
        made = crop_scene(seed, index) if crops else scene(seed, index)
        boxes = np.stack([person.box_xyxy for person in made.people])
        images.append(LabelledImage(f"synthetic {seed}/{index}", made.image_bgr, boxes))
    return images


def folder_images(folder: Path) -> list[LabelledImage]:
    """A folder's pictures, each wholly one box. ImageError when it holds none."""
    images = []
    for path in find_images([folder]):
        image = read_image(path)
        height, width = image.shape[:2]
        images.append(
            LabelledImage(path.name, image, np.array([[0, 0, width, height]], np.float32))
        )
    return images


def folder_fingerprint(folder: Path) -> str:
    """What a folder's pictures are, for the record: their number and a hash of their bytes."""
    paths = find_images([folder])
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    return f"{len(paths)} images of {folder.name}, sha256 {digest.hexdigest()[:16]}"
