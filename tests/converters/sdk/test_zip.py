"""Archives of SDK models: as good as their folders, and refused where they are not whole."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from converters.sdk.archive import read_sdk
from edge.errors import ModelFileError
from tests.conftest import tiny_simcc_model
from tests.stand_ins.sdk_bundles import (
    Files,
    read,
    simcc_files,
)

pytest.importorskip("onnx")


def in_zip(path: Path, files: Files, model: Any, top: str = "20230831/rtmpose_onnx/tiny/") -> Path:
    """Laid out as official archives are: folder entries, and folders around the files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{top}", "")
        for name, content in files.items():
            archive.writestr(f"{top}{name}", json.dumps(content))
        archive.writestr(f"{top}end2end.onnx", model.SerializeToString())
        archive.writestr(f"__MACOSX/{top}._end2end.onnx", "resource fork")
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return in_zip(tmp_path / "tiny.zip", simcc_files([48, 64]), tiny_simcc_model())


@pytest.mark.parametrize("top", ["", "20230831/rtmpose_onnx/tiny/"])
def test_an_archive_is_as_good_as_its_folder(tmp_path: Path, top: str) -> None:
    files, model = simcc_files([48, 64]), tiny_simcc_model()
    path = in_zip(tmp_path / "tiny.zip", files, model, top or "./")
    sdk = read_sdk(path, "m", tmp_path / "unpacked")
    assert sdk.spec == read(tmp_path, files, model)
    assert sdk.onnx_path.read_bytes() == model.SerializeToString()
    assert sdk.onnx_path.parent.parent == tmp_path / "unpacked"
    left = [entry for entry in (tmp_path / "unpacked").rglob("*") if entry.is_file()]
    assert left == [sdk.onnx_path]


def test_an_unpacked_file_is_used_again_while_it_is_whole(tmp_path: Path, archive: Path) -> None:
    first = read_sdk(archive, "m", tmp_path / "unpacked").onnx_path
    before, content = first.stat(), first.read_bytes()
    assert read_sdk(archive, "m", tmp_path / "unpacked").onnx_path == first
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    for wrong in (bytes(damaged), content[:-1]):
        first.write_bytes(wrong)
        assert read_sdk(archive, "m", tmp_path / "unpacked").onnx_path == first
        assert first.read_bytes() == content


def test_another_archive_of_the_same_name_is_unpacked_beside(tmp_path: Path, archive: Path) -> None:
    first = read_sdk(archive, "m", tmp_path / "unpacked").onnx_path
    in_zip(archive, simcc_files([48, 64]), tiny_simcc_model(keypoints=14))
    second = read_sdk(archive, "m", tmp_path / "unpacked")
    assert first != second.onnx_path
    assert first.exists()
    assert second.spec.keypoint_set == "crowdpose14"


def refused_archive(path: Path, unpack_to: Path, match: str) -> None:
    with pytest.raises(ModelFileError, match=match) as caught:
        read_sdk(path, "m", unpack_to)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not unpack_to.exists()


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_archive(tmp_path: Path, archive: Path, part: float) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * part)])
    refused_archive(archive, tmp_path / "unpacked", "not a zip archive, or a damaged one")


def test_an_archive_whose_network_is_damaged_leaves_nothing_behind(
    tmp_path: Path, archive: Path
) -> None:
    with zipfile.ZipFile(archive) as whole:
        info = whole.getinfo("20230831/rtmpose_onnx/tiny/end2end.onnx")
    content = bytearray(archive.read_bytes())
    content[info.header_offset + 200 + info.compress_size // 2] ^= 0xFF
    archive.write_bytes(bytes(content))
    refused_archive(archive, tmp_path / "unpacked", "not a zip archive, or a damaged one")


@pytest.mark.parametrize("member", ["../end2end.onnx", "a/../../x", "/etc/x", "..\\x"])
def test_members_that_point_out_of_the_archive(tmp_path: Path, archive: Path, member: str) -> None:
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(member, "x")
    refused_archive(archive, tmp_path / "unpacked", "points out of the archive")
    assert not (tmp_path.parent / "end2end.onnx").exists()


@pytest.mark.parametrize("file", ["end2end.onnx", "deploy.json"])
def test_two_models_in_one_archive(tmp_path: Path, archive: Path, file: str) -> None:
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(f"other/{file}", "{}")
    refused_archive(
        archive,
        tmp_path / "unpacked",
        rf"holds {file} 2 times \('.*tiny/{file}' and 'other/{file}'",
    )


@pytest.mark.parametrize("file", ["end2end.onnx", "pipeline.json"])
def test_an_encrypted_archive(tmp_path: Path, archive: Path, file: str) -> None:
    content = archive.read_bytes()
    # The flags are at byte 8 of an entry in the directory at the archive's end.
    directory = struct.unpack("<I", content[-6:-2])[0]
    entry = content.rindex(b"PK\x01\x02", 0, content.index(f"tiny/{file}".encode(), directory))
    archive.write_bytes(content[: entry + 8] + b"\x01" + content[entry + 9 :])
    refused_archive(archive, tmp_path / "unpacked", rf"tiny/{file}' is encrypted")


@pytest.mark.parametrize(("file", "size"), [("end2end.onnx", 3 << 30), ("deploy.json", 17 << 20)])
def test_members_of_absurd_size(tmp_path: Path, archive: Path, file: str, size: int) -> None:
    content = archive.read_bytes()
    directory = struct.unpack("<I", content[-6:-2])[0]
    entry = content.rindex(b"PK\x01\x02", 0, content.index(f"tiny/{file}".encode(), directory))
    declared = content[: entry + 24] + struct.pack("<I", size) + content[entry + 28 :]
    archive.write_bytes(declared)
    refused_archive(archive, tmp_path / "unpacked", rf"{file}' would unpack to {size} bytes")


def test_a_header_that_understates_a_member_does_not_unpack_more(
    tmp_path: Path, archive: Path
) -> None:
    content = archive.read_bytes()
    directory = struct.unpack("<I", content[-6:-2])[0]
    entry = content.rindex(b"PK\x01\x02", 0, content.index(b"tiny/end2end.onnx", directory))
    archive.write_bytes(content[: entry + 24] + struct.pack("<I", 100) + content[entry + 28 :])
    refused_archive(archive, tmp_path / "unpacked", "damaged one")


def test_an_archive_without_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "empty.zip"
    zipfile.ZipFile(path, "w").close()
    refused_archive(path, tmp_path / "unpacked", "holds no deploy.json and no pipeline.json")
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in simcc_files([48, 64]).items():
            opened.writestr(name, json.dumps(content))
    refused_archive(path, tmp_path / "unpacked", r"holds no end2end\.onnx")


def test_neither_folder_nor_archive(tmp_path: Path, tiny_onnx: Path) -> None:
    refused_archive(tiny_onnx, tmp_path / "unpacked", "not a zip archive")
    refused_archive(tmp_path / "gone", tmp_path / "unpacked", "no such file or folder")
    refused_archive(tmp_path, tmp_path / "unpacked", "holds no deploy.json")


def test_an_unpack_folder_that_cannot_be_made(tmp_path: Path, archive: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelFileError, match=r"(Not a directory|File exists)"):
        read_sdk(archive, "m", tmp_path / "file")
