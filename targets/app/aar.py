"""An Android library archive (.aar) that holds nothing but assets, and gives no two results.

Format: https://developer.android.com/studio/projects/android-library#aar-contents. Every entry is
stored; an asset's bytes begin at a multiple of 16 KiB, the largest page of an Android device, by an
extra field in its header (0xd935, which zipalign and apksigner use for that).
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["PAGE_BYTES", "write_aar"]

PAGE_BYTES = 16384
_HEADER_BYTES = 30  # of a local file header, without name and extra field
_ALIGNMENT_FIELD = 0xD935
_MANIFEST = """\
<?xml version="1.0" encoding="utf-8"?>
<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="edgepose.assets">
    <uses-sdk android:minSdkVersion="21" />
</manifest>
"""
_METADATA = "aarFormatVersion=1.0\naarMetadataVersion=1.0\nminCompileSdk=1\n"


def write_aar(path: Path, assets: Mapping[str, Path]) -> None:
    """Write an archive of ``assets``, names below ``assets/`` and the files they come from."""
    with path.open("wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(_entry("AndroidManifest.xml"), _MANIFEST)
        archive.writestr(_entry("R.txt"), "")
        archive.writestr(_entry("classes.jar"), _empty_jar())
        archive.writestr(
            _entry("META-INF/com/android/build/gradle/aar-metadata.properties"), _METADATA
        )
        for name, file in sorted(assets.items()):
            entry = _entry(f"assets/{name}")
            entry.extra = _padding(stream.tell() + _HEADER_BYTES + len(entry.filename.encode()))
            archive.writestr(entry, file.read_bytes())


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system = 3  # so that the next line is read as Unix permissions
    entry.external_attr = 0o644 << 16
    return entry


def _padding(offset: int) -> bytes:
    """The extra field that moves what would begin at ``offset`` to the next page."""
    field = 6  # id, size, alignment
    zeros = -(offset + field) % PAGE_BYTES
    return struct.pack("<HHH", _ALIGNMENT_FIELD, 2 + zeros, PAGE_BYTES) + bytes(zeros)


def _empty_jar() -> bytes:
    """A library without code still has a classes.jar."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as jar:
        jar.writestr(_entry("META-INF/MANIFEST.MF"), "Manifest-Version: 1.0\n\n")
    return memory.getvalue()
