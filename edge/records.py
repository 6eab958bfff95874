"""What a value in a file may be: a type and a range a key, checked in one place.

What a file holds is a frozen dataclass whose type hints say the same (`read_record`, `plain_values`
the way back), or a ``Rule`` by hand.

A ``Rule`` knows in words what it wants. ``check`` walks a value and raises for the first that
does not fit, by its key: ``FILE: 'nms_iou' must be a number from 0 to 1, got 60``. Rules are
strict: a text never counts as a number, true is no number, and 8.9 is no whole number.
"""

from __future__ import annotations

import functools
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edge.errors import EdgeError, SpecError

__all__ = [
    "Rule",
    "check",
    "choice",
    "flag",
    "list_of",
    "mapping_of",
    "number",
    "one_of",
    "plain_values",
    "read_record",
    "record",
    "share",
    "shown",
    "text",
    "whole",
]

Record = TypeVar("Record")

_ONE_LINE = 4096


class _WrongError(Exception):
    """A value that does not fit, by its key."""


@dataclass(frozen=True)
class Rule:
    """``words`` say what is wanted, ``fits`` whether a value is that.

    ``hint`` helps with one that is not, ``inside`` looks at the parts of one that is.
    """

    words: str
    fits: Callable[[Any], bool]
    hint: Callable[[Any], str] = field(default=lambda _: "")
    inside: Callable[[Any, str], None] = field(default=lambda *_: None)


def check(
    rule: Rule, value: Any, key: str = "", where: str = "", error: type[EdgeError] = SpecError
) -> None:
    """Raise ``error`` for the first part of a value that its rule does not take."""
    try:
        _walk(rule, value, key)
    except _WrongError as wrong:
        raise error(f"{where}: {wrong}" if where else str(wrong)) from None


def _walk(rule: Rule, value: Any, key: str) -> None:
    if not rule.fits(value):
        what = _quoted(key) if key else "it"
        raise _WrongError(f"{what} must be {rule.words}, got {shown(value)}{rule.hint(value)}")
    rule.inside(value, key)


def shown(value: Any) -> str:
    """A value in a few words, as its file has it."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value) if len(type(value).__name__) > 40 else _other(value)
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _other(value: Any) -> str:
    """What no file holds: an argument of a function."""
    text = repr(value)
    name = type(value).__name__
    return text if len(text) <= 40 and "\n" not in text else f"{name} object"


# --- rules ----------------------------------------------------------------------------------------


def text(*, least: int = 1, most: int = _ONE_LINE, words: str = "") -> Rule:
    """A text of one line, without control characters."""
    return Rule(
        words or ("a text of one line" if least else "a text"),
        lambda value: (
            isinstance(value, str)
            and least <= len(value) <= most
            and (not value or value.isprintable())
        ),
    )


def flag() -> Rule:
    """True or false; a text that says so is none, and 1 is a number."""
    return Rule("true or false", lambda value: isinstance(value, bool), _unquoted)


def choice(*words: str) -> Rule:
    """One of some words."""
    return Rule(
        f"one of {', '.join(word for word in words if word)}",
        lambda value: isinstance(value, str) and value in words,
    )


def number(
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float | None = None,
    below: float | None = None,
) -> Rule:
    """A finite number in a range; ``above`` and ``below`` are not in it themselves."""

    def fits(value: Any) -> bool:
        if not _is(Real, value):
            return False
        try:
            finite = math.isfinite(value)
        except OverflowError:  # whole numbers have any length
            return False
        return (
            finite
            and least <= value <= most
            and (above is None or value > above)
            and (below is None or value < below)
        )

    return Rule(f"a number{_range(least, most, above, below)}", fits, _unquoted)


def _is(kind: type, value: Any) -> bool:
    """Whether this is a number of a kind, numpy's ones among them; true and false are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def share() -> Rule:
    """A number from 0 to 1."""
    rule = number(0, 1)
    return Rule(rule.words, rule.fits, _no_percent)


def whole(least: int = 0, most: int = 10**6) -> Rule:
    """A whole number in a range."""
    return Rule(
        f"a whole number{_range(least, most, None, None)}",
        lambda value: _is(Integral, value) and least <= value <= most,
        _unquoted,
    )


def list_of(rule: Rule, words: str, *, least: int = 0, most: int = 10**6) -> Rule:
    """A list whose items fit a rule."""

    def inside(value: Sequence[Any], key: str) -> None:
        for index, item in enumerate(value):
            _walk(rule, item, f"{key}[{index}]")

    return Rule(
        words,
        lambda value: isinstance(value, (list, tuple)) and least <= len(value) <= most,
        inside=inside,
    )


def mapping_of(rule: Rule, words: str) -> Rule:
    """A table with any keys, whose values fit a rule."""

    def inside(value: Mapping[str, Any], key: str) -> None:
        for name, item in value.items():
            _walk(rule, item, _dotted(key, name))

    return Rule(words, lambda value: isinstance(value, Mapping), inside=inside)


