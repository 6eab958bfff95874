from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from converters.chain import Row, Step, run_steps
from converters.tools import run_tool, version_of
from edge.errors import ModelFileError, StepError, ToolError


def ignore(row: Row) -> None:
    del row


def test_rows_come_in_order() -> None:
    rows: list[Row] = []
    steps = [Step("a", lambda: (5, "fine")), Step("b", lambda: (None, ""))]
    run_steps("model", steps, rows.append)
    assert [(r.model, r.step, r.size_bytes, r.verdict) for r in rows] == [
        ("model", "a", 5, "fine"),
        ("model", "b", None, ""),
    ]


def test_an_error_names_the_step_and_those_before_it() -> None:
    def fail() -> tuple[int | None, str]:
        raise ModelFileError("the file is bad")

    done = [Step("load", lambda: (None, "")), Step("prepare", lambda: (None, ""))]
    with pytest.raises(
        ModelFileError, match=r"model, step convert \(after load, prepare\): the file is bad"
    ):
        run_steps("model", [*done, Step("convert", fail)], ignore)
    broken = Step("write", lambda: (None, ""), ensures=lambda: "nothing was written")
    with pytest.raises(StepError, match=r"write.*promise: nothing was written"):
        run_steps("model", [broken], ignore)
    blocked = Step("write", fail, requires=lambda: "no disk")
    with pytest.raises(StepError, match="cannot start: no disk"):
        run_steps("model", [blocked], ignore)


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
