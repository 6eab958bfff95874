"""A command that must fail, and pictures to give to commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest

from edge.cli import main
from edge.cli.main import parse

__all__ = ["fails", "people"]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A folder with three rendered pictures."""
    from calibration.people.synthetic import crop_scene

    folder = tmp_path / "people"
    folder.mkdir()
    for index in range(3):
        cv2.imwrite(str(folder / f"{index}.png"), crop_scene(3, index).image_bgr)
    return folder


def fails(capsys: pytest.CaptureFixture[str], *argv: Any) -> str:
    """Run a command that must exit 1 with one line; the line."""
    capsys.readouterr()
    assert main([str(a) for a in argv]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    # What was assumed of a bare model is said before what failed later.
    lines = [line for line in lines if not line.startswith("note: ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("edge: ")
    return lines[0]


def run_edge(*words: object) -> int:
    """One command, without what `main` makes of its errors: those are the caller's."""
    arguments = parse([str(word) for word in words])
    return int(arguments.run(arguments) or 0)
