"""What `edge run` says of its pictures and frames: JSON written as it goes, and its progress."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edge.files import replacing
from edge.people import rounded, seen_or_zero
from edge.pipeline import Pose

__all__ = ["JsonFile", "coco_result", "interruptible"]


class JsonFile:
    """A JSON file with one long list, written item by item; whole under its name, or not there."""

    def __init__(self, path: Path, head: str, tail: str) -> None:
        self.path = path
        self._tail = tail
        self._separator = "\n"
        self._place = ExitStack()
        private = self._place.enter_context(replacing(path))
        self._file = private.open("w", encoding="utf-8")
        self._file.write(head)

    def add(self, item: dict[str, Any]) -> None:
        """Append an item, on a line of its own."""
        self._file.write(self._separator + json.dumps(item, allow_nan=False))
        self._separator = ",\n"

    def __enter__(self) -> JsonFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        with self._place:
            if kind is None:
                self._file.write(self._tail)
            self._file.close()
            if kind is not None:
                self._place.__exit__(kind, value, trace)  # without a name


def coco_result(image_id: int, pose: Pose, *, by_box: bool) -> dict[str, Any]:
    """One entry of COCO's results format, with the track's number where there is one.

    ``by_box``: an untracked person's score is the box's alone, as mmpose ranks the people of a
    one-stage model.
    """
    x1, y1, x2, y2 = pose.box_xyxy
    alone = by_box and pose.track_id is None
    result = {
        "image_id": image_id,
        "category_id": 1,
        "bbox": rounded(np.array([x1, y1, x2 - x1, y2 - y1]), 2),
        "keypoints": rounded(seen_or_zero(pose.keypoints).reshape(-1), 4),
        "score": rounded([pose.box_score if alone else pose.score], 4)[0],
    }
    return result if pose.track_id is None else result | {"track_id": pose.track_id}


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or an end from outside was asked for; the frame at work is finished first.

    A second one ends at once, as without this.
    """
    asked: list[int] = []
    previous: dict[int, Any] = {}

    def ask(number: int, frame: object) -> None:
        del frame
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt

    for number in map(int, (signal.SIGINT, signal.SIGTERM)):
        # What was started in the background by a script is deaf to Ctrl-C, and stays so.
        if signal.getsignal(number) != signal.SIG_IGN:
            previous[number] = signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
