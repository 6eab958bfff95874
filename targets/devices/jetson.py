"""State of a Jetson: its power mode, what tegrastats prints, its GPU's clock.

Formats of JetPack 4 to 7 as NVIDIA's Jetson Linux developer guide has them ("Tegrastats Utility",
"nvpmodel", "jetson_clocks").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge.digits import parse_digits
from targets.devices.linux import POINT_SCRIPT as LINUX_POINT
from targets.devices.linux import STATE_SCRIPT as LINUX_STATE
from targets.devices.linux import read_linux
from targets.devices.readings import NO_ANSWER, Answer, Readings, file_values, plausible_c

__all__ = ["POINT_SCRIPT", "STATE_SCRIPT", "ClockRange", "parse_jetson_clocks", "read_jetson"]

# tegrastats never ends by itself; its first line comes after one interval.
_EXTRA = """
ask tegra sh -c 'timeout 3 tegrastats --interval 200 | head -n 1'
ask gpu values /sys/class/devfreq/*.gpu/cur_freq /sys/class/devfreq/*.gpu/max_freq \
  /sys/class/devfreq/*.g*10b/cur_freq /sys/class/devfreq/*.g*10b/max_freq \
  /sys/class/devfreq/*.gv11b/cur_freq /sys/class/devfreq/*.gv11b/max_freq \
  /sys/class/devfreq/gpu-gpc-0/cur_freq /sys/class/devfreq/gpu-gpc-0/max_freq
"""
POINT_SCRIPT = LINUX_POINT + _EXTRA
STATE_SCRIPT = f"""{LINUX_STATE}{_EXTRA}
ask mode nvpmodel -q
ask events values /sys/class/hwmon/hwmon*/oc*_event_cnt
"""
_RANGE = re.compile(
    r"(cpu\d+|GPU|gpu-gpc-0|EMC)\b:?.*?MinFreq=(\d{1,18})\s+MaxFreq=(\d{1,18})\s+CurrentFreq=(\d{1,18})\b"
)
# A core's clock now is counted, and is not to the kHz what it was set to.
_COUNTED = 0.05
# Rails of which one carries the whole board or module, and otherwise those that add up to it.
_WHOLE = ("VDD_IN", "POM_5V_IN", "VIN")
_PARTS = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)


@dataclass(frozen=True)
class ClockRange:
    """A clock that jetson_clocks shows, kHz of a core and Hz of the rest, as it prints them."""

    least: int
    most: int
    now: int

    @property
    def locked(self) -> bool:
        """Whether it cannot move."""
        return self.least == self.most and abs(self.now - self.most) <= _COUNTED * self.most


def read_jetson(found: Mapping[str, Answer], into: Readings) -> None:
    """The answers of STATE_SCRIPT or POINT_SCRIPT, as far as they go."""
    _read_tegrastats(found.get("tegra", NO_ANSWER), into)
    read_linux(found, into)
    for path, value in file_values(found.get("gpu", NO_ANSWER)).items():
        if clock := parse_digits(value or ""):
            # Needs no root, unlike the clock in tegrastats, and is the newer of the two.
            clocks = into.clocks_khz if path.endswith("cur_freq") else into.max_clocks_khz
            clocks["gpu"] = clock // 1000
    for path, value in file_values(found.get("events", NO_ANSWER)).items():
        count = parse_digits(value or "")
        if count is not None:
            name = path.rpartition("/")[2].removesuffix("_event_cnt")
            into.throttle_counts[f"over-current {name}"] = count
    if "mode" in found:
        mode = re.search(r"NV Power Mode:\s*(\S.*?)\s*$", found["mode"].text, re.MULTILINE)
        if mode:
            into.power_mode = mode[1]
        else:
            into.power_mode = None
            into.miss("power mode (nvpmodel -q)", found["mode"])


def parse_jetson_clocks(text: str) -> dict[str, ClockRange]:
    """What ``jetson_clocks --show`` prints: "cpu0", "GPU", "EMC" -> its range.

    Cores that are off are left out.
    """
    found = {}
    for line in text.splitlines():
        match = _RANGE.match(line.strip())
        if match and "Online=0" not in line:
            name = "GPU" if match[1] == "gpu-gpc-0" else match[1]  # JetPack 7 on Thor
            found[name] = ClockRange(int(match[2]), int(match[3]), int(match[4]))
    return found


def _read_tegrastats(answer: Answer, into: Readings) -> None:
    """One line: "CPU [97%@1984,off] GR3D_FREQ 84%@[713] tj@65.5C VDD_IN 17946mW/15710mW"."""
    line = next((line for line in answer.text.splitlines() if "RAM " in line), None)
    if line is None:
        into.miss("tegrastats", answer)
        return
    for name, value in re.findall(r"(?<!\S)([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C(?!\S)", line):
        # The PMIC's sensor is a constant.
        if name != "PMIC" and plausible_c(float(value)):
            into.temperatures_c[name] = float(value)
    cores = re.search(r"\bCPU \[([^\]]*)\]", line)
    for number, core in enumerate(cores[1].split(",") if cores else ()):
        clock = re.fullmatch(r"\s*\d+%@(\d{1,9})\s*", core)
        if clock:
            into.clocks_khz[f"cpu{number}"] = int(clock[1]) * 1000
    for name, key in (("GR3D_FREQ", "gpu"), ("EMC_FREQ", "emc")):
        # "84%@1300", "0%@[305,0]" of two clusters; "0%" where only root may see the clock,
        # "0%@[0,0]" where the GPU is switched off.
        clock = re.search(rf"\b{name} \d+%@\[?([\d,]+)\]?", line)
        mhz = max(parse_digits(one) or 0 for one in clock[1].split(",")) if clock else 0
        if mhz:
            into.clocks_khz[key] = mhz * 1000
    # "VDD_IN 17946mW/15710mW", before JetPack 5 "VDD_IN 3140/3208": now and on average.
    found = re.findall(r"\b([A-Z][A-Z0-9_]*) (\d{1,18})(?:mW)?/\d+(?:mW)?(?=\s|$)", line)
    rails = {name: int(now) for name, now in found}
    into.power_mw = _power_mw(rails)


def _power_mw(rails: Mapping[str, int]) -> float | None:
    for name in _WHOLE:
        if name in rails:
            return float(rails[name])
    for names in _PARTS:
        if all(name in rails for name in names):
            return float(sum(rails[name] for name in names))
    return None
