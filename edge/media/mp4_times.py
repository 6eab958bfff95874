"""When the frames of an MP4 are shown: the table of times of a file that was written without.

OpenCV writes one frame after the other at a constant rate, into a file whose index comes last, so
that the index can be written anew. Boxes and fields: ISO/IEC 14496-12, chapter 8.
"""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["CLOCK_HZ", "FrameTimes"]

CLOCK_HZ = 90_000
"""Ticks a second, as usual in video: 25, 29.97, 30 and 60 frames a second are whole numbers."""

_NESTED = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_MOST_TICKS = 2**32 - 1


class FrameTimes:
    """The times of a video's frames, in runs of equal gaps, so that they take little memory."""

    def __init__(self, usual_s: float) -> None:
        self.count = 0
        self._usual = max(1, round(usual_s * CLOCK_HZ))
        self._last = 0
        self._film_hz = 1000
        self._runs: list[list[int]] = []  # number and length in ticks of gaps

    def add(self, at_s: float) -> None:
        """A frame that is shown from this time on; the first one is shown from the beginning."""
        self.count += 1
        if self.count == 1:
            return
        # Two frames at one time would leave none for the first.
        gap = min(max(1, round(at_s * CLOCK_HZ) - self._last), _MOST_TICKS)
        self._last += gap
        self._add(gap)

    def write(self, path: Path) -> None:
        """Put the times into an MP4 of as many frames; its last frame is shown for as long as most.

        Raises ValueError where the file is not laid out as expected, OSError where writing fails.
        """
        ticks = sorted((gap, number) for number, gap in self._runs)
        below, half = 0, sum(number for _, number in ticks) / 2
        last = self._usual
        for gap, number in ticks:
            below += number
            last = gap
            if below >= half:
                break
        self._add(last)
        with path.open("r+b") as stream:
            start, index = 0, b""
            while header := stream.read(8):
                size, kind = struct.unpack(">I4s", header)
                large = size == 1
                if large:
                    (size,) = struct.unpack(">Q", stream.read(8))
                if index or size < 8:
                    raise ValueError("the index is not at the end")
                if kind == b"moov":
                    index = header + stream.read(size - 8)
                else:
                    start += size
                    stream.seek(start)
            changed = self._changed(index)
            stream.seek(start)
            stream.write(changed)
            stream.truncate()

    def _add(self, gap: int) -> None:
        if self._runs and self._runs[-1][1] == gap:
            self._runs[-1][0] += 1
        else:
            self._runs.append([1, gap])

    def _changed(self, boxes: bytes) -> bytes:
        """The same boxes, one after the other, with these times."""
        changed, at = b"", 0
        while at + 8 <= len(boxes):
            size, kind = struct.unpack_from(">I4s", boxes, at)
            if not 8 <= size <= len(boxes) - at:
                raise ValueError(f"a box {kind!r} of {size} bytes")
            content = boxes[at + 8 : at + size]
            at += size
            if kind == b"edts":  # begins at the beginning and goes to the end, as without it
                continue
            content = self._changed(content) if kind in _NESTED else self._of_box(kind, content)
            changed += struct.pack(">I4s", len(content) + 8, kind) + content
        if at != len(boxes) or not changed:
            raise ValueError("no index")
        return changed

    def _of_box(self, kind: bytes, content: bytes) -> bytes:
        total = sum(number * gap for number, gap in self._runs)
        if kind == b"stts":
            entries = b"".join(struct.pack(">II", *run) for run in self._runs)
            return content[:4] + struct.pack(">I", len(self._runs)) + entries
        if kind == b"stsz" and struct.unpack_from(">I", content, 8)[0] != self.count:
            raise ValueError("another number of frames")
        if kind == b"ctts":
            raise ValueError("frames in another order than they are shown in")
        if kind not in (b"mvhd", b"mdhd", b"tkhd"):
            return content
        if content[0] != 0:
            raise ValueError(f"a box {kind!r} of version {content[0]}")
        if kind == b"mdhd":  # as version 1, which has eight bytes for times
            made = struct.unpack_from(">II", content, 4)
            times = struct.pack(">QQIQ", *made, CLOCK_HZ, total)
            return b"\x01" + content[1:4] + times + content[20:]
        # mvhd has the clock of the whole file, and tkhd a length by that clock.
        if kind == b"mvhd":
            (self._film_hz,) = struct.unpack_from(">I", content, 12)
        length = min(round(total * self._film_hz / CLOCK_HZ), _MOST_TICKS - 1)
        place = 16 if kind == b"mvhd" else 20
        return content[:place] + struct.pack(">I", length) + content[place + 4 :]
