"""The seam to a device: run a program, push a file, pull a file, close. Every call has a deadline.

What holds for every transport:

- ``argv`` is an argument vector. Nothing interprets its items, whatever they hold (spaces, quotes,
  newlines, ``$``, ``*``); the first is a program on the device's PATH or an absolute path, never a
  shell builtin. The folder in which it starts is not promised: pass absolute paths.
- A program that ran is a `Done`, whatever its exit status; `check` turns a bad one into an error.
- A program that outlives its deadline is ended with its whole process group, also on Ctrl-C.
- A file appears under its name whole or not at all, on either side; missing folders are made.
- Where the device cannot be reached, refuses or breaks off: DeviceError, which names the device.
"""

from __future__ import annotations

import posixpath
import re
import secrets
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.errors import DeviceError
from edge.files import sha256_of

__all__ = [
    "Done",
    "Progress",
    "Transport",
    "check",
    "check_remote",
    "countdown",
    "push_changed",
    "remote_sha256",
    "remove_work_dir",
    "scratch_folder",
    "shell_line",
    "shortened",
]

Progress = Callable[[int, int], None]
"""Called with the bytes that went over and the bytes in all; both are equal in the last call."""

_LAST_LINES = 12
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What a working folder of ours ends in. On a machine that is a host as well, this kit's own cache
# is ~/.cache/edgepose: a working folder beside its files can go without taking them along.
_OURS = ("/data/local/tmp/edgepose", "/edgepose/device")
_HASHES_PER_CALL = 100


