"""Frozen dataclasses <-> plain JSON values, strictly: the type hints are the schema."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from edge.errors import SpecError
from edge.printable import printable

__all__ = ["plain_values", "read_record"]

Record = TypeVar("Record")

_WORDS: dict[Any, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    types.NoneType: "null",
}


def plain_values(value: Any) -> Any:
    """Dataclasses and mappings as dicts, tuples as lists, all the way down."""
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: plain_values(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain_values(item) for item in value]
    return value


def read_record(kind: type[Record], data: object) -> Record:
    """A JSON object as the dataclass ``kind``.

    Fields may be str, bool, int, float, None, unions of these, tuple[X, ...], Mapping[str, X] and
    dataclasses of such fields. Raises SpecError that names the key which is unknown, missing or of
    the wrong type.
    """
    record = _read(kind, data, "")
    assert isinstance(record, kind)
    return record


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: Any, data: Any, where: str) -> Any:
    """``where`` is the dotted key of ``data``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_fields(kind, _checked(dict, data, where), where)
    if origin is tuple:
        items = _checked(list, data, where)
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is Mapping:
        items = _checked(dict, data, where)
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in items.items()}
    if isinstance(kind, types.UnionType):
        simple = [one for one in arguments if one in _WORDS]
        for one in simple:
            if _fits(one, data):
                return _read(one, data, where)
        rest = [one for one in arguments if one not in _WORDS]
        if not rest:
            raise _mistyped(where, " or ".join(_WORDS[one] for one in simple), data)
        return _read(rest[0], data, where)
    if not _fits(kind, data):
        raise _mistyped(where, _WORDS[kind], data)
    return float(data) if kind is float else data


def _read_fields(kind: type, data: Mapping[str, Any], where: str) -> Any:
    dot = f"{where}." if where else ""
    hints = _hints(kind)
    for key in data:
        if key not in hints:
            raise SpecError(f"unknown key '{printable(dot + key)}'; known keys: {', '.join(hints)}")
    for key in hints:
        if key not in data:
            raise SpecError(f"key '{dot}{key}' is missing")
    return kind(**{key: _read(hint, data[key], f"{dot}{key}") for key, hint in hints.items()})


def _checked(kind: type, data: Any, where: str) -> Any:
    if not isinstance(data, kind):
        raise _mistyped(where, "an object" if kind is dict else "a list", data)
    return data


def _fits(kind: Any, data: Any) -> bool:
    if kind not in (int, float):
        return isinstance(data, kind)
    if isinstance(data, float):
        return kind is float and math.isfinite(data)
    return isinstance(data, int) and not isinstance(data, bool) and abs(data) < 2**63


def _mistyped(where: str, wanted: str, data: object) -> SpecError:
    shown = json.dumps(data)
    if len(shown) > 40:
        shown = f"{shown[:40]}..."
    where = printable(where)
    return SpecError(f"{repr(where) if where else 'the file'} must be {wanted}, got {shown}")
