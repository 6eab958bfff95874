"""What paths, folders and patterns stand for: pictures and videos, and what is left out of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Literal

from edge.errors import EngineMissingError, ImageError
from edge.media.signatures import file_kind
from edge.picture import import_opencv, quiet_opencv
from edge.terminal import say

__all__ = [
    "SUFFIXES",
    "VIDEO_SUFFIXES",
    "Kind",
    "Say",
    "find_images",
    "kind_or_refuse",
    "sort_out",
    "tell",
    "unheard",
]

Kind = Literal["picture", "video"]
Say = Callable[[str], None]

# What a name promises: such files are never left out, but refused where they are something else.
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp", ".ts")

_SHOWN = 5
_PICTURES: tuple[Kind, ...] = ("picture",)


def unheard(line: str) -> None:
    """Where nobody listens to notes."""
    del line


def tell(line: str) -> None:
    """A note on standard error, as the command line says them."""
    say(f"note: {line}")


def find_images(paths: Iterable[Path], say: Say = unheard) -> list[Path]:
    """The image files among paths, folders replaced by the images in them, sorted by name.

    What a file is, is told by its first bytes. ``say`` hears one line about what a folder holds
    beside them. Raises ImageError for a path that does not exist or is no picture, and for a
    folder without one.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sort_out(str(path), path.iterdir(), say, wanted=_PICTURES)
            if not inside:
                raise ImageError(f"{path}: no image in this folder")
            found += [one for _, one in inside]
        elif path.exists():
            if kind_or_refuse(path) == "video":
                raise ImageError(f"{path}: a video; a picture is wanted here")
            found.append(path)
        else:
            raise ImageError(f"{path}: no such file")
    return found


def sort_out(
    name: str,
    paths: Iterable[Path],
    say: Say,
    *,
    wanted: Collection[Kind] = ("picture", "video"),
    folders_apart: bool = False,
) -> list[tuple[Kind, Path]]:
    """The pictures and videos among what a folder or pattern ``name`` holds, sorted by path.

    ``say`` hears what is left out, and why; folders not, if their files are ``folders_apart``.
    """
    found: list[tuple[Kind, Path]] = []
    left_out: list[str] = []
    for path in sorted(paths):
        if path.is_dir():
            if not folders_apart:
                left_out.append(f"{path.name} (a folder)")
            continue
        kind, why = _look_in_folder(path)
        if kind in wanted and kind is not None:
            found.append((kind, path))
        else:
            left_out.append(f"{path.name} ({why or kind or 'neither picture nor video'})")
    if left_out:
        shown = ", ".join(left_out[:_SHOWN])
        more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        say(f"{name}: left out: {shown}{more}")
    return found


def _look_in_folder(path: Path) -> tuple[Kind | None, str]:
    """The same as `_look`, where what a name promises is kept for whoever reads it to refuse."""
    if not path.is_file():
        return None, "no file"
    try:
        kind, why = _look(path)
        if kind is None and not why and path.stat().st_size == 0:
            why = "an empty file"
    except (ImageError, OSError):
        kind, why = None, "cannot be read"
    if kind is None and why in ("", "an empty file", "cannot be read"):
        kind = _promised(path)
    return kind, why


def kind_or_refuse(path: Path) -> Kind:
    """What a single file is; ImageError where it is nothing that is read."""
    if path.is_fifo():  # cannot be looked into without taking from it
        return "video"
    kind, why = _look(path)
    if kind is not None:
        return kind
    if why:
        raise ImageError(f"{path}: {why}: save it as JPEG or PNG")
    # Damaged; whoever reads it says so.
    if promised := _promised(path):
        return promised
    if path.stat().st_size == 0:
        raise ImageError(f"{path}: an empty file")
    if _opens(path):
        return "video"
    raise ImageError(f"{path}: neither a picture nor a video, or of a kind that is not read")


def _promised(path: Path) -> Kind | None:
    suffix = path.suffix.lower()
    return "video" if suffix in VIDEO_SUFFIXES else "picture" if suffix in SUFFIXES else None


def _look(path: Path) -> tuple[Kind | None, str]:
    """What a file is, or why it is not read; neither where its bytes tell nothing."""
    found = file_kind(path)
    if found.kind == "video":
        return "video", ""
    if found.kind == "other":
        return None, f"{found.name} is not read"
    try:
        # Which decoders there are depends on the version and the build.
        is_read = import_opencv().haveImageReader(str(path))
    except EngineMissingError:
        is_read = found.kind == "picture"  # told where it is read
    if is_read:
        return "picture", ""
    return None, f"{found.name} is not read by this OpenCV" if found.kind == "picture" else ""


def _opens(path: Path) -> bool:
    """Whether FFmpeg finds frames in bytes that nothing else tells. It draws text as well.

    One frame alone is a picture of a kind that no decoder of pictures reads.
    """
    with path.open("rb") as stream:
        head = stream.read(4096)
    if b"\x00" not in head:
        return False
    cv2 = import_opencv()
    with quiet_opencv():
        capture = cv2.VideoCapture(str(path.absolute()))
    try:
        return bool(capture.isOpened() and capture.read()[0] and capture.read()[0])
    finally:
        capture.release()
