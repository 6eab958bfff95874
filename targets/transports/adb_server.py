"""The adb server, over its own socket: what it lists, the services of a device, files.

The server is adb's: it owns the cable, the keys and the devices. Its command line is passed over
for its socket, because there status 1 is the program's or adb's own, ``push`` reports no bytes, and
a server of another version is ended by the mere question. Here no server is ever ended; one is
started where none answers on this machine.

Protocols: ``SERVICES.TXT``, ``SYNC.TXT`` and ``shell_protocol.h`` of Android's adb. Three things
can happen to any call: `Refused` (the server or the device says no, in its words), `Broken` (the
connection ended in the middle), TimeoutError (the deadline passed).
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from edge.digits import parse_digits
from edge.errors import DeviceError
from targets.transports.programs import check_program, run_program
from targets.transports.transport import Progress

__all__ = [
    "AdbDevice",
    "Broken",
    "Refused",
    "Stream",
    "features",
    "list_devices",
    "open_service",
    "parse_device",
    "receive_file",
    "send_file",
    "start_server",
]

_CHUNK = 64 * 1024  # the most that one DATA message may hold
_START_S = 20.0
_REGULAR_FILE = 0o100000
# What adb's transport.cpp writes behind a serial number. Of the states one has blanks, and more
# text of the system's behind it.
_FACTS = ("usb", "product", "model", "device", "features", "transport_id")
_STATES = (
    *("device", "offline", "unauthorized", "authorizing", "connecting", "detached", "unknown"),
    *("bootloader", "recovery", "rescue", "sideload", "host"),
)
_NO_PERMISSIONS = " no permissions"


class Refused(Exception):  # noqa: N818 - a plain answer
    """The adb server or the device said no; the text is its own."""


class Broken(Exception):  # noqa: N818 - an event
    """The connection ended in the middle of a call."""


@dataclass(frozen=True)
class AdbDevice:
    """A device as the adb server lists it.

    ``state`` is adb's word (``device`` is the good one), ``model`` is empty while it is unknown and
    ``transport_id`` counts the connections that the server has seen.
    """

    serial: str
    state: str
    model: str = ""
    transport_id: str = ""

    @property
    def quoted(self) -> str:
        """The serial number as a shell takes it, to be typed again."""
        return shlex.quote(self.serial)

    @property
    def problem(self) -> str:
        """What keeps the device from being used, and the fix; empty where nothing does."""
        fixes = {
            "device": "",
            "unauthorized": "has not authorised this computer: unlock its screen and accept the "
            "question about USB debugging (switch USB debugging off and on if none appears)",
            "authorizing": "is being authorised: wait a moment and repeat",
            "connecting": "is being connected: wait a moment and repeat",
            "offline": "is offline, it does not answer: "
            + (
                f"run `adb disconnect {self.quoted}`, then `adb connect {self.quoted}`"
                if ":" in self.serial
                else "unplug it and plug it in again, or restart it"
            ),
        }
        if self.state.startswith("no permissions"):
            return (
                "may not be opened by this user: install udev rules for it (Debian: "
                "android-sdk-platform-tools-common) and plug it in again"
            )
        return fixes.get(self.state, f"is in the state {self.state!r}: start Android on it")


def _address() -> tuple[str, int]:
    """Where adb's own environment variables say that the server listens."""
    whole = os.environ.get("ADB_SERVER_SOCKET", "")
    found = re.fullmatch(r"tcp:(?:(\[.+\]|[^:]+):)?(\d+)", whole)
    if whole and found is None:
        raise DeviceError(
            f"ADB_SERVER_SOCKET={whole}: only tcp:HOST:PORT and tcp:PORT are supported"
        )
    host = os.environ.get("ANDROID_ADB_SERVER_ADDRESS") or "127.0.0.1"
    port = os.environ.get("ANDROID_ADB_SERVER_PORT") or "5037"
    if found is not None:
        host, port = (found[1] or "127.0.0.1").strip("[]"), found[2]
    number = parse_digits(port)
    if number is None or not 0 < number < 65536:
        raise DeviceError(f"ANDROID_ADB_SERVER_PORT={port}: not a port number")
    return host, number


