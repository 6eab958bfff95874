"""``edge report`` from arguments to files and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.errors import SpecError
from targets.result import write_run
from tests.stand_ins.command_line import run_edge
from tests.stand_ins.synthetic_runs import (
    emulated_run,
    hot_phone_run,
    latencies_ns,
    phone_run,
    with_samples,
)


def edge_report(*words: Any) -> int:
    """The command alone."""
    return run_edge("report", *words)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for run in (phone_run(1, count=700), hot_phone_run(700), emulated_run()):
        write_run(run, folder)
    return folder


def side(folder: Path, level_ms: float, number: int = 1) -> Path:
    """A folder with one run at a level."""
    run = with_samples(phone_run(number), latencies_ns(700, level_ms, seed=number))
    write_run(run, folder)
    return folder


def test_the_table(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edge_report(results) == 0
    printed = capsys.readouterr().out
    assert "INVALID: thermal status rose from 0 to 2" in printed
    assert "emulated: not a latency" in printed


def test_files_for_others(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, text = tmp_path / "report.html", tmp_path / "report.md"
    pattern = str(results / "*.json")
    words = [pattern, "--html", page, "--markdown", text, "--json", "--title", "Seven & eight"]
    assert edge_report(*words) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)["runs"]) == 3
    assert printed.err.splitlines() == [f"-> {page}", f"-> {text}"]
    assert "<title>Seven &amp; eight</title>" in page.read_text(encoding="utf-8")
    assert text.read_text(encoding="utf-8").startswith("| target |")


def test_mistakes_are_named(results: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="name the runs"):
        edge_report()
    with pytest.raises(SpecError, match="its folder does not exist"):
        edge_report(results, "--html", tmp_path / "nowhere" / "report.html")
    with pytest.raises(SpecError, match="leave the rest out"):
        edge_report(results, "--compare", results, results)
    (results / "zz.json").write_text("{")
    with pytest.raises(SpecError, match=r"zz\.json: no valid JSON"):
        edge_report(results, "--html", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("new_ms", "limit", "code"),
    [(9.0, "5%", 0), (9.9, "5%", 1), (9.9, "15%", 0), (8.0, "0%", 0), (9.3, "2.5%", 1)],
)
def test_the_exit_code_of_a_comparison(
    tmp_path: Path, new_ms: float, limit: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = side(tmp_path / "old", 9.0), side(tmp_path / "new", new_ms, 2)
    assert edge_report("--compare", old, new, "--max-regression", limit) == code
    assert ("REGRESSION" in capsys.readouterr().out) == bool(code)


def test_a_comparison_that_cannot_be_judged_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(hot_phone_run(700), tmp_path / "old")
    write_run(hot_phone_run(700), tmp_path / "new")
    both = (tmp_path / "old", tmp_path / "new")
    assert edge_report("--compare", *both) == 1
    assert "REFUSED" in capsys.readouterr().out
    assert edge_report("--compare", *both, "--include-invalid", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["rows"][0]["p50"]["change"] == 0
    assert "INVALID runs are in it" in data["rows"][0]["notes"]


def test_emulated_runs_are_never_compared(tmp_path: Path) -> None:
    write_run(emulated_run(), tmp_path / "old")
    with pytest.raises(SpecError, match="emulated: not a latency"):
        edge_report(
            "--compare", tmp_path / "old", tmp_path / "old", "--include-invalid", "--any-device"
        )


def test_markdown_of_a_comparison(tmp_path: Path) -> None:
    file = tmp_path / "change.md"
    old = side(tmp_path / "old", 9.0)
    assert edge_report("--compare", old, old, "--markdown", file) == 0
    assert "no change shown" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["5", "0.05", "-1%", "many%", "nan%", "inf%", "%"])
def test_a_limit_is_a_percentage(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        edge_report("--compare", "a", "b", f"--max-regression={text}")
    assert caught.value.code == 2
    assert "is no percentage, for example 5%" in capsys.readouterr().err
