"""State of a Raspberry Pi: what its firmware says through vcgencmd.

Formats of the Raspberry Pi documentation ("vcgencmd"): ``temp=48.3'C``, ``throttled=0x50005``,
``frequency(48)=1500398464`` (``frequency(0)`` on a Pi 5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from targets.devices.linux import POINT_SCRIPT as LINUX_POINT
from targets.devices.linux import STATE_SCRIPT as LINUX_STATE
from targets.devices.linux import read_linux
from targets.devices.readings import NO_ANSWER, Answer, Readings

__all__ = ["POINT_SCRIPT", "STATE_SCRIPT", "THROTTLE_BITS", "read_raspberry_pi"]

_EXTRA = """
ask temp vcgencmd measure_temp
ask clock vcgencmd measure_clock arm
ask throttled vcgencmd get_throttled
"""
POINT_SCRIPT = LINUX_POINT + _EXTRA
STATE_SCRIPT = LINUX_STATE + _EXTRA

# Bit -> what it says now; bit + 16 says that it happened since the board was switched on.
THROTTLE_BITS = {
    0: "under-voltage",
    1: "the clock is capped",
    2: "throttled",
    3: "the soft temperature limit holds",
}


def read_raspberry_pi(found: Mapping[str, Answer], into: Readings) -> None:
    """The answers of STATE_SCRIPT or POINT_SCRIPT, as far as they go."""
    read_linux(found, into)
    temperature = re.fullmatch(r"temp=(\d{1,9}(?:\.\d+)?)'C", _line(found, "temp"))
    if temperature:
        into.temperatures_c["soc"] = float(temperature[1])
    else:
        into.miss("vcgencmd measure_temp", found.get("temp", NO_ANSWER))
    clock = re.fullmatch(r"frequency\(\d+\)=(\d{1,18})", _line(found, "clock"))
    if clock:
        # The kernel's cpu0 is what was asked for, this what the firmware grants.
        into.clocks_khz["arm"] = int(clock[1]) // 1000
    else:
        into.miss("vcgencmd measure_clock", found.get("clock", NO_ANSWER))
    bits = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,16})", _line(found, "throttled"))
    if bits:
        into.throttle_bits = int(bits[1], 16)
    else:
        into.miss("vcgencmd get_throttled", found.get("throttled", NO_ANSWER))


def _line(found: Mapping[str, Answer], name: str) -> str:
    return found.get(name, NO_ANSWER).text.strip()
