"""``edge devices`` and ``edge clean`` from arguments to what is printed and what is gone."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from edge.errors import DeviceError, SpecError
from targets.commands.clean import clean_device
from targets.devices.nearby import Nearby
from targets.devices.state import DeviceInfo
from targets.transports.adb import open_adb
from targets.transports.fake import FakeTransport
from targets.transports.local import open_local
from targets.transports.transport import Done
from tests.stand_ins.adb_device import StandInPhone, connected, own_adb_server
from tests.stand_ins.command_line import run_edge as edge
from tests.stand_ins.ssh_server import opened, ssh_server

PHONE = DeviceInfo(
    "adb 1a2b", "Xiaomi Mi 10", "SM8250", "Android 12 (API 31)", "aarch64", 8, "android"
)
FOUND = [
    Nearby("local", info=DeviceInfo("local", None, None, None, "riscv64", 4, "linux")),
    Nearby("adb", "1a2b", info=PHONE, targets=("android-sd865",)),
    Nearby("adb", "3c4d", problem="is offline, it does not answer: unplug it"),
    Nearby("ssh", "pi@10.0.0.5", problem="its host key is not known"),
    Nearby("ssh", "orin", problem="not asked: edge devices orin", asked=False),
]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What is asked for; the answer is always FOUND."""
    calls: list[tuple[str, ...]] = []

    def find(hosts: list[str], *, timeout_s: float) -> list[Nearby]:
        assert timeout_s == 15
        calls.append(tuple(hosts))
        return FOUND

    monkeypatch.setattr("targets.commands.devices.find_devices", find)
    return calls


def test_the_table_and_what_is_not_in_it(
    found: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert edge("devices") == 0
    assert found == [()]
    assert capsys.readouterr().out == (
        "device         kind     model         SoC     OS                   arch     cores  "
        "emulated  target\n"
        "this machine   linux    -             -       -                    riscv64  4      "
        "no        -\n"
        "--serial 1a2b  android  Xiaomi Mi 10  SM8250  Android 12 (API 31)  aarch64  8      "
        "no        android-sd865\n"
        "\n"
        "not usable:\n"
        "  --serial 3c4d: is offline, it does not answer: unplug it\n"
        "  --host pi@10.0.0.5: its host key is not known\n"
        "\n"
        "in ~/.ssh/config:\n"
        "  --host orin: not asked: edge devices orin\n"
        "\n"
        "to measure:\n"
        "  this machine: no target fits linux on riscv64; write a profile for it "
        "(docs/devices.md)\n"
        "  make bench TARGET=android-sd865 SERIAL=1a2b\n"
    )


def test_programs_of_fewer_bits_than_the_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for bits, text in ((32, "aarch64, 32-bit programs  4"), (64, "aarch64  4")):
        old_os = replace(PHONE, arch="aarch64", cores=4, userland_bits=bits)
        answer = [Nearby("ssh", "pi", info=old_os)]
        monkeypatch.setattr(
            "targets.commands.devices.find_devices", lambda *_, answer=answer, **__: answer
        )
        assert edge("devices") == 0
        assert text in capsys.readouterr().out


@pytest.mark.usefixtures("found")
def test_only_a_host_that_was_named_fails_the_command() -> None:
    assert edge("devices", "pi@10.0.0.5") == 1
    assert edge("devices", "another") == 0


@pytest.mark.usefixtures("found")
def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert edge("devices", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["devices"]
    assert len(rows) == 5
    assert len({tuple(row) for row in rows}) == 1
    assert rows[1] == {
        "transport": "adb", "name": "1a2b", "option": "--serial 1a2b", "asked": True,
        "problem": None, "kind": "android", "model": "Xiaomi Mi 10", "soc": "SM8250",
        "os": "Android 12 (API 31)", "arch": "aarch64", "userland_bits": None, "cores": 8,
        "emulated": False, "targets": ["android-sd865"],
        "bench": "make bench TARGET=android-sd865 SERIAL=1a2b",
    }  # fmt: skip
    assert (rows[0]["option"], rows[0]["bench"], rows[4]["asked"]) == (None, None, False)


def test_clean_removes_the_folder_and_says_what_it_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EDGEPOSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "edgepose/device"
    (folder / "artifacts/a b").mkdir(parents=True)
    (folder / "artifacts/a b/model.bin").write_bytes(b"\1" * 3_000_000)
    kept = tmp_path / "edgepose/zoo"
    kept.mkdir()
    assert edge("clean", "--target", "x86") == 0
    assert capsys.readouterr().out == f"local: removed {folder}, 3.0 MB\n"
    assert not folder.exists()
    assert kept.exists()
    assert edge("clean", "--target", "x86") == 0
    assert capsys.readouterr().out == f"local: nothing to remove, {folder} does not exist\n"


def test_clean_on_a_phone_and_on_a_board(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"\1" * 2_000_000)
    with ExitStack() as stack:
        stack.enter_context(own_adb_server(tmp_path))
        phone = stack.enter_context(connected(StandInPhone(tmp_path / "phone")))
        board = stack.enter_context(ssh_server(tmp_path / "board"))
        for device in (open_adb(phone.serial), opened(board)):
            stack.callback(device.close)
            device.push(file, f"{device.work_dir}/artifacts/a b/model.bin", timeout_s=60)
            assert clean_device(device) == f"{device.name}: removed {device.work_dir}, 2.0 MB"
            listed = device.run(["ls", device.work_dir], timeout_s=30)
            assert listed.returncode != 0
            assert "nothing to remove" in clean_device(device)


def test_clean_takes_a_profile_of_one_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EDGEPOSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "mine.toml"
    file.write_text(
        'description = "mine"\nkind = "linux"\ntransport = "local"\narch = "x86_64"\n'
        'variants = ["onnx-fp32"]\n'
    )
    assert edge("clean", "--profile", file) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_clean_where_the_size_cannot_be_had() -> None:
    device = FakeTransport(
        {("sh", ...): Done(("sh",), 0, b"there\n", b"")},
        {"/data/local/tmp/edgepose/runner/x": b"1"},
    )
    assert clean_device(device) == "fake: removed /data/local/tmp/edgepose"
    assert device.files == {}


def test_clean_first_puts_back_what_an_interrupted_run_had_set(tmp_path: Path) -> None:
    device = open_local(tmp_path / "edgepose/device")
    folder = tmp_path / "edgepose/device"
    folder.mkdir(parents=True)
    (folder / "undo").write_text(f"touch '{tmp_path}/put back'\nfalse\n")
    with pytest.raises(
        DeviceError, match=r"cannot be put back \(exit status 1\); do it with: sh -c"
    ):
        clean_device(device)
    assert (folder / "undo").exists(), "it is still owed"
    (folder / "undo").write_text(f"touch '{tmp_path}/put back'\n")
    assert "removed" in clean_device(device)
    assert (tmp_path / "put back").exists()
    assert not folder.exists()


def test_clean_that_fails_says_so(tmp_path: Path) -> None:
    device = open_local(tmp_path / "photos")
    (tmp_path / "photos").mkdir()
    with pytest.raises(DeviceError, match="not a folder of edgepose"):
        clean_device(device)
    assert (tmp_path / "photos").exists()
    with pytest.raises(SpecError, match="--host USER@ADDRESS"):
        edge("clean", "--target", "raspberry-pi")
    with pytest.raises(SystemExit):
        edge("clean")
