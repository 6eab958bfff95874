"""What a device says of itself, as values, and how one shell script asks many questions at once.

A script is `HEAD`, then a line ``ask NAME COMMAND...`` a question; `answers` takes its output
apart. It needs a POSIX shell and no program but those that it asks: dash, busybox, Android's mksh.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from edge.digits import parse_digits
from edge.errors import DeviceError, first_line, last_line
from targets.device_state import BatteryRecord, DeviceRecord, DeviceState
from targets.profile import Kind
from targets.transports.transport import Transport

__all__ = [
    "HEAD",
    "NO_ANSWER",
    "Answer",
    "DeviceInfo",
    "Readings",
    "answers",
    "file_values",
    "plausible_c",
    "run_script",
]

# `values` prints "path value" of each file that there is, "path !" where it cannot be read. Only
# builtins: a process a file would take seconds on a phone.
HEAD = r"""
ask() { echo; echo "@@ $1"; shift; "$@" 2>&1; r=$?; echo; echo "@= $r"; }
values() {
  for f in "$@"; do
    if [ -e "$f" ]; then
      v=; { read -r v < "$f"; } 2>/dev/null
      echo "$f ${v:-!}"
    fi
  done
}
"""


@dataclass(frozen=True)
class DeviceInfo(DeviceRecord):
    """What a device is; the record is what a run's file says of it.

    ``arch`` is the kernel's (``uname -m``) and ``userland_bits`` that of its programs, 32 on a
    64-bit kernel at times; ``max_clocks_khz`` are the hardware's; ``api_level`` is Android's.
    ``emulated``: another machine plays it, and its timings are no latencies.
    """

    kind: Kind
    max_clocks_khz: Mapping[str, int] = field(default_factory=dict)
    userland_bits: int | None = None
    api_level: int | None = None
    emulated: bool = False

    @property
    def record(self) -> DeviceRecord:
        """The part that a run's file has."""
        return DeviceRecord(*(getattr(self, one.name) for one in fields(DeviceRecord)))


@dataclass
class Readings:
    """A DeviceState in the making."""

    governors: dict[str, str] = field(default_factory=dict)
    clocks_khz: dict[str, int] = field(default_factory=dict)
    max_clocks_khz: dict[str, int] = field(default_factory=dict)
    thermal_status: int | None = None
    temperatures_c: dict[str, float] = field(default_factory=dict)
    throttle_bits: int | None = None
    throttle_counts: dict[str, int] = field(default_factory=dict)
    battery: BatteryRecord | None = None
    power_mode: str | None = None
    power_mw: float | None = None
    load_1m: float | None = None
    unreadable: list[str] = field(default_factory=list)

    def miss(self, what: str, answer: Answer) -> None:
        """Note that ``what`` could not be read, and what the device said instead."""
        why = first_line(answer.text)[:120] or ("no answer" if answer.status else "an empty answer")
        self.unreadable.append(f"{what}: {why}")

    def state(self) -> DeviceState:
        """The finished value."""
        return DeviceState(
            **{name: value for name, value in vars(self).items() if name != "unreadable"},
            unreadable=tuple(dict.fromkeys(self.unreadable)),
        )


@dataclass(frozen=True)
class Answer:
    """What a question's command printed, both streams, and its exit status."""

    text: str
    status: int

    @property
    def ok(self) -> bool:
        """Whether the command ran and succeeded."""
        return self.status == 0


NO_ANSWER = Answer("", 127)


def run_script(transport: Transport, script: str, timeout_s: float = 30.0) -> dict[str, Answer]:
    """Ask the questions of ``script`` in one call: name -> answer.

    Raises DeviceError where the device has no working shell; a question that fails is no error.
    """
    done = transport.run(["sh", "-c", HEAD + script], timeout_s=timeout_s)
    found = answers(done.stdout.decode("utf-8", "replace"))
    if not found:
        said = last_line(done.stderr) or last_line(done.stdout)
        raise DeviceError(
            f"{transport.name}: its shell answers nothing that can be read (exit status "
            f"{done.returncode}{': ' + said if said else ''})"
        )
    return found


def answers(output: str) -> dict[str, Answer]:
    """The answers in what a script printed; one that breaks off has no exit status of 0."""
    found: dict[str, Answer] = {}
    name: str | None = None
    lines: list[str] = []
    # Old Android ends lines with \r\n.
    for line in output.replace("\r\n", "\n").split("\n"):
        if line.startswith("@@ "):
            if name is not None:
                found[name] = Answer("\n".join(lines).strip("\n"), 1)
            name, lines = line[3:].strip(), []
        elif line.startswith("@= ") and name is not None:
            status = line[3:].strip()
            code = parse_digits(status)
            found[name] = Answer("\n".join(lines).strip("\n"), 1 if code is None else code)
            name = None
        else:
            lines.append(line)
    if name is not None:
        found[name] = Answer("\n".join(lines).strip("\n"), 1)
    return found


def file_values(answer: Answer) -> dict[str, str | None]:
    """Path -> first line of the file, None where it cannot be read: an answer of ``values``."""
    found: dict[str, str | None] = {}
    for line in answer.text.splitlines():
        path, _, value = line.strip().partition(" ")
        if path.startswith("/"):
            found[path] = None if value.strip() in ("", "!") else value.strip()
    return found


def plausible_c(value: float) -> bool:
    """Whether a sensor's reading is one: absent ones say -273, -256, -99.9, 0 or NaN."""
    return math.isfinite(value) and -40 < value < 150 and value != 0
