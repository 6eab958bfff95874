"""Other people's programs inside this process, without the lines that they write to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

__all__ = ["quietly"]

_lock = threading.Lock()
# The process has one standard error for all its threads: the first to come puts a file in its
# place, the last to go puts it back. Beginnings of lines that are dropped, one entry for each.
_beginnings: list[tuple[bytes, ...]] = []
_put_away: list[tuple[int, IO[bytes]]] = []


@contextlib.contextmanager
def quietly(*beginnings: bytes) -> Iterator[None]:
    """Without the lines that begin so; what else comes is passed on afterwards."""
    with _lock:
        _beginnings.append(beginnings)
        if not _put_away:
            sys.stderr.flush()
            log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by whoever goes last
            _put_away.append((os.dup(2), log))
            os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        with _lock:
            dropped = tuple({one for many in _beginnings for one in many})
            _beginnings.remove(beginnings)
            if not _beginnings:
                kept, log = _put_away.pop()
                os.dup2(kept, 2)
                os.close(kept)
                log.seek(0)
                os.write(2, b"".join(line for line in log if not line.startswith(dropped)))
                log.close()
