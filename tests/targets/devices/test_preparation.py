from __future__ import annotations

import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.errors import DeviceError
from targets.devices.preparation import (
    Preparation,
    PrepareOptions,
    check_idle,
    prepared_device,
    user_command,
)
from targets.profile import Kind
from targets.transports.local import LocalTransport
from tests.stand_ins.state_stand_ins import FolderDevice

STAY = "stay_on_while_plugged_in"


class Phone(FolderDevice):
    """A phone with settings that can be changed, and a screen that is off."""

    def __init__(self, root: Path, *, stay: str | None = "0", api: int = 31) -> None:
        super().__init__(root, kind="adb")
        self.name = "adb 1a2b"
        for name, value in ((STAY, stay), ("fixed", "false"), ("screen", "Asleep")):
            if value is not None:
                self.file(f"/state/{name}", value)
        self.prints("getprop", f"{api}\n")
        self.program(
            "settings",
            'F="$ROOT/state/$3"\ncase "$1" in\n'
            'get) if [ -e "$F" ]; then cat "$F"; else echo null; fi;;\n'
            'put) printf %s "$4" > "$F";;\ndelete) rm -f "$F"; echo Deleted 1 rows;;\nesac',
        )
        self.program("svc", f'printf %s 7 > "$ROOT/state/{STAY}"')
        self.program("dumpsys", 'echo "  mWakefulness=$(cat "$ROOT/state/screen")"; echo "  mX=1"')
        self.program(
            "input",
            'case "$2" in *WAKEUP) echo Awake;; *SLEEP) echo Asleep;; esac > "$ROOT/state/screen"',
        )
        self.program(
            "cmd",
            '[ "$1 $2" = "power set-fixed-performance-mode-enabled" ] || exit 255\n'
            'printf %s "$3" > "$ROOT/state/fixed"',
        )

    def state(self) -> dict[str, str]:
        return {path.name: path.read_text().strip() for path in (self.root / "state").iterdir()}


def prepared(
    device: FolderDevice, kind: Kind, options: PrepareOptions | None = None
) -> Preparation:
    with prepared_device(device, kind, options, say=pytest.fail) as preparation:
        pass
    return preparation


@pytest.mark.parametrize("stay", ["0", "4", None])
def test_a_phone_is_set_and_put_back(tmp_path: Path, stay: str | None) -> None:
    device = Phone(tmp_path, stay=stay)
    before = device.state()
    with prepared_device(device, "android", say=pytest.fail) as preparation:
        assert device.state() == {STAY: "7", "fixed": "true", "screen": "Awake"}
    assert device.state() == before
    assert preparation.notes == [
        "stay awake: set while plugged in",
        "screen: woken",
        "fixed-performance mode: set",
    ]
    assert preparation.unrestored == []


def test_what_was_on_stays_on(tmp_path: Path) -> None:
    device = Phone(tmp_path, stay="3")
    device.file("/state/screen", "Awake")
    preparation = prepared(device, "android")
    assert preparation.notes == ["stay awake: was on", "fixed-performance mode: set"]
    assert device.state() == {STAY: "3", "fixed": "false", "screen": "Awake"}


def test_options_are_obeyed(tmp_path: Path) -> None:
    device = Phone(tmp_path)
    assert prepared(device, "android", PrepareOptions(False, False)).notes == []
    assert prepared(device, "raspberry-pi").notes == []
    assert device.calls == [("cat", f"{device.work_dir}/undo")]
    with pytest.raises(DeviceError, match="only a Jetson's clocks can be locked, this is linux"):
        prepared(device, "linux", PrepareOptions(lock_clocks=True))


