"""Text of others for the eye: no control character reaches a terminal, a page or a table.

Names of devices, models, files and keypoints, and what programs and hosts say, may hold the
sequences that move a terminal's cursor, colour it or rewrite what stands there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO, cast

__all__ = ["harmless_streams", "printable"]

# Control characters (C0, DEL, C1), what reverses the direction of writing, line and paragraph
# separators, halves of characters. https://trojansource.codes, CVE-2021-42574
_UNSAFE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_UNSAFE_IN_LINES = re.compile(_UNSAFE.pattern.replace("\x0a-", "\x0b-"))
# What progress lines begin and end with.
_REDRAWING = re.compile("\r?(?:\x1b\\[K)?")


def printable(text: str, *, lines: bool = False) -> str:
    """The text with what is not meant for the eye written as an escape, like that of Python.

    ``lines`` keeps the ends of lines. Tabs stay, and so do letters of every script.
    """
    return (_UNSAFE_IN_LINES if lines else _UNSAFE).sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


class _Harmless:
    """A stream that writes only what is for the eye, and what redraws a line of a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        start = _REDRAWING.match(text)
        head = start[0] if start else ""
        tail = "\r" if text.endswith("\r") and len(head) < len(text) else ""
        if text.endswith("\x1b[K") and len(head) < len(text):
            tail = "\x1b[K"
        middle = text[len(head) : len(text) - len(tail)]
        if not self._stream.isatty():
            head, tail = head.replace("\x1b[K", ""), tail.replace("\x1b[K", "")
        whole = head + printable(middle, lines=True) + tail
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(whole.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def harmless_streams() -> Iterator[None]:
    """Standard output and error without control characters while the block runs."""
    with ExitStack() as stack:
        # Programs without a console have none.
        if sys.stdout is not None:
            stack.enter_context(redirect_stdout(cast("TextIO", _Harmless(sys.stdout))))
        if sys.stderr is not None:
            stack.enter_context(redirect_stderr(cast("TextIO", _Harmless(sys.stderr))))
        yield
