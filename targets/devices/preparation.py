"""Setting a device up for a run, and putting everything back as it was.

Whatever is set is first noted with the command that undoes it, so that an error, Ctrl-C or a
request to end (SIGINT, SIGTERM, SIGHUP) in between leaves nothing behind, also where the program
was started in the background and so ignores SIGINT. The note is on the device as
well: where the cable was pulled or this machine died, the next run puts it back.
"""

from __future__ import annotations

import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from edge.digits import parse_digits
from edge.errors import DeviceError, first_line
from targets.devices.jetson import parse_jetson_clocks
from targets.profile import Kind
from targets.transports.transport import Done, Transport

__all__ = [
    "Preparation",
    "PrepareOptions",
    "check_idle",
    "prepared_device",
    "put_back",
    "user_command",
]

_CALL_S = 20.0
# In the working folder: a line of shell for everything that is still to be undone.
_PENDING = "undo"
_STAY_ON = "stay_on_while_plugged_in"
_PLUGGED_USB = 2


@dataclass(frozen=True)
class PrepareOptions:
    """What to set.

    Android: keep the screen on while plugged in, and the fixed-performance mode, whose clocks hold
    for longer. Jetson: lock the clocks at the maximum of the power mode.
    """

    stay_awake: bool = True
    fixed_performance: bool = True
    lock_clocks: bool = False


@dataclass
class Preparation:
    """What was set and what the device refused (``notes``), and what could not be put back.

    ``unrestored`` fills when the block ends: a line each, with the command that does it.
    """

    notes: list[str] = field(default_factory=list)
    unrestored: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Undo:
    what: str
    argv: tuple[str, ...]


