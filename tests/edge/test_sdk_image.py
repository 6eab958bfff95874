"""The SDK's way of preparing images, against OpenCV and against the SDK's own runtime.

The runtime shows what its networks see through two networks that give their input back: each value
as a keypoint's score, or as a box's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge.detector import detector_feeds
from edge.errors import ImageError, SpecError
from edge.image import Normalization, crop
from edge.pose import pose_feeds
from edge.sdk_image import (
    resize_bilinear_u8,
    sdk_crop,
    sdk_detector_feeds,
    sdk_letterbox,
    sdk_pose_feeds,
)
from edge.spec import ModelSpec, TensorSpec
from tests.benches.mmdeploy_runtime import (
    RUNTIME,
    SdkRuntime,
    peer_python,
    sdk_runtime,
    write_bundle,
)
from tests.stand_ins.sdk_artifacts import detector_spec
from tests.stand_ins.sdk_bundles import detector_files, simcc_files, transforms_of

cv2 = pytest.importorskip("cv2")
onnx = pytest.importorskip("onnx")

U8 = npt.NDArray[np.uint8]
INPUT_HW = (64, 48)
PLAIN = Normalization()


def picture(rows: int, columns: int, seed: int = 0) -> U8:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("hw", "new_hw"),
    [
        *(((480, 640), (240, 320)), ((213, 157), (256, 192)), ((100, 77), (33, 20))),
        *(((37, 1), (64, 5)), ((1, 50), (9, 25)), ((480, 640), (256, 300)), ((33, 44), (33, 44))),
        *(((1, 1), (7, 3)), ((401, 3), (1, 1)), ((50, 60), (149, 181))),
    ],
)
def test_resizing_is_opencvs(hw: tuple[int, int], new_hw: tuple[int, int]) -> None:
    image = picture(*hw)
    want = cv2.resize(image, new_hw[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resize_bilinear_u8(image, new_hw), want)


def test_the_two_crops_lie_in_the_same_place() -> None:
    """A slope along x, one along y: each input pixel tells where in the image it was taken."""
    y, x = np.mgrid[0:200, 0:250].astype(np.uint8)
    image = np.stack([x, y, np.zeros_like(x)], axis=-1)
    pixels, placement = sdk_crop(image, (60, 40, 130, 150), INPUT_HW, PLAIN)
    _, usual = crop(image, (60, 40, 130, 150), INPUT_HW, PLAIN)
    rows, columns = np.mgrid[8:56, 8:40]
    there = placement.to_image(np.stack([columns, rows], axis=-1))
    np.testing.assert_allclose(there[..., 0], pixels[0, 8:56, 8:40], atol=1)
    np.testing.assert_allclose(there[..., 1], pixels[1, 8:56, 8:40], atol=1)
    # About half a step apart: one takes a step's middle, the other its start, and one rounds.
    np.testing.assert_allclose(there, usual.to_image(np.stack([columns, rows], axis=-1)), atol=2.5)


def test_channels_and_normalisation() -> None:
    image = np.full((64, 48, 3), (10, 20, 30), np.uint8)
    normalization = Normalization((1.0, 2.0, 3.0), (2.0, 4.0, 8.0), swap_channels=True)
    want = np.array([(30 - 1) / 2, (20 - 2) / 4, (10 - 3) / 8], np.float32)
    pixels, _ = sdk_letterbox(image, INPUT_HW, 0, normalization)
    np.testing.assert_allclose(pixels, np.broadcast_to(want[:, None, None], pixels.shape))


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 9), (9, 5, 5, 9), (0, 0, np.nan, 9), (0, 0, np.inf, 9), (900, 5, 950, 60)]
)
def test_what_is_no_box_of_the_image_is_refused(box: Any) -> None:
    with pytest.raises(ImageError, match=r"a box is x1|lies beside the image"):
        sdk_crop(picture(100, 100), box, INPUT_HW, PLAIN)


def test_what_is_no_image_is_refused() -> None:
    wrong: Any = np.zeros((4, 4, 3), np.float32)
    with pytest.raises(ImageError, match="uint8"):
        sdk_crop(wrong, (0, 0, 2, 2), INPUT_HW, PLAIN)
    with pytest.raises(ImageError, match="uint8"):
        sdk_letterbox(wrong, INPUT_HW, 114, PLAIN)
    with pytest.raises(ImageError, match=r"1x900 .* leaves nothing of a side"):
        sdk_letterbox(picture(1, 900), INPUT_HW, 114, PLAIN)


def test_what_the_sdk_does_not_know_is_refused() -> None:
    with pytest.raises(SpecError, match="UDP"):
        sdk_pose_feeds(pose_spec(udp=True), picture(9, 9), np.zeros((0, 4), np.float32))
    with pytest.raises(SpecError, match="centres the image"):
        sdk_detector_feeds(detector_spec(letterbox="center"), picture(9, 9))


def pose_spec(**changes: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "name": "seer",
        "task": "pose",
        "codec": "simcc",
        "input": TensorSpec("input", (None, 3, *INPUT_HW)),
        "outputs": (TensorSpec("x", (None, 17, 96)), TensorSpec("y", (None, 17, 128))),
        "color_order": "rgb",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "keypoint_set": "coco17",
    }
    return ModelSpec(**(values | changes))


def test_nobody_is_a_batch_of_none() -> None:
    feeds, placements = sdk_pose_feeds(pose_spec(), picture(9, 9), np.zeros((0, 4), np.float32))
    assert feeds["input"].shape == (0, 3, *INPUT_HW) and placements == []


# --- the runtime ----------------------------------------------------------------------------------


def seeing_pose_network() -> bytes:
    """Each input value + 1 as the SimCC of a keypoint: its score, in bin 0 of both axes."""
    from onnx import TensorProto, helper, numpy_helper

    count = 3 * INPUT_HW[0] * INPUT_HW[1]
    nodes = [helper.make_node("Add", ["input", "one"], ["more"])]
    nodes += [helper.make_node("Reshape", ["more", "shape"], ["column"])]
    nodes += [
        helper.make_node("Pad", ["column", f"{axis}_pads"], [f"simcc_{axis}"]) for axis in "xy"
    ]
    bins = {"x": 2 * INPUT_HW[1], "y": 2 * INPUT_HW[0]}
    weights = [
        numpy_helper.from_array(np.array(1, np.float32), "one"),
        numpy_helper.from_array(np.array([1, count, 1]), "shape"),
        *(
            numpy_helper.from_array(np.array([0, 0, 0, 0, 0, size - 1]), f"{axis}_pads")
            for axis, size in bins.items()
        ),
    ]
    outputs = [
        helper.make_tensor_value_info(f"simcc_{axis}", TensorProto.FLOAT, [1, count, size])
        for axis, size in bins.items()
    ]
    return _network(nodes, weights, INPUT_HW, outputs)


def seeing_detector(input_hw: tuple[int, int]) -> bytes:
    """Each input value + 1 as the score of a box of 10 x 10 pixels."""
    from onnx import TensorProto, helper, numpy_helper

    count = 3 * input_hw[0] * input_hw[1]
    zero = helper.make_tensor("zero", TensorProto.INT64, [1], [0])
    boxes = np.tile(np.array([0, 0, 10, 10], np.float32), (1, count, 1))
    nodes = [
        helper.make_node("Add", ["input", "one"], ["more"]),
        helper.make_node("Reshape", ["more", "shape"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["dets"], axis=2),
        helper.make_node("ConstantOfShape", ["labels_shape"], ["labels"], value=zero),
    ]
    weights = [
        numpy_helper.from_array(np.array(1, np.float32), "one"),
        numpy_helper.from_array(np.array([1, count, 1]), "shape"),
        numpy_helper.from_array(np.array([1, count]), "labels_shape"),
        numpy_helper.from_array(boxes, "boxes"),
    ]
    outputs = [
        helper.make_tensor_value_info("dets", TensorProto.FLOAT, [1, count, 5]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [1, count]),
    ]
    return _network(nodes, weights, input_hw, outputs)


def _network(nodes: Any, weights: Any, input_hw: tuple[int, int], outputs: Any) -> bytes:
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, *input_hw])
    graph = helper.make_graph(nodes, "seeing", [image], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SdkRuntime]:
    peer_python(RUNTIME)
    folder = tmp_path_factory.mktemp("seeing")
    pose, detector = simcc_files(list(INPUT_HW[::-1])), detector_files(64)
    for files in (pose, detector):
        transforms_of(files)[3] |= {"mean": [0, 0, 0], "std": [1, 1, 1]}
        transforms_of(files)[-1]["meta_keys"] = [
            *("img_shape", "pad_shape", "ori_shape", "img_norm_cfg", "scale_factor"),
            *("bbox_score", "center", "scale"),
        ]
    with sdk_runtime(
        write_bundle(folder / "detector", detector, seeing_detector((64, 64))),
        write_bundle(folder / "pose", pose, seeing_pose_network()),
    ) as running:
        yield running


@pytest.mark.slow
def test_the_crop_is_the_runtimes_bit_for_bit(runtime: SdkRuntime) -> None:
    rng = np.random.default_rng(8)
    image = picture(301, 407)
    runtime.frame(image)
    low = rng.uniform(-40, [350, 250], (60, 2))
    boxes = np.concatenate([low, low + rng.uniform(3, 300, (60, 2))], axis=1).astype(np.float32)
    whole = np.array([[0, 0, 407, 301], [10, 20, 58, 84], [-200, -300, 700, 600]], np.float32)
    boxes = np.concatenate([boxes[(boxes[:, 2:] > 5).all(axis=1)], whole])
    assert len(boxes) > 50
    feeds, placements = sdk_pose_feeds(pose_spec(), image, boxes)
    usual, _ = pose_feeds(pose_spec(), image, boxes)
    for box, want, other, placement in zip(
        boxes, feeds["input"], usual["input"], placements, strict=True
    ):
        (seen,) = runtime.estimate(box[None])
        got = seen[:, 2].reshape(want.shape) - 1
        np.testing.assert_array_equal(got, want, err_msg=str(box))
        # Bin 0 is the input's first pixel.
        np.testing.assert_allclose(
            seen[:, :2], np.tile(placement.to_image([0.0, 0.0]), (len(seen), 1)), atol=1e-3
        )
        assert np.abs(other - want).mean() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("hw", [(301, 407), (128, 128), (480, 270), (20, 31), (64, 64), (5, 300)])
def test_the_letterbox_is_the_runtimes_bit_for_bit(
    runtime: SdkRuntime, hw: tuple[int, int]
) -> None:
    image = picture(*hw)
    spec = detector_spec(1, (64, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    runtime.frame(image)
    _, scores, _ = runtime.detect()
    want = sdk_detector_feeds(spec, image)[0]["picture"]
    np.testing.assert_array_equal(scores.reshape(want.shape) - 1, want)
    # Ours rounds otherwise, by a grey level and a half, and lies in the same place.
    ours, placement = detector_feeds(spec, image)
    np.testing.assert_allclose(ours["picture"], want, atol=2)
    assert placement == sdk_detector_feeds(spec, image)[1]
