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
from typing import Any, Literal, NoReturn

from converters.onnx_file import image_input_shape, load_onnx, output_shapes
from converters.sdk_json import Json, by, same_size
from converters.sdk_pipeline import (
    Deployed,
    Preprocess,
    keypoint_set_of,
    read_preprocess,
    read_tasks,
    training_name,
)
from edge.errors import ModelFileError
from edge.spec import HeatmapRefinement, ModelSpec, TensorSpec

__all__ = ["describe"]

Shape = tuple[int | None, ...]


def describe(
    deployed: Deployed, pipeline: Json, detail: Json | None, onnx_path: Path, name: str
) -> ModelSpec:
    """The spec of an SDK model. Raises ModelFileError or SpecError as ``read_sdk`` says."""
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
    network = _read_network(onnx_path, tasks.net, deployed.precision)
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
    return ModelSpec(
        name=name,
        input=_input(network, preprocess),
        color_order=preprocess.color_order,
        mean=preprocess.mean,
        std=preprocess.std,
        **fields,
    )


# --- the network ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Network:
    """The ONNX file's tensors; ``outputs`` are under the names that the decoder knows them by."""

    path: Path
    input_name: str
    input_shape: Shape
    outputs: dict[str, TensorSpec]

    def output(self, name: str, decoder: Json) -> TensorSpec:
        if name not in self.outputs:
            decoder.at("component").refuse(
                f"is {decoder.at('component').text()!r}, which reads {name!r}, but {self.path} "
                f"gives {', '.join(self.outputs)}; name the right one in the Net's output_map"
            )
        return self.outputs[name]

    def shaped(self, tensor: TensorSpec, want: Shape, why: str) -> TensorSpec:
        """The tensor with the sizes filled in that the file leaves open; others must agree."""
        pairs = list(zip(tensor.shape, want, strict=False))
        if len(tensor.shape) != len(want) or any(
            None not in pair and pair[0] != pair[1] for pair in pairs
        ):
            raise ModelFileError(
                f"{self.path}: output {tensor.name} is of shape {by(tensor.shape)}, but {why} "
                f"needs {by(want)}"
            )
        shape = tuple(has if wanted is None else wanted for has, wanted in pairs)
        return TensorSpec(tensor.name, shape, tensor.dtype)


def _read_network(path: Path, net: Json, precision: Json) -> _Network:
    try:
        model = load_onnx(path)
    except ModelFileError as error:
        if precision.text() == "FP32":
            raise
        raise ModelFileError(
            f"{error} ({precision} is {precision.text()}: export the model in FP32, the kit makes "
            "its own FP16)"
        ) from None
    input_name, shape = image_input_shape(model, path)
    fed = net.at("input_map").at("img")
    if fed.text() != input_name:
        fed.refuse(f"is {fed.text()!r}, but the input of {path} is {input_name!r}")
    tensors = _output_tensors(model, path)
    renamed: dict[str, TensorSpec] = {}
    output_map = net.find("output_map") or Json({}, "")
    for outer in output_map.names():
        inner = output_map.at(outer)
        if inner.text() not in tensors:
            inner.refuse(f"is {inner.text()!r}, but the outputs of {path} are {', '.join(tensors)}")
        renamed[outer] = tensors[inner.text()]
    hidden = {tensor.name for tensor in renamed.values()}
    kept = {name: tensor for name, tensor in tensors.items() if name not in hidden}
    return _Network(path, input_name, shape, kept | renamed)


def _output_tensors(model: Any, path: Path) -> dict[str, TensorSpec]:
    import onnx

    dtypes: dict[int, Literal["float32", "int64"]] = {
        onnx.TensorProto.FLOAT: "float32",
        onnx.TensorProto.INT64: "int64",
    }
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    tensors = {}
    for name, shape in output_shapes(model):
        if types[name] not in dtypes:
            kind = onnx.TensorProto.DataType.Name(types[name]).lower()
            raise ModelFileError(
                f"{path}: output {name} is {kind}, only float32 and int64 are read; export "
                "the model in FP32"
            )
        tensors[name] = TensorSpec(name, shape, dtypes[types[name]])
    return tensors


def _input(network: _Network, preprocess: Preprocess) -> TensorSpec:
    width, height = preprocess.size.size()
    batch, channels, *fixed_hw = network.input_shape
    if any(has not in (None, want) for has, want in zip(fixed_hw, (height, width), strict=True)):
        raise ModelFileError(
            f"{preprocess.size} is {by((width, height))} (width x height), but the input of "
            f"{network.path} is {by(fixed_hw[::-1])}; export the model again or correct the file "
            "that is wrong"
        )
    return TensorSpec(network.input_name, (batch, channels, height, width))


# --- decoders -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    """What a decoder is read from."""

    decoder: Json
    preprocess: Preprocess
    network: _Network
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
    axes = [network.output(f"simcc_{axis}", parts.decoder) for axis in "xy"]
    counts = [axis.shape[1] for axis in axes if len(axis.shape) == 3 and axis.shape[1]]
    if not counts:
        _refuse_open_count(network.path, axes[0])
    why = f"{size} {by(size.size())} (width x height) at {ratio.number():g} bins per pixel"
    return {
        "task": "pose",
        "codec": "simcc",
        "outputs": tuple(
            network.shaped(axis, (None, counts[0], round(pixels * ratio.number())), why)
            for axis, pixels in zip(axes, size.size(), strict=True)
        ),
        "keypoint_set": keypoint_set_of(counts[0], parts.training_name),
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
    maps = network.output("output", parts.decoder)
    if len(maps.shape) == 4 and maps.shape[1] is None:
        _refuse_open_count(network.path, maps)
    size = params.find("heatmap_size")
    want: Shape = (None,) * 4 if size is None else (None, None, *size.size()[::-1])
    maps = network.shaped(maps, want, str(size or params))
    count = maps.shape[1]
    assert count is not None
    return {
        "task": "pose",
        "codec": "heatmap",
        "outputs": (maps,),
        "keypoint_set": keypoint_set_of(count, parts.training_name),
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
        if is_udp != (kind.text() == "UDPHeatmap") or process != "default":
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
    points = network.output("keypoints", parts.decoder)
    count = points.shape[2] if len(points.shape) == 4 else None
    keypoint_set = keypoint_set_of(count, parts.training_name)
    if keypoint_set is None:
        _refuse_open_count(network.path, points)
    return {
        "task": "one-stage",
        "codec": "detections",
        "outputs": (
            _dets(parts),
            network.shaped(points, (None, None, None, 3), str(parts.decoder)),
        ),
        "keypoint_set": keypoint_set,
        **_numbers(score_threshold=params.find("score_thr"), nms_iou=params.find("nms_thr")),
    }


def _dets(parts: _Parts) -> TensorSpec:
    dets = parts.network.output("dets", parts.decoder)
    return parts.network.shaped(dets, (None, None, 5), str(parts.decoder))


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
