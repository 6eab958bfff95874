"""A stand-in phone that the real adb server connects to: adb's wire protocol on loopback.

    device = StandInPhone(folder).start()      # then: adb connect 127.0.0.1:{device.port}

Speaks what adbd speaks (`adb/protocol.txt`, `shell_protocol.h`): CNXN or an AUTH that is never
granted, OPEN, OKAY, WRTE and CLSE with flow control, and the services `shell:`, `shell,v2`,
`exec:`, `sync:` and `reboot:`. Commands run in the folder of `adb_userland`, each in a session of
its own and with SIGHUP when its stream closes, as adbd does it.

Faults are methods: `pull_cable`, `plug_in`, `reboot`, `kill_running`; attributes: `state`,
`garbage`, `cut_push_after`; or tied to a command with `on_command`. What Android reports is turned
by `device.knobs`. By hand: ``python -m tests.stand_ins.adb_device FOLDER [PORT]``.
"""

from __future__ import annotations

import contextlib
import os
import pty
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.stand_ins import adb_userland

CNXN, AUTH, OPEN = 0x4E584E43, 0x48545541, 0x4E45504F
OKAY, CLSE, WRTE = 0x59414B4F, 0x45534C43, 0x45545257
AUTH_TOKEN, AUTH_SIGNATURE = 1, 2
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = 0, 1, 2, 3, 4
_VERSION, _MAX_DATA, _OLD_MAX_DATA = 0x01000001, 256 * 1024, 4096

NEW_ANDROID = ("shell_v2", "cmd", "stat_v2", "ls_v2", "fixed_push_mkdir", "apex", "abb", "abb_exec")
OLD_ANDROID: tuple[str, ...] = ()

State = Literal["device", "unauthorized", "silent"]


class _Stream:
    """One adb stream; a packet is acknowledged when it is used, and the next waits for that."""

    def __init__(self, link: _Link, local: int, remote: int) -> None:
        self.link, self.local, self.remote = link, local, remote
        self.inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.turn = threading.Semaphore(1)
        self.closed = False
        self.on_close: Callable[[], None] = lambda: None

    def read(self) -> bytes:
        """The next packet's payload; empty at the end."""
        data = self.inbox.get()
        if data is None:
            return b""
        self.link.send(OKAY, self.local, self.remote)
        return data

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), self.link.max_data):
            self.turn.acquire()
            if self.closed:
                raise BrokenPipeError
            self.link.send(WRTE, self.local, self.remote, data[start : start + self.link.max_data])

    def end(self) -> None:
        """The other side, or the cable, closed it."""
        if not self.closed:
            self.closed = True
            self.inbox.put(None)
            self.turn.release()
            self.on_close()

    def close(self) -> None:
        if not self.closed:
            self.link.send(CLSE, self.local, self.remote)
            self.end()
        self.link.streams.pop(self.local, None)


class _Link:
    """One connection of an adb server."""

    def __init__(self, device: StandInPhone, sock: socket.socket) -> None:
        self.device, self.sock = device, sock
        self.sending = threading.Lock()
        self.streams: dict[int, _Stream] = {}
        self.max_data = _OLD_MAX_DATA
        self.opened = 0

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        # From protocol version 0x01000001 on nobody looks at the sum.
        total = sum(data) if self.max_data == _OLD_MAX_DATA else 0
        head = (command, first, second, len(data), total, command ^ 0xFFFFFFFF)
        try:
            with self.sending:
                self.sock.sendall(struct.pack("<6I", *head) + data)
        except OSError:
            raise BrokenPipeError from None

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise BrokenPipeError
            data += part
        return bytes(data)

    def serve(self) -> None:
        try:
            while True:
                command, first, second, size, _, _ = struct.unpack("<6I", self._exactly(24))
                self._packet(command, first, second, self._exactly(size))
        except OSError:
            pass
        finally:
            self.sock.close()
            for stream in list(self.streams.values()):
                stream.end()
            self.device.links.discard(self)

    def _packet(self, command: int, first: int, second: int, data: bytes) -> None:
        stream = self.streams.get(second)
        if command == CNXN:
            self._greet(max_data=second)
        elif command == AUTH and first == AUTH_SIGNATURE:
            self.send(AUTH, AUTH_TOKEN, 0, os.urandom(20))  # not a key that is known here
        elif command == OPEN:
            self.opened += 1
            stream = self.streams[self.opened] = _Stream(self, self.opened, first)
            service = data.rstrip(b"\0")
            threading.Thread(
                target=self.device.service, args=(stream, service), daemon=True
            ).start()
        elif stream is not None and command == WRTE:
            stream.inbox.put(data)
        elif stream is not None and command == OKAY:
            stream.turn.release()
        elif stream is not None and command == CLSE:
            stream.end()

    def _greet(self, max_data: int) -> None:
        if self.device.state == "silent":
            return
        if self.device.state == "unauthorized":
            self.send(AUTH, AUTH_TOKEN, 0, os.urandom(20))
            return
        new = "shell_v2" in self.device.features
        self.max_data = min(max_data, _MAX_DATA if new else _OLD_MAX_DATA)
        props = self.device.banner_properties()
        banner = "device::" + "".join(f"{key}={value};" for key, value in props.items())
        if self.device.features:
            banner += f"features={','.join(self.device.features)}"
        self.send(CNXN, _VERSION if new else _VERSION - 1, self.max_data, banner.encode())


