"""Python on a device, with ``edge`` and an engine: found there, installed where it is not yet.

Everything lies in ``python/KEY`` of the working folder: a virtual environment for a format's lock
and the device's Python, with marks that are written last. What has no mark starts over; a new
``edge`` is installed over the old one and leaves the engine alone.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from edge.errors import DeviceError, SpecError
from edge.files import sha256_of, temporary_folder
from edge.records import read_record
from edge.spec import Format
from targets.runners.python.wheels import (
    DevicePython,
    Say,
    collect_wheels,
    device_lock,
    edge_wheel,
    lock_blocks,
    merged_lock,
    missing_wheel,
    network_failed,
)
from targets.transports.transport import Done, Transport, check, push_changed

__all__ = ["find_python", "python_for"]

# The system's own first: on a Jetson it alone has TensorRT.
_NAMES = ("python3", "python3.13", "python3.12", "python3.11", "python3.10")
_OLDEST = (3, 10)
_PROBE = """
import json, os, platform, sys
def has(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (AttributeError, OSError, ValueError):
    libc = ""
print(json.dumps({
    "executable": sys.executable,
    "glibc": libc[6:] if libc.startswith("glibc ") else "",
    "has_venv": has("venv") and has("ensurepip"),
    "environment": {
        "implementation_name": sys.implementation.name,
        "implementation_version": platform.python_version(),
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "python_version": "%d.%d" % sys.version_info[:2],
        "sys_platform": sys.platform,
    },
}))
"""
_SHORT_S = 120.0
_INSTALL_S = 3600.0
_PUSH_S = 1800.0
_FULL_KB = 20_000


def python_for(
    transport: Transport,
    *formats: Format,
    more: str = "",
    wheelhouse: Path | None = None,
    say: Say,
) -> tuple[str, ...]:
    """What starts a Python on the device with ``edge``, and the engines of one format or more.

    ``more`` are further lines of a lock. Installed there from its registry at the first call, or,
    with a ``wheelhouse``, from wheels of that folder, into which this machine fetches what is
    missing. On this machine it is the Python that we run in. DeviceError where that cannot be, with
    what the device needs; SpecError where two of the locks contradict each other.
    """
    if transport.kind == "local":
        return (sys.executable,)
    if transport.kind == "adb":
        raise DeviceError(
            f"{transport.name}: the Python runner needs a target over ssh, or this machine; over "
            "adb there are the ncnn variants, by the native runner"
        )
    device = find_python(transport)
    locks = [device_lock(name, device) for name in formats]
    lock = merged_lock([*locks, more] if more else locks)
    wheel = edge_wheel(say)
    # TensorRT's Python package comes with JetPack, for the system's Python.
    options = ["--system-site-packages"] if "tensorrt" in formats else []
    made_of = [lock, device.executable, device.version, options]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    folder = posixpath.join(transport.work_dir, "python", key[:16])
    setup = _Setup(transport, device, " and ".join(formats), folder, say)
    if setup.mark("packages") != key:
        setup.install_packages(lock, options, wheelhouse, key)
    edge_key = sha256_of(wheel)
    if setup.mark("edge") != edge_key:
        setup.install_edge(wheel, edge_key)
    # Isolated: neither the login folder's files nor PYTHONPATH may stand in for what is installed.
    return (setup.python, "-I")


def find_python(transport: Transport) -> DevicePython:
    """The first Python of the device that will do; DeviceError where there is none."""
    seen = []
    for name in _NAMES:
        done = transport.run([name, "-c", _PROBE], timeout_s=_SHORT_S)
        if done.returncode in (126, 127):
            continue
        check(done, f"asking {name} on {transport.name} for its version")
        device = _read_probe(done, transport.name)
        version = tuple(map(int, device.short_version.split(".")))
        if device.environment["implementation_name"] != "cpython":
            seen.append(f"{device.environment['implementation_name']} {device.version}")
        elif version < _OLDEST:
            seen.append(device.version)
        elif not device.has_venv:
            raise DeviceError(
                f"{transport.name}: its Python {device.version} cannot make virtual environments; "
                f"on Debian and Ubuntu: sudo apt-get install python{device.short_version}-venv"
            )
        else:
            return device
    oldest = ".".join(map(str, _OLDEST))
    if seen:
        raise DeviceError(
            f"{transport.name}: the Python runner needs CPython {oldest} or newer, there is "
            f"{', '.join(dict.fromkeys(seen))}; install a newer one, or take an ncnn variant: its "
            "runner needs none"
        )
    raise DeviceError(
        f"{transport.name}: there is no python3; on Debian and Ubuntu: sudo apt-get install "
        "python3 python3-venv"
    )


def _read_probe(done: Done, device: str) -> DevicePython:
    # A sitecustomize may print before.
    last = done.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    try:
        return read_record(DevicePython, json.loads(last), other=True)
    except (ValueError, SpecError):
        raise DeviceError(
            f"{device}: its Python does not say what it is (it printed {last[:80]!r})"
        ) from None


class _Setup:
    """A virtual environment on a device, in the making."""

    def __init__(
        self,
        transport: Transport,
        device: DevicePython,
        formats: str,
        folder: str,
        say: Say,
    ) -> None:
        self.python = posixpath.join(folder, "venv/bin/python")
        self._transport, self._device, self._formats = transport, device, formats
        self._folder, self._say = folder, say

    def mark(self, name: str) -> str:
        """What was noted when this part was whole, ``""`` where it is not."""
        done = self._transport.run(["cat", self._path(f"{name}.mark")], timeout_s=_SHORT_S)
        return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""

    def install_packages(
        self, lock: str, options: Sequence[str], wheelhouse: Path | None, key: str
    ) -> None:
        """Make the environment with all of a lock; whatever was in its folder goes."""
        transport, device = self._transport, self._device
        names = [name for name, _ in lock_blocks(lock)]
        with temporary_folder() as text:
            lock_path = text / "requirements.lock"
            lock_path.write_text(lock, encoding="utf-8")
            wheels = []
            if wheelhouse is not None:
                wheels = collect_wheels(wheelhouse, lock_path, device, transport.name, self._say)
            self._say(
                f"{transport.name}: installing for {device.platform}: {', '.join(names)}"
                + (f", from {wheelhouse}" if wheelhouse else "")
            )
            self._remove(self._folder)
            try:
                argv = [device.executable, "-I", "-m", "venv", *options, self._path("venv")]
                self._checked(argv, "making a virtual environment")
                transport.push(lock_path, self._path(lock_path.name), timeout_s=_PUSH_S)
                for wheel in wheels:
                    remote = self._path(f"wheels/{wheel.name}")
                    push_changed(transport, wheel, remote, timeout_s=_PUSH_S)
                source = []
                if wheelhouse is not None:
                    source = ["--no-index", "--find-links", self._path("wheels")]
                argv = [*self._pip(), "--require-hashes", *source]
                argv += ["-r", self._path(lock_path.name)]
                self._checked(argv, f"installing {self._formats}'s packages", wheelhouse)
                self._remove(self._path("wheels"))
            except DeviceError:
                # Half of it is of no use and takes room.
                with suppress(DeviceError):
                    self._remove(self._folder)
                raise
        self._write_mark("packages", key)

    def install_edge(self, wheel: Path, key: str) -> None:
        """Install the wheel of ``edge``, in place of another one."""
        self._say(f"{self._transport.name}: installing {wheel.name}")
        self._remove(self._path("edge.mark"))
        remote = self._path(wheel.name)
        push_changed(self._transport, wheel, remote, timeout_s=_PUSH_S)
        argv = [*self._pip(), "--no-index", "--force-reinstall", remote]
        self._checked(argv, "installing edge")
        self._write_mark("edge", key)

    def _path(self, name: str) -> str:
        return posixpath.join(self._folder, name)

    def _pip(self) -> list[str]:
        quiet = ["--disable-pip-version-check", "--no-input", "--no-cache-dir", "--retries", "2"]
        install = ["install", "--quiet", "--no-deps", "--only-binary", ":all:"]
        return [self.python, "-I", "-m", "pip", *quiet, *install]

    def _remove(self, path: str) -> None:
        done = self._transport.run(["rm", "-rf", path], timeout_s=_SHORT_S)
        check(done, f"removing {path} on {self._transport.name}")

    def _write_mark(self, name: str, text: str) -> None:
        with temporary_folder() as folder:
            path = folder / "mark"
            path.write_text(f"{text}\n", encoding="utf-8")
            self._transport.push(path, self._path(f"{name}.mark"), timeout_s=_SHORT_S)

    def _checked(self, argv: Sequence[str], what: str, wheelhouse: Path | None = None) -> None:
        done = self._transport.run(argv, timeout_s=_INSTALL_S)
        if done.returncode != 0:
            self._fail(done, what, wheelhouse)

    def _is_full(self) -> bool:
        """Making an environment fails without a word of why."""
        done = self._transport.run(["df", "-Pk", self._folder], timeout_s=_SHORT_S)
        found = re.findall(rb"\s(\d{1,18})\s+\d+%\s", done.stdout)
        return bool(found) and int(found[-1]) < _FULL_KB

    def _fail(self, done: Done, what: str, wheelhouse: Path | None) -> NoReturn:
        """Say what the device lacks."""
        name, missing = self._transport.name, missing_wheel(done)
        if b"No space left on device" in done.stdout + done.stderr or self._is_full():
            raise DeviceError(
                f"{name}: no room is left for the packages of {self._formats} in {self._folder}; "
                "make some, or `edge clean` what is there"
            )
        if network_failed(done):
            raise DeviceError(
                f"{name}: it does not reach its package registry; --wheelhouse DIR brings the "
                "packages from this machine"
            )
        if missing:
            where = f" in {wheelhouse}" if wheelhouse else ""
            raise DeviceError(
                f"{name}: there is no wheel of {missing} for {self._device.platform}{where}; take "
                "a newer system there, or another variant"
            )
        check(done, f"{what} on {name}")
        raise AssertionError(what)
