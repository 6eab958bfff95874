"""Which transport a profile and the command line mean."""

from __future__ import annotations

import functools
import getpass
import sys
from collections.abc import Callable

from edge.errors import SpecError
from targets.profile import Profile
from targets.transports.adb import open_adb
from targets.transports.local import open_local
from targets.transports.ssh import open_ssh
from targets.transports.transport import Transport

__all__ = ["check_reach", "open_target", "password_prompt"]


def open_target(
    profile: Profile,
    *,
    host: str | None = None,
    serial: str | None = None,
    timeout_s: float = 15.0,
    ask: Callable[[str], str] | None = None,
) -> Transport:
    """Connect to the device of a target; a second call is a second connection.

    ``host`` is ``[user@]host[:port]`` or a name of ``~/.ssh/config``; a local target with one is
    another machine of its kind, over ssh. ``serial`` picks one of several phones. ``ask`` is that
    of `open_ssh`: whoever connects twice passes the same `password_prompt`. Raises SpecError where
    host and serial do not fit the profile, DeviceError where the device cannot be reached.
    """
    check_reach(profile, host=host, serial=serial)
    if profile.transport == "adb":
        return open_adb(serial, timeout_s=timeout_s)
    if host is not None:
        return open_ssh(host, timeout_s=timeout_s, ask=ask)
    return open_local()


def check_reach(profile: Profile, *, host: str | None, serial: str | None) -> None:
    """SpecError where the options cannot mean a device of this profile; connects to nothing."""
    for option, value in (("--host", host), ("--serial", serial)):
        if value is not None and not value.strip():
            raise SpecError(f"{option} is empty: name the device, or leave {option} out")
    if profile.transport == "adb" and host is not None:
        raise SpecError(
            f"target {profile.name} is reached over adb, not as a host: leave --host {host} out; "
            "--serial picks one of several phones"
        )
    if profile.transport != "adb" and serial is not None:
        fix = "leave it out" if profile.transport == "local" else "name it by --host USER@ADDRESS"
        raise SpecError(
            f"target {profile.name} has no serial number, only phones do (--serial {serial}): {fix}"
        )
    if profile.transport == "ssh" and host is None:
        raise SpecError(
            f"target {profile.name} is reached over ssh: say which machine, --host USER@ADDRESS "
            f"(make bench TARGET={profile.name} HOST=USER@ADDRESS)"
        )


def password_prompt() -> Callable[[str], str] | None:
    """A prompt that asks for each password once; None where there is nobody to ask."""
    if sys.stdin is None or not sys.stdin.isatty():
        return None
    return functools.cache(getpass.getpass)
