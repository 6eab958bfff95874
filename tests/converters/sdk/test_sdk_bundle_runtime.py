"""Bundles in mmdeploy's own runtime: it loads them, and answers as this kit's runtime does."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from calibration.data.images import synthetic_images
from converters.sdk.bundle import write_sdk_bundle
from edge import PoseEstimator, open_session
from edge.artifact import Artifact
from edge.picture import read_image
from edge.sdk_image import sdk_detect, sdk_pose_feeds
from edge.session import EngineSettings, Session
from tests.benches.mmdeploy_runtime import RUNTIME, SdkRuntime, peer_python, sdk_runtime
from tests.conftest import ROOT
from tests.stand_ins.sdk_artifacts import (
    artifact_of,
    detector_artifact,
    noise,
    pose_artifact,
    prepared_artifact,
)

pytest.importorskip("cv2")
onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.slow

U8 = npt.NDArray[np.uint8]
LIMIT_PX = 0.01
MANUAL = (ROOT / "docs/sdk.md").read_text(encoding="utf-8")
WEIGHTS = ROOT / "converters/zoo/weights"
POSE, DETECTOR = WEIGHTS / "rtmpose-t-demo.onnx", WEIGHTS / "rtmdet-nano-demo.onnx"


class Both:
    """The SDK's runtime and ours, each with the same two models."""

    def __init__(self, sdk: SdkRuntime, detector: Session, pose: Session) -> None:
        self.sdk, self.detector = sdk, detector
        self.pose = PoseEstimator(pose, find_feeds=sdk_pose_feeds)


def opened(
    stack: ExitStack, folder: Path, detector: Path, pose: Path, precision: Any, ending: str
) -> Both:
    peer_python(RUNTIME)
    sessions, bundles = [], []
    for source in (detector, pose):
        # Two models may be called end2end.onnx.
        name = source.parent.name
        artifact = prepared_artifact(source, folder / "artifacts" / name / source.stem, precision)
        bundle = folder / f"{name}-{source.stem}{ending}"
        write_sdk_bundle(artifact, bundle, noise(1))
        bundles.append(bundle)
        session = open_session(artifact, EngineSettings(threads=1))
        stack.callback(session.close)
        sessions.append(session)
    return Both(stack.enter_context(sdk_runtime(*bundles)), *sessions)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with ExitStack() as stack:
        yield opened(stack, tmp_path_factory.mktemp("demo"), DETECTOR, POSE, "fp32", "")


@pytest.fixture(scope="module")
def scenes() -> list[U8]:
    return [image.image_bgr for image in synthetic_images(6, crops=False)]


def compared(both: Both, images: Sequence[U8], score: float) -> tuple[int, int, float, float]:
    """How many boxes and keypoints, and the largest distance of each in pixels."""
    boxes_seen, points_seen, box_px, point_px = 0, 0, 0.0, 0.0
    for image in images:
        both.sdk.frame(image)
        boxes, scores, labels = both.sdk.detect()
        ours = sdk_detect(both.detector, image, score_threshold=both.detector.spec.score_threshold)
        # The row of zeros at the end is below the threshold, for the SDK as for us.
        assert len(ours) == len(boxes)
        np.testing.assert_allclose(ours.scores, scores, rtol=0, atol=1e-4)
        assert ours.labels.tolist() == labels.tolist()
        box_px = max(box_px, float(np.abs(ours.boxes_xyxy - boxes).max(initial=0)))
        boxes_seen += len(boxes)
        people = boxes[scores > score]
        if not len(people):
            continue
        want, got = both.sdk.estimate(people), both.pose(image, people)
        np.testing.assert_allclose(got[..., 2], want[..., 2], rtol=0, atol=1e-3)
        point_px = max(point_px, float(np.abs(got[..., :2] - want[..., :2]).max()))
        points_seen += want.shape[0] * want.shape[1]
    return boxes_seen, points_seen, box_px, point_px


def test_the_demo_pair_on_rendered_scenes(demo: Both, scenes: list[U8]) -> None:
    boxes, points, box_px, point_px = compared(demo, scenes, score=0.2)
    assert boxes > 200 and points > 300
    assert box_px < LIMIT_PX and point_px < LIMIT_PX


def test_nobody_in_the_picture(demo: Both) -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    demo.sdk.frame(image)
    boxes, _, _ = demo.sdk.detect()
    want = sdk_detect(demo.detector, image, score_threshold=demo.detector.spec.score_threshold)
    assert len(boxes) == len(want)


def test_the_usual_crop_is_another_one(demo: Both, scenes: list[U8]) -> None:
    """What the comparison would miss if the mode did nothing."""
    demo.sdk.frame(scenes[1])
    boxes, scores, _ = demo.sdk.detect()
    people = boxes[scores > 0.3]
    usual = PoseEstimator(demo.pose.session)(scenes[1], people)
    apart = np.abs(usual - demo.sdk.estimate(people))[..., :2].max(axis=-1)
    assert np.median(apart) > 0.05


def test_the_runtimes_tracker_runs_on_the_pair(demo: Both, scenes: list[U8]) -> None:
    demo.sdk.start(det_interval=1, det_thr=0.3, det_min_bbox_size=20)
    demo.sdk.frame(scenes[2])
    keypoints, _, ids = demo.sdk.track()
    assert len(ids) == len(keypoints) > 0 and keypoints.shape[1:] == (17, 3)


