"""The one line of JSON that a runner prints, read strictly: garbage and half lines are told.

What a line holds is a dataclass; the types here are those of its fields that are narrower than
Python's own.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

from edge.errors import DeviceError, SpecError
from edge.records import Rule, number, read_record

__all__ = ["Count", "DumpName", "Mask", "Time", "check_starts", "read_line"]

Run = TypeVar("Run")

Count = Annotated[
    int,
    Rule("a count", lambda n: isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63),
]
Time = Annotated[float, number(0)]


def _is_mask(value: object) -> bool:
    try:
        return isinstance(value, str) and int(value, 16) >= 0
    except ValueError:
        return False


Mask = Annotated[str, Rule("a hexadecimal mask", _is_mask)]
# Inside the dump's folder, whatever the other side says.
DumpName = Annotated[
    str,
    Rule(
        "a file's name",
        lambda name: (
            isinstance(name, str)
            and posixpath.basename(name) == name
            and name.endswith((".bin", ".npy"))
        ),
    ),
]


def read_line(
    text: str,
    line: type[Run],
    *,
    kind: str,
    schema: int,
    device: str,
    runner: str,
    fix: str,
) -> Run:
    """The value of a line of this kind and schema; DeviceError for anything else.

    ``runner`` is for the messages, and ``fix`` what to do about another schema.
    """
    said = text.strip()
    try:
        data = json.loads(said, parse_constant=_refuse_constant)
        spoken = _schema(data, kind)
        if spoken == schema:
            return read_record(line, data, defaults=True, other=True)
    except (LookupError, RecursionError, SpecError, TypeError, ValueError) as error:
        shown = said if len(said) <= 80 else f"{said[:40]}...{said[-40:]}"
        raise DeviceError(
            f"{device}: what {runner} printed is not its one line of JSON ({error}): {shown!r}; "
            "something else writes to its stdout, or it was cut off"
        ) from None
    raise DeviceError(
        f"{device}: {runner} there speaks schema {spoken}, this edgepose reads {schema}: {fix}"
    )


def check_starts(samples_ns: Sequence[int], starts_ns: Sequence[int]) -> None:
    """ValueError unless each sample has its start."""
    if len(samples_ns) != len(starts_ns):
        raise ValueError(f"{len(samples_ns)} samples with {len(starts_ns)} starts")


def _schema(data: Mapping[str, Any], kind: str) -> int:
    if data["kind"] != kind:
        raise ValueError(f"its kind is not {kind!r}")
    spoken: object = data["schema"]
    if not isinstance(spoken, int):
        raise TypeError(f"its schema is {spoken!r}")
    return spoken


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
