"""A systemd service of the board's user that runs the current version's pipeline on a camera.

The unit is the same for every version: it starts ``current/serve``, so that a switch of the link
and a restart are all that a new version needs. `edge.serve` is what runs.
"""

from __future__ import annotations

import posixpath
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from edge.errors import DeviceError
from targets.transport import Done, Transport, push_changed

__all__ = [
    "UNIT",
    "keep_after_logout",
    "serve_argv",
    "start_service",
    "stop_service",
    "write_serve",
]

UNIT = "edgepose.service"
# Loading a network takes minutes on the slowest boards.
_START_S = 300
_CALL_S = 60.0
_TEXT = f"""[Unit]
Description=edgepose: people's keypoints from a camera
# A camera that was unplugged is waited for, however long.
StartLimitIntervalSec=0

[Service]
# It is started when the networks are loaded and the first frame was read.
Type=notify
ExecStart=%h/.local/share/edgepose/current/serve
Restart=on-failure
RestartSec=5
TimeoutStartSec={_START_S}

[Install]
WantedBy=default.target
"""
# A login over ssh without PAM has no XDG_RUNTIME_DIR; the user's systemd listens there too.
_ASK = 'export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"; exec "$@"'


def serve_argv(
    python: Sequence[str], model: str, detector: str | None, camera: str, threads: int
) -> list[str]:
    """The service's command line; ``model`` and ``detector`` are artifact folders there."""
    finder = ["--detector", detector] if detector else []
    return [
        *(*python, "-m", "edge.serve", "--model", model, *finder),
        *("--camera", camera, "--threads", str(threads)),
    ]


def write_serve(transport: Transport, path: str, argv: Sequence[str]) -> None:
    """Write the program of a version that starts its service."""
    with tempfile.TemporaryDirectory(prefix="edgepose-") as text:
        local = Path(text) / "serve"
        local.write_text(f"#!/bin/sh\nexec {shlex.join(argv)}\n", encoding="utf-8")
        transport.push(local, path, executable=True, timeout_s=_CALL_S)


def start_service(transport: Transport, home: str) -> None:
    """Install the unit where it is not, and (re)start it: it runs when this returns.

    DeviceError where it does not, with what it wrote last.
    """
    # Before anything is left there.
    _systemctl(transport, "--version")
    with tempfile.TemporaryDirectory(prefix="edgepose-") as text:
        local = Path(text) / UNIT
        local.write_text(_TEXT, encoding="utf-8")
        push_changed(transport, local, _unit_path(home), timeout_s=_CALL_S)
    _systemctl(transport, "daemon-reload")
    _systemctl(transport, "enable", UNIT)
    _systemctl(transport, "restart", UNIT, timeout_s=_START_S + _CALL_S)
    _systemctl(transport, "is-active", UNIT)


def stop_service(transport: Transport, home: str) -> None:
    """Stop the service and remove its unit; nothing to do where there is no unit."""
    path = _unit_path(home)
    if transport.run(["test", "-e", path], timeout_s=_CALL_S).returncode != 0:
        return
    _systemctl(transport, "disable", "--now", UNIT)
    transport.run(["rm", "-f", path], timeout_s=_CALL_S)
    _systemctl(transport, "daemon-reload")


def keep_after_logout(transport: Transport, say: Callable[[str], None]) -> None:
    """Let the user's services start with the board; says what to do where that is not allowed."""
    done = _run(transport, ["loginctl", "enable-linger"], _CALL_S)
    if done.returncode != 0:
        say(
            f"note: {transport.name}: the service starts when its user logs in; for a start with "
            'the board run there: sudo loginctl enable-linger "$USER"'
        )


def _unit_path(home: str) -> str:
    return posixpath.join(home, ".config/systemd/user", UNIT)


def _systemctl(transport: Transport, *words: str, timeout_s: float = _CALL_S) -> None:
    done = _run(transport, ["systemctl", "--user", *words], timeout_s)
    if done.returncode == 0:
        return
    if done.returncode == 127:
        raise DeviceError(f"{transport.name}: it has no systemd; deploy without --service")
    said = _last(done, 3)
    if words[0] in ("restart", "is-active"):
        journal = ["journalctl", "--user", "--unit", UNIT, "--lines", "5", "--output", "cat"]
        said = _last(_run(transport, [*journal, "--no-pager"], _CALL_S), 5) or said
    raise DeviceError(f"{transport.name}: `systemctl --user {' '.join(words)}` failed:{said}")


def _run(transport: Transport, argv: Sequence[str], timeout_s: float) -> Done:
    return transport.run(["sh", "-c", _ASK, "sh", *argv], timeout_s=timeout_s)


def _last(done: Done, count: int) -> str:
    """The last lines that a program printed, each on a line of its own."""
    text = (done.stdout.strip() or done.stderr.strip()).decode(errors="replace")
    return "".join(f"\n    {line}" for line in text.splitlines()[-count:])
