"""The native runners, built here, and what they refuse."""

from __future__ import annotations

import pytest

from edge.errors import ToolError
from targets.runners.native.build import find_runner
from targets.runners.native.check import emulator_argv
from targets.runners.native.toolchain import Arch, host_arch
from targets.transports.transport import Done
from tests.stand_ins.built_runner import skip_or_raise

__all__ = ["arm", "launcher", "refused", "x86"]


def launcher(arch: Arch) -> list[str]:
    """The argument vector that starts the runner of an architecture here."""
    try:
        runner = find_runner(arch)
    except ToolError as error:
        skip_or_raise(error)
    emulator: list[str] | None = []
    if arch != host_arch():
        emulator = emulator_argv()
    if emulator is None:
        pytest.skip("QEMU is not installed")
    return [*emulator, str(runner.path)]


@pytest.fixture(scope="session")
def x86() -> list[str]:
    return launcher("x86_64")


@pytest.fixture(scope="session")
def arm() -> list[str]:
    return launcher("aarch64")


def refused(done: Done, status: int, said: str) -> None:
    """No line on stdout, one on stderr."""
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (status, b""), (done.returncode, text)
    assert text.startswith("edgepose-runner: ") and text.count("\n") == 1, text
    assert said in text, text
