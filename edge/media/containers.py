"""What picture files say of themselves: how many pictures they hold, and which way up.

Only what OpenCV does not tell, or not in all its versions. Nothing here raises: of a damaged file
there is nothing to say, and its decoder refuses it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

__all__ = [
    "count_pictures",
    "holds_jpeg_video",
    "is_camera_raw",
    "is_cut_png",
    "stored_orientation",
]

_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
# Tags of TIFF 6.0, TIFF/EP and DNG.
_SUBFILE, _PHOTOMETRIC, _ORIENTATION, _DNG_VERSION = 254, 262, 274, 50706
_REDUCED_OR_MASK = 0b101
_SENSOR = (32803, 34892)
# More is no picture that anybody made, but a damaged file.
_MOST = 100_000


def count_pictures(data: bytes) -> int:
    """How many pictures a file holds: frames of an animation, pages; 1 where nothing tells."""
    try:
        if data.startswith(b"\x89PNG"):
            return _of_png(data)
        if data.startswith(b"GIF8"):
            return _of_gif(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return max(1, sum(kind == b"ANMF" for kind, _ in _chunks(data)))
        if data.startswith(_TIFF):
            return _of_tiff(data)
        if data.startswith(b"\xff\xd8\xff"):
            return len(list(_jpegs(data)))
        if data[4:8] == b"ftyp" and data[8:12] == b"avis":
            return _of_avif(data)
    except (IndexError, struct.error, ValueError):
        pass
    return 1


def stored_orientation(data: bytes) -> int:
    """EXIF's orientation, 1 to 8, of a JPEG, PNG, WebP or AVIF picture; 1 of others.

    An AVIF picture has it as turn and mirror (ISO/IEC 23008-12, 6.5.10 and 6.5.12), and its EXIF
    does not count.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _exif_orientation(_exif_of_jpeg(data))
        if data.startswith(b"\x89PNG"):
            return _exif_orientation(_exif_of_png(data))
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            found = (content for kind, content in _chunks(data) if kind == b"EXIF")
            return _exif_orientation(next(found, b""))
        if data[4:8] == b"ftyp":
            return _avif_orientation(data)
    except (IndexError, struct.error, ValueError):
        pass
    return 1


# --- TIFF -----------------------------------------------------------------------------------------


def is_camera_raw(data: bytes) -> bool:
    """Whether a TIFF is a camera's raw file: its first picture is a preview, or a mosaic."""
    try:
        order, at, big = _tiff_head(data)
        entries, _ = _directory(data, at, order, big)
    except (struct.error, ValueError):
        return False
    return (
        _DNG_VERSION in entries
        or bool(entries.get(_SUBFILE, 0) & 1)
        or entries.get(_PHOTOMETRIC) in _SENSOR
    )


def _of_tiff(data: bytes) -> int:
    """Pages, without previews, overviews and masks."""
    order, at, big = _tiff_head(data)
    count, seen = 0, set[int]()
    while at and at not in seen and len(seen) < _MOST:
        seen.add(at)
        entries, at = _directory(data, at, order, big)
        count += not entries.get(_SUBFILE, 0) & _REDUCED_OR_MASK
    return max(1, count)


def _tiff_head(head: bytes) -> tuple[str, int, bool]:
    """Byte order, offset of the first directory, and whether offsets have 8 bytes."""
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", head, 2)[0] == 43
    at = struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, 8 if big else 4)[0]
    return order, at, big


def _directory(data: bytes, at: int, order: str, big: bool) -> tuple[dict[int, int], int]:
    """Tags of one small number, and where the next directory is; 0: nowhere."""
    count_type, entry, offset = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    (count,) = struct.unpack_from(order + count_type, data, at)
    if count > 1000:
        raise ValueError("no directory")
    at += struct.calcsize(order + count_type)
    size = struct.calcsize(order + entry) + struct.calcsize(order + offset)
    tags = {}
    for _ in range(count):
        tag, kind, _length = struct.unpack_from(order + entry, data, at)
        place = at + struct.calcsize(order + entry)
        tags[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, place)[0]
        at += size
    following = data[at : at + struct.calcsize(order + offset)]
    if len(following) < struct.calcsize(order + offset):
        return tags, 0
    return tags, struct.unpack(order + offset, following)[0]


