"""Checkpoints with random weights: what they are taken for, what is refused, what is exported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from converters.architectures.checkpoint import (  # noqa: E402
    CheckpointError,
    describe,
    load_checkpoint,
    read_checkpoint,
)
from converters.architectures.official import (  # noqa: E402
    Description,
    build,
    export_checkpoint,
)
from edge.errors import SpecError  # noqa: E402
from tests.stand_ins.checkpoints import NANO, POSE, saved  # noqa: E402

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]


# --- recognising ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("description", "text"),
    [
        *((Description("rtmpose", s, 17, None, (256, 192)), f"RTMPose-{s}, 17 k") for s in "tsmlx"),
        (Description("rtmpose", "m", 133, None, (384, 288)), "RTMPose-m, 133 keypoints, 384x288"),
        (Description("rtmpose", "t", 1, None, (256, 256)), "RTMPose-t, 1 keypoint, 256x256"),
        (Description("rtmdet", "nano", None, 1), "RTMDet-nano, 1 class"),
        *((Description("rtmdet", s, None, 80), f"RTMDet-{s}, 80 classes") for s in "tsml"),
        *((Description("rtmo", size, 14), f"RTMO-{size}, 14 keypoints") for size in "tsml"),
        *((Description("cspnext", size), f"CSPNeXt-{size}") for size in "tsml"),
        (Description("cspnext", "t", 19), "CSPNeXt-t, 19 keypoints"),
        (Description("cspnext", "s", None, 1000), "CSPNeXt-s, 1000 classes"),
    ],
    ids=str,
)
def test_weights_tell_what_they_are(description: Description, text: str) -> None:
    with torch.device("meta"):
        state_dict = build(description).state_dict()
    assert describe(state_dict) == description
    assert str(description).startswith(text)


def test_one_lost_layer_does_not_hide_what_it_is() -> None:
    with torch.device("meta"):
        state_dict = build(POSE).state_dict()
    for key in list(state_dict):
        rest = {other: value for other, value in state_dict.items() if other != key}
        found = describe(rest)
        assert (found.architecture, found.size) == ("rtmpose", "t")


@pytest.mark.parametrize(
    "state_dict",
    [
        {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(10, 64)},
        # A head of another kind on a known backbone, a known head on another backbone.
        {
            "backbone.stem.2.conv.weight": torch.zeros(24, 12, 3, 3),
            "bbox_head.multi_level_conv_cls.0.weight": torch.zeros(1, 64, 1, 1),
        },
        {
            "backbone.conv1.weight": torch.zeros(64, 3, 7, 7),
            "head.gau.gamma": torch.zeros(2, 128),
        },
        {"backbone.stem.2.conv.weight": torch.zeros(25, 12, 3, 3)},
        {"backbone.stem.2.conv.weight": torch.zeros(())},
    ],
)
def test_other_networks_are_refused(state_dict: dict[str, Any], tmp_path: Path) -> None:
    torch.save(state_dict, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: a checkpoint of none of") as caught:
        export_checkpoint(tmp_path / "other.pth", tmp_path / "other.onnx", "other")
    assert list(state_dict)[-1] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "other.onnx").exists()


def test_a_size_that_has_no_definition_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, NANO)
    state = read_checkpoint(path).state_dict
    wide = torch.zeros(80, 8, 3, 3)
    torch.save({**state, "backbone.stem.2.conv.weight": wide}, path)
    with pytest.raises(CheckpointError, match=r"RTMDet-x, 1 class.*sizes nano, t, s, m, l"):
        export_checkpoint(path, tmp_path / "x.onnx", "x")


def test_an_input_that_the_stride_does_not_divide_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, POSE, **{"head.cls_x.weight": torch.zeros(2 * 190, 256)})
    with pytest.raises(CheckpointError, match=r"256x190.*multiples of 32"):
        export_checkpoint(path, tmp_path / "t.onnx", "t")


# --- reading ----------------------------------------------------------------------------------


def stand_ins(value: float) -> dict[str, Any]:
    return {"backbone.a": torch.full((2,), value), "head.b": torch.full((3,), value)}


AVERAGED, RAW = stand_ins(1.0), stand_ins(2.0)


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


def dotless(state: dict[str, Any]) -> dict[str, Any]:
    return {key.replace(".", "_"): value for key, value in state.items()}


@pytest.mark.parametrize(
    ("content", "weights"),
    [
        (AVERAGED, "only weights"),
        (prefixed("module.", AVERAGED), "only weights"),
        ({"state_dict": AVERAGED, "optimizer": {"lr": 0.1}}, "only weights"),
        # mmengine's hook swaps the two as it saves: its "ema" are the raw weights.
        (
            {
                "state_dict": AVERAGED,
                "ema_state_dict": {"steps": torch.tensor(9), **prefixed("module.", RAW)},
            },
            "mmengine saves as state_dict",
        ),
        (
            {
                "state_dict": RAW,
                "ema_state_dict": {
                    "n_averaged": torch.tensor(9),
                    **prefixed("module.", AVERAGED),
                },
            },
            "ema_state_dict",
        ),
        # mmcv's hook swaps them as well; the raw ones are buffers of plainer names.
        (
            {"state_dict": {**AVERAGED, **prefixed("ema_", dotless(RAW))}},
            "mmcv saves under the model's own names",
        ),
        ({"state_dict": RAW, "ema_state_dict": AVERAGED}, "ema_state_dict"),
        ({**RAW, **prefixed("ema.module.", AVERAGED)}, "ema.module."),
        ({"state_dict": {**RAW, **prefixed("ema_model.", AVERAGED)}}, "ema_model."),
    ],
)
def test_the_averaged_weights_count(content: Any, weights: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "t.pth")
    found = read_checkpoint(tmp_path / "t.pth")
    assert weights in found.weights
    assert set(found.state_dict) == set(AVERAGED)
    assert all(torch.equal(value, AVERAGED[key]) for key, value in found.state_dict.items())


def test_a_saved_preprocessor_is_ignored_by_its_exact_name(tmp_path: Path) -> None:
    path = saved(tmp_path, POSE, **{"data_preprocessor.mean": torch.zeros(3)})
    load_checkpoint(build(POSE), path)
    path = saved(tmp_path, POSE, **{"data_preprocessor.means": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"1 surplus: data_preprocessor\.means"):
        load_checkpoint(build(POSE), path)


def test_numpy_in_a_training_log_is_skipped_unread(tmp_path: Path) -> None:
    meta = {"sigmas": np.arange(3.0), "best": np.float64(0.5), "names": np.array(["a"], object)}
    torch.save({"meta": meta, "message_hub": meta, "state_dict": AVERAGED}, tmp_path / "t.pth")
    assert set(read_checkpoint(tmp_path / "t.pth").state_dict) == set(AVERAGED)


class Intruder:
    """Unpickling it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_code_is_refused_and_named(tmp_path: Path, zipped: bool) -> None:
    content = {"state_dict": AVERAGED, "hook": Intruder(tmp_path / "made")}
    torch.save(content, tmp_path / "t.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"made by running code \(\w+\.mkdir\)") as caught:
        read_checkpoint(tmp_path / "t.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, share: float, zipped: bool) -> None:
    path = tmp_path / "t.pth"
    torch.save(AVERAGED, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"a checkpoint, or a trunc|an empty file") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_no_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"t\.pth: no such file"):
        read_checkpoint(tmp_path / "t.pth")
    with pytest.raises(CheckpointError, match="a folder"):
        read_checkpoint(tmp_path)


# --- loading strictly -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"head.mlp.0.g": None}, "1 missing: head.mlp.0.g"),
        ({"head.extra": torch.zeros(1)}, "1 surplus: head.extra"),
        (
            {"head.gau.gamma": torch.zeros(2, 64)},
            "1 of another shape: head.gau.gamma is (2, 64) and should be (2, 128)",
        ),
        (
            {"head.gau.beta": torch.full((2, 128), float("nan"))},
            "1 with NaN or infinity: head.gau.beta",
        ),
    ],
)
def test_a_fault_names_its_key_and_what_the_file_seems_to_be(
    changes: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, POSE, **changes)
    with pytest.raises(CheckpointError) as caught:
        export_checkpoint(path, tmp_path / "t.onnx", "t")
    assert fault in str(caught.value)
    assert "looks like RTMPose-t, 17 keypoints, 256x192" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


