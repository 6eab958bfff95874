"""Keys of hosts that the user accepted: reading ``known_hosts``.

The format: sshd(8), section SSH_KNOWN_HOSTS FILE FORMAT. Names are plain, patterns, negated or
hashed. ``@revoked`` counts; ``@cert-authority`` does not, for no certificate of a host is checked.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["KnownKey", "fingerprint", "known_keys"]


@dataclass(frozen=True)
class KnownKey:
    """One line of ``known_hosts``: ``kind`` like ``ssh-ed25519``, ``text`` in base64."""

    kind: str
    text: str
    revoked: bool
    file: Path


def known_keys(files: Iterable[Path], name: str) -> list[KnownKey]:
    """The keys that these files hold for a host, the revoked ones too; missing files hold none.

    ``name`` is the host's, in lower case, or ``[host]:port`` where the port is not 22.
    """
    keys = []
    for file in files:
        if not file.is_file():
            continue
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            fields = line.split()
            marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
            if len(fields) < 3 or fields[0].startswith("#") or marker == "@cert-authority":
                continue
            if _names_match(fields[0], name):
                keys.append(KnownKey(fields[1], fields[2], marker == "@revoked", file))
    return keys


def _names_match(patterns: str, name: str) -> bool:
    matched = False
    for pattern in patterns.split(","):
        if pattern.startswith("|1|"):
            try:
                salt, digest = (base64.b64decode(part) for part in pattern[3:].split("|"))
            except ValueError:  # binascii.Error as well
                continue
            matched |= hmac.digest(salt, os.fsencode(name), "sha1") == digest
        elif fnmatch.fnmatchcase(name, pattern.removeprefix("!").lower().replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched


def fingerprint(text: str) -> str:
    """The fingerprint of a key in base64, as OpenSSH shows it; of a damaged key that it is one."""
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:  # binascii.Error as well
        return "(damaged, without a fingerprint)"
    digest = hashlib.sha256(key).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
