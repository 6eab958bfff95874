"""Steps: what each requires, does and ensures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from edge.errors import EdgeError, StepError

__all__ = ["Chain", "Done", "Row"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Row:
    """One line of the conversion's table. ``size_bytes`` and ``verdict`` may be absent."""

    model: str
    step: str
    seconds: float
    size_bytes: int | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Done(Generic[Value]):
    """What a step made, its size in bytes (None where it is no file) and a verdict for the row."""

    value: Value
    size_bytes: int | None = None
    verdict: str = ""


class Chain:
    """Runs the steps of one model in order; an error names the step and the ones before it.

    ``on_begin`` hears of a step when it starts, ``on_row`` when it is done.
    """

    def __init__(
        self,
        model: str,
        on_row: Callable[[Row], None],
        on_begin: Callable[[str, str], None] | None = None,
    ) -> None:
        self._model = model
        self._on_row = on_row
        self._on_begin = on_begin
        self._done: list[str] = []

    def run(
        self,
        name: str,
        step: Callable[[], Done[Value]],
        requires: Callable[[], str | None] = lambda: None,
        ensures: Callable[[Value], str | None] = lambda _: None,
    ) -> Value:
        """What a step makes. ``requires`` and ``ensures`` return what is wrong, or nothing."""
        before = f" (after {', '.join(self._done)})" if self._done else ""
        where = f"{self._model}, step {name}{before}"
        if self._on_begin:
            self._on_begin(self._model, name)
        start = time.perf_counter()
        wrong = requires()
        if wrong:
            raise StepError(f"{where} cannot start: {wrong}")
        try:
            done = step()
        except EdgeError as error:
            raise type(error)(f"{where}: {error}") from error
        wrong = ensures(done.value)
        if wrong:
            raise StepError(f"{where} did not keep its promise: {wrong}")
        self._done.append(name)
        seconds = time.perf_counter() - start
        self._on_row(Row(self._model, name, seconds, done.size_bytes, done.verdict))
        return done.value
