"""Reading, writing and drawing on image files, by OpenCV as an optional extra.

The runtime proper takes and gives arrays; nothing else of ``edge`` imports this module but the
command line.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge.errors import ImageError
from edge.files import write_bytes
from edge.media.containers import count_pictures, is_cut_png, stored_orientation
from edge.media.signatures import kind_of
from edge.quiet import quietly
from edge.session import import_engine
from edge.spec import KeypointSet

if TYPE_CHECKING:
    from edge.pipeline import Pose

__all__ = [
    "draw_poses",
    "first_taken",
    "import_opencv",
    "quiet_opencv",
    "read_image",
    "write_image",
    "written_name",
]

# Left limbs, right limbs, the middle: BGR.
_LEFT, _RIGHT, _MIDDLE = (0, 170, 255), (255, 120, 30), (80, 220, 80)
# Boxes of people in turn: by number, or else by their order in the picture.
_NUMBERED = (
    *((60, 76, 231), (219, 152, 52), (113, 204, 46), (15, 196, 241)),
    *((182, 89, 155), (156, 188, 26), (34, 126, 230), (190, 190, 190)),
)


# How OpenCV and the libraries in it begin lines about a file.
_LOGS = (
    *(b"[ WARN:", b"[ERROR:", b"[ INFO:", b"libpng ", b"\n"),
    *(b"Warning: ", b"Corrupt JPEG", b"Premature end", b"Invalid ", b"Unknown Adobe"),
    *(b"Unexpected ", b"Inconsistent progression", b"Application transferred"),
)
# 16384 x 16384; a damaged header of some bytes can claim far more, and be believed.
_MOST_PIXELS = 1 << 28
_TURNED_HERE = ("JPEG", "PNG", "WebP", "AVIF")
# Suffix -> the one by which OpenCV knows the format, of those that are written under their own.
_WRITTEN = {
    **{one: one for one in (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jp2")},
    ".jfif": ".jpg",
    ".jpe": ".jpg",
    ".jif": ".jpg",
    ".dib": ".bmp",
}


def read_image(path: Path, several: dict[str, int] | None = None) -> npt.NDArray[np.uint8]:
    """An image file as (H, W, 3) uint8 BGR, upright, whatever its name; or ImageError.

    Of an animation or a file of several pages it is the first picture: ``several`` then gets the
    file's name and how many there are.
    """
    cv2 = import_opencv()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise ImageError(f"{path}: not an image, but an empty file")
    found = kind_of(data)
    if found.kind == "other":
        raise ImageError(f"{path}: {found.name} is not read: save it as JPEG or PNG")
    if found.kind == "video":
        raise ImageError(f"{path}: a video ({found.name}); a picture is wanted here")
    # Not all versions of OpenCV turn all of these, and none may do it twice.
    turn = found.name in _TURNED_HERE
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if turn else 0)
    try:
        with quiet_opencv():
            cut = found.name == "PNG" and is_cut_png(data)
            image = None if cut else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        if not found.name:
            raise ImageError(f"{path}: not an image, or a damaged one")
        raise ImageError(
            f"{path}: not an image that can be read: the {found.name} is damaged, cut short, too "
            "large, or of a kind that this OpenCV does not know; save it anew as JPEG or PNG"
        )
    if several is not None and (count := count_pictures(data)) > 1:
        several[path.name] = count
    image = np.asarray(image, np.uint8)
    return _upright(image, stored_orientation(data)) if turn else image


def quiet_opencv() -> AbstractContextManager[None]:
    """Without the libraries' lines, which are no help beside the one of the kit.

    Not in other threads than the main one: of many that read at once one would hold back what all
    of the program says.
    """
    if threading.current_thread() is threading.main_thread():
        return quietly(*_LOGS)
    return nullcontext()


def first_taken(several: Mapping[str, int]) -> str:
    """A line about files of which only the first picture was taken; empty where there is none."""
    shown = ", ".join(f"{name} ({count})" for name, count in list(several.items())[:5])
    if len(several) < 2:
        return "".join(f"{n}: the first of its {c} pictures is taken" for n, c in several.items())
    more = f" and {len(several) - 5} more" if len(several) > 5 else ""
    return f"of files that hold several pictures the first is taken: {shown}{more}"


def _upright(image: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Turned and mirrored by EXIF's orientation, 1 to 8 (CIPA DC-008, 4.6.5.1.6)."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def written_name(path: Path) -> str:
    """What a picture is called when it is written: as it was, if that format is written.

    Otherwise PNG, with that suffix behind the whole name.
    """
    return path.name if path.suffix.lower() in _WRITTEN else f"{path.name}.png"


def write_image(path: Path, image_bgr: npt.NDArray[np.uint8]) -> None:
    """Write an image whole or not at all; the suffix decides the format."""
    cv2 = import_opencv()
    suffix = _WRITTEN.get(path.suffix.lower(), path.suffix)
    try:
        with quiet_opencv():
            done, data = cv2.imencode(suffix, image_bgr)
    except cv2.error:
        done = False
    if not done:
        raise ImageError(f"{path}: cannot be encoded as {path.suffix or 'a name without a suffix'}")
    write_bytes(path, data.tobytes())


def draw_poses(
    image_bgr: npt.NDArray[np.uint8],
    poses: Sequence[Pose],
    keypoints: KeypointSet,
    score_threshold: float,
) -> npt.NDArray[np.uint8]:
    """A copy of an image with boxes, limbs and keypoints of a score at the threshold or above.

    A tracked person's label is the number, another's the score of the box. Labels are filled with
    the colour of their box, lie over all people, and move where they would cover each other.
    """
    cv2 = import_opencv()
    drawn = image_bgr.copy()
    height, width = drawn.shape[:2]
    thickness = max(1, round(min(height, width) / 240))
    shift, one = 3, 8  # coordinates in eighths of a pixel
    labels = []
    for index, pose in enumerate(poses):
        x1, y1, x2, y2 = (round(float(v)) for v in _drawable(pose.box_xyxy))
        number = pose.track_id
        frame = _NUMBERED[(index if number is None else number) % len(_NUMBERED)]
        cv2.rectangle(drawn, (x1, y1), (x2, y2), frame, thickness)
        if number is not None or pose.box_score < 1:
            label = f"{pose.box_score:.2f}" if number is None else str(number)
            labels.append((label, x1, y1, frame))
        places = _drawable(pose.keypoints[:, :2])
        points = [(round(float(x) * one), round(float(y) * one)) for x, y in places]
        seen = (pose.keypoints[:, 2] >= score_threshold) & np.isfinite(pose.keypoints).all(axis=1)
        for a, b in keypoints.skeleton:
            if seen[a] and seen[b]:
                color = _side_color(keypoints.keypoints[a], keypoints.keypoints[b])
                cv2.line(drawn, points[a], points[b], color, thickness + 1, cv2.LINE_AA, shift)
        for name, point, is_seen in zip(keypoints.keypoints, points, seen, strict=True):
            if is_seen:
                color = _side_color(name)
                radius = (thickness + 1) * one
                cv2.circle(drawn, point, radius, (255, 255, 255), -1, cv2.LINE_AA, shift)
                cv2.circle(drawn, point, radius - 4, color, -1, cv2.LINE_AA, shift)
    _draw_labels(cv2, drawn, labels, thickness)
    return drawn


def _draw_labels(
    cv2: Any,
    drawn: npt.NDArray[np.uint8],
    labels: Sequence[tuple[str, int, int, tuple[int, int, int]]],
    thickness: int,
) -> None:
    """Draw labels (text, x and y of the box's corner, BGR), apart where there is room."""
    height, width = drawn.shape[:2]
    font = (cv2.FONT_HERSHEY_SIMPLEX, 0.2 + 0.25 * thickness)
    pad = 1 + thickness
    taken: list[tuple[int, int, int, int]] = []
    for text, x, y, color in labels:
        (wide, high), below = cv2.getTextSize(text, *font, thickness)
        wide, high = wide + 2 * pad, high + below + 2 * pad
        place = _free_place(x, y - high, wide, high, taken, (width, height))
        taken.append(place)
        left, top, right, bottom = place
        cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), color, -1)
        # WCAG 2's relative luminance, gamma as 2.2: at 0.179 black and white contrast alike.
        light = np.dot((0.0722, 0.7152, 0.2126), (np.array(color) / 255) ** 2.2)
        ink = (0, 0, 0) if light > 0.179 else (255, 255, 255)
        at = (left + pad, bottom - pad - below)
        cv2.putText(drawn, text, at, *font, ink, thickness, cv2.LINE_AA)


