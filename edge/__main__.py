"""``python -m edge``."""

from edge.cli import console

console()