def test_a_run_that_died_does_not_change_a_phone_for_good(tmp_path: Path) -> None:
    """What it had set would pass for the owner's own setting otherwise."""
    device = Phone(tmp_path, stay="4")
    dies = prepared_device(device, "android", say=lambda _: None)
    dies.__enter__()
    assert device.state()[STAY] == "7"
    notes = prepared(device, "android").notes
    assert notes[0] == "put back first what an interrupted run had set"
    assert "stay awake: set while plugged in" in notes
    assert device.state()[STAY] == "4"
    assert device.state()["fixed"] == "false"
    assert not (Path(device.work_dir) / "undo").exists()
    dies.__exit__(None, None, None)


def test_what_cannot_be_put_back_stops_the_next_run(tmp_path: Path) -> None:
    device = Phone(tmp_path)
    folder = Path(device.work_dir)
    folder.mkdir(parents=True)
    (folder / "undo").write_text("settings put global x 1 && exit 9\n")
    with pytest.raises(DeviceError, match=r"left something set.*exit status 9.*adb -s 1a2b shell"):
        prepared(device, "android")
    assert (folder / "undo").exists()


@pytest.mark.parametrize("api", [24, 29])
def test_fixed_performance_needs_android_11(tmp_path: Path, api: int) -> None:
    device = Phone(tmp_path, api=api)
    notes = prepared(device, "android").notes
    assert f"fixed-performance mode: needs Android 11 (API 30), this is API {api}" in notes
    assert not any(call[0] == "cmd" for call in device.calls)


@pytest.mark.parametrize("status", [0, 255])
def test_what_the_maker_refuses_is_noted_and_left_alone(tmp_path: Path, status: int) -> None:
    device = Phone(tmp_path)
    before = device.state()
    why = "java.lang.SecurityException: Permission denial"
    for name in ("svc", "input"):
        device.program(name, f"echo '{why}' >&2; exit {status}")
    device.program("cmd", "echo 'Failed to set FIXED_PERFORMANCE mode' >&2; exit 255")
    preparation = prepared(device, "android")
    assert device.state() == before
    assert preparation.notes == [
        f"stay awake: refused ({why})",
        f"screen: it could not be woken ({why})",
        "fixed-performance mode: refused (Failed to set FIXED_PERFORMANCE mode)",
    ]
    # Nothing was set, so nothing is put back.
    assert not any(call[:2] == ("settings", "put") for call in device.calls)


def raised(number: int) -> Callable[[], None]:
    return lambda: signal.raise_signal(number)


