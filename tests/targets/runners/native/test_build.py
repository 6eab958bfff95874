"""How the native runner comes to be: source, compilers, cache. Nothing is compiled here."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from converters.tools import locked_versions
from edge.errors import ToolError
from targets.runners.native import build as runner_build
from targets.runners.native import ncnn_source, toolchain
from targets.runners.native.build import build_runner, find_runner
from targets.runners.native.check import check_runner
from targets.runners.native.ncnn_source import NCNN_SHA256, NCNN_VERSION, ncnn_archive, unpack_ncnn
from targets.runners.native.toolchain import find_program, find_toolchain
from targets.runners.native.zig_compiler import rewrite_march
from targets.transports.transport import Done

ROOT = Path(__file__).resolve().parents[4]

BUILD = {
    "runner": 1,
    "build": "abc",
    "ncnn": "1.0.20261020",
    "arch": "aarch64",
    "compiler": "GCC 12",
    "openmp": "libgomp",
    "kernels": ["arm82", "fp32"],
}


def elf(machine: int, content: bytes, interpreter: bytes = b"") -> bytes:
    """An ELF-64 file of one or two program headers, by the System V ABI's layout."""
    count = 2 if interpreter else 1
    start = 64 + 56 * count
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, start, 0, 0, len(content), len(content), 4096)
    loader = b""
    if interpreter:
        at = start + len(content)
        loader = struct.pack("<IIQQQQQQ", 3, 4, at, 0, 0, len(interpreter), len(interpreter), 1)
    return header + load + loader + content + interpreter


def runner_bytes(machine: int = 183, interpreter: bytes = b"", **changes: Any) -> bytes:
    text = json.dumps(BUILD | changes).encode()
    return elf(machine, b"junk\0edgepose-runner-build " + text + b"\0more", interpreter)


def test_the_pin_is_the_lock_s() -> None:
    # The Python package and the device's runner are to compute the same.
    assert locked_versions()["ncnn"] == NCNN_VERSION
    assert f"sha256:{NCNN_SHA256}" in (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_the_build_backend_gives_the_metadata_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PKG-INFO").write_text("Name: ncnn\nVersion: 9\n")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(ncnn_source._BACKEND, names)
    name = names["prepare_metadata_for_build_wheel"](str(tmp_path / "out"))
    text = (tmp_path / "out" / name / "METADATA").read_text()
    assert name.endswith(".dist-info") and "Version: 9" in text


def archive_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def test_the_source_is_fetched_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = archive_of({f"ncnn-{NCNN_VERSION}/CMakeLists.txt": b"x"})
    calls = []

    def pip(argv: Sequence[str], **_: Any) -> Done:
        calls.append(argv)
        folder = Path(argv[argv.index("--dest") + 1])
        (folder / f"ncnn-{NCNN_VERSION}.tar.gz").write_bytes(data)
        return Done(tuple(argv), 0, b"", b"")

    monkeypatch.setattr(ncnn_source, "run_program", pip)
    with pytest.raises(ToolError, match="pip left no ncnn-"):
        ncnn_archive(tmp_path, lambda _: None)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(ncnn_source, "NCNN_SHA256", hashlib.sha256(data).hexdigest())
    said: list[str] = []
    path = ncnn_archive(tmp_path, said.append)
    assert path.read_bytes() == data and list(tmp_path.iterdir()) == [path]
    assert ncnn_archive(tmp_path, said.append) == path
    assert len(calls) == 2 and len(said) == 1
    # A damaged one is fetched again.
    path.write_bytes(data[:100])
    assert ncnn_archive(tmp_path, said.append).read_bytes() == data

    root = unpack_ncnn(path, tmp_path / "work")
    assert (root / "CMakeLists.txt").read_bytes() == b"x"


def test_no_network_names_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Done(("pip",), 1, b"", b"ERROR: No matching distribution found for ncnn\n")
    monkeypatch.setattr(ncnn_source, "run_program", lambda *_, **__: done)
    with pytest.raises(ToolError) as error:
        ncnn_archive(tmp_path, lambda _: None)
    assert str(tmp_path / f"ncnn-{NCNN_VERSION}.tar.gz") in str(error.value)
    assert "No matching distribution" in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("gcc", "zig"),
    [
        ("-march=armv8.2-a+fp16", "-mcpu=generic+v8_2a+fullfp16"),
        ("-march=armv8.2-a+fp16+dotprod", "-mcpu=generic+v8_2a+fullfp16+dotprod"),
        ("-march=armv8.2-a+fp16+fp16fml", "-mcpu=generic+v8_2a+fullfp16+fp16fml"),
        ("-march=armv8.4-a+bf16", "-mcpu=generic+v8_4a+bf16"),
        ("-march=armv8.6-a+sve+i8mm", "-mcpu=generic+v8_6a+sve+i8mm"),
        ("-march=armv8-a", "-mcpu=generic+v8a"),
        # Not for ARM, or no such flag: left alone.
        ("-march=native", "-march=native"),
        ("-march=x86-64-v3", "-march=x86-64-v3"),
        ("-DTEXT=-march=armv8.2-a", "-DTEXT=-march=armv8.2-a"),
        ("a file -march=armv8.2-a", "a file -march=armv8.2-a"),
    ],
)
def test_zig_is_told_the_cpu_in_its_own_words(gcc: str, zig: str) -> None:
    assert rewrite_march(["-O2", gcc, "x.cpp"]) == ["-O2", zig, "x.cpp"]


