"""How ncnn's threads wait, beside other programs and without: part of `make bench-runtime`.

Detector and pose model in turn on all threads, a process a way, the ways in turn: as the kit has
it, with threads that never wait in a loop (``OMP_WAIT_POLICY=passive``), with those that wait as
long as the library's own default, and on one thread. Then once more with a busy process for each
CPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edge import EngineSettings, load_artifact, open_session
from edge.engines.ncnn import NcnnSession
from edge.session import default_threads
from tests.conftest import ROOT
from tests.stand_ins.make_goal import end_with

LIMIT = 1.3
_OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# The environment of each way, and its threads: 0 is all of them.
WAYS: dict[str, tuple[dict[str, str], int]] = {
    "the kit's rule": ({}, 0),
    "passive": ({"OMP_WAIT_POLICY": "passive"}, 0),
    "the library's own": ({"GOMP_SPINCOUNT": "300000"}, 0),
    "one thread": ({}, 1),
}


def time_pair(folders: list[str], threads: int, seconds: float, *, free: bool) -> float:
    """The median ms of both networks in turn; ``free``: the session chooses among its threads."""
    sessions = [open_session(load_artifact(one), EngineSettings(threads)) for one in folders]
    calls = []
    for session in sessions:
        if not free and isinstance(session, NcnnSession):
            session._team._choosable = False
        shape = (1, *session.spec.input.shape[1:])
        image = np.random.default_rng(0).normal(0, 1, [size or 1 for size in shape])
        calls.append((session, {session.spec.input.name: image.astype(np.float32)}))
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples) < 5:
        began = time.perf_counter()
        for session, feeds in calls:
            session.run(feeds)
        samples.append(time.perf_counter() - began)
    return 1e3 * statistics.median(samples[1:])


def measured(way: str, folders: list[str], seconds: float) -> float:
    """The same in a process of its own, whose library is loaded anew."""
    changes, _ = WAYS[way]
    clean = {name: value for name, value in os.environ.items() if name not in _OWN}
    argv = [sys.executable, "-m", "tests.benches.bench_ncnn_threads", "--way", way]
    argv += ["--seconds", str(seconds), *folders]
    done = subprocess.run(
        argv, env=clean | changes, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that want a CPU each."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", help="ncnn artifacts that run in turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="a way and round (default: 2)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folders = [str(Path(folder).resolve()) for folder in arguments.folders]
    if arguments.way:
        threads = WAYS[arguments.way][1] or default_threads()
        free = arguments.way == "the kit's rule"
        print(time_pair(folders, threads, arguments.seconds, free=free))
        return
    cpus = len(os.sched_getaffinity(0))
    for processes in (0, cpus):
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        with busy(processes):
            for _ in range(arguments.rounds):
                for way, found in times.items():
                    found.append(measured(way, folders, arguments.seconds))
        medians = {way: statistics.median(found) for way, found in times.items()}
        best = min(medians.values())
        load = os.getloadavg()[0]
        print(f"ncnn, {cpus} CPUs, {processes} busy processes (load {load:.1f} at the end):")
        for way, found_ms in medians.items():
            ratio = found_ms / best
            over = f"  over {LIMIT}" if way == "the kit's rule" and ratio > LIMIT else ""
            print(f"  {way:<20} {found_ms:>9.2f} ms  {ratio:>6.2f} of the best{over}")


if __name__ == "__main__":
    end_with("bench_ncnn_threads", main)
