"""A contender of `make bench-peers`: one way from a picture to keypoints, in a process of its own.

``python -m tests.benches.contender ADDRESS CONFIG`` loads what CONFIG (JSON) names and answers over
a socket. It runs in the peers' environments too: nothing but the standard library and numpy may be
imported at its top. Times are taken here, around the complete call, numpy in and numpy out.

Everybody gets the same threads. ours: `EngineSettings`. rtmlib has no option for it, so
``onnxruntime.InferenceSession`` is given ``SessionOptions`` with ``intra_op_num_threads`` and
``openvino.Core.compile_model`` ``INFERENCE_NUM_THREADS`` beside what rtmlib asks for. mmdeploy's
runtime has no option at all, and its ONNX Runtime takes as many threads as there are CPUs: whoever
starts a contender limits its CPUs to the number of threads. That one places its threads by itself,
beyond the limit if there are more CPUs; the table says how many CPUs each really used.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import numpy as np

Image = Any  # (H, W, 3) uint8
Json = dict[str, Any]
SCORE_THRESHOLD = 0.3


@dataclass
class Contender:
    """Both parts of the way, and what is known of them.

    ``detect`` gives boxes (N, 4) xyxy of an image, ``estimate`` keypoints (N, K, 3) in boxes.
    ``whole`` is the complete call, and calls its second argument between the two parts. ``video``
    begins one: what it gives is the complete call with a tracker, which says how many ns the
    networks took of it. ``scores`` are those of all detections, best first. ``compared`` estimates
    in the place of ``estimate`` where answers are compared, for the reason that ``about`` gives.
    """

    detect: Callable[[Image], Any]
    estimate: Callable[[Image, Any], Any]
    about: Json
    whole: Callable[[Image, Callable[[], None]], Any] | None = None
    video: Callable[[], Callable[[Image], int]] | None = None
    scores: Callable[[Image], list[float]] | None = None
    compared: Callable[[Image, Any], Any] | None = None
    pictures: list[Image] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ticks: Counter[str] = Counter()
        self.busy_s = self.wall_s = 0.0

    def call(self, image: Image, between: Callable[[], None]) -> Any:
        if self.whole:
            return self.whole(image, between)
        boxes = self.detect(image)
        between()
        return self.estimate(image, boxes)


# --- who takes part -------------------------------------------------------------------------------


def rtmlib(config: Json) -> Contender:
    """The peer with its detector and its pose model, on ONNX Runtime or OpenVINO."""
    from importlib.metadata import version

    import cv2

    peer: Any = import_module("rtmlib")
    cv2.setNumThreads(config["threads"])
    backend = config["backend"]
    (_limit_onnxruntime if backend == "onnxruntime" else _limit_openvino)(config["threads"])
    common = {"backend": backend, "device": "cpu"}
    detector = peer.RTMDet(
        config["detector"],
        tuple(config["detector_hw"]),
        score_thr=SCORE_THRESHOLD,
        **common,
    )
    pose = peer.RTMPose(config["pose"], tuple(config["pose_hw"][::-1]), **common)
    if backend == "onnxruntime":
        threads = [m.session.get_session_options().intra_op_num_threads for m in (detector, pose)]
        precision = "fp32"
    else:
        threads = [m.compiled_model.get_property("INFERENCE_NUM_THREADS") for m in (detector, pose)]
        hints = {
            m.compiled_model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            for m in (detector, pose)
        }
        precision = {"f32": "fp32", "f16": "fp16"}.get(min(hints), min(hints))
        assert len(hints) == 1, f"rtmlib's two networks have two precisions: {hints}"
    assert set(threads) == {config["threads"]}, f"asked for {config['threads']}, got {threads}"

    def estimate(image: Image, boxes: Any) -> Any:
        keypoints, scores = pose(image, boxes)
        return np.concatenate([keypoints, scores[..., None]], axis=-1)

    def compared(image: Image, boxes: Any) -> Any:
        # Version 0.0.16 leaves a picture's channels as they are, blue first, and normalises them
        # as red first: with that put right the rest can be compared closely.
        return estimate(np.ascontiguousarray(image[..., ::-1]), boxes)

    about = {
        "engine": f"{backend} {version(backend).partition('-')[0]}",
        "with": f"rtmlib {version('rtmlib')}, opencv {cv2.__version__}",
        "note": "compared with the colours swapped, which rtmlib itself does not do",
        "precision": precision,
        "set_threads": threads[0],
    }
    return Contender(detector, estimate, about, compared=compared)


def _limit_onnxruntime(threads: int) -> None:
    import onnxruntime

    make = onnxruntime.InferenceSession

    def limited(*arguments: Any, **named: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        return make(*arguments, sess_options=options, **named)

    onnxruntime.InferenceSession = limited


def _limit_openvino(threads: int) -> None:
    import openvino

    compile_model = openvino.Core.compile_model

    def limited(self: Any, *arguments: Any, config: Json, **named: Any) -> Any:
        config = {**config, "INFERENCE_NUM_THREADS": threads}
        return compile_model(self, *arguments, config=config, **named)

    openvino.Core.compile_model = limited


def mmdeploy(config: Json) -> Contender:
    """The SDK's runtime: its detector, then its pose model, as its own examples join them."""
    peer: Any = import_module("mmdeploy_runtime")
    detector = peer.Detector(config["detector"], "cpu", 0)
    pose = peer.PoseDetector(config["pose"], "cpu", 0)
    # The runtime counts both ends of a box in.
    inclusive = np.array([0, 0, 1, 1], np.float32)

    def detect(image: Image) -> Any:
        boxes, labels, _ = detector(image)
        return boxes[(labels == 0) & (boxes[:, 4] > SCORE_THRESHOLD), :4]

    def estimate(image: Image, boxes: Any) -> Any:
        return np.asarray(pose(image, np.asarray(boxes, np.float32) - inclusive))

    about = {
        "engine": "onnxruntime 1.15.1",
        "with": "mmdeploy-runtime 1.3.1",
        "precision": "fp32",
        "set_threads": None,
    }
    return Contender(detect, estimate, about)


