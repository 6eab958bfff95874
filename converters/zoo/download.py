"""Files from the network: resumed where they broke off, checked, and only then in their place.

A download grows in ``NAME.part`` beside its destination. That file is locked while it grows, so two
processes never write to it at once, and it is renamed only when its hash is right. What an
interruption leaves is the part file, which the next run resumes.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import re
import shutil
import socket
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener

from converters.zoo.address import file_name
from edge.digits import parse_digits
from edge.errors import EdgeError
from edge.files import in_home, sha256_of

__all__ = ["DownloadError", "Progress", "fetch"]

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes in all, None where the server does not say."""

_TRIES = 3
_BLOCK_BYTES = 1 << 16


class DownloadError(EdgeError):
    """A file could not be fetched, or is not the one that was promised."""


class _BrokenOffError(Exception):
    """The transfer ended early; another try may go on from there."""


class _AbsentError(Exception):
    """The server answers, and does not have the file."""


@dataclass(frozen=True)
class _Job:
    final: Path
    places: tuple[str | Path, ...]
    sha256: tuple[str, ...]
    progress: Progress
    say: Callable[[str], None]
    timeout_s: float
    pause_s: float

    @property
    def part(self) -> Path:
        return self.final.with_name(self.final.name + ".part")

    @property
    def mirror_note(self) -> str:
        # Without a mirror there is one place, the URL itself.
        mirrored = len(self.places) > 1
        return "; EDGEPOSE_MIRROR is set, so the official host was not asked" if mirrored else ""


