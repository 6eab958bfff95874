"""Checkpoints with random weights, as the official ones are built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from converters.architectures.official import Description, build  # noqa: E402


def saved(folder: Path, description: Description, **changes: Any) -> Path:
    """A checkpoint of this kind; `changes` replace entries, None removes them."""
    torch.manual_seed(0)
    state = build(description).state_dict()
    for key, value in changes.items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, folder / "model.pth")
    return folder / "model.pth"


POSE = Description("rtmpose", "t", 17, input_hw=(256, 192))
NANO = Description("rtmdet", "nano", classes=1)
