from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from edge.errors import DeviceError
from targets.device_state import BatteryRecord
from targets.devices.jetson import ClockRange, parse_jetson_clocks
from targets.devices.readings import answers
from targets.devices.state import (
    read_device,
    read_point,
    read_state,
)
from targets.profile import Kind
from tests.stand_ins.state_stand_ins import (
    BATTERY,
    CPU,
    SHELLS,
    THERMAL,
    FolderDevice,
    jetson,
    phone,
    raspberry_pi,
)

KINDS: list[Kind] = ["android", "jetson", "raspberry-pi", "linux"]


# ---------------------------------------------------------------------------------- Android


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("crlf", [False, True])
def test_a_phone(tmp_path: Path, shell: str, crlf: bool) -> None:
    device = phone(tmp_path, shell)
    device.crlf = crlf
    state = read_state(device, "android")
    assert len(device.calls) == 1
    assert state.thermal_status == 0
    # From the HAL, not from the cache; what is no temperature is left out.
    assert state.temperatures_c == {"CPU0": 38.5, "GPU": 36.0, "skin": 33.25, "battery": 29.1}
    assert state.battery == BatteryRecord(level_percent=83, powered=True, saver=False)
    assert state.clocks_khz == {f"cpu{core}": 1_000_000 for core in range(8)}
    assert state.max_clocks_khz == {f"cpu{core}": 2_000_000 for core in range(8)}
    assert set(state.governors.values()) == {"schedutil"}
    assert state.unreadable == ()
    assert state.load_1m is None and state.throttle_bits is None


def test_a_phone_before_android_10_has_its_zones_alone(tmp_path: Path) -> None:
    device = phone(tmp_path)
    device.program(
        "dumpsys",
        'case "$1" in battery) exec "$ROOT/bin/dumpsys.battery";; '
        '*) echo "Can\'t find service: $1" >&2; exit 0;; esac',
    )
    device.zone(0, "tsens_tz_sensor0", "412")
    device.zone(1, "tsens_tz_sensor1", "41200")
    device.zone(2, "pa_therm0", "36")
    state = read_state(device, "android")
    assert state.thermal_status is None
    assert state.temperatures_c == {"battery": 29.1}
    assert "thermal status: Can't find service: thermalservice" in state.unreadable
    device.prints("dumpsys.battery", BATTERY.replace("temperature", "heat"))
    state = read_state(device, "android")
    assert state.temperatures_c == {"tsens_tz_sensor1": 41.2, "pa_therm0": 36.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Thermal Status: 2\nHAL Ready: false\n", "the thermal HAL is not ready"),
        (
            "Thermal Status: 2\nHAL Ready: true\nCurrent temperatures from HAL:\n"
            "Current cooling devices from HAL:\n",
            "no sensor has a value",
        ),
    ],
)
def test_a_silent_thermal_hal_is_told(tmp_path: Path, text: str, words: str) -> None:
    device = phone(tmp_path)
    device.prints("dumpsys.thermalservice", text)
    state = read_state(device, "android")
    assert state.thermal_status == 2
    assert state.temperatures_c == {"battery": 29.1}
    assert any(words in line for line in state.unreadable)


def test_batteries(tmp_path: Path) -> None:
    device = phone(tmp_path)
    log = "[EventLogBuffer]\n08-11 18:34:14.721  Sending: \n  level: 12\n  AC powered: true\n"
    device.prints(
        "dumpsys.battery", BATTERY.replace("USB powered: true", "USB powered: false") + log
    )
    device.prints("settings", "1\n")
    battery = read_state(device, "android").battery
    assert battery == BatteryRecord(level_percent=83, powered=False, saver=True)
    device.prints("dumpsys.battery", BATTERY.replace("scale: 100", "scale: 200"))
    device.prints("settings", "Exception: no permission\n", status=255)
    state = read_state(device, "android")
    assert state.battery == BatteryRecord(level_percent=42, powered=True, saver=None)
    assert "battery saver: Exception: no permission" in state.unreadable
    device.prints("settings", "null\n")
    assert read_state(device, "android").battery == BatteryRecord(42, powered=True, saver=False)


