"""What lies on a board: versions, each a folder of its own, and a link to the current one.

::

    ~/.local/share/edgepose/
        current -> versions/20261121-221530-4f2a9c
        versions/20261121-221530-4f2a9c/
            deployment.json   written last: what has none is no version
            artifacts/KEY/    as `targets.runners.placement` lays them out
            python/KEY/venv/  as `targets.runners.python.setup` makes it
            serve             the service's command line, where the version has one

The folder is not the bench's, so that `edge clean` leaves it alone. The link changes by the rename
of a new one, under a lock that no broken connection can leave behind.
"""

from __future__ import annotations

import json
import posixpath
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from edge.errors import DeviceError, SpecError
from edge.files import temporary_folder
from edge.records import plain_values, read_record
from targets.transports.transport import Done, Progress, Transport, check

__all__ = ["Deployments", "Version", "Within", "new_name", "open_deployments"]

SCHEMA = 1
_CALL_S = 60.0
_REMOVE_S = 600.0
# What is half-made and untouched for so long belongs to nobody: an installation is given an hour.
_ABANDONED_MIN = 120

_READ = """
cd "$1" 2>/dev/null || exit 0
readlink current || echo
for file in versions/*/deployment.json; do if [ -f "$file" ]; then cat "$file"; fi; done
"""
_LOCK = 'mkdir -p "$1/versions" && cd "$1" && exec 9>lock && flock -w 30 9 || exit 4\n'
# $2: what the link must say, $3: what it is to say, or nothing, $4: a name of its own. What comes
# after is one program with it, so that a board that nobody reaches any more puts the link back by
# itself. It does not hold the lock: it may start what never ends.
_SWITCH = f"""{_LOCK}
old=$2 new=$3 token=$4
[ "$(readlink current)" = "$old" ] || exit 3
[ -z "$new" ] || [ -e "$new/deployment.json" ] || exit 3
point() {{
  if [ -z "$1" ]; then rm -f current; return; fi
  ln -s "$1" ".current.$token" && mv -fT ".current.$token" current
}}
point "$new" || {{ rm -f ".current.$token"; exit 1; }}
( @then@
) 9>&- && exit
point "$old" || exit 1
( @otherwise@
) 9>&- >/dev/null 2>&1 || exit 6
exit 5
"""
# Without its mark first: what is removed half-way is no version any more.
_REMOVE = f"""{_LOCK}
shift
for name; do
  if [ "$(readlink current)" != "versions/$name" ]; then
    rm -f "versions/$name/deployment.json" && rm -rf "versions/$name" || exit 1
  fi
done
"""
# $2: what is wanted of them: those that something was written to, or none
_HALF_MADE = f"""
cd "$1/versions" 2>/dev/null || exit 0
wanted=$2
shift 2
for folder in */; do
  name=${{folder%/}}
  for whole; do if [ "$name" = "$whole" ]; then continue 2; fi; done
  [ -d "$name" ] || continue
  young=$(find "$name" -mmin -{_ABANDONED_MIN} | head -n 1)
  case $wanted in
    young) [ -z "$young" ] || echo "$name" ;;
    old) [ -n "$young" ] || echo "$name" ;;
  esac
done
"""


@dataclass(frozen=True)
class Version:
    """One deployment, as its ``deployment.json`` has it.

    ``models`` are like ``rtmpose-t as ncnn-fp16``, ``parity`` says of each how its answers compared
    there. ``previous`` is the version that it followed, ``""`` for the first; ``camera`` is what
    its service reads, ``""`` where it has none.
    """

    name: str
    made_utc: str
    edge: str
    models: tuple[str, ...]
    parity: tuple[str, ...]
    previous: str = ""
    camera: str = ""

    def to_json(self) -> dict[str, Any]:
        """The content of ``deployment.json``."""
        return {"schema": SCHEMA, **plain_values(self)}


