"""The comparison with peers, but for what takes time: ratios, wrong answers, the processes."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import ToolError
from tests.benches import bench_peers
from tests.benches.bench_peers import REFERENCE, TARGETS, around, hold_answers, run, start_all
from tests.benches.peer_processes import processes
from tests.benches.peer_verdicts import Answer, Difference, Ratio, difference, ratio, rounds_ms
from tests.benches.runtime_memory import GROWTH_LIMIT_MB, OWN_LIMIT_MB, own_arguments

pytest.importorskip("cv2")

pytestmark = pytest.mark.alone


def answer(*people: tuple[float, float], seed: int = 0) -> Answer:
    """People of 100 x 200 px at these corners, all of their keypoints sure."""
    rng = np.random.default_rng(seed)
    figure = rng.uniform((0, 0), (100, 200), (17, 2))
    boxes = np.array([[x, y, x + 100, y + 200] for x, y in people], np.float32)
    points = np.array([figure + corner for corner in people], np.float32).reshape(-1, 17, 2)
    scores = np.full((len(people), 17, 1), 0.9, np.float32)
    return boxes, np.concatenate([points, scores], axis=-1)


def moved(one: Answer, by_px: float, count: int = 17) -> Answer:
    boxes, keypoints = one[0], one[1].copy()
    keypoints[:, :count, 0] += by_px
    return boxes, keypoints


ALIKE = Difference(17, 0.0, 0.0, 0.0, 0.0, None)


def test_ratios_are_of_the_same_round() -> None:
    # Of medians the ratio would be 2; round by round it is 1, 4 and 3.
    found = ratio([10, 5, 1], [10, 20, 3])
    assert found.median == 3
    assert 1 <= found.low <= 3 <= found.high <= 4
    assert ratio([2, 4, 8, 6, 10], [3, 6, 12, 9, 15]) == Ratio(1.5, 1.5, 1.5)
    wide = ratio([1.0] * 20, list(np.linspace(1, 3, 20)))
    assert 1.3 < wide.low < 1.9 < 2.1 < wide.high < 2.7


def test_a_rounds_figure_is_its_median_call() -> None:
    turns = [[(2e6, 1e6), (9e6, 5e6), (3e6, 2e6)], [(4e6, 3e6)]]
    assert rounds_ms(turns) == [3, 4]
    assert rounds_ms(turns, 1) == [2, 3]


def test_answers_that_differ_little_are_right() -> None:
    one = answer((0, 0), (300, 50))
    found = difference([one], [(one[0][::-1], one[1][::-1])])  # another order of people
    assert found == replace(ALIKE, keypoints=34)
    found = difference([one], [moved(one, 1.5)])
    assert found.wrong is None
    assert found.median_px == pytest.approx(1.5, abs=1e-4)
    assert found.median_share == pytest.approx(1.5 / 200, abs=1e-6)
    # One keypoint of 17 jumped from one side to the other.
    found = difference([one], [moved(one, 80, count=1)])
    assert found.wrong is None
    assert found.max_px == pytest.approx(80, abs=1e-3)


def test_unsure_keypoints_are_not_compared() -> None:
    one = answer((0, 0))
    one[1][:, :10, 2] = 0.2
    assert difference([one], [moved(one, 50, count=10)]) == replace(ALIKE, keypoints=7)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (moved(answer((0, 0), (300, 50)), 2.6), "off by 1.3%"),
        (moved(answer((0, 0), (300, 50)), 20, count=3), "one in ten by 10.0%"),
        (moved(answer((0, 0), (300, 50)), float("nan")), "off by nan"),
        (answer((0, 0)), "1 people in picture 2, where 2 are"),
        (answer((0, 0), (300, 50), (600, 0)), "3 people in picture 2"),
        (answer((0, 0), (450, 50)), "elsewhere in picture 2"),
        (answer((0, 0), (5, 0)), "elsewhere in picture 2"),
    ],
)
def test_answers_that_differ_are_wrong(other: Answer, why: str) -> None:
    one = answer((0, 0), (300, 50))
    empty = answer()
    found = difference([empty, one], [empty, other])
    assert found.wrong is not None
    assert why in found.wrong


def test_nothing_to_compare_is_wrong() -> None:
    assert difference([answer()], [answer()]).wrong == "no keypoint was found to compare"


def test_nobody_is_fast_by_being_wrong() -> None:
    target = TARGETS[0]
    both = {target.ours: ALIKE, target.peer: ALIKE}
    fast, slow = Ratio(target.at_least, 1, 2), Ratio(target.at_least - 0.01, 1, 2)
    assert target.verdict(fast, both) == "met"
    assert target.verdict(slow, both) == "NOT MET"
    for name in both:
        wrong = {**both, name: replace(ALIKE, wrong="far off")}
        assert target.verdict(fast, wrong) == f"not compared: {name} WRONG"


class Played:
    """A contender that answers from memory and takes note of its turns."""

    def __init__(self, name: str, answers: dict[int, Answer], log: list[str]) -> None:
        self.name, self.answers, self.log = name, answers, log

    def ask(self, what: str, index: int, boxes: Any) -> Answer:
        assert what == "answers"
        assert boxes is None or boxes is ANSWERS[index][0]
        return self.answers[index]

    def turn(self, everybody: Any, what: str, *request: Any) -> tuple[Any, float]:
        assert len(everybody) == 3
        assert request[0] in ([0], [1])
        self.log.append(f"{self.name} {what}")
        return [(3_300_000, 3_000_000)], 0.01


ANSWERS = {0: answer((0, 0)), 1: answer((0, 0), (200, 0), (400, 0), (600, 0))}


def test_contenders_take_turns_and_are_held_to_their_answers() -> None:
    log: list[str] = []
    lame = {**ANSWERS, 1: answer((0, 0), (200, 0), (400, 0))}
    running: dict[str, Any] = {
        "mmdeploy": Played("peer", ANSWERS, log),
        REFERENCE: Played("ours", ANSWERS, log),
        "ours default": Played("fast", lame, log),
    }
    groups = {1: [0], 4: [1]}
    differences, boxes = hold_answers(running, groups)
    assert [off.wrong is None for off in differences.values()] == [True, True, False]
    assert boxes[4][0] is ANSWERS[1][0]
    found = run(running, groups, boxes, 2, 3)
    turns = ["peer timed", "ours timed", "fast timed"]
    tracked = ["ours tracked", "fast tracked"]
    assert log == turns * 4 + tracked + turns[::-1] * 4 + tracked[::-1]
    shares = around(found["samples_ns"])
    assert shares == {name: pytest.approx(0.1) for name in (REFERENCE, "ours default")}
    lines = bench_peers.around_table(shares | {REFERENCE: 0.101})
    assert [line.endswith("NOT MET") for line in lines] == [True, False]
    with pytest.raises(ToolError, match="not seen"):
        around({"around": {"ours": [[(5, 0)]]}})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a contender of ours with two small networks is started with."""
    pytest.importorskip("onnxruntime")
    from tests.stand_ins.sdk_artifacts import detector_artifact, pose_artifact

    folder = tmp_path_factory.mktemp("small")
    detector = detector_artifact(folder / "detector", score_threshold=0.05)
    pose = pose_artifact(folder / "pose")
    parts = {"detector": [str(detector.folder), "fp32"], "pose": [str(pose.folder), "fp32"]}
    return {"kind": "ours", "threads": 1, **parts}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="contenders need Linux")
