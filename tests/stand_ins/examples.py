"""The programs that CONTRIBUTING.md shows."""

from __future__ import annotations

import re
from typing import Any

from tests.conftest import ROOT

__all__ = ["example", "examples"]


def examples() -> list[str]:
    """Every block of Python, in order: converter, engine, codec, transport."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def example(name: str) -> Any:
    """What the block that defines it calls so."""
    (code,) = (one for one in examples() if re.search(rf"^(?:def|class) {name}\b", one, re.M))
    names: dict[str, Any] = {}
    exec(code, names)
    return names[name]
