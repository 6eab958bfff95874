"""SSH against a real server: what breaks off, and a board of another architecture."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.errors import DeviceError
from targets.transports.ssh_login import PASSWORD_VARIABLE
from targets.transports.transport import push_changed, remote_sha256, remove_work_dir
from tests.stand_ins.arm_userland import arm_userland
from tests.stand_ins.programs_here import goes_on, noise
from tests.stand_ins.ssh_server import SshServer, opened, ssh_server

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No keys, agent, password or configuration of whoever runs the tests."""
    for name in ("SSH_AUTH_SOCK", PASSWORD_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "user/.ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[SshServer]:
    """A server that a test may break."""
    with ssh_server(tmp_path / "server") as running:
        yield running


@contextmanager
def a_while_later(seconds: float, act: Any) -> Iterator[None]:
    timer = threading.Timer(seconds, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()


# What breaks off


def test_the_connection_is_made_again_between_calls(own_server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with closing(opened(own_server)) as transport:
        for _ in range(2):
            own_server.cut()
            assert transport.run(["whoami"], timeout_s=20).stdout == b"pi\n"
        own_server.cut()
        transport.push(tmp_path / "file", f"{transport.work_dir}/file", timeout_s=20)
        own_server.stop()
        with pytest.raises(DeviceError, match=f"{own_server.host}: port {own_server.port} is cl"):
            transport.run(["whoami"], timeout_s=20)
        own_server.start()
        transport.pull(f"{transport.work_dir}/file", tmp_path / "back", timeout_s=20)
    assert (tmp_path / "back").read_bytes() == b"x"


def test_a_cable_pulled_in_a_run(own_server: SshServer) -> None:
    seconds = f"9{time.perf_counter_ns() % 10**8:08d}"
    script = f"echo started >>$HOME/count; sleep {seconds}"
    with closing(opened(own_server)) as transport:
        with (
            a_while_later(1.0, own_server.cut),
            pytest.raises(DeviceError, match=r"lost while .*; it was ended; check its power"),
        ):
            transport.run(["sh", "-c", script], timeout_s=60)
        assert not goes_on(f"sleep {seconds}")
        assert transport.run(["cat", "/home/pi/count"], timeout_s=20).stdout == b"started\n"


def test_a_device_that_goes_in_a_run_and_comes_back(own_server: SshServer) -> None:
    """The program outlives the connection here; it is ended with the first call after that."""
    seconds = f"9{time.perf_counter_ns() % 10**8:08d}"
    with closing(opened(own_server)) as transport:
        with (
            a_while_later(1.0, own_server.stop),
            pytest.raises(
                DeviceError, match="may still be running there; check its power and network"
            ),
        ):
            transport.run(["sleep", seconds], timeout_s=60)
        assert own_server.running(f"sleep {seconds}")
        own_server.start()
        assert transport.run(["whoami"], timeout_s=20).stdout == b"pi\n"
        assert not goes_on(f"sleep {seconds}")


def test_a_device_that_falls_silent_in_a_run(
    own_server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("targets.transports.ssh._CLEAN_UP_S", 1.0)
    seconds = f"9{time.perf_counter_ns() % 10**8:08d}"
    with closing(opened(own_server, timeout_s=5)) as transport:
        started = time.perf_counter()
        with (
            a_while_later(0.5, own_server.freeze),
            pytest.raises(DeviceError, match=r"did not end within 1.5 s; it may still be running"),
        ):
            transport.run(["sleep", seconds], timeout_s=1.5)
        assert time.perf_counter() - started < 10
        own_server.thaw()
        monkeypatch.setattr("targets.transports.ssh._CLEAN_UP_S", 15.0)
        assert transport.run(["whoami"], timeout_s=30).stdout == b"pi\n"
        assert not goes_on(f"sleep {seconds}")


def test_a_cable_pulled_in_a_push(own_server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "new").write_bytes(noise(8_000_000))
    folder = own_server.home / ".cache/edgepose/device"
    with closing(opened(own_server)) as transport:
        remote = f"{transport.work_dir}/file"
        transport.push(tmp_path / "old", remote, timeout_s=20)

        def pull_the_cable(done: int, _: int) -> None:
            if 2_000_000 < done < 3_000_000:
                own_server.cut()

        with pytest.raises(DeviceError, match=r"pushing new to .*/file failed: the connection was"):
            transport.push(tmp_path / "new", remote, timeout_s=60, on_progress=pull_the_cable)
        assert [path.name for path in folder.iterdir()] == ["file"]
        assert (folder / "file").read_bytes() == b"old"
        push_changed(transport, tmp_path / "new", remote, timeout_s=60)
        assert (folder / "file").read_bytes() == noise(8_000_000)


def test_a_device_that_falls_silent_in_a_transfer(
    own_server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("targets.transports.ssh._CLEAN_UP_S", 1.0)
    (tmp_path / "new").write_bytes(noise(8_000_000))
    with closing(opened(own_server)) as transport:
        remote = f"{transport.work_dir}/file"

        def freeze(done: int, _: int) -> None:
            if 2_000_000 < done < 3_000_000:
                own_server.freeze()

        def push() -> None:
            transport.push(tmp_path / "new", remote, timeout_s=2, on_progress=freeze)

        def pull() -> None:
            transport.pull(remote, tmp_path / "back", timeout_s=2, on_progress=freeze)

        for move in (push, pull):
            with pytest.raises(DeviceError, match=r"(push|pull)ing .*: it did not end within 2 s"):
                move()
            own_server.thaw()
            transport.push(tmp_path / "new", remote, timeout_s=60)
            folder = own_server.home / ".cache/edgepose/device"
            assert [path.name for path in folder.iterdir()] == ["file"]
        assert not list(tmp_path.glob("*back*"))


def test_a_full_disk(server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "fits").write_bytes(noise(200_000))
    (tmp_path / "large").write_bytes(noise(3_000_000))
    with closing(opened(server)) as transport:
        transport.push(tmp_path / "fits", "/home/pi/small/file", timeout_s=20)
        for _ in range(2):
            with pytest.raises(DeviceError, match="no room is left in /home/pi/small"):
                transport.push(tmp_path / "large", "/home/pi/small/file", timeout_s=20)
        listed = transport.run(["ls", "-A", "/home/pi/small"], timeout_s=20).stdout
        assert listed == b"file\n"
        transport.pull("/home/pi/small/file", tmp_path / "back", timeout_s=20)
        assert (tmp_path / "back").read_bytes() == noise(200_000)
        # Nearly full: the last blocks are those that fail, and their answers come last.
        (tmp_path / "large").write_bytes(noise(900_000))
        with pytest.raises(DeviceError, match="no room"):
            transport.push(tmp_path / "large", "/home/pi/small/second", timeout_s=20)
        transport.run(["rm", "/home/pi/small/file"], timeout_s=20)


def test_no_permission(server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with closing(opened(server)) as transport:
        for remote in ("/usr/local/bin/x", "/usr/share/new/folder/x"):
            with pytest.raises(DeviceError, match=rf"{remote} failed: Permission denied"):
                transport.push(tmp_path / "file", remote, timeout_s=20)
        with pytest.raises(DeviceError, match="pulling /etc/shadow failed: Permission denied"):
            transport.pull("/etc/shadow", tmp_path / "back", timeout_s=20)
        with pytest.raises(DeviceError, match="pulling /etc failed"):
            transport.pull("/etc", tmp_path / "back", timeout_s=20)
        (tmp_path / "closed").write_text("")
        with pytest.raises(DeviceError, match=r"cannot write .*closed/x here"):
            transport.pull("/etc/passwd", tmp_path / "closed/x", timeout_s=20)


def test_an_interruption_ends_the_program(server: SshServer) -> None:
    seconds = f"9{time.perf_counter_ns() % 10**8:08d}"
    with closing(opened(server)) as transport:
        with (
            a_while_later(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)),
            pytest.raises(KeyboardInterrupt),
        ):
            transport.run(["sleep", seconds], timeout_s=60)
        assert not goes_on(f"sleep {seconds}")
        assert transport.run(["true"], timeout_s=20).returncode == 0


def test_a_line_that_is_too_long_is_refused(server: SshServer) -> None:
    with (
        closing(opened(server)) as transport,
        pytest.raises(DeviceError, match="too long; use a file"),
    ):
        transport.run(["echo", "x" * 200_000], timeout_s=20)


def test_nothing_stays_after_closing(server: SshServer, tmp_path: Path) -> None:
    threads, files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    (tmp_path / "file").write_bytes(noise(100_000))
    transport = opened(server)
    transport.push(tmp_path / "file", f"{transport.work_dir}/file", timeout_s=20)
    transport.run(["cat", f"{transport.work_dir}/file"], timeout_s=20)
    remove_work_dir(transport)
    transport.close()
    transport.close()
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    with pytest.raises(DeviceError, match="was closed"):
        transport.run(["true"], timeout_s=5)


# A board of another architecture


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SshServer, Path]]:
    root = arm_userland()
    with ssh_server(tmp_path_factory.mktemp("board"), userland=root) as running:
        yield running, root


def test_a_board_is_aarch64(board: tuple[SshServer, Path]) -> None:
    server, root = board
    (server.programs / "vcgencmd").write_text("#!/bin/sh\necho throttled=0x0\n")
    (server.programs / "vcgencmd").chmod(0o755)
    with closing(opened(server)) as transport:
        assert transport.run(["uname", "-m"], timeout_s=60).stdout == b"aarch64\n"
        model = transport.run(["cat", "/proc/device-tree/model"], timeout_s=60).stdout
        assert model == b"Raspberry Pi 5 Model B Rev 1.0\0"
        assert (
            transport.run(["vcgencmd", "get_throttled"], timeout_s=60).stdout == b"throttled=0x0\n"
        )
        # AT_HWCAP, <asm/hwcap.h>: bit 10 is half-precision SIMD, which a Cortex-A76 has.
        said = transport.run(["true"], timeout_s=60, env={"LD_SHOW_AUXV": "1"}).stdout.decode()
        features = re.search(r"AT_HWCAP:\s+([0-9a-f]+)", said)
        assert features is not None and int(features[1], 16) >> 10 & 1

        program = root / "usr/bin/sha256sum"
        assert program.read_bytes()[18:20] == (183).to_bytes(2, "little")  # EM_AARCH64
        remote = f"{transport.work_dir}/program"
        push_changed(transport, program, remote, executable=True, timeout_s=120)
        data = noise(200_000)
        by_us = remote_sha256(transport, [remote], timeout_s=60)
        assert by_us is not None and len(by_us) == 1
        done = transport.run([remote], timeout_s=60, stdin=data)
        here = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True)
        assert done.stdout == here.stdout
        assert push_changed(transport, program, remote, executable=True, timeout_s=120) == ()
        remove_work_dir(transport)


def test_a_deadline_on_a_board(board: tuple[SshServer, Path]) -> None:
    server, _ = board
    seconds = f"9{time.perf_counter_ns() % 10**8:08d}"
    with closing(opened(server)) as transport:
        with pytest.raises(DeviceError, match="it was ended"):
            transport.run(["sh", "-c", f"sleep {seconds} & sleep {seconds}"], timeout_s=4)
        assert not goes_on(f"sleep {seconds}")


def test_a_cable_pulled_from_a_board(board: tuple[SshServer, Path]) -> None:
    server, _ = board
    seconds = f"9{time.perf_counter_ns() % 10**8:08d}"
    with closing(opened(server)) as transport:
        with (
            a_while_later(3.0, server.cut),
            pytest.raises(
                DeviceError, match="it was ended; check its power and network, then repeat"
            ),
        ):
            transport.run(["sleep", seconds], timeout_s=60)
        assert not goes_on(f"sleep {seconds}")


@pytest.fixture(scope="module")
def python_userland() -> Path:
    return arm_userland("python3-venv")


@pytest.mark.slow
def test_python_on_a_board(python_userland: Path, tmp_path: Path) -> None:
    script = (
        "import platform, subprocess, sys; "
        "print(platform.machine(), sys.version_info >= (3, 10), "
        "subprocess.run(['uname', '-m'], capture_output=True).stdout)"
    )
    with (
        ssh_server(tmp_path / "server", userland=python_userland) as server,
        closing(opened(server)) as transport,
    ):
        done = transport.run(["python3", "-c", script], timeout_s=120)
        assert done.stdout == b"aarch64 True b'aarch64\\n'\n"
        venv = f"{transport.work_dir}/venv"
        done = transport.run(["python3", "-m", "venv", "--without-pip", venv], timeout_s=240)
        assert done.returncode == 0
        done = transport.run(
            [f"{venv}/bin/python", "-c", "import sys; print(sys.prefix)"], timeout_s=120
        )
        assert done.stdout.decode() == f"{venv}\n"
