"""How far a build is, how long it still takes, and the key that ends it early."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge.errors import ToolError
from edge.terminal import duration

__all__ = ["BuildProgress", "BuildSkippedError", "key_pressed"]

_COUNT = re.compile(r"\[(\d+)/(\d+)\]")
# A rate over less says nothing.
_LEAST_S, _LEAST_FILES = 5.0, 8


class BuildSkippedError(ToolError):
    """The user ended a build that can be done without; what was built is kept for the next one."""


class BuildProgress:
    """Called with every line of a build; shows ninja's ``[n/m]`` and the time left.

    In place on a terminal, a line every ten seconds elsewhere. Raises BuildSkippedError where
    ``skip`` says so. ``close`` ends the line in place.
    """

    def __init__(
        self,
        what: str,
        say: Callable[[str], None],
        skip: Callable[[], bool] | None = None,
        *,
        in_place: bool | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._say = say
        self._skip = skip
        self._clock_s = clock_s
        self._in_place = sys.stderr.isatty() if in_place is None else in_place
        self._period_s = 1.0 if self._in_place else 10.0
        self._begin_s = self._shown_s = clock_s()
        self._first: int | None = None
        self._open = False

    def __call__(self, line: str) -> None:
        """Hear one line of the build."""
        if self._skip and self._skip():
            self.close()
            raise BuildSkippedError(f"{self._what}: skipped")
        found = _COUNT.match(line)
        if not found:
            return
        done, total, now_s = int(found[1]), int(found[2]), self._clock_s()
        if self._first is None:
            # A build that goes on counts what was there: the speed is that of the new files.
            self._first = done - 1
        if now_s - self._shown_s < self._period_s:
            return
        self._shown_s = now_s
        text = f"{self._what}: {done} of {total}"
        passed_s, new = now_s - self._begin_s, done - self._first
        if passed_s >= _LEAST_S and new >= _LEAST_FILES:
            text += f", about {duration((total - done) * passed_s / new)} left"
        if self._in_place:
            hint = " (s: go on without it)" if self._skip else ""
            print(f"\r{text}{hint}\x1b[K", end="", file=sys.stderr, flush=True)
            self._open = True
        else:
            self._say(text)

    def close(self) -> None:
        """End the line, so that the next text starts on its own."""
        if self._open:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._open = False


@contextmanager
def key_pressed(key: str, file: int = 0) -> Iterator[Callable[[], bool] | None]:
    """Whether a key was pressed meanwhile; None where nobody sits at a terminal.

    ``file`` is the descriptor that is read. Ctrl-C goes on interrupting.
    """
    try:
        # A program in the background would be stopped for reading.
        here = os.isatty(file) and os.tcgetpgrp(file) == os.getpgrp()
    except OSError:
        here = False
    if not here:
        yield None
        return
    before = termios.tcgetattr(file)
    seen = False

    def pressed() -> bool:
        nonlocal seen
        while not seen and select.select([file], [], [], 0)[0]:
            typed = os.read(file, 64)
            if not typed:
                break
            seen = key.encode() in typed.lower()
        return seen

    tty.setcbreak(file)
    try:
        yield pressed
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)
