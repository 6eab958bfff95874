"""Whole numbers in text that others wrote: file names, answers of devices, files of any origin."""

from __future__ import annotations

__all__ = ["parse_digits"]


def parse_digits(text: str, *, most: int = 18) -> int | None:
    """The number that a text of digits says; None where it is anything else.

    ``str.isdigit`` is true of signs that ``int`` does not read (``²``), and ``int`` refuses some
    thousands of digits. A number here is 1 to ``most`` ASCII digits, without sign or blank.
    """
    if text.isascii() and text.isdigit() and len(text) <= most:
        return int(text)
    return None
