"""Is this file a native runner for that architecture? And what is compiled into it."""

from __future__ import annotations

import json
import shlex
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import SpecError, ToolError
from edge.records import read_record
from targets.runners.native.toolchain import Arch, find_qemu, host_arch
from targets.transports.programs import run_program

__all__ = ["RunnerInfo", "check_runner", "emulator_argv"]

# What the executable holds before its build information: a host that cannot run it reads it so.
_MARKER = b"edgepose-runner-build {"
_MACHINES: dict[int, Arch] = {183: "aarch64", 62: "x86_64"}
_PT_LOAD, _PT_INTERP = 1, 3
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class _Build:
    runner: int
    ncnn: str
    build: str
    compiler: str
    kernels: tuple[str, ...]


@dataclass(frozen=True)
class RunnerInfo:
    """A runner. ``interpreter`` is the loader that it needs on the device, None for a static one.

    ``build``: ``runner`` (its schema), ``ncnn``, ``arch``, ``compiler``, ``kernels``, ``build``.
    ``answered`` says that it was run here, by itself or under QEMU, and said the same.
    """

    path: Path
    arch: Arch
    interpreter: str | None
    build: Mapping[str, Any]
    answered: bool

    @property
    def version(self) -> str:
        """Like ``1 (a1b2c3d4e5f6)``: the schema it speaks and what it was built from."""
        return f"{self.build['runner']} ({self.build['build']})"


def emulator_argv(cpu: str = "cortex-a76") -> list[str] | None:
    """What to put before an aarch64 program on another machine, None without QEMU."""
    qemu = find_qemu()
    return None if qemu is None else [qemu, "-cpu", cpu]


def check_runner(path: Path, arch: Arch) -> RunnerInfo:
    """Look at a file and, where this machine can, ask it for its version.

    Raises ToolError where it is no runner, one for another architecture, or does not start.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ToolError(f"{path}: too large for a runner")
        data = path.read_bytes()
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}; --runner names the executable itself") from None
    machine, interpreter = _read_elf(data, path)
    if machine != arch:
        raise ToolError(f"{path}: is for {machine or 'another architecture'}, the target is {arch}")
    build = _read_build(data, path)
    answered = False
    argv = _here(path, arch, interpreter)
    if argv:
        done = run_program(argv, timeout_s=60.0)
        said = done.stdout.decode(errors="replace").strip()
        if done.returncode != 0 or said != json.dumps(build, ensure_ascii=False):
            why = done.stderr.decode(errors="replace").strip()[-200:]
            raise ToolError(
                f"{path}: does not start here: `{shlex.join(argv)}` left {done.returncode}, "
                f"{said[:80]!r} {why!r}"
            )
        answered = True
    return RunnerInfo(path, arch, interpreter, build, answered)


def _here(path: Path, arch: Arch, interpreter: str | None) -> list[str] | None:
    """How this machine can ask for the version, None where it cannot."""
    if interpreter is not None and not Path(interpreter).exists():
        return None
    own = [str(path.resolve()), "--version"]
    if arch == host_arch():
        return own
    emulator = emulator_argv() if arch == "aarch64" else None
    return [*emulator, *own] if emulator else None


def _read_elf(data: bytes, path: Path) -> tuple[Arch | None, str | None]:
    """Architecture and loader of a 64-bit little-endian ELF executable.

    Layout: System V ABI, ELF-64 object file format, header and program header table.
    """
    # \x7fELF, 64 bits, little-endian
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < 64:
        raise ToolError(f"{path}: no 64-bit executable for Linux or Android")
    kind, machine = struct.unpack_from("<HH", data, 16)
    (table,) = struct.unpack_from("<Q", data, 32)
    entry_size, count = struct.unpack_from("<HH", data, 54)
    if kind not in (2, 3) or entry_size != 56 or table + 56 * count > len(data):
        raise ToolError(f"{path}: a damaged or cut off executable")
    interpreter = None
    for index in range(count):
        what, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, table + 56 * index)
        if what in (_PT_LOAD, _PT_INTERP) and offset + size > len(data):
            raise ToolError(f"{path}: a damaged or cut off executable")
        if what == _PT_INTERP:
            interpreter = data[offset : offset + size].rstrip(b"\0").decode(errors="replace")
    return _MACHINES.get(machine), interpreter


def _read_build(data: bytes, path: Path) -> dict[str, Any]:
    start = data.find(_MARKER)
    if start < 0:
        raise ToolError(
            f"{path}: not edgepose's native runner; build one from targets/runners/native/cpp"
        )
    start += len(_MARKER) - 1
    text = data[start : data.find(b"\0", start)]
    try:
        build: dict[str, Any] = json.loads(text)
        read_record(_Build, build, other=True)
    except (ValueError, SpecError):
        raise ToolError(f"{path}: its build information is damaged: {text[:80]!r}") from None
    return build
