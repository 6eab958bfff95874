"""ncnn's source: the source distribution of the Python package, by way of pip."""

from __future__ import annotations

import contextlib
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from edge.errors import ToolError
from edge.files import private_folder, sha256_of
from targets.transports.programs import check_program, run_program

__all__ = ["NCNN_SHA256", "NCNN_VERSION", "ncnn_archive", "unpack_ncnn"]

# The version of requirements.lock, which also holds this hash: a device computes with the same code
# as the Python package here.
NCNN_VERSION = "1.0.20261020"
NCNN_SHA256 = "ad8cdd63e9755cfa8e23b9b6d9ce46156077d80298a89e7c3ba325ffccfca200"

# pip asks a source distribution for its metadata before it hands it out, and ncnn's `setup.py`
# takes the day's date for the version, which is then another one than that of the file's name: pip
# refuses it (ncnn 1.0.20261020; can go when the version is fixed there). So pip meets this build
# backend in place of setuptools. It answers with the metadata that the file holds, and nothing of
# the distribution is run.
_BACKEND = """\
import pathlib
import shutil


def prepare_metadata_for_build_wheel(folder, settings=None):
    info = pathlib.Path(folder, "ncnn.dist-info")
    info.mkdir()
    shutil.copy("PKG-INFO", info / "METADATA")
    return info.name
"""


def ncnn_archive(folder: Path, say: Callable[[str], None]) -> Path:
    """The source distribution in ``folder``, fetched where it is not there, its SHA-256 checked.

    Raises ToolError where pip cannot get it or gets another file.
    """
    path = folder / f"ncnn-{NCNN_VERSION}.tar.gz"
    if path.is_file() and sha256_of(path) == NCNN_SHA256:
        return path
    say(f"fetching the source of ncnn {NCNN_VERSION} (5.5 MB) with pip")
    with private_folder(folder, "fetching") as work:
        (work / "setuptools").mkdir()
        (work / "setuptools" / "__init__.py").touch()
        (work / "setuptools" / "build_meta.py").write_text(_BACKEND, encoding="utf-8")
        wanted = work / "wanted.txt"
        wanted.write_text(f"ncnn=={NCNN_VERSION} --hash=sha256:{NCNN_SHA256}\n", encoding="utf-8")
        argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        argv += ["--quiet", "--quiet", "--no-deps", "--no-binary", "ncnn", "--no-build-isolation"]
        argv += ["--require-hashes", "--dest", str(work), "--requirement", str(wanted)]
        done = run_program(argv, timeout_s=600.0, env={"PYTHONPATH": str(work)})
        check_program(done, f"without the network, put that file at {path}")
        found = work / path.name
        if not found.is_file() or sha256_of(found) != NCNN_SHA256:
            raise ToolError(f"pip left no {path.name} with the SHA-256 {NCNN_SHA256}")
        found.replace(path)
    return path


def unpack_ncnn(archive: Path, folder: Path) -> Path:
    """Unpack the archive into ``folder``; the folder with its CMakeLists.txt."""
    root = folder / f"ncnn-{NCNN_VERSION}"
    if (folder / ".unpacked").is_file():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        # Older bug-fix versions of Python have no filters yet; the hash vouches for the content.
        with contextlib.suppress(AttributeError):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(folder)
    (folder / ".unpacked").touch()
    return root
