"""Steps: what each requires, does and ensures; and folders that are never half-written."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError, StepError

__all__ = ["Row", "Step", "run_steps", "staged_folder"]


@dataclass(frozen=True)
class Row:
    """One line of the conversion's table. ``size_bytes`` and ``verdict`` may be absent."""

    model: str
    step: str
    seconds: float
    size_bytes: int | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Step:
    """One step of a chain.

    ``requires`` and ``ensures`` return what is wrong, or nothing; ``run`` returns the size of what
    it made in bytes (None where it makes nothing) and a verdict for the table.
    """

    name: str
    run: Callable[[], tuple[int | None, str]]
    requires: Callable[[], str | None] = lambda: None
    ensures: Callable[[], str | None] = lambda: None


def run_steps(model: str, steps: Sequence[Step], on_row: Callable[[Row], None]) -> None:
    """Run steps in order; an error names the step and the ones that ran before it."""
    done: list[str] = []
    for step in steps:
        where = f"{model}, step {step.name}" + (f" (after {', '.join(done)})" if done else "")
        start = time.perf_counter()
        wrong = step.requires()
        if wrong:
            raise StepError(f"{where} cannot start: {wrong}")
        try:
            size_bytes, verdict = step.run()
        except EdgeError as error:
            raise type(error)(f"{where}: {error}") from error
        wrong = step.ensures()
        if wrong:
            raise StepError(f"{where} did not keep its promise: {wrong}")
        done.append(step.name)
        on_row(Row(model, step.name, time.perf_counter() - start, size_bytes, verdict))


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """A private folder beside ``final`` that takes its place when the block ends well.

    On any exception, Ctrl-C included, the private folder goes and ``final`` stays as it was. What
    a killed process left behind is removed by the next one.
    """
    made = [parent for parent in final.parents if not parent.exists()]
    final.parent.mkdir(parents=True, exist_ok=True)
    for stale in final.parent.glob(f".{final.name}.*.part"):
        if not _is_alive(int(stale.name.split(".")[-2])):
            shutil.rmtree(stale, ignore_errors=True)
    private = final.parent / f".{final.name}.{os.getpid()}.part"
    old = final.parent / f".{final.name}.old.{os.getpid()}.part"
    private.mkdir()
    try:
        yield private
        # A folder cannot be replaced in one call; a moment without one is better than a mixture.
        if final.exists():
            final.rename(old)
        try:
            private.rename(final)
        except BaseException:
            if old.exists():
                old.rename(final)
            raise
    finally:
        shutil.rmtree(private, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
