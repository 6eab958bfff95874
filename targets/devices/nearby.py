"""What is there to measure on: this machine, phones on adb, the hosts that were named.

All are asked at the same time, within one short deadline; one that does not answer is an entry with
the reason. Nothing is connected to that was not named: hosts of ``~/.ssh/config`` are listed, no
more.
"""

from __future__ import annotations

import functools
import getpass
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edge.errors import EdgeError
from edge.files import in_home
from targets.devices.state import DeviceInfo, read_device
from targets.profile import Profile, profiles
from targets.transports.adb import adb_devices, open_adb
from targets.transports.local import open_local
from targets.transports.ssh import open_ssh
from targets.transports.ssh_config import config_lines
from targets.transports.transport import Transport

__all__ = ["Nearby", "configured_hosts", "find_devices", "fitting_targets"]

_POLL_S = 0.05


@dataclass(frozen=True)
class Nearby:
    """A device, or what could have been one.

    ``name`` is its serial number, or the host as it was named; empty for this machine and for adb
    itself. ``info`` is None where it was not asked or did not answer, and ``problem`` says why and
    what helps. ``targets`` are the profiles for such a device, the closest first.
    """

    transport: Literal["local", "adb", "ssh"]
    name: str = ""
    info: DeviceInfo | None = None
    problem: str | None = None
    asked: bool = True
    targets: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        """How a command line names it: ``--serial X``, ``--host Y`` or not at all."""
        if not self.name:
            return ""
        return f"--{'serial' if self.transport == 'adb' else 'host'} {shlex.quote(self.name)}"

    @property
    def bench(self) -> str | None:
        """The command that measures on it, None where no profile fits."""
        if not self.targets:
            return None
        variable = "SERIAL" if self.transport == "adb" else "HOST"
        which = f" {variable}={shlex.quote(self.name)}" if self.name else ""
        return f"make bench TARGET={self.targets[0]}{which}"


def find_devices(
    hosts: Sequence[str] = (), *, timeout_s: float = 15.0, config: Path | None = None
) -> list[Nearby]:
    """Ask this machine, the phones that adb lists and these hosts; list those of ``~/.ssh/config``.

    ``timeout_s`` is for all of them together, without the time that typing a password takes.
    ``config`` replaces the user's own file.
    """
    lock = threading.Lock()
    terminal = sys.stdin is not None and sys.stdin.isatty()
    ask = functools.partial(_ask, lock) if terminal else None
    known = profiles()
    local = _asked(Nearby("local"), open_local, known)
    others = [
        _asked(
            Nearby("ssh", host),
            functools.partial(open_ssh, host, timeout_s=timeout_s, config=config, ask=ask),
            known,
        )
        for host in dict.fromkeys(hosts)
    ]
    found: list[Nearby] = []
    phones = []
    try:
        for device in adb_devices(timeout_s=timeout_s):
            if device.problem:
                found.append(Nearby("adb", device.serial, problem=device.problem))
            else:
                open_it = functools.partial(open_adb, device.serial, timeout_s=timeout_s)
                phones.append(_asked(Nearby("adb", device.serial), open_it, known))
        if not (found or phones):
            fix = "no phone; plug one in and switch on USB debugging in its developer options"
            found.append(Nearby("adb", problem=fix))
    except EdgeError as error:
        found.append(Nearby("adb", problem=str(error).removeprefix("adb: ")))
    answers = _collected([local, *phones, *others], timeout_s, lock)
    cables = 1 + len(phones)
    return [*answers[:cables], *found, *answers[cables:], *_listed(hosts, config)]


def fitting_targets(
    info: DeviceInfo, transport: Literal["local", "adb", "ssh"], known: Sequence[Profile]
) -> tuple[str, ...]:
    """Names of the profiles for such a device on such a transport, the closest first.

    Kind and architecture must be the same; the closest names most of what the device says that it
    is ("raspberry-pi-4": a Raspberry Pi 4), and least of what it does not.
    """
    reach = {"local": ("local",), "adb": ("adb",), "ssh": ("ssh", "local")}[transport]
    said = set(re.findall(r"[a-z]+|\d+", f"{info.model} {info.soc} {info.arch}".lower()))
    fitting = [
        profile
        for profile in known
        if (profile.kind, profile.arch) == (info.kind, info.arch) and profile.transport in reach
    ]

    def distance(profile: Profile) -> int:
        words = re.findall(r"[a-z]+|\d+", profile.name.lower())
        return sum(1 if word not in said else -1 for word in words)

    return tuple(profile.name for profile in sorted(fitting, key=distance))


def configured_hosts(config: Path | None = None) -> tuple[str, ...]:
    """The hosts that ``~/.ssh/config`` names, patterns left out; none where there is no file.

    Raises OSError where it cannot be read, ValueError where it is no such file.
    """
    path = config or in_home("~/.ssh/config")
    if not path.is_file():
        return ()
    names: dict[str, None] = {}
    for line in config_lines(path):
        found = re.fullmatch(r"\s*host(?:\s+|\s*=\s*)(.*)", line, re.IGNORECASE)
        for name in re.findall(r'"([^"]*)"|(\S+)', found[1]) if found else ():
            host = "".join(name)
            if host and not re.search(r"[*?!]", host):
                names[host] = None
    return tuple(names)


def _asked(
    entry: Nearby, connect: Callable[[], Transport], known: Sequence[Profile]
) -> tuple[Nearby, Future[Nearby]]:
    """The entry, and its answer as soon as there is one: a thread of its own asks."""
    answer: Future[Nearby] = Future()

    def run() -> None:
        try:
            with closing(connect()) as transport:
                info = read_device(transport)
            targets = fitting_targets(info, entry.transport, known)
            answer.set_result(replace(entry, info=info, targets=targets))
        except EdgeError as error:
            text = str(error).removeprefix(f"{entry.transport} {entry.name}").lstrip(": ")
            answer.set_result(replace(entry, problem=text))
        except BaseException as error:
            answer.set_exception(error)

    # Not waited for at the end of the program: a host that hangs must not hold it up.
    threading.Thread(target=run, name=f"asking {entry.name or 'local'}", daemon=True).start()
    return entry, answer


def _collected(
    asked: Sequence[tuple[Nearby, Future[Nearby]]], timeout_s: float, prompt: threading.Lock
) -> list[Nearby]:
    """All answers that came in time, and an entry that says so for each that did not."""
    deadline = time.monotonic() + timeout_s
    while not all(answer.done() for _, answer in asked):
        now = time.monotonic()
        if prompt.locked():
            deadline = now + timeout_s
        if now > deadline:
            break
        time.sleep(_POLL_S)
    late = f"no answer within {timeout_s:g} s: is it switched on, and on this network?"
    return [
        answer.result() if answer.done() else replace(entry, problem=late)
        for entry, answer in asked
    ]


def _ask(lock: threading.Lock, prompt: str) -> str:
    """One question at a time on the terminal."""
    with lock:
        return getpass.getpass(prompt)


def _listed(named: Sequence[str], config: Path | None) -> list[Nearby]:
    """The user's other hosts, which were not asked."""
    names = {host.rpartition("@")[2] for host in named}
    try:
        hosts = configured_hosts(config)
    except (OSError, ValueError) as error:
        path = config or "~/.ssh/config"
        why = getattr(error, "strerror", None) or error
        return [Nearby("ssh", problem=f"{path} cannot be read: {why}", asked=False)]
    return [
        Nearby("ssh", host, problem=f"not asked: edge devices {shlex.quote(host)}", asked=False)
        for host in hosts
        if host not in names
    ]
