"""State of any Linux by the files of its kernel: clocks, heat, load, batteries, turbo."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from edge.digits import parse_digits
from targets.device_state import BatteryRecord
from targets.devices.readings import NO_ANSWER, Answer, Readings, file_values, plausible_c

__all__ = ["POINT_SCRIPT", "STATE_SCRIPT", "read_clocks", "read_linux", "read_zones"]

_CPU = "/sys/devices/system/cpu"
POINT_SCRIPT = f"""
ask clocks values {_CPU}/cpu[0-9]*/cpufreq/scaling_governor \
  {_CPU}/cpu[0-9]*/cpufreq/scaling_cur_freq {_CPU}/cpu[0-9]*/cpufreq/scaling_max_freq
ask zones values /sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp
"""
_MODES = {
    f"{_CPU}/intel_pstate/no_turbo": "no_turbo",
    f"{_CPU}/cpufreq/boost": "boost",
    f"{_CPU}/smt/active": "smt",
    "/sys/firmware/acpi/platform_profile": "platform_profile",
}
STATE_SCRIPT = f"""{POINT_SCRIPT}
ask load values /proc/loadavg
ask modes values {" ".join(_MODES)}
ask counts values {_CPU}/cpu[0-9]*/thermal_throttle/core_throttle_count \
  {_CPU}/cpu[0-9]*/thermal_throttle/package_throttle_count
ask supplies values /sys/class/power_supply/*/type /sys/class/power_supply/*/scope \
  /sys/class/power_supply/*/online /sys/class/power_supply/*/capacity
"""


def read_linux(found: Mapping[str, Answer], into: Readings) -> None:
    """The answers of STATE_SCRIPT or POINT_SCRIPT, as far as they go.

    The zones are left alone where the temperatures are known already.
    """
    read_clocks(found, into)
    if not into.temperatures_c:
        read_zones(found, into)
    if "load" in found:
        try:
            load = float(str(_only(found["load"])).split()[0])
        except ValueError:
            load = math.nan
        if math.isfinite(load):
            into.load_1m = load
        else:
            into.miss("load", found["load"])
    if "modes" in found:
        modes = {_MODES.get(path, path): value for path, value in _read(found["modes"]).items()}
        words = [f"{name} {value}" for name, value in modes.items() if value is not None]
        into.power_mode = ", ".join(words) or None
    for path, value in _read(found.get("counts", NO_ANSWER)).items():
        match = re.search(r"/(cpu\d+)/thermal_throttle/(\w+)_throttle_count$", path)
        count = parse_digits(value or "")
        if match and count is not None:
            into.throttle_counts[f"{match[1]} {match[2]}"] = count
    into.battery = _battery(found.get("supplies", NO_ANSWER))


def read_clocks(found: Mapping[str, Answer], into: Readings) -> None:
    """Governors, clocks and their limits; kHz."""
    answer = found.get("clocks", NO_ANSWER)
    values = _read(answer)
    denied = []
    for path, value in values.items():
        match = re.search(r"/(cpu\d+)/cpufreq/scaling_(governor|cur_freq|max_freq)$", path)
        if not match:
            continue
        core, what = match[1], match[2]
        if what == "governor" and value:
            into.governors[core] = value
        elif what != "governor" and (clock := parse_digits(value or "")) is not None:
            (into.clocks_khz if what == "cur_freq" else into.max_clocks_khz)[core] = clock
        else:
            denied.append(f"{core} {what}")
    if denied:
        into.unreadable.append(f"clocks: no value or no permission for {_short(denied)}")
    elif not values:
        into.unreadable.append("clocks: the kernel shows none (a virtual machine?)")


def read_zones(found: Mapping[str, Answer], into: Readings) -> None:
    """Temperatures of the kernel's thermal zones, named by their type."""
    values = _read(found.get("zones", NO_ANSWER))
    folders = sorted({path.rpartition("/")[0] for path in values}, key=_number)
    names: dict[str, int] = {}
    denied = []
    for folder in folders:
        name = values.get(f"{folder}/type") or folder.rpartition("/")[2]
        names[name] = names.get(name, 0) + 1
        text = values.get(f"{folder}/temp")
        if text is None or not re.fullmatch(r"-?\d{1,18}", text):
            denied.append(name)
            continue
        # Thousandths of a degree, but whole degrees in some phones' kernels.
        value = int(text) / 1000 if abs(int(text)) >= 1000 else float(text)
        if plausible_c(value):
            into.temperatures_c[name if names[name] == 1 else f"{name}-{names[name]}"] = value
    if denied:
        into.unreadable.append(f"thermal zones: no value or no permission for {_short(denied)}")
    elif not folders:
        into.unreadable.append("temperatures: the kernel shows none (a virtual machine?)")


def _battery(answer: Answer) -> BatteryRecord | None:
    """The machine's own battery, not that of a mouse (scope Device)."""
    values = _read(answer)
    level, powered = None, None
    for path, value in values.items():
        folder, _, what = path.rpartition("/")
        if what != "type" or values.get(f"{folder}/scope") == "Device":
            continue
        if value == "Battery":
            capacity = parse_digits(values.get(f"{folder}/capacity") or "")
            level = level if capacity is None else capacity
        elif value in ("Mains", "USB", "Wireless"):
            powered = bool(powered) or values.get(f"{folder}/online") == "1"
    return None if level is None else BatteryRecord(level, powered, None)


def _read(answer: Answer) -> dict[str, str | None]:
    return file_values(answer)


def _only(answer: Answer) -> str | None:
    return next(iter(file_values(answer).values()), None)


def _number(folder: str) -> tuple[int, str]:
    # No search for `\d+$`, which tries again at every digit of a long name.
    number = parse_digits(folder[len(folder.rstrip("0123456789")) :])
    return (-1 if number is None else number, folder)


def _short(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
