"""A device's identity, its state, its state during a run, and waiting until it has cooled down.

Everything that could not be read is None or empty and named in ``DeviceState.unreadable``; only a
device that does not answer at all is an error.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType

from edge.digits import parse_digits
from edge.errors import DeviceError
from targets.device_state import DeviceState, StatePoint
from targets.devices import android, jetson, raspberry_pi
from targets.devices import linux as linux_state
from targets.devices.readings import (
    NO_ANSWER,
    Answer,
    DeviceInfo,
    Readings,
    file_values,
    run_script,
)
from targets.profile import Kind, Profile
from targets.transports.transport import Transport

__all__ = [
    "CoolDown",
    "DeviceInfo",
    "StateSampler",
    "check_device",
    "read_device",
    "read_point",
    "read_state",
    "wait_until_cool",
]

_Read = Callable[[Mapping[str, Answer], Readings], None]
# Kind -> script of a whole state, script of a point in a series, reader of either's answers.
_PLATFORMS: dict[Kind, tuple[str, str, _Read]] = {
    "android": (android.STATE_SCRIPT, android.POINT_SCRIPT, android.read_android),
    "jetson": (jetson.STATE_SCRIPT, jetson.POINT_SCRIPT, jetson.read_jetson),
    "raspberry-pi": (
        raspberry_pi.STATE_SCRIPT,
        raspberry_pi.POINT_SCRIPT,
        raspberry_pi.read_raspberry_pi,
    ),
    "linux": (linux_state.STATE_SCRIPT, linux_state.POINT_SCRIPT, linux_state.read_linux),
}

_DEVICE_SCRIPT = r"""
ask arch uname -m
ask bits getconf LONG_BIT
ask properties getprop
ask release cat /etc/os-release
ask model sh -c 'tr "\0" "\n" < /proc/device-tree/model'
ask compatible sh -c 'tr "\0" "\n" < /proc/device-tree/compatible'
ask files values /etc/nv_tegra_release /sys/class/dmi/id/product_name \
  /sys/devices/system/cpu/present
