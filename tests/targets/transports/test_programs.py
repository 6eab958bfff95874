"""Programs on this machine, with real ones."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from edge.errors import ToolError
from targets.transports.programs import ProgramTimeoutError, check_program, run_program
from targets.transports.transport import Done


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def test_bytes_and_arguments_go_through_unchanged() -> None:
    words = ("a b", "$HOME", "*", "it's", "two\nlines", "")
    code = (
        "import os, sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data[::-1]);"
        "sys.stderr.write(repr(sys.argv[1:]) + os.environ['EXTRA'] + os.environ['PATH'])"
    )
    # More than a pipe holds, both ways.
    data = os.urandom(1 << 20)
    done = run_program(python(code, *words), timeout_s=60.0, env={"EXTRA": "x"}, stdin=data)
    assert done.returncode == 0 and done.stdout == data[::-1]
    assert done.stderr.decode() == repr(list(words)) + "x" + os.environ["PATH"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
    ],
)
def test_any_exit_status_is_an_answer(code: str, status: int) -> None:
    assert run_program(python(code), timeout_s=60.0).returncode == status


def test_missing_and_forbidden_programs_look_as_from_a_shell(tmp_path: Path) -> None:
    assert run_program([str(tmp_path / "none")], timeout_s=1.0).returncode == 127
    (tmp_path / "text").write_text("hello")
    done = run_program([str(tmp_path / "text")], timeout_s=1.0)
    assert done.returncode == 126 and b"Permission denied" in done.stderr


def test_a_program_that_does_not_read_is_no_error() -> None:
    done = run_program(python("print(1)"), timeout_s=60.0, stdin=bytes(1 << 22))
    assert (done.returncode, done.stdout) == (0, b"1\n")


def test_the_deadline_ends_all_that_was_started(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, subprocess, sys, time;"
        "child = subprocess.Popen(['sleep', '60']);"
        "pathlib.Path(sys.argv[1]).write_text(f'{os.getpid()} {child.pid}'); time.sleep(60)"
    )
    start = time.monotonic()
    with pytest.raises(ProgramTimeoutError, match=r"did not end within 1\.5 s"):
        run_program(python(code, str(tmp_path / "pids")), timeout_s=1.5)
    assert time.monotonic() - start < 10
    for pid in (tmp_path / "pids").read_text().split():
        assert_gone(int(pid))


def test_a_program_deaf_to_polite_requests_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    )
    with pytest.raises(ProgramTimeoutError):
        run_program(python(code, str(tmp_path / "pid")), timeout_s=1.0)
    assert_gone(int((tmp_path / "pid").read_text()))


def test_ctrl_c_ends_the_program() -> None:
    seen: list[str] = []

    def interrupt(line: str) -> None:
        seen.append(line)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_program(
                python("import os, time; print(os.getpid(), flush=True); time.sleep(60)"),
                timeout_s=60.0,
                on_line=interrupt,
            )
    finally:
        signal.signal(signal.SIGINT, before)
    assert_gone(int(seen[0]))


def test_lines_are_heard_as_they_come() -> None:
    code = (
        "import sys, time;"
        "[(print('line', i, flush=True), time.sleep(0.3)) for i in range(3)];"
        "sys.stdout.write('no newline')"
    )
    heard: list[tuple[str, float]] = []
    done = run_program(
        python(code), timeout_s=60.0, on_line=lambda line: heard.append((line, time.monotonic()))
    )
    assert [line for line, _ in heard] == ["line 0", "line 1", "line 2", "no newline"]
    assert heard[2][1] - heard[0][1] > 0.4
    assert done.stdout.decode().splitlines() == [line for line, _ in heard]


def test_a_failure_shows_command_status_and_the_last_lines() -> None:
    done = Done(("cc", "a b.c"), 3, b"".join(b"line %d\n" % i for i in range(40)), b"the end\n")
    with pytest.raises(ToolError) as error:
        check_program(done, "install it")
    text = str(error.value)
    assert "`cc 'a b.c'` exited with 3; install it" in text and "the end" in text
    assert "line 39" in text and "line 5\n" not in text
    with pytest.raises(ToolError, match="signal 9"):
        check_program(Done(("cc",), 137, b"", b""))
    assert check_program(Done(("cc",), 0, b"out", b"")) == "out"


def assert_gone(pid: int) -> None:
    """A child of ours is reaped, one of another program may take init a moment."""
    for _ in range(50):
        state = Path(f"/proc/{pid}/stat")
        try:
            if state.read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} still runs")