def fetch(
    url: str,
    folder: Path,
    *,
    sha256: Sequence[str] = (),
    mirror: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    timeout_s: float = 30.0,
    pause_s: float = 1.0,
) -> Path:
    """The file of a URL in ``folder``, downloaded if it is not there yet.

    Args:
        url: http or https; the last part of its path names the file.
        folder: the cache; made where it is missing.
        sha256: what the file's hash may start with, in hex, any one of them. Without any, a zip is
            vouched for by the checksums inside it, and another file by its length alone.
        mirror: a folder or base URL that is asked instead of the URL's host, for the file's name
            first and then for the URL's path.
        progress: called as bytes arrive.
        say: told in one line what is going on: waiting, trying again.
        timeout_s: longest silence of a server.
        pause_s: wait before another try after a transfer that broke off (two more tries).

    Proxies are those of http_proxy, https_proxy and no_proxy. Raises DownloadError.
    """
    job = _Job(
        final=folder / file_name(url),
        places=_places(url, mirror),
        sha256=tuple(sha256),
        progress=progress or _ignore,
        say=say or _ignore,
        timeout_s=timeout_s,
        pause_s=pause_s,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not job.final.exists():
            with _locked_part(job) as stream:
                if stream is not None:
                    _fill(job, stream)
                    job.part.replace(job.final)
                    _sync(folder)
                    return job.final
        flaw = _flaw(job.final, job.sha256)
    except OSError as error:
        raise DownloadError(
            f"{error.filename or folder}: {error.strerror or error}; make it writable, make room, "
            "or choose another folder with EDGEPOSE_CACHE"
        ) from None
    if flaw:
        raise DownloadError(f"{job.final}: {flaw}; delete it and it is fetched again")
    return job.final


def _ignore(*_: object) -> None:
    pass


def _places(url: str, mirror: str | None) -> tuple[str | Path, ...]:
    """Where to look for the file, in order."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not file_name(url):
        raise DownloadError(f"{url}: not the http(s) URL of a file")
    if not mirror:
        return (url,)
    inner = parts.path.lstrip("/")
    if urlsplit(mirror).scheme in ("http", "https"):
        base = mirror.rstrip("/")
        return (f"{base}/{file_name(url)}", f"{base}/{inner}")
    folder = in_home(mirror)
    if not folder.is_dir():
        raise DownloadError(f"EDGEPOSE_MIRROR={mirror}: neither a folder nor an http(s) URL")
    return (folder / file_name(url), folder / inner)


@contextmanager
def _locked_part(job: _Job) -> Iterator[BinaryIO | None]:
    """The part file, locked; None where another process has finished the file meanwhile."""
    while True:
        descriptor = os.open(job.part, os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(descriptor, "r+b", buffering=0) as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                job.say(f"another process is fetching {job.final.name}: waiting for it")
                fcntl.flock(stream, fcntl.LOCK_EX)
            if not _is_at(stream, job.part):
                continue  # renamed or deleted while we waited: look again
            try:
                yield None if job.final.exists() else stream
            finally:
                if _is_at(stream, job.part) and job.part.stat().st_size == 0:
                    job.part.unlink()
            return


def _is_at(stream: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _fill(job: _Job, stream: BinaryIO) -> None:
    """Fill the part file from the first place that has the file, and check it."""
    for attempt in range(_TRIES):
        resumed = stream.seek(0, os.SEEK_END) > 0
        try:
            _fetch_first(job, stream)
        except _BrokenOffError as error:
            problem = str(error)
        else:
            os.fsync(stream.fileno())
            flaw = _flaw(job.part, job.sha256)
            if flaw is None:
                return
            stream.truncate(0)
            problem = f"what came is not the file expected ({flaw}) and was deleted"
            if not resumed:
                raise DownloadError(f"{job.places[0]}: {problem}; a copy you trust works by path")
            # The beginning may be of another version of the file: once more from nothing.
        if attempt + 1 < _TRIES:
            job.say(f"{job.final.name}: {problem}; trying again")
            time.sleep(job.pause_s)
    raise DownloadError(
        f"{job.places[0]}: {problem}, {_TRIES} times in a row; another run goes on from there"
    )


def _fetch_first(job: _Job, stream: BinaryIO) -> None:
    for place in job.places:
        if isinstance(place, str):
            with suppress(_AbsentError):
                _transfer(job, place, stream)
                return
        elif place.is_file():
            stream.seek(0)
            stream.truncate()
            with place.open("rb") as original:
                shutil.copyfileobj(original, stream)
            return
    absent = " nor ".join(str(place) for place in job.places)
    raise DownloadError(f"{absent}: not there{job.mirror_note}")


def _transfer(job: _Job, url: str, stream: BinaryIO) -> None:
    """One request: append to the part file what it lacks."""
    have = stream.seek(0, os.SEEK_END)
    request = Request(url, headers={"User-Agent": "edgepose"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        # urlopen would keep the proxies of its first call.
        response = build_opener().open(request, timeout=job.timeout_s)
    except HTTPError as error:
        with error:
            _refused(error, url, stream, have)
        return
    except (OSError, http.client.HTTPException) as error:
        raise _problem(job, url, error) from None
    with response:
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise DownloadError(f"{url}: leads to {response.url}, which is not encrypted")
        if response.status == 206 and _range_start(response) != have:
            stream.truncate(0)
            raise _BrokenOffError("the server goes on from another place")
        if response.status != 206 and have:
            have = stream.seek(0)  # this server starts from the beginning
            stream.truncate()
        length = parse_digits(response.headers.get("Content-Length", ""))
        total = None if length is None else have + length
        _receive(job, url, response, stream, have, total)


def _receive(
    job: _Job,
    url: str,
    response: http.client.HTTPResponse,
    stream: BinaryIO,
    done: int,
    total: int | None,
) -> None:
    while total is None or done < total:
        size = _BLOCK_BYTES if total is None else min(_BLOCK_BYTES, total - done)
        try:
            # read1 returns what has come: the timeout is one of silence, not of a whole block.
            block = response.read1(size)
        except (OSError, http.client.HTTPException) as error:
            raise _problem(job, url, error) from None
        if not block:
            break
        stream.write(block)
        done += len(block)
        job.progress(done, total)
    if total is not None and done < total:
        raise _BrokenOffError(f"broke off after {done:,} of {total:,} bytes")


def _range_start(response: http.client.HTTPResponse) -> int | None:
    found = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _refused(error: HTTPError, url: str, stream: BinaryIO, have: int) -> None:
    """Return where the part file is whole already; raise otherwise."""
    if error.code == 416 and have:
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
            return
        stream.truncate(0)
        raise _BrokenOffError("the server cannot go on from there")
    if error.code in (404, 410):
        raise _AbsentError
    raise DownloadError(f"{url}: refused by the server ({error.code} {error.reason})")


def _problem(job: _Job, url: str, error: Exception) -> DownloadError | _BrokenOffError:
    reason = error.reason if isinstance(error, URLError) else error
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    if isinstance(reason, TimeoutError):
        return DownloadError(f"{url}: no byte for {job.timeout_s:g} s; another run goes on")
    no_way = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
    if isinstance(reason, socket.gaierror) or getattr(reason, "errno", None) in no_way:
        return DownloadError(
            f"{urlsplit(url).netloc} cannot be reached ({text}){job.mirror_note}. Without a "
            f"network: put {job.final.name} into {job.final.parent}, or set EDGEPOSE_MIRROR to a "
            "folder or URL that holds it"
        )
    if isinstance(reason, (ConnectionError, http.client.HTTPException)):
        return _BrokenOffError(f"the connection broke ({text})")
    return DownloadError(f"{url}: {text}")


def _flaw(path: Path, sha256: tuple[str, ...]) -> str | None:
    """What is wrong with a whole file, if anything."""
    if sha256:
        got = sha256_of(path)
        if got.startswith(sha256):
            return None
        return f"its sha256 starts with {got[:8]}, not {' or '.join(h[:8] for h in sha256)}"
    if path.name.removesuffix(".part").endswith(".zip"):
        try:
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
            return f"no zip file: {error}"
        return f"{bad} in it is damaged" if bad else None
    return None


def _sync(folder: Path) -> None:
    """Make a rename in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