def test_a_process_answers_and_takes_times(small: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (96, 128, 3)).astype(np.uint8) for _ in range(2)]
    with ExitStack() as stack:
        broken = {**small, "pose": [small["detector"][0] + "-not-there", "fp32"]}
        wanted = {REFERENCE: small, "ours default": broken}
        running = start_all(stack, wanted, 1)
        assert list(running) == [REFERENCE]  # the other one said why and is gone
        one = running[REFERENCE]
        assert one.about["precision"] == "fp32"
        assert one.about["cpus"] == 1
        one.ask("pictures", pictures)
        boxes, keypoints = one.ask("answers", 0, None)
        assert len(boxes) == len(keypoints) > 0
        given = np.array([[10, 10, 60, 90]], np.float32)
        assert one.ask("answers", 1, given)[1].shape == (1, 17, 3)
        with processes([one]) as load:
            samples, awake = one.turn([one], "timed", [0, 1], None, 3)
        assert 0 <= load["others"] <= 1
        assert awake == 0
        assert len(samples) == 6
        assert all(0 < detector < whole for whole, detector in samples)
        assert all(len(row) == 1 for row in one.ask("timed", [0], [given], 2))
        tracked = one.ask("tracked", [0], 4)
        assert len(tracked) == 4
        assert all(0 < network < total for total, network in tracked)
        assert one.ask("usage")["busy_cpus"] < 1.5
        with pytest.raises(ToolError, match=r"(?s)ended with 1: .*KeyError"):
            one.ask("nonsense")


def test_without_the_reference_nothing_is_compared(small: dict[str, Any]) -> None:
    with ExitStack() as stack, pytest.raises(ToolError, match="nothing to hold answers against"):
        start_all(stack, {REFERENCE: {**small, "pose": ["nowhere", "fp32"]}}, 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_runtime_without_an_engine_is_small() -> None:
    done = subprocess.run(
        [sys.executable, *own_arguments()], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert min(found["people"]) > 0
    assert "edge" in found["modules"]
    assert not {"cv2", "onnxruntime", "openvino", "ncnn"} & set(found["modules"])
    assert found["resident_mb"] < OWN_LIMIT_MB


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_constant_over_10000_frames() -> None:
    pytest.importorskip("onnxruntime")
    argv = [sys.executable, "-m", "tests.benches.runtime_memory", "frames", "10000"]
    root = Path(__file__).parents[2]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["people"] > 0
    assert len(found["held_mb"]) == 21
    assert found["growth_mb"] < GROWTH_LIMIT_MB


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="contenders need Linux")
def test_the_peers_answer_as_ours_do(tmp_path: Path) -> None:
    """The whole script on the demo pair; what it says of times is not looked at."""
    argv = [sys.executable, "-m", "tests.benches.bench_peers", "--rounds", "5", "--repeat", "1"]
    argv += ["--threads", "1", "--formats", "onnx-fp32,openvino-fp32", "--no-streams"]
    argv += ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "found.json")]
    root = Path(__file__).parents[2]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["peers"]
    assert {REFERENCE, "ours openvino", "ours default"} <= set(found["contenders"])
    for name, off in found["differences"].items():
        assert off["wrong"] is None
        assert off["keypoints"] > 100, name
    peers = set(found["contenders"]) - set(found["around"])
    assert len(found["ratios"]) == len(peers) * 3 * 4
    for name, one in found["contenders"].items():
        assert one["cpus"] == 1
        # mmdeploy's ONNX Runtime places its threads by itself.
        assert name == "mmdeploy" or one["busy_cpus"] < 1.2