def _free_place(
    x: int,
    y: int,
    wide: int,
    high: int,
    taken: Sequence[tuple[int, int, int, int]],
    size: tuple[int, int],
) -> tuple[int, int, int, int]:
    """The place (x1, y1, x2, y2) nearest to (x, y), inside, that covers no other label."""
    x, y = max(0, min(x, size[0] - wide)), max(0, min(y, size[1] - high))

    def covers(left: int, top: int) -> bool:
        return any(
            left < c and a < left + wide and top < d and b < top + high for a, b, c, d in taken
        )

    if not covers(x, y):
        return x, y, x + wide, y + high
    # A nearest free place touches the edges of others.
    columns = {x, *(edge for a, _, c, _ in taken for edge in (a - wide, c))}
    rows = {y, *(edge for _, b, _, d in taken for edge in (b - high, d))}
    places = sorted(
        (abs(left - x) + abs(top - y), left, top)
        for left in columns
        for top in rows
        if 0 <= left <= size[0] - wide and 0 <= top <= size[1] - high
    )
    x, y = next(((left, top) for _, left, top in places if not covers(left, top)), (x, y))
    return x, y, x + wide, y + high


def _drawable(places: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same places as numbers that OpenCV takes: finite, and far outside at most."""
    return np.clip(np.nan_to_num(places, nan=0.0), -1e5, 1e5)


def _side_color(*names: str) -> tuple[int, int, int]:
    if all(name.startswith("left") for name in names):
        return _LEFT
    if all(name.startswith("right") for name in names):
        return _RIGHT
    return _MIDDLE


def import_opencv() -> Any:
    """OpenCV, or EngineMissingError that names the extra to install.

    It is told not to write messages of its own, which are no help beside the one line.
    """
    # Read when the first video is opened; -8 is FFmpeg's "quiet".
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # Read when OpenCV is loaded, which some program around this one may have done already.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(_MOST_PIXELS))
    cv2 = import_engine("cv2", "image")
    # Up to OpenCV 4 it is there, from 5 on here; 0 is "silent".
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_level(0)
    return cv2
