"""What a checkpoint says of itself: keypoints, thresholds, pixels; and what is said without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from converters.architectures.claims import Claims, claims_of  # noqa: E402
from converters.architectures.official import Description, build, export_checkpoint  # noqa: E402
from edge.errors import ModelFileError, SpecError  # noqa: E402
from edge.keypoints import KEYPOINT_SETS  # noqa: E402
from edge.spec import ModelSpec  # noqa: E402

SMALL = Description("rtmpose", "t", 17, input_hw=(64, 64))
UNKNOWN = "17 keypoints fit coco17, ap10k17"

pytestmark = pytest.mark.usefixtures("one_thread")


def exported(
    folder: Path, description: Description, meta: Any, legacy: bool = False, **said: Any
) -> tuple[ModelSpec, list[str]]:
    """The spec of a checkpoint with random weights and this meta, and what was said of it."""
    torch.manual_seed(0)
    content = {"meta": meta, "state_dict": build(description).state_dict()}
    path, out = folder / "mine.pth", folder / "mine.onnx"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    lines: list[str] = []
    spec = export_checkpoint(path, out, "mine", say=lines.append, **said)
    stored = {one.key: one.value for one in onnx.load(out).metadata_props}
    assert ModelSpec.from_json(json.loads(stored["edgepose.spec"])) == spec
    return spec, lines


def described(name: str, points: list[str], **more: Any) -> dict[str, Any]:
    """A description of a data set as mmpose stores it."""
    return {
        "dataset_meta": {
            "dataset_name": name,
            "num_keypoints": len(points),
            "keypoint_id2name": dict(enumerate(points)),
            "keypoint_colors": np.zeros((len(points), 3), np.uint8),
            **more,
        }
    }


AP10K = [
    *("L_Eye", "R_Eye", "Nose", "Neck", "Root of tail"),
    *("L_Shoulder", "L_Elbow", "L_F_Paw", "R_Shoulder", "R_Elbow", "R_F_Paw"),
    *("L_Hip", "L_Knee", "L_B_Paw", "R_Hip", "R_Knee", "R_B_Paw"),
]
BODY = list(KEYPOINT_SETS["coco17"].keypoints)
WHOLE = [name.replace("face_", "face-") for name in KEYPOINT_SETS["coco-wholebody133"].keypoints]


@pytest.mark.parametrize("legacy", [False, True])
def test_an_animal_is_no_person(legacy: bool, tmp_path: Path) -> None:
    spec, lines = exported(tmp_path, SMALL, described("ap10k", AP10K), legacy)
    assert (spec.keypoint_set, spec.own_keypoints, lines) == ("ap10k17", None, [])


def test_figures_that_the_file_has_of_a_known_set_are_taken(tmp_path: Path) -> None:
    known = KEYPOINT_SETS["coco17"]
    published = {
        "sigmas": np.array(known.sigmas),
        "flip_pairs": [pair for a, b in known.flip_pairs for pair in ((b, a), (a, b))],
        "skeleton_links": [(b, a) for a, b in reversed(known.skeleton)],
    }
    spec, _ = exported(tmp_path, SMALL, described("coco", BODY, **published))
    assert spec.own_keypoints is None
    spec, lines = exported(tmp_path, SMALL, described("coco", BODY, sigmas=np.full(17, 0.05)))
    assert spec.keypoint_set == "coco17"
    assert spec.keypoints.sigmas == (0.05,) * 17
    assert spec.keypoints.skeleton == known.skeleton
    assert spec.keypoints.flip_pairs == known.flip_pairs
    assert lines == []


def test_a_set_that_is_not_known_keeps_its_own_names(tmp_path: Path) -> None:
    names = [f"point {index}" for index in range(16)]
    meta = described(
        "mpii",
        names,
        flip_indices=[5, 4, 3, 2, 1, 0, *range(6, 16)],
        skeleton_links=[(0, 1), (1, 2), (1, 0)],
        sigmas=np.linspace(0.01, 0.16, 16).astype(np.float32),
    )
    sixteen = Description("rtmpose", "t", 16, input_hw=(64, 64))
    spec, lines = exported(tmp_path, sixteen, meta)
    assert (spec.keypoint_set, lines) == ("mpii16", [])
    assert spec.keypoints.keypoints == tuple(names)
    assert spec.keypoints.flip_pairs == ((0, 5), (1, 4), (2, 3))
    assert set(spec.keypoints.skeleton) == {(0, 1), (1, 2)}
    np.testing.assert_allclose(spec.keypoints.sigmas, np.linspace(0.01, 0.16, 16), atol=1e-7)
    spec, _ = exported(tmp_path, sixteen, meta, keypoint_set="mpii16")
    assert spec.keypoints.keypoints == tuple(names)


def test_a_set_of_another_order_under_a_known_name_is_not_that_set(tmp_path: Path) -> None:
    spec, _ = exported(tmp_path, SMALL, described("coco", BODY[::-1]))
    assert spec.keypoint_set == "own-coco17"
    assert spec.keypoints.keypoints == tuple(BODY[::-1])


@pytest.mark.parametrize(
    ("meta", "wanted", "words"),
    [
        ({}, "coco17", UNKNOWN),
        ({"dataset_meta": {"dataset_name": "Human-Art"}}, "coco17", None),
        ({"cfg": "dataset_type = 'AP10KDataset'\n"}, "ap10k17", None),
        (
            {"cfg": "test_dataloader = dict(dataset=dict(type='CocoDataset'))\n"},
            "coco17",
            None,
        ),
        ({"cfg": "dataset_type = 'PoseTrack18Dataset'\n"}, "unnamed-17", "'posetrack18'"),
        (described("body", BODY[:3]), "unnamed-17", "describes 3 keypoints"),
        (described("odd", ["a\x1b[2J"] * 17), "unnamed-17", "'odd'"),
        ({"cfg": "dataset_type = (" * 5000}, "coco17", UNKNOWN),
        ({"cfg": "import os; os.mkdir('x')\ndataset_type = open('x')"}, "coco17", UNKNOWN),
    ],
)
def test_what_a_file_leaves_open_is_said(
    meta: Any, wanted: str, words: str | None, tmp_path: Path
) -> None:
    spec, lines = exported(tmp_path, SMALL, meta)
    assert spec.keypoint_set == wanted
    assert (words is None and not lines) or (words is not None and words in " ".join(lines))


def test_what_is_asked_wins_over_what_the_file_says(tmp_path: Path) -> None:
    spec, lines = exported(tmp_path, SMALL, described("ap10k", AP10K), keypoint_set="coco17")
    assert spec.keypoint_set == "coco17"
    assert lines == ["the file says ap10k17; coco17 is taken, as asked"]


def test_whole_bodies_are_known_by_their_names() -> None:
    found = claims_of({"meta": described("coco_wholebody", WHOLE)})
    assert found.keypoints == KEYPOINT_SETS["coco-wholebody133"]


# --- thresholds and pixels --------------------------------------------------------------------

CONFIG = """
model = dict(
    data_preprocessor=dict(mean=[1.5, 2, 3], std=[4, 5, 6.5], bgr_to_rgb=True),
    test_cfg=dict(nms=dict(type='nms', iou_threshold=0.7), nms_pre=500, score_thr=0.02,
                  max_per_img=7))