def failing() -> None:
    raise DeviceError("the runner failed")


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def dispositions() -> Iterator[None]:
    """Signals as a terminal gives them, whatever these tests were started with."""
    before = {one: signal.getsignal(one) for one in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for one in SIGNALS[1:]:
        signal.signal(one, signal.SIG_DFL)
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.usefixtures("dispositions")
@pytest.mark.parametrize("inherited", ["from a terminal", "in the background"])
@pytest.mark.parametrize(
    ("accident", "error"),
    [
        (failing, DeviceError),
        (raised(signal.SIGINT), KeyboardInterrupt),
        (raised(signal.SIGTERM), SystemExit),
        (raised(signal.SIGHUP), SystemExit),
    ],
    ids=["error", "Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_put_back_however_it_ends(
    tmp_path: Path, accident: Callable[[], None], error: type[BaseException], inherited: str
) -> None:
    if inherited == "in the background":
        # As a shell without job control starts what a line puts behind an ampersand.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    device = Phone(tmp_path)
    before = device.state()
    handlers = [signal.getsignal(one) for one in SIGNALS]

    def run() -> None:
        with prepared_device(device, "android", say=pytest.fail):
            assert device.state() != before
            accident()

    with pytest.raises(error):
        run()
    assert device.state() == before
    assert [signal.getsignal(one) for one in SIGNALS] == handlers


@pytest.mark.usefixtures("dispositions")
def test_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    device = Phone(tmp_path)
    with prepared_device(device, "android", say=pytest.fail):
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("ran", [False, True], ids=["before the command", "after the command"])
@pytest.mark.parametrize("step", range(1, 12))
def test_put_back_when_interrupted_while_setting(tmp_path: Path, step: int, ran: bool) -> None:
    device = Phone(tmp_path)
    before = device.state()

    def interrupt(argv: tuple[str, ...]) -> None:
        if len(device.calls) == step:
            device.before_run = lambda _: None
            if ran:
                device.run(argv, timeout_s=9)
            raise KeyboardInterrupt

    device.before_run = interrupt
    with pytest.raises(KeyboardInterrupt), prepared_device(device, "android", say=pytest.fail):
        pytest.fail("it was not interrupted")
    assert device.state() == before


def test_a_device_that_vanished_is_told_with_the_commands(tmp_path: Path) -> None:
    device = Phone(tmp_path, stay="4")
    said: list[str] = []

    def gone(argv: tuple[str, ...]) -> None:
        raise DeviceError(f"adb 1a2b: not connected; it was to run {argv[0]}")

    kept: list[Preparation] = []

    def run() -> None:
        with prepared_device(device, "android", say=said.append) as preparation:
            kept.append(preparation)
            device.before_run = gone
            failing()

    with pytest.raises(DeviceError, match="the runner failed"):
        run()
    assert said == kept[0].unrestored
    assert len(said) == 3
    fixed, screen, stay = said
    assert "fixed-performance mode (off) could not be put back (adb 1a2b: not connected" in fixed
    assert "screen off could not be put back" in screen
    assert stay.endswith(
        "do it with: adb -s 1a2b shell 'settings put global stay_on_while_plugged_in 4'"
    )
    # The commands do it, given to a shell as they stand.
    device.before_run = lambda _: None
    for line in said:
        words = shlex.split(line.partition("do it with: ")[2])
        assert words[:4] == ["adb", "-s", "1a2b", "shell"]
        device.run(["sh", "-c", words[4]], timeout_s=9)
    assert device.state() == {STAY: "4", "fixed": "false", "screen": "Asleep"}


def test_the_second_interrupt_is_obeyed(tmp_path: Path) -> None:
    device = Phone(tmp_path)
    said: list[str] = []

    def interrupt(argv: tuple[str, ...]) -> None:
        if argv == ("input", "keyevent", "KEYCODE_SLEEP"):
            raise KeyboardInterrupt

    device.before_run = interrupt
    with pytest.raises(KeyboardInterrupt), prepared_device(device, "android", say=said.append):
        raise KeyboardInterrupt
    assert ["(interrupted)" in said[0], "(not tried)" in said[1], len(said)] == [True, True, 2]
    assert device.state()["fixed"] == "false"


# ----------------------------------------------------------------------------------- Jetson


class Jetson(FolderDevice):
    """A Jetson whose clocks can be locked by whoever may use sudo."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, kind="ssh")
        self.name = "ssh nv@orin"
        self.work_dir = str(root / "home" / "a b" / "device")
        self.file("/state/clocks", "free")
        self.prints("id", "1000\n")
        self.program("sudo", '[ "$1" = -n ] || exit 1; shift; SUDO=1 exec "$@"')
        self.program(
            "jetson_clocks",
            'S="$ROOT/state/clocks"\n'
            '[ "$SUDO" = 1 ] || { echo "Error: Run this script($0) as a root user"; exit 1; }\n'
            'case "$1" in\n'
            '--store) [ -e "$2" ] && { echo "File $2 already exists."; read a || exit 1; }\n'
            '  cp "$S" "$2";;\n'
            '--restore) [ -e "$2" ] || { echo "Error: $2 file not found !"; exit 1; }\n'
            '  cp "$2" "$S";;\n'
            '--show) M=1; [ "$(cat "$S")" = locked ] && M=2\n'
            '  echo "cpu0: Online=1 Governor=x MinFreq=$M MaxFreq=2 CurrentFreq=2 IdleStates:"\n'
            '  echo "GPU MinFreq=$M MaxFreq=2 CurrentFreq=2"\n'
            '  echo "EMC MinFreq=1 MaxFreq=2 CurrentFreq=2 FreqOverride=1";;\n'
            '*) printf locked > "$S";;\nesac',
        )

    def clocks(self) -> str:
        return (self.root / "state" / "clocks").read_text()


LOCK = PrepareOptions(lock_clocks=True)


def test_clocks_are_locked_and_put_back(tmp_path: Path) -> None:
    device = Jetson(tmp_path)
    with prepared_device(device, "jetson", LOCK, say=pytest.fail) as preparation:
        assert device.clocks() == "locked"
    assert device.clocks() == "free"
    assert preparation.notes == ["clocks: locked at the maximum of the power mode"]
    assert not list(Path(device.work_dir).iterdir())
    assert prepared(device, "jetson").notes == []


def test_a_run_that_died_left_the_true_clocks(tmp_path: Path) -> None:
    """Its host is gone, so that nothing was put back; the next run does it first."""
    device = Jetson(tmp_path)
    dies = prepared_device(device, "jetson", LOCK, say=lambda _: None)
    dies.__enter__()
    assert device.clocks() == "locked"
    with prepared_device(device, "jetson", say=pytest.fail) as preparation:
        assert device.clocks() == "free"
    assert preparation.notes == ["put back first what an interrupted run had set"]
    assert not list(Path(device.work_dir).iterdir())
    # And what was stored by one that died before it locked anything is in nobody's way.
    (Path(device.work_dir) / "jetson_clocks.conf").write_text("stale")
    prepared(device, "jetson", LOCK)
    assert device.clocks() == "free"
    dies.__exit__(None, None, None)


def test_without_root_the_lock_is_refused(tmp_path: Path) -> None:
    device = Jetson(tmp_path)
    device.program("sudo", 'echo "sudo: a password is required" >&2; exit 1')
    with pytest.raises(
        DeviceError, match=r"ssh nv@orin: cannot lock.*a password is required.*root"
    ):
        prepared(device, "jetson", LOCK)
    assert device.clocks() == "free"
    device.prints("id", "0\n")
    (tmp_path / "bin" / "sudo").unlink()
    with pytest.raises(DeviceError, match="Run this script"):
        prepared(device, "jetson", LOCK)


def test_a_lock_that_does_not_hold_is_noted(tmp_path: Path) -> None:
    device = Jetson(tmp_path)
    program = tmp_path / "bin" / "jetson_clocks"
    program.write_text(program.read_text().replace("*) printf locked", "*) printf loose"))
    notes = prepared(device, "jetson", LOCK).notes
    assert notes == ["clocks: jetson_clocks ran, but not locked: GPU, cpu0"]


@pytest.mark.parametrize("kind", ["ssh", "local"])
def test_the_command_for_the_user_says_what_is_meant(tmp_path: Path, kind: str) -> None:
    device = FolderDevice(tmp_path, kind=kind)
    device.name = "ssh pi@10.0.0.5" if kind == "ssh" else "local"
    argv = ["sh", "-c", "echo 'a b' \"$HOME\" && rm -f '/x y'"]
    words = shlex.split(user_command(device, argv))
    if kind == "ssh":
        assert words[:2] == ["ssh", "pi@10.0.0.5"] and len(words) == 3
        words = shlex.split(words[2])
    assert words == argv


def test_a_program_of_another_run_is_refused(tmp_path: Path) -> None:
    """It is recognised by the working folder in its command line, on this machine too."""
    device = LocalTransport(tmp_path / "a.b" / "device")
    device.kind, device.name = "ssh", "ssh pi@10.0.0.5"
    check_idle(device)
    runner = Path(device.work_dir) / "runner" / "r"
    runner.parent.mkdir(parents=True)
    runner.symlink_to("/bin/sleep")
    with subprocess.Popen([str(runner), "60"]) as left:
        with pytest.raises(
            DeviceError, match=rf"still going on there.*ssh pi@10.0.0.5 'kill -KILL {left.pid}'"
        ):
            check_idle(device)
        left.kill()
    check_idle(device)
