from __future__ import annotations

import io
import sys
import unicodedata

import pytest

from edge.cli import main
from edge.printable import harmless_streams, printable


def test_printable() -> None:
    assert printable("plain näïve 号 👩‍🚀\ttab") == "plain näïve 号 👩‍🚀\ttab"
    assert printable("a\x1b[31mred\x9b0m\r\n\x00\x7f") == "a\\x1b[31mred\\x9b0m\\x0d\\x0a\\x00\\x7f"
    assert printable("a\nb\r\nc", lines=True) == "a\nb\\x0d\nc"
    assert printable("abc\u202edcba\u2066\ud800") == "abc\\u202edcba\\u2066\\ud800"
    for number in range(sys.maxunicode + 1):
        kind = unicodedata.category(chr(number))
        if kind in ("Cc", "Cs", "Zl", "Zp") and number != 9:
            assert printable(chr(number)).isascii()
        elif kind[0] in "LNPS":
            assert printable(chr(number)) == chr(number)


class Terminal(io.StringIO):
    encoding = "ascii"

    def isatty(self) -> bool:
        return True


def test_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, terminal = io.StringIO(), Terminal()
    monkeypatch.setattr("sys.stdout", pipe)
    monkeypatch.setattr("sys.stderr", terminal)
    with harmless_streams():
        print("name \x1b]0;title\x07 \x1b[2J", "next\nline é")
        print("\x1b[K\x1b[2Jx")
        # A line that is redrawn, with a foreign text in the middle.
        print("\r\x1b[Kdone \x1b[2J 50 %", end="", file=sys.stderr)
        print("é", end="\r", file=sys.stderr)
        sys.stderr.flush()
    assert sys.stdout is pipe
    assert pipe.getvalue() == ("name \\x1b]0;title\\x07 \\x1b[2J next\nline é\n\\x1b[2Jx\n")
    assert terminal.getvalue() == "\r\x1b[Kdone \\x1b[2J 50 %\\xe9\r"


def test_a_file_s_name_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "no\x1b[2Jsuch\rfolder"]) == 1
    assert "no\\x1b[2Jsuch\\x0dfolder" in capsys.readouterr().err
