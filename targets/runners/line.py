"""The one line of JSON that a runner prints, read strictly: garbage and half lines are told."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from edge.errors import DeviceError

__all__ = ["check_starts", "dump_name", "read_line", "text_of", "whole"]

Run = TypeVar("Run")


def read_line(
    text: str,
    read: Callable[[Mapping[str, Any]], Run],
    *,
    kind: str,
    schema: int,
    device: str,
    runner: str,
    fix: str,
) -> Run:
    """What ``read`` makes of a line of this kind and schema; DeviceError for anything else.

    ``runner`` is for the messages, and ``fix`` what to do about another schema.
    """
    line = text.strip()
    try:
        data = json.loads(line, parse_constant=_refuse_constant)
        spoken = _schema(data, kind)
        if spoken == schema:
            return read(data)
    except (
        *(ArithmeticError, AttributeError, LookupError),
        *(RecursionError, TypeError, ValueError),
    ) as error:
        shown = line if len(line) <= 80 else f"{line[:40]}...{line[-40:]}"
        raise DeviceError(
            f"{device}: what {runner} printed is not its one line of JSON ({error}): {shown!r}; "
            "something else writes to its stdout, or it was cut off"
        ) from None
    raise DeviceError(
        f"{device}: {runner} there speaks schema {spoken}, this edgepose reads {schema}: {fix}"
    )


def whole(value: object) -> int:
    """A count, from 0; ValueError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} where a count should be")
    return value


def text_of(value: object) -> str:
    """A text; TypeError otherwise."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a text should be")
    return value


def dump_name(value: object, ending: str) -> str | None:
    """A name inside the dump's folder, whatever the other side says; None where nothing is."""
    if value is None:
        return None
    name = text_of(value)
    if posixpath.basename(name) != name or not name.endswith(ending):
        raise ValueError(f"a dump called {name!r}")
    return name


def check_starts(samples_ns: Sequence[int], starts_ns: Sequence[int]) -> None:
    """ValueError unless each sample has its start."""
    if len(samples_ns) != len(starts_ns):
        raise ValueError(f"{len(samples_ns)} samples with {len(starts_ns)} starts")


def _schema(data: Mapping[str, Any], kind: str) -> int:
    if data["kind"] != kind:
        raise ValueError(f"its kind is not {kind!r}")
    return whole(data["schema"])


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
