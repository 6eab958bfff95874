"""``python -m tests.faults``: all faults, or some; exits with 1 where something escaped."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.full_disk import fill_disk
from tests.faults.fuzz import fuzz, summary
from tests.faults.kills import has_namespaces, kill_convert, kill_deploy, kill_run
from tests.faults.readers import KINDS

_PARTS = ("fuzz", "convert", "pids", "run", "deploy", "disk")


def main() -> int:
    """Run what was asked for, and print what held."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("parts", nargs="*", choices=[[], *_PARTS], help="default: all")
    parser.add_argument("--inputs", type=int, default=100_000, help="mutated inputs (%(default)s)")
    parser.add_argument("--kinds", default="", help=f"of {','.join(KINDS)} some, by commas")
    parser.add_argument("--kills", type=int, default=20, help="of each command (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    chosen = arguments.parts or _PARTS
    kills, seed = arguments.kills, arguments.seed
    commands: dict[str, Callable[[Path], str]] = {
        "convert": lambda folder: kill_convert(folder, kills, seed),
        "pids": lambda folder: kill_convert(folder, max(2, kills // 5), seed, alone=True),
        "run": lambda folder: kill_run(folder, kills, seed),
        "deploy": lambda folder: kill_deploy(folder, kills, seed),
        "disk": fill_disk,
    }
    failed = False
    for part, command in commands.items():
        if part not in chosen:
            continue
        if part == "pids" and not has_namespaces():
            print("pids: left out, this machine makes no process namespaces for its users")
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="edgepose-faults-") as text:
            try:
                print(f"{command(Path(text))} ({time.monotonic() - start:.0f} s)", flush=True)
            except AssertionError as error:
                failed = True
                print(f"{part}: FAILED: {error}", flush=True)
    if "fuzz" in chosen:
        kinds = tuple(filter(None, arguments.kinds.split(",")))
        tallies = fuzz(arguments.inputs, seed=seed, kinds=kinds, workers=arguments.workers)
        print(summary(tallies))
        failed |= any(tally.escaped for tally in tallies.values())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
