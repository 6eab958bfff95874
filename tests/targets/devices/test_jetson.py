"""What Jetsons print, JetPack 4 to 7, beyond the board that the other tests take."""

from __future__ import annotations

from pathlib import Path

import pytest

from targets.devices.jetson import ClockRange, parse_jetson_clocks
from targets.devices.preparation import PrepareOptions, prepared_device
from targets.devices.state import read_point, read_state
from tests.stand_ins.state_stand_ins import FolderDevice, jetson


@pytest.mark.parametrize(
    ("printed", "mode"),
    [
        pytest.param("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0\n", "MAXN", id="4"),
        pytest.param("NV Fan Mode:quiet\nNV Power Mode: MODE_15W\n2\n", "MODE_15W", id="5"),
        pytest.param("NV Power Mode: 25W\n1\n", "25W", id="6"),
        pytest.param(
            "NV Power Mode: MAXN_SUPER\n0\nNVPM ERROR: Error opening "
            "/sys/kernel/nvpmodel_clk_cap/emc: 13\n",
            "MAXN_SUPER",
            id="6.2, without root",
        ),
        pytest.param(
            "NVPM VERB: Config file: /etc/nvpmodel.conf\nNVPM VERB: Current mode: "
            "NV Power Mode: 30W\n3\n",
            "30W",
            id="wordy",
        ),
    ],
)
@pytest.mark.parametrize("status", [0, 255])
def test_power_modes(tmp_path: Path, printed: str, mode: str, status: int) -> None:
    device = jetson(tmp_path)
    device.prints("nvpmodel", printed, status)
    assert read_state(device, "jetson").power_mode == mode


def test_a_power_mode_that_is_not_told(tmp_path: Path) -> None:
    device = jetson(tmp_path)
    device.prints("nvpmodel", "NVPM ERROR: failed to open /etc/nvpmodel.conf\n", 1)
    state = read_state(device, "jetson")
    assert state.power_mode is None
    assert "power mode (nvpmodel -q): NVPM ERROR: failed to open /etc/nvpmodel.conf" in (
        state.unreadable
    )


@pytest.mark.parametrize(
    ("line", "clocks", "temperatures", "power_mw"),
    [
        pytest.param(
            "RAM 1004/7852MB (lfb 7x2MB) SWAP 0/3930MB (cached 0MB) CPU [0%@350,off,off,1%@341] "
            "EMC_FREQ 17%@408 GR3D_FREQ 62%@624 APE 150 MTS fg 0% bg 0% MCPU@34.5C "
            "PMIC@100C Tboard@28C GPU@32C BCPU@34C thermal@33.2C VDD_SYS_GPU 153/153 "
            "VDD_SYS_SOC 383/383 VDD_4V0_WIFI 0/0 VDD_IN 1876/1900 VDD_SYS_CPU 229/229\n",
            {"cpu0": 350000, "cpu3": 341000, "gpu": 624000, "emc": 408000},
            {"MCPU": 34.5, "Tboard": 28.0, "GPU": 32.0, "BCPU": 34.0, "thermal": 33.2},
            1876.0,
            id="JetPack 4, TX2",
        ),
        pytest.param(
            "07-09-2024 13:31:31 RAM 3168/6851MB (lfb 2x4MB) SWAP 161/3426MB (cached 0MB) CPU "
            "[23%@1397,17%@1192] EMC_FREQ 2%@204 GR3D_FREQ 0%@[114] VIC_FREQ 115 APE 150 AUX@45C "
            "CPU@46.5C thermal@45.6C AO@45C GPU@45.5C PMIC@50C VDD_IN 2763mW/2846mW "
            "VDD_CPU_GPU_CV 650mW/670mW VDD_SOC 650mW/711mW\n",
            {"cpu0": 1397000, "cpu1": 1192000, "gpu": 114000, "emc": 204000},
            {"AUX": 45.0, "CPU": 46.5, "thermal": 45.6, "AO": 45.0, "GPU": 45.5},
            2763.0,
            id="JetPack 5, Xavier NX",
        ),
        pytest.param(
            "05-09-2026 18:42:06 RAM 18207/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) CPU "
            "[14%@2188,5%@2112] EMC_FREQ 3%@2133 GR3D_FREQ 0%@[0,0] NVENC 79%@166 NVDEC off "
            "VIC 36%@115 PVA0_FREQ off APE 174 cpu@52.562C gpu@-256C tj@52.562C "
            "VDD_GPU_SOC 2412mW/2412mW VDD_CPU_CV 1607mW/1607mW VIN_SYS_5V0 4523mW/4523mW\n",
            {"cpu0": 2188000, "cpu1": 2112000, "emc": 2133000},
            {"cpu": 52.562, "tj": 52.562},
            2412.0 + 1607 + 4523,
            id="JetPack 6, AGX Orin, its GPU off",
        ),
        pytest.param(
            "10-08-2026 04:38:21 RAM 5122/125772MB (lfb 27x4MB) SWAP 0/62886MB (cached 0MB) CPU "
            "[0%@972,3%@2601] EMC_FREQ 0%@4266 GR3D_FREQ 97%@[1575,1575,1574] cpu@53.7C "
            "tj@55.125C soc012@55.1C soc345@53.7C VDD_GPU 22050mW/5525mW "
            "VDD_CPU_SOC_MSS 6510mW/6500mW VIN_SYS_5V0 6520mW/6500mW VIN 61250mW/30100mW\n",
            {"cpu0": 972000, "cpu1": 2601000, "gpu": 1575000, "emc": 4266000},
            {"cpu": 53.7, "tj": 55.125, "soc012": 55.1, "soc345": 53.7},
            61250.0,
            id="JetPack 7, AGX Thor",
        ),
    ],
)
def test_tegrastats_of_further_boards(
    tmp_path: Path,
    line: str,
    clocks: dict[str, int],
    temperatures: dict[str, float],
    power_mw: float,
) -> None:
    device = FolderDevice(tmp_path)
    device.prints("tegrastats", line)
    point = read_point(device, "jetson")
    assert point.clocks_khz == clocks
    assert point.temperatures_c == temperatures
    assert point.power_mw == power_mw