def script(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def without_compilers(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(toolchain, "zig_program", lambda: None)
    monkeypatch.setattr(toolchain, "host_arch", lambda: "x86_64")


@pytest.mark.parametrize(
    ("arch", "package"), [("aarch64", "g++-aarch64-linux-gnu"), ("x86_64", r"g\+\+,")]
)
def test_a_missing_compiler_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: toolchain.Arch, package: str
) -> None:
    without_compilers(monkeypatch, tmp_path)
    package = package.replace("g++-", r"g\+\+-")
    with pytest.raises(ToolError, match=f"apt-get install {package}.*ziglang.*--runner PATH"):
        find_toolchain(arch)


def test_a_missing_build_tool_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_compilers(monkeypatch, tmp_path)
    with pytest.raises(ToolError, match=r"apt-get install cmake.*--runner PATH"):
        find_program("cmake")


def test_the_debian_compiler_is_taken_before_zig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_compilers(monkeypatch, tmp_path)
    script(tmp_path / "zig folder", "zig", "echo 0.17.0")
    monkeypatch.setattr(toolchain, "zig_program", lambda: tmp_path / "zig folder" / "zig")
    zig = find_toolchain("aarch64")
    assert (zig.name, zig.version) == ("zig", "zig 0.17.0")
    assert "-DNCNN_SIMPLEOMP=ON" in zig.cmake_flags
    c, cxx = zig.compilers(tmp_path / "wrappers")
    for path, language in ((c, "cc"), (cxx, "c++")):
        text = Path(path).read_text()
        assert f"targets.runners.native.zig_compiler {language} -target aarch64-linux-musl" in text

    script(tmp_path, "aarch64-linux-gnu-g++", "echo cross 12.2; echo more")
    script(tmp_path, "aarch64-linux-gnu-gcc", "true")
    gcc = find_toolchain("aarch64")
    assert (gcc.name, gcc.version) == ("gcc", "cross 12.2")
    assert gcc.compilers(tmp_path)[1] == str(tmp_path / "aarch64-linux-gnu-g++")
    assert "-DCMAKE_SYSTEM_PROCESSOR=aarch64" in gcc.cmake_flags


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is not None, reason="zig is installed")
def test_zig_is_found_without_importing_anything() -> None:
    from targets.runners.native.zig_compiler import zig_program

    assert zig_program() is None


