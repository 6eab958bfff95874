from __future__ import annotations

from edge.errors import EngineError, first_line, last_line


def test_lines_of_an_error_and_of_a_programs_output() -> None:
    said = "\n  \n  first: why\r\nmiddle\n last \n\n"
    for one in (said, said.encode(), EngineError(said)):
        assert (first_line(one), last_line(one)) == ("first: why", "last")
    assert first_line(b"\xff ok") == "\ufffd ok"


def test_who_says_nothing_breaks_nothing() -> None:
    for one in ("", " \n", b""):
        assert (first_line(one), last_line(one)) == ("", "")
    assert first_line(EngineError("")) == last_line(EngineError("\n")) == "EngineError"


def test_a_line_without_end_is_cut() -> None:
    assert first_line("x" * 1000) == "x" * 297 + "..."
    assert last_line("x" * 300) == "x" * 300
