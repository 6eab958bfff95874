"""Building the native runner on demand: ncnn from its source, then the runner on top of it.

Both end up in the cache folder under names that hold a hash of everything they were made of: ncnn's
version, the options, the compiler, the runner's own sources. What is there is never built again.
A build that was interrupted goes on where it stopped; what is not whole never has its final name.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from edge import terminal
from edge.errors import ToolError
from edge.files import cache_folder, private_folder
from targets import ROOM
from targets.runners.native.check import RunnerInfo, check_runner
from targets.runners.native.ncnn_source import NCNN_SHA256, NCNN_VERSION, ncnn_archive, unpack_ncnn
from targets.runners.native.progress import BuildProgress, BuildSkippedError
from targets.runners.native.toolchain import Arch, Toolchain, find_program, find_toolchain
from targets.transports.programs import check_program, run_program

__all__ = ["Say", "Skip", "build_runner", "find_runner", "is_built"]

Say = Callable[[str], None]
Skip = Callable[[], bool]

_FOLDER = ROOM / "runners" / "native"
_SOURCES = _FOLDER / "cpp"
# What apps include, and the runner from where it lies.
_HEADER = ROOM / "app" / "android" / "edgepose.hpp"

_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    f"-DNCNN_VERSION={NCNN_VERSION.rpartition('.')[2]}",
    "-DNCNN_VULKAN=OFF",
    "-DNCNN_OPENMP=ON",
    "-DNCNN_BUILD_TOOLS=OFF",
    "-DNCNN_BUILD_EXAMPLES=OFF",
    "-DNCNN_BUILD_BENCHMARK=OFF",
    "-DNCNN_BUILD_TESTS=OFF",
)
# x86 has twelve sets of kernels, a quarter of an hour's work. What is left out is for int8 and
# bf16, or for AMD's CPUs of 2011; all that floats use from SSE2 to AVX-512 stays.
_FLAGS_OF: dict[Arch, tuple[str, ...]] = {
    "aarch64": (),
    "x86_64": tuple(
        f"-DNCNN_{name}=OFF"
        for name in (
            *("INT8", "XOP", "FMA4", "AVXVNNI", "AVXVNNIINT8", "AVXVNNIINT16", "AVXNECONVERT"),
            *("AVX512VNNI", "AVX512BF16", "AVX512FP16"),
        )
    ),
}
_LINK_FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-fopenmp", "-static", "-s")
# Kernel that must be compiled in -> what the names of its object files end in. ncnn leaves out what
# its probes of the compiler do not find, and says nothing.
_NEEDED: dict[Arch, dict[str, bytes]] = {
    "aarch64": {"arm82": b"_asimdhp.cpp.o", "arm82dot": b"_asimddp.cpp.o"},
    "x86_64": {"fma": b"_fma.cpp.o", "avx512": b"_avx512.cpp.o"},
}


def find_runner(arch: Arch, runner: Path | None = None, say: Say = terminal.say) -> RunnerInfo:
    """The runner for an architecture: the user's own, checked, or ours, built where it is not yet.

    Raises ToolError where the given file is no runner for it, or where building needs a program
    that is not installed.
    """
    return check_runner(runner, arch) if runner else build_runner(arch, say)


def is_built(arch: Arch) -> bool:
    """Whether our own runner is in the cache; ToolError where there is no compiler to know by."""
    return _names(find_toolchain(arch))[0].is_file()


def build_runner(arch: Arch, say: Say = terminal.say, skip: Skip | None = None) -> RunnerInfo:
    """Our own runner, from the cache or built into it: minutes, for the first of a version.

    ``skip`` is asked now and then: where it is true, BuildSkippedError, and the next build goes on.
    """
    toolchain = find_toolchain(arch)
    final, key, library_key = _names(toolchain)
    folder = final.parent
    if final.is_file():
        return check_runner(final, arch)
    with _lock(folder / f".{arch}.lock", say, skip):
        if not final.is_file():
            name = f"ncnn-{NCNN_VERSION}-{arch}-{toolchain.name}-{library_key}"
            library = _build_library(toolchain, folder, name, say, skip)
            _check_kernels(library, toolchain)
            _link(toolchain, library, final, key, say)
    return check_runner(final, arch)


def _names(toolchain: Toolchain) -> tuple[Path, str, str]:
    """Where the runner lies, its own key and that of its ncnn."""
    arch = toolchain.arch
    library_key = _key(NCNN_VERSION, NCNN_SHA256, _FLAGS, _FLAGS_OF[arch], _made_by(toolchain))
    sources = {path.name: path.read_text(encoding="utf-8") for path in _sources()}
    key = _key(library_key, sources, _LINK_FLAGS)
    return cache_folder() / "runner" / f"edgepose-runner-{arch}-{key}", key, library_key


def _sources() -> list[Path]:
    return sorted([*_SOURCES.glob("*.h"), *_SOURCES.glob("*.cpp"), _HEADER])


def _key(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _made_by(toolchain: Toolchain) -> list[object]:
    # Of zig's wrapper only what it does, not where this checkout lies.
    rewriting = (_FOLDER / "zig_compiler.py").read_text(encoding="utf-8")
    own = rewriting if toolchain.wrapper else ""
    return [toolchain.version, toolchain.cmake_flags, own]


@contextmanager
def _lock(path: Path, say: Say, skip: Skip | None) -> Iterator[None]:
    """One build of an architecture at a time; the lock goes with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waits = False
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waits:
                    say("waiting for another process that builds the runner")
                waits = True
                if skip and skip():
                    raise BuildSkippedError("the runner: skipped") from None
                time.sleep(0.5)
        yield


