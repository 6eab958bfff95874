"""What an address says; apart from downloading, which takes long to import."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["file_name"]


def file_name(url: str) -> str:
    """The file name at the end of a URL."""
    return urlsplit(url).path.rpartition("/")[2]
