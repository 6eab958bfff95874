"""A download's progress on a terminal, or in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["ProgressLine"]


class ProgressLine:
    """Prints how far a download is: in place on a terminal, a line every ten seconds elsewhere.

    Call it with bytes done and bytes in all (None: unknown). ``close`` ends the line in place.
    """

    def __init__(
        self,
        name: str,
        stream: TextIO | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._stream = stream or sys.stderr
        self._clock_s = clock_s
        self._in_place = self._stream.isatty()
        self._period_s = 0.2 if self._in_place else 10.0
        self._first: tuple[float, int] | None = None
        self._shown_s = 0.0
        self._open = False

    def __call__(self, done: int, total: int | None) -> None:
        """Show the state, unless one was shown a moment ago."""
        now_s = self._clock_s()
        if self._first is None:
            # A resumed file starts with what was there: the speed is that of the new bytes.
            self._first = (now_s, done)
            self._shown_s = now_s - (self._period_s if self._in_place else 0.0)
        if now_s - self._shown_s < self._period_s and done != total:
            return
        self._shown_s = now_s
        self._show(self._text(done, total, now_s - self._first[0], done - self._first[1]))

    def close(self) -> None:
        """End the line, so that the next text starts on its own."""
        if self._open:
            self._stream.write("\n")
            self._open = False

    def _text(self, done: int, total: int | None, passed_s: float, new_bytes: int) -> str:
        text = f"{self._name}: {done / 1e6:.1f}"
        text += f" of {total / 1e6:.1f} MB" if total else " MB"
        if passed_s > 0 and new_bytes > 0:
            speed = new_bytes / passed_s
            text += f", {speed / 1e6:.1f} MB/s"
            if total:
                text += f", {(total - done) / speed:.0f} s left"
        return text

    def _show(self, text: str) -> None:
        # \x1b[K clears what a longer line left behind.
        self._stream.write(f"\r{text}\x1b[K" if self._in_place else f"{text}\n")
        self._stream.flush()
        self._open = self._in_place
