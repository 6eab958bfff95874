"""A real OpenSSH server on loopback, as a board on the network: a user ``pi``, keys, a password.

It runs in a mount namespace of its own, where ``/home``, ``/usr/local/bin``, ``/etc/passwd`` and
``/etc/shadow`` are those of the board; this machine keeps its own, and all is gone with the server.
With an arm64 userland every command of ``pi`` runs inside it, files in /home are the same on both
sides, and ``uname -m`` says aarch64. With ``/`` for a userland it runs this machine's programs, as
fast as they are, and sees the board's files.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from targets.transports.ssh import SshTransport, open_ssh
from tests.stand_ins.arm_userland import enter

__all__ = ["PASSWORD", "RASPBERRY_PI_5", "SshServer", "make_key", "opened", "ssh_server"]

PASSWORD = "raspberry"
_HASH = (
    "$6$edgepose$TIFBN8XqYBnx9FpYlXraDEGjC6gsvwCNqnKhJfAvJphQ3AjG.MSHWFD.x45T3J9MANhgYCjtrWgIAXSW"
    "/1WVE/"
)
_SMALL_BYTES = 1 << 20

RASPBERRY_PI_5: Mapping[str, str] = {
    "/proc/cpuinfo": "".join(
        f"processor\t: {core}\nBogoMIPS\t: 108.00\n"
        "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid "
        "asimdrdm lrcpc dcpop asimddp\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        "CPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n"
        for core in range(4)
    )
    + "Revision\t: d04170\nSerial\t\t: 0123456789abcdef\n"
    "Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
    "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
}
"""Files that tell a board's name, as a Raspberry Pi 5 has them."""

_CONFIG = """
{more}
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
UsePAM no
UseDNS no
PasswordAuthentication yes
KbdInteractiveAuthentication no
PubkeyAuthentication yes
AuthorizedKeysFile .ssh/authorized_keys
PrintMotd no
LogLevel VERBOSE
MaxStartups 50
Subsystem sftp internal-sftp
"""

# $1: this server's folder, $2: root of the userland or nothing, $3: the user's number; then pairs:
# a name below /mnt and the folder that is to be seen there
_SETUP = f"""
set -e
mount --make-rprivate /
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/shadow" /etc/shadow
mount --bind "$1/home" /home
mount --bind "$1/programs" /usr/local/bin
mount -t tmpfs -o mode=755 none /run
mkdir /run/sshd
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/arm64 /mnt/board
mount --bind "$1/board" /mnt/board
[ -z "$2" ] || mount --bind "$2" /mnt/arm64
mount -t tmpfs -o size={_SMALL_BYTES},uid=$3,gid=$3 none /home/pi/small
folder=$1
shift 3
while [ $# -gt 0 ]; do mkdir "/mnt/$1"; mount --bind "$2" "/mnt/$1"; shift 2; done
exec /usr/sbin/sshd -D -f "$folder/sshd_config" -E "$folder/log"
"""


