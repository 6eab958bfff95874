"""What `edge run` says of answers that were left out: of other classes, and what was no number."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge.classes import others_text
from edge.onestage import OneStage
from edge.pipeline import Pipeline, Pose

__all__ = ["CountedPeople"]


class CountedPeople:
    """Finds people, and remembers how many they were in all."""

    def __init__(self, find: Pipeline | OneStage) -> None:
        self._find = find
        self.count = 0

    def __call__(self, image_bgr: npt.NDArray[np.uint8]) -> list[Pose]:
        """The people in an image."""
        found = self._find(image_bgr)
        self.count += len(found)
        return found

    @property
    def tracker(self) -> Any:
        """Who follows them, None for nobody."""
        return self._find.tracker

    def notes(self) -> list[str]:
        """What has to be said at the end, a line each."""
        notes = []
        detector = self._find.detector if isinstance(self._find, Pipeline) else None
        if detector and detector.other_counts and not self.count:
            notes.append(others_text(detector.other_counts, detector.session.spec))
        lost = self._find.lost_count
        if lost:
            answers = "1 answer" if lost == 1 else f"{lost} answers"
            notes.append(
                f"{answers} of the network were not finite numbers and count as not seen; "
                "another variant may keep them (`edge info` shows the largest value inside)"
            )
        return notes