def test_denied_reads_are_told_and_the_rest_is_read(tmp_path: Path) -> None:
    device = FolderDevice(tmp_path)
    device.prints("dumpsys", "", status=1)
    for core in range(8):
        device.denied(f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq")
        device.file(f"{CPU}/cpu{core}/cpufreq/scaling_max_freq", "2841600\n")
        device.file(f"/sys/class/thermal/thermal_zone{core}/type", f"zone{core}\n")
        device.denied(f"/sys/class/thermal/thermal_zone{core}/temp")
    state = read_state(device, "android")
    assert state.clocks_khz == {} and state.temperatures_c == {}
    assert state.battery is None
    assert len(state.max_clocks_khz) == 8
    text = "\n".join(state.unreadable)
    assert "cpu0 cur_freq, cpu1 cur_freq, cpu2 cur_freq, cpu3 cur_freq and 4 more" in text
    assert "thermal zones: no value or no permission for zone0" in text
    assert "battery: no answer" in text
    assert re.search(r"battery saver: .*settings.*not found", text)
    assert len(state.unreadable) <= 6


# ----------------------------------------------------------------------------------- Jetson


def test_a_jetson(tmp_path: Path) -> None:
    device = jetson(tmp_path)
    state = read_state(device, "jetson")
    assert state.power_mode == "MAXN"
    assert state.temperatures_c == {"cpu": 65.562, "soc2": 61.2, "tj": 65.562, "gpu": 63.5}
    assert state.clocks_khz == {"cpu0": 1984000, "cpu1": 1984000, "gpu": 714000, "emc": 3199000}
    assert state.max_clocks_khz == {"cpu0": 1984000, "cpu1": 1984000, "gpu": 918000}
    assert state.power_mw == 17946
    assert state.throttle_counts == {"over-current oc1": 4}
    assert (state.load_1m, state.unreadable) == (0.5, ())


@pytest.mark.parametrize(
    ("line", "clocks", "temperatures", "power_mw"),
    [
        pytest.param(
            "RAM 1689/3964MB (lfb 339x4MB) SWAP 0/1913MB (cached 0MB) IRAM 0/252kB(lfb 252kB) "
            "CPU [11%@1479,off,off,96%@1428] EMC_FREQ 5%@1600 GR3D_FREQ 99%@921 APE 25 "
            "PLL@28.5C CPU@32.5C PMIC@100C GPU@29C AO@39.5C thermal@30.75C "
            "POM_5V_IN 3140/3208 POM_5V_GPU 82/85 POM_5V_CPU 288/672\n",
            {"cpu0": 1479000, "cpu3": 1428000, "gpu": 921000, "emc": 1600000},
            {"PLL": 28.5, "CPU": 32.5, "GPU": 29.0, "AO": 39.5, "thermal": 30.75},
            3140.0,
            id="JetPack 4, Nano",
        ),
        pytest.param(
            "RAM 14700/15692MB (lfb 3x2MB) CPU [0%@1190,0%@1190] EMC_FREQ 0% GR3D_FREQ 0% "
            "AO@30C GPU@30.5C Tboard@31C CPU@31.5C PMIC@100C "
            "GPU 463/463 CPU 618/618 SOC 2936/2936 CV 0/0 VDDRQ 309/309 SYS5V 3306/3306\n",
            {"cpu0": 1190000, "cpu1": 1190000},
            {"AO": 30.0, "GPU": 30.5, "Tboard": 31.0, "CPU": 31.5},
            463.0 + 618 + 2936 + 0 + 309 + 3306,
            id="JetPack 4, AGX Xavier",
        ),
        pytest.param(
            "RAM 5848/62801MB (lfb 11492x4MB) SWAP 0/31400MB (cached 0MB) CPU [0%@1728,5%@1728] "
            "EMC_FREQ 0%@3199 GR3D_FREQ 0%@114 GR3D2_FREQ 0%@114 CV0@-256C CPU@47.968C "
            "Tboard@36C SOC2@44.1C tj@47.968C "
            "VDD_GPU_SOC 3176mW/3176mW VDD_CPU_CV 794mW/794mW VIN_SYS_5V0 4543mW/4543mW "
            "NC 0mW/0mW VDDQ_VDD2_1V8AO 806mW/806mW\n",
            {"cpu0": 1728000, "cpu1": 1728000, "gpu": 114000, "emc": 3199000},
            {"CPU": 47.968, "Tboard": 36.0, "SOC2": 44.1, "tj": 47.968},
            3176.0 + 794 + 4543,
            id="JetPack 5, AGX Orin",
        ),
        pytest.param(
            "10-05-2026 21:03:35 RAM 5137/62841MB (lfb 2x4MB) CPU [1%@729,25%@729] "
            "GR3D_FREQ 0% cpu@52.875C tj@52.875C VDD_GPU_SOC 3178mW/3178mW\n",
            {"cpu0": 729000, "cpu1": 729000},
            {"cpu": 52.875, "tj": 52.875},
            None,
            id="JetPack 6, AGX Orin, without root and some rails",
        ),
    ],
)
def test_tegrastats_of_several_jetpacks(
    tmp_path: Path,
    line: str,
    clocks: dict[str, int],
    temperatures: dict[str, float],
    power_mw: float | None,
) -> None:
    device = FolderDevice(tmp_path)
    device.prints("tegrastats", line)
    point = read_point(device, "jetson", t_s=3.0)
    assert point.clocks_khz == clocks
    assert point.temperatures_c == temperatures
    assert (point.power_mw, point.t_s) == (power_mw, 3.0)


def test_a_jetson_without_its_tools_still_has_a_state(tmp_path: Path) -> None:
    device = jetson(tmp_path)
    for name in ("tegrastats", "nvpmodel"):
        (tmp_path / "bin" / name).unlink()
    device.zone(0, "cpu-thermal", "51000")
    state = read_state(device, "jetson")
    assert state.power_mode is None
    assert state.temperatures_c == {"cpu-thermal": 51.0}
    assert state.clocks_khz["gpu"] == 714000
    text = "\n".join(state.unreadable)
    assert "tegrastats" in text and "nvpmodel" in text


def test_clocks_as_jetson_clocks_shows_them() -> None:
    text = """SOC family:tegra234  Machine:NVIDIA Orin NX
Online CPUs: 0-1
cpu0:  Online=1 Governor=ondemand MinFreq=729600 MaxFreq=1984000 CurrentFreq=960000 IdleStates:
cpu1: Gonvernor=interactive MinFreq=1734000 MaxFreq=1734000 CurrentFreq=1734000
cpu10: Online=0 Governor=schedutil MinFreq=1 MaxFreq=2 CurrentFreq=1
GPU MinFreq=306000000 MaxFreq=918000000 CurrentFreq=306000000
Active GPU TPCs: 4
EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=2133000000 FreqOverride=0
"""
    clocks = parse_jetson_clocks(text)
    assert clocks == {
        "cpu0": ClockRange(729600, 1984000, 960000),
        "cpu1": ClockRange(1734000, 1734000, 1734000),
        "GPU": ClockRange(306000000, 918000000, 306000000),
        "EMC": ClockRange(204000000, 3199000000, 2133000000),
    }
    assert [clocks["cpu0"].locked, clocks["cpu1"].locked] == [False, True]
    assert parse_jetson_clocks("Error: Run this script as a root user\n") == {}


# ----------------------------------------------------------------------------- Raspberry Pi


def test_a_raspberry_pi(tmp_path: Path) -> None:
    device = raspberry_pi(tmp_path)
    state = read_state(device, "raspberry-pi")
    assert state.temperatures_c == {"cpu-thermal": 48.85, "soc": 48.3}
    assert state.clocks_khz["arm"] == 2_400_033
    assert (state.throttle_bits, state.load_1m, state.unreadable) == (0, 0.08, ())
    device.prints("vcgencmd.get_throttled", "throttled=0x50005\n")
    device.prints("vcgencmd.measure_clock", "frequency(48)=600169920\n")
    point = read_point(device, "raspberry-pi")
    assert (point.throttle_bits, point.clocks_khz["arm"]) == (0x50005, 600_169)


@pytest.mark.parametrize(
    "text", ["VCHI initialization failed\n", "Can't open device file: /dev/vcio\n", "", "\x00\xff"]
)
def test_a_firmware_that_does_not_answer_is_told(tmp_path: Path, text: str) -> None:
    device = raspberry_pi(tmp_path)
    device.prints("vcgencmd", text, status=255)
    state = read_state(device, "raspberry-pi")
    assert state.throttle_bits is None
    assert state.temperatures_c == {"cpu-thermal": 48.85}
    missing = [line for line in state.unreadable if line.startswith("vcgencmd")]
    assert len(missing) == 3
    assert text.strip("\n\x00\xff")[:20] in missing[0]


# ------------------------------------------------------------------------------------ Linux


def test_a_laptop(tmp_path: Path) -> None:
    device = FolderDevice(tmp_path, kind="local")
    device.cores(4, governor="powersave")
    device.zone(0, "acpitz", "27800")
    device.zone(1, "acpitz", "29800")
    device.zone(2, "iwlwifi_1", "-273000")
    device.zone(10, "x86_pkg_temp", "51000")
    device.file(f"{CPU}/intel_pstate/no_turbo", "0\n")
    device.file(f"{CPU}/smt/active", "1\n")
    device.file("/sys/firmware/acpi/platform_profile", "balanced\n")
    device.file(f"{CPU}/cpu0/thermal_throttle/core_throttle_count", "7\n")
    device.file(f"{CPU}/cpu0/thermal_throttle/package_throttle_count", "11\n")
    device.file("/proc/loadavg", "1.25 0.90 0.50 2/900 777\n")
    supplies = "/sys/class/power_supply"
    device.file(f"{supplies}/AC/type", "Mains\n")
    device.file(f"{supplies}/AC/online", "0\n")
    device.file(f"{supplies}/BAT0/type", "Battery\n")
    device.file(f"{supplies}/BAT0/capacity", "64\n")
    device.file(f"{supplies}/mouse/type", "Battery\n")
    device.file(f"{supplies}/mouse/scope", "Device\n")
    device.file(f"{supplies}/mouse/capacity", "5\n")
    state = read_state(device, "linux")
    assert state.temperatures_c == {"acpitz": 27.8, "acpitz-2": 29.8, "x86_pkg_temp": 51.0}
    assert state.power_mode == "no_turbo 0, smt 1, platform_profile balanced"
    assert state.throttle_counts == {"cpu0 core": 7, "cpu0 package": 11}
    assert state.battery == BatteryRecord(level_percent=64, powered=False, saver=None)
    assert (state.load_1m, state.unreadable) == (1.25, ())


def test_a_virtual_machine_shows_little(tmp_path: Path) -> None:
    device = FolderDevice(tmp_path)
    device.file("/proc/loadavg", "0.00 0.00 0.00 1/1 1\n")
    state = read_state(device, "linux")
    assert state.battery is None and state.power_mode is None
    assert state.unreadable == (
        "clocks: the kernel shows none (a virtual machine?)",
        "temperatures: the kernel shows none (a virtual machine?)",
    )


# ----------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("kind", KINDS)
def test_garbage_is_an_error_that_names_the_device(tmp_path: Path, kind: Kind) -> None:
    device = FolderDevice(tmp_path)
    device.prints("noise", "\x1b[2J\x00 ?? \n@x\n")
    device.shell = str(tmp_path / "bin" / "noise")
    with pytest.raises(DeviceError, match="fake board: its shell answers nothing"):
        read_state(device, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_tools_that_print_anything_never_break_the_reading(tmp_path: Path, kind: Kind) -> None:
    device = FolderDevice(tmp_path)
    rng = random.Random(7)
    words = [*THERMAL.split(), *BATTERY.split(), "@", "RAM 1/2MB", "CPU [", "]", "%@", "{mValue=",
             "temp=", "throttled=0x", "frequency(", "\n", "\n@@ x", "\n@= 0", "9" * 30]  # fmt: skip
    for number in range(6):
        for name in ("dumpsys", "settings", "tegrastats", "nvpmodel", "vcgencmd"):
            device.prints(name, " ".join(rng.choices(words, k=60)), status=number % 2)
        for name in ("scaling_cur_freq", "scaling_max_freq", "scaling_governor"):
            device.file(f"{CPU}/cpu{number}/cpufreq/{name}", rng.choice(words) + "\n")
        device.zone(number, rng.choice(words), rng.choice(words))
        device.file("/proc/loadavg", rng.choice(words) + "\n")
        state = read_state(device, kind)
        assert all(isinstance(value, float) for value in state.temperatures_c.values())
        assert all(isinstance(value, int) for value in state.clocks_khz.values())
        read_device(device)


def test_an_answer_that_breaks_off_has_failed() -> None:
    found = answers(
        "\n@@ one\nfirst\n\n@= 0\n\n@@ two\nsecond half of\n\n@@ three\n\n@= x\n@@ four"
    )
    assert (found["one"].text, found["one"].ok) == ("first", True)
    assert (found["two"].text, found["two"].ok) == ("second half of", False)
    assert not found["three"].ok and not found["four"].ok
