"""Android phones: the transport over adb.

Programs run in a process group of their own and are ended with it. With shell v2 (Android 7 and
later) the program takes the shell's place: its exit status is the protocol's, and adbd hangs it up
when the cable goes. Before that the status, and what it wrote to standard error, follow its output
behind a mark that no output can hold.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shlex
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from edge.errors import DeviceError
from edge.files import replacing
from targets.transports.adb_server import (
    AdbDevice,
    Broken,
    Refused,
    Stream,
    features,
    list_devices,
    open_service,
    receive_file,
    send_file,
    start_server,
)
from targets.transports.transport import (
    Done,
    Progress,
    Transport,
    check,
    check_remote,
    shell_line,
    shortened,
)

__all__ = ["AdbDevice", "adb_devices", "open_adb"]

_WORK_DIR = "/data/local/tmp/edgepose"
_SETTLE_S = 2.0  # what a server that was just started takes to see the devices on its cables
_END_S = 8.0  # ending a program takes 4 s at most
_ASK_S = 3.0
_LONGEST_LINE = 3500  # an old device takes 4096 bytes for a service's name
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_STDIN_CHUNK = 16 * 1024

# `exec:` joins standard output and error and tells no status.
_OLD_SCRIPT = (
    'mkdir -p @DIR@ 2>/dev/null; E=@FILES@err; (: >"$E") 2>/dev/null || E=/dev/null; '
    'echo @MARK@:$$; @LINE@ <@IN@ 2>"$E"; echo @MARK@=$?; '
    'cat "$E" 2>/dev/null; rm -f @FILES@*; echo @MARK@.'
)
# The group, or where a device makes none the program; TERM, after 2 s KILL, for 4 s in all.
_END_SCRIPT = (
    "k() { kill $1 -- -@PID@ 2>/dev/null || kill $1 @PID@ 2>/dev/null; }; k -TERM; n=0; "
    "while k -0; do n=$((n+1)); [ $n = 20 ] && k -KILL; [ $n = 40 ] && exit 1; sleep 0.1; done"
)


def adb_devices(*, timeout_s: float = 10.0) -> tuple[AdbDevice, ...]:
    """Every device that adb lists, usable or not (see `AdbDevice.problem`).

    Starts an adb server where none runs. Raises DeviceError where adb is absent or does not answer,
    ToolError where it cannot start its server.
    """
    if start_server():
        time.sleep(_SETTLE_S)
    try:
        return list_devices(time.monotonic() + timeout_s)
    except Refused as error:
        raise DeviceError(f"adb: {_one_line(error)}") from None
    except Broken as error:
        raise DeviceError(f"adb: {_one_line(error) or 'its server broke off'}") from None
    except TimeoutError:
        raise DeviceError(
            f"adb: its server does not answer within {timeout_s:g} s; it may hang: run "
            "`adb kill-server` if nothing else uses it"
        ) from None


def open_adb(
    serial: str | None = None, *, work_dir: str = _WORK_DIR, timeout_s: float = 10.0
) -> Transport:
    """The device of this serial number, or the only one; ANDROID_SERIAL counts as for adb itself.

    Raises DeviceError: no device, several and no serial, unauthorised, offline, not there.
    """
    check_remote(work_dir)
    serial = serial or os.environ.get("ANDROID_SERIAL") or None
    devices = adb_devices(timeout_s=timeout_s)
    listing = ", ".join(f"{device.quoted} ({device.model or device.state})" for device in devices)
    if serial is None and not devices:
        raise DeviceError(
            "adb: no device; plug it in, switch on USB debugging in its developer options, and see "
            "`adb devices`"
        )
    if serial is None and len(devices) > 1:
        raise DeviceError(f"adb: several devices, name one with SERIAL=...: {listing}")
    found = [device for device in devices if serial in (None, device.serial)]
    if not found:
        fix = (
            f"run `adb connect {shlex.quote(serial or '')}`"
            if ":" in (serial or "")
            else "check its cable"
        )
        raise DeviceError(f"adb {serial}: not connected; {fix}; connected: {listing or 'none'}")
    device = found[0]
    if device.problem:
        raise DeviceError(f"adb {device.serial} {device.problem}")
    return _Adb(device.serial, work_dir, timeout_s)


class _Adb:
    """`Transport` over adb; every call is a connection of its own, so that none can be stale."""

    kind: Literal["adb"] = "adb"

    def __init__(self, serial: str, work_dir: str, timeout_s: float) -> None:
        self.serial = serial
        self.name = f"adb {serial}"
        self.work_dir = work_dir
        with self._told("asking for its features", timeout_s) as deadline:
            self._shell_v2 = "shell_v2" in features(serial, deadline)

    def close(self) -> None:
        """Nothing is open between calls."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Done:
        line = shell_line(argv, env)
        with self._told(f"`{shortened(argv)}`", timeout_s) as deadline:
            mark = secrets.token_hex(16)
            if self._shell_v2:
                # Without its parentheses `exec` replaces the shell itself.
                raw = self._shell(f"echo {mark}:$$; {line[1:-1]}", mark, stdin, deadline)
                stdout, stderr, code = _unpack_v2(raw, mark)
            else:
                files, source = self._scratch(mark), "/dev/null"
                if stdin:
                    # A stream has one end for both directions: it cannot tell where input stops.
                    source = f"{files}in"
                    self._send(io.BytesIO(stdin), source, 0o644, deadline)
                words = {"@DIR@": self.work_dir, "@FILES@": files, "@IN@": source, "@MARK@": mark}
                words = {word: shlex.quote(text) for word, text in words.items()} | {"@LINE@": line}
                script = re.sub("@[A-Z]+@", lambda word: words[word[0]], _OLD_SCRIPT)
                stdout, stderr, code = _unpack_old(self._shell(script, mark, b"", deadline), mark)
        return Done(tuple(argv), code, stdout, stderr)

    def push(
        self,
        local: Path,
        remote: str,
        *,
        executable: bool = False,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        part = check_remote(remote) + ".part"
        try:
            source = local.open("rb")
        except OSError as error:
            raise DeviceError(f"{self.name}: cannot push {local}: {error.strerror}") from None
        what = f"pushing {local.name} to {remote}"
        with source, self._told(what, timeout_s) as deadline:
            try:
                mode = 0o755 if executable else 0o644
                self._send(source, part, mode, deadline, on_progress)
                move = ["mv", "-f", part, remote]
                done = self.run(move, timeout_s=max(deadline - time.monotonic(), 0.001))
                check(done, f"{what} on {self.name}")
            except Broken:
                raise  # adbd removes what it was receiving
            except BaseException:
                self._quietly(f"rm -f {shlex.quote(part)}")
                raise

    def pull(
        self,
        remote: str,
        local: Path,
        *,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        check_remote(remote)
        try:
            with self._told(f"pulling {remote}", timeout_s) as deadline:
                local.parent.mkdir(parents=True, exist_ok=True)
                with (
                    replacing(local) as part,
                    part.open("wb") as target,
                    open_service(self.serial, b"sync:", deadline) as stream,
                ):
                    receive_file(stream, remote, target, on_progress)
        except OSError as error:
            raise DeviceError(f"{self.name}: cannot write {local}: {error.strerror}") from None

    @contextmanager
    def _told(self, what: str, timeout_s: float) -> Iterator[float]:
        """A deadline, and each way to miss it as an error of this device."""
        deadline = time.monotonic() + timeout_s
        try:
            if start_server(timeout_s):
                settled = min(deadline, time.monotonic() + _SETTLE_S)
                while time.monotonic() < settled and self._state() != "device":
                    time.sleep(0.1)
            yield deadline
        except Refused as error:
            raise self._refused(what, _one_line(error)) from None
        except Broken as error:
            raise self._lost(what, _one_line(error)) from None
        except _Unending as error:
            raise DeviceError(
                f"{self.name}: {what} did not end within {timeout_s:g} s {error}"
            ) from None
        except TimeoutError:
            raise DeviceError(f"{self.name}: {what} did not end within {timeout_s:g} s") from None

    def _scratch(self, mark: str) -> str:
        """What the names of a call's own files begin with; the call removes them."""
        return f"{self.work_dir}/.{mark}."

    def _device(self) -> AdbDevice | None:
        """How the server lists this device now."""
        for device in list_devices(time.monotonic() + _ASK_S):
            if device.serial == self.serial:
                return device
        return None

    def _state(self) -> str:
        device = self._device()
        return device.state if device else ""

    def _refused(self, what: str, text: str) -> DeviceError:
        with suppress(Refused, Broken, TimeoutError):
            device = self._device()
            if device is None:
                return DeviceError(f"{self.name} is not connected: check its cable ({what})")
            if device.problem:
                return DeviceError(f"{self.name} {device.problem} ({what})")
        fix = "; free some space on the device" if os.strerror(errno.ENOSPC) in text else ""
        return DeviceError(f"{self.name}: {what}: {text}{fix}")

    def _lost(self, what: str, text: str) -> DeviceError:
        try:
            device = self._device()
        except (Refused, Broken, TimeoutError):
            text = text or "the adb server broke off"
            return DeviceError(f"{self.name}: {text} during {what}; repeat")
        if device is None or device.state == "offline":
            return DeviceError(
                f"{self.name}: disconnected during {what}; check its cable and whether it "
                "restarts, then repeat"
            )
        if device.problem:
            return DeviceError(f"{self.name} {device.problem} ({what})")
        return DeviceError(
            f"{self.name}: the connection broke off during {what} and is back (a loose cable, or "
            "it restarted); repeat"
        )

    def _send(
        self,
        source: BinaryIO,
        remote: str,
        mode: int,
        deadline: float,
        on_progress: Progress | None = None,
    ) -> None:
        with open_service(self.serial, b"sync:", deadline) as stream:
            send_file(stream, source, remote, mode, on_progress)

    def _shell(self, script: str, mark: str, stdin: bytes, deadline: float) -> bytes:
        """What a shell service sent until its end; a program that is not done by then is ended."""
        line = os.fsencode(script)
        if len(line) > _LONGEST_LINE:
            name = self._scratch(mark) + "sh"
            remove = os.fsencode(f"rm -f {shlex.quote(name)}\n")
            self._send(io.BytesIO(remove + line), name, 0o644, deadline)
            line = os.fsencode(f". {shlex.quote(name)}")
        kind, outgoing = (b"shell,v2,raw:", _packed(stdin)) if self._shell_v2 else (b"exec:", b"")
        raw = bytearray()
        with open_service(self.serial, kind + line, deadline) as stream:
            try:
                for data in stream.exchange(outgoing):
                    raw += data
            except Broken:
                raise
            except TimeoutError:
                ended = self._end_program(stream, raw, mark)
                raise _Unending(
                    "and was ended" if ended else "and could not be ended: restart the device"
                ) from None
            except BaseException:
                self._end_program(stream, raw, mark)
                raise
        return bytes(raw)

    def _end_program(self, stream: Stream, raw: bytearray, mark: str) -> bool:
        """End a program and what it started; whether that is certain."""
        stream.deadline = time.monotonic() + _ASK_S
        number = re.compile(mark.encode() + rb":(\d+)\s")
        with suppress(Broken, TimeoutError):
            # Its number comes first, but may be still under way.
            data = stream.exchange()
            while number.search(raw) is None and (part := next(data, None)) is not None:
                raw += part
        found = number.search(raw)
        if found is None:
            return False
        script = _END_SCRIPT.replace("@PID@", found[1].decode())
        return self._quietly(f"{script}; rm -f {shlex.quote(self._scratch(mark))}*")

    def _quietly(self, script: str) -> bool:
        """Run a line of our own after something went wrong; whether it came to its end."""
        with suppress(Refused, Broken, TimeoutError):
            line = os.fsencode(f"exec:{script}; echo done")
            with open_service(self.serial, line, time.monotonic() + _END_S) as stream:
                return b"".join(stream.exchange()).strip().endswith(b"done")
        return False


class _Unending(Exception):  # noqa: N818 - an event
    """A program outlived its deadline; the text says what became of it."""


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _packed(stdin: bytes) -> bytes:
    """Standard input in the shell protocol, its end included."""
    packets = [
        struct.pack("<BI", _STDIN, len(part)) + part
        for start in range(0, len(stdin), _STDIN_CHUNK)
        if (part := stdin[start : start + _STDIN_CHUNK])
    ]
    return b"".join([*packets, struct.pack("<BI", _CLOSE_STDIN, 0)])


def _unpack_v2(raw: bytes, mark: str) -> tuple[bytes, bytes, int]:
    """Standard output after the mark, standard error and exit status of the shell protocol."""
    parts: dict[int, list[bytes]] = {_STDOUT: [], _STDERR: [], _EXIT: []}
    at = 0
    while at + 5 <= len(raw):
        kind, size = struct.unpack_from("<BI", raw, at)
        parts.setdefault(kind, []).append(raw[at + 5 : at + 5 + size])
        at += 5 + size
    code = b"".join(parts[_EXIT])
    if not code:
        raise Broken
    stdout = b"".join(parts[_STDOUT])
    head = re.search(mark.encode() + rb":\d+\r?\n", stdout)
    # What the device printed before the program began is not the program's.
    return stdout[head.end() if head else 0 :], b"".join(parts[_STDERR]), code[0]


def _unpack_old(raw: bytes, mark: str) -> tuple[bytes, bytes, int]:
    """The same from what `_OLD_SCRIPT` printed."""
    key = mark.encode()
    whole = re.search(
        key + rb":\d+\r?\n(.*)" + key + rb"=(\d{1,9})\r?\n(.*)" + key + rb"\.", raw, re.DOTALL
    )
    if whole is None:
        raise Broken
    return whole[1], whole[3], int(whole[2])
