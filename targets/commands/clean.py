"""``edge clean``: nothing of the kit stays on a device."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import closing
from pathlib import Path

from edge.digits import parse_digits
from edge.files import sweep
from targets.devices.preparation import put_back
from targets.profile import load_profile, read_profile
from targets.transports.opening import open_target
from targets.transports.transport import Transport, check, remove_work_dir

__all__ = ["add", "clean_device", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--target", metavar="NAME", help="such as android or raspberry-pi")
    target.add_argument(
        "--profile", type=Path, metavar="FILE.toml", help="a target profile of your own"
    )
    parser.add_argument("--host", help="[user@]host[:port], or a name of ~/.ssh/config")
    parser.add_argument("--serial", help="of one of several phones, as `adb devices` has it")


def run(arguments: argparse.Namespace) -> int:
    """Remove the working folder of a device, and say how much it held."""
    own: Path | None = arguments.profile
    profile = read_profile(own) if own else load_profile(arguments.target)
    with closing(open_target(profile, host=arguments.host, serial=arguments.serial)) as transport:
        print(clean_device(transport))
    # What commands that were killed left on this machine.
    sweep(Path(tempfile.gettempdir()))
    return 0


def clean_device(transport: Transport) -> str:
    """Remove the working folder; what was done, as a sentence."""
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
