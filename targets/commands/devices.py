"""``edge devices``: what can be measured on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from edge.printable import printable
from edge.terminal import StatusLine, columns
from targets.devices.nearby import Nearby, find_devices

__all__ = ["add", "run"]

_TIMEOUT_S = 15.0


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "hosts", nargs="*", metavar="HOST", help="[user@]host[:port], or a name of ~/.ssh/config"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run(arguments: argparse.Namespace) -> int:
    """List what there is; 1 where a host that was named cannot be used."""
    with StatusLine() as line:
        line.show(f"asking, for {_TIMEOUT_S:g} s at most")
        found = find_devices(arguments.hosts, timeout_s=_TIMEOUT_S)
    if arguments.json:
        print(json.dumps({"devices": [_plain(one) for one in found]}, indent=2))
    else:
        print(_text(found))
    named = set(arguments.hosts)
    failed = any(one.transport == "ssh" and one.name in named and one.problem for one in found)
    return 1 if failed else 0


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
    lines = columns(rows)
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
