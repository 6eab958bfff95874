"""Are these pictures fit to calibrate on? Figures about them, and what is wrong in words."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import ImageError
from edge.picture import first_taken

__all__ = ["LEAST_FEEDS", "Survey"]

LEAST_FEEDS = 8
"""With fewer, a range is a guess."""
USUAL_FEEDS = 64
"""With fewer, a word of warning."""
UNIFORM_LEVELS = 8.0
"""A picture whose grey levels deviate less from their mean shows next to nothing."""
ALIKE_LEVELS = 4.0
"""Pictures that deviate less from the mean picture, over a coarse grid, are one and the same."""
MAGNIFIED = 2.5
"""A picture that is enlarged more than this to fill the network's input is far too small."""
_WORTH_SAYING = 0.1  # of all pictures

_GRID = (8, 8)


class Survey:
    """Takes in the pictures of a calibration set one by one and says what it saw.

    ``several``: files that hold several pictures, of which the first was read, and how many.
    """

    def __init__(self) -> None:
        self.several: dict[str, int] = {}
        self._digest = hashlib.sha256()
        self._notes: list[str] = []
        self._seen: set[bytes] = set()
        self._copies: list[str] = []
        self._unreadable: list[str] = []
        self._deviations: list[float] = []
        self._grids: list[NDArray[np.float64]] = []
        self._magnifications: list[float] = []

    @property
    def sha256(self) -> str:
        """Over the pictures and boxes that were taken in, in their order."""
        return self._digest.hexdigest()

    def note(self, line: str) -> None:
        """Keep a line for the notices."""
        self._notes.append(line)

    def unreadable(self, error: ImageError) -> None:
        """Note a file that cannot be used."""
        self._unreadable.append(str(error))

    def add(
        self,
        name: str,
        image_bgr: NDArray[np.uint8],
        box_xyxy: NDArray[np.float32] | None,
        magnification: float,
    ) -> bool:
        """Take in what a feed is made of; False for a copy of one that was taken before.

        ``magnification``: px of the network's input that a px of the picture becomes.
        """
        content = hashlib.sha256(repr(image_bgr.shape).encode() + image_bgr.tobytes())
        if box_xyxy is not None:
            content.update(np.asarray(box_xyxy, np.float32).tobytes())
        if content.digest() in self._seen:
            self._copies.append(name)
            return False
        self._seen.add(content.digest())
        self._digest.update(content.digest())
        import cv2  # here: who only names the pictures of a folder does not wait for it

        grid = cv2.resize(_shown(image_bgr, box_xyxy), _GRID, interpolation=cv2.INTER_AREA)
        self._grids.append(np.asarray(grid, np.float64).mean(axis=-1))
        self._deviations.append(float(_shown(image_bgr, box_xyxy)[::2, ::2].mean(axis=-1).std()))
        self._magnifications.append(magnification)
        return True

    def refuse_few(self, what: str) -> None:
        """Raise ImageError where too few pictures are left."""
        count = len(self._deviations)
        if count < LEAST_FEEDS:
            lost = self._losses()
            raise ImageError(
                f"{what}: calibration needs {LEAST_FEEDS} different ones or more, these are "
                f"{count}{' (' + '; '.join(lost) + ')' if lost else ''}; give more pictures, or "
                "leave --calib out for synthetic ones"
            )

    def notices(self) -> list[str]:
        """What a user should know of these pictures, with figures."""
        count = len(self._deviations)
        found = [*self._notes, *self._losses()]
        if self.several:
            found.append(first_taken(self.several))
        if count < USUAL_FEEDS:
            found.append(f"only {count} calibration feeds; 100 to 300 are usual")
        spread = self.spread_levels()
        if spread < ALIKE_LEVELS:
            found.append(
                f"the {count} calibration pictures are nearly the same: they differ from their "
                f"mean by {spread:.1f} grey levels (photographs: 30 and more)"
            )
        deviations = np.array(self._deviations)
        uniform = int((deviations < UNIFORM_LEVELS).sum())
        if uniform > _WORTH_SAYING * count:
            found.append(
                f"{uniform} of {count} calibration pictures are nearly uniform: their grey levels "
                f"deviate by {float(np.median(deviations)):.1f} in the median (photographs: 40 and "
                "more)"
            )
        magnifications = np.array(self._magnifications)
        small = int((magnifications > MAGNIFIED).sum())
        if small > _WORTH_SAYING * count:
            found.append(
                f"{small} of {count} calibration pictures are far smaller than the network's "
                f"input: they are enlarged {float(np.median(magnifications)):.1f} times in the "
                "median"
            )
        return found

    def spread_levels(self) -> float:
        """Mean deviation of the pictures, on a coarse grid, from their mean; grey levels."""
        grids = np.array(self._grids)
        return float(np.abs(grids - grids.mean(axis=0)).mean())

    def _losses(self) -> list[str]:
        found = []
        for names, text in (
            (self._copies, "copies of others were left out"),
            (self._unreadable, "files could not be used"),
        ):
            if names:
                found.append(f"{len(names)} {text}, the first: {names[0]}")
        return found


def _shown(image: NDArray[np.uint8], box_xyxy: NDArray[np.float32] | None) -> Any:
    """The part of a picture that a box shows; all of it where that is nothing."""
    if box_xyxy is None:
        return image
    height, width = image.shape[:2]
    x1, y1, x2, y2 = np.rint(np.clip(box_xyxy, 0, [width, height, width, height])).astype(int)
    shown = image[y1:y2, x1:x2]
    return shown if shown.size else image
