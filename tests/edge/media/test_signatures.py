"""What files are by their first bytes, how many pictures they hold, and which way up they come."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import ImageError
from edge.media.containers import count_pictures
from edge.media.signatures import file_kind, kind_of

cv2 = pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")


def corners() -> Any:
    """A picture without any symmetry."""
    image = np.full((40, 60, 3), 90, np.uint8)
    image[:12, :24] = (250, 0, 0)
    image[28:, :12] = (0, 250, 0)
    image[:8, 48:] = (0, 0, 250)
    return image


def saved(form: str, image: Any = None, **how: Any) -> bytes:
    out = io.BytesIO()
    try:
        Image.fromarray(corners() if image is None else image).save(out, form, **how)
    except (OSError, KeyError, ValueError) as error:
        pytest.skip(f"this Pillow does not write {form}: {error}")
    return out.getvalue()


PICTURES = {
    "JPEG": "JPEG", "PNG": "PNG", "GIF": "GIF", "WEBP": "WebP", "TIFF": "TIFF", "BMP": "BMP",
    "JPEG2000": "JPEG 2000", "PPM": "PNM", "AVIF": "AVIF",
}  # fmt: skip


@pytest.mark.parametrize("form", PICTURES)
def test_pictures_are_read_whatever_their_name(form: str, tmp_path: Path) -> None:
    from edge.picture import read_image

    data = saved(form)
    assert (kind_of(data).kind, kind_of(data).name) == ("picture", PICTURES[form])
    for name in ("no-suffix", "clip.mp4", "notes.txt"):
        path = tmp_path / name
        path.write_bytes(data)
        assert file_kind(path).name == PICTURES[form]
        if cv2.haveImageReader(str(path)):
            off = np.abs(read_image(path).astype(int) - corners()[..., ::-1])
            assert off.mean() < 12, name


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_in_every_format(form: str, orientation: int, tmp_path: Path) -> None:
    """Pillow, which turns pictures by itself, is the truth."""
    from PIL import ImageOps

    from edge.picture import read_image

    tag = Image.Exif()
    tag[0x0112] = orientation
    how: dict[str, Any] = {"exif": tag}
    if form == "TIFF":
        how = {"tiffinfo": {0x0112: orientation}}
    elif form != "PNG":
        how["quality"] = 95
    path = tmp_path / "phone"
    path.write_bytes(saved(form, **how))
    if not cv2.haveImageReader(str(path)):
        pytest.skip(f"this OpenCV does not read {form}")
    want = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))[..., ::-1]
    got = read_image(path)
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).mean() < 4


def test_exif_wherever_it_lies(tmp_path: Path) -> None:
    """Behind other notes, in both orders of bytes, behind the picture: none of it is forbidden."""
    from edge.picture import read_image

    little = struct.pack("<4sIHHHIHHI", b"II*\0", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    big = struct.pack(">4sIHHHIHHI", b"MM\0*", 8, 1, 0x0112, 3, 1, 6, 0, 0)

    def segment(content: bytes) -> bytes:
        return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content

    def chunk(content: bytes) -> bytes:
        checked = b"eXIf" + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    jpeg, png = saved("JPEG", quality=95), saved("PNG")
    xmp = segment(b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")
    for exif in (little, big):
        noted = segment(b"Exif\0\0" + exif)
        for data in (
            jpeg[:2] + noted + jpeg[2:],
            jpeg[:20] + noted + jpeg[20:],
            jpeg[:2] + xmp + noted + jpeg[2:],
            png[:33] + chunk(exif) + png[33:],
            png[:-12] + chunk(exif) + png[-12:],
        ):
            path = tmp_path / "a"
            path.write_bytes(data)
            turned = np.rot90(corners()[..., ::-1], -1)  # clockwise
            assert np.abs(read_image(path).astype(int) - turned).mean() < 4


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_how_many_pictures_there_are(form: str, count: int) -> None:
    frames = [Image.fromarray(np.roll(corners(), 6 * n, axis=1)) for n in range(count)]
    out = io.BytesIO()
    try:
        frames[0].save(out, form, save_all=True, append_images=frames[1:])
    except (OSError, KeyError, ValueError) as error:
        pytest.skip(f"this Pillow does not write {form}: {error}")
    assert count_pictures(out.getvalue()) == count
    assert kind_of(out.getvalue()).kind == "picture"
    # Cut anywhere: an answer, whatever it is.
    for end in range(0, len(out.getvalue()), 97):
        assert count_pictures(out.getvalue()[:end]) >= 1


@pytest.mark.parametrize(("subfiles", "count"), [((0, 1, 4), 1), ((0, 0, 2), 3), ((1, 1), 1)])
def test_pages_without_previews_and_masks(subfiles: tuple[int, ...], count: int) -> None:
    """A TIFF of directories with one tag each, made by hand (TIFF 6.0, tag 254)."""
    data = b"II*\x00" + struct.pack("<I", 8)
    for number, subfile in enumerate(subfiles):
        following = 8 + (number + 1) * 18 if number + 1 < len(subfiles) else 0
        data += struct.pack("<HHHIII", 1, 254, 4, 1, subfile, following)
    assert count_pictures(data) == count


def test_jpegs_in_a_row_are_a_video(tmp_path: Path) -> None:
    from edge.picture import read_image

    path = tmp_path / "camera.jpg"
    path.write_bytes(saved("JPEG") * 3)
    assert (file_kind(path).kind, file_kind(path).name) == ("video", "Motion JPEG")
    with pytest.raises(ImageError, match="a video"):
        read_image(path)
    # A smaller picture behind the first is its preview, and other bytes are no picture at all.
    small = saved("JPEG", corners()[:20, :20])
    for behind in (small, b"trailer" + saved("JPEG")):
        assert kind_of(saved("JPEG") + behind).kind == "picture"
        assert count_pictures(saved("JPEG") + behind) == 1


NOT_READ = {
    "HEIC": struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic",
    "HEIC as all of HEIF": struct.pack(">I", 24) + b"ftypmif1\0\0\0\0mif1heic",
    "HEIF": struct.pack(">I", 20) + b"ftypmif1\0\0\0\0mif1",
    "CR3": struct.pack(">I", 20) + b"ftypcrx \0\0\0\1crx ",
    "CR2": b"II*\x00\x10\0\0\0CR\x02\0" + bytes(80),
    "RAF": b"FUJIFILMCCD-RAW 0201",
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "SVG": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/">',
    "a web page": b"\n<!DOCTYPE html><html><body>404</body></html>",
    "ICO": b"\0\0\1\0\1\0\x10\x10\0\0\1\0 \0",
    "PSD": b"8BPS\0\1" + bytes(6),
    "zip": b"PK\3\4" + bytes(30),
    "macOS": b"\0\5\x16\7\0\2\0\0Mac OS X",
    "TGA": struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 4, 4, 24, 0) + bytes(48),
    "PCX": b"\x0a\5\1\x08" + bytes(124),
    "PFM": b"PF\n4 4\n-1.0\n" + bytes(192),
    "PNM with the white 1023": b"P6\n# by hand\n2 2\n1023\n" + bytes(24),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_formats_that_are_not_read_are_named(name: str, tmp_path: Path) -> None:
    from edge.media.inputs import kind_or_refuse, sort_out
    from edge.picture import read_image

    said: list[str] = []
    path = tmp_path / "a.jpg"
    path.write_bytes(NOT_READ[name])
    assert kind_of(NOT_READ[name]).kind == "other"
    for read in (read_image, kind_or_refuse):
        with pytest.raises(ImageError, match=f"{name.partition(' as ')[0]}.* is not read: save it"):
            read(path)
    (tmp_path / "b.png").write_bytes(saved("PNG"))
    assert sort_out("x", tmp_path.iterdir(), said.append) == [("picture", tmp_path / "b.png")]
    (line,) = said
    assert line.startswith("x: left out: a.jpg (") and "is not read" in line


def test_a_camera_s_raw_file_is_no_tiff(tmp_path: Path) -> None:
    """Its first picture is a small one: what OpenCV would read without a word."""
    from edge.picture import read_image

    plain = tmp_path / "plain.tif"
    plain.write_bytes(saved("TIFF"))
    assert read_image(plain).shape == (40, 60, 3)
    for tag, value in ((50706, b"\1\4\0\0"), (254, 1)):
        path = tmp_path / f"raw{tag}.tif"
        path.write_bytes(saved("TIFF", tiffinfo={tag: value}))
        with pytest.raises(ImageError, match="a camera's raw format, which is not read"):
            read_image(path)


def test_videos() -> None:
    for head in (
        struct.pack(">I", 24) + b"ftypisom\0\0\2\0isomiso2",
        struct.pack(">I", 20) + b"ftypqt  \0\0\2\0qt  ",
        b"\0\0\0\x08wide\0\0\0\0mdat",
        b"\x1aE\xdf\xa3\x9fB\x86",
        b"RIFF\0\0\0\0AVI LIST",
        b"\0\0\1\xba\x44",
        (b"G" + bytes(187)) * 6,
        (bytes(4) + b"G" + bytes(187)) * 6,
        b"0&\xb2u\x8ef\xcf\x11\xa6\xd9",
        b"FLV\1\5",
        b"OggS\0\2",
    ):
        assert kind_of(head).kind == "video", head[:12]


def test_what_nothing_tells() -> None:
    rng = np.random.default_rng(5)
    assert kind_of(b"").kind == "unknown"
    assert kind_of(b"BMW is a car").kind == "unknown"
    assert kind_of(b"P1 is not a picture").kind == "picture"  # its decoder has the last word
    for size in (1, 4, 9, 13, 64, 5000):
        for sign in (b"", b"II*\0", b"\xff\xd8\xff", b"RIFF", b"\0\0\0\x10ftypavis", b"\x89PNG"):
            kind_of(sign + rng.bytes(size))
            count_pictures(sign + rng.bytes(size))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_pictures_that_are_cut_short(
    form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from edge.picture import read_image

    data, path = saved(form), tmp_path / "cut.jpg"
    for share in (0.4, 0.8):
        path.write_bytes(data[: int(len(data) * share)])
        if form == "GIF" and not cv2.haveImageReader(str(path)):
            pytest.skip("this OpenCV does not read GIF")
        with pytest.raises(ImageError, match=f"the {PICTURES[form]} is damaged, cut short"):
            read_image(path)
    if form == "PNG":  # a chunk that claims 4 GB
        path.write_bytes(data[:33] + b"\xff" * 4 + data[37:])
        with pytest.raises(ImageError, match="the PNG is damaged, cut short"):
            read_image(path)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="an empty file"):
        read_image(path)
    # Not one line of a library.
    assert capfd.readouterr() == ("", "")
