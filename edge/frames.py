"""Where frames come from: pictures, folders, globs, videos, a camera.

Reads by OpenCV, as an optional extra.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from edge.errors import ImageError
from edge.picture import SUFFIXES, import_opencv

__all__ = ["VIDEO_SUFFIXES", "Source", "VideoReader", "check_video", "find_sources", "import_video"]

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp", ".ts")

# What a camera is taken to give that does not say how many frames a second.
_USUAL_FPS = 30.0


@dataclass(frozen=True)
class Source:
    """One thing to read frames from.

    ``text`` is the file's path, the camera's number or device, or the address; ``stem`` names what
    is written of it.
    """

    kind: Literal["picture", "video", "stream"]
    text: str

    @property
    def stem(self) -> str:
        """A file name without a suffix."""
        if self.text.isdigit():
            return f"camera{self.text}"
        path = urlsplit(self.text).path if "://" in self.text else self.text
        return Path(path).stem or "stream"


def find_sources(texts: Iterable[str]) -> list[Source]:
    """What is meant by paths, folders, globs, camera numbers and addresses, in their order.

    A folder stands for the pictures and videos in it, a glob that the shell has left for the files
    it matches, both sorted by name; a number that is no file's name for a camera. Raises
    ImageError for what does not exist and for a folder or glob with nothing to read.
    """
    found: list[Source] = []
    for text in texts:
        path = Path(text)
        if "://" in text:
            found.append(Source("stream", text))
        elif path.is_dir():
            found += _in_folder(path)
        elif path.is_char_device() or (text.isdigit() and not path.exists()):
            found.append(Source("stream", text))
        elif path.exists():
            found.append(_file(path))
        elif any(sign in text for sign in "*?["):
            # Of Path's globs none takes a whole path.
            matched = map(Path, sorted(glob.glob(text, recursive=True)))  # noqa: PTH207
            files = [_file(one) for one in matched if one.suffix.lower() in _READABLE]
            if not files:
                raise ImageError(f"{text}: no picture or video matches")
            found += files
        else:
            raise ImageError(f"{text}: no such file")
    return found


_READABLE = (*SUFFIXES, *VIDEO_SUFFIXES)


def _in_folder(folder: Path) -> list[Source]:
    inside = sorted(path for path in folder.iterdir() if path.suffix.lower() in _READABLE)
    if not inside:
        raise ImageError(
            f"{folder}: no image in this folder ({', '.join(SUFFIXES)}) and no video "
            f"({', '.join(VIDEO_SUFFIXES)})"
        )
    return [_file(path) for path in inside]


def _file(path: Path) -> Source:
    """A file is a video by its name, or by what is in it."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return Source("picture", str(path))
    if suffix in VIDEO_SUFFIXES or _opens(path):
        return Source("video", str(path))
    return Source("picture", str(path))


def _opens(path: Path) -> bool:
    capture = import_video().VideoCapture(str(path))
    try:
        return bool(capture.isOpened())
    finally:
        capture.release()


def import_video() -> Any:
    """OpenCV, told not to write messages of its own, which are no help beside the one line."""
    # Read when the first video is opened; -8 is FFmpeg's "quiet".
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2 = import_opencv()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


class VideoReader:
    """The frames of a video file, a camera or an address, upright, one at a time.

    ``fps`` is the frames a second that it claims, ``frame_count`` how many there are, None where
    nobody knows, ``live`` whether it is a camera, which has no end. Raises ImageError where it
    cannot be opened.
    """

    def __init__(self, source: Source) -> None:
        cv2 = import_video()
        self.source = source
        number = int(source.text) if source.text.isdigit() and source.kind == "stream" else None
        self._capture = cv2.VideoCapture(source.text if number is None else number)
        if not self._capture.isOpened():
            self._capture.release()
            raise ImageError(_why_not(source))
        # Phones turn the picture by a tag. This is OpenCV's default, but a build may differ.
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        self._position = cv2.CAP_PROP_POS_MSEC
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        # Files without an index answer with any number, often one far below 0.
        self.frame_count = int(count) if 0 < count < 1e9 else None
        self.live = source.kind == "stream" and self.frame_count is None
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else _USUAL_FPS
        self.read_count = 0

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.uint8], float]]:
        """Each frame (H, W, 3) uint8 BGR, and when it is shown, in seconds from the start."""
        while True:
            done, frame = self._capture.read()
            if not done:
                return
            at_s = self._capture.get(self._position) / 1000
            if not (math.isfinite(at_s) and at_s > 0):
                at_s = self.read_count / self.fps
            self.read_count += 1
            yield np.ascontiguousarray(frame, np.uint8), at_s

    @property
    def breaks_off(self) -> bool:
        """Whether a video that was read to its end had fewer frames than it says.

        By more than one and 2 %: many containers only estimate their number.
        """
        if self.frame_count is None:
            return False
        return self.read_count + 1 < self.frame_count * 0.98

    def close(self) -> None:
        """Let go of the file or camera."""
        self._capture.release()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.close()


def check_video(source: Source) -> None:
    """Raise ImageError where a video cannot be opened or has no frame at all."""
    with VideoReader(source) as reader:
        if next(iter(reader), None) is None:
            raise ImageError(_why_not(source))


def _why_not(source: Source) -> str:
    if source.kind == "stream":
        if "://" in source.text:
            return f"{source.text}: no video can be had from this address"
        where = f"camera {source.text}" if source.text.isdigit() else source.text
        return f"{where}: no camera can be opened there; see which exist with: ls /dev/video*"
    if Path(source.text).stat().st_size == 0:
        return f"{source.text}: an empty file"
    return (
        f"{source.text}: not a video, a damaged one, or one whose end is missing: record or copy "
        "it again"
    )
