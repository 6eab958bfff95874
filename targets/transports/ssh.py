"""The transport over SSH, by paramiko: programs over ``exec``, files over SFTP.

A connection that broke between two calls is made again, once. A program that may have started is
never started again: where the connection broke while it ran, it is ended on the device as soon as
the device answers, and the caller hears of it.
"""

from __future__ import annotations

import functools
import getpass
import posixpath
import secrets
import select
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from edge.errors import DeviceError
from edge.files import replacing
from targets.transports.ssh_config import Login, read_login
from targets.transports.ssh_login import connect
from targets.transports.transport import (
    Done,
    Progress,
    check_remote,
    countdown,
    shell_line,
    shortened,
)

__all__ = ["SshTransport", "open_ssh"]

_BLOCK_BYTES = 1 << 18
_STDIN_BYTES = 1 << 15
_FULL_KB = 1024
# The kernel takes no argument beyond 128 KiB, and the whole command is one argument of the shell.
_LINE_BYTES = 120_000
# How long the clean-up after a failure may take on top of a call's own deadline.
_CLEAN_UP_S = 15.0
# A variable that marks a program and its children, and the shell above them by its command line.
_MARK = "EDGEPOSE_RUN"


def open_ssh(
    host: str,
    *,
    timeout_s: float = 15.0,
    config: Path | None = None,
    known_hosts: Path | None = None,
    ask: Callable[[str], str] | None = None,
) -> SshTransport:
    """Connect to ``[user@]host[:port]``, where host may be a name of ``~/.ssh/config``.

    ``timeout_s`` holds for each step of connecting, now and when it has to be done again. A
    password comes from EDGEPOSE_SSH_PASSWORD or from ``ask(prompt)``, by default a prompt where
    there is a terminal. ``config`` and ``known_hosts`` replace the user's files. DeviceError where
    the host cannot be reached, is not who it was, or does not let us in.
    """
    if ask is None and sys.stdin is not None and sys.stdin.isatty():
        ask = getpass.getpass
    login = read_login(host, config=config, known_hosts=known_hosts)
    transport = SshTransport(login, timeout_s, functools.cache(ask) if ask else None)
    try:
        # Before any deadline runs: a person may be typing a password.
        transport.connect()
        home = transport.run(["printenv", "HOME"], timeout_s=timeout_s)
    except BaseException:
        transport.close()
        raise
    folder = home.stdout.removesuffix(b"\n").decode(errors="replace")
    if home.returncode or not folder.startswith("/") or "\n" in folder:
        transport.close()
        said = (home.stdout + home.stderr).decode(errors="replace").strip()[:200]
        raise DeviceError(
            f"{transport.name}: its login shell does not do as it is told (it said {said!r}): it "
            "must be a POSIX shell whose start-up files print nothing (~/.bashrc, ~/.profile)"
        )
    transport.work_dir = posixpath.join(folder, ".cache/edgepose/device")
    return transport