def ours(config: Json) -> Contender:
    """This kit's runtime on two artifacts, each with the precision to compute in."""
    from edge.detector import Boxes, Detector
    from edge.pipeline import Pipeline
    from edge.pose import PoseEstimator

    networks = [_open(config[part], config["threads"]) for part in ("detector", "pose")]
    sessions = [session for _, session in networks]
    detector = Detector(sessions[0], score_threshold=SCORE_THRESHOLD, label=0)
    everything = Detector(sessions[0], score_threshold=0.05, label=0)
    pose = PoseEstimator(sessions[1])
    pause: Callable[[], object] = int

    def noted(image: Image) -> Boxes:
        found = detector(image)
        pause()
        return found

    pipeline = Pipeline(pose, noted)  # type: ignore[arg-type]

    def whole(image: Image, between: Callable[[], None]) -> Any:
        nonlocal pause
        pause = between
        return pipeline(image)

    kinds = [
        f"{artifact.variant} on {session.engine} in {session.inference_precision}"
        for artifact, session in networks
    ]
    about = {
        "engine": " + ".join(dict.fromkeys(kinds)),
        "with": "edgepose",
        "precision": ", ".join(sorted({session.inference_precision for session in sessions})),
        "set_threads": config["threads"],
    }
    return Contender(
        lambda image: detector(image).boxes_xyxy,
        pose,
        about,
        whole=whole,
        video=lambda: _video(detector, pose),
        scores=lambda image: everything(image).scores.tolist(),
    )


def _open(part: tuple[str, Any], threads: int) -> tuple[Any, Any]:
    from edge.artifact import load_artifact
    from edge.session import EngineSettings, open_session

    folder, precision = part
    artifact = load_artifact(folder)
    return artifact, open_session(artifact, EngineSettings(threads, precision))


