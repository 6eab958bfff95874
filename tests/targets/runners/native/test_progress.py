"""How a long build tells how far it is, and how it is ended early."""

from __future__ import annotations

import os
import pty

import pytest

from edge.terminal import duration
from targets.runners.native.progress import BuildProgress, BuildSkippedError, key_pressed


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_counts_and_the_time_left() -> None:
    said: list[str] = []
    clock = Clock()
    progress = BuildProgress("building x", said.append, in_place=False, clock_s=clock)
    for done in range(1, 601):
        clock.now_s = done * 0.5  # two files a second
        progress(f"[{done}/600] Building CXX object a.o")
        progress("a compiler's remark")
    assert len(said) == 30
    assert said[0] == "building x: 20 of 600, about 5 min left"
    # (600 - 440) / 2 a second
    assert said[21] == "building x: 440 of 600, about 80 s left"
    assert said[-1] == "building x: 600 of 600, about 1 s left"


def test_a_build_that_goes_on_is_timed_by_its_new_files() -> None:
    said: list[str] = []
    clock = Clock()
    progress = BuildProgress("b", said.append, in_place=False, clock_s=clock)
    progress("[501/600] a")
    clock.now_s = 10.0
    progress("[510/600] b")
    assert said == ["b: 510 of 600, about 2 min left"]


def test_in_place_one_line_names_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = BuildProgress("b", pytest.fail, lambda: False, in_place=True, clock_s=clock)
    for done in range(1, 13):
        clock.now_s += 4.0
        progress(f"[{done}/100] x")
    progress.close()
    shown = capsys.readouterr().err
    assert "\n" not in shown and shown.endswith("\r\x1b[K")
    assert "b: 12 of 100, about 6 min left (s: go on without it)" in shown
    assert "b: 3 of 100 (s: go on without it)" in shown


def test_the_key_ends_it() -> None:
    progress = BuildProgress("b", pytest.fail, lambda: True, in_place=False)
    with pytest.raises(BuildSkippedError, match="skipped"):
        progress("[1/2] x")


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.2, 40, 89, 100, 1140)] == [
        *("1 s", "40 s", "89 s", "2 min", "19 min"),
    ]


def test_without_a_terminal_there_is_no_key() -> None:
    reading, writing = os.pipe()
    try:
        with key_pressed("s", reading) as pressed:
            assert pressed is None
    finally:
        os.close(reading)
        os.close(writing)


def test_a_key_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    import termios

    controller, terminal = pty.openpty()
    # As if it were the terminal that this process was started from, in the foreground.
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp())
    before = termios.tcgetattr(terminal)
    try:
        with key_pressed("s", terminal) as pressed:
            assert pressed is not None and not pressed()
            os.write(controller, b"x")
            assert not pressed()
            os.write(controller, b"S")
            deadline = 200
            while not pressed() and deadline:
                deadline -= 1
            assert pressed() and pressed()
        assert termios.tcgetattr(terminal) == before
        # In the background it must not read.
        monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
        with key_pressed("s", terminal) as nobody:
            assert nobody is None
    finally:
        os.close(controller)
        os.close(terminal)
