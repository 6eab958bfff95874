from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converters.graph.file import load_onnx
from converters.graph.recognise import recognise
from converters.sdk.archive import SdkModel, read_sdk
from edge.errors import ModelFileError
from edge.keypoints import usual_set
from edge.spec import ModelSpec, TensorSpec, find_keypoint_set
from tests.conftest import shared, tiny_simcc_model
from tests.stand_ins.sdk_bundles import (
    BGR,
    DETECTOR,
    HEATMAP,
    MSRA,
    OLD,
    ONE_STAGE,
    RGB,
    UDP,
    answering,
    boxes_model,
    detector_files,
    heatmap_files,
    in_folder,
    net_of,
    one_stage_files,
    params_of,
    read,
    simcc_files,
    transforms_of,
)

onnx = pytest.importorskip("onnx")

# --- each kind, field by field --------------------------------------------------------------------


def test_a_simcc_model(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "sdk", simcc_files([48, 64]), tiny_simcc_model(input_hw=(64, 48)))
    sdk = read_sdk(folder, "mine", tmp_path / "unpacked")
    assert sdk == SdkModel(
        folder / "end2end.onnx",
        ModelSpec(
            name="mine",
            task="pose",
            codec="simcc",
            input=TensorSpec("input", (None, 3, 64, 48)),
            outputs=(
                TensorSpec("simcc_x", (None, 17, 96)),
                TensorSpec("simcc_y", (None, 17, 128)),
            ),
            color_order="rgb",
            mean=RGB[0],
            std=RGB[1],
            keypoint_set="coco17",
            box_padding=1.25,
            simcc_split_ratio=2.0,
        ),
        usual_set(17)[1:],
    )
    assert not (tmp_path / "unpacked").exists()  # a folder is read where it is
    # Recognition by the graph alone is another way to the same answer.
    bare = recognise(load_onnx(sdk.onnx_path), sdk.onnx_path, "mine")
    assert bare.source_spec == sdk.spec


def test_sizes_that_the_network_leaves_open_come_from_the_pipeline(tmp_path: Path) -> None:
    files = simcc_files([48, 64])
    params_of(files)["simcc_split_ratio"] = 3.0
    transforms_of(files)[1]["padding"] = 1.5
    model = answering({"simcc_x": ["b", 5, "w"], "simcc_y": ["b", "k", "h"]})
    spec = read(tmp_path, files, model)
    assert spec.input.shape == (None, 3, 64, 48)
    assert [tensor.shape for tensor in spec.outputs] == [(None, 5, 144), (None, 5, 192)]
    assert spec.keypoint_set == "unnamed-5"
    assert (spec.simcc_split_ratio, spec.box_padding) == (3.0, 1.5)


def test_outputs_are_found_through_the_output_map(tmp_path: Path) -> None:
    files = simcc_files([48, 64])
    net_of(files)["output_map"] = {"simcc_x": "first", "simcc_y": "second"}
    model = answering({"second": ["b", 17, 128], "first": ["b", 17, 96]})
    assert [tensor.name for tensor in read(tmp_path, files, model).outputs] == ["first", "second"]


def test_the_real_rtmdet_as_a_detector(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "sdk", detector_files(), None)
    real = shared("data/rtmdet-nano-person/end2end.onnx")
    (folder / "end2end.onnx").symlink_to(real)
    sdk = read_sdk(folder, "person", tmp_path)
    assert sdk.spec == ModelSpec(
        name="person",
        task="detection",
        codec="detections",
        input=TensorSpec("input", (None, 3, 320, 320)),
        outputs=(
            TensorSpec("dets", (None, None, 5)),
            TensorSpec("labels", (None, None), "int64"),
        ),
        color_order="bgr",
        mean=BGR[0],
        std=BGR[1],
        pad_value=114,
        letterbox="top-left",
        score_threshold=0.05,
        nms_iou=0.6,
        nms_candidates_per_level=1000,
        max_boxes=100,
    )
    # The graph's own constants say the same, and its heads are found with this spec in hand.
    bare = recognise(load_onnx(real), real, "person")
    assert bare.source_spec == sdk.spec
    told = recognise(load_onnx(real), real, "person", sdk.spec)
    assert told.heads is not None
    assert told.heads == bare.heads


