"""A server of files that breaks off, refuses and resumes as the test says."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.conftest import ROOT, heed_interrupts

__all__ = ["DATA", "FETCH", "NAME", "SHA256", "Server", "left", "server", "start"]

DATA = np.random.default_rng(1).bytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
NAME = f"model-{SHA256[:8]}_20230126.pth"


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path; ``faults`` are taken one a request, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[dict[str, Any]] = []
        self.seen: list[tuple[str, str | None]] = []  # path as asked for, Range header
        self.sent = 0
        self.go_on = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        pass  # a client that hangs up is part of the tests


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.seen.append((self.path, asked))
        fault = server.faults.pop(0) if server.faults else {}
        data = server.files.get(urlsplit(self.path).path)
        if "status" in fault or data is None:
            self.send_error(fault.get("status", 404))
            return
        start = 0
        if asked and not fault.get("no_ranges"):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
            self.send_response(206)
            first = start + fault.get("shift", 0)
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start : fault.get("cut", len(data))]
        self.wfile.write(body + fault.get("extra", b""))
        server.sent += len(body)
        if fault.get("stall"):
            server.go_on.wait(10)
        if fault.get("reset"):
            # SO_LINGER 0: the kernel answers with a reset instead of an orderly end.
            linger = (1).to_bytes(4, sys.byteorder) + bytes(4)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def do_CONNECT(self) -> None:
        self.server.seen.append((self.path, None))
        self.send_error(403)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.files["/zoo/" + NAME] = DATA
        yield running
        running.go_on.set()
        running.shutdown()
        thread.join()


def left(folder: Path) -> dict[str, int]:
    """Name and size of everything in a folder."""
    return {path.name: path.stat().st_size for path in folder.iterdir()}


FETCH = """
import sys
from pathlib import Path
from converters.zoo.download import fetch, DownloadError
try:
    fetch(sys.argv[1], Path(sys.argv[2]), sha256=[sys.argv[3]], say=lambda line: print(line))
except DownloadError as error:
    sys.exit(f"refused: {error}")
"""


def start(server: Server, folder: Path, before: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", before + FETCH, f"{server.url}/zoo/{NAME}", str(folder), SHA256],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
