"""Text files that people edit, read as their editors save them, and as strictly as what is in them.

JSON and TOML become plain values here and nowhere else: what a parser takes though it is no such
text (NaN, a key twice), or falls over (numbers of thousands of digits, endless nesting), ends in
one line.
"""

from __future__ import annotations

import codecs
import difflib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from edge.errors import EdgeError, SpecError

__all__ = [
    "decode_text",
    "json_text",
    "nearest",
    "parse_json",
    "parse_toml",
    "read_json",
    "read_text",
]

# The longer marks first: that of UTF-32 begins as the one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Python reads no longer ones, and says so in words that help nobody.
_DIGITS = 4000
_DEPTH = 60


class _RefusedError(ValueError):
    """What a parser would take and must not."""


def read_text(path: Path, error: type[EdgeError] = SpecError) -> str:
    """A text file in UTF-8, or in UTF-8, UTF-16 or UTF-32 with a byte order mark, as editors save.

    Raises ``error`` where it cannot be read or is no such text.
    """
    try:
        data = path.read_bytes()
    except OSError as failure:
        raise error(f"{path}: cannot be read ({failure.strerror or failure})") from None
    except ValueError as failure:  # a name with a NUL
        raise error(f"{str(path)!r}: no name of a file ({failure})") from None
    return decode_text(data, str(path), error)


def decode_text(data: bytes, where: str, error: type[EdgeError] = SpecError) -> str:
    """The text in these bytes, without its mark; ``error`` begins with ``where``."""
    encoding = "utf-8"
    for mark, name in _MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], name
            break
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise error(f"{where}: no text in {encoding.upper()}; save it as UTF-8") from None
    if "\0" in text:
        raise error(f"{where}: no text, it holds NUL bytes; save it as UTF-8")
    return text


def read_json(path: Path, error: type[EdgeError] = SpecError, fix: str = "") -> Any:
    """The value in a JSON file; see ``parse_json``."""
    return parse_json(read_text(path, error), str(path), error, fix)


def parse_json(
    text: str, where: str, error: type[EdgeError] = SpecError, fix: str = "", *, large: bool = False
) -> Any:
    """The value of a JSON text, strictly: no key twice, no number of thousands of digits.

    NaN and the infinities, which are no JSON, are left for whoever checks the values, who can say
    under which key they stand. ``large`` texts, with a million numbers, are looked at less closely,
    for that takes its time: keys may stand twice there, and NaN is refused. Raises ``error`` as
    ``where: no valid JSON (why)fix``.
    """
    try:
        if large:
            return json.loads(text, parse_constant=_no_constant)
        data = json.loads(
            text,
            parse_int=_whole_number,
            object_pairs_hook=_object,
        )
        _check_depth(data)
    except RecursionError:
        raise error(f"{where}: no valid JSON (nested too deeply){fix}") from None
    except ValueError as failure:  # JSONDecodeError as well
        raise error(f"{where}: no valid JSON ({_why(failure)}){fix}") from None
    return data


def parse_toml(text: str, where: str, error: type[EdgeError] = SpecError) -> dict[str, Any]:
    """The tables of a TOML text; ``error`` as ``where: no valid TOML (why)``. Needs Python 3.11."""
    import tomllib

    try:
        data = tomllib.loads(text)
        _check_depth(data)
    except RecursionError:
        raise error(f"{where}: no valid TOML (nested too deeply)") from None
    except ValueError as failure:  # TOMLDecodeError, and int's own for thousands of digits
        raise error(f"{where}: no valid TOML ({_why(failure)})") from None
    return data


def _why(failure: ValueError) -> str:
    """In one line; Python's own words for long numbers name a function to call."""
    if "integer string conversion" in str(failure):
        return "a number of thousands of digits"
    return "".join(sign if sign.isprintable() else "?" for sign in str(failure))


def nearest(word: str, known: Iterable[str], most: int = 1) -> str:
    """``did you mean A or B? `` of the known words that are like another; empty where none is."""
    found = difflib.get_close_matches(word, list(known), most, cutoff=0.5)
    return f"did you mean {' or '.join(found)}? " if found else ""


def json_text(data: Any, indent: int | None = None) -> str:
    """Plain values as JSON; what is not finite becomes null, for which JSON has a word."""
    return json.dumps(_finite(data), indent=indent, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data


def _no_constant(text: str) -> NoReturn:
    raise _RefusedError(f"{text} is no number of JSON")


def _whole_number(text: str) -> int:
    if len(text) > _DIGITS:
        raise _RefusedError(f"a number of {len(text)} digits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RefusedError(f"the key {twice[:60]!r} stands twice")
    return data


def _check_depth(data: Any, depth: int = 0) -> None:
    """Refuse deep nesting, and halves of characters, which no terminal or file takes."""
    if depth > _DEPTH:
        raise _RefusedError("nested too deeply")
    if isinstance(data, str):
        if not data.isascii():
            try:
                data.encode()
            except UnicodeEncodeError:
                raise _RefusedError("a text holds half a character") from None
    elif isinstance(data, dict):
        for key, value in data.items():
            _check_depth(key, depth)
            _check_depth(value, depth + 1)
    elif isinstance(data, list):
        for value in data:
            _check_depth(value, depth + 1)
