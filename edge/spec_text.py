"""A spec as the text of a TOML file, which ``--spec`` reads."""

from __future__ import annotations

import json
from typing import Any

from edge.spec import ModelSpec

__all__ = ["spec_lines"]


def spec_lines(spec: ModelSpec) -> list[str]:
    """``key = value`` of every key that the model's task and codec use, a line each."""
    data = {key: value for key, value in spec.to_json().items() if value is not None}
    width = max(map(len, data))
    return [f"{key:<{width}} = {_toml(value)}" for key, value in data.items()]


def _toml(value: Any) -> str:
    """TOML has no null: in a shape -1 stands for a size that is open."""
    if value is None:
        return "-1"
    if isinstance(value, dict):
        inside = ", ".join(f"{key} = {_toml(one)}" for key, one in value.items())
        return "{" + f" {inside} " + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
