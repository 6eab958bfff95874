"""The transport to this machine: the same promises as over a cable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edge.errors import DeviceError
from edge.files import cache_folder, replacing
from targets.transports.programs import ProgramTimeoutError, run_program
from targets.transports.transport import (
    Done,
    Progress,
    check_remote,
    countdown,
    shell_line,
    shortened,
)

__all__ = ["LocalTransport", "copy_whole", "open_local"]

_BLOCK_BYTES = 1 << 20


def open_local(work_dir: Path | None = None) -> LocalTransport:
    """The machine that we are on, by default with ``edgepose/device`` of the kit's cache folder."""
    if work_dir is None:
        # Only folders that end in edgepose/device are ever removed.
        cache = cache_folder()
        cache = cache if cache.name == "edgepose" else cache / "edgepose"
        work_dir = cache / "device"
    return LocalTransport(work_dir)


class LocalTransport:
    """Programs and files of this machine; programs start in the root folder."""

    kind = "local"
    name = "local"

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir.absolute().as_posix()

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Done:
        """Run a program to its end."""
        shell_line(argv, env)  # refuses here what no other transport could pass on
        try:
            return run_program(argv, timeout_s=timeout_s, cwd=Path("/"), env=env, stdin=stdin)
        except ProgramTimeoutError:
            raise DeviceError(
                f"{self.name}: `{shortened(argv)}` did not end within {timeout_s:g} s; it was ended"
            ) from None

    def push(
        self,
        local: Path,
        remote: str,
        *,
        executable: bool = False,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        """Copy a file into place."""
        where = Path(check_remote(remote))
        mode = 0o755 if executable else 0o644
        copy_whole(local, where, self.name, mode=mode, timeout_s=timeout_s, on_progress=on_progress)

    def pull(
        self,
        remote: str,
        local: Path,
        *,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        """Copy a file into place."""
        where = Path(check_remote(remote))
        copy_whole(
            where, local, self.name, mode=0o644, timeout_s=timeout_s, on_progress=on_progress
        )

    def close(self) -> None:
        """Nothing is open."""


def copy_whole(
    source: Path,
    target: Path,
    name: str,
    *,
    mode: int,
    timeout_s: float,
    on_progress: Progress | None = None,
) -> None:
    """Copy a file through a temporary name beside its new one; DeviceError, and nothing changed."""
    left_s, done = countdown(timeout_s), 0
    try:
        total = source.stat().st_size
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as part:
            with source.open("rb") as reader, part.open("wb") as writer:
                while block := reader.read(_BLOCK_BYTES):
                    writer.write(block)
                    done += len(block)
                    if on_progress:
                        on_progress(done, max(total, done))
                    if left_s() <= 0.001:
                        raise DeviceError(
                            f"{name}: copying {source} to {target} did not end within "
                            f"{timeout_s:g} s"
                        )
            if on_progress and not done:
                on_progress(0, 0)
            part.chmod(mode)
    except OSError as error:
        raise DeviceError(
            f"{name}: cannot copy {source} to {target}: {error.strerror or error}"
        ) from None