def test_zips_and_half_precision(tmp_path: Path, scenes: list[U8]) -> None:
    """An older ONNX Runtime rounds half floats in other places than ours, so less is alike."""
    with ExitStack() as stack:
        both = opened(stack, tmp_path, DETECTOR, POSE, "fp16", ".zip")
        both.sdk.frame(scenes[2])
        boxes, scores, _ = both.sdk.detect()
        ours = sdk_detect(both.detector, scenes[2], score_threshold=0.3)
        likely = scores > 0.3
        assert len(ours) == likely.sum() > 0
        np.testing.assert_allclose(ours.boxes_xyxy, boxes[likely], rtol=0, atol=0.1)
        want = both.sdk.estimate(boxes[likely])
        got = both.pose(scenes[2], boxes[likely])
        apart = np.linalg.norm((got - want)[..., :2], axis=-1)
        # Where two bins are as good as each other, either may win.
        assert np.quantile(apart, 0.95) < LIMIT_PX


def test_the_real_detector_on_photos(tmp_path: Path, rtmdet_file: Path, photos: list[Path]) -> None:
    with ExitStack() as stack:
        both = opened(stack, tmp_path, rtmdet_file, POSE, "fp32", "")
        boxes, points, box_px, point_px = compared(
            both, [read_image(path) for path in photos], score=0.3
        )
    assert boxes > 100 and points >= 17 * 8
    assert box_px < LIMIT_PX and point_px < LIMIT_PX


def test_several_classes_and_points_that_are_not_there(tmp_path: Path) -> None:
    """Networks of random weights: three classes; keypoints of which some score less than 0."""
    finder = detector_artifact(
        tmp_path / "detector", score_threshold=0.3, nms_candidates_per_level=20, max_boxes=30
    )
    poser = lowered(pose_artifact(tmp_path / "pose"), tmp_path / "lowered")
    for artifact in (finder, poser):
        write_sdk_bundle(artifact, tmp_path / f"sdk/{artifact.spec.name}", noise())
    peer_python(RUNTIME)
    rng = np.random.default_rng(0)
    people = np.array([[30.5, 20, 130, 190], [60, -30, 180, 150]], np.float32)
    seen: set[int] = set()
    with (
        sdk_runtime(tmp_path / "sdk/finder", tmp_path / "sdk/poser") as sdk,
        closing(open_session(finder, EngineSettings(threads=1))) as session,
        closing(open_session(poser, EngineSettings(threads=1))) as points,
    ):
        for size in ((200, 300), (301, 140), (150, 150)):
            image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            sdk.frame(image)
            boxes, scores, labels = sdk.detect()
            ours = sdk_detect(session, image, score_threshold=finder.spec.score_threshold)
            assert len(ours) == len(boxes)
            np.testing.assert_allclose(ours.boxes_xyxy, boxes, rtol=0, atol=LIMIT_PX)
            np.testing.assert_allclose(ours.scores, scores, rtol=0, atol=1e-4)
            assert ours.labels.tolist() == labels.tolist()
            seen |= set(labels.tolist())
            want = sdk.estimate(people)
            got = PoseEstimator(points, find_feeds=sdk_pose_feeds)(image, people)
            np.testing.assert_allclose(got[..., :2], want[..., :2], rtol=0, atol=LIMIT_PX)
            np.testing.assert_allclose(got[..., 2], want[..., 2], rtol=0, atol=1e-3)
            assert 0 < (want[..., 2] < 0).sum() < want[..., 2].size
    assert seen == {0, 1, 2}


def lowered(artifact: Artifact, folder: Path) -> Artifact:
    """The pose model with less and less belief in its keypoints."""
    model = onnx.load(str(artifact.path("model")))
    for node in model.graph.node:
        if node.output[0].startswith("simcc"):
            node.output[0] += "_raw"
    less = np.linspace(-4, 40, 17, dtype=np.float32).reshape(1, 17, 1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(less, "less"))
    for axis in "xy":
        inputs = [f"simcc_{axis}_raw", "less"]
        model.graph.node.append(onnx.helper.make_node("Sub", inputs, [f"simcc_{axis}"]))
    return artifact_of(folder, model, artifact.spec)


def test_the_manuals_program_runs(tmp_path: Path) -> None:
    """The Python of docs/sdk.md in the runtime's environment, with a stand-in for OpenCV."""
    (program,) = re.findall(r"```python\n(.*?mmdeploy_runtime.*?)```", MANUAL, re.DOTALL)
    (printed,) = re.findall(r"```\n(4 people\n.*?)```", MANUAL, re.DOTALL)
    for source in (DETECTOR, POSE):
        artifact = prepared_artifact(source, tmp_path / "artifacts" / source.stem)
        write_sdk_bundle(artifact, tmp_path / "build/sdk" / source.stem, noise(1))
    (tmp_path / "docs/pictures").mkdir(parents=True)
    picture = "docs/pictures/people.jpg"
    np.save((tmp_path / picture).with_suffix(".npy"), read_image(ROOT / picture))
    (tmp_path / "cv2.py").write_text(
        "import numpy\n\n\ndef imread(path):\n    return numpy.load(path.replace('.jpg', '.npy'))\n"
    )
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [str(peer_python(RUNTIME)), "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    # The runtime's own log comes first.
    lines = [line for line in done.stdout.splitlines() if not line.startswith("[")]
    assert lines == printed.splitlines()