def test_a_yolox_pads_to_a_square_and_takes_plain_grey_levels(tmp_path: Path) -> None:
    files = detector_files(640)
    transforms_of(files)[1:5] = [
        {"type": "Resize", "keep_ratio": True, "size": [640, 640]},
        {"type": "Pad", "pad_to_square": True, "pad_val": {"img": [7.0, 7.0, 7.0]}},
        {"type": "Pad", "size_divisor": 32},
    ]
    files["pipeline.json"]["pipeline"]["tasks"][2]["params"] = {
        "score_thr": 0.01,
        "nms": {"type": "nms", "iou_threshold": 0.65},
    }
    spec = read(tmp_path, files, boxes_model(DETECTOR))
    assert spec.input_hw == (640, 640)
    assert (spec.color_order, spec.mean, spec.std) == ("bgr", (0, 0, 0), (1, 1, 1))
    assert (spec.pad_value, spec.score_threshold, spec.nms_iou) == (7, 0.01, 0.65)


@pytest.mark.parametrize("component", ["UNKNOWN", "YOLOXPose"])
def test_a_one_stage_model(tmp_path: Path, component: str) -> None:
    files = one_stage_files()
    files["pipeline.json"]["pipeline"]["tasks"][2]["component"] = component
    assert read(tmp_path, files, boxes_model(ONE_STAGE)) == ModelSpec(
        name="m",
        task="one-stage",
        codec="detections",
        input=TensorSpec("input", (None, 3, 416, 640)),
        outputs=(
            TensorSpec("dets", (None, None, 5)),
            TensorSpec("keypoints", (None, None, 17, 3)),
        ),
        color_order="bgr",
        mean=(0, 0, 0),
        std=(1, 1, 1),
        keypoint_set="coco17",
        pad_value=114,
        letterbox="center",
        score_threshold=0.1,
        nms_iou=0.65,
    )


# As mmdeploy writes every MegviiHeatmap: mmpose 0's words beside those of the codec.
MEGVII = {
    **MSRA,
    "type": "MegviiHeatmap",
    "kernel_size": 5,
    "post_process": "megvii",
    "modulate_kernel": 5,
}


def test_the_folder_of_an_mspn_as_mmdeploy_writes_it(tmp_path: Path) -> None:
    folder = shared("cases/openmmlab/mspn50_sdk_json")
    files = {
        path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")
    }
    spec = read(tmp_path, files, answering(HEATMAP, input_shape=("batch", 3, 256, 192)))
    assert (spec.codec, spec.heatmap_refinement, spec.heatmap_blur_kernel) == (
        *("heatmap", "megvii", 5),
    )
    assert spec.outputs[0].shape == (None, 17, 64, 48)