def _exif_orientation(data: bytes) -> int:
    data = data.removeprefix(_EXIF)  # which some write where no standard has it
    if not data:
        return 1
    order, at, big = _tiff_head(data)
    tags, _ = _directory(data, at, order, big)
    value = tags.get(_ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


# --- JPEG -----------------------------------------------------------------------------------------

# Behind the scan's data: a marker that is neither a stuffed byte, nor a restart, nor filling.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_MPF = b"MPF\x00"
_EXIF = b"Exif\x00\x00"


def holds_jpeg_video(data: bytes) -> bool:
    """Whether these are JPEGs of one size in a row, as cameras stream them.

    Stereo pictures (CIPA DC-007) are several as well, and say so.
    """
    try:
        found = list(_jpegs(data, most=2))
    except (IndexError, struct.error, ValueError):
        return False
    return len(found) > 1 and not found[0]


def _jpegs(data: bytes, most: int = _MOST) -> Iterator[bool]:
    """The JPEGs one behind the other that are as large as the first; whether each has an index."""
    at, first = 0, b""
    for _ in range(most):
        size_hw, indexed, at = _one_jpeg(data, at)
        if size_hw != (first or size_hw):
            return
        first = size_hw
        yield indexed
        while data[at : at + 1] == b"\x00":
            at += 1
        if data[at : at + 3] != b"\xff\xd8\xff":
            return


def _one_jpeg(data: bytes, at: int) -> tuple[bytes, bool, int]:
    """Height and width as they are written, whether an index of pictures is there, and its end."""
    size_hw, indexed, at = b"", False, at + 2
    while True:
        found = _MARKER.search(data, at)
        if found is None:
            raise ValueError("no end")
        marker, at = data[found.start() + 1], found.end()
        if marker == 0xD9:
            return size_hw, indexed, at
        if marker == 0xD8 or marker == 0x01:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _FRAMES:
            size_hw = data[at + 3 : at + 7]
        indexed |= marker == 0xE2 and data[at + 2 : at + 6] == _MPF
        at += length


def _exif_of_jpeg(data: bytes) -> bytes:
    """EXIF comes before the picture, and may be behind other notes of the same kind."""
    at = 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, at + 2)
        content = data[at + 4 : at + 2 + length]
        if data[at + 1] == 0xE1 and content.startswith(_EXIF):
            return content
        at += 2 + length
    return b""


# --- PNG, GIF, WebP -------------------------------------------------------------------------------


def _of_png(data: bytes) -> int:
    """Frames of an animation: the chunk acTL, which comes before the picture."""
    at = 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"acTL":
            return max(1, int(struct.unpack_from(">I", data, at + 8)[0]))
        if kind == b"IDAT":
            return 1
        at += 12 + length
    return 1


def is_cut_png(data: bytes) -> bool:
    """Whether a chunk of a PNG ends behind the file: OpenCV makes room for all that it claims."""
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if kind == b"IEND":
            break
    return at > len(data)


def _exif_of_png(data: bytes) -> bytes:
    """The chunk eXIf, which may come behind the picture."""
    at = 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            return data[at + 8 : at + 8 + length]
        at += 12 + length
    return b""


def _of_gif(data: bytes) -> int:
    count, at = 0, 13 + _palette_bytes(data[10])
    while data[at] != 0x3B:
        if data[at] == 0x21:
            at += 2
        elif data[at] == 0x2C:
            count += 1
            at += 11 + _palette_bytes(data[at + 9])
        else:
            break
        while data[at]:  # blocks, each with its length before it
            at += 1 + data[at]
        at += 1
    return max(1, count)


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of a RIFF file's chunks."""
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


# --- AVIF -----------------------------------------------------------------------------------------


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the boxes of ISO's container, one level of them."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        header = 8
        if size == 1:
            (size,), header = struct.unpack_from(">Q", data, at + 8), 16
        size = size or len(data) - at
        if size < header:
            return
        yield kind, data[at + header : at + size]
        at += size


def _inside(data: bytes, *path: bytes) -> bytes:
    """The content of the first box of a path; empty where there is none."""
    for wanted in path:
        data = next((content for kind, content in _boxes(data) if kind == wanted), b"")
    return data


def _of_avif(data: bytes) -> int:
    """Frames of a sequence."""
    sizes = _inside(data, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")
    return max(1, int(struct.unpack_from(">I", sizes, 8)[0])) if sizes else 1


def _avif_orientation(data: bytes) -> int:
    """What turn and mirror of the main picture make together."""
    meta = _inside(data, b"meta")[4:]
    item = _inside(meta, b"pitm")
    main = struct.unpack_from(">H" if item[:1] == b"\x00" else ">I", item, 4)[0] if item else 1
    properties = list(_boxes(_inside(meta, b"iprp", b"ipco")))
    turns, mirror = 0, None
    for place in _associated(_inside(meta, b"iprp", b"ipma"), main):
        kind, content = properties[place - 1]
        if kind == b"irot":
            turns = content[0] & 3
        elif kind == b"imir":
            mirror = content[0] & 1
    # Anticlockwise turns; then mirrored: 0 exchanges top and bottom, 1 left and right.
    return {
        None: (1, 8, 3, 6),
        0: (4, 5, 2, 7),
        1: (2, 7, 4, 5),
    }[mirror][turns]


def _associated(content: bytes, main: int) -> list[int]:
    """The places, from 1, of the properties of an item (ISO/IEC 14496-12, 8.11.14)."""
    if not content:
        return []
    version, wide = content[0], content[3] & 1
    (count,) = struct.unpack_from(">I", content, 4)
    at = 8
    for _ in range(min(count, _MOST)):
        item_type = ">H" if version < 1 else ">I"
        (item,) = struct.unpack_from(item_type, content, at)
        at += struct.calcsize(item_type)
        number, at = content[at], at + 1
        step = 2 if wide else 1
        places = [
            int.from_bytes(content[at + n * step : at + (n + 1) * step], "big")
            & (0x7FFF if wide else 0x7F)
            for n in range(number)
        ]
        if item == main:
            return [place for place in places if place]
        at += number * step
    return []