# --- whose runner is it ---------------------------------------------------------------------------


def no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("targets.runners.native.check.find_qemu", lambda: None)
    monkeypatch.setattr("targets.runners.native.check.host_arch", lambda: "x86_64")


def test_a_runner_is_read_without_being_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_emulator(monkeypatch)
    path = tmp_path / "own"
    path.write_bytes(runner_bytes())
    info = find_runner("aarch64", path)
    assert (info.arch, info.interpreter, info.answered) == ("aarch64", None, False)
    assert info.build == BUILD and info.version == "1 (abc)"
    # As the NDK links one.
    path.write_bytes(runner_bytes(interpreter=b"/system/bin/linker64\0"))
    assert find_runner("aarch64", path).interpreter == "/system/bin/linker64"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"#!/bin/sh\n", "no 64-bit executable"),
        (b"", "no 64-bit executable"),
        (runner_bytes()[:200], "cut off"),
        (runner_bytes(machine=62), "is for x86_64, the target is aarch64"),
        (runner_bytes(machine=40), "is for another architecture"),
        (elf(183, b"hello"), "not edgepose's native runner"),
        (runner_bytes(runner="one"), "build information is damaged"),
        (elf(183, b"edgepose-runner-build {}\0"), "build information is damaged"),
        (elf(183, b"edgepose-runner-build {"), "build information is damaged"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, said: str
) -> None:
    no_emulator(monkeypatch)
    (tmp_path / "own").write_bytes(data)
    with pytest.raises(ToolError, match=said):
        check_runner(tmp_path / "own", "aarch64")


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ToolError, match="--runner names the executable"):
            find_runner("aarch64", path)


def test_one_that_does_not_start_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own"
    path.write_bytes(runner_bytes())
    path.chmod(0o755)
    script(tmp_path, "qemu", "echo '{}'; exit 0")
    monkeypatch.setattr("targets.runners.native.check.find_qemu", lambda: str(tmp_path / "qemu"))
    monkeypatch.setattr("targets.runners.native.check.host_arch", lambda: "x86_64")
    with pytest.raises(ToolError, match="does not start here"):
        check_runner(path, "aarch64")
    script(tmp_path, "qemu", f"test \"$2\" = cortex-a76 && echo '{json.dumps(BUILD)}'")
    assert check_runner(path, "aarch64").answered


