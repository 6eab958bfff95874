"""Device profiles: one flat TOML file a target, one frozen value."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from edge.errors import SpecError
from edge.spec import Variant

__all__ = ["Profile", "load_profile", "profile_names", "read_profile"]

_FOLDER = Path(__file__).resolve().parent / "profiles"


@dataclass(frozen=True)
class Profile:
    """A target. ``variants`` is what `edge convert` makes for it by default."""

    name: str
    description: str
    variants: tuple[Variant, ...]
    aliases: tuple[str, ...] = ()


def read_profile(path: Path) -> Profile:
    """Read a profile file; an unknown, missing or mistyped key is a SpecError that names it."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path}: not a readable profile ({error})") from None
    known = {field.name for field in fields(Profile)} - {"name"}
    for key in data:
        if key not in known:
            raise SpecError(f"{path}: unknown key {key!r}; known keys: {', '.join(sorted(known))}")
    if not isinstance(data.get("description"), str):
        raise SpecError(f"{path}: 'description' must be a text")
    for key in ("variants", "aliases"):
        value = data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise SpecError(f"{path}: {key!r} must be a list of texts")
    if not data.get("variants"):
        raise SpecError(f"{path}: 'variants' must name at least one variant")
    try:
        variants = tuple(Variant.parse(text) for text in data["variants"])
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
    return Profile(path.stem, data["description"], variants, tuple(data.get("aliases", [])))


def profile_names() -> dict[str, str]:
    """Every name a target answers to, aliases included -> the profile's name."""
    names = {}
    for path in sorted(_FOLDER.glob("*.toml")):
        profile = read_profile(path)
        names[profile.name] = profile.name
        names |= dict.fromkeys(profile.aliases, profile.name)
    return names


def load_profile(name: str) -> Profile:
    """The profile of a target by name or alias."""
    names = profile_names()
    if name not in names:
        raise SpecError(f"unknown target {name!r}; known targets: {', '.join(names)}")
    return read_profile(_FOLDER / f"{names[name]}.toml")