class Within:
    """A transport whose working folder is another one of the same device."""

    def __init__(self, transport: Transport, work_dir: str) -> None:
        self._transport = transport
        self.name, self.kind, self.work_dir = transport.name, transport.kind, work_dir

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Done:
        """As the transport does."""
        return self._transport.run(argv, timeout_s=timeout_s, env=env, stdin=stdin)

    def push(
        self,
        local: Path,
        remote: str,
        *,
        executable: bool = False,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        """As the transport does."""
        self._transport.push(
            local, remote, executable=executable, timeout_s=timeout_s, on_progress=on_progress
        )

    def pull(
        self, remote: str, local: Path, *, timeout_s: float, on_progress: Progress | None = None
    ) -> None:
        """As the transport does."""
        self._transport.pull(remote, local, timeout_s=timeout_s, on_progress=on_progress)

    def close(self) -> None:
        """It belongs to whoever opened it."""


@dataclass(frozen=True)
class Deployments:
    """All versions of a board as they were when it was asked, the oldest first.

    ``linked`` is the name that ``current`` holds, ``""`` where there is no link; made by
    `open_deployments`.
    """

    transport: Transport
    home: str
    versions: tuple[Version, ...] = ()
    linked: str = ""

    @property
    def root(self) -> str:
        """The folder of all of them."""
        return posixpath.join(self.home, ".local/share/edgepose")

    @property
    def current(self) -> Version | None:
        """The version that holds; None where nothing was deployed yet."""
        return self.find(self.linked)

    def find(self, name: str) -> Version | None:
        """A version by its name."""
        return next((one for one in self.versions if one.name == name), None)

    def folder(self, name: str) -> str:
        """The folder of a version."""
        return posixpath.join(self.root, "versions", name)

    def read(self) -> Deployments:
        """The same board, asked again."""
        done = self._shell(_READ, [], "reading what is deployed")
        link, *lines = done.stdout.decode(errors="replace").splitlines() or [""]
        found = [version for version in map(_version, lines) if version]
        return replace(
            self,
            versions=tuple(sorted(found, key=lambda one: one.name)),
            linked=posixpath.basename(link.strip()),
        )

    def write(self, version: Version) -> None:
        """Make a folder a version: from here on it counts. All that is in it is on the disk."""
        with temporary_folder() as text:
            path = text / "deployment.json"
            path.write_text(f"{json.dumps(version.to_json())}\n", encoding="utf-8")
            # A board that loses its power now keeps what the mark vouches for.
            self._checked(["sync"], "writing the version to the disk", _REMOVE_S)
            remote = posixpath.join(self.folder(version.name), path.name)
            self.transport.push(path, remote, timeout_s=_CALL_S)
            self._checked(["sync"], "writing the version to the disk", _REMOVE_S)

    def switch(
        self,
        old: str,
        new: str,
        *,
        then: str = ":",
        otherwise: str = ":",
        timeout_s: float = _CALL_S,
    ) -> bool:
        """Make ``new`` current where ``old`` is; False, and nothing changed, where it is not.

        ``""`` is no version; one that was removed meanwhile is not made current. ``then`` is a
        shell text that the change has to stand: where it fails, the board goes back to ``old`` and
        runs ``otherwise``, connected or not, and DeviceError holds what it printed.
        """
        wanted = [f"versions/{name}" if name else "" for name in (old, new)]
        script = _SWITCH.replace("@then@", then).replace("@otherwise@", otherwise)
        words, what = [*wanted, secrets.token_hex(4)], "switching to the version"
        done = self._shell(script, words, what, accept=(3, 5, 6), timeout_s=timeout_s)
        if done.returncode in (5, 6):
            said = done.stdout.decode(errors="replace").strip() or "the last step failed"
            left = "" if done.returncode == 5 else "\n    and what ran before does not start again"
            raise DeviceError(f"{self.transport.name}: {said}{left}")
        return done.returncode == 0

    def remove(self, names: Sequence[str]) -> None:
        """Remove versions, or what is left of some; the current one stays whoever asks."""
        if names:
            self._shell(_REMOVE, names, "removing versions", timeout_s=_REMOVE_S)

    def make_root(self) -> None:
        """Make the folder of all versions where it is not: for its user alone.

        The address of a camera may hold a password.
        """
        script = 'mkdir -p "$1/versions" && chmod 700 "$1"'
        self._shell(script, [], f"making {self.root}")

    def remove_abandoned(self) -> tuple[str, ...]:
        """Remove what broken deployments left two hours ago or earlier; their names."""
        names = self.half_made("old")
        self.remove(names)
        return names

    def half_made(self, age: Literal["young", "old"] = "young") -> tuple[str, ...]:
        """Folders without a mark: those of the last two hours, which may be at work, or older."""
        whole = [version.name for version in self.versions]
        done = self._shell(_HALF_MADE, [age, *whole], "looking for what is half-made")
        return tuple(done.stdout.decode(errors="replace").split())

    def _shell(
        self,
        script: str,
        words: Sequence[str],
        what: str,
        *,
        accept: Sequence[int] = (),
        timeout_s: float = _CALL_S,
    ) -> Done:
        argv = ["sh", "-c", script, "sh", self.root, *words]
        done = self.transport.run(argv, timeout_s=timeout_s)
        if done.returncode == 4:
            why = done.stderr.decode(errors="replace").strip() or "another deployment holds it"
            raise DeviceError(f"{self.transport.name}: cannot lock {self.root}: {why}")
        if done.returncode not in (0, *accept):
            # Not with its argv: it is a script of many lines.
            check(replace(done, argv=("sh",)), f"{what} on {self.transport.name}")
        return done

    def _checked(self, argv: Sequence[str], what: str, timeout_s: float) -> None:
        check(self.transport.run(argv, timeout_s=timeout_s), f"{what} on {self.transport.name}")


def open_deployments(transport: Transport) -> Deployments:
    """What is deployed on a board; DeviceError where it does not answer."""
    done = transport.run(["printenv", "HOME"], timeout_s=_CALL_S)
    check(done, f"asking {transport.name} for its home folder")
    home = done.stdout.decode(errors="replace").removesuffix("\n")
    return Deployments(transport, home).read()


def new_name() -> str:
    """A name that no other deployment has; the later one sorts behind the earlier."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03}-{secrets.token_hex(3)}"


def _version(line: str) -> Version | None:
    """The version of a line of JSON; None for what a power cut or another program left."""
    try:
        data = json.loads(line)
        if data.pop("schema") != SCHEMA:
            return None
        version = read_record(Version, data, defaults=True)
    except (ValueError, KeyError, TypeError, AttributeError, SpecError):
        return None
    return version if re.fullmatch(r"[0-9a-f-]+", version.name) else None
