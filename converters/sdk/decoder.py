"""The decoder of an mmdeploy SDK model and its ONNX file, checked against each other: the spec.

Which component decodes what, and by which parameters, follows mmdeploy 1.3's
``codebase/mmpose/deploy/pose_detection.py`` and ``csrc/mmdeploy/codebase``. Where its decoder is
coarser than mmpose's own (DARK of an MSRAHeatmap), mmpose's is meant: it is what the model was
trained and measured with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from converters.graph.run_once import Shape
from converters.sdk.network import Network, read_network
from converters.sdk.pipeline import (
    Deployed,
    Preprocess,
    keypoint_set_of,
    read_preprocess,
    read_tasks,
    training_name,
)
from converters.sdk.values import Json, by, same_size
from edge.errors import ModelFileError
from edge.spec import HeatmapRefinement, ModelSpec, TensorSpec

__all__ = ["describe"]


def describe(
    deployed: Deployed, pipeline: Json, detail: Json | None, onnx_path: Path, name: str
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec of an SDK model, and notes on what was assumed beyond its files.

    Raises ModelFileError or SpecError as ``read_sdk`` says.
    """
    tasks = read_tasks(pipeline, deployed)
    preprocess = read_preprocess(tasks.transform, deployed.version)
    component = tasks.decoder.at("component")
    decode = _DECODERS.get(component.text())
    if component.text() == "UNKNOWN" and deployed.name.text() == "bottomupposeestimator":
        decode = _decode_one_stage  # mmdeploy exports RTMO, but has no decoder for it
    if decode is None:
        component.refuse(
            f"is {component.text()!r}, a decoder that is not supported; supported are "
            f"{', '.join(_DECODERS)}, and UNKNOWN of a bottomupposeestimator"
        )
    network = read_network(onnx_path, tasks.net, deployed.precision, preprocess)
    fields = decode(_Parts(tasks.decoder, preprocess, network, training_name(detail)))
    is_crop = fields["task"] == "pose"
    if is_crop != (preprocess.letterbox is None):
        component.refuse(
            f"is {component.text()!r}, which needs the "
            + ("crop of a box (TopDownAffine)" if is_crop else "whole image (Resize and Pad)")
            + f", but {preprocess.size} makes the other"
        )
    sdk_task = "Detector" if fields["task"] == "detection" else "PoseDetector"
    if deployed.task is not None and deployed.task.text() != sdk_task:
        raise ModelFileError(
            f"{deployed.task} is {deployed.task.text()!r}, but {component} is "
            f"{component.text()!r}, which is a {sdk_task}'s"
        )
    if not is_crop:
        fields |= {"letterbox": preprocess.letterbox, "pad_value": preprocess.pad_value}
    note = fields.pop("note", "")
    spec = ModelSpec(
        name=name,
        input=network.input,
        color_order=preprocess.color_order,
        mean=preprocess.mean,
        std=preprocess.std,
        **fields,
    )
    return spec, (note,) if note else ()


# --- decoders -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    """What a decoder is read from."""

    decoder: Json
    preprocess: Preprocess
    network: Network
    training_name: str

    @property
    def params(self) -> Json:
        return self.decoder.at("params")


def _decode_simcc(parts: _Parts) -> dict[str, Any]:
    params, network = parts.params, parts.network
    kind = params.find("type")
    if kind is not None and kind.text() != "SimCCLabel":
        kind.refuse(f"is {kind.text()!r}; of SimCC only SimCCLabel is supported")
    _refuse_if(
        params,
        "export_postprocess",
        "is true: the file's outputs are coordinates then and no SimCC; export it without",
    )
    _refuse_if(params, "use_dark", "is true: SimCC is decoded without DARK; export it without")
    if parts.preprocess.udp is not None:
        parts.preprocess.udp.refuse("is true, which SimCC does not go with")
    size, ratio = params.at("input_size"), params.at("simcc_split_ratio")
    same_size(size, parts.preprocess.size)
    if ratio.number() <= 0:
        ratio.refuse(f"must be positive, but is {ratio.number():g}")
    axes = [network.measured(network.output(f"simcc_{axis}", parts.decoder), 1) for axis in "xy"]
    count = next((axis.shape[1] for axis in axes if len(axis.shape) == 3 and axis.shape[1]), None)
    if count is None and all(len(axis.shape) == 3 for axis in axes):
        _refuse_open_count(network.path, axes[0])
    why = f"{size} {by(size.size())} (width x height) at {ratio.number():g} bins per pixel"
    return {
        "task": "pose",
        "codec": "simcc",
        "outputs": tuple(
            network.shaped(axis, (None, count, round(pixels * ratio.number())), why)
            for axis, pixels in zip(axes, size.size(), strict=True)
        ),
        **_points(axes[0] if axes[0].shape[1] else axes[1], 1, parts),
        "simcc_split_ratio": ratio.number(),
        "box_padding": parts.preprocess.box_padding,
    }


