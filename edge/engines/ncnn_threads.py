"""ncnn's threads, so that they cost little where other programs want the CPUs as well.

ncnn computes each layer on all threads of an OpenMP team, and its Linux wheels bring GCC's OpenMP
library along (ncnn 1.0.20261020). That one's threads wait for each other in a loop of 300,000 turns
that keeps their CPUs busy. On an idle machine that is the fastest way; where another program has
one of the CPUs, or the kernel puts both threads onto one, everybody waits for a thread that cannot
run, some hundred times a picture: 16 s instead of 0.9 s were seen. Threads that never wait in a
loop (``OMP_WAIT_POLICY=passive``) cost up to 2.4 times the time on an idle machine, for waking one
takes longer than most layers.

So there are two rules. Where the CPUs are free when ncnn is loaded, threads wait in a short loop
and then sleep, and of all threads and a single one a session takes what was faster lately. Where
they are not free, threads sleep at once, which also gets a CPU back sooner than one thread that
never sleeps. Answers are the same bit for bit. Whoever sets ``OMP_WAIT_POLICY`` or
``GOMP_SPINCOUNT`` has threads wait their own way.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from edge.session import default_threads, import_engine

__all__ = ["ThreadTeam", "cpus_are_free", "import_ncnn"]

# Turns of the loop, about 50 us: longer than the time between most layers, and short beside what
# the kernel gives another program.
_TURNS = "2000"
_SAMPLES, _SAMPLE_S = 5, 0.002
_ASLEEP = "0"
_OWN_WAYS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# Calls until the other way is tried again; twice as many each time that it was slower.
_FIRST_PAUSE, _LONGEST_PAUSE = 16, 256
_REMEMBERED = 3


# What this process's library was loaded with; empty where that was not done here.
_loaded_with: list[str] = []
# The process that has the library's threads: a fork of it has not, whatever it opens itself.
_threads_in = os.getpid()


def import_ncnn() -> Any:
    """The package; its OpenMP library reads how to wait when it is loaded, and never again."""
    if "ncnn" in sys.modules or any(name in os.environ for name in _OWN_WAYS):
        return import_engine("ncnn", "ncnn")
    # For this library alone: other packages bring their own, and child processes have theirs.
    os.environ["GOMP_SPINCOUNT"] = _TURNS if cpus_are_free() else _ASLEEP
    try:
        package = import_engine("ncnn", "ncnn")
        _loaded_with.append(os.environ["GOMP_SPINCOUNT"])
        return package
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def cpus_are_free() -> bool:
    """Whether the threads of a session find a CPU each; Linux tells, elsewhere they are said to.

    Ten ms of looking at how many others want one just now.
    """
    others = []
    for _ in range(_SAMPLES):
        try:
            running = Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0]
            others.append(int(running) - 1)
        except (OSError, ValueError, IndexError):
            return True
        time.sleep(_SAMPLE_S)
    return sum(others) / len(others) < (os.cpu_count() or 1) - default_threads() + 0.5


class ThreadTeam:
    """All threads of a session, or one: what was faster lately.

    ``count`` is the number of all. A call is timed within ``running``. In a process that was forked
    from one that had used this module there is one thread, for sessions of its own as well: the
    others were not copied, and GCC's library would wait for them for ever.
    """

    def __init__(
        self, ncnn: Any, count: int, clock_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._library = _openmp_of(ncnn)
        self._clock_ns = clock_ns
        self._choosable = count > 1 and self._library is not None and _ASLEEP not in _loaded_with
        self._times: dict[bool, deque[int]] = {
            alone: deque(maxlen=_REMEMBERED) for alone in (False, True)
        }
        self._alone = False
        self._calls = 0
        self._pause = _FIRST_PAUSE
        self._next_try = 2

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it the network runs, on as many threads as seem best."""
        if os.getpid() != _threads_in or not self._choosable:
            with self.safe():
                yield
            return
        trying = self._calls >= self._next_try
        alone = self._alone != trying
        began = self._clock_ns()
        if alone:
            with self._single():
                yield
        else:
            yield
        self._learn(alone, self._clock_ns() - began, trying=trying)

    @contextmanager
    def safe(self) -> Iterator[None]:
        """Within it nothing waits for threads that this process has not; a network is loaded so."""
        with self._single() if os.getpid() != _threads_in else nullcontext():
            yield

    def _learn(self, alone: bool, took_ns: int, *, trying: bool) -> None:
        self._calls += 1
        if self._calls == 1:  # memory is taken in the first call
            return
        self._times[alone].append(took_ns)
        if not all(self._times.values()):
            return
        better = median(self._times[True]) < median(self._times[False])
        if better != self._alone:
            self._alone, self._pause = better, _FIRST_PAUSE
        elif trying:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if trying or better != alone:
            self._next_try = self._calls + self._pause

    @contextmanager
    def _single(self) -> Iterator[None]:
        """Layers run on the calling thread; no team is asked for, and none is waited for."""
        if self._library is None:
            yield
            return
        before = self._library.omp_get_max_active_levels()
        self._library.omp_set_max_active_levels(0)
        try:
            yield
        finally:
            self._library.omp_set_max_active_levels(before)


def _openmp_of(ncnn: Any) -> Any:
    """The OpenMP library that ncnn itself uses; None where it uses none."""
    try:
        library = ctypes.CDLL(ncnn.ncnn.__file__)
        library.omp_get_max_active_levels.restype = ctypes.c_int
        library.omp_set_max_active_levels.argtypes = [ctypes.c_int]
        library.omp_set_max_active_levels.restype = None
    except (AttributeError, OSError, TypeError):
        return None
    return library