@pytest.mark.parametrize(
    ("params", "refinement", "kernel", "udp"),
    [
        (MSRA, "shift", 11, False),
        ({**MSRA, "unbiased": True}, "dark", 11, False),
        ({**MSRA, "unbiased": True, "blur_kernel_size": 17}, "dark", 17, False),
        (UDP, "dark-udp", 11, True),
        ({**UDP, "heatmap_type": "gaussian", "blur_kernel_size": 13}, "dark-udp", 13, True),
        ({**MSRA, "type": "MegviiHeatmap", "kernel_size": 5}, "megvii", 5, False),
        (MEGVII, "megvii", 5, False),
        ({**MEGVII, "kernel_size": None}, "megvii", 5, False),
        ({**OLD, "post_process": "megvii", "modulate_kernel": 5}, "megvii", 5, False),
        (OLD, "shift", 11, False),
        ({**OLD, "post_process": "unbiased", "modulate_kernel": 17}, "dark", 17, False),
        ({**OLD, "post_process": None}, "none", 11, False),
        ({**OLD, "use_udp": True, "target_type": "GaussianHeatMap"}, "dark-udp", 11, True),
        ({"use_udp": False}, "shift", 11, False),
    ],
)
def test_heatmap_models(
    tmp_path: Path, params: dict[str, Any], refinement: Any, kernel: int, udp: bool
) -> None:
    assert read(tmp_path, heatmap_files(params), answering(HEATMAP)) == ModelSpec(
        name="m",
        task="pose",
        codec="heatmap",
        input=TensorSpec("input", (None, 3, 256, 192)),
        outputs=(TensorSpec("output", (None, 17, 64, 48)),),
        color_order="rgb",
        mean=RGB[0],
        std=RGB[1],
        keypoint_set="coco17",
        box_padding=1.25,
        udp=udp,
        heatmap_refinement=refinement,
        heatmap_blur_kernel=kernel,
    )


@pytest.mark.parametrize(
    ("count", "config", "keypoint_set"),
    [
        (17, None, "coco17"),
        (17, "/home/wholebody/rtmpose-m_8xb64-210e_ap10k-256x256.py", "ap10k17"),
        (17, "/home/ap10k/rtmpose-m_8xb256-420e_aic-coco-256x192.py", "coco17"),
        (17, "td-hm_hrnet-w32_8xb64-20e_posetrack18-256x192.py", "unnamed-17"),
        (14, "rtmpose-m_8xb64-210e_crowdpose-256x192.py", "crowdpose14"),
        (14, "td-hm_hrnet-w32_8xb64-210e_aic-256x192.py", "unnamed-14"),
        (14, None, "crowdpose14"),
        (26, "C:\\configs\\rtmpose-t_8xb1024-700e_body8-halpe26-256x192.py", "halpe26"),
        (133, "rtmw-m_8xb1024-270e_cocktail14-256x192.py", "coco-wholebody133"),
        (21, "rtmpose-m_8xb256-210e_hand5-256x256.py", "hand21"),
        (106, "rtmpose-m_8xb256-120e_face6-256x256.py", "face106"),
        (98, "rtmpose-m_8xb64-60e_wflw-256x256.py", "unnamed-98"),
        (20, "td-hm_hrnet-w32_8xb64-210e_animalpose-256x256.py", "unnamed-20"),
    ],
)
def test_keypoint_sets(tmp_path: Path, count: int, config: str | None, keypoint_set: str) -> None:
    files = simcc_files([48, 64])
    if config is not None:
        files["detail.json"] = {"version": "1.3.1", "codebase": {"config": config}}
    spec = read(
        tmp_path, files, answering({"simcc_x": ["b", count, 96], "simcc_y": ["b", count, 128]})
    )
    assert spec.keypoint_set == keypoint_set
    assert len(find_keypoint_set(keypoint_set).keypoints) == count


def test_an_open_number_of_keypoints_can_be_known_by_the_training_data(tmp_path: Path) -> None:
    model = boxes_model({"keypoints": ["batch", "kept", "points", "three"]})
    files = one_stage_files()
    with pytest.raises(
        ModelFileError, match=r"keypoints of shape \?x\?x\?x\? does not say how many"
    ):
        read(tmp_path, files, model)
    config = "configs/rtmo/body7/rtmo-s_8xb32-600e_body7-640x640.py"
    spec = read(tmp_path, {**files, "detail.json": {"codebase": {"config": config}}}, model)
    assert spec.keypoint_set == "coco17"


@pytest.mark.parametrize("detail", [{}, [], {"codebase": None}, {"codebase": {"config": 5}}])
def test_detail_json_is_free_in_form(tmp_path: Path, detail: Any) -> None:
    files = {**simcc_files([48, 64]), "detail.json": detail}
    assert read(tmp_path, files, tiny_simcc_model()).keypoint_set == "coco17"
