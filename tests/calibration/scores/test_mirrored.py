"""The flip test against naive loops, and on networks that do not care which side is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from calibration.scores.mirrored import MirrorAveraged
from edge.errors import SpecError
from edge.pose import PoseEstimator
from edge.spec import TensorSpec
from tests.stand_ins.fake_sessions import FakeSession
from tests.stand_ins.specs import detector_spec, heatmap_spec, pose_spec

LEFT_RIGHT = [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)]


def partner(k: int) -> int:
    for a, b in LEFT_RIGHT:
        if k in (a, b):
            return a + b - k
    return k


def batch(seed: int = 0, count: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 256, 192), np.float32)


def noisy_answers(*shapes: tuple[int, ...]) -> Any:
    """Answers that depend on the picture alone: noise seeded by it."""

    def answer(feeds: np.ndarray) -> list[np.ndarray]:
        seed = abs(hash(feeds.tobytes())) % 2**32
        rng = np.random.default_rng(seed)
        return [rng.standard_normal((len(feeds), *shape), np.float32) for shape in shapes]

    return answer


def test_simcc_is_averaged_as_mmpose_does_it() -> None:
    answer = noisy_answers((17, 384), (17, 512))
    image = batch()
    got = MirrorAveraged(FakeSession(pose_spec(), answer)).run({"input": image})
    plain, mirrored = answer(image), answer(np.ascontiguousarray(image[..., ::-1]))
    for n in range(2):
        for k in range(17):
            for axis, name in enumerate(("simcc_x", "simcc_y")):
                row = mirrored[axis][n, partner(k)]
                want = (plain[axis][n, k] + (row[::-1] if axis == 0 else row)) / 2
                np.testing.assert_allclose(got[name][n, k], want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "shifted"),
    [({}, True), ({"udp": True}, False), ({"heatmap_refinement": "megvii"}, False)],
)
def test_heatmaps_are_averaged_as_mmpose_does_it(changes: dict[str, Any], shifted: bool) -> None:
    answer = noisy_answers((17, 64, 48))
    image = batch()
    session = MirrorAveraged(FakeSession(heatmap_spec(**changes), answer))
    (got,) = session.run({"input": image}).values()
    (plain,), (mirrored,) = answer(image), answer(np.ascontiguousarray(image[..., ::-1]))
    for n, k in np.ndindex(2, 17):
        turned = np.array([row[::-1] for row in mirrored[n, partner(k)]])
        if shifted:
            turned = np.concatenate([turned[:, :1], turned[:, :-1]], axis=1)
        np.testing.assert_allclose(got[n, k], (plain[n, k] + turned) / 2, rtol=1e-6, atol=1e-7)


def test_a_network_that_knows_no_side_answers_as_without_the_test() -> None:
    """It marks where a crop's brightest column and row are: mirrored, that is mirrored as well."""
    rng = np.random.default_rng(8)

    def answer(feeds: np.ndarray) -> list[np.ndarray]:
        columns, rows = feeds.mean(axis=(1, 2)), feeds.mean(axis=(1, 3))
        return [
            np.repeat(np.repeat(axis, 2, axis=1)[:, None], 17, axis=1) for axis in (columns, rows)
        ]

    session = FakeSession(pose_spec(), answer)
    image = rng.integers(0, 255, (300, 240, 3), dtype=np.uint8)
    boxes = np.array([[20, 30, 160, 280], [0, 0, 240, 300]], np.float32)
    plain = PoseEstimator(session)(image, boxes)
    averaged = PoseEstimator(MirrorAveraged(session))(image, boxes)
    # The pair of equal bins of a column trades its first for its second: half an input px.
    step = 250 * 1.25 / 256
    np.testing.assert_allclose(averaged, plain, rtol=0, atol=0.51 * step + 1e-3)


def test_what_has_no_sides_is_refused() -> None:
    with pytest.raises(SpecError, match="detector is a detection model: the flip test"):
        MirrorAveraged(FakeSession(detector_spec(), None))
    tensors = tuple(TensorSpec(f"simcc_{a}", (None, 5, n)) for a, n in (("x", 384), ("y", 512)))
    unnamed = pose_spec(keypoint_set="unnamed-5", outputs=tensors)
    with pytest.raises(SpecError, match="5 unnamed keypoints"):
        MirrorAveraged(FakeSession(unnamed, None))