def _video(detector: Any, pose: Any) -> Callable[[Image], int]:
    """A pipeline with a tracker of its own that says how many ns the networks took of a call.

    The clock about the networks costs time itself, so that no other case has it.
    """
    from edge.pipeline import Pipeline
    from edge.tracking.tracker import PoseTracker, TrackerParams

    sigmas = pose.session.spec.keypoints.sigmas
    params = TrackerParams(det_thr=SCORE_THRESHOLD, keypoint_sigmas=sigmas)
    pipeline = Pipeline(pose, detector, tracker=PoseTracker(params))
    sessions = (detector.session, pose.session)
    network_ns = 0

    def clocked(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run_clocked(feeds: Any) -> Any:
            nonlocal network_ns
            start = time.perf_counter_ns()
            outputs = run(feeds)
            network_ns += time.perf_counter_ns() - start
            return outputs

        return run_clocked

    def track(image: Image) -> int:
        nonlocal network_ns
        network_ns = 0
        for session in sessions:
            session.run = clocked(session.run)
        try:
            pipeline(image)
        finally:
            for session in sessions:
                del session.run  # of this object; the class has its own
        return network_ns

    return track


KINDS: dict[str, Callable[[Json], Contender]] = {
    "rtmlib": rtmlib,
    "mmdeploy": mmdeploy,
    "ours": ours,
}

# --- what they are asked --------------------------------------------------------------------------


def answers(one: Contender, index: int, boxes: Any) -> Any:
    """Boxes (N, 4) and keypoints (N, K, 3) of a picture; those of given boxes where there are."""
    image = one.pictures[index]
    if boxes is None:
        boxes = one.detect(image)
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    estimate = one.compared or one.estimate
    keypoints = estimate(image, boxes) if len(boxes) else np.empty((0, 1, 3))
    return boxes, np.asarray(keypoints, np.float32)


def timed(one: Contender, indices: list[int], boxes: list[Any] | None, repeat: int) -> Any:
    """Times of calls in ns, picture by picture: [whole, detector's part], [pose] or tracked.

    Each picture is asked about once before, so that threads and caches are awake.
    """
    for place, index in enumerate(indices):
        _sample(one, one.pictures[index], boxes and boxes[place])
    before, start, busy = _ticks(), time.perf_counter(), time.process_time()
    samples = [
        _sample(one, one.pictures[index], boxes and boxes[place])
        for _ in range(repeat)
        for place, index in enumerate(indices)
    ]
    one.busy_s += time.process_time() - busy
    one.wall_s += time.perf_counter() - start
    one.ticks.update(_ticks() - before)
    return samples


def tracked(one: Contender, indices: list[int], repeat: int) -> Any:
    """Of calls with a tracker: how long each took, and how long the networks took of it, in ns."""
    assert one.video
    samples = []
    for index in indices:
        track = one.video()
        for number in range(repeat + 2):
            start = time.perf_counter_ns()
            network_ns = track(one.pictures[index])
            if number >= 2:
                samples.append((time.perf_counter_ns() - start, network_ns))
    return samples


def scores(one: Contender, index: int) -> list[float]:
    """What the detections in a picture score."""
    assert one.scores
    return one.scores(one.pictures[index])


def usage(one: Contender) -> Json:
    """How many threads did a twentieth of the work or more, and how many CPUs were busy.

    Two networks can have a pool each: the caller and one thread of each pool, of which two at a
    time work, are two threads' worth.
    """
    total = sum(one.ticks.values())
    return {
        "busy_threads": sum(count >= 0.05 * total for count in one.ticks.values()) if total else 0,
        "busy_cpus": one.busy_s / one.wall_s if one.wall_s else 0.0,
    }


def _sample(one: Contender, image: Image, boxes: Any) -> tuple[int, ...]:
    if boxes is not None:
        start = time.perf_counter_ns()
        one.estimate(image, boxes)
        return (time.perf_counter_ns() - start,)
    marks: list[int] = []
    start = time.perf_counter_ns()
    one.call(image, lambda: marks.append(time.perf_counter_ns()))
    end = time.perf_counter_ns()
    return (end - start, marks[0] - start)


def _ticks() -> Counter[str]:
    found: Counter[str] = Counter()
    for task in Path("/proc/self/task").iterdir():
        try:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # the thread has ended
            continue
        found[task.name] = int(fields[11]) + int(fields[12])
    return found


def main() -> None:
    """Load, and answer until the other side hangs up."""
    address, text = sys.argv[1:]
    config = json.loads(text)
    with Client(address, "AF_UNIX") as connection:
        try:
            one = KINDS[config["kind"]](config)
        except Exception as error:
            connection.send({"failed": f"{type(error).__name__}: {error}"})
            return
        connection.send({**one.about, "cpus": len(os.sched_getaffinity(0))})
        asked: dict[str, Callable[..., Any]] = {
            "answers": answers,
            "timed": timed,
            "tracked": tracked,
            "scores": scores,
            "usage": usage,
        }
        while True:
            try:
                name, *arguments = connection.recv()
            except EOFError:
                return
            if name == "pictures":
                one.pictures = arguments[0]
                connection.send(None)
            else:
                connection.send(asked[name](one, *arguments))


if __name__ == "__main__":
    main()
