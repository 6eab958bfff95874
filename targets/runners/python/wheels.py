"""What a device's Python installs: the wheel of ``edge``, a format's lock, wheels of a folder.

Locks are universal; what of them a device needs is decided here from what its Python says of
itself, for pip by itself decides it from the Python that it runs in.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from edge.errors import DeviceError, SpecError
from edge.files import cache_folder, private_folder
from edge.spec import Format
from targets import CHECKOUT, ROOM
from targets.transports.programs import check_program, run_program
from targets.transports.transport import Done

__all__ = [
    "DevicePython",
    "Say",
    "collect_wheels",
    "device_lock",
    "edge_wheel",
    "lock_blocks",
    "merged_lock",
    "missing_wheel",
    "network_failed",
    "wrong_wheel",
]

Say = Callable[[str], None]

_LOCKS = ROOM / "runners" / "python" / "locks"
_NO_NETWORK = re.compile(
    "connection broken by|NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|"
    "Max retries exceeded|Temporary failure in name resolution|Network is unreachable|"
    "No route to host|Connection refused|Connection reset"
)
# PEP 600: manylinux_2_17 is manylinux2014; older glibcs have no Python that would do.
_OLDEST_GLIBC = 17
_OLD_NAMES = {"x86_64": ("manylinux1", "manylinux2010", "manylinux2014")}


@dataclass(frozen=True)
class DevicePython:
    """A Python of a device, by its own account.

    ``environment`` holds the variables of PEP 508's markers. ``glibc`` is like ``2.36``, ``""`` of
    another C library. ``has_venv`` says that it can make virtual environments with pip in them.
    """

    executable: str
    environment: Mapping[str, str]
    glibc: str
    has_venv: bool

    @property
    def version(self) -> str:
        """Like ``3.11.2``."""
        return self.environment["python_full_version"]

    @property
    def short_version(self) -> str:
        """Like ``3.11``."""
        return self.environment["python_version"]

    @property
    def platform(self) -> str:
        """In words, for messages."""
        libc = f"glibc {self.glibc}" if self.glibc else "a C library that is not glibc"
        return f"Python {self.short_version} on {self.environment['platform_machine']} with {libc}"

    def wheel_platforms(self) -> list[str]:
        """The platform tags whose wheels it takes, the newest first (PEP 600)."""
        machine = self.environment["platform_machine"]
        found = re.fullmatch(r"2\.(\d{1,3})", self.glibc)
        newest = int(found[1]) if found else 0
        tags = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, _OLDEST_GLIBC - 1, -1)]
        old = _OLD_NAMES.get(machine, ("manylinux2014",)) if tags else ()
        return [*tags, *(f"{name}_{machine}" for name in reversed(old)), f"linux_{machine}"]


def lock_blocks(lock: str) -> list[tuple[str, str]]:
    """``name==version`` and the lines of each requirement of a lock, its hashes among them."""
    blocks = re.split(r"\n(?=\S)", lock.strip())
    return [(block.split(maxsplit=1)[0], block) for block in blocks if block]


def device_lock(format: Format, device: DevicePython) -> str:  # noqa: A002
    """The lines of a format's lock that hold for this Python, hashes with them, markers without."""
    path = _LOCKS / f"{format}.lock"
    lines = []
    for _, block in lock_blocks(path.read_text(encoding="utf-8")):
        first, _, hashes = block.partition("\n")
        requirement = Requirement(first.rstrip(" \\"))
        if requirement.marker is None or requirement.marker.evaluate(dict(device.environment)):
            lines.append(f"{requirement.name}{requirement.specifier} \\\n{hashes}\n")
    return "".join(lines)


def merged_lock(locks: Sequence[str]) -> str:
    """One lock of several; SpecError where they want different releases of a package."""
    held: dict[str, str] = {}
    for lock in locks:
        for pinned, block in lock_blocks(lock):
            name, _, release = pinned.partition("==")
            other = held.setdefault(name, block).partition(" ")[0]
            if other != pinned:
                raise SpecError(
                    f"their engines cannot share one Python: one needs {other}, another {release}; "
                    "choose one format with --formats"
                )
    return "".join(f"{block}\n" for block in held.values())