# --- the build, with stand-ins for the tools ------------------------------------------------------


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tools that leave what the real ones leave; ``log`` holds who was called."""
    tools, log = tmp_path / "tools", tmp_path / "log"
    ready = tmp_path / "runner.bin"
    ready.write_bytes(runner_bytes(ncnn=NCNN_VERSION, kernels=["arm82", "arm82dot"]))
    ready.chmod(0o755)
    script(
        tools,
        "cmake",
        f'echo "cmake $1" >> {log}\n'
        'if [ "$1" = --install ]; then mkdir -p "$4/lib" "$4/include/ncnn"; '
        f"cat {tmp_path}/members > \"$4/lib/libncnn.a\"; fi",
    )  # fmt: skip
    (tmp_path / "members").write_text("convolution_asimdhp.cpp.o convolution_asimddp.cpp.o")
    script(tools, "ninja", f"echo ninja >> {log}; test ! -e {tmp_path}/broken")
    script(tools, "aarch64-linux-gnu-gcc", "true")
    script(
        tools,
        "aarch64-linux-gnu-g++",
        f'if [ "$1" = --version ]; then cat {tmp_path}/version; exit; fi\n'
        f'echo link >> {log}\nfor word in "$@"; do last=$word; done\ncp {ready} "$last"',
    )
    (tmp_path / "version").write_text("cross 12\n")
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(toolchain, "host_arch", lambda: "x86_64")
    monkeypatch.setattr(runner_build, "find_program", lambda name: str(tools / name))
    data = archive_of({f"ncnn-{NCNN_VERSION}/CMakeLists.txt": b"x"})
    monkeypatch.setattr(ncnn_source, "NCNN_SHA256", hashlib.sha256(data).hexdigest())
    folder = tmp_path / "cache" / "runner"
    folder.mkdir(parents=True)
    (folder / f"ncnn-{NCNN_VERSION}.tar.gz").write_bytes(data)
    no_emulator(monkeypatch)
    return tmp_path


def calls(folder: Path) -> list[str]:
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


WHOLE = ["cmake -S", "ninja", "cmake --install", "link"]


def test_a_build_is_kept_and_leaves_nothing_else(stand_ins: Path) -> None:
    said: list[str] = []
    info = build_runner("aarch64", said.append)
    assert calls(stand_ins) == WHOLE
    assert [text.split()[0] for text in said] == ["building", "building"]
    folder = stand_ins / "cache" / "runner"
    kept = sorted(path.name for path in folder.iterdir())
    assert len(kept) == 4 and kept[0] == ".aarch64.lock"
    assert info.path.parent == folder and info.path.stat().st_mode & 0o111
    assert build_runner("aarch64", said.append).path == info.path
    assert calls(stand_ins) == []


def test_another_compiler_builds_again_another_source_links_again(
    stand_ins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_runner("aarch64", lambda _: None)
    (stand_ins / "version").write_text("cross 13\n")
    second = build_runner("aarch64", lambda _: None)
    assert second.path != first.path and calls(stand_ins) == 2 * WHOLE

    own = stand_ins / "sources"
    own.mkdir()
    (own / "main.cpp").write_text("int main() {}")
    monkeypatch.setattr(runner_build, "_SOURCES", own)
    third = build_runner("aarch64", lambda _: None)
    assert third.path != second.path
    assert calls(stand_ins) == ["link"]

    # The header that apps include is a source of the runner's.
    header = stand_ins / "edgepose.hpp"
    header.write_text(f"{runner_build._HEADER.read_text()}// changed\n")
    monkeypatch.setattr(runner_build, "_HEADER", header)
    assert build_runner("aarch64", lambda _: None).path != third.path
    assert calls(stand_ins) == ["link"]


def test_a_broken_build_leaves_no_runner_and_can_go_on(stand_ins: Path) -> None:
    (stand_ins / "broken").touch()
    with pytest.raises(ToolError, match=r"ninja.*exited with 1; if the cause is gone"):
        build_runner("aarch64", lambda _: None)
    folder = stand_ins / "cache" / "runner"
    assert not list(folder.glob("edgepose-runner-*"))
    (stand_ins / "broken").unlink()
    assert build_runner("aarch64", lambda _: None).path.is_file()


def test_a_library_without_half_precision_is_refused(stand_ins: Path) -> None:
    # As a compiler leaves it that does not know -march=armv8.2-a+fp16.
    (stand_ins / "members").write_text("convolution_arm.cpp.o convolution_asimddp.cpp.o")
    with pytest.raises(ToolError, match="cross 12 built ncnn without its arm82 kernels"):
        build_runner("aarch64", lambda _: None)
    assert not list((stand_ins / "cache" / "runner").glob("edgepose-runner-*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kernels": ["arm82dot"]}, r"lacks \['arm82'\]"),
        ({"ncnn": "1.0.1"}, r"holds ncnn 1\.0\.1"),
        ({"interpreter": b"/lib/ld.so\0"}, r"loads with /lib/ld\.so"),
    ],
)
def test_a_runner_that_is_not_as_it_should_be_is_refused(
    stand_ins: Path, changes: dict[str, Any], said: str
) -> None:
    good = {"ncnn": NCNN_VERSION, "kernels": ["arm82", "arm82dot"]}
    (stand_ins / "runner.bin").write_bytes(runner_bytes(**good | changes))
    with pytest.raises(ToolError, match=said):
        build_runner("aarch64", lambda _: None)
    assert not list((stand_ins / "cache" / "runner").glob("*edgepose-runner-*"))
