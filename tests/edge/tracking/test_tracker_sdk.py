"""The tracker's `sdk` mode against mmdeploy's own runtime, frame by frame.

Both get the same answers of the same two networks: ours asks the runtime's detector and pose model
one by one, the runtime's tracker has them inside. The detector is a network that reads boxes from
the picture's first row, so that what it misses and where it errs is known; the pose model is the
demo model on rendered people.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge.detector import Boxes
from edge.keypoints import KEYPOINT_SETS
from edge.tracking.tracker import PoseTracker, TrackedPose, TrackerParams
from tests.benches.mmdeploy_runtime import (
    RUNTIME,
    SdkRuntime,
    peer_python,
    sdk_runtime,
    write_bundle,
)
from tests.conftest import ROOT
from tests.stand_ins.sdk_bundles import detector_files, simcc_files

pytest.importorskip("cv2")
onnx = pytest.importorskip("onnx")

U8 = npt.NDArray[np.uint8]
SIGMAS = KEYPOINT_SETS["coco17"].sigmas
FRAMES, HEIGHT, WIDTH, SLOTS = 60, 480, 640, 12

CONFIGURATIONS: dict[str, TrackerParams] = {
    "the demo's": TrackerParams(det_min_bbox_size=100, keypoint_sigmas=SIGMAS),
    "overlap instead of OKS": TrackerParams(
        det_interval=5, pose_kpt_thr=0.3, track_max_missing=4, track_history_size=3
    ),
    "few people, heavy smoothing": TrackerParams(
        det_interval=10,
        pose_max_num_bboxes=4,
        pose_kpt_thr=0.4,
        pose_nms_thr=0.3,
        keypoint_sigmas=SIGMAS,
        track_iou_thr=0.2,
        std_weight_position=0.02,
        smooth_params=(0.02, 0.3, 0.8),
    ),
    "a narrow gate": TrackerParams(
        det_interval=3,
        det_nms_thr=0.4,
        pose_min_keypoints=4,
        pose_bbox_scale=1.5,
        pose_min_bbox_size=40,
        std_weight_position=0.01,
        std_weight_velocity=0.03,
    ),
}


def reading_detector() -> bytes:
    """A network whose boxes are the picture's first row: five numbers G * 256 + B + R / 256."""
    from onnx import TensorProto, helper, numpy_helper

    def integers(name: str, *values: int) -> Any:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    zero = helper.make_tensor("zero", TensorProto.INT64, [1], [0])
    nodes = [
        helper.make_node("Slice", ["input", "from", "to", "axes"], ["row"]),
        helper.make_node("Reshape", ["row", "table_shape"], ["table"]),
        helper.make_node("Einsum", ["places", "table"], ["boxes"], equation="c,cnk->nk"),
        helper.make_node("Unsqueeze", ["boxes", "first"], ["dets"]),
        helper.make_node("ConstantOfShape", ["labels_shape"], ["labels"], value=zero),
    ]
    graph = helper.make_graph(
        nodes,
        "reading",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])],
        [
            helper.make_tensor_value_info("dets", TensorProto.FLOAT, [1, SLOTS, 5]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, [1, SLOTS]),
        ],
        [
            *(integers("from", 0, 0), integers("to", 1, 5 * SLOTS), integers("axes", 2, 3)),
            *(integers("table_shape", 3, SLOTS, 5), integers("first", 0)),
            integers("labels_shape", 1, SLOTS),
            numpy_helper.from_array(np.array([1, 256, 1 / 256], np.float32), "places"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_detections(image_bgr: U8, rows: list[list[float]]) -> None:
    image_bgr[0, : 5 * SLOTS] = 0
    for slot, row in enumerate(rows):
        for place, value in enumerate(row):
            fixed = round(256 * value)
            image_bgr[0, 5 * slot + place] = (fixed >> 8) & 255, fixed >> 16, fixed & 255


def video(seed: int) -> Iterator[U8]:
    """Six rendered people who wander about before each other, go blank and are overlooked."""
    from calibration.people.synthetic import crop_scene

    rng = np.random.default_rng(seed)
    people, size = 6, np.array([110, 200])
    pictures = [crop_scene(seed, i, image_hw=(200, 110), variety=0.0) for i in range(people)]
    ground = rng.integers(60, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    corner = np.stack([rng.uniform(0, 530, people), rng.uniform(20, 280, people)], axis=1)
    step = rng.normal(0, 9, (people, 2)) * [1, 0.5]
    for _ in range(FRAMES):
        image = ground.copy()
        rows: list[list[float]] = []
        for person in np.argsort(corner[:, 1]):
            at = np.rint(corner[person]).astype(int)
            low = np.maximum(at, 0)
            high = np.minimum(at + size, [WIDTH, HEIGHT])
            part = pictures[person].image_bgr[low[1] - at[1] :, low[0] - at[0] :]
            if rng.random() < 0.06:
                part = np.full_like(part, 70)
            window = image[low[1] : high[1], low[0] : high[0]]
            window[...] = part[: window.shape[0], : window.shape[1]]
            box = pictures[person].people[0].box_xyxy + np.tile(at, 2) + rng.normal(0, 3, 4)
            box = np.clip(np.round(box * 4) / 4, 0, np.tile([WIDTH - 1, HEIGHT - 1], 2))
            if rng.random() < 0.75 and (box[2:] > box[:2]).all():
                rows.append([*box.tolist(), float(rng.choice([0.375, 0.75, 0.875]))])
        write_detections(image, rows)
        yield image
        corner += step + rng.normal(0, 4, corner.shape)
        step[(corner < [-40, 0]) | (corner > [590, 300])] *= -1
        corner = np.clip(corner, [-60, -20], [600, 320])


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SdkRuntime]:
    peer_python(RUNTIME)
    folder = tmp_path_factory.mktemp("bundles")
    files = detector_files()
    transforms = files["pipeline.json"]["pipeline"]["tasks"][0]["transforms"]
    transforms[1]["size"] = transforms[2]["size"] = [WIDTH, HEIGHT]
    transforms[3] |= {"mean": [0, 0, 0], "std": [1, 1, 1]}
    transforms[-1]["meta_keys"] = ["scale_factor", "img_shape", "ori_shape"]
    detector = write_bundle(folder / "detector", files, reading_detector())
    demo = Path(ROOT / "converters/zoo/weights/rtmpose-t-demo.onnx").read_bytes()
    pose = write_bundle(folder / "pose", simcc_files([192, 256]), demo)
    with sdk_runtime(detector, pose) as running:
        yield running


def asking(
    runtime: SdkRuntime, tracker: PoseTracker, image_bgr: U8, detect: int = -1
) -> list[TrackedPose]:
    return tracker(
        image_bgr,
        lambda _: Boxes(*runtime.detect()),
        lambda _, boxes_xyxy: runtime.estimate(boxes_xyxy),
        detect_now=None if detect < 0 else bool(detect),
    )


def sdk_options(params: TrackerParams) -> dict[str, Any]:
    """The runtime's names; the keypoints' threshold alone has another one there."""
    options = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(params).items()
        if value != ()
    }
    options["track_kpt_thr"] = options.pop("pose_kpt_thr")
    return options


def test_the_stages_answer_what_was_written(runtime: SdkRuntime) -> None:
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    write_detections(image, [[205.5, 110.25, 300, 290.75, 0.75], [1, 2, 639, 479, 0.375]])
    runtime.frame(image)
    boxes, scores, labels = runtime.detect()
    assert boxes.tolist() == [[205.5, 110.25, 300, 290.75], [1, 2, 639, 479]]
    assert (scores.tolist(), labels.tolist()) == ([0.75, 0.375], [0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_sdk_mode_is_the_runtime(runtime: SdkRuntime, name: str) -> None:
    params = CONFIGURATIONS[name]
    tracker = PoseTracker(params, mode="sdk")
    runtime.start(**sdk_options(params))
    poses, found_again, worst_px = 0, 0, 0.0
    ever: set[int] = set()
    last: set[int] = set()
    for frame, image in enumerate(video(list(CONFIGURATIONS).index(name))):
        runtime.frame(image)
        # Two frames in the middle go against the interval.
        detect = {20: 1, 40: 0}.get(frame, -1)
        keypoints, boxes, ids = runtime.track(detect)
        people = asking(runtime, tracker, image, detect)
        assert [person.track_id for person in people] == ids, f"frame {frame}"
        for person, points, box in zip(people, keypoints, boxes, strict=True):
            worst_px = max(
                worst_px,
                float(np.abs(person.keypoints[:, :2] - points[:, :2]).max()),
                float(np.abs(person.box_xyxy - box).max()),
            )
            np.testing.assert_allclose(person.keypoints[:, 2], points[:, 2], atol=1e-6)
        found_again += len((set(ids) & ever) - last)
        ever, last = ever | set(ids), set(ids)
        poses += len(ids)
    assert worst_px < 1e-3
    # The video is worth it: people are lost and found, and some are new.
    assert poses > 60
    assert found_again >= 1
    assert len(ever) >= 5


@pytest.mark.slow
def test_corrected_mode_is_not(runtime: SdkRuntime) -> None:
    params = CONFIGURATIONS["overlap instead of OKS"]
    tracker = PoseTracker(params)
    runtime.start(**sdk_options(params))
    apart_px, otherwise = 0.0, 0
    for image in video(1):
        runtime.frame(image)
        keypoints, _, ids = runtime.track()
        people = {person.track_id: person for person in asking(runtime, tracker, image)}
        otherwise += set(people) != set(ids)
        for points, track_id in zip(keypoints, ids, strict=True):
            if track_id in people:
                difference = people[track_id].keypoints[:, :2] - points[:, :2]
                apart_px = max(apart_px, float(np.abs(difference).max()))
    assert apart_px > 1
    assert otherwise
