from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from converters.chain import Chain, Done, Row
from converters.tools import run_tool, version_of
from edge.errors import ModelFileError, StepError, ToolError


def ignore(row: Row) -> None:
    del row


def test_rows_come_in_order() -> None:
    rows: list[Row] = []
    chain = Chain("model", rows.append)
    assert chain.run("a", lambda: Done("made", 5, "fine")) == "made"
    assert chain.run("b", lambda: Done(7)) == 7
    assert [(r.model, r.step, r.size_bytes, r.verdict) for r in rows] == [
        ("model", "a", 5, "fine"),
        ("model", "b", None, ""),
    ]


def test_an_error_names_the_step_and_those_before_it() -> None:
    def fail() -> Done[None]:
        raise ModelFileError("the file is bad")

    chain = Chain("model", ignore)
    chain.run("load", lambda: Done(None))
    chain.run("prepare", lambda: Done(None))
    with pytest.raises(
        ModelFileError, match=r"model, step convert \(after load, prepare\): the file is bad"
    ):
        chain.run("convert", fail)
    with pytest.raises(StepError, match=r"write.*promise: nothing was written in x"):
        chain.run("write", lambda: Done("x"), ensures=lambda made: f"nothing was written in {made}")
    with pytest.raises(StepError, match="cannot start: no disk"):
        chain.run("write", fail, requires=lambda: "no disk")


def test_a_tool_that_fails_shows_how(tmp_path: Path) -> None:
    script = "import sys; print('line one'); print('the reason', file=sys.stderr); sys.exit(3)"
    with pytest.raises(ToolError) as caught:
        run_tool([sys.executable, "-c", script], tmp_path)
    text = str(caught.value)
    assert "exited with 3" in text
    assert "the reason" in text
    assert "-c" in text
    with pytest.raises(ToolError, match="no such program"):
        run_tool(["/no/such/program"], tmp_path)
    with pytest.raises(ToolError, match="killed by signal 9"):
        run_tool([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], tmp_path)
    start = time.monotonic()
    with pytest.raises(ToolError, match=r"did not end within 0\.5 s"):
        run_tool([sys.executable, "-c", "import time; time.sleep(30)"], tmp_path, timeout_s=0.5)
    assert time.monotonic() - start < 20
    assert run_tool([sys.executable, "-c", "print(42)"], tmp_path) == "42\n"


def test_versions_come_from_the_distributions() -> None:
    assert version_of("numpy") == __import__("numpy").__version__
    assert version_of("no-such-distribution") == "absent"
