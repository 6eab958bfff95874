"""Where the kit keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """EDGEPOSE_CACHE, or else ``edgepose`` in XDG_CACHE_HOME or ~/.cache; an absolute path.

    Programs that run in another folder are given files that lie here.
    """
    own = os.environ.get("EDGEPOSE_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a relative path is to be ignored.
    return (xdg if xdg.is_absolute() else Path("~/.cache").expanduser()) / "edgepose"
