"""What tests share does not live in test modules: one that skips itself would skip the rest."""

from __future__ import annotations

import ast
import re

from tests.conftest import ROOT

IMPORT = re.compile(r"from tests\.(?:\w+\.)*test_\w+ import|import tests\.(?:\w+\.)*test_\w+")


def test_nothing_is_imported_from_a_test_module() -> None:
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        names = [
            node.module or ""
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom)
        ]
        bad = [name for name in names if name.split(".")[-1].startswith("test_")]
        # Programs that tests start hold imports in their text.
        bad += IMPORT.findall(text) if path.name != "test_shared_code.py" else []
        found += [f"{path.name}: {name}" for name in bad]
    assert found == []
