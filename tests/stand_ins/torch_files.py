"""Files of either format of torch.save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")


both = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(content: Any, path: Path, zipped: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path
