"""What a file is, by its first bytes: a picture, a video, or something that is not read.

Names say nothing: phones and browsers save pictures without a suffix or with another's, and FFmpeg
opens most pictures as videos of one frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge.errors import ImageError
from edge.media.containers import holds_jpeg_video, is_camera_raw

__all__ = ["FileKind", "file_kind", "kind_of"]

Kind = Literal["picture", "video", "other", "unknown"]

_HEAD_BYTES = 4096


@dataclass(frozen=True)
class FileKind:
    """``kind`` and the format's name; ``other`` is known and not read, ``unknown`` has no name.

    Whether a picture's format is read depends on the OpenCV that is installed.
    """

    kind: Kind
    name: str


_UNKNOWN = FileKind("unknown", "")

# Offset and bytes -> name. The order counts where one begins as another does.
_PICTURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"II\xbc", "JPEG XR"),
)
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_RAW = "a camera's raw format"
_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (8, b"CR\x02\x00", f"CR2, {_RAW},"),
    (6, b"HEAPCCDR", f"CRW, {_RAW},"),
    (0, b"FUJIFILMCCD-RAW", f"RAF, {_RAW},"),
    (0, b"IIU\x00", f"RW2, {_RAW},"),
    (0, b"IIRO", f"ORF, {_RAW},"),
    (0, b"IIRS", f"ORF, {_RAW},"),
    (0, b"MMOR", f"ORF, {_RAW},"),
    (0, b"FOVb", f"X3F, {_RAW},"),
    (0, b"\x00MRM", f"MRW, {_RAW},"),
    (0, b"8BPS", "Photoshop's PSD"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"icns", "ICNS"),
    (0, b"DDS ", "DDS"),
    (0, b"gimp xcf", "GIMP's XCF"),
    (0, b"qoif", "QOI"),
    (0, b"FLIF", "FLIF"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"\x01\xda", "SGI"),
    (0, b"\x8aMNG", "MNG"),
    (0, b"\x8bJNG", "JNG"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"/* XPM", "XPM"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "a zip archive"),
    (0, b"Rar!\x1a", "a RAR archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x93NUMPY", "NumPy's array file"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"SQLite format 3", "SQLite"),
    (0, b"\x7fELF", "a program"),
    (0, b"\x00\x05\x16\x07", "a file of macOS about another file"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself,"),
    (0, b"ID3", "MP3"),
    (0, b"fLaC", "FLAC"),
)
_VIDEOS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (0, b"FLV\x01", "Flash video"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media"),
    (0, b"OggS", "Ogg"),
    (0, b"YUV4MPEG2 ", "YUV4MPEG"),
    (0, b"DKIF", "IVF"),
    (0, b".RMF", "RealMedia"),
    (0, b"\x00\x00\x01\xba", "MPEG"),
    (0, b"\x00\x00\x01\xb3", "MPEG"),
    (0, b"\x00\x00\x01\xb0", "MPEG-4"),
    (0, b"\x00\x00\x00\x01\x67", "H.264"),
    (0, b"\x00\x00\x00\x01\x40", "H.265"),
    (0, b"\x06\x0e\x2b\x34", "MXF"),
    (0, b"#EXTM3U", "HLS"),
)
_TABLES: tuple[tuple[Kind, tuple[tuple[int, bytes, str], ...]], ...] = (
    ("other", _OTHERS),
    ("picture", _PICTURES),
    ("video", _VIDEOS),
)
# The size of a BMP's second header: of which kind it is.
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
# Black and white, or grey and colours: width, height, and the level of white, with comments.
_GAP = rb"(?:\s|#[^\n]*\n)+"
_PNM = re.compile(
    rb"P(?:[14](?=[\s#])|[2356]" + _GAP + rb"\d+" + _GAP + rb"\d+" + _GAP + rb"(\d+)\s)"
)
# No table of colours, of grey or colours, plain or packed; origin, width, height, bits of a pixel.
_TGA = re.compile(rb"[\s\S]\x00[\x02\x03\x0a\x0b]\x00{5}[\s\S]{8}[\x08\x0f\x10\x18\x20]")
# Brands of ISO's container that hold pictures; every other holds a video (ISO/IEC 23008-12).
_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_OTHER_BRANDS = {
    b"crx ": f"CR3, {_RAW},", b"avci": "HEIF", b"jpeg": "HEIF", b"j2ki": "HEIF",
    b"M4A ": "M4A, sound alone,", b"M4B ": "M4B, sound alone,",
}  # fmt: skip
_HEIF = (b"mif1", b"msf1", b"mif2", b"miaf")
_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def file_kind(path: Path) -> FileKind:
    """What a file is; ImageError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
            # What these are the rest has to tell.
            whole = head.startswith((*_TIFF, b"\xff\xd8\xff"))
            return kind_of(head + stream.read() if whole else head)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None


