"""The command line: ``edge COMMAND``."""

from __future__ import annotations

from edge.cli.main import console, main

__all__ = ["console", "main"]