@contextmanager
def prepared_device(
    transport: Transport,
    kind: Kind,
    options: PrepareOptions | None = None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Iterator[Preparation]:
    """A device set up for a run, and as it was before when the block ends, however it ends.

    A phone that refuses a setting is noted and used as it is; clocks that were to be locked and
    cannot be are a DeviceError. What could not be put back is said with the command that does it:
    it never replaces the block's own error, nor its result.
    """
    options = options or PrepareOptions()
    if options.lock_clocks and kind != "jetson":
        raise DeviceError(f"{transport.name}: only a Jetson's clocks can be locked, this is {kind}")
    preparation = Preparation()
    undo: list[_Undo] = []
    with _ended_by_exception():
        try:
            if kind in ("android", "jetson") and put_back(transport):
                preparation.notes.append("put back first what an interrupted run had set")
            if kind == "android":
                if options.stay_awake:
                    _stay_awake(transport, undo, preparation.notes)
                    _wake_up(transport, undo, preparation.notes)
                if options.fixed_performance:
                    _fix_performance(transport, undo, preparation.notes)
            if options.lock_clocks:
                _lock_clocks(transport, undo, preparation.notes)
            yield preparation
        finally:
            _undo_all(transport, undo, preparation, say)


def check_idle(transport: Transport) -> None:
    """DeviceError where a program of ours still runs there: a run beside it would be disturbed.

    It is another bench's, or one whose connection was lost.
    """
    if transport.kind == "local":
        return
    # As a pattern the folder does not find the shell that looks for it. What runs a program may
    # keep files of its own there: only what is run from it or on it counts.
    pattern = "[/]" + re.sub(r"([.*$^\[\]\\])", r"\\\1", transport.work_dir[1:])
    script = (
        'for f in $(grep -l -e "$1/runner/" -e "$1/python/" -e "$1/engines/" '
        "/proc/[0-9]*/cmdline 2>/dev/null); do "
        'd=${f%/cmdline}; [ -O "$d" ] && [ -e "$d/exe" ] && echo "${d#/proc/}"; done; true'
    )
    pids = _run(transport, ("sh", "-c", script, "sh", pattern)).stdout.decode().split()
    if pids:
        end = user_command(transport, ("kill", "-KILL", *pids))
        raise DeviceError(
            f"{transport.name}: a run of another bench, or one whose connection was lost, is still "
            f"going on there; wait for its end, or end it with: {end}"
        )


def put_back(transport: Transport) -> bool:
    """Undo what a run that broke off had set on the device; whether there was anything.

    DeviceError with the command for the user where that fails.
    """
    noted = _run(transport, ("cat", f"{transport.work_dir}/{_PENDING}"))
    lines = noted.stdout.decode("utf-8", "replace").splitlines() if noted.returncode == 0 else []
    for line in reversed(lines):
        done = _run(transport, ("sh", "-c", line))
        if done.returncode or "Exception" in _said(done):
            raise DeviceError(
                f"{transport.name}: an interrupted run left something set, and it cannot be put "
                f"back ({_said(done) or f'exit status {done.returncode}'}); do it with: "
                f"{user_command(transport, ('sh', '-c', line))}"
            )
    if lines:
        _run(transport, ("rm", "-f", f"{transport.work_dir}/{_PENDING}"))
    return bool(lines)


def user_command(transport: Transport, argv: Sequence[str]) -> str:
    """The line that a person types to run ``argv`` on the device."""
    address = transport.name.partition(" ")[2]
    if transport.kind == "adb":
        # adb gives its arguments to the device's shell in one line.
        return f"adb -s {shlex.quote(address)} shell {shlex.quote(shlex.join(argv))}"
    if transport.kind == "ssh":
        return f"ssh {shlex.quote(address)} {shlex.quote(shlex.join(argv))}"
    return shlex.join(argv)


def _stay_awake(transport: Transport, undo: list[_Undo], notes: list[str]) -> None:
    get = ("settings", "get", "global", _STAY_ON)
    before = _said(_run(transport, get))
    if not re.fullmatch(r"\d{1,9}|null", before):
        notes.append(
            f"stay awake: left alone, its setting cannot be read ({before or 'no answer'})"
        )
        return
    if before != "null" and int(before) & _PLUGGED_USB:
        notes.append("stay awake: was on")
        return
    back = (
        ("settings", "delete", "global", _STAY_ON)
        if before == "null"
        else ("settings", "put", "global", _STAY_ON, before)
    )
    _undo_later(transport, undo, _Undo(f"stay awake ({before})", back))
    done = _run(transport, ("svc", "power", "stayon", "true"))
    # The exit status says nothing on old versions; makers refuse it with an exception.
    after = _said(_run(transport, get))
    if after == before:
        undo.pop()
        notes.append(f"stay awake: refused ({_said(done) or f'exit status {done.returncode}'})")
    else:
        notes.append("stay awake: set while plugged in")


def _wake_up(transport: Transport, undo: list[_Undo], notes: list[str]) -> None:
    ask = ("sh", "-c", "dumpsys power | grep -m 1 mWakefulness=")
    if "Awake" in _said(_run(transport, ask)):
        return
    undo.append(_Undo("screen off", ("input", "keyevent", "KEYCODE_SLEEP")))
    done = _run(transport, ("input", "keyevent", "KEYCODE_WAKEUP"))
    if "Awake" not in _said(_run(transport, ask)):
        undo.pop()
        notes.append(f"screen: it could not be woken ({_said(done) or 'no answer'})")
    else:
        notes.append("screen: woken")


def _fix_performance(transport: Transport, undo: list[_Undo], notes: list[str]) -> None:
    api = _said(_run(transport, ("getprop", "ro.build.version.sdk")))
    if (parse_digits(api) or 0) < 30:
        notes.append(f"fixed-performance mode: needs Android 11 (API 30), this is API {api or '?'}")
        return
    command = ("cmd", "power", "set-fixed-performance-mode-enabled")
    # No version tells whether it is on; it is off unless somebody has set it since the last boot.
    _undo_later(transport, undo, _Undo("fixed-performance mode (off)", (*command, "false")))
    done = _run(transport, (*command, "true"))
    said = _said(done)
    if done.returncode or "Fail" in said or "Exception" in said:
        undo.pop()
        notes.append(f"fixed-performance mode: refused ({said or 'no answer'})")
    else:
        notes.append("fixed-performance mode: set")


def _lock_clocks(transport: Transport, undo: list[_Undo], notes: list[str]) -> None:
    stored = f"{transport.work_dir}/jetson_clocks.conf"
    root = () if _said(_run(transport, ("id", "-u"))) == "0" else ("sudo", "-n")
    back = shlex.join([*root, "jetson_clocks", "--restore", stored])
    restore = ("sh", "-c", f"{back} && rm -f {shlex.quote(stored)}")
    _must(transport, _run(transport, ("mkdir", "-p", transport.work_dir)))
    # Nothing was locked by it: what it locked was noted, and was put back.
    _must(transport, _run(transport, (*root, "rm", "-f", stored)))
    _must(transport, _run(transport, (*root, "jetson_clocks", "--store", stored)))
    _undo_later(transport, undo, _Undo("clocks", restore))
    _must(transport, _run(transport, (*root, "jetson_clocks")))
    shown = _run(transport, (*root, "jetson_clocks", "--show")).stdout.decode("utf-8", "replace")
    clocks = parse_jetson_clocks(shown)
    free = sorted(name for name, clock in clocks.items() if not clock.locked and name != "EMC")
    if not clocks or free:
        notes.append(f"clocks: jetson_clocks ran, but not locked: {', '.join(free) or 'unknown'}")
    else:
        notes.append("clocks: locked at the maximum of the power mode")


def _undo_later(transport: Transport, undo: list[_Undo], one: _Undo) -> None:
    """Note what undoes a setting, here and on the device; called before it is set."""
    undo.append(one)
    script = 'mkdir -p "$1" && printf "%s\\n" "$2" >> "$1/$3"'
    line = one.argv[2] if one.argv[:2] == ("sh", "-c") else shlex.join(one.argv)
    _run(transport, ("sh", "-c", script, "sh", transport.work_dir, line, _PENDING))


def _must(transport: Transport, done: Done) -> None:
    if done.returncode == 0:
        return
    raise DeviceError(
        f"{transport.name}: cannot lock the clocks: `{shlex.join(done.argv)}` said "
        f"{_said(done) or f'exit status {done.returncode}'}; it needs root without a password: log "
        "in as root, or allow jetson_clocks in a file below /etc/sudoers.d"
    )


def _undo_all(
    transport: Transport,
    undo: list[_Undo],
    preparation: Preparation,
    say: Callable[[str], None],
) -> None:
    give_up = False
    pending = bool(undo)
    while undo:
        one = undo.pop()
        why = "not tried"
        if not give_up:
            try:
                done = _run(transport, one.argv)
                if done.returncode == 0 and "Exception" not in _said(done):
                    continue
                why = _said(done) or f"exit status {done.returncode}"
            except DeviceError as error:
                why = first_line(error)
            except KeyboardInterrupt:
                # The second Ctrl-C: whoever presses it will not wait for the rest.
                give_up = True
                why = "interrupted"
        line = (
            f"{transport.name}: {one.what} could not be put back ({why}); do it with: "
            f"{user_command(transport, one.argv)}"
        )
        preparation.unrestored.append(line)
        say(line)
    if pending and not preparation.unrestored:
        with suppress(DeviceError):
            _run(transport, ("rm", "-f", f"{transport.work_dir}/{_PENDING}"))


@contextmanager
def _ended_by_exception() -> Iterator[None]:
    """Make the signals that end a program exceptions, so that `finally` runs.

    SIGTERM and SIGHUP raise SystemExit, SIGINT KeyboardInterrupt, but for a signal that a handler
    of the caller takes. A shell that starts a program in the background has it ignore SIGINT; one
    that is sent by name is meant all the same. An ignored SIGHUP stays so: it is `nohup`'s wish to
    outlive the terminal. Signals reach the main thread alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    taken: dict[signal.Signals, tuple[signal.Handlers, ...]] = {
        signal.SIGINT: (signal.SIG_DFL, signal.SIG_IGN),
        signal.SIGTERM: (signal.SIG_DFL, signal.SIG_IGN),
        signal.SIGHUP: (signal.SIG_DFL,),
    }
    before = {one: signal.getsignal(one) for one in taken}
    ours = [one for one, handlers in taken.items() if before[one] in handlers]
    for one in ours:
        signal.signal(one, leave)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, before[one])


def _run(transport: Transport, argv: tuple[str, ...]) -> Done:
    return transport.run(argv, timeout_s=_CALL_S)


def _said(done: Done) -> str:
    """The first line of what it printed, or complained."""
    return first_line(done.stdout) or first_line(done.stderr)
