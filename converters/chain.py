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

__all__ = ["Row", "Step", "private_folder", "run_steps", "staged_folder"]


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


def run_steps(
    model: str,
    steps: Sequence[Step],
    on_row: Callable[[Row], None],
    on_begin: Callable[[str, str], None] | None = None,
) -> None:
    """Run steps in order; an error names the step and the ones that ran before it.

    ``on_begin`` hears of a step when it starts, ``on_row`` when it is done.
    """
    done: list[str] = []
    for step in steps:
        where = f"{model}, step {step.name}" + (f" (after {', '.join(done)})" if done else "")
        if on_begin:
            on_begin(model, step.name)
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
    with private_folder(final.parent, final.name) as private:
        old = private.with_name(f".{final.name}.old.{os.getpid()}.part")
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
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def private_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder of this process in ``parent``, gone when the block ends, however it ends.

    ``parent`` is made, and removed again where nothing is left in it. What a killed process left
    behind is removed by the next one.
    """
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    for stale in parent.glob(f".{name}.*.part"):
        if not _is_alive(int(stale.name.split(".")[-2])):
            shutil.rmtree(stale, ignore_errors=True)
    private = parent / f".{name}.{os.getpid()}.part"
    private.mkdir()
    try:
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
