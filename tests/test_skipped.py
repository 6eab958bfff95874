"""What a run says of the tests that it skipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.skipped import counted, main, reason_of

MODULE = """
import pytest
pytest.skip("needs a tool", allow_module_level=True)
"""
TESTS = """
import pytest
@pytest.mark.parametrize("n", range(3))
def test_one(n): pytest.skip("no   phone here\\n")
def test_two(): pytest.skip("needs a tool")
def test_three(): pass
"""


def test_reasons_are_counted_the_most_frequent_first() -> None:
    assert counted([]) == []
    assert counted(["b", "a", "b"]) == ["3 tests were skipped:", "     2  b", "     1  a"]
    assert counted(["x"])[0] == "1 test was skipped:"
    assert reason_of(("file", 3, "Skipped: no\n  network")) == "no network"
    assert reason_of("Skipped: a") == "a"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_line_a_reason_whatever_the_workers(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_module.py").write_text(MODULE)
    (tmp_path / "test_tests.py").write_text(TESTS)
    file = tmp_path / "skipped"
    argv = [sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "tests.conftest"]
    argv += ["-p", "no:cacheprovider", "--skips-to", str(file), "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [*argv, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(file.read_text().splitlines()) == [*["needs a tool"] * 2, *["no phone here"] * 3]


def test_the_quick_loop_says_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "skipped").write_text("a\nb\na\n")
    assert main(["count", str(tmp_path / "skipped")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("3 tests were skipped; ")
    (tmp_path / "none").write_text("")
    assert main(["lines", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == ""
