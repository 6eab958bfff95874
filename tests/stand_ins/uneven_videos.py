"""Videos whose frames come when they come, as browsers and phones record them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.stand_ins.moving_people import Image

_UNKNOWN_SIZE = b"\x01" + b"\xff" * 7


def write_recording(
    path: Path, frames: Sequence[Image], times_ms: Sequence[int], length_ms: float | None = None
) -> Path:
    """A Matroska file of JPEGs without rate or index (RFC 9559), its clock one of 1 ms."""
    import struct

    import cv2

    height, width = frames[0].shape[:2]
    info = _element("2ad7b1", (1_000_000).to_bytes(3, "big"))
    if length_ms is not None:
        info += _element("4489", struct.pack(">d", length_ms))
    picture = _element("e0", _number("b0", width) + _number("ba", height))
    track = _number("d7", 1) + _number("73c5", 1) + _number("83", 1)
    track += _element("86", b"V_MJPEG") + picture
    segment = _element("1549a966", info) + _element("1654ae6b", _element("ae", track))
    for frame, time_ms in zip(frames, times_ms, strict=True):
        jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
        block = _element("a3", b"\x81\x00\x00\x80" + jpeg)
        segment += _element("1f43b675", _number("e7", time_ms) + block)
    head = _element("4282", b"matroska") + _number("4287", 4) + _number("4285", 2)
    whole = bytes.fromhex("18538067") + _UNKNOWN_SIZE + segment
    path.write_bytes(_element("1a45dfa3", head) + whole)
    return path


def shown_s(path: Path) -> list[float]:
    """When a player shows the frames of a video, in seconds."""
    import cv2

    capture, times_s = cv2.VideoCapture(str(path)), []
    while capture.read()[0]:
        times_s.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    capture.release()
    return times_s


def length_s(path: Path) -> float:
    """How long a player shows a video, by its header."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    seconds = capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return float(seconds)


def _element(key: str, data: bytes) -> bytes:
    return bytes.fromhex(key) + (len(data) | 1 << 56).to_bytes(8, "big") + data


def _number(key: str, value: int) -> bytes:
    return _element(key, value.to_bytes(4, "big"))
