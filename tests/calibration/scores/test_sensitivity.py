"""The ranking and the proposal against brute force on error models whose best answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from calibration.scores.sensitivity import (
    Measured,
    RankedPart,
    known_from_json,
    known_to_json,
    propose,
    rank_parts,
)
from edge.errors import SpecError

Set = frozenset[str]
NAMES = tuple("abcdefgh")


def additive(harm: dict[str, float]) -> Callable[[Set], float]:
    """The error is the sum of what the quantised parts do."""
    return lambda floats: sum(value for name, value in harm.items() if name not in floats)


def harms(seed: int) -> dict[str, float]:
    values = np.random.default_rng(seed).exponential(1.0, len(NAMES)) ** 2
    return dict(zip(NAMES, values.tolist(), strict=True))


def smallest(accuracy: Callable[[Set], float], least: float) -> int | None:
    """Of all sets, the size of the smallest that will do."""
    for size in range(len(NAMES) + 1):
        if any(accuracy(frozenset(some)) >= least for some in combinations(NAMES, size)):
            return size
    return None


@pytest.mark.parametrize("direction", ["float-one", "quantise-one"])
def test_parts_rank_by_the_harm_they_do(direction: str) -> None:
    harm = harms(0)
    ranking = rank_parts(NAMES, additive(harm), direction)  # type: ignore[arg-type]
    assert [part.name for part in ranking] == sorted(NAMES, key=lambda name: -harm[name])
    for part in ranking:
        assert part.blame == pytest.approx(harm[part.name])
        rest = sum(harm.values()) - harm[part.name]
        assert part.error == pytest.approx(rest if direction == "float-one" else harm[part.name])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.3, 0.6, 1.0])
def test_the_proposal_is_the_smallest_where_harm_adds_up(seed: int, share: float) -> None:
    harm = harms(seed)
    error = additive(harm)
    least = -share * sum(harm.values())
    proposal = propose(rank_parts(NAMES, error), lambda floats: -error(floats), least)
    assert proposal.enough
    assert proposal.accuracy == pytest.approx(-error(frozenset(proposal.float_parts)))
    assert proposal.accuracy >= least
    assert len(proposal.float_parts) == smallest(lambda floats: -error(floats), least)


def interacting(seed: int) -> Callable[[Set], float]:
    """Harm of single parts and of pairs, and the loudest masks the rest: nothing adds up."""
    rng = np.random.default_rng(seed)
    single = dict(zip(NAMES, rng.exponential(1.0, len(NAMES)).tolist(), strict=True))
    pairs = {pair: rng.exponential(0.5) for pair in combinations(NAMES, 2) if rng.random() < 0.4}

    def error(floats: Set) -> float:
        loud = [value for name, value in single.items() if name not in floats]
        both = [value for pair, value in pairs.items() if not set(pair) & floats]
        return float(max(loud, default=0.0) + 0.3 * sum(loud) + sum(both))

    return error


@pytest.mark.parametrize("seed", range(8))
def test_from_a_proposal_no_part_can_be_taken_back(seed: int) -> None:
    error = interacting(seed)

    def accuracy(floats: Set) -> float:
        return -error(floats)

    worst = accuracy(frozenset())
    for share in (0.1, 0.4, 0.8):
        least = share * worst
        proposal = propose(rank_parts(NAMES, error), accuracy, least)
        best = smallest(accuracy, least)
        assert proposal.enough
        assert best is not None
        assert accuracy(frozenset(proposal.float_parts)) >= least
        for name in proposal.float_parts:
            assert accuracy(frozenset(proposal.float_parts) - {name}) < least
        assert len(proposal.float_parts) <= best + 1


def test_nothing_is_kept_float_where_nothing_must_be() -> None:
    asked: list[Set] = []

    def accuracy(floats: Set) -> float:
        asked.append(floats)
        return 0.9

    proposal = propose(rank_parts(NAMES, additive(harms(1))), accuracy, 0.9)
    assert (proposal.float_parts, proposal.enough, proposal.measurements) == ((), True, 1)
    assert asked == [frozenset()]


def test_where_all_is_not_enough_the_best_seen_is_named() -> None:
    ranking = [RankedPart(name, 0.0, 0.0) for name in "abc"]
    values = {"": 0.1, "a": 0.5, "ab": 0.4, "abc": 0.5}
    proposal = propose(ranking, lambda floats: values["".join(sorted(floats))], 0.9)
    assert (proposal.float_parts, proposal.accuracy, proposal.enough) == (("a",), 0.5, False)


def test_long_heads_take_few_measurements() -> None:
    names = [f"part{index}" for index in range(64)]
    ranking = [RankedPart(name, 0.0, 0.0) for name in names]
    needed = frozenset(names[:20])
    proposal = propose(ranking, lambda floats: float(len(floats & needed)), 20.0)
    assert proposal.float_parts == tuple(names[:20])
    # 0, 1, 2, 4, 8, 16, 32 parts, five halvings, and one try for each of the 20.
    assert proposal.measurements <= 7 + 5 + 20


def test_an_interrupted_analysis_goes_on_where_it_was() -> None:
    error, asked = additive(harms(2)), list[Set]()

    def measure(floats: Set) -> float:
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(floats)
        return error(floats)

    known: dict[Set, float] = {}
    with pytest.raises(KeyboardInterrupt):
        rank_parts(NAMES, measure, known=known)
    restored = known_from_json(json.loads(json.dumps(known_to_json(known))))
    assert restored == {floats: error(floats) for floats in asked}
    again: list[Set] = []
    seen: list[Measured] = []

    def count(floats: Set) -> float:
        again.append(floats)
        return error(floats)

    ranking = rank_parts(NAMES, count, known=restored, on_measured=seen.append)
    assert ranking == rank_parts(NAMES, error)
    assert len(again) == len(NAMES) + 1 - 4
    assert not set(again) & set(asked)
    assert [one.done for one in seen] == list(range(1, len(NAMES) + 2))
    assert {one.total for one in seen} == {len(NAMES) + 1}


def test_nonsense_is_refused() -> None:
    with pytest.raises(SpecError, match="no part"):
        rank_parts([], lambda _: 0.0)
    with pytest.raises(SpecError, match="'a' is named twice"):
        rank_parts(["a", "b", "a"], lambda _: 0.0)
    with pytest.raises(SpecError, match="float-one or quantise-one"):
        rank_parts(["a"], lambda _: 0.0, "both")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="no part"):
        propose([], lambda _: 0.0, 0.5)
    with pytest.raises(SpecError, match="measure again"):
        known_from_json([{"parts": []}])
