"""The state while a run is under way, and cooling down between runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edge.errors import DeviceError
from targets.devices.state import (
    StateSampler,
    wait_until_cool,
)
from tests.stand_ins.state_stand_ins import (
    THERMAL,
    phone,
)


def test_a_sampler_follows_a_run(tmp_path: Path) -> None:
    device = phone(tmp_path)
    heat = iter(range(40, 1000))

    def warmer(argv: tuple[str, ...]) -> None:
        del argv
        status = 0 if len(device.calls) < 3 else 1
        device.prints("dumpsys.thermalservice", THERMAL.format(status=status, cpu=next(heat)))

    device.before_run = warmer
    with StateSampler(device, "android", interval_s=0.01) as sampler:
        deadline = time.monotonic() + 60
        while len(sampler.points) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [point.temperatures_c["CPU0"] for point in sampler.points[:4]] == [40, 41, 42, 43]
    assert [point.thermal_status for point in sampler.points[:4]] == [0, 0, 1, 1]
    times = [point.t_s for point in sampler.points]
    assert times == sorted(times) and times[0] >= 0
    assert sampler.problem is None
    count = len(device.calls)
    time.sleep(0.05)
    assert len(device.calls) == count


def test_a_sampler_survives_a_device_that_vanishes(tmp_path: Path) -> None:
    device = phone(tmp_path)

    def gone(argv: tuple[str, ...]) -> None:
        del argv
        if len(device.calls) > 1:
            raise DeviceError("adb board: the cable was pulled")

    device.before_run = gone
    with StateSampler(device, "android", interval_s=0.0) as sampler:
        deadline = time.monotonic() + 60
        while sampler.problem is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(sampler.points) == 1
    assert sampler.problem == "adb board: the cable was pulled"


class Cooling:
    """A clock, and a phone that gets cooler by 1 C a second, towards 30 C."""

    def __init__(self, root: Path, start_c: float) -> None:
        self.now, self.start_c = 0.0, start_c
        self.device = phone(root)
        self.device.before_run = self.cool
        self.said: list[str] = []

    def cool(self, argv: tuple[str, ...]) -> None:
        del argv
        value = max(30.0, self.start_c - self.now)
        self.device.prints("dumpsys.thermalservice", THERMAL.format(status=0, cpu=value))

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, baseline_c: dict[str, float], timeout_s: float) -> tuple[float, str | None]:
        result = wait_until_cool(
            self.device,
            "android",
            baseline_c,
            timeout_s=timeout_s,
            tolerance_c=3.0,
            interval_s=5.0,
            clock=lambda: self.now,
            sleep=self.sleep,
            say=self.said.append,
        )
        return result.waited_s, result.warning


def test_waits_until_every_sensor_is_back(tmp_path: Path) -> None:
    cooling = Cooling(tmp_path, start_c=52.0)
    # 52 - t <= 32 + 3 from t = 17 on; asked every 5 s.
    waited_s, warning = cooling.wait({"CPU0": 32.0, "GPU": 36.0, "modem": 1.0}, 300)
    assert (waited_s, warning) == (20.0, None)
    assert len(cooling.said) == 4 and "CPU0 52.0 C, 20.0 C above" in cooling.said[0]


def test_waiting_ends_when_the_time_is_up(tmp_path: Path) -> None:
    cooling = Cooling(tmp_path, start_c=52.0)
    waited_s, warning = cooling.wait({"CPU0": 32.0}, 12)
    assert waited_s == 12.0
    assert warning is not None and "CPU0 is still 8.0 C above its 32.0 C" in warning


@pytest.mark.parametrize(("timeout_s", "waited_s"), [(300, 60.0), (20, 20.0)])
def test_without_a_temperature_it_waits_a_minute(
    tmp_path: Path, timeout_s: float, waited_s: float
) -> None:
    waited, warning = Cooling(tmp_path, 52.0).wait({}, timeout_s)
    assert waited == waited_s
    assert warning is not None and "cannot be read" in warning
