"""Device profiles: one flat TOML file a target, one frozen value."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from edge.errors import SpecError
from edge.latency import LatencySettings, Mode
from edge.spec import Variant
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
_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": get_args(Kind),
    "transport": ("adb", "ssh", "local"),
    "arch": ("aarch64", "x86_64"),
    "precision": ("", "fp32", "fp16", "fp16-storage", "bf16"),
}
_LEAST = {"threads": 0, "warmup_count": 0, "min_count": 1, "require_battery_percent": 0}
_WORDS: dict[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "a list of texts",
    dict: "a table of numbers",
}


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
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path}: not a readable profile ({error})") from None
    wanted = _types()
    for key in data:
        if key not in wanted:
            raise SpecError(f"{path}: unknown key {key!r}; known keys: {', '.join(sorted(wanted))}")
    for key, kind in wanted.items():
        if key in data:
            if not _fits(data[key], kind):
                raise SpecError(f"{path}: {key!r} must be {_WORDS[kind]}, got {data[key]!r}")
        elif key in ("description", "kind", "transport", "arch", "variants"):
            raise SpecError(f"{path}: {key!r} is missing: it must be {_WORDS[kind]}")
    try:
        _check(data)
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
            f"unknown target {text!r}; known targets: {', '.join(names)}; a profile of your own is "
            "given by its path and ends in .toml"
        )
    return read_profile(_FOLDER / f"{names[text]}.toml")


def _types() -> dict[str, type]:
    """Key of a file -> type of its value: that of the default, a text where there is none."""
    types: dict[str, type] = {}
    for one in fields(Profile):
        if one.default_factory is not MISSING:
            types[one.name] = dict
        elif one.default is not MISSING:
            types[one.name] = type(one.default)
        else:
            types[one.name] = tuple if one.name == "variants" else str
    del types["name"]
    return types


def _fits(value: object, kind: type) -> bool:
    if kind is tuple:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind is dict:
        return isinstance(value, dict) and all(_fits(item, float) for item in value.values())
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    return type(value) is kind


def _check(data: dict[str, Any]) -> None:
    for key, words in _CHOICES.items():
        if data.get(key, words[0]) not in words:
            choices = ", ".join(word for word in words if word)
            raise SpecError(f"{key!r} is one of {choices}, got {data[key]!r}")
    for key, least in _LEAST.items():
        if data.get(key, least) < least:
            raise SpecError(f"{key!r} must be at least {least}, got {data[key]}")
    for key in ("cooldown_timeout_s", "cooldown_tolerance_c"):
        if data.get(key, 0) < 0:
            raise SpecError(f"{key!r} must not be negative, got {data[key]}")
    if data.get("require_battery_percent", 0) > 100:
        raise SpecError("'require_battery_percent' is at most 100")
    if not data["variants"]:
        raise SpecError("'variants' must name at least one variant")
    mask = data.get("cpu_mask", "")
    if mask and (not re.fullmatch("[0-9a-f]+", mask) or not int(mask, 16)):
        raise SpecError(f"'cpu_mask' is hexadecimal without 0x and not 0, got {mask!r}")
    published = data.get("published_ms", {}) | data.get("published_pipeline_ms", {})
    for key, value in published.items():
        model, _, variant = key.rpartition("/")
        if not model or value <= 0:
            raise SpecError(f'published latencies are "model/variant" = ms, got {key} = {value}')
        Variant.parse(variant)
    if published and not data.get("published_source"):
        raise SpecError("'published_source' must say where the published latencies are from")
