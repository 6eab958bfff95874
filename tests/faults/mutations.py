"""Damage to bytes, texts and JSON, drawn from a seeded generator."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

__all__ = ["mutated_bytes", "mutated_json", "mutated_text"]

_WORDS = (
    "",
    " ",
    "x" * 5000,
    "²",
    "٣",
    "-1",
    "0",
    "1e999",
    "-0.0",
    "NaN",
    "Infinity",
    "null",
    "true",
    "[]",
    "\x1b[31m",
    "\x00",
    "\u202e",
    "é号",
    "../../etc/passwd",
    "/",
    "a\nb",
    "%s%n",
    "{}",
    "$(id)",
    "1" * 5000,
    "9" * 400,
    "0x10",
    "1_000",
    "+5",
    "1.5",
    "ssh-rsa",
    "pose",
    "heatmap",
    "simcc",
    "rtmdet",
    "float64",
)
# The damage is done by then; what goes on takes the harness's time alone.
_MOST_BYTES = 200_000
_NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    7,
    255,
    256,
    65536,
    2**31,
    2**63,
    2**64,
    -(2**63),
    10**9,
    10**400,
    0.5,
    -0.5,
    1e-300,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    True,
    False,
)


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, repeats and insertions, a few at a time."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        where = rng.randrange(len(made) + 1)
        end = min(len(made), where + rng.choice((1, 1, 2, 8, 100)))
        match rng.randrange(7):
            case 0 if where < len(made):
                made[where] ^= 1 << rng.randrange(8)
            case 1 if where < len(made):
                made[where] = rng.randrange(256)
            case 2:
                del made[where:end]
            case 3:
                made[where:where] = made[where:end] * rng.choice((1, 2, 50))
            case 4:
                made[where:where] = rng.randbytes(rng.choice((1, 4, 64)))
            case 5:
                del made[where:]
            case _:
                made[where:end] = rng.choice((b"\x00", b"\xff", b"\x80", b"\x7f")) * (end - where)
    return bytes(made)


def mutated_text(data: bytes, rng: random.Random) -> bytes:
    """Words, numbers and lines replaced, doubled, moved or lost; at times bytes as well."""
    if rng.random() < 0.25:
        return mutated_bytes(data, rng)
    text = data[:_MOST_BYTES].decode("utf-8", "surrogateescape")
    for _ in range(rng.choice((1, 1, 2, 5))):
        text = rng.choice((_other_token, _other_line, _inserted))(text, rng)
    return text.encode("utf-8", "surrogateescape")


def _other_token(text: str, rng: random.Random) -> str:
    pattern = rng.choice((r"-?\d+(?:\.\d+)?", r"[A-Za-z_][\w-]*", r'"[^"\n]*"', r"[^\s\w]"))
    found = list(re.finditer(pattern, text))
    if not found:
        return text
    token = rng.choice(found)
    word = rng.choice(_WORDS)
    if rng.random() < 0.3:
        word = str(rng.choice(_NUMBERS))
    elif rng.random() < 0.3:
        word = rng.choice(found)[0]
    return text[: token.start()] + word + text[token.end() :]


def _other_line(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    where = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[where]
        case 1:
            lines.insert(where, rng.choice(lines))
        case 2:
            lines[where] *= rng.choice((2, 300)) if len(lines[where]) < 5000 else 2
        case 3:
            rng.shuffle(lines)
        case _:
            lines[where] = lines[where][: rng.randrange(len(lines[where]) + 1)]
    return "\n".join(lines)


def _inserted(text: str, rng: random.Random) -> str:
    where = rng.randrange(len(text) + 1)
    return text[:where] + rng.choice(_WORDS) + text[where:]


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """Values of other types and sizes, keys lost, doubled and new; at times damage to the text."""
    if rng.random() < 0.2:
        return mutated_text(data, rng)
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        value = _changed(value, rng)
        if len(json.dumps(value)) > _MOST_BYTES:
            break
    text = json.dumps(value)
    if rng.random() < 0.05:
        text = re.sub(r"\d+", lambda found: found[0] * rng.choice((1, 3000)), text, count=3)
    if rng.random() < 0.05:
        depth = rng.choice((50, 500, 100_000))
        text = text.replace("[", "[" * depth, 1).replace("]", "]" * depth, 1)
    return text.encode("utf-8", "surrogatepass")


def _changed(value: Any, rng: random.Random) -> Any:
    """The value with one place in it changed."""
    places: list[tuple[Any, Any]] = []

    def collect(inside: Any) -> None:
        pairs = inside.items() if isinstance(inside, dict) else enumerate(inside)
        for key, item in pairs:
            places.append((inside, key))
            if isinstance(item, dict | list):
                collect(item)

    if not isinstance(value, dict | list):
        return _value(value, rng)
    collect(value)
    if not places:
        return _value(value, rng)
    inside, key = rng.choice(places)
    change: list[Callable[[], None]] = [
        lambda: inside.__setitem__(key, _value(inside[key], rng)),
        lambda: inside.__setitem__(key, _value(inside[key], rng)),
        lambda: inside.__delitem__(key),
    ]
    if isinstance(inside, dict):
        change.append(lambda: inside.__setitem__(rng.choice(_WORDS), inside[key]))
        change.append(lambda: inside.__setitem__(key, rng.choice(list(inside.values()))))
    else:
        change.append(lambda: inside.extend([inside[key]] * rng.choice((1, 2, 300))))
        change.append(lambda: inside.clear())
    rng.choice(change)()
    return value


def _value(old: Any, rng: random.Random) -> Any:
    match rng.randrange(8):
        case 0:
            return rng.choice(_WORDS)
        case 1 | 2:
            return rng.choice(_NUMBERS)
        case 3 if isinstance(old, int | float) and not isinstance(old, bool):
            return old * rng.choice((-1, 0, 1.0001, 2, 1000, 1e300)) if abs(old) < 1e8 else -1
        case 4:
            return rng.choice((None, [], {}, [[]], {"": None}, [None]))
        case 5:
            return [old]
        case 6:
            return {"name": old}
        case _:
            return str(old)
