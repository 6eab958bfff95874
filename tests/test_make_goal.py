"""How the programs behind `make` goals end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge.errors import ToolError
from tests.benches import bench_harness, mmdeploy_runtime, peer_inputs
from tests.benches.bench_harness import printed_by
from tests.stand_ins.make_goal import end_with


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ToolError("no such tool"), "goal: no such tool"),
        (pytest.skip.Exception("needs javac"), "goal: needs javac"),
        (ModuleNotFoundError("x", name="motrics"), "goal: motrics is not installed: run `make set"),
        (
            subprocess.TimeoutExpired(["python", "-m", "edge", "convert", "x"], 300),
            "goal: `python -m edge convert ...` did not end within 300 s; try again",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line(error: BaseException, said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        end_with("goal", lambda: raising(error))
    assert str(ended.value.code).startswith(said)
    assert "\n" not in str(ended.value.code)


def test_the_answer_is_the_exit_status() -> None:
    for answer in (0, 1, None):
        with pytest.raises(SystemExit) as ended:
            end_with("goal", lambda answer=answer: answer)  # type: ignore[misc]
        assert ended.value.code == answer


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        end_with("goal", lambda: 1 // 0)


def test_a_program_that_takes_too_long_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_harness, "_TIMEOUT_S", 0.2)
    with pytest.raises(ToolError, match=r"did not end within 0\.2 s"):
        printed_by([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_conversion_takes_what_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It shows its own rows meanwhile, and no deadline of minutes ends it."""
    seen: dict[str, object] = {}

    def run(argv: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        seen.update(options, argv=argv)
        return subprocess.CompletedProcess(argv, 1)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ToolError, match="the conversion failed, as said above"):
        peer_inputs.converted(["--target", "x86"])
    assert "timeout" not in seen and seen["stdout"] is sys.stderr
    assert "--target" in str(seen["argv"])


def test_a_peer_that_takes_too_long_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    def pip(argv: list[str], **options: float) -> None:
        raise subprocess.TimeoutExpired(argv, options["timeout"])

    monkeypatch.setenv("EDGEPOSE_TEST_CACHE", str(tmp_path))
    monkeypatch.setattr("venv.create", lambda *_, **__: None)
    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(pytest.skip.Exception, match=r"^peer==1 cannot be installed: .*600 s$"):
        mmdeploy_runtime.peer_python(("peer==1", "numpy==2"))
    assert "fetching peer==1" in capsys.readouterr().err
