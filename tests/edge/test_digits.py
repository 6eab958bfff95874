"""Numbers in text that others wrote: what counts as one, and readers that meet what is none."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from edge.digits import parse_digits
from edge.errors import SpecError
from edge.keypoints import find_keypoint_set

# ``str.isdigit`` is true of all these but the last three.
NOT_NUMBERS = ("²", "1²", "١٢", "₃", "7" * 5000, "", "-1", " 1")


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_what_is_no_number(text: str) -> None:
    assert parse_digits(text) is None


def test_numbers() -> None:
    assert [parse_digits(text) for text in ("0", "007", "9" * 18)] == [0, 7, 10**18 - 1]
    assert parse_digits("1000", most=3) is None
    assert parse_digits("999", most=3) == 999


def _options() -> list[tuple[Callable[[str], Any], str]]:
    from converters.commands.evaluate import _range
    from edge.cli.options import count, size

    return [(count, "{}"), (size, "{}x64"), (size, "64x{}"), (_range, "{}:4"), (_range, "0:{}")]


@pytest.mark.parametrize("text", ["²", "7" * 5000])
def test_options_refuse_what_is_no_number(text: str) -> None:
    for read, form in _options():
        with pytest.raises(argparse.ArgumentTypeError):
            read(form.format(text))
    with pytest.raises(SpecError, match="unnamed-K"):
        find_keypoint_set(f"unnamed-{text}")


def test_calibration_counts() -> None:
    from calibration.data.data_set import load_data
    from calibration.data.images import calibration_set
    from tests.stand_ins.specs import pose_spec

    for make in (load_data, calibration_set):
        with pytest.raises(SpecError, match="give a number of pictures"):
            make("synthetic:²", pose_spec())


ODD = "8" * 200_000


def test_a_device_s_odd_numbers_are_left_out() -> None:
    """Long ones as well: a search that starts again at every digit would not end here."""
    from targets.devices import android, jetson, raspberry_pi
    from targets.devices import linux as linux_state
    from targets.devices.readings import Answer, Readings, answers

    cpu = "/sys/devices/system/cpu"
    zone = "/sys/class/thermal/thermal_zone"
    lines = {
        "clocks": [f"{cpu}/cpu0/cpufreq/scaling_cur_freq ²",
                   f"{cpu}/cpu0/cpufreq/scaling_max_freq {ODD}"],
        "zones": [f"{zone}{ODD}x/temp 41000", f"{zone}{ODD}/temp 42000", f"{zone}1/temp {ODD}"],
        "counts": [f"{cpu}/cpu0/thermal_throttle/core_throttle_count ²"],
        "supplies": ["/sys/class/power_supply/a/type Battery",
                     f"/sys/class/power_supply/a/capacity {ODD}"],
        "load": ["/proc/loadavg 0.1 0.1 0.1 1/2 3"],
        "gpu": [f"/sys/class/devfreq/1.gpu/cur_freq {ODD}"],
        "events": ["/sys/class/hwmon/hwmon0/oc1_event_cnt ²"],
        "tegra": [f"RAM 1/2MB CPU [1%@{ODD}] GR3D_FREQ 1%@[{ODD},5] VDD_IN {ODD}mW/1mW"],
        "clock": [f"frequency(0)={ODD}"],
        "temp": [f"temp={ODD}'C"],
        "throttled": [f"throttled=0x{ODD}"],
        "thermal": [f"Thermal Status: {ODD}"],
        "battery": [f"  level: {ODD}"],
    }  # fmt: skip
    found = {name: Answer("\n".join(text), 0) for name, text in lines.items()}
    for read in (
        linux_state.read_linux,
        jetson.read_jetson,
        raspberry_pi.read_raspberry_pi,
    ):
        into = Readings()
        read(found, into)
        assert into.battery is None
        assert not into.throttle_counts
        assert set(into.clocks_khz.values()) <= {5000}
    assert android._whole(ODD) is None
    assert answers(f"@@ a\ntext\n@= {ODD}\n")["a"] == Answer("text", 1)
    assert answers("@@ a\ntext\n@= ²\n")["a"] == Answer("text", 1)
