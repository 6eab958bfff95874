"""A true systemd for the user of a board on a real sshd, and a camera that never ends.

There is no system's instance below it: it runs in the server's mount namespace, in a control group
of its own, and ends with the block.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from tests.stand_ins.bench_phone import wait_until
from tests.stand_ins.ssh_server import SshServer

__all__ = ["endless_camera", "user_systemd"]

_SYSTEMD = "/lib/systemd/systemd"
# $1: the user's number, $2: the name of the control group
_START = f"""
set -e
# What sd_booted(3) asks for.
mkdir -p /run/systemd/system /run/user/$1
chown $1:$1 /run/user/$1
chmod 700 /run/user/$1
mount -t tmpfs none /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mkdir /sys/fs/cgroup/$2
echo $$ > /sys/fs/cgroup/$2/cgroup.procs
chown -R $1:$1 /sys/fs/cgroup/$2
exec setpriv --reuid $1 --regid $1 --clear-groups env -i PATH=/usr/local/bin:/usr/bin:/bin \
  HOME=/home/pi XDG_RUNTIME_DIR=/run/user/$1 {_SYSTEMD} --user --log-target=console
"""
_END = """
mount -t cgroup2 none /mnt || exit 0
[ ! -d /mnt/$1 ] || find /mnt/$1 -depth -type d -exec rmdir {} +
"""


@contextmanager
def endless_camera() -> Iterator[str]:
    """The address of a camera that sends JPEG pictures, 50 a second, to whoever connects."""
    cv2 = pytest.importorskip("cv2")
    picture = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    over = threading.Event()

    def send(reader: socket.socket) -> None:
        with reader, suppress(OSError):
            # FFmpeg wants to see so much of a stream before it begins.
            reader.sendall(picture * (5_500_000 // len(picture)))
            while not over.wait(0.02):
                reader.sendall(picture)

    def accept() -> None:
        with suppress(OSError):
            while not over.is_set():
                reader, _ = server.accept()
                senders.append(threading.Thread(target=send, args=(reader,)))
                senders[-1].start()

    senders: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *senders):
                thread.join()


@contextmanager
def user_systemd(server: SshServer, log: Path) -> Iterator[None]:
    """The board's user has services while this lasts; skips with a reason."""
    for program, package in {
        _SYSTEMD: "systemd",
        "systemctl": "systemd",
        "nsenter": "util-linux",
        "setpriv": "util-linux",
    }.items():
        if shutil.which(program) is None:
            pytest.skip(f"a user's systemd needs {program} (apt-get install {package})")
    uid, group = str(server.home.stat().st_uid), f"edgepose-test-{os.getpid()}"
    enter = ["nsenter", f"--mount={server.mounts}", "sh", "-c", _START, "sh", uid, group]
    with log.open("wb") as written:
        process = subprocess.Popen(
            enter, stdin=subprocess.DEVNULL, stdout=written, stderr=written, start_new_session=True
        )

    def answers() -> bool:
        argv = ["systemctl", "--user", "show", "--property=Version"]
        asked = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
        asked += ["env", f"XDG_RUNTIME_DIR=/run/user/{uid}", *argv]
        done = subprocess.run(
            ["nsenter", f"--mount={server.mounts}", *asked], capture_output=True, check=False
        )
        return done.returncode == 0 or process.poll() is not None

    try:
        wait_until(answers, "systemd did not start", 60.0)
        if process.poll() is not None:
            pytest.skip(f"no systemd of a user can run here: {log.read_text()[-300:].strip()}")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in server.running("edge.serve"):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not server.running("edge.serve"), "a service was left running", 20.0)
        subprocess.run(["unshare", "--mount", "sh", "-c", _END, "sh", group], check=True)
