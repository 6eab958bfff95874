"""Where downloads and what is made of them live."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["cache_folder", "file_name"]


def cache_folder() -> Path:
    """EDGEPOSE_CACHE, or else ``edgepose`` in XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("EDGEPOSE_CACHE")
    if own:
        return Path(own).expanduser()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a relative path is to be ignored.
    return (xdg if xdg.is_absolute() else Path("~/.cache").expanduser()) / "edgepose"


def file_name(url: str) -> str:
    """The file name at the end of a URL."""
    return urlsplit(url).path.rpartition("/")[2]
