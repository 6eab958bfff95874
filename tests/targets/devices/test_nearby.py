"""What is there: phones, hosts and this machine, each told from what it says itself."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from targets.devices.nearby import Nearby, configured_hosts, find_devices, fitting_targets
from targets.devices.state import DeviceInfo, read_device
from targets.profile import load_profile, profiles
from tests.stand_ins.adb_device import StandInPhone, connected, own_adb_server
from tests.stand_ins.arm_userland import arm_userland
from tests.stand_ins.ssh_server import PASSWORD, SshServer, ssh_server
from tests.stand_ins.state_stand_ins import jetson, phone, raspberry_pi

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("board")) as server:
        yield server


@pytest.fixture(scope="module")
def userland() -> Path:
    """Found or built before the home is another one: it is kept there."""
    return arm_userland()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide a home without keys or hosts, and no adb server that a test did not start."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for name in ("SSH_AUTH_SOCK", "EDGEPOSE_SSH_PASSWORD", "ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ADB", str(home / "adb"))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(_closed_port()))


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def no_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH with the programs that describe a machine, those of ssh, and no others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "uname", "cat", "grep", "tr", "getconf", "ssh", "ssh-keygen"):
        (folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("ADB")


def by_name(found: list[Nearby]) -> dict[str, Nearby]:
    return {one.option or one.transport: one for one in found}


@pytest.mark.usefixtures("no_adb")
def test_a_machine_without_adb() -> None:
    found = by_name(find_devices(timeout_s=10))
    assert list(found) == ["local", "adb"]
    assert found["adb"].info is None
    assert str(found["adb"].problem).startswith("no such program; install it")
    info = found["local"].info
    assert info and info.arch
    assert info.name == "local"


@pytest.mark.usefixtures("no_adb")
def test_hosts_are_asked_at_the_same_time_and_have_a_deadline(board: SshServer) -> None:
    # One answers, one has no server, one accepts the connection and never says a word.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = _closed_port()
        hosts = [board.host, f"pi@127.0.0.1:{port}", f"pi@127.0.0.1:{silent.getsockname()[1]}"]
        _trust(board)
        start = time.monotonic()
        found = by_name(find_devices(hosts, timeout_s=4))
        took_s = time.monotonic() - start
    answered, closed, silent_one = (found[f"--host {host}"] for host in hosts)
    assert answered.info and answered.info.kind == "linux"
    assert answered.bench == f"make bench TARGET=x86 HOST={board.host}"
    assert closed.problem == f"port {port} is closed: is its SSH server running?"
    assert closed.bench is None
    assert silent_one.info is None
    assert silent_one.problem
    assert took_s < 8


@pytest.mark.usefixtures("no_adb")
def test_who_types_a_password_is_not_hurried(
    board: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trust(board, key=False)

    class Terminal:
        def isatty(self) -> bool:
            return True

    def slow(prompt: str) -> str:
        assert "pi" in prompt
        time.sleep(4)
        return PASSWORD

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", slow)
    (one,) = (one for one in find_devices([board.host], timeout_s=3) if one.name == board.host)
    assert one.problem is None
    assert one.info


@pytest.mark.usefixtures("no_adb")
def test_an_unknown_host_key_is_a_row_with_the_command_that_accepts_it(board: SshServer) -> None:
    (one,) = (one for one in find_devices([board.host], timeout_s=15) if one.transport == "ssh")
    assert one.info is None
    assert str(one.problem).startswith("its host key is not known: ")
    assert f"accept it with: ssh -p {board.port} pi@127.0.0.1 exit" in str(one.problem)


@pytest.mark.usefixtures("no_adb")
def test_a_configured_host_is_listed_and_not_connected_to(board: SshServer) -> None:
    _trust(board)
    before = board.log.read_text().count("Connection from")
    (one,) = (one for one in find_devices(timeout_s=10) if one.transport == "ssh")
    assert board.log.read_text().count("Connection from") == before
    assert (one.option, one.asked, one.info) == ("--host pi5", False, None)
    assert one.problem == "not asked: edge devices pi5"
    (asked,) = (one for one in find_devices(["pi5"], timeout_s=15) if one.transport == "ssh")
    assert asked.info
    assert asked.bench == "make bench TARGET=x86 HOST=pi5"


def _trust(board: SshServer, *, key: bool = True) -> None:
    """The user's own files know the board, let them in, and name it ``pi5`` besides."""
    identity = f"  IdentityFile {board.key}\n" if key else ""
    Path("~/.ssh/config").expanduser().write_text(
        f"Host pi5\n  HostName 127.0.0.1\n  Port {board.port}\n  User pi\n"
        f"Host *\n  UserKnownHostsFile {board.known_hosts}\n{identity}"
    )


