"""A device that is a folder: its programs are scripts in it, its kernel's files lie below it.

Programs and shell really run; paths of /sys, /proc and /etc are turned into ones of the folder. The
texts are what the services and tools print by their documentation and sources, with values of the
tests' own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from targets.transports.transport import Done, Progress

CPU = "/sys/devices/system/cpu"


class FolderDevice:
    """A transport to a device that is a folder."""

    def __init__(self, root: Path, *, shell: str = "sh", kind: str = "fake") -> None:
        self.root = root
        self.shell = shell
        self.kind = kind
        self.name = f"{kind} board"
        self.work_dir = str(root / "work")
        self.crlf = False
        self.calls: list[tuple[str, ...]] = []
        self.before_run: Callable[[tuple[str, ...]], None] = lambda _: None
        (root / "bin").mkdir(parents=True)

    def file(self, path: str, text: str) -> None:
        where = self.root / path.lstrip("/")
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text)

    def denied(self, path: str) -> None:
        """A file that is there and cannot be read, by root either: a folder."""
        (self.root / path.lstrip("/")).mkdir(parents=True)

    def program(self, name: str, body: str) -> None:
        where = self.root / "bin" / name
        where.write_text(f"#!/bin/sh\nROOT={shlex.quote(str(self.root))}\n{body}\n")
        where.chmod(0o755)

    def prints(self, name: str, text: str, status: int = 0) -> None:
        answer = self.root / "bin" / f".{name}"
        answer.write_text(text)
        self.program(name, f"cat {shlex.quote(str(answer))}; exit {status}")

    def cores(
        self,
        count: int,
        clock: int = 1_000_000,
        limit: int = 2_000_000,
        governor: str = "schedutil",
    ) -> None:
        for core in range(count):
            folder = f"{CPU}/cpu{core}/cpufreq"
            self.file(f"{folder}/scaling_governor", f"{governor}\n")
            self.file(f"{folder}/scaling_cur_freq", f"{clock}\n")
            self.file(f"{folder}/scaling_max_freq", f"{limit}\n")
            self.file(f"{folder}/cpuinfo_max_freq", f"{limit}\n")
        self.file(f"{CPU}/present", f"0-{count - 1}\n")

    def zone(self, number: int, name: str, text: str) -> None:
        folder = f"/sys/class/thermal/thermal_zone{number}"
        self.file(f"{folder}/type", f"{name}\n")
        self.file(f"{folder}/temp", f"{text}\n")

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Done:
        self.calls.append(tuple(argv))
        self.before_run(tuple(argv))
        real = list(argv)
        for prefix in ("/sys/", "/proc/", "/etc/"):
            real = [item.replace(prefix, f"{self.root}{prefix}") for item in real]
        if real[0] == "sh":
            real[:1] = self.shell.split()
        path = f"{self.root / 'bin'}:/usr/bin:/bin"
        if shutil.which(real[0], path=path) is None:
            return Done(tuple(argv), 127, b"", f"{real[0]}: not found\n".encode())
        done = subprocess.run(
            real,
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "PATH": path, **(env or {})},
        )
        # The device's paths, but for what it was told to remember.
        root = b"" if argv[-1].endswith("/undo") else str(self.root).encode()
        out = done.stdout.replace(root, b"") if root else done.stdout
        if self.crlf:
            out = out.replace(b"\n", b"\r\n")
        return Done(tuple(argv), done.returncode, out, done.stderr)

    def push(
        self,
        local: Path,
        remote: str,
        *,
        executable: bool = False,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        raise NotImplementedError

    def pull(
        self, remote: str, local: Path, *, timeout_s: float, on_progress: Progress | None = None
    ) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


# Android's shell is mksh, Debian's dash; small boards have busybox.
SHELLS = [
    pytest.param(
        shell,
        marks=pytest.mark.skipif(
            shutil.which(shell.split()[0]) is None, reason=f"{shell} is not installed"
        ),
    )
    for shell in ("dash", "mksh", "busybox sh")
]

BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  Max charging voltage: 5000000
  Charge counter: 3301000
  status: 2
  health: 2
  present: true
  level: 83
  scale: 100
  voltage: 4211
  temperature: 291
  technology: Li-poly
"""

