"""Who keeps people's numbers best: both modes of the tracker and rtmlib's, on the same scenes.

IDF1 is the share of boxes that bear the right person's number when each number may stand for one
person only; a switch is a person whose number changes. Everybody gets the same detections and
poses, which depend on the boxes that they ask about.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.keypoints import KEYPOINT_SETS
from edge.tracking.tracker import Mode, PoseTracker, TrackerParams
from tests.benches.mmdeploy_runtime import RTMLIB, peer_python
from tests.conftest import ROOT
from tests.stand_ins.make_goal import end_with
from tests.stand_ins.tracking_scenes import SCENES, Scene

__all__ = ["SEEDS", "Answers", "Kept", "ours", "rtmlib", "score"]

SEEDS = tuple(range(100, 108))
"""None of those that the scenes were made with."""

# Of each frame: the numbers, and the boxes (N, 4) xyxy that bear them.
Answers = list[tuple[list[int], npt.NDArray[np.float64]]]


@dataclass(frozen=True)
class Kept:
    """How well numbers were kept: matches by number, and what was left over on either side."""

    matched: int
    wrong: int
    lost: int
    switches: int
    people: int

    @property
    def idf1(self) -> float:
        return 2 * self.matched / max(2 * self.matched + self.wrong + self.lost, 1)


def ours(scene: Scene, mode: Mode) -> Answers:
    """What the tracker says, with its defaults."""
    params = TrackerParams(
        det_interval=scene.det_interval, keypoint_sigmas=KEYPOINT_SETS["coco17"].sigmas
    )
    tracker = PoseTracker(params, mode=mode)
    answers: Answers = []
    for frame in range(len(scene)):
        found = scene.detect(frame) if tracker.detection_due else None
        boxes_xyxy = tracker.boxes(scene.image_hw, found)
        people = tracker.update(scene.estimate(frame, boxes_xyxy))
        boxes = np.array([person.box_xyxy for person in people], np.float64).reshape(-1, 4)
        answers.append(([person.track_id for person in people], boxes))
    return answers


def rtmlib(name: str, seeds: Sequence[int], *, mended: bool = False) -> list[Answers]:
    """What the real rtmlib says of some scenes of one kind; skips where it cannot be had.

    It gives no numbers out: they are taken from where it decides them, box by box. Once a number
    exceeds the count of people, version 0.0.16 fails to remember the frame; ``mended`` remembers
    it in its stead, so that nothing but its way to match is compared.
    """
    argv = [str(peer_python(RTMLIB)), "-c", _RTMLIB, name, str(int(mended)), *map(str, seeds)]
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scenes = json.loads(done.stdout.splitlines()[-1])
    return [
        [(ids, np.array(boxes, np.float64).reshape(-1, 4)) for ids, boxes in scene]
        for scene in scenes
    ]


def score(pairs: Iterable[tuple[Scene, Answers]]) -> Kept:
    """Answers against the truth, summed over scenes; boxes match by an overlap of half or more."""
    motrics: Any = importlib.import_module("motrics")
    total = np.zeros(5, int)
    for scene, answers in pairs:
        truth = [scene.truth(frame) for frame in range(len(scene))]
        lists = [list(column) for part in (truth, answers) for column in zip(*part, strict=True)]
        identity, clear = motrics.compute_identity(*lists), motrics.compute_clear(*lists)
        total += [identity.idtp, identity.idfp, identity.idfn, clear.num_switches, clear.num_gt]
    return Kept(*total.tolist())


_RTMLIB = """
import json, sys
import numpy as np
from rtmlib import PoseTracker
from tests.stand_ins import tracking_scenes

class Models:
    det_mode = "human"
    def __init__(self, **options):
        self.det_model, self.pose_model = self, self.pose
    def __call__(self, frame):
        found = scene.detect(frame)
        return found.boxes_xyxy[found.scores > 0.5]
    def pose(self, frame, bboxes):
        answer = scene.estimate(frame, np.array(bboxes, np.float32).reshape(-1, 4))
        return answer[..., :2], answer[..., 2]

make = next(m for m in tracking_scenes.SCENES if m.__name__ == sys.argv[1])
results = []
for seed in map(int, sys.argv[3:]):
    scene = make(seed)
    tracker = PoseTracker(Models, det_frequency=scene.det_interval)
    decide, said = tracker.track_by_iou, []
    def recording(box):
        answer = decide(box)
        said.append((answer[0], box))
        return answer
    tracker.track_by_iou = recording
    frames = []
    height, width = scene.image_hw
    for frame in range(len(scene)):
        said.clear()
        try:
            tracker(frame)
        except IndexError:
            pass  # 0.0.16 loses count of its own lists; what it had decided by then counts
        kept = [(int(i), np.clip(b, 0, [width, height] * 2).tolist()) for i, b in said if i >= 0]
        if sys.argv[2] == "1":
            tracker.frame_cnt = frame + 1
            tracker.track_ids_last_frame = [i for i, _ in said if i >= 0]
            tracker.bboxes_last_frame = [b for i, b in said if i >= 0]
            tracker.next_id = max([tracker.next_id, *(i + 1 for i, _ in said)])
        frames.append(([i for i, _ in kept], [b for _, b in kept]))
    results.append(frames)
print(json.dumps(results))
"""


def main() -> int:
    """Print the table."""
    print("scene               tracker          IDF1  switches   people")
    for make in SCENES:
        scenes = [make(seed) for seed in SEEDS]
        trackers: dict[str, list[Answers]] = {
            "corrected": [ours(scene, "corrected") for scene in scenes],
            "sdk": [ours(scene, "sdk") for scene in scenes],
            "rtmlib": rtmlib(make.__name__, SEEDS),
            "rtmlib, mended": rtmlib(make.__name__, SEEDS, mended=True),
        }
        for name, answers in trackers.items():
            kept = score(zip(scenes, answers, strict=True))
            print(
                f"{scenes[0].name:18}  {name:14} {kept.idf1:6.3f}  {kept.switches:8}  "
                f"{kept.people:7}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    end_with("bench_tracking", main)
