"""Steps: what each requires, does and ensures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge.errors import EdgeError, StepError

__all__ = ["Row", "Step", "run_steps"]


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