class SshServer:
    """The server; made by `ssh_server`.

    ``host`` is what `open_ssh` takes, ``known_hosts`` holds the server's key and ``config`` the
    user's one. ``home`` is ``/home/pi`` seen from here, ``programs`` is its ``/usr/local/bin``,
    and ``/home/pi/small`` on the device has room for 1 MiB.
    """

    def __init__(
        self,
        folder: Path,
        userland: Path | None,
        files: Mapping[str, str],
        more: str,
        folders: Mapping[str, Path],
    ) -> None:
        self.folder, self.home, self.programs = folder, folder / "home/pi", folder / "programs"
        self.key, self.known_hosts = folder / "key", folder / "known_hosts"
        self.config, self.log = folder / "ssh_config", folder / "log"
        self._userland, self._folders = userland, folders
        self._process: subprocess.Popen[bytes] | None = None
        self._space = Path()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        # A number of its own, so that what is ended here is never another server's: of this run of
        # the tests, or of another at the same time.
        self._uid = self.port
        self.host = f"pi@127.0.0.1:{self.port}"
        (self.home / "small").mkdir(parents=True)
        (self.home / ".ssh").mkdir()
        for name in ("programs", "board"):
            (folder / name).mkdir()
        make_key(folder / "host_key")
        make_key(self.key)
        shutil.copy(folder / "key.pub", self.home / ".ssh/authorized_keys")
        self.config.write_text(f"Host *\n  IdentityFile {self.key}\n  IdentitiesOnly yes\n")
        self.trust()
        shell = "/bin/sh" if userland is None else str(self._board_shell(files))
        (folder / "passwd").write_text(
            "root:x:0:0:root:/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
            f"pi:x:{self._uid}:{self._uid}::/home/pi:{shell}\n"
        )
        (folder / "shadow").write_text(
            f"root:*:20000::::::\nsshd:!:20000::::::\npi:{_HASH}:20000:0:99999:7:::\n"
        )
        (folder / "shadow").chmod(0o600)
        text = _CONFIG.format(port=self.port, folder=folder, more=more)
        (folder / "sshd_config").write_text(text)
        for path in (self.home, *self.home.rglob("*")):
            os.chown(path, self._uid, self._uid)

    @property
    def mounts(self) -> str:
        """The mount namespace of the board, a path that nsenter takes."""
        assert self._process is not None
        return f"/proc/{self._process.pid}/ns/mnt"

    def trust(self) -> None:
        """Write the server's present key to ``known_hosts``."""
        kind, text, *_ = (self.folder / "host_key.pub").read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {text}\n")

    def start(self) -> None:
        """Start listening; returns when it does."""
        assert self._process is None
        with (self.folder / "setup_log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--mount", "sh", "-c", _SETUP, "sh"),
                    *(str(self.folder), str(self._userland or ""), str(self._uid)),
                    *(str(word) for pair in self._folders.items() for word in pair),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        for _ in range(300):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
                self._space = Path(f"/proc/{self._process.pid}/ns/mnt").readlink()
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        said = (self.folder / "setup_log").read_text() + (
            self.log.read_text() if self.log.is_file() else ""
        )
        self.stop()
        raise AssertionError(f"sshd did not start: {said}")

    def stop(self) -> None:
        """Stop listening and end every connection, as a device that loses its network."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        self.cut()

    def cut(self) -> None:
        """Break every connection. Programs that run on the device go on."""
        for pid in self._sessions():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Answer nothing any more, as behind a pulled cable: no connection ends."""
        assert self._process is not None
        for pid in (self._process.pid, *self._sessions()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Answer again."""
        assert self._process is not None
        for pid in (self._process.pid, *self._sessions()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def running(self, text: str) -> list[int]:
        """Process ids of what runs as ``pi`` with this text in its command line."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                if folder.stat().st_uid == self._uid and text.encode() in line:
                    found.append(int(folder.name))
        return found

    def _sessions(self) -> list[int]:
        """The server's processes of connections, wherever their parents went."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                same = (folder / "ns/mnt").readlink() == self._space
                if same and (folder / "comm").read_text() == "sshd\n":
                    found.append(int(folder.name))
        return [pid for pid in found if self._process is None or pid != self._process.pid]

    def _board_shell(self, files: Mapping[str, str]) -> Path:
        binds = ["/home", "/usr/local/bin", "/etc/passwd"]
        for number, (path, text) in enumerate(files.items()):
            (self.folder / f"board/{number}").write_text(text)
            binds.append(f"/mnt/board/{number}:{path}")
        enters = ["proot", *(word for bind in binds for word in ("-b", bind))]
        if self._userland != Path("/"):
            enters = enter("/mnt/arm64", binds)
        line = shlex.join([*enters, "-w", "/home/pi", "/bin/sh"])
        shell = self.folder / "board/shell"
        shell.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        shell.chmod(0o755)
        return Path("/mnt/board/shell")


@contextmanager
def ssh_server(
    folder: Path,
    *,
    userland: Path | None = None,
    files: Mapping[str, str] = RASPBERRY_PI_5,
    config: str = "",
    folders: Mapping[str, Path] | None = None,
) -> Iterator[SshServer]:
    """A running server that keeps its files in ``folder``; skips with a reason.

    ``userland`` is the root that its commands run in, ``files`` what they see besides;
    ``config`` are more lines for its sshd_config, the first of two settings holds. ``folders`` of
    this machine are seen as ``/mnt/NAME``, whoever may enter what they lie in.
    """
    for program, package in {
        "/usr/sbin/sshd": "openssh-server",
        "ssh-keygen": "openssh-client",
        "unshare": "util-linux",
    }.items():
        if shutil.which(program) is None:
            pytest.skip(f"a real SSH server needs {program} (apt-get install {package})")
    if os.geteuid() != 0:
        pytest.skip("a real SSH server with a user of its own needs root")
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no mounts of its own are allowed here: {done.stderr.strip()}")
    server = SshServer(folder, userland, files, config, folders or {})
    server.start()
    try:
        yield server
    finally:
        server.stop()
        for pid in server.running(""):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def opened(server: SshServer, **options: Any) -> SshTransport:
    """A connection by the user's key to the known server, or as the options of `open_ssh` say."""
    known: dict[str, Any] = {"config": server.config, "known_hosts": server.known_hosts}
    return open_ssh(server.host, **(known | options))


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new pair of keys, the public one with ``.pub``."""
    for old in (path, path.with_name(path.name + ".pub")):
        old.unlink(missing_ok=True)
    argv = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, timeout=60)
    return path
