"""State of an Android phone, without root, and what may be set on it for a run.

Formats of the framework's services (Android 7 to 16): ``dumpsys battery`` of BatteryService,
``dumpsys thermalservice`` of ThermalManagerService (Android 10 and later).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from targets.device_state import BatteryRecord
from targets.devices.linux import POINT_SCRIPT as LINUX_POINT
from targets.devices.linux import read_clocks, read_zones
from targets.devices.readings import NO_ANSWER, Answer, Readings, plausible_c

__all__ = ["POINT_SCRIPT", "STATE_SCRIPT", "properties", "read_android"]

POINT_SCRIPT = f"""{LINUX_POINT}
ask thermal dumpsys thermalservice
"""
STATE_SCRIPT = f"""{POINT_SCRIPT}
ask battery dumpsys battery
ask saver settings get global low_power
"""
_TEMPERATURE = re.compile(r"Temperature\{mValue=([^,}]+), mType=(-?\d+), mName=([^,}]*), mStatus=")


def read_android(found: Mapping[str, Answer], into: Readings) -> None:
    """The answers of STATE_SCRIPT or POINT_SCRIPT, as far as they go."""
    read_clocks(found, into)
    _read_thermal(found.get("thermal", NO_ANSWER), into)
    if "battery" in found:
        _read_battery(found["battery"], found.get("saver", NO_ANSWER), into)
    if not into.temperatures_c:
        # Phones before Android 10, and those whose HAL is silent: the kernel's zones, if allowed.
        read_zones(found, into)


def properties(answer: Answer) -> dict[str, str]:
    """What ``getprop`` lists: ``[ro.product.model]: [Mi 10]``."""
    return dict(re.findall(r"^\[([^\]]+)\]: \[(.*)\]$", answer.text, re.MULTILINE))


def _read_thermal(answer: Answer, into: Readings) -> None:
    status = re.search(r"^\s*Thermal Status:\s*(\d{1,9})\b", answer.text, re.MULTILINE)
    if status:
        into.thermal_status = int(status[1])
    else:
        into.miss("thermal status", answer)
        return
    # The cached values may be hours old.
    _, heading, rest = answer.text.partition("Current temperatures from HAL:")
    names: dict[str, int] = {}
    for line in rest.splitlines()[1:]:
        match = _TEMPERATURE.search(line)
        if not match:
            break
        name = match[3].strip() or f"type {match[2]}"
        names[name] = names.get(name, 0) + 1
        try:
            value = float(match[1])
        except ValueError:
            continue
        if plausible_c(value):
            into.temperatures_c[name if names[name] == 1 else f"{name}-{names[name]}"] = value
    if not into.temperatures_c:
        why = "no sensor has a value" if heading else "the thermal HAL is not ready"
        into.unreadable.append(f"current temperatures: {why}")


def _read_battery(answer: Answer, saver: Answer, into: Readings) -> None:
    # A log of events may follow the state and has a "level:" of its own.
    fields: dict[str, str] = {}
    for key, value in re.findall(r"^\s+([A-Za-z][\w ]*): (\S+)\s*$", answer.text, re.MULTILINE):
        fields.setdefault(key, value)
    level = _whole(fields.get("level"))
    scale = _whole(fields.get("scale")) or 100
    powered = [value for key, value in fields.items() if key.endswith(" powered")]
    if level is None and not powered:
        into.miss("battery", answer)
    on = {"1": True, "0": False, "null": False}.get(saver.text.strip()) if saver.ok else None
    if on is None:
        into.miss("battery saver", saver)
    if level is not None or powered or on is not None:
        into.battery = BatteryRecord(
            level_percent=None if level is None else round(100 * level / scale),
            powered="true" in powered if powered else None,
            saver=on,
        )
    tenths = _whole(fields.get("temperature"))
    known = {name.lower() for name in into.temperatures_c}
    if tenths is not None and plausible_c(tenths / 10) and not known & {"battery", "bat"}:
        into.temperatures_c["battery"] = tenths / 10


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,18}", text) else None