def edge_wheel(say: Say) -> Path:
    """The wheel of ``edge`` as this checkout has it, built once for its content."""
    files = [CHECKOUT / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    files += [
        path
        for path in sorted((CHECKOUT / "edge").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    digest = hashlib.sha256()
    for path in files:
        data = path.read_bytes()
        digest.update(f"{path.relative_to(CHECKOUT).as_posix()}\0{len(data)}\0".encode() + data)
    folder = cache_folder() / "wheels" / digest.hexdigest()[:16]
    if not folder.is_dir():
        say("building the wheel of edge")
        with private_folder(folder.parent, "building") as work:
            part = work / "wheel"
            argv = [*_pip("wheel"), "--no-deps", "--no-build-isolation", "-w", str(part)]
            done = run_program([*argv, str(CHECKOUT)], timeout_s=300.0, cwd=work)
            check_program(done, "`make setup` installs what builds it")
            try:
                part.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return next(folder.glob("edgepose-*.whl"))


def collect_wheels(
    folder: Path, lock: Path, device: DevicePython, what: str, say: Say
) -> list[Path]:
    """The wheels of a lock for a device, from ``folder``; what it lacks is first fetched into it.

    ``what`` names the device. DeviceError where a wheel is neither there nor to be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    argv = [*_pip("download"), "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    argv += ["--python-version", device.short_version, "--implementation", "cp"]
    for platform in device.wheel_platforms():
        argv += ["--platform", platform]
    argv += ["--find-links", str(folder.resolve()), "-r", str(lock)]
    with private_folder(folder, "fetching") as work:
        held, fetched = work / "held", work / "fetched"
        done = run_program([*argv, "--no-index", "-d", str(held)], timeout_s=600.0)
        if done.returncode == 0:
            return [folder / path.name for path in sorted(held.glob("*.whl"))]
        say(f"fetching wheels for {device.platform} into {folder}")
        done = run_program([*argv, "--retries", "2", "-d", str(fetched)], timeout_s=3600.0)
        if done.returncode != 0:
            missing = missing_wheel(done)
            if network_failed(done):
                raise DeviceError(
                    f"{what}: {folder} lacks {missing or 'wheels'} for {device.platform}, and this "
                    "machine has no network to fetch it; fill the folder where there is one"
                )
            if missing:
                raise DeviceError(
                    f"{what}: there is no wheel of {missing} for {device.platform}; take a newer "
                    "system there, or another variant"
                )
            wrong = wrong_wheel(done)
            if wrong:
                raise DeviceError(
                    f"{what}: {wrong} is not what the lock names by its hash; remove it where it "
                    "is damaged"
                )
            check_program(done)
        names = []
        for path in sorted(fetched.glob("*.whl")):
            path.replace(folder / path.name)
            names.append(folder / path.name)
        return names


def missing_wheel(done: Done) -> str | None:
    """The requirement for which pip found nothing, like ``numpy==2.4.6``."""
    text = (done.stdout + done.stderr).decode(errors="replace")
    found = re.search(r"No matching distribution found for (\S+)", text)
    return found[1] if found else None


def wrong_wheel(done: Done) -> str | None:
    """The requirement whose file has another hash, and where the file came from."""
    text = (done.stdout + done.stderr).decode(errors="replace")
    found = re.search(r"DO NOT MATCH THE HASHES.*?\n\s+(\S+ from \S+)", text, re.DOTALL)
    return found[1] if found else None


def network_failed(done: Done) -> bool:
    """Whether pip could not reach its registry."""
    return bool(_NO_NETWORK.search((done.stdout + done.stderr).decode(errors="replace")))


def _pip(command: str) -> list[str]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", command]