@pytest.mark.parametrize(
    ("description", "said", "text"),
    [
        (POSE, {"size": "s"}, "size s was said, but the weights are those of RTMPose-t, 17"),
        (POSE, {"keypoints": 26}, "keypoints 26 was said"),
        (POSE, {"num_classes": 1}, "classes 1 was said"),
        (POSE, {"input_hw": (384, 288)}, "input 384x288 was said"),
        (POSE, {"input_hw": (192, 256)}, "input 192x256 was said"),
        (POSE, {"keypoint_set": "halpe26"}, "17 keypoints and the keypoint set 'halpe26' 26"),
        (POSE, {"keypoint_set": "people"}, "'people'"),
        (NANO, {"num_classes": 80}, "classes 80 was said, but .* RTMDet-nano, 1 class"),
        (NANO, {"keypoints": 17}, "keypoints 17 was said"),
        (NANO, {"keypoint_set": "coco17"}, "has no keypoint set 'coco17'"),
        (NANO, {"input_hw": (320, 300)}, "320x300 .*multiples of 32"),
        (NANO, {"input_hw": (0, 320)}, "multiples of 32"),
    ],
)
def test_what_contradicts_the_weights_is_refused(
    description: Description, said: dict[str, Any], text: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, description)
    with pytest.raises(SpecError, match=text):
        export_checkpoint(path, tmp_path / "t.onnx", "t", **said)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]