class StandInPhone:
    """A phone of its own folder; `root` must not exist yet, or be one that was built before."""

    def __init__(
        self, root: Path, *, features: tuple[str, ...] = NEW_ANDROID, state: State = "device"
    ) -> None:
        if not (root / "sim").exists():
            adb_userland.build(root)
        self.root, self.features, self.state = root, features, state
        self.knobs = adb_userland.Knobs(root)
        self.garbage = b""
        """Printed before each command's own output, like a linker's warnings."""
        self.cut_push_after: int | None = None
        """The cable goes after this many bytes to a `sync:` service."""
        self.commands: list[str] = []
        """Every line that a shell service was given."""
        self.running: set[subprocess.Popen[bytes]] = set()
        self.links: set[_Link] = set()
        self.port = 0
        self._listener: socket.socket | None = None
        self._watches: list[tuple[str, Callable[[], None], float]] = []

    @property
    def serial(self) -> str:
        """What `adb devices` calls it."""
        return f"127.0.0.1:{self.port}"

    @property
    def is_plugged_in(self) -> bool:
        """Whether an adb server could connect."""
        return self._listener is not None

    def start(self) -> StandInPhone:
        self.plug_in()
        return self

    def stop(self) -> None:
        self.pull_cable()
        self.kill_running()

    def pull_cable(self) -> None:
        """No connection any more, and no new one; programs that were not on the cable run on."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for link in list(self.links):
            link.cut()

    def plug_in(self) -> None:
        """Listen, on the same port as before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def reboot(self, away_s: float = 1.0) -> None:
        """The connection goes, every program dies, and the phone comes back after a while."""
        # In this order: no program's end is told to the host any more.
        self.pull_cable()
        self.kill_running()
        timer = threading.Timer(away_s, self.plug_in)
        timer.daemon = True
        timer.start()

    def kill_running(self, number: signal.Signals = signal.SIGKILL) -> None:
        """As the kernel does when memory runs out: every program a host had started."""
        for process in list(self.running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def on_command(self, text: str, action: Callable[[], None], *, after_s: float = 0.0) -> None:
        """Do something the next time that a command's line holds `text`: before it, or later."""
        self._watches.append((text, action, after_s))

    def banner_properties(self) -> dict[str, str]:
        lines = (self.root / "sim/props").read_text().splitlines()
        props = dict(line.partition("=")[::2] for line in lines)
        return {
            key: props.get(key, "")
            for key in ("ro.product.name", "ro.product.model", "ro.product.device")
        }

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(self, sock)
            self.links.add(link)
            threading.Thread(target=link.serve, daemon=True).start()

    def service(self, stream: _Stream, name: bytes) -> None:
        """Serve one stream to its end; in a thread of its own."""
        kind, _, line = name.partition(b":")
        options = kind.split(b",")
        known = kind in (b"exec", b"sync", b"reboot") or options[0] == b"shell"
        if b"v2" in options and "shell_v2" not in self.features:
            known = False
        try:
            if not known:
                stream.close()
                return
            stream.link.send(OKAY, stream.local, stream.remote)
            if kind == b"sync":
                self._sync(stream)
            elif kind == b"reboot":
                self.reboot()
            else:
                self._watch(os.fsdecode(line))
                if b"v2" in options:
                    self._shell_v2(stream, line)
                else:
                    # Before shell_v2 a shell always had a terminal, `exec:` never.
                    self._shell(stream, line, terminal=kind == b"shell" and not self.features)
            stream.close()
        except BrokenPipeError:
            stream.end()

    def _watch(self, line: str) -> None:
        self.commands.append(line)
        for watch in [watch for watch in self._watches if watch[0] in line]:
            self._watches.remove(watch)
            _, action, after_s = watch
            if after_s:
                timer = threading.Timer(after_s, action)
                timer.daemon = True
                timer.start()
            else:
                action()

    def _spawn(
        self, stream: _Stream, argv: list[str], files: tuple[int, int, int]
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            argv,
            stdin=files[0],
            stdout=files[1],
            stderr=files[2],
            start_new_session=True,
            env={"PATH": os.environ["PATH"]},
        )
        self.running.add(process)

        def hang_up() -> None:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGHUP)

        stream.on_close = hang_up
        if stream.closed:
            hang_up()
        return process

    def _reap(self, process: subprocess.Popen[bytes]) -> int:
        code = process.wait()
        self.running.discard(process)
        return code if code >= 0 else 128 - code

    def _shell_v2(self, stream: _Stream, line: bytes) -> None:
        pipes = [os.pipe() for _ in range(3)]
        (stdin_of, stdin), (stdout, stdout_of), (stderr, stderr_of) = pipes
        argv = adb_userland.command(self.root, os.fsdecode(line))
        process = self._spawn(stream, argv, (stdin_of, stdout_of, stderr_of))
        for file in (stdin_of, stdout_of, stderr_of):
            os.close(file)
        threading.Thread(target=_feed_v2, args=(stream, stdin), daemon=True).start()
        broken = threading.Event()

        def pump(file: int, kind: int) -> None:
            with os.fdopen(file, "rb", buffering=0) as source:
                while data := source.read(64 * 1024):
                    try:
                        stream.write(struct.pack("<BI", kind, len(data)) + data)
                    except BrokenPipeError:
                        broken.set()
                        return  # closes the pipe: the program gets SIGPIPE, as from adbd

        if self.garbage:
            stream.write(struct.pack("<BI", STDOUT, len(self.garbage)) + self.garbage)
        errors = threading.Thread(target=pump, args=(stderr, STDERR), daemon=True)
        errors.start()
        pump(stdout, STDOUT)
        errors.join()
        code = self._reap(process)
        if not broken.is_set():
            stream.write(struct.pack("<BIB", EXIT, 1, code))

    def _shell(self, stream: _Stream, line: bytes, *, terminal: bool) -> None:
        if terminal:
            ours, theirs = pty.openpty()
        else:
            pair = socket.socketpair()
            ours, theirs = (end.detach() for end in pair)
        argv = adb_userland.command(self.root, os.fsdecode(line))
        process = self._spawn(stream, argv, (theirs, theirs, theirs))
        if not terminal:
            stream.on_close = lambda: None  # the adbd of these versions did not care
        os.close(theirs)

        def feed() -> None:
            while data := stream.read():
                try:
                    while data:
                        data = data[os.write(ours, data) :]
                except OSError:
                    return

        threading.Thread(target=feed, daemon=True).start()
        try:
            stream.write(self.garbage)
            while data := _read(ours):
                stream.write(data)
        finally:
            os.close(ours)
            threading.Thread(target=self._reap, args=(process,), daemon=True).start()

    def _sync(self, stream: _Stream) -> None:
        ours, theirs = socket.socketpair()
        program = Path(__file__).with_name("adb_sync_service.py")
        argv = [sys.executable, "-I", str(program), str(self.root), str(adb_userland.SHELL_UID)]
        file = theirs.fileno()
        process = subprocess.Popen(argv, stdin=file, stdout=file, start_new_session=True)
        theirs.close()

        def feed() -> None:
            seen = 0
            try:
                while data := stream.read():
                    seen += len(data)
                    if self.cut_push_after is not None and seen > self.cut_push_after:
                        self.cut_push_after = None
                        self.pull_cable()
                        break
                    ours.sendall(data)
                ours.shutdown(socket.SHUT_WR)
            except OSError:
                pass

        threading.Thread(target=feed, daemon=True).start()
        try:
            while data := _read(ours.fileno()):
                stream.write(data)
        finally:
            ours.close()
            process.wait()


