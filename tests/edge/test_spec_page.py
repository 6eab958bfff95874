"""docs/spec.md has every key of a spec, with the values that the code takes."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from converters.zoo.models import read_spec_file
from edge.cli import main
from edge.spec import KEYPOINT_SETS, ModelSpec
from edge.spec_keys import REQUIRED_KEYS, SPEC_KEYS, TENSOR_KEYS
from edge.spec_text import spec_lines
from tests.conftest import ROOT
from tests.stand_ins.made_artifacts import make_artifact
from tests.stand_ins.specs import EVERY_SPEC, pose_spec

PAGE = (ROOT / "docs/spec.md").read_text(encoding="utf-8")


def rows() -> dict[str, list[str]]:
    """The cells of every row that begins with a key."""
    found = {}
    keys = PAGE[PAGE.index("## Keys") : PAGE.index("## Codecs")]
    for line in keys.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            found[cells[0].strip("`")] = cells[1:]
    return found


def test_the_page_has_every_key_and_no_other() -> None:
    assert set(rows()) == set(SPEC_KEYS)
    for key in TENSOR_KEYS:
        assert f"`{key}`" in PAGE


def test_the_page_says_what_the_code_takes() -> None:
    defaults = {one.name: one.default for one in fields(ModelSpec)}
    for key, cells in rows().items():
        assert cells[0] == SPEC_KEYS[key].words, key
        if key in REQUIRED_KEYS:
            assert len(cells) == 2 and defaults[key] is MISSING, key
            continue
        default = defaults[key]
        words = "none" if default in (None, ()) else json.dumps(default).strip('"')
        assert cells[1] == words.removesuffix(".0"), key


def test_the_page_names_every_keypoint_set() -> None:
    (cell,) = (cells[-1] for key, cells in rows().items() if key == "keypoint_set")
    assert all(name in cell for name in KEYPOINT_SETS)


def test_the_example_is_a_spec(tmp_path: Path) -> None:
    (text,) = re.findall(r"<!-- test: spec -->\n```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "a.toml").write_text(text, encoding="utf-8")
    spec = read_spec_file(tmp_path / "a.toml")
    assert "\n".join(spec_lines(spec)) + "\n" == text


@pytest.mark.parametrize("make", EVERY_SPEC)
def test_what_info_prints_can_be_pasted(
    tmp_path: Path, make: type, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make(name="über pose")
    make_artifact(tmp_path / "a", spec=spec)
    assert main(["info", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    block = shown[shown.index("spec:\n") + 6 : shown.index("files:\n")]
    (tmp_path / "shown.toml").write_text(block, encoding="utf-8")
    assert read_spec_file(tmp_path / "shown.toml") == spec


def test_info_spec_is_that_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pose_spec(name="as it was")
    make_artifact(tmp_path / "a", source={"file": "p.onnx", "spec": source.to_json()})
    for folder, want in (("a", source), ("b", pose_spec())):
        if folder == "b":
            make_artifact(tmp_path / "b")
        assert main(["info", str(tmp_path / folder), "--spec"]) == 0
        (tmp_path / "s.toml").write_text(capsys.readouterr().out, encoding="utf-8")
        assert read_spec_file(tmp_path / "s.toml") == want
