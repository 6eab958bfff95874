"""``edge devices`` and ``edge clean``: what can be measured on, and what was left there.

They need a checkout.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.digits import parse_digits
from edge.files import sweep
from edge.printable import printable

if TYPE_CHECKING:
    from targets.devices.nearby import Nearby
    from targets.transports.transport import Transport

__all__ = ["add_devices", "clean", "clean_device", "devices"]

_TIMEOUT_S = 15.0


def add_devices(command: Callable[[str, Callable[[argparse.Namespace], int], str], Any]) -> None:
    """Add the commands; ``command(name, run, text)`` makes a parser."""
    listing = command(
        "devices",
        devices,
        "What is reachable: this machine, phones on adb, and the hosts that are named.",
    )
    listing.add_argument(
        "hosts", nargs="*", metavar="HOST", help="[user@]host[:port], or a name of ~/.ssh/config"
    )
    listing.add_argument("--json", action="store_true", help="print JSON instead of the table")

    cleaning = command(
        "clean",
        clean,
        "Remove the working folder of a device; versions of `edge deploy` stay (docs/devices.md).",
    )
    target = cleaning.add_mutually_exclusive_group(required=True)
    target.add_argument("--target", metavar="NAME", help="such as android or raspberry-pi")
    target.add_argument("--profile", type=Path, metavar="FILE.toml", help="one of your own")
    cleaning.add_argument("--host", help="[user@]host[:port], or a name of ~/.ssh/config")
    cleaning.add_argument("--serial", help="of one of several phones, as `adb devices` has it")


def devices(arguments: argparse.Namespace) -> int:
    """List what there is; 1 where a host that was named cannot be used."""
    from edge.cli.host import need_checkout

    need_checkout("devices")
    from targets.devices.nearby import find_devices

    if sys.stderr.isatty():
        print(f"asking, for {_TIMEOUT_S:g} s at most", end="\r", file=sys.stderr, flush=True)
    found = find_devices(arguments.hosts, timeout_s=_TIMEOUT_S)
    if arguments.json:
        print(json.dumps({"devices": [_plain(one) for one in found]}, indent=2))
    else:
        print(_text(found))
    named = set(arguments.hosts)
    failed = any(one.transport == "ssh" and one.name in named and one.problem for one in found)
    return 1 if failed else 0


def clean(arguments: argparse.Namespace) -> int:
    """Remove the working folder of a device, and say how much it held."""
    from edge.cli.host import need_checkout

    need_checkout("clean")
    from targets.profile import load_profile, read_profile
    from targets.transports.opening import open_target

    own: Path | None = arguments.profile
    profile = read_profile(own) if own else load_profile(arguments.target)
    with closing(open_target(profile, host=arguments.host, serial=arguments.serial)) as transport:
        print(clean_device(transport))
    # What commands that were killed left on this machine.
    sweep(Path(tempfile.gettempdir()))
    return 0


def clean_device(transport: Transport) -> str:
    """Remove the working folder; what was done, as a sentence."""
    from targets.devices.preparation import put_back
    from targets.transports.transport import check, remove_work_dir

    folder = transport.work_dir
    # What undoes an interrupted run lies in that folder.
    put_back(transport)
    script = 'if [ -e "$1" ] || [ -L "$1" ]; then echo there; du -sk "$1" 2>/dev/null; fi; true'
    asked = transport.run(["sh", "-c", script, "sh", folder], timeout_s=60.0)
    check(asked, f"looking for {folder} on {transport.name}")
    words = asked.stdout.decode(errors="replace").split()
    if not words:
        return f"{transport.name}: nothing to remove, {folder} does not exist"
    remove_work_dir(transport)
    kilobytes = next((n for n in map(parse_digits, words) if n is not None), None)
    size = "" if kilobytes is None else f", {kilobytes * 1024 / 1e6:.1f} MB"
    return f"{transport.name}: removed {folder}{size}"


def _plain(one: Nearby) -> dict[str, Any]:
    info = one.info
    return {
        "transport": one.transport,
        "name": one.name or None,
        "option": one.option or None,
        "asked": one.asked,
        "problem": one.problem,
        "kind": info and info.kind,
        "model": info and info.model,
        "soc": info and info.soc,
        "os": info and info.os,
        "arch": info and info.arch,
        "userland_bits": info and info.userland_bits,
        "cores": info and info.cores,
        "emulated": info and info.emulated,
        "targets": list(one.targets),
        "bench": one.bench,
    }


_HEAD = ("device", "kind", "model", "SoC", "OS", "arch", "cores", "emulated", "target")


def _text(found: Sequence[Nearby]) -> str:
    """The table of what answered, then what did not, then the commands that measure."""
    rows = [_HEAD, *(tuple(map(printable, _cells(one))) for one in found if one.info)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    unusable = [f"  {_who(one)}: {one.problem}" for one in found if one.problem and one.asked]
    if unusable:
        lines += ["", "not usable:", *unusable]
    listed = [f"  {_who(one)}: {one.problem}" for one in found if not one.asked]
    if listed:
        lines += ["", "in ~/.ssh/config:", *listed]
    lines += ["", "to measure:"]
    for one in found:
        if one.bench:
            lines.append(f"  {one.bench}")
        elif one.info:
            lines.append(
                f"  {_who(one)}: no target fits {one.info.kind} on {one.info.arch}; write a "
                "profile for it (docs/devices.md)"
            )
    return "\n".join(lines)


def _cells(one: Nearby) -> tuple[str, ...]:
    info = one.info
    assert info
    return (
        _who(one),
        info.kind,
        info.model or "-",
        info.soc or "-",
        info.os or "-",
        (info.arch or "-") + (", 32-bit programs" if info.userland_bits == 32 else ""),
        str(info.cores or "-"),
        "yes" if info.emulated else "no",
        ", ".join(one.targets) or "-",
    )


def _who(one: Nearby) -> str:
    return one.option or {"local": "this machine", "adb": "adb", "ssh": "ssh"}[one.transport]