@pytest.mark.parametrize(
    "folder", ["57000000.gpu", "17000000.gp10b", "17000000.gv11b", "17000000.ga10b", "gpu-gpc-0"]
)
def test_the_gpus_clock_by_each_kernels_name_for_it(tmp_path: Path, folder: str) -> None:
    device = FolderDevice(tmp_path)
    device.prints("tegrastats", "RAM 1/2MB CPU [1%@729] GR3D_FREQ 0% cpu@50C\n")
    device.file(f"/sys/class/devfreq/{folder}/cur_freq", "1300500000\n")
    device.file(f"/sys/class/devfreq/{folder}/max_freq", "1575000000\n")
    state = read_state(device, "jetson")
    assert state.clocks_khz["gpu"] == 1300500
    assert state.max_clocks_khz["gpu"] == 1575000


NANO = """SOC family:tegra210  Machine:NVIDIA Jetson Nano Developer Kit
Online CPUs: 0-1
CPU Cluster Switching: Disabled
cpu0: Online=1 Governor=schedutil MinFreq=1479000 MaxFreq=1479000 CurrentFreq=1479000 IdleStates: WFI=0 c7=0
cpu1: Online=0 Governor=schedutil MinFreq=921600 MaxFreq=921600 CurrentFreq=921600 IdleStates: WFI=0 c7=0
GPU MinFreq=921600000 MaxFreq=921600000 CurrentFreq=921600000
EMC MinFreq=204000000 MaxFreq=1600000000 CurrentFreq=1600000000 FreqOverride=1
Fan: PWM=0
NV Power Mode: MAXN
"""  # noqa: E501 - as it prints them
THOR = """cpu12: Governor=schedutil MinFreq=2601000 MaxFreq=2601000 CurrentFreq=2596482 IdleStates: WFI=0 cc7=0
gpu-gpc-0 MinFreq=1575000000 MaxFreq=1575000000 CurrentFreq=1575000000
gpu-nvd-0 MinFreq=1692000000 MaxFreq=1692000000 CurrentFreq=1692000000
EMC MinFreq=665600000 MaxFreq=4266000000 CurrentFreq=4266000000 FreqOverride=1
PVA0_VPS0: Online=0 MinFreq=0 MaxFreq=1215000000 CurrentFreq=1215000000
FAN Dynamic Speed Control=disabled hwmon0_pwm1=255
"""  # noqa: E501


@pytest.mark.parametrize(
    ("text", "names", "gpu_hz"),
    [(NANO, {"cpu0", "GPU", "EMC"}, 921600000), (THOR, {"cpu12", "GPU", "EMC"}, 1575000000)],
)
def test_locked_clocks_of_the_oldest_and_the_newest(
    tmp_path: Path, text: str, names: set[str], gpu_hz: int
) -> None:
    clocks = parse_jetson_clocks(text)
    assert set(clocks) == names
    assert clocks["GPU"] == ClockRange(gpu_hz, gpu_hz, gpu_hz)
    assert {name for name, clock in clocks.items() if clock.locked} == names - {"EMC"}
    device = FolderDevice(tmp_path, kind="ssh")
    device.prints("id", "0\n")
    device.prints("clocks.text", text)
    device.program(
        "jetson_clocks",
        'case "$1" in --show) cat "$ROOT/bin/.clocks.text";; --store) : > "$2";; esac',
    )
    with prepared_device(
        device, "jetson", PrepareOptions(lock_clocks=True), say=pytest.fail
    ) as preparation:
        pass
    assert preparation.notes == ["clocks: locked at the maximum of the power mode"]


def test_a_clock_that_is_held_lower_is_not_locked() -> None:
    held = parse_jetson_clocks("GPU MinFreq=918000000 MaxFreq=918000000 CurrentFreq=612000000\n")
    assert not held["GPU"].locked