def _decode_heatmap(parts: _Parts) -> dict[str, Any]:
    params, network, crop = parts.params, parts.network, parts.preprocess
    refinement, kernel, is_udp = _refinement(params)
    if is_udp != (crop.udp is not None):
        raise ModelFileError(
            f"{params} {'asks' if is_udp else 'does not ask'} for UDP, but "
            f"{crop.udp or crop.size}: the crop {'is' if crop.udp else 'is not'} UDP's; both must "
            "be or neither, export the model again"
        )
    declared = params.find("input_size")
    if declared is not None:
        same_size(declared, crop.size)
    maps = network.measured(network.output("output", parts.decoder), 1)
    size = params.find("heatmap_size")
    want: Shape = (None,) * 4 if size is None else (None, None, *size.size()[::-1])
    maps = network.shaped(maps, want, str(size or params))
    return {
        "task": "pose",
        "codec": "heatmap",
        "outputs": (maps,),
        **_points(maps, 1, parts),
        "box_padding": crop.box_padding,
        "udp": is_udp,
        "heatmap_refinement": refinement,
        "heatmap_blur_kernel": kernel,
    }


def _refinement(params: Json) -> tuple[HeatmapRefinement, int, bool]:
    """How maxima are refined, the size of DARK's blur in cells, and whether UDP is meant.

    mmpose 1 names the codec; mmpose 0 spells it out in ``post_process`` and ``use_udp``.
    """
    kind = params.find("type")
    udp = params.find("use_udp")
    is_udp = udp is not None and udp.flag()
    # mmpose 0 writes null for "take the maximum as it is", which is not the same as saying nothing.
    process = params.value.get("post_process", "default")
    if kind is None:
        kernel = params.find("modulate_kernel")
        _refuse_if(params, "unbiased_decoding", "is outdated; write post_process 'unbiased'")
        target = params.find("target_type")
        if is_udp and target is not None and target.text().lower() != "gaussianheatmap":
            target.refuse(f"is {target.text()!r}; of UDP only GaussianHeatmap is supported")
        known: dict[Any, HeatmapRefinement] = {
            None: "none",
            "null": "none",
            "default": "shift",
            "unbiased": "dark",
            "megvii": "megvii",
        }
        if not isinstance(process, (str, type(None))) or process not in known:
            params.at("post_process").refuse(
                f"is {process!r}; supported are default, unbiased, megvii and null"
            )
        refinement: HeatmapRefinement = "dark-udp" if is_udp else known[process]
    else:
        if kind.text() not in ("MSRAHeatmap", "UDPHeatmap", "MegviiHeatmap"):
            kind.refuse(
                f"is {kind.text()!r}; supported are MSRAHeatmap, UDPHeatmap and MegviiHeatmap"
            )
        is_megvii = kind.text() == "MegviiHeatmap"
        kernel = params.find("kernel_size" if is_megvii else "blur_kernel_size")
        # mmdeploy writes mmpose 0's words beside the codec's, those that mean the same.
        same = ("default", "megvii") if is_megvii else ("default",)
        if is_udp != (kind.text() == "UDPHeatmap") or process not in same:
            kind.refuse(
                f"is {kind.text()!r}, which contradicts use_udp {str(is_udp).lower()} and "
                f"post_process {process!r} beside it; export the model again"
            )
        target = params.find("heatmap_type")
        if target is not None and target.text() != "gaussian":
            target.refuse(f"is {target.text()!r}; of UDP only gaussian is supported")
        unbiased = params.find("unbiased")
        is_dark = unbiased is not None and unbiased.flag()
        refinement = "dark-udp" if is_udp else "dark" if is_dark else "shift"
        if is_megvii:
            refinement = "megvii"
            other = params.find("modulate_kernel")
            if kernel is not None and other is not None and other.count() != kernel.count():
                other.refuse(f"is {other.count()}, but {kernel} is {kernel.count()}")
            kernel = kernel or other
    return refinement, 11 if kernel is None else kernel.count(), is_udp


