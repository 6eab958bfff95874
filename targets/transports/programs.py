"""Programs on this machine: the room's only subprocess call."""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from edge.errors import ToolError
from targets.transports.transport import Done

__all__ = ["ProgramTimeoutError", "check_program", "run_program"]

_BLOCK_BYTES = 1 << 16
_LAST_LINES = 12
# What a program that was asked to end gets before it is killed.
_GRACE_S = 2.0


class ProgramTimeoutError(ToolError):
    """A program did not end within its deadline; it was ended, with all that it had started."""


def run_program(
    argv: Sequence[str],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    on_line: Callable[[str], None] | None = None,
) -> Done:
    """Run a program to its end, whatever its exit status, with ``env`` added to this environment.

    It runs in a process group of its own, which is ended as a whole at the deadline, on Ctrl-C and
    where ``on_line`` raises. ``on_line`` hears every line of stdout as it comes. A program that is
    missing or may not be executed is a Done with 127 or 126, as from a shell; one that signal N
    ended has 128 + N. Raises ProgramTimeoutError.
    """
    argv = tuple(argv)
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=None if env is None else {**os.environ, **env},
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        return Done(argv, 127, b"", f"{error.filename}: no such program or folder\n".encode())
    except OSError as error:
        return Done(argv, 126, b"", f"{argv[0]}: {error.strerror}\n".encode())
    deadline = time.monotonic() + timeout_s
    try:
        with process:
            try:
                out, err = _talk(process, stdin, on_line, deadline)
                code = process.wait(max(deadline - time.monotonic(), 0.0))
            except BaseException:
                _end_group(process)
                raise
    except subprocess.TimeoutExpired:
        line = shlex.join(argv)
        raise ProgramTimeoutError(f"`{line}` did not end within {timeout_s:g} s") from None
    return Done(argv, code if code >= 0 else 128 - code, out, err)


def check_program(done: Done, fix: str = "") -> str:
    """What a program printed on stdout where its exit status is 0.

    Else a ToolError with the command line, the exit status, the last lines of its output, and
    ``fix``, which says what to do about it.
    """
    if done.returncode == 0:
        return done.stdout.decode(errors="replace")
    how = f"exited with {done.returncode}"
    if done.returncode > 128:
        how = f"was ended by signal {done.returncode - 128}"
    text = (done.stdout + done.stderr).decode(errors="replace")
    last = "".join(f"\n    {row}" for row in text.splitlines()[-_LAST_LINES:])
    advice = f"; {fix}" if fix else ""
    raise ToolError(f"`{shlex.join(done.argv)}` {how}{advice}{':' if last else ''}{last}")


def _talk(
    process: subprocess.Popen[bytes],
    stdin: bytes,
    on_line: Callable[[str], None] | None,
    deadline: float,
) -> tuple[bytes, bytes]:
    """Feed stdin and read stdout and stderr until both are closed."""
    streams = (cast(IO[bytes], process.stdout), cast(IO[bytes], process.stderr))
    read: dict[int, bytearray] = {stream.fileno(): bytearray() for stream in streams}
    out = streams[0].fileno()
    told = 0
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        if process.stdin:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while len(selector.get_map()) > 0:
            ready = selector.select(max(deadline - time.monotonic(), 0.0))
            if not ready and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(process.args, 0.0)
            for key, _ in ready:
                pipe = cast(IO[bytes], key.fileobj)
                if pipe is process.stdin:
                    stdin = _feed(key.fd, stdin)
                    ended = not stdin
                    if ended:
                        selector.unregister(pipe)
                        pipe.close()
                    continue
                block = os.read(key.fd, _BLOCK_BYTES)
                read[key.fd] += block
                if not block:
                    selector.unregister(pipe)
                if key.fd == out and on_line:
                    told = _tell(read[out], told, on_line, ended=not block)
    return bytes(read[out]), bytes(read[streams[1].fileno()])


def _feed(file: int, data: bytes) -> bytes:
    """What is left to be written; nothing where the reader has gone."""
    try:
        return data[os.write(file, data[:_BLOCK_BYTES]) :]
    except BrokenPipeError:
        return b""


def _tell(text: bytearray, told: int, on_line: Callable[[str], None], *, ended: bool) -> int:
    """Pass the whole lines from position ``told`` on, in the end the rest too; the new one."""
    while (stop := text.find(b"\n", told)) >= 0 or (ended and told < len(text)):
        stop = len(text) if stop < 0 else stop
        on_line(text[told:stop].decode(errors="replace"))
        told = stop + 1
    return told


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask the program and all that it started to end, then make them; returns when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