class SshTransport:
    """A host over SSH; made by `open_ssh`. Not for use by several threads at once."""

    kind = "ssh"

    def __init__(
        self, login: Login, timeout_s: float, ask: Callable[[str], str] | None = None
    ) -> None:
        self.name = login.name
        self.work_dir = ""
        self._login, self._timeout_s, self._ask = login, timeout_s, ask
        self._paramiko: Any = None
        self._stack = ExitStack()
        self._closed = False
        # Shell lines that undo what a broken connection left on the device.
        self._owed: list[str] = []

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Done:
        """Run a program to its end; where the deadline or the user ends it, it ends there too."""
        mark = secrets.token_hex(8)
        line = f"{shell_line(argv, {_MARK: mark, **(env or {})})}; exit $?"
        what = f"`{shortened(argv)}`"
        if len(line.encode("utf-8", "surrogateescape")) > _LINE_BYTES:
            raise DeviceError(f"{self.name}: the arguments of {argv[0]} are too long; use a file")
        left_s = countdown(timeout_s)
        channel = self._channel(left_s())
        try:
            code, out, err = self._execute(channel, line, stdin, left_s)
        except _LateError:
            raise DeviceError(
                f"{self.name}: {what} did not end within {timeout_s:g} s; {self._ended(mark)}"
            ) from None
        except _breaks() as error:
            raise DeviceError(
                f"{self.name}: the connection was lost while {what} ran ({_text(error)}); "
                f"{self._ended(mark)}; check its power and network, then repeat"
            ) from None
        except BaseException:
            self._ended(mark)
            raise
        finally:
            with suppress(*_breaks()):
                channel.close()
        if code < 0:
            raise DeviceError(f"{self.name}: {what} was ended together with its shell")
        return Done(tuple(argv), code, out, err)

    def push(
        self,
        local: Path,
        remote: str,
        *,
        executable: bool = False,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        """Write a file through a temporary name beside its own; the same mode as a local copy."""
        folder, name = posixpath.split(check_remote(remote))
        part = posixpath.join(folder, f".{name}.part")
        what = f"pushing {local.name} to {remote}"
        try:
            total = local.stat().st_size
            reader = local.open("rb")
        except OSError as error:
            raise DeviceError(f"{self.name}: cannot push {local}: {error.strerror}") from None
        with reader, self._transfer(what, timeout_s, part) as sftp:
            try:
                writer = sftp.open(part, "wb")
            except FileNotFoundError:
                _make_folder(sftp, folder)
                writer = sftp.open(part, "wb")
            with writer:
                done = 0
                while block := reader.read(_BLOCK_BYTES):
                    done += len(block)
                    # The last write waits for the answers to all of them.
                    writer.set_pipelined(done < total)
                    writer.write(block)
                    if on_progress:
                        on_progress(done, max(total, done))
            if on_progress and not done:
                on_progress(0, 0)
            if sftp.stat(part).st_size != done:
                raise OSError("not all of it arrived")
            sftp.chmod(part, 0o755 if executable else 0o644)
            sftp.posix_rename(part, remote)

    def pull(
        self,
        remote: str,
        local: Path,
        *,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        """Write a file of the device through a temporary name beside its new one."""
        with ExitStack() as stack:
            with _here(self.name, local):
                local.parent.mkdir(parents=True, exist_ok=True)
                part = stack.enter_context(replacing(local))
                writer = part.open("wb")
            what = f"pulling {remote}"
            with writer, self._transfer(what, timeout_s) as sftp:
                done = 0
                with sftp.open(check_remote(remote), "rb") as reader:
                    total = reader.stat().st_size
                    while block := reader.read(_BLOCK_BYTES):
                        done += len(block)
                        with _here(self.name, local):
                            writer.write(block)
                        if on_progress:
                            on_progress(done, max(total, done))
                if done < total:
                    raise OSError("it became shorter meanwhile")
                if on_progress and not done:
                    on_progress(0, 0)
            with _here(self.name, local):
                stack.close()

    def close(self) -> None:
        """End the connection."""
        self._closed = True
        self._drop()

    def connect(self) -> None:
        """Connect now rather than with the first call."""
        self._connect(self._timeout_s)

    def _drop(self) -> None:
        self._paramiko = None
        self._stack.close()

    def _alive(self) -> bool:
        """Whether the connection stands, asked after a failure: its thread gets a moment to end."""
        if self._paramiko is None:
            return False
        self._paramiko.join(0.2)
        return bool(self._paramiko.is_alive() and self._paramiko.is_active())

    def _connect(self, timeout_s: float) -> bool:
        """Connect anew and undo what the last connection left behind; whether that was done."""
        self._drop()
        try:
            self._paramiko, self._stack = connect(self._login, timeout_s=timeout_s, ask=self._ask)
            return self._pay()
        except _failures() as error:
            self._drop()
            raise DeviceError(f"{self.name}: the connection broke ({_text(error)})") from None

    def _pay(self) -> bool:
        code = 0
        while self._owed:
            left_s = countdown(_CLEAN_UP_S)
            with self._paramiko.open_session(timeout=left_s()) as channel:
                code, _, _ = self._execute(channel, self._owed[0], b"", left_s)
            self._owed.pop(0)
        return code == 0

    def _undo(self, line: str) -> bool:
        """Run a shell line that cleans up, now or with the next connection; whether it was done."""
        self._owed.append(line)
        try:
            return self._pay() if self._alive() else self._connect(_CLEAN_UP_S)
        except _failures():
            return False
        except DeviceError:
            return False

    def _ended(self, mark: str) -> str:
        """End what a mark stands on, and say how that went."""
        return "it was ended" if self._undo(_end_line(mark)) else "it may still be running there"

    def _channel(self, timeout_s: float) -> Any:
        """A new channel; the connection is made first, or again where it turns out to be dead."""
        if self._closed:
            raise DeviceError(f"{self.name}: the connection was closed")
        each_s = min(timeout_s, self._timeout_s)
        if self._paramiko is not None and self._paramiko.is_active():
            with suppress(*_failures()):
                self._pay()
                return self._paramiko.open_session(timeout=each_s)
        self._connect(each_s)
        try:
            return self._paramiko.open_session(timeout=each_s)
        except _breaks() as error:
            self._drop()
            raise DeviceError(
                f"{self.name}: the connection breaks at once ({_text(error)})"
            ) from None

    @contextmanager
    def _cut_at_deadline(self, left_s: Callable[[], float]) -> Iterator[None]:
        """Close the connection at the deadline, as some waits of paramiko have none."""
        timer = threading.Timer(left_s(), self._paramiko.close)
        timer.start()
        try:
            yield
        except _breaks():
            if left_s() <= 0.001:
                raise _LateError from None
            raise
        finally:
            timer.cancel()
            timer.join()

    def _execute(
        self, channel: Any, line: str, stdin: bytes, left_s: Callable[[], float]
    ) -> tuple[int, bytes, bytes]:
        """Exit status (-1 where there is none), stdout and stderr of a shell line.

        Raises _LateError at the deadline and one of `_breaks` where the connection is lost.
        """
        with self._cut_at_deadline(left_s):
            channel.exec_command(line.encode("utf-8", "surrogateescape"))
        out, err, todo = bytearray(), bytearray(), memoryview(stdin)
        if not todo:
            channel.shutdown_write()
        ended = False
        while not ended:
            # A window that opens for stdin wakes nobody: look again soon.
            select.select([channel], [], [], min(left_s(), 0.01 if todo else 0.5))
            ended = channel.eof_received or channel.closed
            while channel.recv_ready():
                out += channel.recv(_BLOCK_BYTES)
            while channel.recv_stderr_ready():
                err += channel.recv_stderr(_BLOCK_BYTES)
            if todo and channel.send_ready() and not ended:
                todo = _feed(channel, todo)
            if not ended and left_s() <= 0.001:
                raise _LateError
        if not channel.status_event.wait(left_s()):
            raise _LateError
        if channel.exit_status < 0 and not self._alive():
            raise EOFError("it was closed")
        return channel.exit_status, bytes(out), bytes(err)

    @contextmanager
    def _transfer(self, what: str, timeout_s: float, part: str = "") -> Iterator[Any]:
        """An SFTP client, cut off at the deadline; ``part`` is removed where anything fails."""
        import paramiko

        left_s = countdown(timeout_s)
        channel = self._channel(left_s())
        try:
            with self._cut_at_deadline(left_s):
                channel.invoke_subsystem("sftp")
                yield paramiko.SFTPClient(channel)
        except BaseException as error:
            why = self._why(error, part, timeout_s)
            if part:
                self._undo(f"rm -f {shlex.quote(part)}")
            if not isinstance(error, _failures()):
                raise
            raise DeviceError(f"{self.name}: {what} failed: {why}") from None
        finally:
            with suppress(*_breaks()):
                channel.close()

    def _why(self, error: BaseException, part: str, timeout_s: float) -> str:
        if isinstance(error, _LateError):
            return f"it did not end within {timeout_s:g} s"
        if not self._alive():
            return f"the connection was lost ({_text(error)})"
        if isinstance(error, OSError) and error.errno is None and part:
            # SFTP knows no word for a full disk.
            with suppress(DeviceError):
                folder = posixpath.dirname(part)
                df = self.run(["df", "-Pk", folder], timeout_s=_CLEAN_UP_S).stdout.split(b"\n")
                if len(df) > 1 and int(df[1].split()[-3]) < _FULL_KB:
                    return f"no room is left in {folder}"
        return _text(error)


class _LateError(Exception):
    """The deadline of a call has passed."""


def _breaks() -> tuple[type[Exception], ...]:
    """What paramiko raises where the other side fails."""
    import paramiko

    return (paramiko.SSHException, OSError, EOFError)


def _failures() -> tuple[type[Exception], ...]:
    return (_LateError, *_breaks())


def _text(error: BaseException) -> str:
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error) or "it was closed"


def _feed(channel: Any, todo: memoryview) -> memoryview:
    """What is left for stdin; nothing where nobody reads it any more."""
    try:
        todo = todo[channel.send(bytes(todo[:_STDIN_BYTES])) :]
    except OSError:
        return memoryview(b"")
    if not todo:
        channel.shutdown_write()
    return todo


def _end_line(mark: str) -> str:
    """A shell line that kills all with this mark, each with its group; 0 where none is left.

    The shell of a program shows the mark in its command line, the program and its children in
    their environment. Written as a pattern, it does not find itself.
    """
    pattern = f"{_MARK}=[{mark[0]}]{mark[1:]}"
    return (
        f"seek() {{ grep -l '{pattern}' /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; }}; "
        'for turn in 1 2 3 4 5; do found=$(seek); [ -n "$found" ] || exit 0; '
        "for file in $found; do pid=${file#/proc/}; pid=${pid%/*}; "
        'kill -KILL -- "-$pid" || kill -KILL "$pid"; done 2>/dev/null; '
        "sleep 0.2; done; exit 1"
    )


def _make_folder(sftp: Any, folder: str) -> None:
    missing = []
    while folder != "/":
        try:
            sftp.stat(folder)
            break
        except FileNotFoundError:
            missing.append(folder)
            folder = posixpath.dirname(folder)
    for path in reversed(missing):
        sftp.mkdir(path)


@contextmanager
def _here(name: str, local: Path) -> Iterator[None]:
    """An error of this machine's own storage, told apart from one of the device."""
    try:
        yield
    except OSError as error:
        raise DeviceError(f"{name}: cannot write {local} here: {error.strerror}") from None