ask cpu grep -m 1 -E "^(model name|Hardware)" /proc/cpuinfo
ask parent sh -c 'tr "\0" "\n" < /proc/$PPID/cmdline'
ask vendor grep -m 1 -E "^vendor_id" /proc/cpuinfo
ask maxima values /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq
"""

# Where no temperature can be read: the pause of MLPerf's mobile app between quick runs.
_BLIND_PAUSE_S = 60.0


def read_device(transport: Transport) -> DeviceInfo:
    """What the device is, in one call; DeviceError where it does not answer."""
    found = run_script(transport, _DEVICE_SCRIPT)
    properties = android.properties(found.get("properties", NO_ANSWER))
    files = file_values(found.get("files", NO_ANSWER))
    tree_model = _text(found, "model")
    compatible = _text(found, "compatible").split()
    maxima = {}
    for path, value in file_values(found.get("maxima", NO_ANSWER)).items():
        core = re.search(r"/(cpu\d+)/", path)
        clock = parse_digits(value or "")
        if core and clock is not None:
            maxima[core[1]] = clock
    arch = _text(found, "arch") or None
    bits = _text(found, "bits")
    cpu = _text(found, "cpu").partition(":")[2].strip() or None
    present = files.get("/sys/devices/system/cpu/present")
    release = _text(found, "release")
    pretty = re.search(r'^PRETTY_NAME="?(.*?)"?\s*$', release, re.MULTILINE)
    system = pretty[1] if pretty else None
    kind: Kind = "linux"
    model = tree_model or files.get("/sys/class/dmi/id/product_name")
    soc = compatible[-1] if compatible else cpu
    l4t = files.get("/etc/nv_tegra_release") or ""
    api = properties.get("ro.build.version.sdk", "")
    # Only x86 has a vendor_id: a qemu that translates programs shows its host's /proc, and itself
    # as the program that runs every other.
    emulated = arch == "aarch64" and _text(found, "vendor").startswith("vendor_id")
    emulated |= re.match(r"(\S*/)?qemu-[a-z]", _text(found, "parent")) is not None
    if api:
        kind = "android"
        maker = properties.get("ro.product.manufacturer", "")
        model = properties.get("ro.product.model") or None
        if model and maker and not model.lower().startswith(maker.lower()):
            model = f"{maker} {model}"
        soc = properties.get("ro.soc.model") or properties.get("ro.board.platform") or cpu
        system = f"Android {properties.get('ro.build.version.release', '?')} (API {api})"
        emulated |= "1" in (properties.get("ro.kernel.qemu"), properties.get("ro.boot.qemu"))
    elif l4t or any(name.startswith("nvidia,tegra") for name in compatible):
        kind = "jetson"
        version = re.search(r"R(\d+).*REVISION:\s*([\d.]+)", l4t)
        if version:
            system = f"{system or 'Linux'}, Jetson Linux {version[1]}.{version[2]}"
    elif (tree_model or "").startswith("Raspberry Pi"):
        kind = "raspberry-pi"
    return DeviceInfo(
        name=transport.name,
        kind=kind,
        model=model,
        soc=soc,
        os=system,
        arch=arch,
        cores=_count(present) or len(maxima) or None,
        max_clocks_khz=maxima,
        userland_bits=parse_digits(bits),
        api_level=parse_digits(api),
        emulated=emulated or "linux,dummy-virt" in compatible,
    )


def check_device(info: DeviceInfo, profile: Profile) -> None:
    """DeviceError where the device is none that the profile is for."""
    for what, is_, wanted in (
        ("kind", info.kind, profile.kind),
        ("architecture", info.arch, profile.arch),
    ):
        if is_ != wanted:
            fix = "name the target that it is, or write a profile"
            if (is_ or "").startswith("armv") and wanted == "aarch64":
                fix = "install the 64-bit system on it"
            raise DeviceError(
                f"{info.name} ({info.model or 'unknown model'}): its {what} is {is_}, but target "
                f"{profile.name} is for {wanted}; {fix}"
            )


def read_state(transport: Transport, kind: Kind) -> DeviceState:
    """The state of the device now, in one call; DeviceError where it does not answer."""
    script, _, read = _PLATFORMS[kind]
    readings = Readings()
    read(run_script(transport, script), readings)
    return readings.state()


def read_point(transport: Transport, kind: Kind, t_s: float = 0.0) -> StatePoint:
    """The part of the state that moves during a run, in one call that costs the device little."""
    _, script, read = _PLATFORMS[kind]
    readings = Readings()
    read(run_script(transport, script), readings)
    return StatePoint(
        t_s=t_s,
        temperatures_c=readings.temperatures_c,
        clocks_khz=readings.clocks_khz,
        power_mw=readings.power_mw,
        thermal_status=readings.thermal_status,
        throttle_bits=readings.throttle_bits,
    )


class StateSampler:
    """Reads the state while a run is under way: ``with StateSampler(...) as sampler: run()``.

    It asks from a thread, so ``transport`` is a connection of its own. Times count from entering.
    A device that stops answering ends the series and is told in ``problem``: the run has its own
    connection and judges for itself.
    """

    def __init__(
        self,
        transport: Transport,
        kind: Kind,
        interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.points: list[StatePoint] = []
        self.problem: str | None = None
        self._transport, self._kind = transport, kind
        self._interval_s, self._clock = interval_s, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="state sampler", daemon=True)

    def __enter__(self) -> StateSampler:
        self._start_s = self._clock()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        # A question under way has a deadline of its own.
        self._thread.join(timeout=35.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            asked_s = self._clock() - self._start_s
            try:
                point = read_point(self._transport, self._kind, asked_s)
            except DeviceError as error:
                self.problem = str(error)
                return
            # What came back after the end may be the state of an idle device.
            if not self._stop.is_set():
                self.points.append(point)
            self._stop.wait(self._interval_s)


@dataclass(frozen=True)
class CoolDown:
    """How a wait ended; ``warning`` is None where the device is as cool as it was."""

    waited_s: float
    warning: str | None = None


def wait_until_cool(
    transport: Transport,
    kind: Kind,
    baseline_c: Mapping[str, float],
    *,
    timeout_s: float,
    tolerance_c: float = 3.0,
    interval_s: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] = lambda _: None,
) -> CoolDown:
    """Wait until every temperature is within ``tolerance_c`` of its baseline, or the time is up.

    Where no sensor of the baseline can be read, wait a minute instead.
    """
    start = clock()
    while True:
        now_c = read_point(transport, kind).temperatures_c
        shared = now_c.keys() & baseline_c.keys()
        waited_s = clock() - start
        if not shared:
            pause_s = max(0.0, min(_BLIND_PAUSE_S, timeout_s) - waited_s)
            sleep(pause_s)
            return CoolDown(
                waited_s + pause_s,
                f"its temperature cannot be read: waited {waited_s + pause_s:.0f} s to cool down",
            )
        hottest = max(shared, key=lambda name: now_c[name] - baseline_c[name])
        excess_c = now_c[hottest] - baseline_c[hottest]
        if excess_c <= tolerance_c:
            return CoolDown(waited_s)
        if waited_s >= timeout_s:
            return CoolDown(
                waited_s,
                f"not cooled down within {timeout_s:g} s: {hottest} is still {excess_c:.1f} C "
                f"above its {baseline_c[hottest]:.1f} C at the start",
            )
        say(f"cooling down: {hottest} {now_c[hottest]:.1f} C, {excess_c:.1f} C above the start")
        sleep(min(interval_s, timeout_s - waited_s))


def _text(found: Mapping[str, Answer], name: str) -> str:
    answer = found.get(name, NO_ANSWER)
    return answer.text.strip() if answer.ok else ""


def _count(ranges: str | None) -> int:
    """Cores in a list of the kernel's: "0-3,6" has 5."""
    total = 0
    for part in (ranges or "").split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if match:
            total += int(match[2] or match[1]) - int(match[1]) + 1
    return total
