"""Videos written whole or not at all, and a window on the screen; OpenCV as an optional extra."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge.errors import EngineMissingError, ImageError
from edge.files import private_folder
from edge.media.mp4_times import FrameTimes
from edge.picture import import_opencv

__all__ = ["VideoFile", "Window", "fit_frame"]

Image = npt.NDArray[np.uint8]
Answer = Literal["none", "key", "quit"]


class VideoFile:
    """An MP4 file (MPEG-4 Part 2) that gets one frame after the other, each shown at its time.

    ``fps`` holds where no times are given, and for a single frame. The video has the size of its
    first frame, made even as the codec needs; frames of another size are put into that one. It
    appears under its own name when it is closed, whole: `close` raises ImageError when the file
    does not hold what was written, and `discard` leaves nothing.
    ``times_are_lost`` where the file turned out to be laid out in a way that has no place for them.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.fps = fps
        self.times_are_lost = False
        self._times = FrameTimes(1 / fps)
        self._cv2 = import_opencv()
        self._place = ExitStack()
        self._private = path
        self._writer = self._cv2.VideoWriter()
        self._size_hw = (0, 0)

    @property
    def frame_count(self) -> int:
        """How many frames were added."""
        return self._times.count

    def write(self, image_bgr: Image, at_s: float | None = None) -> None:
        """Add an (H, W, 3) uint8 BGR frame that is shown from ``at_s`` on, seconds from the start.

        Times must not go back.
        """
        if not self.frame_count:
            height, width = image_bgr.shape[:2]
            self._size_hw = (height + height % 2, width + width % 2)
            code = self._cv2.VideoWriter.fourcc(*"mp4v")
            size_wh = self._size_hw[::-1]
            if not self._open_private() or not self._writer.open(
                str(self._private), code, self.fps, size_wh
            ):
                self.discard()
                raise ImageError(
                    f"{self.path}: no video can be written there; is the folder writable, and can "
                    "this OpenCV write MP4 (opencv-python-headless of the registry can)?"
                )
        self._writer.write(fit_frame(image_bgr, self._size_hw))
        self._times.add(self.frame_count / self.fps if at_s is None else at_s)

    def _open_private(self) -> bool:
        try:
            folder = self._place.enter_context(private_folder(self.path.parent, self.path.stem))
        except OSError:
            return False
        # The suffix decides the container, so the private name has it too.
        self._private = folder / "video.mp4"
        return True

    def close(self) -> None:
        """Finish the file and give it its name; without a frame there is none."""
        self._writer.release()
        if not self.frame_count:
            return
        with self._place:
            held = self._held()
            # OpenCV does not tell of a write that failed.
            if held < self.frame_count:
                raise ImageError(
                    f"{self.path}: {held} of {self.frame_count} frames could be written: is there "
                    "room left on the disk?"
                )
            try:
                self._times.write(self._private)
            except ValueError:
                self.times_are_lost = True
            except OSError as error:
                raise ImageError(
                    f"{self.path}: cannot be written ({error.strerror}): is there room left on the "
                    "disk?"
                ) from None
            self._private.replace(self.path)

    def _held(self) -> int:
        if not self._private.exists():
            return 0
        capture = self._cv2.VideoCapture(str(self._private))
        try:
            count = capture.get(self._cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
        finally:
            capture.release()
        return max(0, int(count))

    def discard(self) -> None:
        """Leave nothing behind."""
        self._writer.release()
        self._place.close()

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def fit_frame(image_bgr: Image, size_hw: tuple[int, int]) -> Image:
    """A frame in a picture of another size, whole: padded with black, shrunk only if it must be.

    (H, W, 3) uint8 in and out; what fits stays as it is, in the top left corner.
    """
    height, width = image_bgr.shape[:2]
    if (height, width) == size_hw:
        return image_bgr
    scale = min(1.0, size_hw[0] / height, size_hw[1] / width)
    if scale < 1:
        cv2 = import_opencv()
        inner_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        image_bgr = cv2.resize(image_bgr, inner_wh, interpolation=cv2.INTER_AREA)
        height, width = image_bgr.shape[:2]
    fitted = np.zeros((*size_hw, 3), np.uint8)
    fitted[:height, :width] = image_bgr
    return fitted


class Window:
    """A window on the screen; EngineMissingError or ImageError says why there cannot be one."""

    def __init__(self, title: str) -> None:
        self._cv2 = import_opencv()
        self._title = title
        # Qt ends the whole process where it finds no screen, so it is looked for first.
        if sys.platform == "linux" and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            raise ImageError(
                "--show needs a screen and there is none here (DISPLAY is not set): leave it out"
            )
        try:
            self._cv2.namedWindow(title, self._cv2.WINDOW_NORMAL)
        except self._cv2.error:
            raise EngineMissingError(
                "--show: this OpenCV was built without windows: "
                "pip uninstall opencv-python-headless, then pip install opencv-python"
            ) from None

    def show(self, image_bgr: Image) -> Answer:
        """Show a picture, and what was pressed since the last: q, Esc and closing it are quit."""
        self._cv2.imshow(self._title, image_bgr)
        key = self._cv2.waitKey(1) & 0xFF
        visible = self._cv2.getWindowProperty(self._title, self._cv2.WND_PROP_VISIBLE)
        if key in (ord("q"), 27) or visible < 1:
            return "quit"
        return "none" if key == 0xFF else "key"

    def close(self) -> None:
        """Take the window off the screen."""
        self._cv2.destroyAllWindows()

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.close()
