"""The models of the proof: plain data for both environments, the kit's and OpenMMLab's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["CASES", "Case"]

_BODY = "body_2d_keypoint"
_TOPDOWN = f"{_BODY}/topdown_heatmap/coco"


@dataclass(frozen=True)
class Case:
    """One real model.

    ``config`` is a file of mmpose's or mmdet's wheel, ``changes`` what is set in it by dotted
    place. ``given_as`` is how the kit gets it: as the checkpoint, or as an ONNX file of the raw
    heads, with these keys of a spec beside it. ``finds`` is the keypoint set or None, ``demo`` the
    kit's trained demo model whose weights it carries, all others have random ones.
    """

    kind: Literal["pose", "one-stage", "detector"]
    config: str
    finds: str | None = None
    given_as: Literal["checkpoint", "onnx"] = "checkpoint"
    changes: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] | None = None
    demo: str | None = None
    legacy: bool = False


# What mmpose's projects/rtmpose says of its detectors of persons; the wheel has mmdet's own alone.
_PERSON: dict[str, Any] = {
    "model.bbox_head.num_classes": 1,
    "model.test_cfg": {
        "nms_pre": 1000,
        "min_bbox_size": 0,
        "score_thr": 0.05,
        "nms": {"type": "nms", "iou_threshold": 0.6},
        "max_per_img": 100,
    },
}
_NANO: dict[str, Any] = {
    "model.backbone.deepen_factor": 0.33,
    "model.backbone.widen_factor": 0.25,
    "model.backbone.use_depthwise": True,
    "model.neck.in_channels": [64, 128, 256],
    "model.neck.out_channels": 64,
    "model.neck.num_csp_blocks": 1,
    "model.neck.use_depthwise": True,
    "model.bbox_head.in_channels": 64,
    "model.bbox_head.feat_channels": 64,
    "model.bbox_head.share_conv": False,
    "model.bbox_head.exp_on_reg": False,
    "model.bbox_head.use_depthwise": True,
    "test_side": 320,
}
_HEATMAP: dict[str, Any] = {
    "task": "pose",
    "codec": "heatmap",
    "color_order": "rgb",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "keypoint_set": "coco17",
}

CASES: dict[str, Case] = {
    "rtmpose-t": Case(
        "pose",
        f"{_BODY}/rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py",
        "coco17",
        demo="rtmpose-t-demo",
        legacy=True,
    ),
    "rtmpose-m": Case(
        "pose", f"{_BODY}/rtmpose/body8/rtmpose-m_8xb256-420e_body8-256x192.py", "coco17"
    ),
    "rtmpose-t-wholebody": Case(
        "pose",
        "wholebody_2d_keypoint/rtmpose/ubody/rtmpose-t_8xb64-270e_coco-ubody-wholebody-256x192.py",
        "coco-wholebody133",
        legacy=True,
    ),
    "rtmpose-t-halpe26": Case(
        "pose", f"{_BODY}/rtmpose/body8/rtmpose-t_8xb1024-700e_body8-halpe26-256x192.py", "halpe26"
    ),
    "rtmpose-m-ap10k": Case(
        "pose",
        "animal_2d_keypoint/rtmpose/ap10k/rtmpose-m_8xb64-210e_ap10k-256x256.py",
        "ap10k17",
        legacy=True,
    ),
    "rtmpose-t-face": Case(
        "pose", "face_2d_keypoint/rtmpose/face6/rtmpose-t_8xb256-120e_face6-256x256.py", "face106"
    ),
    "rtmpose-m-mpii": Case(
        "pose", f"{_BODY}/rtmpose/mpii/rtmpose-m_8xb64-210e_mpii-256x256.py", "mpii16", legacy=True
    ),
    "rtmpose-m-wflw": Case(
        "pose", "face_2d_keypoint/rtmpose/wflw/rtmpose-m_8xb64-60e_wflw-256x256.py", "wflw98"
    ),
    "cspnext-tiny-udp": Case(
        "pose", f"{_TOPDOWN}/cspnext-tiny_udp_8xb256-210e_coco-256x192.py", "coco17", legacy=True
    ),
    "rtmo-t": Case("one-stage", f"{_BODY}/rtmo/body7/rtmo-t_8xb32-600e_body7-416x416.py", "coco17"),
    "rtmdet-nano": Case(
        "detector",
        "rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
        changes=_PERSON | _NANO,
        demo="rtmdet-nano-demo",
        legacy=True,
    ),
    # At half its size: the same network in a quarter of the time.
    "rtmdet-m": Case(
        "detector", "rtmdet/rtmdet_m_8xb32-300e_coco.py", changes=_PERSON | {"test_side": 320}
    ),
    "rtmdet-tiny-coco": Case("detector", "rtmdet/rtmdet_tiny_8xb32-300e_coco.py"),
    "hrnet-w32": Case(
        "pose",
        f"{_TOPDOWN}/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py",
        "coco17",
        "onnx",
        spec=_HEATMAP | {"heatmap_refinement": "shift"},
    ),
    "mspn50": Case(
        "pose",
        f"{_TOPDOWN}/td-hm_mspn50_8xb32-210e_coco-256x192.py",
        "coco17",
        "onnx",
        # The last one of its codecs decodes.
        spec=_HEATMAP | {"heatmap_refinement": "megvii", "heatmap_blur_kernel": 5},
    ),
    "simcc-mobilenetv2": Case(
        "pose",
        f"{_BODY}/simcc/coco/simcc_mobilenetv2_wo-deconv-8xb64-210e_coco-256x192.py",
        "coco17",
        "onnx",
    ),
}
