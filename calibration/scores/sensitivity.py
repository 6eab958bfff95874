"""Which parts of a network must stay float: a ranking, and the smallest set that will do.

In scope: names of parts and two callables. Out of scope: formats, engines, what an error is.

Sets of float parts that were measured once are kept in ``known``, a dictionary from the set to the
value. Filled from a file by ``known_from_json`` it lets an interrupted analysis go on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge.errors import SpecError

__all__ = [
    "Direction",
    "Measured",
    "Proposal",
    "RankedPart",
    "known_from_json",
    "known_to_json",
    "propose",
    "rank_parts",
]

Direction = Literal["float-one", "quantise-one"]
FloatParts = frozenset[str]
Measure = Callable[[FloatParts], float]
Known = MutableMapping[FloatParts, float]


@dataclass(frozen=True)
class Measured:
    """One measurement, for a progress line: which parts were float, the value, how many so far."""

    float_parts: FloatParts
    value: float
    done: int
    total: int | None
    """None where the number of measurements depends on their results."""


@dataclass(frozen=True)
class RankedPart:
    """A part with the decoded error of its own set, and how much of the error it is to blame for.

    ``float-one``: ``error`` with it alone float, ``blame`` what that took away from the error of
    the wholly quantised network. ``quantise-one``: ``error`` with it alone quantised, which is
    ``blame`` but for the error of the float network.
    """

    name: str
    error: float
    blame: float


@dataclass(frozen=True)
class Proposal:
    """Parts to keep float, in the order of the ranking, and the accuracy that they give.

    ``enough`` is False where even all parts together do not reach the limit; ``float_parts`` are
    then those with the best accuracy that was seen.
    """

    float_parts: tuple[str, ...]
    accuracy: float
    enough: bool
    measurements: int


class _Memory:
    """A measurement that asks once for each set, and tells of what it asked."""

    def __init__(
        self,
        measure: Measure,
        known: Known | None,
        on_measured: Callable[[Measured], None] | None,
        total: int | None,
    ) -> None:
        self._measure, self._tell, self._total = measure, on_measured, total
        self._known: Known = {} if known is None else known
        self.seen: dict[FloatParts, float] = {}

    def __call__(self, float_parts: FloatParts) -> float:
        if float_parts in self.seen:
            return self.seen[float_parts]
        if float_parts not in self._known:
            self._known[float_parts] = float(self._measure(float_parts))
        value = self.seen[float_parts] = self._known[float_parts]
        if self._tell is not None:
            self._tell(Measured(float_parts, value, len(self.seen), self._total))
        return value


def rank_parts(
    parts: Sequence[str],
    error_of: Measure,
    direction: Direction = "float-one",
    *,
    known: Known | None = None,
    on_measured: Callable[[Measured], None] | None = None,
) -> tuple[RankedPart, ...]:
    """Parts by how much of the quantised network's error is theirs, the worst first.

    ``error_of(float_parts)`` is the decoded error of the network with these parts float and all
    others quantised; it is asked ``len(parts) + 1`` times. Ties stay in the given order.

    Raises SpecError for no part, for a part that is named twice and for an unknown direction.
    """
    _check_parts(parts)
    if direction not in ("float-one", "quantise-one"):
        raise SpecError(f"direction is float-one or quantise-one, got {direction!r}")
    everything = frozenset(parts)
    error = _Memory(error_of, known, on_measured, len(parts) + 1)
    if direction == "float-one":
        base = error(frozenset())
        errors = [error(frozenset([name])) for name in parts]
        blames = [base - value for value in errors]
    else:
        base = error(everything)
        errors = [error(everything - {name}) for name in parts]
        blames = [value - base for value in errors]
    ranked = [RankedPart(*row) for row in zip(parts, errors, blames, strict=True)]
    return tuple(sorted(ranked, key=lambda part: -part.blame))


def propose(
    ranking: Sequence[RankedPart],
    accuracy_of: Measure,
    least_accuracy: float,
    *,
    known: Known | None = None,
    on_measured: Callable[[Measured], None] | None = None,
) -> Proposal:
    """The smallest set of float parts found whose accuracy is ``least_accuracy`` or more.

    First the shortest head of the ranking that suffices: its length is doubled until it does, then
    halved in between, which takes accuracy to rise with the length. Then each part is given back,
    the least important first, for as long as the rest still suffices: from what is proposed no
    single part can be taken away.

    Raises SpecError for an empty ranking and a part that is named twice.
    """
    names = [part.name for part in ranking]
    _check_parts(names)
    accuracy = _Memory(accuracy_of, known, on_measured, None)

    def suffices(chosen: Sequence[str]) -> bool:
        return accuracy(frozenset(chosen)) >= least_accuracy

    chosen = _shortest_head(names, suffices)
    if chosen is None:
        best, value = max(accuracy.seen.items(), key=lambda item: (item[1], -len(item[0])))
        kept = tuple(name for name in names if name in best)
        return Proposal(kept, value, False, len(accuracy.seen))
    given_back = True
    while given_back:
        given_back = False
        for name in reversed(chosen):
            rest = [other for other in chosen if other != name]
            if suffices(rest):
                chosen, given_back = rest, True
    return Proposal(tuple(chosen), accuracy(frozenset(chosen)), True, len(accuracy.seen))


def _shortest_head(
    names: Sequence[str], suffices: Callable[[Sequence[str]], bool]
) -> list[str] | None:
    """The shortest ``names[:n]`` that suffices, by doubling and halving; None if none does."""
    if suffices([]):
        return []
    too_short, length = 0, 1
    while not suffices(names[:length]):
        if length == len(names):
            return None
        too_short, length = length, min(2 * length, len(names))
    while length - too_short > 1:
        middle = (too_short + length) // 2
        if suffices(names[:middle]):
            length = middle
        else:
            too_short = middle
    return list(names[:length])


def _check_parts(parts: Sequence[str]) -> None:
    if not parts:
        raise SpecError("the network has no part to choose among")
    twice = sorted({name for name in parts if list(parts).count(name) > 1})
    if twice:
        raise SpecError(f"the part {twice[0]!r} is named twice")


def known_to_json(known: Known) -> list[dict[str, Any]]:
    """Measured sets as plain values."""
    return [
        {"float_parts": sorted(float_parts), "value": value} for float_parts, value in known.items()
    ]


def known_from_json(rows: Sequence[dict[str, Any]]) -> dict[FloatParts, float]:
    """Read back what ``known_to_json`` gave; SpecError for anything else."""
    try:
        return {frozenset(row["float_parts"]): float(row["value"]) for row in rows}
    except (TypeError, KeyError, ValueError):
        raise SpecError("these are no measured sets of float parts; measure again") from None
