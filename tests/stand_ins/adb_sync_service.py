"""The file half of a stand-in phone: adb's ``sync:`` service on standard input and output.

    python adb_sync_service.py ROOT UID

Serves the folder ROOT as `/` with the rights of UID, by the protocol that adbd publishes
(`file_sync_protocol.h`), versions 1 and 2 of stat and list. A number in ROOT/sim/free_bytes is what
a file may hold before the disk is full. Standard library alone, and nothing is imported late: the
process has left the host's folders by then.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - late imports of the codec machinery would fail in the root
import errno
import os
import struct
import sys
from pathlib import Path

_CHUNK = 64 * 1024


class Hangup(Exception):  # noqa: N818 - no error: the host has gone
    """The other side closed the stream."""


def read_exactly(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(0, size)
        if not part:
            raise Hangup
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def head() -> tuple[bytes, int]:
    name, size = struct.unpack("<4sI", read_exactly(8))
    return name, size


def fail(reason: str) -> None:
    text = reason.encode()
    write(struct.pack("<4sI", b"FAIL", len(text)) + text)


def stat_v1(path: bytes) -> bytes:
    try:
        found = os.lstat(path)
    except OSError:
        return struct.pack("<III", 0, 0, 0)
    return struct.pack("<III", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))


def stat_v2(path: bytes, *, follow: bool) -> bytes:
    try:
        found = os.stat(path) if follow else os.lstat(path)  # noqa: PTH116 - bytes
    except OSError as error:
        return struct.pack("<IQQIIIIQqqq", error.errno or 0, *[0] * 10)
    times = int(found.st_atime), int(found.st_mtime), int(found.st_ctime)
    owner = found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size
    return struct.pack("<IQQIIIIQqqq", 0, found.st_dev, found.st_ino, *owner, *times)


def list_folder(path: bytes, *, v2: bool) -> None:
    try:
        names = sorted([b".", b"..", *os.listdir(path)])  # noqa: PTH208 - bytes
    except OSError:
        names = []
    for name in names:
        whole = path + b"/" + name
        facts = stat_v2(whole, follow=False) if v2 else stat_v1(whole)
        write((b"DNT2" if v2 else b"DENT") + facts + struct.pack("<I", len(name)) + name)
    write(b"DONE" + bytes(76 if v2 else 16))


def free_bytes() -> int | None:
    try:
        return int(Path("/sim/free_bytes").read_text())
    except (OSError, ValueError):
        return None


def receive(request: bytes) -> None:
    """SEND: parents are made, an old file is replaced, a broken one removed."""
    name, _, mode_text = request.rpartition(b",")
    mode = int(mode_text)
    reason, file, free, written = "", -1, free_bytes(), 0
    try:
        os.makedirs(os.path.dirname(name), exist_ok=True)  # noqa: PTH103, PTH120 - bytes
        if os.path.lexists(name) and not os.path.isdir(name):  # noqa: PTH112 - bytes
            os.unlink(name)  # noqa: PTH108 - bytes
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o777)
        os.fchmod(file, mode & 0o777)
    except OSError as error:
        reason = f"couldn't create file: {os.strerror(error.errno or 0)}"
    whole = False
    try:
        while True:
            kind, size = head()
            if kind == b"DONE":
                break
            data = read_exactly(size)
            if reason:
                continue  # adbd reads on to the end after a failure
            if kind != b"DATA" or size > _CHUNK:
                reason = "invalid data message"
            elif free is not None and written + size > free:
                reason = f"write failed: {os.strerror(errno.ENOSPC)}"
            else:
                while data:
                    data = data[os.write(file, data) :]
                written += size
                continue
            fail(reason)
        whole = not reason
    finally:
        if file >= 0:
            os.close(file)
            if not whole:
                os.unlink(name)  # noqa: PTH108 - bytes
    if whole:
        os.utime(name, (size, size))
        write(struct.pack("<4sI", b"OKAY", 0))
    elif file < 0:
        fail(reason)


def send(path: bytes) -> None:
    """RECV."""
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 - bytes
            while data := stream.read(_CHUNK):
                write(struct.pack("<4sI", b"DATA", len(data)) + data)
    except OSError as error:
        fail(f"open failed: {os.strerror(error.errno or 0)}")
        return
    write(struct.pack("<4sI", b"DONE", 0))


def serve() -> None:
    while True:
        kind, size = head()
        if kind == b"QUIT":
            return
        path = read_exactly(size)
        if kind == b"STAT":
            write(b"STAT" + stat_v1(path))
        elif kind in (b"STA2", b"LST2"):
            write(kind + stat_v2(path, follow=kind == b"STA2"))
        elif kind in (b"LIST", b"LIS2"):
            list_folder(path, v2=kind == b"LIS2")
        elif kind == b"SEND":
            receive(path)
        elif kind == b"RECV":
            send(path)
        else:
            fail(f"unknown command {kind.decode(errors='replace')}")
            return


def main() -> None:
    root, uid = sys.argv[1], int(sys.argv[2])
    os.chroot(root)
    os.chdir("/")
    os.umask(0)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    try:
        serve()
    except (Hangup, BrokenPipeError):
        return


if __name__ == "__main__":
    main()
