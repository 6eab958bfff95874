"""`edge bench --target jetson` from end to end, over a real sshd.

The board's programs are this machine's own, but for those that only a Jetson has: a trtexec that
gives true answers, nvpmodel, tegrastats and jetson_clocks. Nothing says that it is emulated, for
verdicts decide the exit code.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import sysconfig
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from edge.cli import main
from targets.transports.transport import shell_line
from tests.conftest import ROOT, tiny_simcc_model
from tests.stand_ins import trtexec_stand_in
from tests.stand_ins.bench_board import LINE_CHARS, Board, at_rest, login_as, on_command
from tests.stand_ins.bench_phone import Outcome, wait_until
from tests.stand_ins.ssh_server import RASPBERRY_PI_5, SshServer, ssh_server
from tests.stand_ins.state_stand_ins import ORIN_LINE

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
if find_spec("onnxslim") is None:
    pytest.skip("onnxslim is not installed", allow_module_level=True)

pytestmark = [pytest.mark.long, pytest.mark.alone]

ORIN = {
    "/proc/cpuinfo": RASPBERRY_PI_5["/proc/cpuinfo"].partition("Revision")[0],
    "/proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference\0",
    "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0000\0nvidia,tegra234\0",
    "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 1, BOARD: generic\n",
}
FEW = (
    *("--min-count", "5", "--min-seconds", "1", "--warmup-count", "1", "--warmup-seconds", "0"),
    *("--repeat", "1"),
)
MEASURING, BUILDING = "--exportTimes", "--saveEngine"
# Needs root, asks before it overwrites a file, and says what it did.
CLOCKS = """
S=/home/pi/firmware/clocks
[ "$SUDO" = 1 ] || { echo "Error: Run this script($0) as a root user"; exit 1; }
case "$1" in
--store) [ -e "$2" ] && { echo "File $2 already exists."; exit 1; }; cp "$S" "$2";;
--restore) [ -e "$2" ] || { echo "Error: $2 file not found !"; exit 1; }; cat "$2" > "$S";;
--show) M=1; [ "$(cat "$S")" = locked ] && M=2
  echo "cpu0: Online=1 Governor=x MinFreq=$M MaxFreq=2 CurrentFreq=2 IdleStates:"
  echo "GPU MinFreq=$M MaxFreq=2 CurrentFreq=2";;
