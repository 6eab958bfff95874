"""A model file that a conversion starts from. Light: naming a model loads no tool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.spec import ModelSpec

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """The model file, and what the user said of it beyond its content.

    ``keypoint_set`` replaces what the file or its description says; ``notes`` are what was assumed
    when the description was read. ``class_count`` is how many classes the zoo says that a detector
    has; ``assured`` says that the zoo answers for what its own file leaves open.
    """

    name: str
    path: Path
    spec: ModelSpec | None = None
    input_hw: tuple[int, int] | None = None
    keypoint_set: str | None = None
    notes: tuple[str, ...] = ()
    class_count: int | None = None
    assured: bool = False

    def assumed(self, notes: tuple[str, ...]) -> tuple[str, ...]:
        """What to say of a conversion of it; ``notes`` are what reading the file assumed."""
        return self.notes if self.assured else (*self.notes, *notes)
