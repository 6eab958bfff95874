"""What OpenSSH makes of a host that the user named, asked of ``ssh -G``.

So Include, Match, tokens and jump hosts mean here what they mean to ssh.
"""

from __future__ import annotations

import glob
import os
import pwd
import re
import shlex
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.errors import DeviceError
from edge.files import in_home
from targets.transports.known_hosts import ask_openssh

__all__ = ["Login", "config_lines", "read_login"]

_HOST = re.compile(
    r"(?:(?P<user>.+)@)?(?P<name>\[[^\]@\s]+\]|[^-@:\[\]\s][^@:\[\]\s]*)(?::(?P<port>\d{1,5}))?"
)
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_PORTS = range(1, 65536)
# A ProxyCommand gets the name through a shell. ssh 9.6 and newer refuse these signs in it as well.
_OF_SHELLS = frozenset("'`\"$;&<>|(){}\n\t ")


@dataclass(frozen=True)
class Login:
    """How to reach one machine; ``host`` is what the user wrote, the rest what it stands for.

    ``accept`` is the command line of OpenSSH's client that asks whether to accept the host key.
    """

    host: str
    hostname: str
    port: int
    user: str
    accept: str
    known_hosts: tuple[Path, ...]
    host_key_name: str
    identities: tuple[Path, ...] = ()
    identities_only: bool = False
    jumps: tuple[str, ...] = ()
    proxy_command: str = ""
    config: Path | None = None
    only_known_hosts: Path | None = None

    @property
    def name(self) -> str:
        """Name for messages: ``ssh pi@10.0.0.5``."""
        return f"ssh {self.host}"


def read_login(host: str, *, config: Path | None = None, known_hosts: Path | None = None) -> Login:
    """The login that ``[user@]host[:port]`` stands for; an IPv6 address stands in brackets.

    ``config`` replaces the files of the user and of the system, ``known_hosts`` those of host
    keys. DeviceError for a text that names no host, a configuration that cannot be read, and
    without the OpenSSH client.
    """
    host = host.strip()
    match = _HOST.fullmatch(host)
    if match is None or host.startswith("-") or int(match["port"] or 22) not in _PORTS:
        raise DeviceError(f"{host!r} is not user@host or user@host:port")
    if match["user"] and (match["user"].startswith("-") or _OF_SHELLS & set(match["user"])):
        raise DeviceError(f"{host!r}: no user's name starts with - or holds signs of a shell")
    alias = match["name"].strip("[]")
    given = ["-p", match["port"]] if match["port"] else []
    asked = [*_configuration(config), *given, *(["-l", match["user"]] if match["user"] else [])]
    options = _options(host, [*asked, "--", alias])
    hostname, port, user = options["hostname"][0], int(options["port"][0]), options["user"][0]
    files = [known_hosts] if known_hosts else _known_hosts(options)
    by_default = hostname.lower() if port == 22 else f"[{hostname.lower()}]:{port}"
    key_name = options.get("hostkeyalias", [by_default])[0]
    accept = ["ssh", *(["-F", str(config)] if config else [])]
    accept += ["-o", f"UserKnownHostsFile={known_hosts}"] if known_hosts else []
    tokens = {"%": "%", "h": hostname, "p": str(port), "r": user, "n": alias}
    tokens |= {"d": str(in_home("~")), "i": str(os.getuid()), "l": socket.gethostname()}
    tokens |= {"k": options.get("hostkeyalias", [alias])[0], "L": tokens["l"].partition(".")[0]}
    named = f"{match['user']}@{alias}" if match["user"] else alias
    jumps = options.get("proxyjump", [""])[0].split(",")
    program = options.get("proxycommand", [""])[0]
    return Login(
        host=host,
        hostname=hostname,
        port=port,
        user=user,
        accept=shlex.join([*accept, *given, named]),
        known_hosts=tuple(files),
        host_key_name=key_name,
        identities=_identities(options["identityfile"], tokens),
        identities_only=options.get("identitiesonly") == ["yes"],
        jumps=tuple(jump for jump in jumps if jump not in ("", "none", alias, hostname)),
        proxy_command="" if program == "none" else _filled(program, tokens),
        config=config,
        only_known_hosts=known_hosts,
    )


def _options(host: str, argv: list[str]) -> dict[str, list[str]]:
    """What ``ssh -G`` makes of the configuration: lower-case names and their values, in order."""
    code, out, said = ask_openssh(["ssh", "-G", "-T", *argv])
    if code and said.startswith("No user exists"):
        said += " (OpenSSH needs a line for this user in /etc/passwd)"
    if code:
        raise DeviceError(f"ssh {host}: its configuration cannot be read: {said}")
    options: dict[str, list[str]] = {"identityfile": []}
    for line in out.split("\n"):
        name, _, value = line.partition(" ")
        options.setdefault(name, []).append(value)
    if {"hostname", "port", "user"} - options.keys():
        raise DeviceError(f"ssh {host}: `ssh -G` does not name its host, port and user")
    return options


def _account_home() -> Path:
    """The home that OpenSSH goes by, whatever HOME says."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except (KeyError, OSError):
        return in_home("~")


def _configuration(config: Path | None) -> list[str]:
    """Options of ssh for this file, or for that of HOME where HOME is not the account's."""
    if config is not None:
        return ["-F", str(config.absolute())]
    if in_home("~") == _account_home():
        return []
    own = in_home("~/.ssh/config")
    return ["-F", str(own.absolute()) if own.is_file() else "none"]


def _known_hosts(options: dict[str, list[str]]) -> list[Path]:
    """The files of host keys, the user's and the system's; ~/.ssh is that of HOME."""
    files, account = [], _account_home() / ".ssh"
    for text in options.get("userknownhostsfile", []) + options.get("globalknownhostsfile", []):
        for file in text.split():
            path = in_home(file)
            if path.is_relative_to(account):
                path = in_home("~/.ssh") / path.relative_to(account)
            if file != "none":
                files.append(path)
    return files


def _identities(files: list[str], tokens: dict[str, str]) -> tuple[Path, ...]:
    """The key files of a configuration; where it names none, those of the defaults that exist."""
    if {f"~/.ssh/{name}" for name in _DEFAULT_KEYS} <= set(files):
        usual = (in_home(f"~/.ssh/{name}") for name in _DEFAULT_KEYS)
        return tuple(path for path in usual if path.is_file())
    return tuple(in_home(_filled(text, tokens)) for text in files if text != "none")


def _filled(text: str, tokens: dict[str, str]) -> str:
    """A text with the tokens of ssh_config(5) that ``ssh -G`` leaves in it."""
    return re.sub("%(.)", lambda found: tokens.get(found[1], found[0]), text)


def _matching(pattern: str) -> list[str]:
    """The files of a pattern as glob(3) has them: two stars are one, and search no whole disk."""
    return [] if "\0" in pattern else sorted(glob.glob(pattern))  # noqa: PTH207


def config_lines(path: Path, depth: int = 0) -> Iterator[str]:
    """The lines of a configuration with the files that it includes, which paramiko leaves out."""
    block = "Host *"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word.lower() in ("host", "match"):
            block = line
        if word.lower() != "include" or depth >= 16:
            yield line
            continue
        for pattern in shlex.split(rest):
            # Relative to ~/.ssh, and the block that holds the line goes on after the file.
            whole = (in_home("~/.ssh") / in_home(pattern)).absolute()
            for file in _matching(str(whole)):
                yield from config_lines(Path(file), depth + 1)
                yield block
