"""Networks that answer with what a pixel says, and `edge run` on them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from edge.cli import main
from edge.session import Session
from tests.stand_ins.moving_people import detector_session, one_stage_session, pose_session

__all__ = ["TWO_STAGE", "pixel_models", "run", "written"]

TWO_STAGE = ("run", "--model", "pose", "--detector", "detector")


@pytest.fixture(autouse=True, name="models")
def pixel_models(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Networks that see rectangles stand for the artifacts pose, detector and one-stage."""
    import edge.cli.run

    made: dict[str, Any] = {
        "pose": pose_session(),
        "detector": detector_session(),
        "one-stage": one_stage_session(),
    }

    def opened(text: str, arguments: argparse.Namespace) -> Session:
        del arguments
        session: Session = made[text]
        return session

    monkeypatch.setattr(edge.cli.run, "open_chosen", opened)
    return made


def written(out: Path) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = json.loads((out / "poses.json").read_text())["pictures"]
    return data


def run(*argv: Any) -> None:
    assert main([str(word) for word in argv]) == 0
