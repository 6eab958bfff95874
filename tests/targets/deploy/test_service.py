"""The service under a true systemd of the board's user, and the unit as systemd reads it."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from edge.errors import DeviceError
from targets.deploy import service as service_module
from targets.deploy.deployment import roll_back
from tests.stand_ins.deploy_board import deploy_board, ready_python
from tests.stand_ins.python_runners import tiny_artifact
from tests.stand_ins.ssh_server import opened
from tests.stand_ins.user_systemd import endless_camera, user_systemd

pytest.importorskip("onnx")


def test_systemd_takes_the_unit_as_it_is(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    # It wants the program to be there.
    path = tmp_path / service_module.UNIT
    path.write_text(
        service_module.TEXT.replace("%h/.local/share/edgepose/current/serve", "/bin/sh")
    )
    argv = ["systemd-analyze", "verify", "--recursive-errors=no", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_service_comes_goes_and_comes_back(tmp_path: Path) -> None:
    """Started when its first poses are there; one that fails leaves the one before running."""
    artifact = tiny_artifact(tmp_path / "tiny")
    with deploy_board(tmp_path / "board") as board, ready_python(board), endless_camera() as camera:
        for name in ("systemctl", "journalctl", "loginctl"):
            (board.server.programs / name).unlink()
        with user_systemd(board.server, tmp_path / "systemd.log"):

            def active() -> tuple[str, str]:
                """How systemd has it, and the version that its program was started from."""
                argv = ["systemctl", "--user", "show", service_module.UNIT]
                argv += ["--property=ActiveState", "--property=MainPID", "--value"]
                with closing(opened(board.server)) as transport:
                    done = service_module.ask_user(transport, argv)
                    pid, state = sorted(done.stdout.decode().split())
                line = Path(f"/proc/{pid}/cmdline").read_text()
                return state, line.partition("/versions/")[2].split("/")[0]

            first = board.deploy(artifact, camera=camera)
            assert active() == ("active", first.name)
            with pytest.raises(DeviceError, match=r"restart .* failed"):
                board.deploy(artifact, camera="/dev/video7")
            assert (board.current, board.folders) == (first.name, [first.name])
            assert active() == ("active", first.name)
            second = board.deploy(artifact, camera=camera)
            assert active() == ("active", second.name)
            with board.open() as known:
                assert roll_back(known, None, print) == first
            assert active() == ("active", first.name)
            third = board.deploy(artifact, drop_service=True)
            assert board.current == third.name
            assert not (board.server.home / ".config/systemd/user/edgepose.service").exists()
            assert not board.server.running("edge.serve")
