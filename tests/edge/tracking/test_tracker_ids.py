"""`corrected` keeps people's numbers better than the SDK's tracker and than rtmlib's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.benches.bench_tracking import SEEDS, Answers, Kept, ours, rtmlib, score
from tests.stand_ins.tracking_scenes import SCENES, Scene

pytest.importorskip("motrics")


def test_the_scenes_can_be_solved_by_whoever_knows_the_truth() -> None:
    for make in SCENES:
        scene = make(SEEDS[0])
        kept = score([(scene, [scene.truth(frame) for frame in range(len(scene))])])
        assert (kept.idf1, kept.switches, kept.wrong, kept.lost) == (1, 0, 0, 0)
        assert kept.people > 80


def test_somebody_who_swaps_numbers_is_found_out() -> None:
    scene = SCENES[0](SEEDS[0])
    truth = [scene.truth(frame) for frame in range(len(scene))]
    half = len(truth) // 2
    swapped = [
        ([{0: 1, 1: 0}.get(number, number) for number in ids] if frame >= half else ids, boxes)
        for frame, (ids, boxes) in enumerate(truth)
    ]
    kept = score([(scene, swapped)])
    assert kept.switches == 2
    assert kept.idf1 < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("make", SCENES, ids=lambda make: make.__name__)
def test_corrected_keeps_numbers_best(make: Callable[[int], Scene]) -> None:
    scenes = [make(seed) for seed in SEEDS]

    def kept(answers: list[Answers]) -> Kept:
        return score(zip(scenes, answers, strict=True))

    best = kept([ours(scene, "corrected") for scene in scenes])
    others = {
        "sdk": kept([ours(scene, "sdk") for scene in scenes]),
        "rtmlib": kept(rtmlib(make.__name__, SEEDS)),
        "rtmlib, mended": kept(rtmlib(make.__name__, SEEDS, mended=True)),
    }
    for name, other in others.items():
        assert best.idf1 > other.idf1, name
        assert best.switches < other.switches, name
