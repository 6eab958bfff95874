"""A device that is not there: scripted answers, files in memory, a record of every call.

For tests of whatever talks to a `Transport`::

    phone = FakeTransport(
        answers={
            ("getprop", "ro.product.model"): "Mi 10",  # stdout of an exit with 0
            ("dumpsys", "battery"): [b"level: 80", b"level: 79"],  # one a call, the last for good
            ("svc", ...): "",  # whatever begins so
            ("bench", ...): lambda argv: Done(argv, 137, b"", b"Killed"),
            ("reboot",): DeviceError("fake: gone"),  # raised
        },
        files={"/sys/class/thermal/thermal_zone0/temp": "48300"},
    )

An exact key goes before one that ends in ``...``, a longer beginning before a shorter one. What has
no answer is looked for among the few programs that work on its files (cat, sha256sum, mkdir, chmod,
rm, test, true); any other is no program there: 127.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

from edge.errors import DeviceError
from targets.transports.transport import Done, Progress, check_remote, shell_line

__all__ = ["Answer", "Call", "FakeTransport", "Scripted"]

Answer = Done | bytes | str | Exception
Scripted = Answer | Callable[[tuple[str, ...]], Answer] | list[Answer]


@dataclass(frozen=True)
class Call:
    """One call: ``verb`` is run, push, pull or close, ``argv`` its program or its two paths."""

    verb: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    stdin: bytes = b""
    executable: bool = False


class FakeTransport:
    """A `Transport` of scripted answers; ``calls`` lists what was asked, ``files`` what it holds.

    ``programs`` are the paths that were pushed as executables. Callables get the argument vector.
    """

    kind = "fake"

    def __init__(
        self,
        answers: Mapping[tuple[str | EllipsisType, ...], Scripted] | None = None,
        files: Mapping[str, bytes | str] | None = None,
        *,
        name: str = "fake",
        work_dir: str = "/data/local/tmp/edgepose",
    ) -> None:
        self.name = name
        self.work_dir = work_dir
        self.answers = {
            key: list(answer) if isinstance(answer, list) else answer
            for key, answer in (answers or {}).items()
        }
        self.files = {path: _bytes(data) for path, data in (files or {}).items()}
        self.programs: set[str] = set()
        self.calls: list[Call] = []
        self.closed = False

    @property
    def ran(self) -> list[tuple[str, ...]]:
        """The argument vectors that were run, in order."""
        return [call.argv for call in self.calls if call.verb == "run"]

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Done:
        """Answer as scripted, else as the programs that work on its files would."""
        shell_line(argv, env)  # refuses what no real transport could pass on
        argv = tuple(argv)
        self._note(Call("run", argv, dict(env or {}), stdin), timeout_s)
        key = self._key(argv)
        if key is None:
            return self._file_program(argv)
        answer = self.answers[key]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer) and not isinstance(answer, Exception):
            answer = answer(argv)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Done) else Done(argv, 0, _bytes(answer), b"")

    def push(
        self,
        local: Path,
        remote: str,
        *,
        executable: bool = False,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        """Keep the file's bytes."""
        call = Call("push", (str(local), check_remote(remote)), {}, executable=executable)
        self._note(call, timeout_s)
        try:
            data = local.read_bytes()
        except OSError as error:
            raise DeviceError(f"{self.name}: cannot push {local}: {error.strerror}") from None
        self.files[remote] = data
        self.programs.discard(remote)
        if executable:
            self.programs.add(remote)
        if on_progress:
            on_progress(len(data), len(data))

    def pull(
        self,
        remote: str,
        local: Path,
        *,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        """Write the bytes that it keeps."""
        self._note(Call("pull", (check_remote(remote), str(local)), {}), timeout_s)
        if remote not in self.files:
            raise DeviceError(f"{self.name}: pulling {remote} failed: No such file")
        data = self.files[remote]
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(data)
        if on_progress:
            on_progress(len(data), len(data))

    def close(self) -> None:
        """Note that it was closed; calls after that are refused."""
        self.calls.append(Call("close", (), {}))
        self.closed = True

    def _note(self, call: Call, timeout_s: float) -> None:
        if self.closed:
            raise DeviceError(f"{self.name}: the connection was closed")
        if not timeout_s > 0:
            raise ValueError(f"a deadline of {timeout_s} s")
        self.calls.append(call)

    def _key(self, argv: tuple[str, ...]) -> tuple[str | EllipsisType, ...] | None:
        if argv in self.answers:
            return argv
        begins = [
            key
            for key in self.answers
            if key and key[-1] is ... and argv[: len(key) - 1] == key[:-1]
        ]
        return max(begins, key=len, default=None)

    def _file_program(self, argv: tuple[str, ...]) -> Done:
        program, paths = argv[0].rpartition("/")[2], [arg for arg in argv[1:] if arg[0:1] == "/"]
        if program == "rm":
            gone = tuple(f"{path}/" for path in paths)
            for path in [path for path in self.files if f"{path}/".startswith(gone)]:
                del self.files[path]
        if program in ("rm", "mkdir", "true"):
            return Done(argv, 0, b"", b"")
        missing = [path for path in paths if path not in self.files]
        errors = "".join(f"{program}: {path}: No such file or directory\n" for path in missing)
        held = {path: self.files[path] for path in paths if path in self.files}
        if program == "test":
            isdir = [path for path in missing if any(f.startswith(f"{path}/") for f in self.files)]
            return Done(argv, 0 if held or isdir else 1, b"", b"")
        if program == "chmod":
            if argv[1] in ("755", "+x"):
                self.programs.update(held)
            return Done(argv, 1 if missing else 0, b"", errors.encode())
        if program == "cat":
            return Done(argv, 1 if missing else 0, b"".join(held.values()), errors.encode())
        if program == "sha256sum":
            lines = [f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in held.items()]
            return Done(argv, 1 if missing else 0, "".join(lines).encode(), errors.encode())
        return Done(argv, 127, b"", f"sh: {argv[0]}: not found\n".encode())


def _bytes(data: bytes | str) -> bytes:
    return data if isinstance(data, bytes) else data.encode()
