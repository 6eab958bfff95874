"""zig as a cross compiler that takes GCC's ``-march`` for ARM.

zig 0.17 refuses ``-march=armv8.2-a+fp16`` ("unknown CPU"), so ncnn's probes for half precision
fail and its kernels are left out without a word. zig writes the same as
``-mcpu=generic+v8_2a+fullfp16``. It can go when zig takes the flag.
Run as ``python -m targets.runners.native.zig_compiler c++ ARGUMENTS...``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ZIG_TARGETS", "rewrite_march", "zig_program"]

ZIG_TARGETS = {"aarch64": "aarch64-linux-musl", "x86_64": "x86_64-linux-musl"}

# GCC's names of extensions that LLVM calls otherwise.
_FEATURES = {"fp16": "fullfp16"}


def zig_program() -> Path | None:
    """The zig that the ``ziglang`` package brings, None where it is not installed."""
    found = importlib.util.find_spec("ziglang")
    if found is None or not found.submodule_search_locations:
        return None
    program = Path(next(iter(found.submodule_search_locations))) / "zig"
    return program if program.is_file() else None


def rewrite_march(arguments: Sequence[str]) -> list[str]:
    """``-march=armvX.Y-a+A+B`` as ``-mcpu=generic+vX_Ya+A+B``; everything else unchanged."""
    rewritten = []
    for argument in arguments:
        found = re.fullmatch(r"-march=armv(\d+)(?:\.(\d+))?-a((?:\+\w+)*)", argument)
        if found is None:
            rewritten.append(argument)
            continue
        major, minor, rest = found.groups()
        version = f"v{major}_{minor}a" if minor else f"v{major}a"
        features = [_FEATURES.get(name, name) for name in rest.split("+")[1:]]
        rewritten.append("-mcpu=" + "+".join(["generic", version, *features]))
    return rewritten


def main() -> None:
    """Become zig."""
    program = zig_program()
    if program is None:
        sys.exit("zig is not installed: pip install ziglang")
    os.execv(program, [str(program), sys.argv[1], *rewrite_march(sys.argv[2:])])


if __name__ == "__main__":
    main()
