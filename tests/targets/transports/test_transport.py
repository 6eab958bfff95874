"""What every transport promises: this machine, a real SSH server, and the example of a new one.

Those of adb are held on a stand-in phone, whose Android is another system: test_adb.py.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.errors import DeviceError
from targets.transports.fake import FakeTransport
from targets.transports.local import open_local
from targets.transports.ssh import open_ssh
from targets.transports.transport import (
    Done,
    Transport,
    check,
    push_changed,
    remote_sha256,
    remove_work_dir,
    shell_line,
)
from tests.stand_ins.examples import example
from tests.stand_ins.programs_here import goes_on, noise
from tests.stand_ins.ssh_server import SshServer, ssh_server

TORTURE = [
    "",
    " ",
    "two words",
    "a  b\tc",
    "line\nbreak\n",
    "\r\n",
    "it's",
    '"quoted"',
    "'",
    "\\",
    "\\n",
    "a\\\\b\\",
    "$HOME",
    "${HOME}",
    "$(id)",
    "`id`",
    "*",
    "/*",
    "?[a-z]",
    "~",
    "~root",
    "!!",
    "#no comment",
    "a;b",
    "a&b|c>d<e",
    "(x){y}",
    "-n",
    "--",
    "A=B",
    "%s%d",
    "grüße 姿勢 🤸",
    "\x01\x1b[31m\x7f",
    "\udcff\udc80",  # bytes that are no UTF-8
    "x" * 60_000,
]
SAY_ARGUMENTS = ["sh", "-c", r'for item; do printf "%s\0" "$item"; done', "sh"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def local_transport(folder: Path, request: pytest.FixtureRequest) -> Transport:
    del request
    return open_local(folder)


def ssh_transport(folder: Path, request: pytest.FixtureRequest) -> Transport:
    del folder
    server: SshServer = request.getfixturevalue("server")
    return open_ssh(server.host, config=server.config, known_hosts=server.known_hosts)


def example_transport(folder: Path, request: pytest.FixtureRequest) -> Transport:
    """Of CONTRIBUTING.md."""
    del request
    opened: Transport = example("NiceTransport")(folder)
    return opened


TRANSPORTS = {"local": local_transport, "ssh": ssh_transport, "example": example_transport}


@pytest.fixture(scope="module", params=TRANSPORTS)
def connection(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Transport]:
    folder = tmp_path_factory.mktemp("cache") / "edgepose/device"
    with closing(TRANSPORTS[request.param](folder, request)) as opened:
        yield opened


@pytest.fixture
def transport(connection: Transport) -> Iterator[Transport]:
    """Each test finds no working folder."""
    yield connection
    remove_work_dir(connection)


def listing(transport: Transport, folder: str) -> list[str]:
    done = transport.run(["ls", "-A", folder], timeout_s=20)
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize("shell", ["dash", "bash", "zsh", "mksh", "busybox"])
def test_a_shell_line_passes_every_argument_unchanged(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    (tmp_path / "a file that * would match").touch()
    argv = [shell, "sh"] if shell == "busybox" else [shell]
    line = shell_line([*SAY_ARGUMENTS, *TORTURE], {"A": "it's $HOME\n*", "B2_": ""})
    done = subprocess.run(
        [*argv, "-c", line.encode("utf-8", "surrogateescape")],
        cwd=tmp_path,
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(item) for item in TORTURE]
    line = shell_line(["printenv", "A"], {"A": "it's $HOME\n*", "B2_": ""}) + "; echo RC=$?"
    done = subprocess.run([*argv, "-c", line], capture_output=True, timeout=20, check=True)
    assert done.stdout == b"it's $HOME\n*\nRC=0\n"
    line = shell_line(["sh", "-c", "exit 7"]) + "; echo RC=$?"
    done = subprocess.run([*argv, "-c", line], capture_output=True, timeout=20, check=True)
    assert done.stdout == b"RC=7\n"


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        ([], {}),
        ([""], {}),
        (["-c"], {}),
        (["a\0b"], {}),
        (["true"], {"A": "\0"}),
        (["true"], {"A-B": "x"}),
        (["true"], {"A;id": "x"}),
        (["true"], {"": "x"}),
        (["true"], {"1A": "x"}),
    ],
)
def test_what_no_shell_can_pass_on_is_refused(argv: list[str], env: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"not a|NUL"):
        shell_line(argv, env)
    with pytest.raises(ValueError, match=r"not a|NUL"):
        open_local().run(argv, timeout_s=1, env=env)


def test_arguments_arrive_unchanged(transport: Transport) -> None:
    done = transport.run([*SAY_ARGUMENTS, *TORTURE], timeout_s=20)
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(item) for item in TORTURE]
    assert done.argv == (*SAY_ARGUMENTS, *TORTURE)


def test_the_environment_is_added_to(transport: Transport) -> None:
    value = 'it\'s $HOME\n* \\ "x"'
    done = transport.run(["sh", "-c", 'printf %s "$A|$HOME"'], timeout_s=20, env={"A": value})
    text, _, home = done.stdout.decode().rpartition("|")
    assert text == value
    assert home.startswith("/")


def test_programs_run_and_not_builtins(transport: Transport) -> None:
    # The builtin of dash would turn the backslash and t into a tab.
    assert transport.run(["echo", r"a\tb"], timeout_s=20).stdout == b"a\\tb\n"


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "exit 77"], 77),
        (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["sh", "-c", "kill -SEGV $$"], 139),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["no-such-program"], 127),
        (["/no/such/program"], 127),
        (["/etc/passwd"], 126),
        (["/etc"], 126),
    ],
)
def test_exit_statuses(transport: Transport, argv: list[str], code: int) -> None:
    assert transport.run(argv, timeout_s=20).returncode == code


def test_streams_are_apart_and_binary(transport: Transport) -> None:
    every = "".join(rf"\{byte:03o}" for byte in range(256))
    done = transport.run(["sh", "-c", f"printf '{every}'; printf '{every}x' >&2"], timeout_s=20)
    assert done.stdout == bytes(range(256))
    assert done.stderr == bytes(range(256)) + b"x"


def test_much_goes_through_stdin_and_stdout(transport: Transport) -> None:
    data = noise(3_000_000)
    assert transport.run(["cat"], timeout_s=60, stdin=data).stdout == data
    done = transport.run(["sha256sum"], timeout_s=60, stdin=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert transport.run(["cat"], timeout_s=20).stdout == b""


def test_a_program_may_leave_its_input_unread(transport: Transport) -> None:
    done = transport.run(["sh", "-c", "exit 3"], timeout_s=30, stdin=noise(5_000_000))
    assert done.returncode == 3


def test_much_on_both_streams_at_once(transport: Transport) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo out$i; echo error$i >&2; i=$((i+1)); done"
    done = transport.run(["sh", "-c", script], timeout_s=60)
    assert done.stdout == b"".join(b"out%d\n" % i for i in range(20000))
    assert done.stderr == b"".join(b"error%d\n" % i for i in range(20000))


def test_a_deadline_ends_the_program_and_its_children(transport: Transport) -> None:
    seconds = f"9{time.perf_counter_ns() % 10**8:08d}"
    started = time.perf_counter()
    with pytest.raises(DeviceError, match=rf"{transport.name}: .* 0.7 s; it was ended"):
        transport.run(
            ["sh", "-c", f"sleep {seconds} & (sleep {seconds} & sleep {seconds})"], timeout_s=0.7
        )
    assert time.perf_counter() - started < 20
    assert not goes_on(f"sleep {seconds}")
    assert transport.run(["true"], timeout_s=20).returncode == 0


def test_a_deaf_program_is_ended_too(transport: Transport) -> None:
    seconds = f"9{time.perf_counter_ns() % 10**8:08d}"
    script = f"trap '' TERM HUP INT PIPE; while :; do sleep {seconds}; done"
    with pytest.raises(DeviceError, match="it was ended"):
        transport.run(["sh", "-c", script], timeout_s=0.7)
    assert not goes_on(f"sleep {seconds}")


@pytest.mark.parametrize("size", [0, 1, 32768, 5_000_003])
def test_files_go_there_and_back(transport: Transport, size: int, tmp_path: Path) -> None:
    data = noise(size)
    (tmp_path / "here").write_bytes(data)
    remote = f"{transport.work_dir}/new/folders/näme with 'quotes' $x *.bin"
    steps: list[tuple[int, int]] = []
    transport.push(
        tmp_path / "here", remote, timeout_s=60, on_progress=lambda *step: steps.append(step)
    )
    assert steps == sorted(steps)
    assert steps[-1] == (size, size)
    done = transport.run(["sha256sum"], timeout_s=20, stdin=data)
    assert remote_sha256(transport, [remote], timeout_s=20) == {remote: done.stdout.decode()[:64]}
    assert transport.run(["stat", "-c", "%a %s", remote], timeout_s=20).stdout.split() == [
        b"644",
        str(size).encode(),
    ]
    steps.clear()
    back = tmp_path / "there and/back"
    transport.pull(remote, back, timeout_s=60, on_progress=lambda *step: steps.append(step))
    assert back.read_bytes() == data
    assert steps == sorted(steps)
    assert steps[-1] == (size, size)
    assert listing(transport, f"{transport.work_dir}/new/folders") == [Path(remote).name]
    assert [path.name for path in back.parent.iterdir()] == ["back"]


def test_a_pushed_program_runs_and_may_be_replaced(transport: Transport, tmp_path: Path) -> None:
    remote = f"{transport.work_dir}/program"
    for word in ("first", "second and longer"):
        (tmp_path / "program").write_text(f"#!/bin/sh\necho {word} $1\n")
        transport.push(tmp_path / "program", remote, executable=True, timeout_s=20)
        assert transport.run([remote, "x"], timeout_s=20).stdout == f"{word} x\n".encode()
    transport.push(tmp_path / "program", remote, timeout_s=20)
    assert transport.run([remote], timeout_s=20).returncode == 126


def test_a_missing_file_is_told_and_nothing_changes(transport: Transport, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    missing = f"{transport.work_dir}/missing"
    with pytest.raises(DeviceError, match=r"missing.*[Nn]o such file"):
        transport.pull(missing, kept, timeout_s=20)
    assert kept.read_text() == "as it was"
    assert list(tmp_path.glob(".*")) == []
    with pytest.raises(DeviceError, match=r"nowhere.*[Nn]o such file"):
        transport.push(tmp_path / "nowhere", missing, timeout_s=20)
    assert transport.run(["test", "-e", missing], timeout_s=20).returncode == 1


def test_a_file_where_a_folder_should_be(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    transport.push(tmp_path / "file", f"{transport.work_dir}/file", timeout_s=20)
    with pytest.raises(DeviceError, match=f"{transport.name}.*file/below"):
        transport.push(tmp_path / "file", f"{transport.work_dir}/file/below", timeout_s=20)
    transport.run(["mkdir", f"{transport.work_dir}/folder"], timeout_s=20)
    with pytest.raises(DeviceError, match=f"{transport.name}.*/folder"):
        transport.push(tmp_path / "file", f"{transport.work_dir}/folder", timeout_s=20)
    assert listing(transport, transport.work_dir) == ["file", "folder"]


def test_only_absolute_paths(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for remote in ("relative", "", "/folder/", "/a\0b", "~/x"):
        with pytest.raises(ValueError, match="absolute"):
            transport.push(tmp_path / "file", remote, timeout_s=20)
        with pytest.raises(ValueError, match="absolute"):
            transport.pull(remote, tmp_path / "back", timeout_s=20)


def test_only_what_changed_is_pushed(transport: Transport, tmp_path: Path) -> None:
    folder, remote = tmp_path / "artifact", f"{transport.work_dir}/artifact"
    (folder / "deep er").mkdir(parents=True)
    (folder / "model.bin").write_bytes(noise(300_000, 1))
    (folder / "deep er/back\\slash\nand break").write_bytes(b"odd")
    (folder / "empty").touch()
    every = {
        f"{remote}/{name}" for name in ("model.bin", "deep er/back\\slash\nand break", "empty")
    }
    steps: list[tuple[int, int]] = []

    def push() -> set[str]:
        steps.clear()
        return set(
            push_changed(
                transport, folder, remote, timeout_s=60, on_progress=lambda *s: steps.append(s)
            )
        )

    assert push() == every
    assert steps[-1] == (300_003, 300_003)
    assert push() == set()
    assert steps == []
    # A change of the same length, on either side.
    (folder / "model.bin").write_bytes(noise(300_000, 2))
    assert push() == {f"{remote}/model.bin"}
    assert steps[-1] == (300_000, 300_000)
    transport.run(["cp", f"{remote}/model.bin", f"{remote}/empty"], timeout_s=20)
    assert push() == {f"{remote}/empty"}


def test_an_unchanged_program_becomes_executable(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\necho here\n")
    remote = f"{transport.work_dir}/program"
    assert push_changed(transport, tmp_path / "program", remote, timeout_s=20) == (remote,)
    assert (
        push_changed(transport, tmp_path / "program", remote, executable=True, timeout_s=20) == ()
    )
    assert transport.run([remote], timeout_s=20).stdout == b"here\n"


def test_the_working_folder_is_removed_and_nothing_else(
    transport: Transport, tmp_path: Path
) -> None:
    beside = f"{transport.work_dir}-beside"
    (tmp_path / "file").write_text("x")
    transport.push(tmp_path / "file", f"{transport.work_dir}/a/b", timeout_s=20)
    transport.push(tmp_path / "file", f"{beside}/kept", timeout_s=20)
    remove_work_dir(transport)
    assert transport.run(["test", "-e", transport.work_dir], timeout_s=20).returncode == 1
    assert listing(transport, beside) == ["kept"]
    transport.run(["rm", "-rf", beside], timeout_s=20)
    remove_work_dir(transport)  # nothing to do is no error


@pytest.mark.parametrize(
    "folder",
    [
        "/",
        "/home",
        "/home/pi",
        "/home/pi/.cache/edgepose",
        "/home/pi/../edgepose/device",
        "/home//edgepose/device",
        "/home/edgepose/device/",
        "edgepose/device",
        "/data/local/tmp",
        "/data/local/tmp/../tmp/edgepose",
        "",
    ],
)
def test_no_foreign_folder_is_removed(folder: str) -> None:
    device = FakeTransport(work_dir=folder)
    with pytest.raises(DeviceError, match="will not remove"):
        remove_work_dir(device)
    assert device.calls == []


def test_check_tells_what_how_and_why() -> None:
    done = Done(("cat", "a b"), 0, b"text", b"")
    assert check(done, "reading") is done
    with pytest.raises(DeviceError) as caught:
        check(Done(("cat", "a b"), 1, b"", b"1\n2\ncat: a b: No such file\n"), "reading on fake")
    lines = str(caught.value).splitlines()
    assert lines[0] == "reading on fake: `cat 'a b'` exited with 1:"
    assert lines[-1].strip() == "cat: a b: No such file"
    with pytest.raises(DeviceError, match=r"ended by signal 9 .*memory"):
        check(Done(("bench",), 137, b"", b""), "timing")
    with pytest.raises(DeviceError, match=r"127.*no such program"):
        check(Done(("trtexec",), 127, b"", b"sh: not found"), "building")


def test_local_deadline_holds_for_a_copy(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(noise(4_000_000))
    with pytest.raises(DeviceError, match="did not end within"):
        open_local().push(tmp_path / "file", f"{tmp_path}/copy", timeout_s=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_local_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEPOSE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_local().work_dir == f"{tmp_path}/edgepose/device"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert open_local().work_dir == "/home/somebody/.cache/edgepose/device"
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "own"))
    # `edge clean` removes only what ends so.
    assert open_local().work_dir == f"{tmp_path}/own/edgepose/device"