def test_a_board_that_another_machine_plays_is_emulated(userland: Path, tmp_path: Path) -> None:
    # Its files say that it is a Raspberry Pi; what gives it away runs every program of it.
    with ssh_server(tmp_path / "board", userland=userland) as pi:
        _trust(pi)
        (one,) = (one for one in find_devices([pi.host], timeout_s=30) if one.name == pi.host)
    assert one.info
    assert (one.info.kind, one.info.arch) == ("raspberry-pi", "aarch64")
    assert one.info.emulated
    assert one.targets[0] == "raspberry-pi-5"


def test_phones(tmp_path: Path) -> None:
    with own_adb_server(tmp_path), connected(StandInPhone(tmp_path / "one")) as good:
        with connected(StandInPhone(tmp_path / "two", state="unauthorized")) as locked:
            found = by_name(find_devices(timeout_s=15))
        info = found[f"--serial {good.serial}"].info
        assert info
        assert (info.kind, info.model, info.soc) == ("android", "Xiaomi Mi 10", "SM8250")
        assert info.emulated
        assert found[f"--serial {good.serial}"].targets == ("android-sd865",)
        bench = found[f"--serial {good.serial}"].bench
        assert bench == f"make bench TARGET=android-sd865 SERIAL={good.serial}"
        other = found[f"--serial {locked.serial}"]
        assert other.info is None
        assert "unlock its screen" in str(other.problem)


def test_no_phone_is_said_with_what_helps(tmp_path: Path) -> None:
    with own_adb_server(tmp_path):
        assert "USB debugging" in str(by_name(find_devices(timeout_s=15))["adb"].problem)


def test_hosts_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "more").write_text('Host orin "nano board"\n  User nvidia\n')
    file = tmp_path / "config"
    file.write_text(
        f"Include {tmp_path}/more\n"
        "# Host commented\nhost=pi5\n  HostName 10.0.0.5\nHost *.lab !secret web? *\n"
        "Match host other\n  User x\nHost pi5 pi4\n"
    )
    assert configured_hosts(file) == ("orin", "nano board", "pi5", "pi4")
    assert configured_hosts(tmp_path / "none") == ()


def test_the_closest_profile_comes_first(tmp_path: Path) -> None:
    known = profiles()
    # Stand-ins say of themselves what the devices do, but for this machine's architecture.
    pi5, orin, sd865 = (
        replace(read_device(make(tmp_path / make.__name__)), arch="aarch64")
        for make in (raspberry_pi, jetson, phone)
    )
    desktop = DeviceInfo(
        "lab", "OptiPlex", "11th Gen Intel(R) Core(TM) i7-11700", None, "x86_64", 16, "linux"
    )
    for info, transport, closest in (
        (pi5, "ssh", "raspberry-pi-5"),
        (replace(pi5, model="Raspberry Pi 4 Model B Rev 1.4", soc="bcm2711"), "ssh",
         "raspberry-pi-4"),
        (replace(orin, model="NVIDIA Jetson AGX Orin Developer Kit"), "ssh", "jetson-agx-orin"),
        (replace(orin, model="NVIDIA Jetson Orin NX Developer Kit"), "ssh", "jetson-orin-nx"),
        (sd865, "adb", "android-sd865"),
        (desktop, "ssh", "x86-i7-11700"),
        (desktop, "local", "x86-i7-11700"),
        (replace(desktop, soc="AMD EPYC"), "local", "x86"),
    ):  # fmt: skip
        assert fitting_targets(info, transport, known)[0] == closest  # type: ignore[arg-type]
    # Neither another architecture nor another way to reach it fits.
    assert fitting_targets(replace(pi5, arch="armv7l"), "ssh", known) == ()
    assert fitting_targets(sd865, "ssh", known) == ()
    assert fitting_targets(replace(desktop, arch="aarch64"), "ssh", known) == ()
    own = replace(load_profile("raspberry-pi"), name="rock-5b", kind="linux")
    rock = replace(pi5, kind="linux", model="Radxa ROCK 5B")
    assert fitting_targets(rock, "ssh", [*known, own]) == ("rock-5b",)
