"""Where frames come from: pictures, folders, globs, videos, a camera.

Reads by OpenCV, as an optional extra.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from edge.digits import parse_digits
from edge.errors import ImageError
from edge.media.inputs import Say, kind_or_refuse, sort_out, unheard
from edge.picture import import_opencv, quiet_opencv

__all__ = ["Source", "VideoReader", "check_video", "find_sources"]

# WebM's clock and that of many recorders, in the place of a rate.
_CLOCK_FPS = 1000.0
# Of a file that does not say how many frames it has.
_TRIES = 100
# Less far back is a frame out of turn.
_NEW_START_S = 1.0
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
        if parse_digits(self.text) is not None:
            return f"camera{self.text}"
        path = urlsplit(self.text).path if "://" in self.text else self.text
        return Path(path).stem or "stream"


def find_sources(texts: Iterable[str], say: Say = unheard) -> list[Source]:
    """What is meant by paths, folders, globs, camera numbers and addresses, in their order.

    A folder stands for the pictures and videos in it, a glob that the shell has left for the files
    it matches, both sorted by name; a number that is no file's name for a camera. What a file is,
    is told by its first bytes. ``say`` hears what a folder or glob leaves out. Raises ImageError
    for what does not exist or is not read, and for a folder or glob with nothing to read.
    """
    found: list[Source] = []
    for text in texts:
        path = Path(text)
        if "://" in text:
            found.append(Source("stream", text))
        elif path.is_dir():
            inside = sort_out(text, path.iterdir(), say)
            if not inside:
                raise ImageError(f"{path}: no image in this folder and no video")
            found += [Source(kind, str(one)) for kind, one in inside]
        elif path.is_char_device() or (parse_digits(text) is not None and not path.exists()):
            found.append(Source("stream", text))
        elif path.exists():
            found.append(Source(kind_or_refuse(path), text))
        elif any(sign in text for sign in "*?["):
            # Of Path's globs none takes a whole path.
            matched = map(Path, glob.glob(text, recursive=True))  # noqa: PTH207
            files = sort_out(text, matched, say, folders_apart="**" in text)
            if not files:
                raise ImageError(f"{text}: no picture or video matches")
            found += [Source(kind, str(one)) for kind, one in files]
        else:
            raise ImageError(f"{text}: no such file")
    return found


class VideoReader:
    """The frames of a video file, a camera or an address, upright, one at a time.

    ``fps`` is the frames a second that it claims, ``frame_count`` how many there are, None where
    nobody knows, ``live`` whether it is a camera, which has no end; ``lost_count`` frames so far
    could not be decoded and were left out. Raises ImageError where it cannot be opened.
    """

    def __init__(self, source: Source) -> None:
        cv2 = import_opencv()
        self.source = source
        number = parse_digits(source.text) if source.kind == "stream" else None
        # A colon in a file's name is none behind a protocol.
        text = str(Path(source.text).absolute()) if source.kind == "video" else source.text
        with self._quiet():
            self._capture = cv2.VideoCapture(text if number is None else number)
        if not self._capture.isOpened():
            self._capture.release()
            raise ImageError(_why_not(source))
        # Phones turn the picture by a tag. This is OpenCV's default, but a build may differ.
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        self._position = cv2.CAP_PROP_POS_MSEC
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        # Files without an index answer with any number, often one far below 0.
        known = 0 < count < 1e9
        self.live = source.kind == "stream" and not known
        # A clock of a millisecond is no rate, and a count that was worked out from it is none.
        believed = math.isfinite(fps) and 0 < fps < _CLOCK_FPS
        self.fps = fps if believed else _USUAL_FPS
        self.frame_count = int(count) if known and believed else None
        self.length_s = count / fps if known and math.isfinite(fps) and fps > 0 else None
        self.read_count = self.lost_count = 0
        self._stamped = False
        self._last_s = self._shift_s = 0.0

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.uint8], float]]:
        """Each frame (H, W, 3) uint8 BGR, and when it is shown, in seconds from the start.

        The times are those of the frames, and never go back: a recording that was put together
        from several goes on behind the one before.
        """
        failed = 0
        while True:
            with self._quiet():
                done, frame = self._capture.read()
            if not done:
                # One bad frame ends nothing: what comes after it can be read.
                failed += 1
                if failed > self._tries():
                    return
                continue
            self.lost_count += failed
            failed = 0
            self._last_s = self._time_s()
            self.read_count += 1
            yield np.ascontiguousarray(frame, np.uint8), self._last_s

    def _quiet(self) -> AbstractContextManager[None]:
        """Of a file; a camera may keep one waiting, and all other messages with it."""
        return quiet_opencv() if self.source.kind == "video" else nullcontext()

    def _tries(self) -> int:
        """How often to read on after a failure: of a file as often as frames are missing."""
        if self.source.kind != "video" or not Path(self.source.text).is_file():
            return 0
        missing = _TRIES if self.frame_count is None else self.frame_count - self.read_count
        return max(0, min(missing, 10 * _TRIES))

    def _time_s(self) -> float:
        at_s = float(self._capture.get(self._position)) / 1000
        known = math.isfinite(at_s) and at_s >= 0
        self._stamped |= known and at_s > 0
        if not self._stamped:  # where no frame has a time, all have 0
            return self.read_count / self.fps
        if not known:
            return self._last_s + self._gap_s
        if at_s + self._shift_s < self._last_s - _NEW_START_S:
            self._shift_s = self._last_s + self._gap_s - at_s
        return max(at_s + self._shift_s, self._last_s)

    @property
    def codec(self) -> str:
        """The four signs of the codec, ``AV01`` say; empty where they are not known."""
        code = int(self._capture.get(import_opencv().CAP_PROP_FOURCC))
        text = (code & 0xFFFFFFFF).to_bytes(4, "little").decode("ascii", "replace")
        return text if text.isalnum() and text.isascii() else ""

    @property
    def _gap_s(self) -> float:
        """From frame to frame in the mean, of what was read."""
        return self._last_s / (self.read_count - 1) if self.read_count > 1 else 1 / self.fps

    @property
    def breaks_off(self) -> str:
        """Where a video that was read to its end breaks off; empty where it does not.

        Both frames and time must be missing, by more than three frames and 2 %: many containers
        only estimate their number, some count the time before the first frame (an encoder that
        looks ahead starts late), and frames that a camera has dropped are counted by others.
        """
        ended_s = self._last_s + 4 * self._gap_s
        if self.length_s is None or ended_s >= self.length_s * 0.98:
            return ""
        if self.frame_count is None:
            return f"after {self._last_s:.1f} of its {self.length_s:.1f} s"
        if self.read_count + 3 >= self.frame_count * 0.98:
            return ""
        return f"after {self.read_count} of its {self.frame_count} frames"

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
            raise ImageError(_why_not(source, reader.codec))


def _why_not(source: Source, codec: str = "") -> str:
    if source.kind == "stream":
        if "://" in source.text:
            return f"{source.text}: no video can be had from this address"
        where = source.text if parse_digits(source.text) is None else f"camera {source.text}"
        return f"{where}: no camera can be opened there; see which exist with: ls /dev/video*"
    if Path(source.text).stat().st_size == 0:
        return f"{source.text}: an empty file"
    if codec:  # the file's head was read, and not one picture
        return (
            f"{source.text}: none of its pictures can be decoded: damaged, or this OpenCV has no "
            f"decoder for {codec}; save it as H.264"
        )
    return (
        f"{source.text}: not a video (sound alone?), a damaged one, or one whose end is missing: "
        "record or copy it again"
    )