def _find_program() -> str:
    """The adb program: ADB, then the PATH, then ANDROID_HOME."""
    if named := os.environ.get("ADB"):
        if (program := shutil.which(named)) is None:
            raise DeviceError(f"ADB={named}: no such program; correct or unset ADB")
        return program
    homes = [os.environ[key] for key in ("ANDROID_HOME", "ANDROID_SDK_ROOT") if os.environ.get(key)]
    for program in ("adb", *(str(Path(home, "platform-tools", "adb")) for home in homes)):
        if (found := shutil.which(program)) is not None:
            return found
    raise DeviceError(
        "adb: no such program; install it (Debian: apt-get install adb) or set ADB or ANDROID_HOME"
    )


def start_server(timeout_s: float = _START_S) -> bool:
    """Start an adb server where none answers; whether that was needed."""
    host, port = _address()
    try:
        socket.create_connection((host, port), timeout_s).close()
        return False
    except OSError as error:
        if host not in ("127.0.0.1", "localhost", "::1"):
            raise DeviceError(
                f"no adb server at {host}:{port} ({error}): start one there"
            ) from None
    program = _find_program()
    done = run_program([program, "start-server"], timeout_s=timeout_s)
    check_program(done, f"see what holds port {port}")
    return True


class Stream:
    """A connection to the adb server whose every operation ends at one deadline (monotonic s)."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        try:
            self._socket = socket.create_connection(_address(), self._left_s())
        except TimeoutError:
            raise
        except OSError as error:
            raise Broken(f"the adb server does not answer ({error.strerror})") from None

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def _left_s(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self._socket.settimeout(self._left_s())
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise
        except OSError:
            raise Broken from None

    def read(self, size: int) -> bytes:
        """Exactly this many bytes."""
        data = bytearray()
        while len(data) < size:
            part = self._read_some(size - len(data))
            if not part:
                raise Broken
            data += part
        return bytes(data)

    def _read_some(self, size: int) -> bytes:
        self._socket.settimeout(self._left_s())
        try:
            return self._socket.recv(size)
        except TimeoutError:
            raise
        except OSError:
            raise Broken from None

    def has_answer(self) -> bool:
        """Whether something can be read, or the other side has ended, at this moment."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def exchange(self, outgoing: bytes = b"") -> Iterator[bytes]:
        """What comes in until the other side ends, while ``outgoing`` goes out as it is taken."""
        left = memoryview(outgoing)
        while True:
            writable = [self._socket] if left else []
            can_read, can_write, _ = select.select([self._socket], writable, [], self._left_s())
            self._socket.settimeout(0)
            try:
                if can_read:
                    data = self._socket.recv(_CHUNK)
                    if not data:
                        return
                    yield data
                elif can_write:
                    left = left[self._socket.send(left[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise Broken from None

    def ask(self, service: bytes) -> None:
        """Name a service; afterwards the connection is that service's."""
        self.send(b"%04x" % len(service) + service)
        answer = self.read(4)
        if answer == b"FAIL":
            raise Refused(self.read_text())
        if answer != b"OKAY":
            raise Refused("what answers there is no adb server")

    def read_text(self, *, errors: str = "replace") -> str:
        """A text with its length before it, as the server answers questions."""
        try:
            return self.read(int(self.read(4), 16)).decode(errors=errors)
        except ValueError:
            raise Refused("what answers there is no adb server") from None


def list_devices(deadline: float) -> tuple[AdbDevice, ...]:
    """Every device that the server knows of, in its order."""
    with Stream(deadline) as stream:
        stream.ask(b"host:devices-l")
        text = stream.read_text(errors="surrogateescape")
    return tuple(device for line in text.split("\n") if (device := parse_device(line)))


def parse_device(line: str) -> AdbDevice | None:
    """A line of ``adb devices -l``: serial, filled up to 22 columns, a blank, state and facts.

    A serial number may hold blanks, brackets and colons, and so may a state: the facts are taken
    off from the end, then the state, and what is left is the serial. None for an empty line.
    """
    facts: dict[str, str] = {}
    head = line.rstrip()
    while True:
        before, _, last = head.rpartition(" ")
        key, colon, value = last.partition(":")
        if not (before and colon and key in _FACTS):
            break
        facts[key] = value
        head = before.rstrip(" ")
    serial, _, state = head.rpartition(" ")
    refused = head.find(_NO_PERMISSIONS)
    if state not in _STATES and refused > 0:
        serial, state = head[:refused], head[refused + 1 :]
    if not serial.strip():
        return AdbDevice(head, "unknown") if head else None
    model = facts.get("model", "").replace("_", " ")
    return AdbDevice(serial.rstrip(" "), state, model, facts.get("transport_id", ""))


def features(serial: str, deadline: float) -> frozenset[str]:
    """What server and device can both do, like ``shell_v2``."""
    with Stream(deadline) as stream:
        stream.ask(os.fsencode(f"host-serial:{serial}:features"))
        return frozenset(stream.read_text().split(","))


def open_service(serial: str, service: bytes, deadline: float) -> Stream:
    """A connection to a service of a device, like ``sync:`` or ``exec:LINE``."""
    stream = Stream(deadline)
    try:
        stream.ask(os.fsencode(f"host:transport:{serial}"))
        stream.ask(service)
    except BaseException:
        stream.__exit__(None, None, None)
        raise
    return stream


def _sync_answer(stream: Stream) -> tuple[bytes, int]:
    kind, size = struct.unpack("<4sI", stream.read(8))
    if kind == b"FAIL":
        raise Refused(stream.read(size).decode(errors="replace"))
    return kind, size


def send_file(
    stream: Stream, source: BinaryIO, remote: str, mode: int, on_progress: Progress | None
) -> None:
    """Write a file to the device over a ``sync:`` service."""
    total, sent = source.seek(0, os.SEEK_END), 0
    source.seek(0)
    now_s = time.time_ns() // 1_000_000_000
    target = os.fsencode(f"{remote},{_REGULAR_FILE | mode}")
    try:
        stream.send(struct.pack("<4sI", b"SEND", len(target)) + target)
        # A refusal, as of a full disk, comes before the end: an answer, no failure to send.
        while not stream.has_answer() and (data := source.read(_CHUNK)):
            stream.send(struct.pack("<4sI", b"DATA", len(data)) + data)
            sent += len(data)
            if on_progress is not None and sent < total:
                on_progress(sent, total)
        if not stream.has_answer():
            stream.send(struct.pack("<4sI", b"DONE", now_s))
    except Broken:
        if not stream.has_answer():
            raise
    if _sync_answer(stream)[0] != b"OKAY":
        raise Broken
    if on_progress is not None:
        on_progress(sent, sent)


def receive_file(
    stream: Stream, remote: str, target: BinaryIO, on_progress: Progress | None
) -> None:
    """Read a file of the device over a ``sync:`` service."""
    name = os.fsencode(remote)
    stream.send(struct.pack("<4sI", b"STAT", len(name)) + name)
    _, mode, total, _ = struct.unpack("<4sIII", stream.read(16))
    if mode and mode & 0o170000 == 0o040000:
        raise Refused("it is a folder")
    stream.send(struct.pack("<4sI", b"RECV", len(name)) + name)
    received = 0
    while (answer := _sync_answer(stream))[0] == b"DATA":
        target.write(stream.read(answer[1]))
        received += answer[1]
        if on_progress is not None and received < total:
            on_progress(received, total)
    if answer[0] != b"DONE":
        raise Broken
    if on_progress is not None:
        on_progress(received, received)