@dataclass(frozen=True)
class Done:
    """What a remote program left.

    ``returncode`` is its exit status, 128 + N where signal N ended it, 127 where there is no such
    program and 126 where it may not be executed.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes


class Transport(Protocol):
    """A device that runs programs and keeps files; see the module for what every one promises."""

    @property
    def name(self) -> str:
        """Name for messages and records: ``adb 1a2b3c``, ``ssh pi@10.0.0.5``, ``local``."""

    @property
    def kind(self) -> str:
        """The transport's kind: ``adb``, ``ssh``, ``local`` or ``fake``."""

    @property
    def work_dir(self) -> str:
        """Absolute POSIX path of the folder on the device that is ours; it may not exist yet."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Done:
        """Run a program to its end; ``env`` is added to what the device sets."""

    def push(
        self,
        local: Path,
        remote: str,
        *,
        executable: bool = False,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        """Write a file of this machine to an absolute path of the device."""

    def pull(
        self,
        remote: str,
        local: Path,
        *,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        """Write a file of the device to a path of this machine."""

    def close(self) -> None:
        """End the connection; a second call does nothing."""


def shell_line(argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """One command for a POSIX shell that runs ``argv`` unchanged, with ``env`` added.

    It is a subshell: its exit status is the program's, more may follow it after ``;``, and ``exec``
    inside makes sure of the program where the shell has a builtin of the same name. Raises
    ValueError for what no shell and no kernel can pass on.
    """
    if not argv or not argv[0] or argv[0].startswith("-"):
        raise ValueError(f"not a program: {list(argv[:1])}")
    env = env or {}
    for name in env:
        if not _ENV_NAME.fullmatch(name):
            raise ValueError(f"not a name of an environment variable: {name!r}")
    if any("\0" in text for text in (*argv, *env.values())):
        raise ValueError(f"a NUL byte in the arguments or environment of {argv[0]!r}")
    exports = "".join(f"export {name}={shlex.quote(value)}; " for name, value in env.items())
    return f"({exports}exec {shlex.join(argv)})"


def shortened(argv: Sequence[str], most: int = 120) -> str:
    """A command on one line for a message, cut where it is long."""
    line = " ".join(shlex.join(argv).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def check(done: Done, what: str) -> Done:
    """``done`` where its exit status is 0, else a DeviceError: what failed, how, its last lines.

    ``what`` names the action and the device, like "the version of the runner on ssh pi@10.0.0.5".
    """
    if done.returncode == 0:
        return done
    how = f"exited with {done.returncode}"
    if done.returncode == 127:
        how += " (no such program)"
    if 128 < done.returncode <= 128 + signal.NSIG:
        number = done.returncode - 128
        how = f"was ended by signal {number}"
        if number == signal.SIGKILL:
            how += " (the kernel does so when memory runs out)"
    text = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
    last = "".join(f"\n    {row}" for row in text.splitlines()[-_LAST_LINES:])
    raise DeviceError(f"{what}: `{shlex.join(done.argv)}` {how}" + (f":{last}" if last else ""))


def check_remote(path: str) -> str:
    """``path`` where it is an absolute POSIX path of the device, else ValueError."""
    if not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise ValueError(f"not an absolute path of a file on the device: {path!r}")
    return path


def countdown(timeout_s: float) -> Callable[[], float]:
    """Seconds left of a deadline over several calls, never below a millisecond."""
    deadline = time.monotonic() + timeout_s
    return lambda: max(deadline - time.monotonic(), 0.001)


def remote_sha256(
    transport: Transport, remotes: Sequence[str], *, timeout_s: float
) -> dict[str, str] | None:
    """Path -> SHA-256 in hex of each of these files that is there and can be read.

    None where the device has no ``sha256sum``.
    """
    found = {}
    left_s = countdown(timeout_s)
    # A path with a backslash or a line break is printed escaped, on a line led by a backslash.
    escapes = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r"})
    for first in range(0, len(remotes), _HASHES_PER_CALL):
        some = [check_remote(path) for path in remotes[first : first + _HASHES_PER_CALL]]
        done = transport.run(["sha256sum", *some], timeout_s=left_s())
        if done.returncode in (126, 127):
            return None
        names = {path: path for path in some} | {path.translate(escapes): path for path in some}
        for line in done.stdout.decode("utf-8", "surrogateescape").split("\n"):
            digest, _, name = line.removeprefix("\\").partition("  ")
            if name in names and re.fullmatch(r"[0-9a-f]{64}", digest):
                found[names[name]] = digest
    return found


def push_changed(
    transport: Transport,
    local: Path,
    remote: str,
    *,
    executable: bool = False,
    timeout_s: float,
    on_progress: Progress | None = None,
) -> tuple[str, ...]:
    """Push a file, or every file below a folder, that the device does not hold with the same bytes.

    The paths on the device that were written; ``timeout_s`` is for all of them together. What
    arrived is hashed there again: DeviceError where it differs. ``on_progress`` counts the bytes of
    the changed files.
    """
    left_s = countdown(timeout_s)
    files = {remote: local}
    if local.is_dir():
        below = sorted(path for path in local.rglob("*") if path.is_file())
        files = {posixpath.join(remote, path.relative_to(local).as_posix()): path for path in below}
    try:
        hashes = {path: sha256_of(source) for path, source in files.items()}
        sizes = {path: source.stat().st_size for path, source in files.items()}
    except OSError as error:
        raise DeviceError(f"{transport.name}: cannot push {local}: {error.strerror}") from None

    held = remote_sha256(transport, list(files), timeout_s=left_s()) or {}
    changed = [path for path in files if held.get(path) != hashes[path]]
    same = [path for path in files if path not in changed]
    if executable and same:
        done = transport.run(["chmod", "755", *same], timeout_s=left_s())
        check(done, f"making files executable on {transport.name}")
    total, before = sum(sizes[path] for path in changed), 0
    for path in changed:
        transport.push(
            files[path],
            path,
            executable=executable,
            timeout_s=left_s(),
            on_progress=_shifted(on_progress, before, total),
        )
        before += sizes[path]
    arrived = remote_sha256(transport, changed, timeout_s=left_s())
    for path in changed:
        if arrived is not None and arrived.get(path) != hashes[path]:
            raise DeviceError(
                f"{transport.name}: {path} is not what was pushed: its storage may be full or "
                "failing, or another run pushes at the same time"
            )
    return tuple(changed)


def remove_work_dir(transport: Transport, *, timeout_s: float = 60.0) -> None:
    """Remove the working folder from the device; DeviceError where it is no folder of ours."""
    folder = transport.work_dir
    if posixpath.normpath(folder) != folder or not folder.startswith("/") or "\0" in folder:
        raise DeviceError(f"{transport.name}: will not remove {folder!r}: not a plain path")
    if not folder.endswith(_OURS):
        raise DeviceError(f"{transport.name}: will not remove {folder}: not a folder of edgepose")
    what = f"removing {folder} on {transport.name}"
    check(transport.run(["rm", "-rf", folder], timeout_s=timeout_s), what)


@contextmanager
def scratch_folder(transport: Transport) -> Iterator[str]:
    """Path of a new folder on the device for one call's files, removed with all that is in it.

    It is made with the first file. Where the device is gone when the block ends, the folder stays
    in the working folder and goes with it.
    """
    folder = posixpath.join(transport.work_dir, "tmp", secrets.token_hex(6))
    try:
        yield folder
    finally:
        with suppress(DeviceError):
            transport.run(["rm", "-rf", folder], timeout_s=20.0)


def _shifted(on_progress: Progress | None, before: int, total: int) -> Progress | None:
    if on_progress is None:
        return None
    return lambda sent, _: on_progress(before + sent, total)
