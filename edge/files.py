"""Files and folders written whole or not at all; SHA-256 of a file; the cache folder.

What is not finished lies in a private folder beside its place, ``.NAME.MACHINE.RANDOM.part``. Its
owner holds a lock on a file in there. A process number would say nothing: it comes again in every
container, and means another process on another machine. Whoever can take the lock knows that the
owner is dead, and removes the folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from edge.errors import EdgeError

__all__ = [
    "cache_folder",
    "in_home",
    "private_folder",
    "replacing",
    "sha256_of",
    "staged_folder",
    "sweep",
    "temporary_folder",
    "write_bytes",
]

_LOCK = ".lock"
_OLD = ".old"
_PRIVATE = re.compile(r"\..+\.([0-9a-f]{8})\.[0-9a-f]{8}\.part", re.DOTALL)
# Of a folder whose owner could take no lock.
_NO_MACHINE = "0" * 8
# The locks of other machines are not seen through every network share, so their folders have to be
# old as well.
_FOREIGN_AGE_S = 7 * 86_400.0
_TRIES = 8
# Linux: renameat2(2).
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP)


def _home_folder() -> Path:
    """The user's home folder; EdgeError where the machine knows none (HOME is not set)."""
    try:
        return Path.home()
    except RuntimeError:
        raise EdgeError(
            "this user has no home folder here: set HOME, or for the kit's own files EDGEPOSE_CACHE"
        ) from None


def in_home(text: str) -> Path:
    """A path with ``~`` replaced by the home folder; as it is where this user has none.

    For files that may be missing: none is called so then.
    """
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):  # nobody's home, or a name that no user can have
        return Path(text)


def cache_folder() -> Path:
    """EDGEPOSE_CACHE, or else ``edgepose`` in XDG_CACHE_HOME or ~/.cache; an absolute path.

    Programs that run in another folder are given files that lie here.
    Raises EdgeError where there is no home folder to put it in.
    """
    own = os.environ.get("EDGEPOSE_CACHE")
    if own:
        try:
            return Path(own).expanduser().absolute()
        except RuntimeError:
            raise EdgeError(
                f"EDGEPOSE_CACHE={own}: there is no such home folder; name a folder by its path"
            ) from None
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a relative path is to be ignored.
    return (xdg if xdg.is_absolute() else _home_folder() / ".cache") / "edgepose"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as private:
        private.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A private path, of the same file name, that takes the place of ``path`` at the end.

    On any exception, and where nothing was written there, ``path`` stays as it was. Its folder must
    exist; what killed processes left in there is removed, once a process.
    """
    _sweep_once(path.parent.absolute())
    with _owned(path.parent, path.name) as private:
        yield private
        if private.exists():
            private.replace(path)


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """A private folder of the name of ``final`` that takes its place when the block ends well.

    On any exception, Ctrl-C included, the private folder goes and ``final`` stays as it was. Two
    folders change their names in one step where the system can do that (Linux); elsewhere the old
    one of a process that was killed between two steps comes back at the next start.
    """
    with private_folder(final.parent, final.name) as private:
        yield private
        for _ in range(_TRIES):
            try:
                if not final.exists():
                    private.rename(final)
                elif not _exchange(private, final):
                    old = private.parent / _OLD
                    old.mkdir(exist_ok=True)
                    final.rename(old / final.name)
                    private.rename(final)
            except OSError as error:
                # Another process gave its own folder this name, or took it away, meanwhile.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    raise
            else:
                return
        raise EdgeError(f"{final}: other processes write there all the time; try again")


@contextmanager
def private_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder called ``name`` that no other process uses, gone when the block ends.

    It lies in a hidden folder in ``parent``, which is made, and removed again where nothing is left
    in it. What killed processes left behind in ``parent`` is removed.
    """
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    try:
        with _owned(parent, name) as private:
            private.mkdir()
            yield private
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A private folder in the system's one for temporary files, gone when the block ends.

    What killed processes of this user left there is removed, once a process.
    """
    parent = Path(tempfile.gettempdir())
    _sweep_once(parent)
    with _owned(parent, "edgepose") as private:
        private.mkdir()
        yield private


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder; one that they had set aside comes back."""
    with suppress(OSError):
        for name in [entry.name for entry in os.scandir(folder)]:
            found = _PRIVATE.fullmatch(name)
            if found:
                with suppress(OSError):
                    _sweep_one(folder / name, found[1])


@cache
def _sweep_once(folder: Path) -> None:
    """Once a process: a folder of ten thousand pictures is not listed for each of them."""
    sweep(folder)


def _sweep_one(holder: Path, machine: str) -> None:
    about = holder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        return
    if machine != _machine() and _age_s(holder) < _FOREIGN_AGE_S:
        return
    # The file is made where it is missing: then the owner died before it came to that, or is about
    # to, and has to look for another place.
    lock = _open_lock(holder)
    if _take(lock):
        _remove(holder, lock)
    else:
        os.close(lock)


def _age_s(holder: Path) -> float:
    newest_ns = max(path.lstat().st_mtime_ns for path in (holder, *holder.rglob("*")))
    return (time.time_ns() - newest_ns) / 1e9


@contextmanager
def _owned(parent: Path, name: str) -> Iterator[Path]:
    """A path called ``name``, where nothing is, in a hidden folder that is locked."""
    holder, lock = _hold(parent, name)
    try:
        yield holder / name
    finally:
        _remove(holder, lock)


def _hold(parent: Path, name: str) -> tuple[Path, int]:
    """A new hidden folder and the descriptor of its lock."""
    for _ in range(_TRIES):
        holder = parent / _private_name(name, _machine())
        try:
            holder.mkdir(0o700)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(parent / name)) from None
        try:
            lock = _open_lock(holder)
        except FileNotFoundError:
            continue  # somebody found it without a lock, and removed it
        except BaseException:
            holder.rmdir()
            raise
        taken = _take(lock)
        if taken is None:
            unlocked = parent / _private_name(name, _NO_MACHINE)
            holder.rename(unlocked)
            return unlocked, lock
        if taken and _is_at(lock, holder / _LOCK):
            return holder, lock
        os.close(lock)
    raise EdgeError(f"{parent}: other processes clean it up all the time; try again")


def _open_lock(holder: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(holder / _LOCK, flags, 0o600)


def _private_name(name: str, machine: str) -> str:
    # Names end at 255 bytes.
    if len(os.fsencode(name)) > 200:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}.{machine}.{secrets.token_hex(4)}.part"


@cache
def _machine() -> str:
    """Eight hex digits, the same for all processes that one kernel runs, until it starts again."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        text = platform.node()
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _take(lock: int) -> bool | None:
    """Lock an open file, for as long as it is open; False where another has it, None for never."""
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove(holder: Path, lock: int) -> None:
    """Remove a hidden folder, its lock last; what was set aside goes back where it was."""
    try:
        with suppress(FileNotFoundError):
            for old in list((holder / _OLD).iterdir()):
                if not (holder.parent / old.name).exists():
                    old.rename(holder.parent / old.name)
        with suppress(OSError):
            for path in list(holder.iterdir()):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name != _LOCK:
                    path.unlink()
    finally:
        # NFS keeps a file that is open under another name, and its folder with it.
        os.close(lock)
    with suppress(OSError):
        (holder / _LOCK).unlink()
        holder.rmdir()


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; False where that cannot be done."""
    try:
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (ImportError, OSError, AttributeError):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))
