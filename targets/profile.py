"""Device profiles: one flat TOML file a target, one frozen value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from edge.errors import SpecError
from edge.latency import LatencySettings, Mode
from edge.records import (
    Rule,
    check,
    choice,
    flag,
    list_of,
    mapping_of,
    number,
    record,
    text,
    whole,
)
from edge.spec import FORMATS, PRECISIONS, Variant
from edge.texts import nearest, parse_toml, read_text
from targets import ROOM

__all__ = [
    "Kind",
    "Profile",
    "Requirements",
    "load_profile",
    "profile_names",
    "profiles",
    "read_profile",
]

# What a device answers to: how its state is read, and what can be set on it.
Kind = Literal["android", "jetson", "raspberry-pi", "linux"]

_FOLDER = ROOM / "profiles"
_MINUTE, _DAY = 60.0, 86400.0


def _variant() -> Rule:
    def fits(value: Any) -> bool:
        try:
            return isinstance(value, str) and bool(Variant.parse(value))
        except SpecError:
            return False

    return Rule(f"FORMAT-PRECISION of {', '.join(FORMATS)} and {', '.join(PRECISIONS)}", fits)


def _mask() -> Rule:
    return Rule(
        "hexadecimal without 0x and not 0, or empty",
        lambda value: (
            isinstance(value, str)
            and re.fullmatch("[0-9a-f]{0,256}", value) is not None
            and (not value or int(value, 16) > 0)
        ),
    )


_PUBLISHED = mapping_of(number(above=0), "a table of numbers, latencies in ms")

PROFILE_KEYS: dict[str, Rule] = {
    "description": text(),
    "kind": choice(*get_args(Kind)),
    "transport": choice("adb", "ssh", "local"),
    "arch": choice("aarch64", "x86_64"),
    "variants": list_of(_variant(), "a list of one variant or more", least=1),
    "aliases": list_of(text(most=100), "a list of texts"),
    "threads": whole(0, 1024),
    "cpu_mask": _mask(),
    "precision": choice("", "fp32", "fp16", "fp16-storage", "bf16"),
    "warmup_count": whole(0),
    "warmup_duration_s": number(0, _DAY),
    "min_count": whole(1),
    "min_duration_s": number(0, _DAY),
    "max_duration_s": number(0, _DAY),
    "pause_s": number(0, _DAY),
    "sustained_duration_s": number(_MINUTE, _DAY),
    "cooldown_timeout_s": number(0, _DAY),
    "cooldown_tolerance_c": number(0, 100),
    "require_powered": flag(),
    "require_battery_percent": whole(0, 100),
    "published_ms": _PUBLISHED,
    "published_pipeline_ms": _PUBLISHED,
    "published_source": text(least=0),
}
"""What each key of a profile may be."""

_REQUIRED = ("description", "kind", "transport", "arch", "variants")


@dataclass(frozen=True)
class Requirements:
    """The state that a device must be in for a run to count."""

    powered: bool = False
    battery_percent: int = 0


@dataclass(frozen=True)
class Profile:
    """A target, key by key as its file has it; the file's name is the target's.

    - ``variants`` is what `edge convert` makes for it by default.
    - ``transport`` is how it is reached where the command line does not say; ``arch`` what it must
      be (``uname -m``).
    - ``threads`` 0 is the engine's own choice; ``cpu_mask`` is hexadecimal without 0x, ``""`` for
      none; ``precision`` is the engine's arithmetic, ``""`` for each variant's own.
    - warm-up, iterations and durations are those of `edge.latency.LatencySettings`.
    - A cool-down ends when every temperature is within ``cooldown_tolerance_c`` of what it was
      before the first run, or after ``cooldown_timeout_s``.
    - ``require_*`` is the state without which a run does not count.
    - ``published_ms`` are latencies that others published for such a device, "model/variant" -> ms,
      and ``published_pipeline_ms`` those of a detector with a pose model, "detector+model/variant";
      ``published_source`` says where and how they were taken.
    """

    name: str
    description: str
    kind: Kind
    transport: str
    arch: str
    variants: tuple[Variant, ...]
    aliases: tuple[str, ...] = ()
    threads: int = 0
    cpu_mask: str = ""
    precision: str = ""
    # 128 in 10 s, and 60 s for heat to show: the short and the full run of MLPerf's mobile app.
    warmup_count: int = 10
    warmup_duration_s: float = 1.0
    min_count: int = 128
    min_duration_s: float = 10.0
    max_duration_s: float = 120.0
    pause_s: float = 0.0
    sustained_duration_s: float = 60.0
    cooldown_timeout_s: float = 300.0
    cooldown_tolerance_c: float = 3.0
    require_powered: bool = False
    require_battery_percent: int = 0
    published_ms: Mapping[str, float] = field(default_factory=dict)
    published_pipeline_ms: Mapping[str, float] = field(default_factory=dict)
    published_source: str = ""

    def latency_settings(self, mode: Mode = "burst") -> LatencySettings:
        """How to measure on it."""
        if mode == "burst":
            return LatencySettings(
                self.warmup_count,
                self.warmup_duration_s,
                self.min_count,
                self.min_duration_s,
                self.max_duration_s,
                self.pause_s,
            )
        return LatencySettings(
            self.warmup_count,
            self.warmup_duration_s,
            self.min_count,
            self.sustained_duration_s,
            max(self.max_duration_s, 2 * self.sustained_duration_s),
            mode="sustained",
        )

    @property
    def requirements(self) -> Requirements:
        """The state without which a run does not count."""
        return Requirements(self.require_powered, self.require_battery_percent)


def read_profile(path: Path) -> Profile:
    """Read a profile file; an unknown, missing or mistyped key is a SpecError that names it."""
    data = parse_toml(read_text(path), str(path))
    check(record(PROFILE_KEYS, _REQUIRED), data, where=str(path))
    try:
        _check_published(data)
        values: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in data.items()
        }
        values["variants"] = tuple(Variant.parse(text) for text in data["variants"])
        profile = Profile(name=path.stem, **values)
        for mode in get_args(Mode):
            profile.latency_settings(mode)
    except (SpecError, ValueError) as error:
        raise SpecError(f"{path}: {error}") from None
    return profile


def profiles() -> list[Profile]:
    """The profiles in the kit's folder, by name."""
    return [read_profile(path) for path in sorted(_FOLDER.glob("*.toml"))]


def profile_names() -> dict[str, str]:
    """Every name a target answers to, aliases included -> the profile's name."""
    names: dict[str, str] = {}
    for profile in profiles():
        for name in (profile.name, *profile.aliases):
            if name in names:
                raise SpecError(f"two profiles are called {name!r}: {names[name]}, {profile.name}")
            names[name] = profile.name
    return names


def load_profile(text: str) -> Profile:
    """The profile of a target by its name, an alias, or the path of a .toml file."""
    if text.endswith(".toml"):
        return read_profile(Path(text))
    names = profile_names()
    if text not in names:
        raise SpecError(
            f"unknown target {text!r}; {nearest(text, names)}known targets: {', '.join(names)}; "
            "a profile of your own is given by its path and ends in .toml"
        )
    return read_profile(_FOLDER / f"{names[text]}.toml")


def _check_published(data: Mapping[str, Any]) -> None:
    published = data.get("published_ms", {}) | data.get("published_pipeline_ms", {})
    for key, value in published.items():
        model, _, variant = key.rpartition("/")
        if not model:
            raise SpecError(f'published latencies are "model/variant" = ms, got {key} = {value}')
        Variant.parse(variant)
    if published and not data.get("published_source"):
        raise SpecError("'published_source' must say where the published latencies are from")
