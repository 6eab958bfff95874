"""External programs: the room's only subprocess calls."""

from __future__ import annotations

import importlib.metadata
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from converters import CHECKOUT
from edge.errors import ToolError

__all__ = ["check_versions", "locked_versions", "run_shown", "run_tool", "version_of"]

_LAST_LINES = 12
_LOCK = CHECKOUT / "requirements.lock"


def run_tool(argv: Sequence[str], cwd: Path, timeout_s: float = 600.0) -> str:
    """Run a program in a folder; what it printed.

    Raises ToolError with the command line, the exit code and the last lines of its output. An
    interruption kills the program before it is passed on.
    """
    line = shlex.join(argv)
    try:
        done = subprocess.run(
            list(argv),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise ToolError(f"{argv[0]}: no such program; run `make setup`") from None
    except PermissionError:
        raise ToolError(f"{argv[0]}: may not be executed; run `make setup`") from None
    except subprocess.TimeoutExpired:
        raise ToolError(f"`{line}` did not end within {timeout_s:g} s") from None
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        how = (
            f"was killed by signal {-done.returncode}"
            if done.returncode < 0
            else f"exited with {done.returncode}"
        )
        last = "\n".join(f"    {row}" for row in text.splitlines()[-_LAST_LINES:])
        raise ToolError(f"`{line}` {how}; the last lines of its output:\n{last}")
    return text


def run_shown(argv: Sequence[str], cwd: Path, timeout_s: float) -> None:
    """Run a program that tells its user what it does: all that it prints goes to stderr.

    Raises ToolError with the command line and the exit code.
    """
    line = shlex.join(argv)
    sys.stderr.flush()
    try:
        done = subprocess.run(
            list(argv),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise ToolError(f"{argv[0]}: no such program; install it") from None
    except subprocess.TimeoutExpired:
        raise ToolError(f"`{line}` did not end within {timeout_s:g} s") from None
    if done.returncode != 0:
        raise ToolError(f"`{line}` exited with {done.returncode}, as said above")


@cache
def version_of(distribution: str) -> str:
    """Installed version of a Python distribution, ``absent`` where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


@cache
def locked_versions(lock: Path = _LOCK) -> dict[str, str]:
    """Distribution -> version of a lock file; empty where it is not there (no checkout)."""
    if not lock.is_file():
        return {}
    lines = lock.read_text(encoding="utf-8").splitlines()
    pins = [line.split()[0].partition("==") for line in lines if "==" in line and line[0] != " "]
    return {name: version for name, _, version in pins}


def check_versions(distributions: Iterable[str]) -> None:
    """Raise ToolError where a tool is missing or of another version than the lock's.

    What was measured of a quantiser or converter holds for its version alone.
    """
    locked = locked_versions()
    for name in distributions:
        want, got = locked.get(name), version_of(name)
        if got == "absent":
            raise ToolError(f"{name} is not installed: run `make setup`")
        if want not in (None, got):
            raise ToolError(
                f"{name} is {got}, the lock has {want}: run `make setup`, or accept it with "
                "--any-version"
            )