def kind_of(data: bytes) -> FileKind:
    """What a file is that begins with these bytes: some thousand, of JPEG and TIFF all."""
    for kind, table in _TABLES:
        for offset, sign, name in table:
            if data.startswith(sign, offset):
                if name == "JPEG" and holds_jpeg_video(data):
                    return FileKind("video", "Motion JPEG")
                return FileKind(kind, name)
    if data.startswith(_TIFF):
        if is_camera_raw(data):
            return FileKind("other", f"this TIFF is {_RAW}, which")
        return FileKind("picture", "TIFF")
    head = data[:_HEAD_BYTES]
    if head[4:8] == b"ftyp":
        return _by_brands(head)
    return _by_structure(head)


def _by_brands(head: bytes) -> FileKind:
    """MP4, MOV, 3GP and their like; AVIF and HEIC, whose first brand may be that of all HEIF."""
    size = int.from_bytes(head[:4], "big")
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(size, len(head)) - 3, 4))]
    named = brands if brands[0] in _HEIF else brands[:1]
    if any(brand in _AVIF for brand in named):
        return FileKind("picture", "AVIF")
    if any(brand in _HEIC for brand in named):
        return FileKind("other", "HEIC")
    if brands[0] in _HEIF:
        return FileKind("other", "HEIF")
    if brands[0] in _OTHER_BRANDS:
        return FileKind("other", _OTHER_BRANDS[brands[0]])
    return FileKind("video", "MP4")


def _by_structure(head: bytes) -> FileKind:
    """Formats that one fixed sign does not tell."""
    if head.startswith((b"RIFF", b"RIFX", b"ON2 ")):
        what = head[8:12]
        if what == b"WEBP":
            return FileKind("picture", "WebP")
        if what in (b"AVI ", b"AVIX", b"ON2f"):
            return FileKind("video", "AVI")
        return FileKind("other", "WAV" if what == b"WAVE" else "this kind of RIFF")
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return FileKind("picture", "BMP")
    if pnm := _PNM.match(head):
        # OpenCV takes levels as they are, whatever is white.
        white = pnm[1] or b"255"
        if white in (b"255", b"65535"):
            return FileKind("picture", "PNM")
        return FileKind("other", f"PNM with the white {white.decode()[:9]} (255 or 65535 is)")
    if head.startswith(b"P7\n"):
        return FileKind("picture", "PNM")
    if re.match(rb"P[Ff]\s+\d+\s", head):
        # Grey levels may be 0 to 1 or to 255 there, and nothing tells which.
        return FileKind("other", "PFM, which holds numbers without a range,")
    if head[4:8] in _ATOMS and len(head) > 8:
        return FileKind("video", "QuickTime")
    # Packets of 188 bytes, or of 192 with the time before them.
    for start, step in ((0, 188), (4, 192)):
        if len(head) > start + 4 * step and set(head[start : start + 5 * step : step]) == {0x47}:
            return FileKind("video", "MPEG transport stream")
    if re.match(rb"\x00\x00[\x01\x02]\x00[^\x00]\x00", head):
        return FileKind("other", "ICO")
    if re.match(rb"\x0a[\x00-\x05][\x00\x01][\x01\x02\x04\x08]", head):
        return FileKind("other", "PCX")
    if _TGA.match(head):
        return FileKind("other", "TGA")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        if b"<svg" in text:
            return FileKind("other", "SVG")
        if text.startswith((b"<!doctype html", b"<html")) or b"<html" in text:
            return FileKind("other", "a web page, which")
        return FileKind("other", "XML")
    return _UNKNOWN
