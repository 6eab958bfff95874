"""Lines that are redrawn, and tables of text."""

from __future__ import annotations

import io

import pytest

from edge.terminal import CountLine, StatusLine, clock_text, columns, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(text: str) -> list[str]:
    """What a terminal shows after a text: \\r goes to the left, \\x1b[K clears to the right."""
    lines, column = [""], 0
    for sign in text.replace("\x1b[K", "\x00"):
        if sign == "\n":
            lines.append("")
            column = 0
        elif sign == "\r":
            column = 0
        elif sign == "\x00":
            lines[-1] = lines[-1][:column]
        else:
            lines[-1] = lines[-1][:column] + sign + lines[-1][column + 1 :]
            column += 1
    return lines


def test_a_count_on_a_terminal_is_one_line_that_goes_away() -> None:
    now, stream = 100.0, Terminal()
    with CountLine("walk.mp4", stream=stream, clock_s=lambda: now) as line:
        for done in range(1, 61):
            now += 0.25
            line(done, 900)
        # Four frames a second; 840 are left.
        assert screen(stream.getvalue()) == ["walk.mp4: 60 of 900 frames, 4.0 frames/s, 3:30 left"]
    assert screen(stream.getvalue()) == [""]


def test_a_count_elsewhere_is_a_line_now_and_then_or_none() -> None:
    now, stream, none = 0.0, io.StringIO(), io.StringIO()
    line = CountLine("camera0", stream=stream, clock_s=lambda: now, log_s=10.0)
    quiet = CountLine("camera0", stream=none, clock_s=lambda: now)
    for done in range(1, 26):
        now += 1
        line(done)
        quiet(done)
    quiet.close()
    assert none.getvalue() == ""
    assert stream.getvalue().splitlines() == [
        "camera0: 10 frames, 1.0 frames/s",
        "camera0: 20 frames, 1.0 frames/s",
    ]


@pytest.mark.parametrize(("stream", "most"), [(Terminal(), 5), (io.StringIO(), 0.1)])
def test_a_resumed_download_is_sparse_and_has_the_speed_of_what_is_new(
    stream: io.StringIO, most: float
) -> None:
    now = 0.0
    line = CountLine("rtmpose-t", "MB", scale=1e6, stream=stream, clock_s=lambda: now, log_s=10.0)
    for step in range(1001):
        now = 25 * step / 1000
        line(10_000_000 + 40_000 * step, 50_000_000)
    shown = stream.getvalue().replace("\x1b[K", "").replace("\n", "\r")
    texts = [text for text in shown.split("\r") if text]
    assert 2 <= len(texts) <= most * 25 + 2
    # 10 MB were there before: 1.6 MB/s is the speed of the other 40.
    assert all(", 1.6 MB/s, 0:" in text for text in texts[-2:])


def test_a_status_line_takes_what_was_longer_away() -> None:
    stream = Terminal()
    line = StatusLine(stream)
    line.show("a long line of text")
    line.show("short")
    assert screen(stream.getvalue()) == ["short"]
    line.close()
    stream.write("table\n")
    assert screen(stream.getvalue()) == ["table", ""]
    log = io.StringIO()
    StatusLine(log).show("nobody sees this")
    assert log.getvalue() == ""


def test_seconds_as_a_clock_has_them() -> None:
    assert [clock_text(s) for s in (0.4, 7, 210, 3723, -1)] == [
        "0:00",
        "0:07",
        "3:30",
        "1:02:03",
        "0:00",
    ]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [["name", "ms"], ["a", "1.25"], ["longer", "10.50"]]
    assert columns(rows, right=[1]) == ["name       ms", "a        1.25", "longer  10.50"]
    assert columns([["a", ""], ["bb", "c"]]) == ["a", "bb  c"]
    assert columns([]) == []


def test_a_line_that_is_said_takes_the_place_of_the_redrawn_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    now = 0.0
    line = CountLine("model", "MB", scale=1e6, clock_s=lambda: now)
    line(0, 20_000_000)
    now = 1.0
    line(10_000_000, 20_000_000)
    assert screen(terminal.getvalue())[-1].startswith("model: 10.0 of 20.0 MB, 10.0 MB/s")
    say("edge: the cable was pulled")
    assert screen(terminal.getvalue()) == ["edge: the cable was pulled", ""]
    now = 2.0
    line(20_000_000, 20_000_000)  # done: nothing is left behind
    say("next")
    assert screen(terminal.getvalue()) == ["edge: the cable was pulled", "next", ""]
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    say("plain")
    assert log.getvalue() == "plain\n"
