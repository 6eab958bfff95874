"""A runner for aarch64 that was built here before."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from edge.errors import ToolError
from edge.files import cache_folder
from targets.runners.native.check import check_runner, emulator_argv

__all__ = ["built_runner", "skip_or_raise"]


def built_runner() -> Path:
    """The newest aarch64 runner that was ever built here; skips where there is none, or no QEMU."""
    if emulator_argv() is None:
        pytest.skip("QEMU is not installed (apt-get install qemu-user-static)")
    found = list((cache_folder() / "runner").glob("edgepose-runner-aarch64-*"))
    if not found:
        pytest.skip("no aarch64 runner was built here yet; a slow test builds it")
    return check_runner(max(found, key=lambda path: path.stat().st_mtime), "aarch64").path


def skip_or_raise(error: ToolError) -> NoReturn:
    """Skip where a tool is missing; a compiler that refuses the runner's sources is a failure."""
    if "error:" in str(error):
        raise error
    pytest.skip(str(error))
