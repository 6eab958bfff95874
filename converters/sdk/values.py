"""JSON values that know where they stand: a wrong one is refused by file and key path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from edge.errors import ModelFileError

__all__ = ["Json", "by", "same_size", "shorten"]

_MOST = 1_000_000


@dataclass(frozen=True)
class Json:
    """A JSON value that knows its file and key path, so that an error can say where it stands."""

    value: Any
    file: str
    path: str = ""

    def refuse(self, text: str) -> NoReturn:
        """Raise a ModelFileError that begins with file and key path."""
        raise ModelFileError(f"{self} {text}")

    def __str__(self) -> str:
        return f"{self.file}: {self.path or 'the top level'}"

    def find(self, key: str) -> Json | None:
        """The value under a key; None where there is none, or null."""
        value = self.value.get(key) if key in self.names() else None
        shown = key if key.isprintable() else repr(key)
        path = f"{self.path}.{shown}" if self.path else shown
        return None if value is None else Json(value, self.file, path)

    def at(self, key: str) -> Json:
        """The value under a key that must be there."""
        found = self.find(key)
        return self.refuse(f"has no {key!r}") if found is None else found

    def names(self) -> list[str]:
        """The keys of an object."""
        if not isinstance(self.value, dict):
            self.refuse(f"is not an object of keys and values, but {shorten(self.value)}")
        return list(self.value)

    def items(self) -> list[Json]:
        """The items of a list."""
        if not isinstance(self.value, list):
            self.refuse(f"is not a list, but {shorten(self.value)}")
        return [
            Json(item, self.file, f"{self.path}[{index}]") for index, item in enumerate(self.value)
        ]

    def text(self) -> str:
        """A text of one line."""
        if not isinstance(self.value, str) or not self.value.isprintable():
            self.refuse(f"is not a text of one line, but {shorten(self.value)}")
        return self.value

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            self.refuse(f"is neither true nor false, but {shorten(self.value)}")
        return self.value

    def number(self) -> float:
        """A finite number."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
            self.refuse(f"is not a finite number, but {shorten(value)}")
        return float(value)

    def count(self) -> int:
        """A whole number of 1 or more, and of no more than a picture or a list can have."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
            self.refuse(f"is not a whole number of 1 to {_MOST}, but {shorten(value)}")
        return value

    def numbers(self) -> tuple[float, float, float]:
        """Three finite numbers, one a channel."""
        items = self.items()
        if len(items) != 3:
            self.refuse(f"has {len(items)} numbers, one for each of the 3 channels is needed")
        first, second, third = (item.number() for item in items)
        return first, second, third

    def size(self) -> tuple[int, int]:
        """Width and height in pixels; one number stands for a square."""
        if not isinstance(self.value, list):
            return self.count(), self.count()
        items = self.items()
        if len(items) != 2:
            self.refuse(f"is not [width, height], but {shorten(self.value)}")
        return items[0].count(), items[1].count()


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON knows whole numbers of any length
        return False


def shorten(value: Any) -> str:
    """A value as one short piece of a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def same_size(first: Json, second: Json) -> None:
    """Refuse two sizes that both claim to be the network's input and differ."""
    if first.size() != second.size():
        raise ModelFileError(
            f"{first} is {by(first.size())} and {second} is {by(second.size())} (width x height), "
            "but both are the size of the network's input; export the model again or correct the "
            "file that is wrong"
        )


def by(size_wh: Sequence[int | None]) -> str:
    """A size as people write it, ``?`` for an open one."""
    return "x".join("?" if size is None else str(size) for size in size_wh)
