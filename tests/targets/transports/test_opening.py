"""Which transport a profile and the options mean, and what cannot be meant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.errors import DeviceError, SpecError
from targets.profile import load_profile, read_profile
from targets.transports.opening import check_reach, open_target, password_prompt
from tests.stand_ins.adb_device import StandInPhone, connected, own_adb_server
from tests.stand_ins.ssh_server import SshServer, ssh_server


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("board")) as server:
        yield server


@pytest.fixture
def named(board: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The board as ``pi5``, by the configuration of a user whose home this is."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text(
        f"Host pi5\n  HostName 127.0.0.1\n  Port {board.port}\n  User pi\n"
        f"  IdentityFile {board.key}\n  UserKnownHostsFile {board.known_hosts}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return "pi5"


@pytest.mark.parametrize(
    ("target", "host", "serial", "says"),
    [
        ("android", "pi@10.0.0.5", None, "android-sd865 is reached over adb.*--host pi@10.0.0.5"),
        ("raspberry-pi", None, None, r"over ssh: say which machine, .*HOST=USER@ADDRESS"),
        ("raspberry-pi", None, "1a2b", r"raspberry-pi-5 has no serial number.*--host"),
        ("raspberry-pi", "pi@10.0.0.5", "1a2b", r"has no serial number.*--serial 1a2b"),
        ("x86", None, "1a2b", r"x86 has no serial number.*: leave it out"),
        ("x86", " ", None, "--host is empty"),
        ("android", None, "", "--serial is empty"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    target: str, host: str | None, serial: str | None, says: str
) -> None:
    for refuse in (check_reach, open_target):
        with pytest.raises(SpecError, match=says) as caught:
            refuse(load_profile(target), host=host, serial=serial)
        assert "\n" not in str(caught.value)


def test_this_machine() -> None:
    with closing(open_target(load_profile("x86"))) as transport:
        assert (transport.kind, transport.name) == ("local", "local")
        assert transport.run(["echo", "here"], timeout_s=30).stdout == b"here\n"


@pytest.mark.parametrize("target", ["raspberry-pi", "x86"])
def test_a_host_is_reached_over_ssh_whatever_the_profile_says(named: str, target: str) -> None:
    # Two connections at once: one runs, the other watches.
    profile = load_profile(target)
    with (
        closing(open_target(profile, host=named)) as first,
        closing(open_target(profile, host=named)) as second,
    ):
        assert (first.kind, second.kind) == ("ssh", "ssh")
        assert first.work_dir == second.work_dir == "/home/pi/.cache/edgepose/device"
        first.close()
        assert second.run(["printenv", "USER"], timeout_s=30).stdout == b"pi\n"


def test_a_phone_by_its_serial_number_or_alone(tmp_path: Path) -> None:
    with own_adb_server(tmp_path), connected(StandInPhone(tmp_path / "phone")) as phone:
        for serial in (phone.serial, None):
            transport = open_target(load_profile("android"), serial=serial)
            assert (transport.kind, transport.name) == ("adb", f"adb {phone.serial}")
        with pytest.raises(DeviceError, match="adb other: not connected"):
            open_target(load_profile("android"), serial="other")


def test_a_profile_of_one_s_own(tmp_path: Path, named: str) -> None:
    file = tmp_path / "rock-5b.toml"
    file.write_text(
        'description = "Rock 5B"\nkind = "linux"\ntransport = "ssh"\narch = "aarch64"\n'
        'variants = ["ncnn-fp16"]\n'
    )
    with closing(open_target(read_profile(file), host=named)) as transport:
        assert transport.name == "ssh pi5"


def test_a_password_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "secret"

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("getpass.getpass", answer)
    monkeypatch.setattr("sys.stdin", Terminal())
    prompt = password_prompt()
    assert prompt
    assert [prompt("pi: "), prompt("pi: "), prompt("nano: ")] == ["secret"] * 3
    assert asked == ["pi: ", "nano: "]
    monkeypatch.setattr("sys.stdin", None)
    assert password_prompt() is None
