"""docs/devices.md and files.md: keys of runs and artifacts, a profile, commands that reach."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping

import pytest

from edge.artifact import MANIFEST_KEYS
from edge.errors import EdgeError
from targets.profile import load_profile, read_profile
from targets.result import KIND, RUNNERS, SCHEMA, RunResult
from targets.transports.opening import check_reach
from tests.conftest import ROOT

TEXT = (ROOT / "docs/devices.md").read_text(encoding="utf-8")
FILES = (ROOT / "docs/files.md").read_text(encoding="utf-8")
_WORDS = {
    str: ("text", "texts"),
    bool: ("true or false", ""),
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
}


def type_word(kind: typing.Any) -> str:
    """A type hint as the table says it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return f"list of {_WORDS[arguments[0]][1]}"
    if origin is Mapping:
        inner = arguments[1]
        return f"object of {_WORDS[inner][1] if inner in _WORDS else 'plain values'}"
    if isinstance(kind, types.UnionType):
        (inner,) = (one for one in arguments if one is not types.NoneType)
        return f"{'object' if dataclasses.is_dataclass(inner) else _WORDS[inner][0]} or null"
    return _WORDS[kind][0]


def expected_rows(record: type, before: str = "") -> dict[str, str]:
    """Dotted key -> type of every field, each kind of state once."""
    rows: dict[str, str] = {}
    for name, hint in typing.get_type_hints(record).items():
        key, inner = before + name, hint
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is tuple:
            inner = next(one for one in typing.get_args(hint) if one is not types.NoneType)
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            listed = "[]" if typing.get_origin(hint) is tuple else ""
            if name != "state_after":
                rows |= expected_rows(inner, f"{key}{listed}.")
            if isinstance(hint, types.UnionType):
                rows[key] = type_word(hint)
        else:
            rows[key] = type_word(hint)
    return rows


def test_every_key_of_a_run_is_documented_with_its_type() -> None:
    section = FILES[FILES.index("\n## The run file\n") :]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| (.+) \|$", section, re.MULTILINE)
    documented = {key: kind for key, kind, _ in rows}
    assert len(documented) == len(rows)
    assert documented == {
        "schema": "whole number", "kind": "text", **expected_rows(RunResult)
    }  # fmt: skip
    meaning = {key: text for key, _, text in rows}
    assert str(SCHEMA) in meaning["schema"]
    assert meaning["kind"] == f"`{KIND}`"
    assert all(f"`{name}`" in meaning["runner.name"] for name in RUNNERS)


def test_every_key_of_an_artifact_is_documented() -> None:
    section = FILES[FILES.index("\n## An artifact\n") : FILES.index("\n## The run file\n")]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(MANIFEST_KEYS)


def test_the_profile_in_the_text_can_be_read(tmp_path: typing.Any) -> None:
    (block,) = re.findall(r"```\n(description = .*?)```", TEXT, re.DOTALL)
    file = tmp_path / "rock-5b.toml"
    file.write_text(block, encoding="utf-8")
    own = read_profile(file)
    assert (own.name, own.transport, own.cpu_mask) == ("rock-5b", "ssh", "f0")
    # What the text calls a default is one.
    defaults = {field.name: field.default for field in dataclasses.fields(own)}
    for name in re.findall(r"^(\w+_(?:count|s|c|powered|percent)) =", block, re.MULTILINE):
        assert getattr(own, name) == defaults[name], name


@pytest.mark.parametrize(
    "line", sorted({*re.findall(r"edge bench (--target [^`\n#]+)", TEXT)}), ids=str.strip
)
def test_the_commands_name_targets_that_can_be_reached_so(line: str) -> None:
    words = dict(re.findall(r"--(\w+) ([^\s\]`,]+)", line))
    profile = load_profile(words["target"])
    check_reach(profile, host=words.get("host"), serial=words.get("serial"))
    if profile.transport == "ssh":
        with pytest.raises(EdgeError):
            check_reach(profile, host=None, serial=None)
