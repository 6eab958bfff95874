from __future__ import annotations

import hashlib
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edge.errors import DeviceError, EdgeError
from targets.devices.state import read_device, read_state
from targets.transports.adb import adb_devices, open_adb
from targets.transports.adb_server import AdbDevice, parse_device
from targets.transports.transport import Transport, check, push_changed, remove_work_dir
from tests.conftest import ROOT, heed_interrupts
from tests.stand_ins.adb_device import (
    NEW_ANDROID,
    OLD_ANDROID,
    StandInPhone,
    adb,
    connected,
    own_adb_server,
)

pytestmark = [pytest.mark.long, pytest.mark.alone]

WORK = "/data/local/tmp/edgepose"
ANDROIDS = {"new": NEW_ANDROID, "old": OLD_ANDROID}
TORTURE = [
    "", " ", "a b", "'", '"', "it's \"so\"", "$HOME", "${HOME}", "$(id)", "`id`", "*", "/*", "~",
    "!", "a\nb", "\n", "\t", "\r\n", "\\", "\\n", "a;b", "&&", "|", "> /x", "#", "%s", "-n", "--",
    "=", "a=b",
    "{a,b}", "[a-z]", "äöü 手", "\udcff\udc80", "\x01\x7f", "x" * 200,
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_adb_server(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def root(server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    return tmp_path_factory.mktemp("phone")


@pytest.fixture(params=list(ANDROIDS))
def phone(request: pytest.FixtureRequest, root: Path) -> Iterator[StandInPhone]:
    with connected(StandInPhone(root, features=ANDROIDS[request.param])) as phone:
        yield phone
    shutil.rmtree(root / "data/local/tmp/edgepose", ignore_errors=True)
    assert not list((root / "data/local/tmp").iterdir()), "scratch files were left"


@pytest.fixture
def new_phone(root: Path) -> Iterator[StandInPhone]:
    with connected(StandInPhone(root)) as phone:
        yield phone
    shutil.rmtree(root / "data/local/tmp/edgepose", ignore_errors=True)


@pytest.fixture
def transport(phone: StandInPhone) -> Transport:
    return open_adb(phone.serial)


def pids_of(text: str) -> list[int]:
    """Processes with an argument that is exactly this; the text must be one of a kind."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if text.encode() in argv:
            found.append(int(entry.name))
    return found


def wait_until(condition: object, what: str, timeout_s: float = 20.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def odd_seconds() -> str:
    """A number of seconds that no other process sleeps for."""
    return f"{random.SystemRandom().randint(10**8, 10**9)}"


# The stand-in against adb's own client: what it gets wrong would make everything below worthless.


def test_adb_s_own_client_finds_a_phone_in_the_stand_in(
    phone: StandInPhone, tmp_path: Path
) -> None:
    is_new = "shell_v2" in phone.features
    listing = adb("devices", "-l")
    assert phone.serial in listing and "model:Mi_10" in listing and " device " in listing
    shell = ["adb", "-s", phone.serial, "shell"]
    done = subprocess.run(
        [*shell, "echo out; echo err >&2; exit 7"], stdin=subprocess.DEVNULL, capture_output=True
    )
    if is_new:
        assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    else:  # a terminal, and no status: what Android 6 and older did
        assert (done.returncode, done.stdout, done.stderr) == (0, b"out\r\nerr\r\n", b"")
    data = random.Random(1).randbytes(2_000_000)
    (tmp_path / "blob").write_bytes(data)
    assert "1 file pushed" in adb(
        "-s", phone.serial, "push", str(tmp_path / "blob"), f"{WORK}/x/blob"
    )
    assert (phone.root / WORK.lstrip("/") / "x/blob").read_bytes() == data
    assert "1 file pulled" in adb(
        "-s", phone.serial, "pull", f"{WORK}/x/blob", str(tmp_path / "back")
    )
    assert (tmp_path / "back").read_bytes() == data
    assert "blob" in adb("-s", phone.serial, "ls", f"{WORK}/x")
    phone.knobs.disk_full_after(1_000_000)
    assert "No space left" in adb("-s", phone.serial, "push", str(tmp_path / "blob"), f"{WORK}/y")
    phone.knobs.disk_full_after(None)
    assert "Permission denied" in adb(
        "-s", phone.serial, "push", str(tmp_path / "blob"), "/system/y"
    )


# Programs


@pytest.mark.parametrize(
    ("line", "code"),
    [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)],
)
def test_exit_codes_are_true(transport: Transport, line: str, code: int) -> None:
    done = transport.run(["sh", "-c", f"echo out; echo err >&2; {line}"], timeout_s=30)
    # A shell that waits for a killed program says so itself.
    stderr = done.stderr.removesuffix(b"Killed \n").removesuffix(b"Terminated \n")
    assert (done.returncode, done.stdout, stderr) == (code, b"out\n", b"err\n")


def test_missing_and_forbidden_programs(transport: Transport) -> None:
    assert transport.run(["no-such-program"], timeout_s=30).returncode == 127
    assert transport.run(["/sim/props"], timeout_s=30).returncode == 126
    assert transport.run(["false"], timeout_s=30).returncode == 1


def test_arguments_arrive_as_they_are(transport: Transport) -> None:
    for arguments in (TORTURE, [*TORTURE, "y" * 9000]):  # the second: longer than a service's name
        done = transport.run(["printf", "%s\\0", *arguments], timeout_s=30)
        assert done.returncode == 0
        assert done.stdout == b"".join(os.fsencode(text) + b"\0" for text in arguments)
        assert done.stderr == b""


def test_environment_arrives_as_it_is(transport: Transport) -> None:
    value = "".join(TORTURE)
    done = transport.run(["printenv", "ODD"], timeout_s=30, env={"ODD": value, "OTHER": "x"})
    assert done.stdout == os.fsencode(value) + b"\n"
    home = transport.run(["printenv", "ANDROID_ROOT"], timeout_s=30, env={"OTHER": "x"})
    assert home.stdout == b"/system\n"


def test_output_is_binary_and_kept_apart(transport: Transport) -> None:
    data = bytes(range(256)) * 4000
    done = transport.run(["sh", "-c", "cat; printf e >&2"], timeout_s=60, stdin=data)
    assert done.stdout == data
    assert done.stderr == b"e"
    nothing = transport.run(["wc", "-c"], timeout_s=30)
    assert nothing.stdout.strip() == b"0"


def test_input_that_nobody_reads(transport: Transport) -> None:
    done = transport.run(["sh", "-c", "exit 3"], timeout_s=30, stdin=bytes(3_000_000))
    assert done.returncode == 3


def test_no_output_is_taken_for_the_mark(transport: Transport) -> None:
    # The program prints the very line that its shell was given.
    done = transport.run(["sh", "-c", "cat /proc/$PPID/cmdline; exit 5"], timeout_s=30)
    assert done.returncode == 5
    assert done.stdout.endswith(b"\0") or done.stdout == b""  # no /proc of its own on some hosts


def test_what_the_device_prints_first_is_not_the_program_s(phone: StandInPhone) -> None:
    phone.garbage = b"WARNING: linker: unsupported flags DT_FLAGS_1=0x8000001\n\xff\0"
    done = open_adb(phone.serial).run(["echo", '{"a": 1}'], timeout_s=30)
    assert done.stdout == b'{"a": 1}\n'


def test_an_aarch64_program_runs(transport: Transport, tmp_path: Path) -> None:
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("aarch64-linux-gnu-gcc is not installed (Debian: gcc-aarch64-linux-gnu)")
    source = "#include <sys/utsname.h>\n#include <stdio.h>\nint main(int n, char **v) {"
    source += ' struct utsname u; uname(&u); printf("%s %d %s", u.machine, n, v[1]); return 42; }'
    (tmp_path / "main.c").write_text(source)
    program = [compiler, "-O1", "-static", str(tmp_path / "main.c"), "-o", str(tmp_path / "main")]
    subprocess.run(program, check=True)
    transport.push(tmp_path / "main", f"{WORK}/main", executable=True, timeout_s=30)
    done = transport.run([f"{WORK}/main", "a b"], timeout_s=60)
    assert (done.stdout, done.returncode) == (b"aarch64 2 a b", 42)


# Files


def test_files_go_both_ways_unchanged(transport: Transport, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(5_242_881)
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "out.bin").write_bytes(data)
    seen: list[tuple[int, int]] = []
    remote = f"{WORK}/a folder/it's $HOME *.bin"
    transport.push(
        tmp_path / "out.bin", remote, timeout_s=60, on_progress=lambda *step: seen.append(step)
    )
    assert transport.run(["sha256sum", remote], timeout_s=30).stdout.split()[0] == digest.encode()
    assert len(seen) > 10 and seen == sorted(seen) and seen[-1] == (len(data), len(data))
    assert transport.run(["ls", f"{WORK}/a folder"], timeout_s=30).stdout == b"it's $HOME *.bin\n"
    seen.clear()
    back = tmp_path / "not yet/there/back.bin"
    transport.pull(remote, back, timeout_s=60, on_progress=lambda *step: seen.append(step))
    assert hashlib.sha256(back.read_bytes()).hexdigest() == digest
    assert len(seen) > 10 and seen == sorted(seen) and seen[-1] == (len(data), len(data))
    assert [path.name for path in back.parent.iterdir()] == ["back.bin"]


def test_an_empty_file_and_one_over_another(transport: Transport, tmp_path: Path) -> None:
    for data in (b"long before", b"", b"\r\n"):
        (tmp_path / "file").write_bytes(data)
        transport.push(tmp_path / "file", f"{WORK}/file", timeout_s=30)
        transport.pull(f"{WORK}/file", tmp_path / "back", timeout_s=30)
        assert (tmp_path / "back").read_bytes() == data
    assert transport.run(["ls", WORK], timeout_s=30).stdout == b"file\n"


def test_executable_only_where_asked(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/system/bin/sh\nexit 9\n")
    transport.push(tmp_path / "script", f"{WORK}/script", timeout_s=30)
    assert transport.run([f"{WORK}/script"], timeout_s=30).returncode == 126
    transport.push(tmp_path / "script", f"{WORK}/script", executable=True, timeout_s=30)
    assert transport.run([f"{WORK}/script"], timeout_s=30).returncode == 9


def test_unchanged_files_stay_and_the_folder_goes(
    transport: Transport, tmp_path: Path, phone: StandInPhone
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name * 1000)
    assert len(push_changed(transport, tmp_path, f"{WORK}/art", timeout_s=60)) == 3
    assert push_changed(transport, tmp_path, f"{WORK}/art", timeout_s=60) == ()
    (tmp_path / "b").write_text("else")
    assert push_changed(transport, tmp_path, f"{WORK}/art", timeout_s=60) == (f"{WORK}/art/b",)
    remove_work_dir(transport)
    assert not (phone.root / WORK.lstrip("/")).exists()


@pytest.mark.parametrize(
    ("remote", "reason"),
    [
        (f"{WORK}/absent", "No such file or directory"),
        ("/data", "folder"),
        ("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_cur_freq", "Permission denied"),
    ],
)
def test_what_cannot_be_pulled(
    transport: Transport, tmp_path: Path, remote: str, reason: str
) -> None:
    (tmp_path / "file").write_text("before")
    with pytest.raises(DeviceError, match=reason) as caught:
        transport.pull(remote, tmp_path / "file", timeout_s=30)
    assert transport.name in str(caught.value) and remote in str(caught.value)
    assert (tmp_path / "file").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_pushed(transport: Transport, tmp_path: Path, phone: StandInPhone) -> None:
    big = tmp_path / "big"
    big.write_text("small yet")
    transport.push(big, f"{WORK}/big", timeout_s=30)
    big.write_bytes(bytes(6_000_000))
    phone.knobs.disk_full_after(1_000_000)
    try:
        with pytest.raises(DeviceError, match="No space left on device; free some space"):
            transport.push(big, f"{WORK}/big", timeout_s=30)
    finally:
        phone.knobs.disk_full_after(None)
    assert transport.run(["cat", f"{WORK}/big"], timeout_s=30).stdout == b"small yet"
    assert transport.run(["ls", WORK], timeout_s=30).stdout == b"big\n"
    with pytest.raises(DeviceError, match="Permission denied"):
        transport.push(big, "/system/big", timeout_s=30)
    with pytest.raises(DeviceError, match="no-such-file"):
        transport.push(tmp_path / "no-such-file", f"{WORK}/x", timeout_s=30)
    with pytest.raises(ValueError, match="absolute"):
        transport.push(big, "relative", timeout_s=30)


# Deadlines and Ctrl-C


@pytest.mark.parametrize(
    "script", ["sleep {}", "sleep {} & sleep {}; wait", "trap '' TERM; while :; do sleep {}; done"]
)
def test_what_outlives_its_deadline_is_ended(transport: Transport, script: str) -> None:
    seconds = odd_seconds()
    started = time.monotonic()
    with pytest.raises(DeviceError, match="did not end within 1 s and was ended") as caught:
        transport.run(["sh", "-c", script.replace("{}", seconds)], timeout_s=1)
    assert transport.name in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - started < 8
    wait_until(lambda: not pids_of(seconds), "the program was left running", 2)


def test_a_deadline_holds_for_files(
    transport: Transport, tmp_path: Path, phone: StandInPhone
) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(4_000_000))

    def dawdle(sent: int, total: int) -> None:
        if sent < total:
            time.sleep(0.1)

    with pytest.raises(DeviceError, match=r"pushing big .* did not end within 0.3 s"):
        transport.push(big, f"{WORK}/big", timeout_s=0.3, on_progress=dawdle)
    folder = phone.root / WORK.lstrip("/")
    wait_until(lambda: not list(folder.iterdir()), "half a file was left")
    transport.push(big, f"{WORK}/big", timeout_s=30)
    with pytest.raises(DeviceError, match=r"pulling .* did not end within 0.3 s"):
        transport.pull(f"{WORK}/big", tmp_path / "back", timeout_s=0.3, on_progress=dawdle)
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


@pytest.mark.parametrize("what", ["run", "push"])
def test_ctrl_c_leaves_nothing_behind(phone: StandInPhone, tmp_path: Path, what: str) -> None:
    seconds = odd_seconds()
    (tmp_path / "big").write_bytes(bytes(4_000_000))
    calls = {
        "run": f"phone.run(['sh', '-c', 'sleep {seconds} & sleep {seconds}; wait'], timeout_s=600)",
        "push": f"phone.push(Path({str(tmp_path / 'big')!r}), '{WORK}/big', timeout_s=600,"
        " on_progress=lambda *_: time.sleep(0.2))",
    }
    code = "import time; from pathlib import Path; from targets.transports.adb import open_adb\n"
    code += f"phone = open_adb({phone.serial!r})\n{calls[what]}"
    part = phone.root / WORK.lstrip("/") / "big.part"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, preexec_fn=heed_interrupts
    ) as process:
        wait_until(lambda: len(pids_of(seconds)) >= 2 or part.exists(), "nothing began")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode != 0 and b"KeyboardInterrupt" in errors
    assert not pids_of(seconds)
    wait_until(lambda: not part.exists(), "half a file was left", 5)


# Devices that are not there, not ready, or go away


def test_no_device() -> None:
    assert adb_devices() == ()
    with pytest.raises(DeviceError, match=r"no device; .*USB debugging"):
        open_adb()
    with pytest.raises(DeviceError, match="adb 1a2b: not connected; check its cable"):
        open_adb("1a2b")
    with pytest.raises(DeviceError, match=r"run `adb connect 10.0.0.9:5555`"):
        open_adb("10.0.0.9:5555")


def test_the_only_device_needs_no_serial(new_phone: StandInPhone) -> None:
    (device,) = adb_devices()
    assert (device.serial, device.state, device.model) == (new_phone.serial, "device", "Mi 10")
    assert device.transport_id.isdecimal() and device.problem == ""
    transport = open_adb()
    assert (transport.name, transport.kind) == (f"adb {new_phone.serial}", "adb")
    assert transport.work_dir == WORK
    transport.close()
    transport.close()


def test_two_devices_need_a_serial(
    root: Path, new_phone: StandInPhone, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(StandInPhone(root)) as other:
        with pytest.raises(DeviceError, match="several devices, name one with SERIAL") as caught:
            open_adb()
        assert new_phone.serial in str(caught.value) and other.serial in str(caught.value)
        open_adb(other.serial).run(["true"], timeout_s=30)
        assert len(other.commands) == 1 and not new_phone.commands
        monkeypatch.setenv("ANDROID_SERIAL", new_phone.serial)
        open_adb().run(["true"], timeout_s=30)
        assert len(other.commands) == 1 and len(new_phone.commands) == 1


def test_an_unauthorised_device(root: Path) -> None:
    with connected(StandInPhone(root, state="unauthorized")) as phone:
        wait_until(lambda: "unauthorized" in adb("devices"), "never listed")
        assert [device.state for device in adb_devices()] == ["unauthorized"]
        with pytest.raises(DeviceError, match="not authorised this computer: unlock its screen"):
            open_adb(phone.serial)


def test_an_offline_device(root: Path) -> None:
    with ExitStack() as stack:
        phone = StandInPhone(root, state="silent").start()
        stack.callback(phone.stop)
        client = subprocess.Popen(
            ["adb", "connect", phone.serial], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(adb, "disconnect", phone.serial)
        stack.callback(client.wait)
        wait_until(lambda: phone.serial in adb("devices"), "never listed")
        with pytest.raises(DeviceError, match=r"(offline|being connected).*(adb connect|repeat)"):
            open_adb(phone.serial)


@contextmanager
def lost(phone: StandInPhone, match: str) -> Iterator[None]:
    started = time.monotonic()
    with pytest.raises(DeviceError, match=match) as caught:
        yield
    assert phone.serial in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - started < 10


def test_the_cable_is_pulled_in_a_run(new_phone: StandInPhone) -> None:
    seconds = odd_seconds()
    transport = open_adb(new_phone.serial)
    new_phone.on_command(seconds, new_phone.pull_cable, after_s=0.5)
    with lost(new_phone, rf"disconnected during `sleep {seconds}`; check its cable"):
        transport.run(["sleep", seconds], timeout_s=60)
    # adbd hangs up on what ran in its shell.
    wait_until(lambda: not pids_of(seconds), "the program was left running", 5)


def test_the_cable_is_pulled_in_a_push(phone: StandInPhone, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(5_000_000))
    transport = open_adb(phone.serial)
    phone.cut_push_after = 1_000_000
    with lost(phone, f"disconnected during pushing big to {WORK}/big; check its cable"):
        transport.push(tmp_path / "big", f"{WORK}/big", timeout_s=60)
    folder = phone.root / WORK.lstrip("/")
    wait_until(lambda: not list(folder.iterdir()), "half a file was left")


def test_the_cable_is_pulled_in_a_pull(phone: StandInPhone, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(5_000_000))
    transport = open_adb(phone.serial)
    transport.push(tmp_path / "big", f"{WORK}/big", timeout_s=60)

    def pull_cable(received: int, _: int) -> None:
        if received > 1_000_000:
            phone.pull_cable()
            time.sleep(0.05)

    with lost(phone, f"disconnected during pulling {WORK}/big"):
        transport.pull(f"{WORK}/big", tmp_path / "back", timeout_s=60, on_progress=pull_cable)
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


def test_a_reboot_in_a_run_and_the_next_call(phone: StandInPhone) -> None:
    transport = open_adb(phone.serial)
    seconds = odd_seconds()
    phone.on_command(seconds, lambda: phone.reboot(away_s=0.5), after_s=0.3)
    with lost(phone, r"(disconnected during|broke off during)"):
        transport.run(["sleep", seconds], timeout_s=60)
    wait_until(lambda: not pids_of(seconds), "the program outlived the reboot", 5)
    with lost(phone, r"(offline|not connected)"):
        transport.run(["true"], timeout_s=30)

    def is_back() -> bool:
        # Not waiting for the server, which tries again every ten seconds.
        adb("disconnect", phone.serial)
        adb("connect", phone.serial)
        return any(device.state == "device" for device in adb_devices())

    wait_until(is_back, "the phone did not come back", 30)
    assert transport.run(["echo", "back"], timeout_s=30).stdout == b"back\n"


def test_memory_runs_out_in_a_run(phone: StandInPhone) -> None:
    transport = open_adb(phone.serial)
    seconds = odd_seconds()

    def kill_the_program() -> None:
        for pid in pids_of(seconds):
            os.kill(pid, signal.SIGKILL)

    phone.on_command(seconds, kill_the_program, after_s=0.5)
    done = transport.run(["sleep", seconds], timeout_s=30)
    assert done.returncode == 137
    with pytest.raises(DeviceError, match="memory runs out"):
        check(done, f"the run on {transport.name}")


def test_the_state_of_a_phone_over_adb(phone: StandInPhone) -> None:
    transport = open_adb(phone.serial)
    info = read_device(transport)
    assert (info.soc, info.arch, info.cores) == ("SM8250", "aarch64", 8)
    assert info.emulated, "a latency of this phone must never count"
    phone.knobs.thermal(0, 3)
    before = read_state(transport, "android")
    phone.knobs.clocks(0.5)
    phone.knobs.battery_saver()
    after = read_state(transport, "android")
    phone.knobs.clocks()
    phone.knobs.battery_saver(on=False)
    phone.knobs.thermal(0)
    assert (before.thermal_status, after.thermal_status) == (0, 3)
    assert (before.clocks_khz["cpu7"], after.clocks_khz["cpu7"]) == (2_841_600, 1_420_800)
    assert before.battery and after.battery
    assert (before.battery.saver, after.battery.saver) == (False, True)


# The adb server


def test_a_server_is_started_and_never_ended(new_phone: StandInPhone) -> None:
    port = os.environ["ANDROID_ADB_SERVER_PORT"]
    before = pids_of(f"tcp:{port}")
    assert len(before) == 1
    transport = open_adb(new_phone.serial)
    with pytest.raises(DeviceError):
        transport.run(["sleep", "5"], timeout_s=0.3)
    transport.close()
    assert pids_of(f"tcp:{port}") == before
    adb("kill-server")
    wait_until(lambda: not pids_of(f"tcp:{port}"), "the server was not ended")
    # The new one has not been told of a phone on the network; one on a cable it would find.
    with pytest.raises(DeviceError, match="not connected"):
        transport.run(["true"], timeout_s=30)
    assert len(pids_of(f"tcp:{port}")) == 1
    adb("connect", new_phone.serial)
    assert transport.run(["true"], timeout_s=30).returncode == 0


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port without an adb server, in the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    return port


def test_no_adb_program(no_server: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"install it .* or set ADB or ANDROID_HOME"):
        adb_devices()
    monkeypatch.setenv("ADB", str(tmp_path / "adb"))
    with pytest.raises(DeviceError, match=r"ADB=.*: no such program; correct or unset ADB"):
        adb_devices()
    monkeypatch.delenv("ADB")
    tools = tmp_path / "platform-tools"
    tools.mkdir()
    (tools / "adb").write_text("#!/bin/sh\necho broken installation >&2\nexit 3\n")
    (tools / "adb").chmod(0o755)
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path))
    with pytest.raises(EdgeError, match=rf"exited with 3(.|\n)*{no_server}(.|\n)*broken install"):
        adb_devices()


@contextmanager
def answering(port: int, answer: bytes | None) -> Iterator[None]:
    """Something on the port that answers each question with the same bytes, or never."""
    listener = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        held = []
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                break
            if answer is not None:
                connection.recv(100)
                connection.sendall(answer)
                connection.close()
            else:
                held.append(connection)
        for connection in held:
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_states_as_other_servers_list_them(no_server: int) -> None:
    listing = (
        b"0123456789ABCDEF       no permissions (user in plugdev group; are your udev rules "
        b"wrong?); see [http://developer.android.com/tools/device.html] usb:1-2 transport_id:3\n"
        b"emulator-5554          offline transport_id:1\n"
        b"1a2b3c                 recovery usb:1-1 product:umi model:Mi_10_Pro device:umi\n"
    )
    with answering(no_server, b"OKAY%04x" % len(listing) + listing):
        first, second, third = adb_devices()
        with pytest.raises(DeviceError, match=r"adb 0123456789ABCDEF may not be opened .*udev"):
            open_adb("0123456789ABCDEF")
    assert (first.transport_id, second.state, second.transport_id) == ("3", "offline", "1")
    assert first.state.startswith("no permissions") and "unplug it" in second.problem
    assert (third.model, third.state) == ("Mi 10 Pro", "recovery")
    assert "start Android" in third.problem


@pytest.mark.parametrize(
    "serial",
    [
        "adb-0A1B2C3D-QwErTy (2)._adb-tls-connect._tcp",
        "192.168.1.5:5555",
        "a b",
        "device offline device",
        "my phone model:Pixel_8",
        "no permissions phone",
        "$(touch x); 'quoted' \\",
        "naïve-号",
        "x" * 100,
    ],
)
@pytest.mark.parametrize(
    "state", ["device", "offline", "recovery", "no permissions (a b); see [http://x:1/y]"]
)
def test_serials_hold_anything(serial: str, state: str) -> None:
    for facts in (
        "",
        " usb:1-2 product:umi model:Mi_10 device:umi transport_id:7",
        " transport_id:7",
    ):
        device = parse_device(f"{serial:<22} {state}{facts}")
        assert device is not None
        assert (device.serial, device.state) == (serial, state)
        assert device.transport_id == ("7" if facts else "")
        assert shlex.split(f"adb -s {device.quoted}") == ["adb", "-s", serial]


def test_the_serial_asked_for_is_the_one_that_was_listed(no_server: int) -> None:
    listing = b"a (2)._tcp             device model:Pixel_8\nb                      device\n"
    with answering(no_server, b"OKAY%04x" % len(listing) + listing):
        with pytest.raises(
            DeviceError, match=r"name one with SERIAL=\.\.\.: 'a \(2\)._tcp' \(Pixel 8\), b "
        ):
            open_adb()
        with pytest.raises(DeviceError, match="adb c d: not connected"):
            open_adb("c d")
    assert parse_device("") is None
    assert parse_device(" " * 65000) is None
    assert parse_device("alone") == AdbDevice("alone", "unknown")


def test_a_server_that_hangs_or_is_none(no_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    with answering(no_server, None), pytest.raises(DeviceError, match=r"within 0.5 s; it may hang"):
        adb_devices(timeout_s=0.5)
    assert time.monotonic() - started < 3
    with (
        answering(no_server, b"HTTP/1.1 400\r\n"),
        pytest.raises(DeviceError, match="no adb server"),
    ):
        adb_devices()
    monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:{no_server}")
    with answering(no_server, b"OKAY0000"):
        assert adb_devices() == ()
    monkeypatch.setenv("ADB_SERVER_SOCKET", "localabstract:adb")
    with pytest.raises(DeviceError, match="ADB_SERVER_SOCKET"):
        adb_devices()
    monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:127.0.0.2:{no_server}")
    with pytest.raises(DeviceError, match=f"no adb server at 127.0.0.2:{no_server}"):
        adb_devices()
    monkeypatch.delenv("ADB_SERVER_SOCKET")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "http")
    with pytest.raises(DeviceError, match="ANDROID_ADB_SERVER_PORT=http"):
        adb_devices()
