"""Which of the kit's own files decide what a variant becomes, told by what they import."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from converters import CHECKOUT

__all__ = ["code_digest", "modules_below"]

_ROOMS = ("edge", "calibration", "converters")
# Reached through the pipelines that accuracy is measured with, which follow nobody.
_NEVER_USED = "edge.tracking"
# What only type checkers read decides nothing.
_FOR_TYPES = re.compile(r"^if TYPE_CHECKING:\n(?:(?:[ \t].*)?\n)+", re.MULTILINE)
# Text, not `ast`: a conversion that has nothing to do reads some hundred files.
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|.*)|import[ \t]+(.*))", re.MULTILINE
)
_SPLIT = re.compile("[(),]")


@cache
def code_digest(*modules: str, checkout: Path = CHECKOUT) -> str:
    """A SHA-256 of the files of ``modules`` and of all that they import from the kit.

    In a checkout the version alone does not tell the code. Other modules than the kit's count
    nowhere.
    """
    digest = hashlib.sha256()
    for name in sorted(modules_below(*modules, checkout=checkout)):
        path = _file_of(name, checkout)
        assert path is not None
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def modules_below(*modules: str, checkout: Path = CHECKOUT) -> set[str]:
    """These modules and all that they import from the kit, also inside functions.

    A package counts where something is taken from itself, not where a module of it is: what
    ``edge/__init__.py`` hands on to users decides nothing.
    """
    found: set[str] = set()
    waiting = [name for name in modules if _file_of(name, checkout)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imports(name, checkout)
    return found


@cache
def _imports(name: str, checkout: Path) -> list[str]:
    path = _file_of(name, checkout)
    assert path is not None
    found = []
    for origin, names, modules in _IMPORT.findall(_FOR_TYPES.sub("", path.read_text("utf-8"))):
        words = [part.split()[0] for part in _SPLIT.split(names or modules) if part.strip()]
        # A name is a module of its own, or stands in the one that it is taken from.
        inner = [f"{origin}.{word}" for word in words] if origin else words
        found += [one if _file_of(one, checkout) else origin for one in inner]
    return [one for one in found if _file_of(one, checkout) and not one.startswith(_NEVER_USED)]


@cache
def _file_of(name: str, checkout: Path) -> Path | None:
    room, *rest = name.split(".")
    if room not in _ROOMS:
        return None
    place = checkout.joinpath(room, *rest)
    tries = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in tries if path.is_file()), None)
