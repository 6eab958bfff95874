from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import edge.files
from edge.errors import EdgeError, ModelFileError
from edge.files import (
    cache_folder,
    private_folder,
    replacing,
    sha256_of,
    staged_folder,
    sweep,
    temporary_folder,
    write_bytes,
)
from tests.conftest import ROOT

# Runs a block in another process, says "ready" in the middle of it and stays there.
HOLDING = (
    "import sys, time; from pathlib import Path; from edge.files import {name}\n"
    "with {name}(Path(sys.argv[1]){more}) as private:\n"
    "    (private / 'half' if private.is_dir() else private).write_text('x')\n"
    "    print('ready', flush=True); time.sleep(60)\n"
)


def start(name: str, path: Path, *before: str, more: str = "") -> subprocess.Popen[bytes]:
    argv = [*before, sys.executable, "-c", HOLDING.format(name=name, more=more), str(path)]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sha256_of(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"

    def half() -> None:
        with replacing(path) as private:
            assert private.name == "file"
            private.write_bytes(b"thr")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    with replacing(path):
        pass
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["file"]
    with pytest.raises(FileNotFoundError, match="absent/file"):
        write_bytes(tmp_path / "absent" / "file", b"")
    long = tmp_path / ("é" * 127)
    write_bytes(long, b"long")
    assert long.read_bytes() == b"long"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from edge.files import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_bytes(Path(sys.argv[1]), b'x' * 2000)\n"
    )
    path = tmp_path / "file"
    path.write_text("old")
    argv = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"[Errno {errno.EFBIG}]" in done.stderr
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "final"
    with staged_folder(final) as private:
        assert private.name == "final"
        (private / "a").write_text("1")
        assert not final.exists()
    assert names(final.parent) == ["final"]
    with staged_folder(final) as private:
        (private / "b").write_text("2")
        assert (final / "a").exists()
    assert names(final) == ["b"]
    assert names(final.parent) == ["final"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ModelFileError])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").write_text("1")

    def half() -> None:
        with staged_folder(final) as private:
            (private / "new").write_text("2")
            raise error

    with pytest.raises(error):
        half()
    assert names(tmp_path) == ["final"]
    assert names(final) == ["old"]


