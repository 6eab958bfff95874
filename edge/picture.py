"""Reading, writing and drawing on image files, by OpenCV as an optional extra.

The runtime proper takes and gives arrays; nothing else of ``edge`` imports this module but the
command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge.errors import ImageError
from edge.files import write_bytes
from edge.session import import_engine
from edge.spec import KeypointSet

if TYPE_CHECKING:
    from edge.pipeline import Pose

__all__ = ["draw_poses", "find_images", "import_opencv", "read_image", "write_image"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

# Left limbs, right limbs, the middle: BGR.
_LEFT, _RIGHT, _MIDDLE, _BOX = (0, 170, 255), (255, 120, 30), (80, 220, 80), (230, 230, 230)
# Boxes of people who have a number, in turn.
_NUMBERED = (
    *((60, 76, 231), (219, 152, 52), (113, 204, 46), (15, 196, 241)),
    *((182, 89, 155), (156, 188, 26), (34, 126, 230), (190, 190, 190)),
)


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The image files among paths, folders replaced by the images in them, sorted by name.

    Raises ImageError for a path that does not exist and for a folder without an image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise ImageError(f"{path}: no image in this folder ({', '.join(SUFFIXES)})")
            found.extend(inside)
        elif path.exists():
            found.append(path)
        else:
            raise ImageError(f"{path}: no such file")
    return found


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """An image file as (H, W, 3) uint8 BGR, turned upright by its EXIF tag; or ImageError."""
    cv2 = import_opencv()
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(f"{path}: not an image, or a damaged one")
    return np.asarray(image, np.uint8)


def write_image(path: Path, image_bgr: npt.NDArray[np.uint8]) -> None:
    """Write an image by a temporary name; the suffix decides the format."""
    cv2 = import_opencv()
    done, data = cv2.imencode(path.suffix, image_bgr)
    if not done:
        raise ImageError(f"{path}: cannot be encoded as {path.suffix}")
    write_bytes(path, data.tobytes())


def draw_poses(
    image_bgr: npt.NDArray[np.uint8],
    poses: Sequence[Pose],
    keypoints: KeypointSet,
    score_threshold: float,
) -> npt.NDArray[np.uint8]:
    """A copy of an image with boxes, limbs and keypoints of a score at the threshold or above.

    A tracked person's box has the number and a colour by it, another's the score.
    """
    cv2 = import_opencv()
    drawn = image_bgr.copy()
    height, width = drawn.shape[:2]
    thickness = max(1, round(min(height, width) / 240))
    shift, one = 3, 8  # coordinates in eighths of a pixel
    for pose in poses:
        x1, y1, x2, y2 = (round(float(v)) for v in pose.box_xyxy)
        number = pose.track_id
        frame = _BOX if number is None else _NUMBERED[number % len(_NUMBERED)]
        cv2.rectangle(drawn, (x1, y1), (x2, y2), frame, thickness)
        if number is not None or pose.box_score < 1:
            label = f"{pose.box_score:.2f}" if number is None else str(number)
            at = (x1 + 2, max(y1 - 2 - 2 * thickness, 6 + 8 * thickness))
            font = (cv2.FONT_HERSHEY_SIMPLEX, 0.2 + 0.25 * thickness)
            for color, extra in (((0, 0, 0), 2), (frame, 0)):
                cv2.putText(drawn, label, at, *font, color, thickness + extra, cv2.LINE_AA)
        points = [(round(float(x) * one), round(float(y) * one)) for x, y in pose.keypoints[:, :2]]
        seen = pose.keypoints[:, 2] >= score_threshold
        for a, b in keypoints.skeleton:
            if seen[a] and seen[b]:
                color = _side_color(keypoints.keypoints[a], keypoints.keypoints[b])
                cv2.line(drawn, points[a], points[b], color, thickness + 1, cv2.LINE_AA, shift)
        for index, point in enumerate(points):
            if seen[index]:
                color = _side_color(keypoints.keypoints[index])
                radius = (thickness + 1) * one
                cv2.circle(drawn, point, radius, (255, 255, 255), -1, cv2.LINE_AA, shift)
                cv2.circle(drawn, point, radius - 4, color, -1, cv2.LINE_AA, shift)
    return drawn


def _side_color(*names: str) -> tuple[int, int, int]:
    if all(name.startswith("left") for name in names):
        return _LEFT
    if all(name.startswith("right") for name in names):
        return _RIGHT
    return _MIDDLE


def import_opencv() -> Any:
    """OpenCV, or EngineMissingError that names the extra to install."""
    return import_engine("cv2", "image")