# Android 10 to 16; sections after the temperatures came with time.
THERMAL = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
\tkilled: false
\tbroadcasts count: -1
ThermalStatusListeners:
\tcallbacks: 3
\tkilled: false
\tbroadcasts count: -1
Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue=71.9, mType=0, mName=CPU0, mStatus=0}}
\tTemperature{{mValue=44.1, mType=3, mName=skin, mStatus=0}}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{{mValue={cpu}, mType=0, mName=CPU0, mStatus=0}}
\tTemperature{{mValue=36.0, mType=1, mName=GPU, mStatus=0}}
\tTemperature{{mValue=NaN, mType=1, mName=GPU, mStatus=0}}
\tTemperature{{mValue=-99.9, mType=5, mName=PA, mStatus=0}}
\tTemperature{{mValue=0.0, mType=4, mName=usb, mStatus=0}}
\tTemperature{{mValue=33.25, mType=3, mName=skin, mStatus=0}}
Current cooling devices from HAL:
\tCoolingDevice{{mValue=0, mType=2, mName=thermal-cpufreq-0}}
Temperature static thresholds from HAL:
\tTemperatureThreshold{{mType=3, mName=skin, mHotThrottlingThresholds=[NaN, 38.0, 43.0, 46.0]}}
"""

GETPROP = """[ro.board.platform]: [kona]
[ro.build.version.release]: [12]
[ro.build.version.sdk]: [31]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Xiaomi]
[ro.product.model]: [Mi 10]
[ro.soc.model]: [SM8250]
[some.long.one]: [a
b]
"""


def phone(root: Path, shell: str = "sh") -> FolderDevice:
    """A Snapdragon 865 phone with Android 12."""
    device = FolderDevice(root, shell=shell, kind="adb")
    device.cores(8)
    device.prints("getprop", GETPROP)
    device.prints("dumpsys.battery", BATTERY)
    device.prints("dumpsys.thermalservice", THERMAL.format(status=0, cpu=38.5))
    device.program("dumpsys", 'exec "$ROOT/bin/dumpsys.$1"')
    device.prints("settings", "0\n")
    return device


def raspberry_pi(root: Path) -> FolderDevice:
    """A Raspberry Pi 5."""
    device = FolderDevice(root, kind="ssh")
    device.cores(4, clock=2_400_000, limit=2_400_000, governor="ondemand")
    device.zone(0, "cpu-thermal", "48850")
    device.file("/proc/loadavg", "0.08 0.03 0.01 1/123 4567\n")
    device.file("/proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    device.file("/proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    device.prints("vcgencmd.measure_temp", "temp=48.3'C\n")
    device.prints("vcgencmd.measure_clock", "frequency(0)=2400033792\n")
    device.prints("vcgencmd.get_throttled", "throttled=0x0\n")
    device.program("vcgencmd", 'exec "$ROOT/bin/vcgencmd.$1"')
    return device


ORIN_LINE = (
    "11-21-2026 18:00:00 RAM 3162/15523MB (lfb 6x4MB) SWAP 0/7762MB (cached 0MB) "
    "CPU [12%@1984,0%@1984,off,off] EMC_FREQ 18%@3199 GR3D_FREQ 84%@[713,0] NVDLA0 off "
    "cpu@65.562C soc2@61.2C tj@65.562C cv0@-256C gpu@63.5C "
    "VDD_IN 17946mW/15710mW VDD_CPU_GPU_CV 7011mW/6000mW VDD_SOC 3100mW/3050mW\n"
)


def jetson(root: Path, line: str = ORIN_LINE) -> FolderDevice:
    """A Jetson Orin NX with JetPack 6."""
    device = FolderDevice(root, kind="ssh")
    device.cores(2, clock=1_984_000, limit=1_984_000)
    device.file("/proc/loadavg", "0.50 0.40 0.30 2/300 999\n")
    device.file("/proc/device-tree/model", "NVIDIA Jetson Orin NX Engineering Reference\0")
    device.file("/proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0000\0nvidia,tegra234\0")
    device.file(
        "/etc/nv_tegra_release",
        "# R36 (release), REVISION: 4.7, GCID: 1, BOARD: generic, EABI: aarch64\nX=y\n",
    )
    device.file("/etc/os-release", 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n')
    device.file("/sys/class/devfreq/17000000.gpu/cur_freq", "714000000\n")
    device.file("/sys/class/devfreq/17000000.gpu/max_freq", "918000000\n")
    device.file("/sys/class/hwmon/hwmon3/oc1_event_cnt", "4\n")
    device.prints("tegra.line", line)
    # It goes on until nobody reads it, as the real one does.
    device.program("tegrastats", 'while cat "$ROOT/bin/.tegra.line"; do sleep 0.2; done')
    device.prints("nvpmodel", "NV Fan Mode:quiet\nNV Power Mode: MAXN\n0\n")
    return device