*) printf locked > "$S";;
esac
"""


@dataclass(frozen=True)
class Orin(Board):
    """A Jetson; its trtexec lies where everything of the test's own does."""

    def install(self, *, measuring_s: float = 0, **settings: object) -> None:
        """Put trtexec 10.3 there; a measurement then takes so long."""
        folder = self.server.programs
        shutil.rmtree(folder / "trtexec.state", ignore_errors=True)
        trtexec_stand_in.install(folder, (10, 3, 0), **settings)
        state = folder / "trtexec.state"
        for path in (state, *state.iterdir()):
            os.chown(path, *self._owner())
        python = f"/mnt/python/bin/{Path(os.path.realpath(sys.executable)).name}"
        argv = [python, "/mnt/tests/trtexec_stand_in.py", "/usr/local/bin/trtexec.state"]
        line = shell_line(argv, {"PYTHONPATH": "/mnt/packages", "PYTHONDONTWRITEBYTECODE": "1"})
        waits = f'case "$*" in *{MEASURING}*) sleep {measuring_s};; esac\n'
        self.program("trtexec", f'{waits}{line[1:-1]} "$0" "$@"')

    def _owner(self) -> tuple[int, int]:
        home = self.server.home.stat()
        return home.st_uid, home.st_gid

    def calls(self, option: str) -> int:
        """How often trtexec was called with an option."""
        said = trtexec_stand_in.calls(self.server.programs / "trtexec")
        return sum(any(word.startswith(option) for word in words) for words in said)

    def clocks(self) -> str:
        """``free`` or ``locked``."""
        return (self.server.home / "firmware/clocks").read_text()

    def engines(self) -> list[str]:
        """What is kept of built engines."""
        return sorted(path.name for path in self.work.glob("engines/*"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def artifact(models: Path) -> Path:
    onnx.save(tiny_simcc_model(scale_norm=True), str(models / "tiny.onnx"))
    argv = ["convert", "--target", "jetson", "--formats", "tensorrt-fp16", "--batch", "1"]
    assert main([*argv, "--model", str(models / "tiny.onnx"), "--out", str(models)]) == 0
    (folder,) = (models / "jetson-orin-nx").glob("tiny-*")
    return folder


@pytest.fixture(scope="module")
def pictures(models: Path) -> Path:
    assert main(["synthetic", "--out", str(models / "one"), "--count", "1", "--crops"]) == 0
    return models / "one"


@pytest.fixture(scope="module")
def server(
    artifact: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SshServer]:
    del artifact, pictures
    if shutil.which("proot") is None:
        pytest.skip("a board's files need proot (apt-get install proot)")
    folder = tmp_path_factory.mktemp("jetson")
    seen = {
        "python": Path(sys.base_prefix),
        "packages": Path(sysconfig.get_path("platlib")),
        "tests": ROOT / "tests/stand_ins",
    }
    with (
        ssh_server(folder / "server", userland=Path("/"), files=ORIN, folders=seen) as server,
        login_as(folder / "user", server),
    ):
        yield server


@pytest.fixture
def orin(
    server: SshServer,
    artifact: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Orin]:
    board = Orin(
        server, ("--target", "jetson"), artifact, pictures, tmp_path / "build", capsys, FEW
    )
    board.program("uname", '[ "$1" = -m ] && exec echo aarch64; exec /bin/uname "$@"')
    board.program("nvpmodel", "cat /home/pi/firmware/mode")
    board.program("tegrastats", "while cat /home/pi/firmware/tegra; do sleep 0.2; done")
    board.program("sudo", '[ "$1" = -n ] || exit 1; shift; SUDO=1 exec "$@"')
    board.program("jetson_clocks", CLOCKS)
    board.install()
    with at_rest(board):
        board.firmware("mode", "NV Power Mode: MAXN\n0\n")
        board.firmware("tegra", ORIN_LINE)
        clocks = server.home / "firmware/clocks"
        clocks.write_text("free")
        os.chown(clocks, *board._owner())
        yield board
        wait_until(lambda: not server.running("trtexec"), "trtexec was left running", 5.0)
        assert board.clocks() == "free"


def told(orin: Orin, done: Outcome, what: str) -> None:
    """One line: it names the board and fits on a screen."""
    assert done.code == 1 and not done.runs
    assert orin.name in done.error and re.search(what, done.error), done.error
    assert len(done.error) < LINE_CHARS


def test_from_a_kit_to_figures(orin: Orin) -> None:
    first = orin.bench("--repeat", "2")
    assert first.code == 0, first.lines
    assert sum("takes minutes, and is done once" in line for line in first.lines) == 1
    assert orin.calls(BUILDING) == 1
    (engine,) = (name for name in orin.engines() if name.endswith(".engine"))
    assert engine.startswith("nvidia-jetson-orin-nx-engineering-reference-nvidia-tegra234-10.3.0-")
    for run in first.runs:
        assert (run.emulated, run.verdict) == (False, "valid")
        assert (run.target, run.transport) == ("jetson-orin-nx", "ssh")
        assert (run.runner.name, run.engine) == ("trtexec", "TensorRT 10.3.0")
        assert run.parity and run.parity.passed and "17 keypoints" in run.parity.summary
        # The stand-in computes for 2 ms, with some 0.4 ms for the transfers.
        assert run.summary.p50_ms == pytest.approx(2.4, abs=0.05)
        for state in (run.state_before, run.state_after):
            assert state and (state.power_mode, state.power_mw) == ("MAXN", 17946)
            assert (state.temperatures_c["gpu"], state.clocks_khz["gpu"]) == (63.5, 713_000)
        assert "trtexec_flags" in run.settings and run.settings.get("prepared") is None
    second = orin.bench()
    assert (second.code, len(second.runs), orin.calls(BUILDING)) == (0, 3, 1)
    assert main(["report", str(orin.out / "results")]) == 0
    assert "jetson-orin-nx" in orin.capture.readouterr().out
    assert main(["clean", "--target", "jetson", "--host", orin.server.host]) == 0
    assert not orin.work.exists()


@pytest.mark.parametrize(
    ("question", "old", "new", "reason"),
    [
        ("tegra", "@[713,0]", "@[510,0]", "the clock of gpu fell from 713 MHz to 510 MHz"),
        pytest.param(
            *("mode", "MAXN", "15W", "the power mode changed from MAXN to 15W"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["clock", "power mode"],
)
def test_a_board_that_slows_down_in_mid_run(
    orin: Orin, question: str, old: str, new: str, reason: str
) -> None:
    orin.install(measuring_s=5)
    text = (orin.server.home / "firmware" / question).read_text()

    def later() -> None:
        threading.Timer(2.5, orin.firmware, (question, text.replace(old, new))).start()

    with on_command(MEASURING, later):
        done = orin.bench("--min-seconds", "5")
    assert done.code == 1
    (run,) = done.runs
    assert (run.verdict, reason in run.reasons) == ("INVALID", True), run.reasons
    assert reason in done.error
    # The power that it drew meanwhile stands beside.
    assert len(run.state_series) > 2
    assert {point.power_mw for point in run.state_series} == {17946}


# --- the clocks -----------------------------------------------------------------------------------


def test_clocks_are_locked_for_the_runs(orin: Orin) -> None:
    seen: list[str] = []
    with on_command(MEASURING, lambda: seen.append(orin.clocks())):
        done = orin.bench("--lock-clocks")
    assert done.code == 0, done.lines
    assert (seen, orin.clocks()) == (["locked"], "free")
    (run,) = done.runs
    assert run.settings["prepared"] == "clocks: locked at the maximum of the power mode"
    assert not list(orin.work.glob("jetson_clocks*"))


def test_clocks_that_may_not_be_locked(orin: Orin) -> None:
    orin.program("sudo", 'echo "sudo: a password is required" >&2; exit 1')
    told(orin, orin.bench("--lock-clocks"), "cannot lock the clocks: .*a password is required; it")


@pytest.mark.parametrize(
    "where",
    [pytest.param(BUILDING, marks=pytest.mark.slow), MEASURING],
    ids=["building", "measuring"],
)
def test_an_interruption_puts_the_clocks_back(orin: Orin, where: str) -> None:
    orin.install(measuring_s=60, build_s=60 if where == BUILDING else 0)
    if where == BUILDING:
        shutil.rmtree(orin.work / "engines", ignore_errors=True)
    with orin.process("--lock-clocks") as process:
        wait_until(lambda: orin.server.running(where), f"never {where}", 90)
        wait_until(lambda: where == BUILDING or orin.clocks() == "locked", "not locked", 30)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and "could not be put back" not in errors
    assert orin.clocks() == "free" and not orin.runs()
    assert not list(orin.work.glob("jetson_clocks*"))
    assert where == MEASURING or not orin.engines()


@pytest.mark.slow
def test_a_lost_connection_leaves_the_clocks_to_the_next_run(orin: Orin) -> None:
    """The command that frees them is said; the next run that locks them frees them as well."""
    orin.install(measuring_s=8)
    server = orin.server

    def stop_soon() -> None:
        threading.Timer(1.0, server.stop).start()

    try:
        with on_command(MEASURING, stop_soon):
            done = orin.bench("--lock-clocks")
    finally:
        wait_until(lambda: server._process is None, "it did not stop")
        server.start()
    told(orin, done, "the connection was lost while ")
    assert orin.clocks() == "locked"
    (line,) = (line for line in done.lines if "could not be put back" in line)
    assert "do it with: ssh " in line and "jetson_clocks --restore" in line
    orin.install()
    # Nobody can end what nobody can reach: the program goes on, and nothing is timed beside it.
    told(orin, orin.bench("--lock-clocks"), "is still going on there; wait for its end, or end it")
    assert orin.clocks() == "locked"
    wait_until(lambda: not server.running("trtexec"), "trtexec goes on")
    after = orin.bench("--lock-clocks")
    assert after.code == 0
    assert "put back first what an interrupted run" in str(after.runs[0].settings["prepared"])
    assert main(["clean", "--target", "jetson", "--host", server.host]) == 0


# --- what breaks off ------------------------------------------------------------------------------


def test_a_board_without_trtexec(orin: Orin) -> None:
    (orin.server.programs / "trtexec").unlink()
    told(orin, orin.bench(), "trtexec is not there, .*sudo apt install tensorrt")


@pytest.mark.parametrize(
    ("fault", "what"),
    [("no memory", "OutOfMemory.*swap"), ("killed", "trtexec was killed, as the kernel does")],
)
def test_a_build_that_fails(orin: Orin, fault: str, what: str) -> None:
    shutil.rmtree(orin.work / "engines", ignore_errors=True)
    orin.install(fault=fault)
    done = orin.bench()
    told(orin, done, what)
    log = Path(done.error.rpartition("all that trtexec said is in ")[2])
    assert "&&&& RUNNING TensorRT.trtexec" in log.read_text()
    assert not [name for name in orin.engines() if name.endswith(".engine")]


@pytest.mark.slow
def test_the_connection_breaks_in_the_build(orin: Orin) -> None:
    shutil.rmtree(orin.work / "engines", ignore_errors=True)
    orin.install(build_s=60)
    with on_command(BUILDING, lambda: threading.Timer(1.5, orin.server.cut).start()):
        done = orin.bench()
    told(orin, done, "the connection was lost while .*; it was ended")
    assert not [name for name in orin.engines() if name.endswith(".engine")]
