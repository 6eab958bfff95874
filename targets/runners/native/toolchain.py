"""What compiles the native runner, and what runs an ARM program on another machine."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge.errors import ToolError, first_line
from targets import CHECKOUT
from targets.runners.native.zig_compiler import ZIG_TARGETS, zig_program
from targets.transports.programs import check_program, run_program

__all__ = [
    "Arch",
    "Toolchain",
    "find_program",
    "find_qemu",
    "find_toolchain",
    "host_arch",
]

Arch = Literal["aarch64", "x86_64"]

# Program -> the Debian and Ubuntu package that brings it.
PACKAGES = {
    "cmake": "cmake",
    "ninja": "ninja-build",
    "g++": "g++",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "x86_64-linux-gnu-g++": "g++-x86-64-linux-gnu",
    "qemu-aarch64-static": "qemu-user-static",
}


@dataclass(frozen=True)
class Toolchain:
    """A C and C++ compiler for one architecture.

    ``version`` tells two compilers apart; ``wrapper`` is the text of a script that stands for
    the C++ compiler where it is more than a program (``{language}`` is ``cc`` or ``c++``).
    """

    name: Literal["gcc", "zig"]
    arch: Arch
    version: str
    c: str
    cxx: str
    wrapper: str | None = None

    @property
    def cmake_flags(self) -> tuple[str, ...]:
        """What CMake must be told beside the compilers."""
        flags: tuple[str, ...] = ()
        if self.arch != host_arch() or self.name == "zig":
            flags += ("-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={self.arch}")
        if self.name == "zig":
            # zig brings no OpenMP; ncnn has a small one of its own. -g0: zig's default is 65 MB.
            flags += ("-DNCNN_SIMPLEOMP=ON", "-DCMAKE_C_FLAGS=-g0", "-DCMAKE_CXX_FLAGS=-g0")
        return flags

    def compilers(self, folder: Path) -> tuple[str, str]:
        """The C and the C++ compiler as single programs; wrappers are written to ``folder``."""
        if self.wrapper is None:
            return self.c, self.cxx
        folder.mkdir(parents=True, exist_ok=True)
        programs = []
        for language in ("cc", "c++"):
            path = folder / f"zig-{language}"
            path.write_text(self.wrapper.replace("{language}", language), encoding="utf-8")
            path.chmod(0o755)
            programs.append(str(path))
        return programs[0], programs[1]


def host_arch() -> str:
    """Architecture of this machine: ``aarch64``, ``x86_64`` or another one's name."""
    machine = platform.machine().lower()
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(machine, machine)


def find_program(name: str) -> str:
    """A program of this environment or of PATH; ToolError that names its Debian package."""
    # What pip installed (ninja) lies beside the interpreter, which need not be on PATH.
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise ToolError(
            f"{name} is not installed, and the native runner is built with it: "
            f"apt-get install {PACKAGES.get(name, name)}; or give a ready runner with --runner PATH"
        )
    return found


def find_qemu() -> str | None:
    """QEMU's user emulation of 64-bit ARM, None where it is not installed."""
    return shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


def find_toolchain(arch: Arch) -> Toolchain:
    """The GCC for an architecture, else the zig of this Python environment, else ToolError."""
    name = "g++" if arch == host_arch() else f"{arch}-linux-gnu-g++"
    cxx = shutil.which(name)
    c = shutil.which(name.replace("g++", "gcc"))
    if cxx and c:
        text = check_program(run_program([cxx, "--version"], timeout_s=30.0))
        return Toolchain("gcc", arch, first_line(text), c, cxx)
    zig = zig_program()
    if zig is not None:
        version = check_program(run_program([str(zig), "version"], timeout_s=60.0)).strip()
        return Toolchain("zig", arch, f"zig {version}", "", "", _zig_wrapper(arch))
    package = PACKAGES.get(name, name)
    raise ToolError(
        f"no compiler for {arch}: apt-get install {package}, or install ziglang into "
        f"{sys.prefix} with pip, or give a ready runner with --runner PATH"
    )


def _zig_wrapper(arch: Arch) -> str:
    words = [sys.executable, "-m", "targets.runners.native.zig_compiler"]
    call = f"{shlex.join(words)} {{language}} -target {ZIG_TARGETS[arch]}"
    return f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(CHECKOUT))} exec {call} "$@"\n'