def record(keys: Mapping[str, Rule], required: Sequence[str] = (), *, other: bool = False) -> Rule:
    """A table of these keys; with ``other`` it may hold more, which nobody looks at."""

    def inside(value: Mapping[str, Any], key: str) -> None:
        dot = f"{key}." if key else ""
        for name in value:
            if name not in keys and not other:
                known = ", ".join(sorted(keys))
                raise _WrongError(f"unknown key {_quoted(f'{dot}{name}')}; known keys: {known}")
        for name in required:
            if name not in value:
                raise _WrongError(f"missing key {_quoted(f'{dot}{name}')}: {keys[name].words}")
        for name, rule in keys.items():
            if name in value:
                _walk(rule, value[name], f"{dot}{name}")

    return Rule("a table of keys", lambda value: isinstance(value, Mapping), inside=inside)


def one_of(*rules: Rule) -> Rule:
    """What fits any of some rules, the last one being told of."""

    def inside(value: Any, key: str) -> None:
        next(rule for rule in rules if rule.fits(value)).inside(value, key)

    return Rule(
        " or ".join(rule.words for rule in rules),
        lambda value: any(rule.fits(value) for rule in rules),
        rules[-1].hint,
        inside,
    )


def _quoted(key: str) -> str:
    text = "".join(sign if sign.isprintable() else "?" for sign in key)
    return f"'{text if len(text) <= 80 else text[:77] + '...'}'"


def _dotted(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _range(least: float, most: float, above: float | None, below: float | None) -> str:
    if above is not None:
        tail = f" and at most {most:g}" if most != math.inf else ""
        return f" above {above:g}{tail}" + (f" and below {below:g}" if below is not None else "")
    if least == -math.inf and most == math.inf:
        return ""
    if most in (math.inf, 10**6):
        return f" of {least:g} or more"
    return f" from {least:g} to {most:g}"


def _unquoted(value: Any) -> str:
    return ", a text: write it without quotes" if isinstance(value, str) else ""


def _no_percent(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 < value <= 100:
        return f": a share, not percent, so {value / 100:g} for {value:g} %"
    return _unquoted(value)


# --- dataclasses ----------------------------------------------------------------------------------


def plain_values(value: Any) -> Any:
    """Dataclasses and mappings as dicts, tuples as lists, all the way down: what JSON can hold."""
    if is_dataclass(value):
        return {one.name: plain_values(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items()}
    return [plain_values(item) for item in value] if isinstance(value, tuple) else value


def read_record(
    kind: type[Record],
    data: Any,
    where: str = "",
    error: type[EdgeError] = SpecError,
    *,
    defaults: bool = False,
    other: bool = False,
) -> Record:
    """The dataclass ``kind`` of a table of its fields, lists as tuples.

    Fields may be str, bool, int of 64 bits, finite float, None, Any, Literal, tuple[X, ...],
    Mapping[str, X], dataclasses, unions of these, and ``Annotated[X, rule]``. With ``defaults`` a
    field that has one may be missing, with ``other`` there may be more keys. Raises ``error`` as
    `check` does.
    """
    hint: Any = kind
    check(_rule_of(hint, defaults, other), data, where=where, error=error)
    made = _made(kind, data)
    assert isinstance(made, kind)
    return made


_PLAIN: dict[Any, Rule] = {
    str: Rule("a text", lambda value: isinstance(value, str)),
    bool: flag(),
    int: Rule(
        "a whole number", lambda value: _is(Integral, value) and abs(value) < 2**63, _unquoted
    ),
    float: number(),
    type(None): Rule("null", lambda value: value is None),
    Any: Rule("anything", lambda _: True),
}


@functools.cache
def _rule_of(kind: Any, defaults: bool, other: bool) -> Rule:
    """What a type hint says, as a rule."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        rule: Rule = arguments[1]
        return rule
    if origin is Literal:
        return choice(*arguments)
    inner = [_rule_of(one, defaults, other) for one in arguments if one is not Ellipsis]
    if origin is tuple:
        if Ellipsis in arguments:
            return list_of(inner[0], "a list", most=2**63)
        return list_of(inner[0], f"a list of {len(inner)}", least=len(inner), most=len(inner))
    if origin is Mapping:
        return mapping_of(inner[1], "a table")
    if origin in (Union, types.UnionType):
        return one_of(*inner)
    hints = _hints(kind)
    needed = [
        one.name
        for one in fields(kind)
        if not defaults or (one.default is MISSING and one.default_factory is MISSING)
    ]
    return record(
        {name: _rule_of(hint, defaults, other) for name, hint in hints.items()}, needed, other=other
    )


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _made(kind: Any, value: Any) -> Any:
    """A value that fits its type hint, as that type."""
    arguments = get_args(kind)
    if kind is float:
        return float(value)
    if get_origin(kind) is Annotated:
        return _made(arguments[0], value)
    if get_origin(kind) is tuple:
        item = arguments[0]
        plain = get_args(item)[0] if get_origin(item) is Annotated else item
        return tuple(value if plain in (int, str, bool) else (_made(item, one) for one in value))
    if get_origin(kind) is Mapping:
        return {key: _made(arguments[1], item) for key, item in value.items()}
    if get_origin(kind) in (Union, types.UnionType):
        fits = (one for one in arguments if _rule_of(one, True, True).fits(value))
        return _made(next(fits), value)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return kind(**{key: _made(hints[key], item) for key, item in value.items() if key in hints})
    return value
