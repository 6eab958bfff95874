"""What a device says that it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge.errors import DeviceError
from targets.devices.state import (
    DeviceInfo,
    check_device,
    read_device,
)
from targets.profile import load_profile
from tests.stand_ins.state_stand_ins import (
    CPU,
    FolderDevice,
    jetson,
    phone,
    raspberry_pi,
)


def test_what_a_phone_is(tmp_path: Path) -> None:
    device = phone(tmp_path)
    device.prints("uname", "aarch64\n")
    info = read_device(device)
    assert info == DeviceInfo(
        name="adb board",
        kind="android",
        model="Xiaomi Mi 10",
        soc="SM8250",
        os="Android 12 (API 31)",
        arch="aarch64",
        cores=8,
        max_clocks_khz={f"cpu{core}": 2_000_000 for core in range(8)},
        userland_bits=info.userland_bits,
        api_level=31,
    )
    assert len(device.calls) == 1
    check_device(info, load_profile("android"))
    device.prints("getprop", "[ro.build.version.sdk]: [24]\n[ro.board.platform]: [msm8996]\n")
    old = read_device(device)
    assert (old.soc, old.model, old.api_level) == ("msm8996", None, 24)
    device.prints("getprop", "[ro.build.version.sdk]: [34]\n[ro.boot.qemu]: [1]\n")
    assert read_device(device).emulated


def test_what_boards_are(tmp_path: Path) -> None:
    board = raspberry_pi(tmp_path / "pi")
    board.prints("uname", "aarch64\n")
    board.prints("getconf", "32\n")
    info = read_device(board)
    assert (info.kind, info.model) == ("raspberry-pi", "Raspberry Pi 5 Model B Rev 1.0")
    assert (info.soc, info.cores, info.userland_bits) == ("brcm,bcm2712", 4, 32)
    assert not info.emulated

    orin = read_device(jetson(tmp_path / "orin"))
    assert (orin.kind, orin.soc) == ("jetson", "nvidia,tegra234")
    assert orin.os == "Ubuntu 22.04.5 LTS, Jetson Linux 36.4.7"

    with pytest.raises(DeviceError, match="its kind is raspberry-pi, but target jetson-orin-nx"):
        check_device(info, load_profile("jetson"))
    with pytest.raises(DeviceError, match=r"its architecture is armv7l.*is for aarch64"):
        check_device(replace(info, arch="armv7l"), load_profile("raspberry-pi"))


def test_a_translated_userland_is_emulated(tmp_path: Path) -> None:
    device = FolderDevice(tmp_path, kind="ssh")
    device.prints("uname", "aarch64\n")
    cpuinfo = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n"
    device.file("/proc/cpuinfo", cpuinfo)
    device.file(f"{CPU}/present", "0-3,6\n")
    info = read_device(device)
    assert (info.kind, info.emulated, info.cores) == ("linux", True, 5)
    device.prints("uname", "x86_64\n")
    assert not read_device(device).emulated