@pytest.mark.parametrize("exchange", [True, False], ids=["one-step", "two-steps"])
def test_one_of_two_folders_is_there_at_every_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """Dies before each rename and removal in turn, in a child; then another run looks."""
    if not exchange:
        monkeypatch.setattr("edge.files._exchange", lambda *_: False)

    def dying(call: Callable[..., object], count: list[int]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            count[0] -= 1
            if count[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return run

    ended = False
    for calls in range(40):
        folder = tmp_path / str(calls)
        final = folder / "final"
        final.mkdir(parents=True)
        (final / "old").write_text("1")
        child = os.fork()
        if not child:
            count = [calls]
            for owner, name in ((os, "rename"), (os, "unlink"), (os, "rmdir"), (shutil, "rmtree")):
                setattr(owner, name, dying(getattr(owner, name), count))
            with staged_folder(final) as private:
                (private / "new").write_text("2")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if exchange:
            assert names(final) in (["old"], ["new"])
        with private_folder(folder, "other"):
            assert names(final) in (["old"], ["new"])
        assert names(folder) == ["final"]
        if status == 0:
            assert names(final) == ["new"]
            ended = True
            break
        assert status == signal.SIGKILL
    assert ended
    assert calls > 2


@pytest.mark.parametrize("name", ["staged_folder", "replacing"])
def test_what_a_killed_process_left_is_swept_up(tmp_path: Path, name: str) -> None:
    final = tmp_path / "fi[n]al"  # no pattern
    kill(start(name, final))
    (left,) = names(tmp_path)
    assert left.startswith(".fi[n]al.")
    with staged_folder(final) as private:
        (private / "whole").write_text("x")
    assert names(tmp_path) == ["fi[n]al"]


def test_a_killed_writer_s_file_is_swept_up_by_the_next_process(tmp_path: Path) -> None:
    kill(start("replacing", tmp_path / "poses.json"))
    assert len(names(tmp_path)) == 1
    code = "from pathlib import Path; from edge.files import write_bytes; import sys\n"
    code += "write_bytes(Path(sys.argv[1]), b'')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], cwd=ROOT, check=True)
    assert names(tmp_path) == ["b"]


def test_a_live_owner_keeps_its_folder(tmp_path: Path) -> None:
    process = start("staged_folder", tmp_path / "final")
    try:
        (other,) = names(tmp_path)
        with staged_folder(tmp_path / "final"), private_folder(tmp_path, "final"):
            sweep(tmp_path)
        assert (tmp_path / other / "final" / "half").is_file()
    finally:
        kill(process)
    sweep(tmp_path)
    assert names(tmp_path) == ["final"]


def test_the_same_process_number_again(tmp_path: Path) -> None:
    """As in containers, where the first process is number 1 each time."""
    alone = ["unshare", "-r", "-p", "-f", "--mount-proc"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no process namespaces for its users")
    first = start("staged_folder", tmp_path / "final", *alone)
    second = start("staged_folder", tmp_path / "final", *alone)
    both = names(tmp_path)
    assert len(both) == 2
    sweep(tmp_path)
    assert names(tmp_path) == both
    kill(first)
    third = start("staged_folder", tmp_path / "final", *alone)
    assert len(names(tmp_path)) == 2
    for process in (second, third):
        kill(process)
    sweep(tmp_path)
    assert names(tmp_path) == []


def test_folders_of_other_machines_go_when_they_are_old(tmp_path: Path) -> None:
    kill(start("staged_folder", tmp_path / "final"))
    (left,) = tmp_path.iterdir()
    machine = left.name.split(".")[2]
    foreign = left.rename(tmp_path / left.name.replace(machine, "0123abcd"))
    sweep(tmp_path)
    assert foreign.is_dir()
    long_ago = time.time_ns() - 8 * 86_400 * 10**9
    for path in (*foreign.rglob("*"), foreign):
        os.utime(path, ns=(long_ago, long_ago))
    lock = os.open(foreign / ".lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    sweep(tmp_path)
    assert foreign.is_dir()
    os.close(lock)
    sweep(tmp_path)
    assert names(tmp_path) == []


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    users = [
        ".final.old-copy.part",
        ".final.1.part",
        ".final.0123abcd.part",
        "a.0123abcd.0123abcd.part",
    ]
    for name in users:
        (tmp_path / name).mkdir()
    machine = edge.files._machine()
    (tmp_path / f".final.{machine}.0123abcd.part").write_text("a file")
    (tmp_path / f".final.{machine}.0123abce.part").symlink_to(tmp_path / users[0])
    before = names(tmp_path)
    with staged_folder(tmp_path / "final"):
        pass
    assert names(tmp_path) == sorted([*before, "final"])


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_locks_nothing_of_others_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        kept = tmp_path / "kept"
        with staged_folder(kept) as private:
            sweep(tmp_path)
            patch.undo()  # the locks come back, and do not say that this one is alive
            sweep(tmp_path)
            (private / "a").write_text("1")
    assert names(tmp_path) == ["kept"]
    assert names(kept) == ["a"]
    kill(start("staged_folder", kept))
    monkeypatch.setattr(fcntl, "flock", refuse)
    with staged_folder(kept):
        pass
    assert len(names(tmp_path)) == 2


def test_temporary_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_folder() as one, temporary_folder() as other:
        assert one != other
        assert tmp_path in one.parents
        assert one.parent.stat().st_mode & 0o777 == 0o700
    assert names(tmp_path) == []


def test_many_at_once_write_one_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edge.files import *\n"
        "for i in range(60):\n"
        "    write_bytes(Path(sys.argv[1], 'file'), sys.argv[2].encode() * 5000)\n"
        "    with staged_folder(Path(sys.argv[1], 'folder')) as private:\n"
        "        (private / 'f').write_text(sys.argv[2])\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen([*argv, text], cwd=ROOT) for text in "abc"]
    assert [process.wait() for process in running] == [0, 0, 0]
    data = (tmp_path / "file").read_bytes()
    assert data in (b"a" * 5000, b"b" * 5000, b"c" * 5000)
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "folder" / "f").read_text() in ("a", "b", "c")


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPOSE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/edgepose"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache/edgepose"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/edgepose")
    monkeypatch.setenv("EDGEPOSE_CACHE", "~/models")
    assert cache_folder() == tmp_path / "models"
    # Programs that run elsewhere find what lies there.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEPOSE_CACHE", "near")
    assert cache_folder() == tmp_path / "near"


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPOSE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    # A user that the machine does not list, as in a container with a number of its own.
    monkeypatch.setattr("pwd.getpwuid", lambda _: dict[str, str]()["nobody"])
    with pytest.raises(EdgeError, match=r"no home folder here: set HOME.*EDGEPOSE_CACHE"):
        cache_folder()
    monkeypatch.setenv("EDGEPOSE_CACHE", "~nobody-of-this-name/x")
    with pytest.raises(EdgeError, match="name a folder by its path"):
        cache_folder()
    monkeypatch.setenv("EDGEPOSE_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