"""


def detector(classes: int) -> Description:
    return Description("rtmdet", "nano", classes=classes)


@pytest.mark.parametrize(
    ("classes", "cfg", "wanted", "words"),
    [
        (1, "", (0.05, 0.6, 1000, 100), "holds no test_cfg"),
        (80, "", (0.001, 0.65, 30000, 300), "mmdet's for COCO"),
        (80, CONFIG, (0.02, 0.7, 500, 7), None),
        (1, "model = dict(test_cfg=dict(score_thr=30, nms_pre=-1))", (0.05, 0.6, 1000, 100), "no"),
    ],
)
def test_thresholds_are_the_files_own(
    classes: int, cfg: str, wanted: Any, words: str | None, tmp_path: Path
) -> None:
    spec, lines = exported(tmp_path, detector(classes), {"cfg": cfg}, input_hw=(64, 64))
    found = (spec.score_threshold, spec.nms_iou, spec.nms_candidates_per_level, spec.max_boxes)
    assert found == wanted
    assert (words is None and not lines) or (words is not None and words in " ".join(lines))


@pytest.mark.parametrize("key", ["classes", "CLASSES"])
def test_names_of_classes_are_the_files_own(key: str, tmp_path: Path) -> None:
    meta: dict[str, Any] = {"cfg": CONFIG, "dataset_meta": {key: ("glove", "helmet")}}
    spec, _ = exported(tmp_path, detector(2), meta, input_hw=(64, 64))
    assert spec.class_names == ("glove", "helmet")
    spec, _ = exported(tmp_path, detector(3), meta, input_hw=(64, 64))
    assert spec.class_names == ()


def test_pixels_are_the_files_own(tmp_path: Path) -> None:
    spec, _ = exported(tmp_path, detector(1), {"cfg": CONFIG}, input_hw=(64, 64))
    assert (spec.color_order, spec.mean, spec.std) == ("rgb", (1.5, 2, 3), (4, 5, 6.5))


def test_another_number_of_bins_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="3 bins a pixel"):
        exported(tmp_path, SMALL, {"cfg": "codec = dict(simcc_split_ratio=3)"})


def test_a_decoding_with_dark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"decodes with DARK \(use_dark = True\)"):
        exported(tmp_path, SMALL, {"cfg": "codec = dict(type='SimCCLabel', use_dark=True)"})


# --- heatmaps ---------------------------------------------------------------------------------

UDP = "codec = dict(type='UDPHeatmap', input_size=(96, 64), heatmap_size=(24, 16), sigma=2)\n"


@pytest.mark.parametrize(
    ("cfg", "udp", "refinement", "input_hw"),
    [
        (UDP, True, "dark-udp", (64, 96)),
        (UDP.replace("UDPHeatmap'", "MSRAHeatmap'"), False, "shift", (64, 96)),
        (
            UDP.replace("UDPHeatmap'", "MSRAHeatmap', unbiased=True"),
            False,
            "dark",
            (64, 96),
        ),
        ("", True, "dark-udp", (256, 192)),
    ],
)
def test_heatmaps_of_a_cspnext_are_a_pose_model(
    cfg: str, udp: bool, refinement: str, input_hw: tuple[int, int], tmp_path: Path
) -> None:
    meta = {"cfg": cfg, **described("coco", BODY)}
    spec, lines = exported(tmp_path, Description("cspnext", "t", 17), meta)
    assert (spec.task, spec.codec, spec.keypoint_set) == ("pose", "heatmap", "coco17")
    assert (spec.udp, spec.heatmap_refinement, spec.input_hw) == (udp, refinement, input_hw)
    assert spec.outputs[0].shape == (None, 17, input_hw[0] // 4, input_hw[1] // 4)
    assert len(lines) == (0 if cfg else 2)


def test_heatmaps_of_another_decoding_are_refused(tmp_path: Path) -> None:
    for cfg in (
        UDP.replace("UDPHeatmap", "MegviiHeatmap"),
        f"{UDP}codec=dict(heatmap_type='combined')",
    ):
        with pytest.raises(SpecError, match="only UDPHeatmap"):
            exported(tmp_path, Description("cspnext", "t", 17), {"cfg": cfg})


def test_nothing_is_claimed_by_what_is_no_dict() -> None:
    for content in (None, [1], {"meta": 3}, {"meta": {"dataset_meta": [1], "cfg": 4}}):
        assert claims_of(content) == Claims()
