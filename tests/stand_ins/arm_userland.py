"""An arm64 Debian userland that runs here: packages by name, QEMU user emulation, no binfmt.

``proot`` puts a process into the userland and hands every program that it executes to QEMU, so a
shell, its children and a pushed aarch64 executable all run as on the board, without any change to
this machine. Folders of this machine appear inside under their own paths.

Built once (38 MB of packages with Python) and kept in EDGEPOSE_TEST_CACHE, or else
``edgepose-tests`` in XDG_CACHE_HOME or ~/.cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

__all__ = ["CPU", "arm_userland", "enter"]

CPU = "cortex-a76"
"""The core of a Raspberry Pi 5."""

_BASE = ("coreutils", "dash", "findutils", "grep", "procps", "sed", "util-linux")
# What dependencies bring along and nothing here runs.
_WITHOUT = ("debconf", "dpkg", "init-system-helpers", "libperl", "perl", "usrmerge")
_PROGRAMS = {
    "proot": "proot",
    "qemu-aarch64-static": "qemu-user-static",
    "apt-get": "apt",
    "dpkg": "dpkg",
}
# A new number builds anew whatever was kept.
_VERSION = 1


def arm_userland(*packages: str) -> Path:
    """Root folder of a userland with these packages besides the base; skips with a reason."""
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            pytest.skip(f"an arm64 userland needs {program} (apt-get install {package})")
    names = sorted({*_BASE, *packages})
    key = hashlib.sha256(f"{_VERSION} {names}".encode()).hexdigest()[:12]
    root = _cache() / f"arm64-{key}"
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            with tempfile.TemporaryDirectory(dir=root.parent, prefix="building-") as folder:
                _build(Path(folder), names)
                (Path(folder) / "root").rename(root)
    done = subprocess.run(
        [*enter(root), "uname", "-m"], capture_output=True, text=True, timeout=60, check=False
    )
    if done.stdout != "aarch64\n":
        pytest.skip(f"proot cannot emulate here: {done.stderr.strip()[-300:] or done.returncode}")
    return root


def enter(root: Path | str, binds: Iterable[str] = (), cpu: str = CPU) -> list[str]:
    """The command line before a program that puts it into the userland.

    ``binds`` are paths that are seen inside besides /proc, /dev and /sys, or ``here:there``.
    """
    # Without -cpu, for proot splits this option's text at blanks; QEMU reads the variable as well.
    argv = ["env", f"QEMU_CPU={cpu}", "proot", "-q", "qemu-aarch64-static", "-r", str(root)]
    for bind in ("/proc", "/dev", "/sys", *binds):
        argv += ["-b", bind]
    return [*argv, "-w", "/"]


def _cache() -> Path:
    given = os.environ.get("EDGEPOSE_TEST_CACHE")
    if given:
        return Path(given)
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path("~/.cache").expanduser()) / "edgepose-tests"


def _build(folder: Path, names: list[str]) -> None:
    """Fetch the packages with all they depend on and unpack them below ``folder / "root"``.

    apt works on lists and a status of its own: this machine's architectures stay as they are.
    """
    for name in ("state/lists/partial", "cache/archives/partial", "root"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "1",
        "Dir::Cache": folder / "cache",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
    }
    apt = ["apt-get", "-y", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    _fetch([*apt, "update"])
    _fetch([*apt, "install", "--no-install-recommends", "--download-only", *names])
    for deb in sorted((folder / "cache/archives").glob("*.deb")):
        if not deb.name.startswith(_WITHOUT):
            subprocess.run(["dpkg", "-x", deb, folder / "root"], check=True, timeout=120)
    for name in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(folder / "root" / name, ignore_errors=True)
    for name in ("dev", "etc", "home", "proc", "root", "sys", "tmp"):
        (folder / "root" / name).mkdir(exist_ok=True)
    (folder / "root/tmp").chmod(0o1777)
    folder.chmod(0o755)
    (folder / "root").chmod(0o755)


def _fetch(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=480, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        pytest.skip(f"arm64 packages cannot be had here: {last[0] if last else done.returncode}")