def _build_library(
    toolchain: Toolchain, folder: Path, name: str, say: Say, skip: Skip | None
) -> Path:
    """Headers and library of ncnn, in a folder of the cache."""
    final = folder / name
    if final.is_dir():
        return final
    cmake, ninja = find_program("cmake"), find_program("ninja")
    work = folder / f".build-{name}"
    root = unpack_ncnn(ncnn_archive(folder, say), work)
    build = work / "build"
    c, cxx = toolchain.compilers(work / "compilers")
    say(f"building ncnn {NCNN_VERSION} for {toolchain.arch} with {toolchain.version}")
    argv = [cmake, "-S", str(root), "-B", str(build), "-G", "Ninja"]
    argv += [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DCMAKE_C_COMPILER={c}"]
    argv += [f"-DCMAKE_CXX_COMPILER={cxx}", *_FLAGS, *_FLAGS_OF[toolchain.arch]]
    argv += toolchain.cmake_flags
    # zig builds its C and C++ libraries in the first of CMake's probes.
    progress = BuildProgress(f"building ncnn for {toolchain.arch}", say, skip)
    check_program(run_program(argv, timeout_s=1800.0, on_line=progress))
    try:
        done = run_program(
            [*_nice(), ninja, "-C", str(build)],
            timeout_s=7200.0,
            env={"NINJA_STATUS": "[%f/%t] "},
            on_line=progress,
        )
    finally:
        progress.close()
    check_program(done, f"if the cause is gone, try again; to start over, remove {work}")
    part = folder / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    argv = [cmake, "--install", str(build), "--prefix", str(part)]
    check_program(run_program(argv, timeout_s=300.0))
    part.rename(final)
    shutil.rmtree(work)
    return final


def _nice() -> list[str]:
    """The desktop stays usable meanwhile."""
    nice = shutil.which("nice")
    return [nice, "-n", "10"] if nice else []


def _library_file(library: Path) -> Path:
    # lib on Debian, lib64 elsewhere
    found = sorted(library.glob("lib*/libncnn.a"))
    if not found:
        raise ToolError(f"{library}: holds no libncnn.a; remove this folder and try again")
    return found[0]


def _check_kernels(library: Path, toolchain: Toolchain) -> None:
    """Raise ToolError unless the kernels that decide the speed are in the library."""
    data = _library_file(library).read_bytes()
    missing = [name for name, ending in _NEEDED[toolchain.arch].items() if ending not in data]
    if missing:
        raise ToolError(
            f"{toolchain.version} built ncnn without its {' and '.join(missing)} kernels, which "
            f"would be slow and wrong to measure; use another compiler, then remove {library}"
        )


def _link(toolchain: Toolchain, library: Path, final: Path, key: str, say: Say) -> None:
    """Compile and link the runner; it gets its name when it was checked."""
    say(f"building the runner for {toolchain.arch}")
    with private_folder(final.parent, final.name) as work:
        _, cxx = toolchain.compilers(work / "compilers")
        program = work / "edgepose-runner"
        argv = [cxx, *_LINK_FLAGS, f'-DEDGEPOSE_BUILD="{key}"', "-isystem"]
        argv += [str(library / "include" / "ncnn")]
        argv += [str(path) for path in _sources() if path.suffix == ".cpp"]
        argv += [str(_library_file(library)), "-o", str(program)]
        check_program(run_program(argv, timeout_s=1800.0))
        info = check_runner(program, toolchain.arch)
        missing = [name for name in _NEEDED[toolchain.arch] if name not in info.build["kernels"]]
        if missing or info.interpreter or info.build["ncnn"] != NCNN_VERSION:
            raise ToolError(
                f"{toolchain.version} built a runner that is not as it should be: it lacks "
                f"{missing}, loads with {info.interpreter}, holds ncnn {info.build['ncnn']}"
            )
        program.replace(final)


def main(arches: Sequence[str]) -> int:
    """Build the runners ahead of their first need; 1 where one cannot be built.

    After ``--ready`` only look: 1 where one is not built yet.
    """
    failed = 0
    for arch in get_args(Arch):
        if arch in arches:
            try:
                if "--ready" in arches:
                    failed |= not is_built(arch)
                else:
                    print(build_runner(arch).path)
            except ToolError as error:
                terminal.say(f"{arch}: {error}")
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
