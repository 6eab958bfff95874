"""One process of the fuzzing: ``python -m tests.faults.worker KIND SEED FIRST STEP END``.

Prints a line an input: its number, a tab, and ``ok``, ``refused`` or what escaped. Whoever started
it watches the clock. Memory is limited to 2 GB beyond what is taken when all is imported.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from edge.errors import EdgeError
from tests.faults.readers import KINDS

__all__ = ["input_of", "main"]

_LIMIT_BYTES = 2 << 30


def input_of(kind: str, seed: int, number: int, seeds: list[bytes]) -> bytes:
    """The input of that number: the same on every machine and in every process."""
    rng = random.Random(f"{seed} {kind} {number}")
    return KINDS[kind].mutated(rng.choice(seeds), rng)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + _LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main(argv: list[str]) -> None:
    """Read every ``STEP``-th input from ``FIRST`` to ``END``, or say which one is read alone."""
    name, (seed, first, step, end) = argv[0], map(int, argv[1:5])
    kind = KINDS[name]
    # Its own lines go where nothing that is read can write.
    told = os.fdopen(os.dup(1), "w")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    warnings.simplefilter("error", RuntimeWarning)
    with tempfile.TemporaryDirectory(prefix="edgepose-faults-") as text:
        folder = Path(text)
        os.environ["EDGEPOSE_CACHE"] = str(folder / "cache")
        try:
            seeds = kind.seeds(folder)
            for seed_data in seeds:
                kind.read(seed_data, folder)  # what is not damaged is read
        except BaseException:
            print(traceback.format_exc(), file=told, flush=True)
            return
        _limit_memory()
        print("ready", file=told, flush=True)
        for number in range(first, end, step):
            data = input_of(name, seed, number, seeds)
            try:
                kind.read(data, folder)
                outcome = "ok"
            except EdgeError as error:
                # One line: no other program's log.
                lines = len(str(error).splitlines())
                outcome = "refused" if lines == 1 else f"an error of {lines} lines: {error!r:.80}"
            except BaseException as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                said = (str(error).splitlines() or [""])[0][:120]
                outcome = (
                    f"{type(error).__name__}: {said!r} {Path(place.filename).name}:{place.lineno}"
                )
                own = [
                    f
                    for f in traceback.extract_tb(error.__traceback__)
                    if "/edge/" in f.filename
                    or "/converters/" in f.filename
                    or "/targets/" in f.filename
                ]
                if own:
                    outcome += f" from {Path(own[-1].filename).name}:{own[-1].lineno}"
            print(f"{number}\t{outcome}", file=told, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