@contextlib.contextmanager
def own_adb_server(home: Path) -> Iterator[None]:
    """An environment with an adb server of its own, started when first asked and ended here.

    Skips where no phone can be played, or a true device hangs on this machine: two servers would
    quarrel over it.
    """
    if reason := adb_userland.why_not():
        pytest.skip(reason)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for key in ("ADB", "ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS", "ANDROID_SERIAL"):
            patch.delenv(key, raising=False)
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.setenv("HOME", str(home))  # where adb keeps its keys
        try:
            if adb("devices").splitlines()[1:]:
                pytest.skip("a device is attached to this machine")
            adb("kill-server")
            yield
        finally:
            adb("kill-server")


def adb(*arguments: str) -> str:
    """What adb's own client prints, its errors included."""
    done = subprocess.run(
        ["adb", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    lines = done.stdout.decode(errors="replace").splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("* daemon"))


@contextlib.contextmanager
def connected(phone: StandInPhone) -> Iterator[StandInPhone]:
    """The phone on the cable, as far as its state lets it."""
    phone.start()
    try:
        adb("connect", phone.serial)
        yield phone
    finally:
        adb("disconnect", phone.serial)
        phone.stop()


def _read(file: int) -> bytes:
    """Some bytes; empty at the end, which a terminal's end reports as an error."""
    try:
        return os.read(file, 64 * 1024)
    except OSError:
        return b""


def _feed_v2(stream: _Stream, stdin: int) -> None:
    """Unpack the shell protocol towards a program's standard input."""
    data = b""
    is_open = True
    while part := stream.read():
        data += part
        while len(data) >= 5:
            kind, size = struct.unpack_from("<BI", data)
            if len(data) < 5 + size:
                break
            payload, data = data[5 : 5 + size], data[5 + size :]
            if is_open and kind == STDIN:
                try:
                    while payload:
                        payload = payload[os.write(stdin, payload) :]
                except OSError:
                    kind = CLOSE_STDIN
            if is_open and kind == CLOSE_STDIN:
                os.close(stdin)
                is_open = False
    if is_open:
        os.close(stdin)


def main() -> None:
    folder, port = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    device = StandInPhone(folder)
    device.port = port
    device.start()
    print(f"adb connect {device.serial}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
