"""What OpenSSH knows of a host: the keys that the user accepted, asked of ``ssh-keygen -F``.

It reads names, patterns and hashes (sshd(8), section SSH_KNOWN_HOSTS FILE FORMAT). ``@revoked``
counts; ``@cert-authority`` does not, for no certificate of a host is checked.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.errors import DeviceError, first_line
from targets.transports.programs import ProgramTimeoutError, run_program

__all__ = ["KnownKey", "ask_openssh", "fingerprint", "known_keys"]

# Both only read files; a `Match exec` of the user's configuration may take a moment.
_ANSWER_S = 15.0


@dataclass(frozen=True)
class KnownKey:
    """One line of ``known_hosts``: ``kind`` like ``ssh-ed25519``, ``text`` in base64."""

    kind: str
    text: str
    revoked: bool
    file: Path


def ask_openssh(argv: Sequence[str]) -> tuple[int, str, str]:
    """Exit status, stdout and first line of stderr; DeviceError without OpenSSH or its answer."""
    try:
        done = run_program(argv, timeout_s=_ANSWER_S)
    except ProgramTimeoutError:
        raise DeviceError(
            f"`{argv[0]} {argv[1]}` gave no answer within {_ANSWER_S:g} s: look for a slow "
            "`Match exec` in the configuration of ssh, or a slow disk"
        ) from None
    except ValueError as error:  # a NUL in a name
        raise DeviceError(f"`{argv[0]} {argv[1]}` cannot be run: {error}") from None
    if done.returncode == 127:
        raise DeviceError(
            f"`{argv[0]}` is not installed on this machine: install the package openssh-client"
        )
    return done.returncode, done.stdout.decode(errors="replace"), first_line(done.stderr)


def known_keys(files: Iterable[Path], name: str) -> list[KnownKey]:
    """The keys that these files hold for a host, the revoked ones too; missing files hold none.

    ``name`` is the host's, or ``[host]:port`` where the port is not 22. DeviceError for a file
    that cannot be searched: it might be the one that revokes a key.
    """
    keys = []
    for file in files:
        if not file.is_file():
            continue
        code, out, said = ask_openssh(["ssh-keygen", "-F", name, "-f", str(file.absolute())])
        if code not in (0, 1) or (code == 1 and said):
            raise DeviceError(f"{file}: its host keys cannot be read: {said or f'status {code}'}")
        # Only a line feed ends a line there; a comment may hold what Python takes for an end.
        for line in out.split("\n"):
            fields = line.split()
            marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
            if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", "@revoked"):
                continue
            keys.append(KnownKey(fields[1], fields[2], marker == "@revoked", file))
    return keys


def fingerprint(text: str) -> str:
    """The fingerprint of a key in base64, as OpenSSH shows it; of a damaged key that it is one."""
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:  # binascii.Error as well
        return "(damaged, without a fingerprint)"
    digest = hashlib.sha256(key).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