def _decode_detector(parts: _Parts) -> dict[str, Any]:
    params, network = parts.params, parts.network
    smallest = params.find("min_bbox_size")
    if smallest is not None and smallest.number() > 0:
        smallest.refuse(f"is {smallest.number():g}; dropping small boxes is not supported")
    nms = params.find("nms")
    kind = None if nms is None else nms.find("type")
    if kind is not None and kind.text() != "nms":
        kind.refuse(f"is {kind.text()!r}; only nms is supported")
    iou = None if nms is None else nms.find("iou_threshold")
    return {
        "task": "detection",
        "codec": "detections",
        "outputs": (
            _dets(parts),
            network.shaped(
                network.output("labels", parts.decoder), (None, None), str(parts.decoder)
            ),
        ),
        **_numbers(score_threshold=params.find("score_thr"), nms_iou=iou),
        **_counts(
            nms_candidates_per_level=params.find("nms_pre"), max_boxes=params.find("max_per_img")
        ),
    }


def _decode_one_stage(parts: _Parts) -> dict[str, Any]:
    params, network = parts.params, parts.network
    points = network.measured(network.output("keypoints", parts.decoder), 2)
    return {
        "task": "one-stage",
        "codec": "detections",
        "outputs": (
            _dets(parts),
            network.shaped(points, (None, None, None, 3), str(parts.decoder)),
        ),
        **_points(points, 2, parts),
        **_numbers(score_threshold=params.find("score_thr"), nms_iou=params.find("nms_thr")),
    }


def _dets(parts: _Parts) -> TensorSpec:
    dets = parts.network.output("dets", parts.decoder)
    return parts.network.shaped(dets, (None, None, 5), str(parts.decoder))


def _points(tensor: TensorSpec, axis: int, parts: _Parts) -> dict[str, Any]:
    """The keypoint set that one axis has, and the note on it where that is a guess."""
    count = tensor.shape[axis] if len(tensor.shape) > axis else None
    found = keypoint_set_of(count, parts.training_name)
    if found is None:
        _refuse_open_count(parts.network.path, tensor)
    return {"keypoint_set": found[0], "note": found[1]}


def _numbers(**entries: Json | None) -> dict[str, float]:
    return {field: entry.number() for field, entry in entries.items() if entry is not None}


def _counts(**entries: Json | None) -> dict[str, int]:
    return {field: entry.count() for field, entry in entries.items() if entry is not None}


def _refuse_if(params: Json, key: str, text: str) -> None:
    entry = params.find(key)
    if entry is not None and entry.flag():
        entry.refuse(text)


# What mmpose 0's heads are called; mmpose 1 writes the first for every heatmap.
_HEATMAP_HEADS = (
    *("TopdownHeatmapSimpleHead", "TopdownHeatmapBaseHead", "TopdownHeatmapMSMUHead"),
    *("TopdownHeatmapMultiStageHead", "ViPNASHeatmapSimpleHead"),
)

_DECODERS: dict[str, Callable[[_Parts], dict[str, Any]]] = {
    "SimCCLabelDecode": _decode_simcc,
    **{f"{head}Decode": _decode_heatmap for head in _HEATMAP_HEADS},
    "ResizeBBox": _decode_detector,
    "YOLOXPose": _decode_one_stage,
}


def _refuse_open_count(path: Path, tensor: TensorSpec) -> NoReturn:
    raise ModelFileError(
        f"{path}: output {tensor.name} of shape {by(tensor.shape)} does not say how many keypoints "
        "there are; export the model with a fixed number of them"
    )
