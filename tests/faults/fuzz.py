"""Thousands of damaged inputs, read in processes of their own, a clock beside each."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.conftest import ROOT
from tests.faults.readers import KINDS

__all__ = ["Tally", "fuzz", "summary"]

_LIMIT_S = 10.0
_START_S = 300.0


@dataclass
class Tally:
    """What became of the inputs of one kind; ``escaped`` is by what escaped, with numbers."""

    ok: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    escaped: dict[str, list[int]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """All inputs that were read."""
        return self.ok + self.refused + sum(map(len, self.escaped.values()))

    def add(self, number: int, outcome: str, took_s: float) -> None:
        """One input more."""
        self.slowest_s = max(self.slowest_s, took_s)
        if outcome == "ok":
            self.ok += 1
        elif outcome == "refused":
            self.refused += 1
        else:
            self.escaped.setdefault(outcome, []).append(number)


def fuzz(
    count: int, *, seed: int = 0, kinds: tuple[str, ...] = (), workers: int = 2
) -> dict[str, Tally]:
    """Read ``count`` inputs in all, of each kind its share; one thread a worker process."""
    chosen = kinds or tuple(name for name, kind in KINDS.items() if kind.share)
    shares = sum(KINDS[name].share for name in chosen) or 1
    tallies = {name: Tally() for name in chosen}
    lock = threading.Lock()
    for name in chosen:
        many = count if len(chosen) == 1 else max(1, count * KINDS[name].share // shares)
        threads = [
            threading.Thread(
                target=_work, args=(name, seed, one, workers, many, tallies[name], lock)
            )
            for one in range(workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not tallies[name].count:
            tallies[name].add(0, f"{name}: no worker started", 0.0)
    return tallies


def _work(
    name: str, seed: int, first: int, step: int, end: int, tally: Tally, lock: threading.Lock
) -> None:
    """Keep a worker at it; one that hangs or dies is started again behind the input at fault."""
    number, again = first, -1
    while number < end:
        argv = [sys.executable, "-m", "tests.faults.worker", name]
        argv += [str(value) for value in (seed, number, step, end)]
        process = subprocess.Popen(
            argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        try:
            limit_s, since = _START_S, time.monotonic()
            buffer, said = b"", b""
            while True:
                ready, _, _ = select.select(
                    [process.stdout], [], [], max(0, since + limit_s - time.monotonic())
                )
                data = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
                if not data:
                    break
                now = time.monotonic()
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    if limit_s == _START_S:
                        said += line + b"\n"
                        limit_s = _LIMIT_S if line == b"ready" else _START_S
                        continue
                    which, _, outcome = line.decode().partition("\t")
                    with lock:
                        tally.add(int(which), outcome, (now - since) / len(lines))
                    number = int(which) + step
                since = now
            if number < end:
                code = process.poll() if ready else None
                if limit_s == _START_S:
                    raise RuntimeError(f"{name}: the worker did not start: {said.decode()}")
                if ready:
                    code = process.wait()
                if not ready and again != number:
                    again = number  # a machine with other work stands still at times: once more
                    continue
                what = (
                    f"no end within {_LIMIT_S:g} s" if not ready else f"the process died ({code})"
                )
                with lock:
                    tally.add(number, what, _LIMIT_S)
                number += step
        finally:
            process.kill()
            process.communicate()


def summary(tallies: dict[str, Tally]) -> str:
    """A line a kind, then what escaped."""
    lines = []
    total: Counter[str] = Counter()
    for name, tally in tallies.items():
        escaped = sum(map(len, tally.escaped.values()))
        total.update(inputs=tally.count, refused=tally.refused, ok=tally.ok, escaped=escaped)
        lines.append(
            f"{name:<12} {tally.count:>7} inputs  {tally.refused:>7} refused  {tally.ok:>7} right  "
            f"{escaped:>5} escaped  slowest {tally.slowest_s:.1f} s"
        )
    lines.append(
        f"{'all':<12} {total['inputs']:>7} inputs  {total['refused']:>7} refused  "
        f"{total['ok']:>7} right  {total['escaped']:>5} escaped"
    )
    for name, tally in tallies.items():
        for what, numbers in sorted(tally.escaped.items(), key=lambda pair: -len(pair[1])):
            some = ", ".join(map(str, numbers[:4]))
            lines.append(f"  {name}: {len(numbers)} x {what} (number {some})")
    return "\n".join(lines)
