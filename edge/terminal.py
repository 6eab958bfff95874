"""What a terminal shows while something runs, and tables of text."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing import Self

__all__ = ["CountLine", "StatusLine", "clock_text", "columns", "duration", "say"]

_REDRAW_S = 0.2
# Clears what a longer line left behind.
_CLEAR = "\r\x1b[K"


def say(text: str) -> None:
    """Print a line on stderr; on a terminal in the place of one that is being written over."""
    start = _CLEAR if sys.stderr.isatty() else ""
    print(f"{start}{text}", file=sys.stderr, flush=True)


class StatusLine:
    """One line that is written over on a terminal, and taken away at the end.

    Elsewhere a line every ``log_s`` seconds; none where that is None.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        *,
        log_s: float | None = None,
    ) -> None:
        self._stream = stream or sys.stderr
        self._clock_s = clock_s
        self._on_terminal = self._stream.isatty()
        self._period_s = _REDRAW_S if self._on_terminal else log_s
        self._shown_s = clock_s()
        self._drawn = False

    def show(self, text: str) -> None:
        """Show a text in the place of the one before."""
        if self._period_s is None:
            return
        self._shown_s = self._clock_s()
        self._stream.write(f"{_CLEAR}{text}" if self._on_terminal else f"{text}\n")
        self._stream.flush()
        self._drawn = self._on_terminal

    def is_due(self) -> bool:
        """Whether the last text was shown long enough ago for another one."""
        return self._period_s is not None and self._clock_s() - self._shown_s >= self._period_s

    def close(self) -> None:
        """Take the line away: what comes next starts at the left."""
        if self._drawn:
            self._stream.write(_CLEAR)
            self._stream.flush()
            self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class CountLine(StatusLine):
    """How many of how many are done, how fast, and how long the rest will take.

    ``unit`` names what is counted, each of them ``scale`` of what is given: bytes with a scale of
    1e6 are MB.
    """

    def __init__(
        self,
        name: str,
        unit: str = "frames",
        *,
        scale: float = 1.0,
        stream: TextIO | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        log_s: float | None = None,
    ) -> None:
        super().__init__(stream, clock_s, log_s=log_s)
        self._name, self._unit, self._scale = name, unit, scale
        self._begin_s = clock_s()
        self._first: int | None = None

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show the state, unless one was shown a moment ago; nothing more once all is done.

        ``total`` None: nobody knows.
        """
        if self._first is None:
            # What goes on counts what was there: the speed is that of what is new.
            self._first = done if done > 1 else 0
        if total is not None and done >= total:
            self.close()
        elif self.is_due():
            self.show(self._text(done, total))

    def per_second(self, done: int) -> float:
        """The speed since the start, in units; 0 before the first."""
        passed_s = self._clock_s() - self._begin_s
        new = done - (self._first or 0)
        return new / self._scale / passed_s if passed_s > 0 and new > 0 else 0.0

    def _text(self, done: int, total: int | None) -> str:
        speed = self.per_second(done)
        text = f"{self._name}: {self._figure(done)}"
        text += f" of {self._figure(total)} {self._unit}" if total else f" {self._unit}"
        if speed:
            text += f", {speed:.1f} {self._unit}/s"
            if total:
                text += f", {clock_text((total - done) / self._scale / speed)} left"
        return text

    def _figure(self, count: int) -> str:
        return f"{count}" if self._scale == 1 else f"{count / self._scale:.1f}"


def duration(seconds: float) -> str:
    """A rough time in words, like ``40 s`` or ``3 min``."""
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def clock_text(seconds: float) -> str:
    """Seconds as 0:07, 3:30 or 1:02:03."""
    minutes, left = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows of cells as lines of text, each column as wide as its widest cell.

    ``right`` are the columns that are set to the right, as numbers are.
    """
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
