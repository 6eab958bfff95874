"""How much memory the runtime holds; each figure is of a process of its own.

``python -m tests.benches.runtime_memory frames COUNT``: 10,000 frames through detector, tracker
and pose model, with small networks on ONNX Runtime, must not hold more at the end than after the
warm-up.
``python -m tests.benches.runtime_memory own``: what a process has that looked at one picture with
all parts of the runtime, when the networks are played by arrays, so that no engine is loaded.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

GROWTH_LIMIT_MB = 1.0
OWN_LIMIT_MB = 60.0
_WARM_UP = 3000
_EVERY = 500

OWN = """
import json, sys
import numpy as np
from edge import Detector, Pipeline, PoseEstimator
from edge.session import Session
from edge.spec import ModelSpec
from edge.tracking.tracker import PoseTracker

class Played(Session):
    engine, inference_precision, max_batch = "played", "fp32", None
    def __init__(self, spec):
        self.spec = spec
    def run(self, feeds):
        (batch,) = feeds.values()
        answer = {}
        for tensor in self.spec.outputs:
            shape = [len(batch), *tensor.shape[1:]]
            answer[tensor.name] = np.full(shape, -9, np.float32)
        if self.spec.task == "detection":
            answer[self.spec.outputs[2].name][0, 0, 4:6, 4:6] = 3
            answer[self.spec.outputs[5].name][:] = 60
        else:
            for values in answer.values():
                for keypoint in range(values.shape[1]):
                    values[:, keypoint, 50 + 10 * keypoint] = 0.9
        return answer
    def close(self):
        pass

detector, pose = (Played(ModelSpec.from_json(spec)) for spec in json.loads(sys.argv[1]))
pipeline = Pipeline(PoseEstimator(pose), Detector(detector), tracker=PoseTracker())
image = np.zeros((480, 640, 3), np.uint8)
people = [len(pipeline(image)) for _ in range(5)]
lines = open("/proc/self/status").read().splitlines()
resident_kb = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
print(json.dumps({"resident_mb": resident_kb / 1024, "people": people,
                  "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""
"""Prints what it holds after some pictures; sys.argv[1] is the specs of detector and pose model."""


def resident_mb() -> float:
    """What this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def own_arguments() -> list[str]:
    """Behind the interpreter: the program OWN with specs of the usual sizes."""
    from tests.stand_ins.specs import detector_spec, pose_spec

    return ["-c", OWN, json.dumps([detector_spec().to_json(), pose_spec().to_json()])]


def frames(count: int) -> dict[str, Any]:
    """Memory in MB over ``count`` frames, every 500 of them from the end of the warm-up."""
    import numpy as np

    from edge import Detector, Pipeline, PoseEstimator, open_session
    from edge.session import EngineSettings
    from edge.tracking.tracker import PoseTracker, TrackerParams
    from tests.stand_ins.sdk_artifacts import detector_artifact, pose_artifact

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (16, 96, 128, 3)).astype(np.uint8)
    held: list[float] = []
    people = 0
    with tempfile.TemporaryDirectory() as folder:
        artifacts = (
            detector_artifact(Path(folder) / "detector", max_boxes=3),
            pose_artifact(Path(folder) / "pose"),
        )
        detector, pose = (open_session(one, EngineSettings(threads=1)) for one in artifacts)
        tracker = PoseTracker(TrackerParams(det_interval=2, det_thr=0.3, pose_kpt_thr=0.05))
        pipeline = Pipeline(
            PoseEstimator(pose), Detector(detector, score_threshold=0.2), tracker=tracker
        )
        for number in range(_WARM_UP + count + 1):
            if number % _EVERY == 0:
                gc.collect()
                held.append(resident_mb())
            people += len(pipeline(pictures[rng.integers(len(pictures))]))
    held = held[_WARM_UP // _EVERY :]
    return {"held_mb": held, "growth_mb": max(held) - held[0], "people": people}


def main() -> int:
    """Print one of both as JSON."""
    if sys.argv[1] == "own":
        os.execv(sys.executable, [sys.executable, *own_arguments()])
    print(json.dumps(frames(int(sys.argv[2]))))
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
