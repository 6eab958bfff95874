"""A systemd service of the board's user that runs the current version's pipeline on a camera.

The unit is the same for every version: it starts ``current/serve``, so that a switch of the link
and a restart are all that a new version needs. `edge.serve` is what runs. Both belong together:
what is done about the service is shell text for `targets.deploy.versions.Deployments.switch`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from edge.errors import DeviceError
from edge.files import temporary_folder
from targets.transports.transport import Done, Transport

__all__ = [
    "SERVICE_S",
    "TEXT",
    "UNIT",
    "ask_user",
    "check_service",
    "keep_after_logout",
    "serve_argv",
    "service_step",
    "write_serve",
]

UNIT = "edgepose.service"
# Loading a network takes minutes on the slowest boards.
_START_S = 300
_CALL_S = 60.0
SERVICE_S = 2 * (_START_S + 2 * _CALL_S)
"""Seconds for a step that fails and for the one that makes up for it."""

TEXT = f"""[Unit]
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
"""The unit."""

# A login over ssh without PAM has no XDG_RUNTIME_DIR; the user's systemd listens there too.
_RUNTIME = 'export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"'
_ASK = f'{_RUNTIME}; exec "$@"'
# A program that does not come up says why in the journal only.
_CTL = f"""
{_RUNTIME}
unit=$HOME/.config/systemd/user/{UNIT}
ctl() {{
  said=$(systemctl --user "$@" 2>&1) && return
  case $1 in restart | is-active)
    last=$(journalctl --user --unit {UNIT} --lines 5 --output cat --no-pager 2>/dev/null)
    case $last in "" | --*) ;; *) said=$last ;; esac ;;
  esac
  echo "\\`systemctl --user $*\\` failed:"
  echo "$said" | tail -n 5 | sed 's/^/    /'
  exit 1
}}
"""
_START = f"""{_CTL}
mkdir -p "${{unit%/*}}" && printf %s {shlex.quote(TEXT)} > "$unit.part" &&
  mv -f "$unit.part" "$unit" || {{ echo "$unit cannot be written"; exit 1; }}
ctl daemon-reload
ctl enable {UNIT}
ctl restart {UNIT}
ctl is-active {UNIT}
"""
_STOP = f"""{_CTL}
if [ -e "$unit" ]; then
  ctl disable --now {UNIT}
  rm -f "$unit"
  ctl daemon-reload
fi
"""


def serve_argv(
    python: Sequence[str],
    model: str,
    detector: str | None,
    camera: str,
    threads: int,
    classes: str | None = None,
) -> list[str]:
    """The service's command line; ``model`` and ``detector`` are artifact folders there.

    ``classes`` are those of the detector that count, by number or name.
    """
    finder = ["--detector", detector] if detector else []
    finder += ["--classes", classes] if classes is not None else []
    return [
        *(*python, "-m", "edge.serve", "--model", model, *finder),
        *("--camera", camera, "--threads", str(threads)),
    ]


def write_serve(transport: Transport, path: str, argv: Sequence[str]) -> None:
    """Write the program of a version that starts its service."""
    with temporary_folder() as text:
        local = text / "serve"
        local.write_text(f"#!/bin/sh\nexec {shlex.join(argv)}\n", encoding="utf-8")
        transport.push(local, path, executable=True, timeout_s=_CALL_S)


def check_service(transport: Transport) -> None:
    """DeviceError where the board's user cannot have services, before anything is done for one."""
    done = ask_user(transport, ["systemctl", "--user", "show", "--property=Version"])
    if done.returncode == 127:
        raise DeviceError(f"{transport.name}: it has no systemd; deploy without --service")
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
        raise DeviceError(
            f"{transport.name}: no systemd runs for its user ({said[:200]}); on Debian and Ubuntu: "
            "sudo apt-get install libpam-systemd dbus-user-session, then log in anew; or deploy "
            "without --service"
        )


def service_step(before: bool, after: bool) -> str:
    """Shell text that brings the service from one version to the next: whether each has one.

    After it the service runs, or is gone. It prints why where it fails. A board that never had one
    is not asked.
    """
    if after:
        return _START
    return _STOP if before else ":"


def keep_after_logout(transport: Transport, say: Callable[[str], None]) -> None:
    """Let the user's services start with the board; says what to do where that is not allowed."""
    done = ask_user(transport, ["loginctl", "enable-linger"])
    if done.returncode != 0:
        say(
            f"note: {transport.name}: the service starts when its user logs in; for a start with "
            'the board run there: sudo loginctl enable-linger "$USER"'
        )


def ask_user(transport: Transport, argv: Sequence[str], timeout_s: float = _CALL_S) -> Done:
    """Run a program that talks to the systemd of the board's user."""
    return transport.run(["sh", "-c", _ASK, "sh", *argv], timeout_s=timeout_s)
