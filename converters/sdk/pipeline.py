"""What the JSON files of an mmdeploy SDK model say: which network, and what comes before it.

``deploy.json`` names the network file and the backend, ``pipeline.json`` the transforms before the
network and the decoder behind it. Keys, defaults and meanings are those of mmdeploy 1.3's
``backend/sdk/export_info.py``, ``codebase/mmpose/deploy/pose_detection.py`` and of its C++
transforms and decoders (``csrc/mmdeploy``); sizes are [width, height] throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePosixPath

from converters.sdk.values import Json, by, same_size, shorten
from edge.errors import ModelFileError
from edge.keypoints import usual_set
from edge.spec import ColorOrder, Letterbox

__all__ = [
    "Deployed",
    "Preprocess",
    "Tasks",
    "keypoint_set_of",
    "read_deployed",
    "read_preprocess",
    "read_tasks",
    "training_name",
]


@dataclass(frozen=True)
class Deployed:
    """The one network of ``deploy.json``; ``net`` is a bare file name."""

    name: Json
    net: str
    precision: Json
    task: Json | None
    version: Json


def read_deployed(deploy: Json) -> Deployed:
    """Read ``deploy.json``; only one network that ONNX Runtime runs is accepted."""
    models = deploy.at("models").items()
    if len(models) != 1:
        deploy.at("models").refuse(f"has {len(models)} networks; one with a single network is read")
    model = models[0]
    version, name, net = deploy.at("version"), model.at("name"), model.at("net")
    backend, precision = model.at("backend"), model.at("precision")
    for entry in (version, name):
        entry.text()
    if backend.text() != "onnxruntime":
        backend.refuse(
            f"is {backend.text()!r} ({net.text()!r}): only ONNX models can be read, and the "
            "end2end.onnx that this one was made of is missing; export it with mmdeploy's "
            "onnxruntime configuration"
        )
    if PurePosixPath(net.text().replace("\\", "/")).name != net.text():
        net.refuse(f"is {net.text()!r}, not the bare name of a file in the same folder")
    if precision.text() not in ("FP32", "FP16"):
        precision.refuse(f"is {precision.text()!r}; FP32 is needed, export the model without it")
    return Deployed(name, net.text(), precision, deploy.find("task"), version)


@dataclass(frozen=True)
class Tasks:
    """The three tasks of ``pipeline.json``."""

    transform: Json
    net: Json
    decoder: Json


def read_tasks(pipeline: Json, deployed: Deployed) -> Tasks:
    """Find the tasks, and check that the network is the one that ``deploy.json`` names."""
    tasks = pipeline.at("pipeline").at("tasks")
    by_module: dict[str, list[Json]] = {"Transform": [], "Net": [], "decoder": []}
    for task in tasks.items():
        module = task.at("module").text()
        by_module[module if module in by_module else "decoder"].append(task)
    if any(len(found) != 1 for found in by_module.values()):
        tasks.refuse(
            "are not one Transform, one Net and one decoder, but "
            + (", ".join(task.at("module").text() for task in tasks.items()) or "none")
        )
    (transform,), (net,), (decoder,) = by_module.values()
    name = net.at("name")
    if name.text() != deployed.name.text():
        raise ModelFileError(
            f"{name} is {name.text()!r}, but {deployed.name} is {deployed.name.text()!r}; both "
            "must name the same network"
        )
    return Tasks(transform, net, decoder)


# --- transforms -----------------------------------------------------------------------------------

# Reading, packing and bookkeeping: they leave the pixels as they are.
_NEUTRAL = ("LoadImageFromFile", "ImageToTensor", "DefaultFormatBundle", "Collect", "Lift")
_GEOMETRY = ("TopDownAffine", "Resize", "BottomupResize")
_KNOWN = (*_NEUTRAL, *_GEOMETRY, "TopDownGetBboxCenterScale", "Pad", "Normalize")


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the network's input; ``size`` holds its width and height.

    ``letterbox`` is None for the crop of a box. ``udp`` tells the entry that asks for UDP's scale.
    """

    size: Json
    color_order: ColorOrder
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    letterbox: Letterbox | None = None
    pad_value: int = 0
    box_padding: float = 1.25
    udp: Json | None = None


def read_preprocess(transform: Json, version: Json) -> Preprocess:
    """Read the transforms in order; what the runtime cannot do exactly is refused by name."""
    steps: dict[str, Json] = {}
    pads: list[tuple[bool, Json]] = []  # whether behind Normalize, and the transform
    order: list[str] = []
    for step in transform.at("transforms").items():
        kind = step.at("type").text()
        if kind not in _KNOWN:
            step.at("type").refuse(
                f"is the transform {kind!r}, which is not known; known are {', '.join(_KNOWN)}"
            )
        if kind == "Pad":
            pads.append(("Normalize" in steps, step))
        elif kind in steps:
            step.refuse(f"repeats the transform {kind}")
        steps[kind] = step
        order.append(kind)
    transforms = transform.at("transforms")
    geometry = [kind for kind in _GEOMETRY if kind in steps]
    if len(geometry) != 1:
        transforms.refuse(
            f"must have exactly one of {', '.join(_GEOMETRY)}, but have "
            f"{' and '.join(geometry) or 'none'}"
        )
    if "Normalize" in steps and order.index("Normalize") < order.index(geometry[0]):
        steps["Normalize"].refuse(f"is a Normalize before {geometry[0]}; the other order is needed")
    color = steps["LoadImageFromFile"].find("color_type") if "LoadImageFromFile" in steps else None
    if color is not None and color.text() != "color":
        color.refuse(f"is {color.text()!r}, but three color channels are needed")
    normalize = _read_normalize(steps.get("Normalize"))
    if geometry[0] == "TopDownAffine":
        if pads:
            pads[0][1].refuse("pads a crop, which is of a fixed size already")
        return _read_crop(transforms, steps, normalize)
    if geometry[0] == "BottomupResize":
        return _read_centered(steps["BottomupResize"], pads, normalize)
    return _read_top_left(steps["Resize"], pads, normalize, version)


Normalize = tuple[ColorOrder, tuple[float, float, float], tuple[float, float, float]]


def _read_normalize(step: Json | None) -> Normalize:
    # YOLOX takes grey levels as they are; mmdeploy then may leave the transform out.
    if step is None:
        return "bgr", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = step.at("mean").numbers(), step.at("std").numbers()
    if min(std) <= 0:
        step.at("std").refuse(f"must be positive, but is {list(std)}")
    return ("rgb" if step.at("to_rgb").flag() else "bgr"), mean, std


def _read_crop(transforms: Json, steps: dict[str, Json], normalize: Normalize) -> Preprocess:
    if "TopDownGetBboxCenterScale" not in steps:
        transforms.refuse("have a TopDownAffine but no TopDownGetBboxCenterScale before it")
    scale, affine = steps["TopDownGetBboxCenterScale"], steps["TopDownAffine"]
    same_size(scale.at("image_size"), affine.at("image_size"))
    padding = scale.at("padding")
    if padding.number() <= 0:
        padding.refuse(f"must be positive, but is {padding.number():g}")
    udp = affine.find("use_udp")
    return Preprocess(
        affine.at("image_size"),
        *normalize,
        box_padding=padding.number(),
        udp=udp if udp is not None and udp.flag() else None,
    )


def _read_centered(resize: Json, pads: list[tuple[bool, Json]], normalize: Normalize) -> Preprocess:
    """BottomupResize of mmpose: the whole image, aspect kept, in the middle of the input."""
    mode = resize.find("resize_mode")
    if mode is not None and mode.text() != "fit":
        mode.refuse(f"is {mode.text()!r}: the input's size would depend on the image; use 'fit'")
    for key in ("use_udp", "aug_scales"):
        entry = resize.find(key)
        if entry is not None and entry.value:
            entry.refuse("is not supported; export the model without it")
    if pads:
        pads[0][1].refuse("pads what BottomupResize has padded already")
    return Preprocess(
        resize.at("input_size"),
        *normalize,
        letterbox="center",
        pad_value=_pad_value(resize.find("pad_val")),
    )


def _read_top_left(
    resize: Json, pads: list[tuple[bool, Json]], normalize: Normalize, version: Json
) -> Preprocess:
    """Resize and Pad of mmdet: the whole image, aspect kept, padded right and below."""
    keep = resize.find("keep_ratio")
    if keep is None or not keep.flag():
        resize.refuse(
            "stretches the image: without keep_ratio people become wider or narrower than those "
            "that the model was trained on; export it again with keep_ratio true, or write "
            "keep_ratio true and a Pad of the same size into the file"
        )
    interpolation = resize.find("interpolation")
    if interpolation is not None and interpolation.text() != "bilinear":
        interpolation.refuse(f"is {interpolation.text()!r}, only bilinear is supported")
    size = resize.at("size")
    width, height = size.size()
    if width != height and version.text().startswith("0."):
        size.refuse(
            f"is {by((width, height))}, but mmdeploy {version.text()} wrote the height first in "
            "some versions and the width in others; export the model with mmdeploy 1.3"
        )
    # The first Pad that fills the input gives the value; whatever follows must add nothing.
    pad_value: int | None = None
    for is_normalized, pad in pads:
        target = _pad_target(pad, size, is_full=pad_value is not None)
        if target is None:
            continue
        if is_normalized:
            pad.refuse("pads after Normalize, where the value is no grey level; put it before")
        pad_value = _pad_value(pad.find("pad_val"))
    if pad_value is None:
        resize.refuse(
            "keeps the aspect and no Pad of a fixed size follows, so that the input's size would "
            f"depend on the image; add a Pad of size {[width, height]} before Normalize"
        )
    return Preprocess(size, *normalize, letterbox="top-left", pad_value=pad_value)


def _pad_target(pad: Json, size: Json, *, is_full: bool) -> Json | None:
    """The size that a Pad brings the image to; None where it adds nothing."""
    mode = pad.find("padding_mode")
    if mode is not None and mode.text() != "constant":
        mode.refuse(f"is {mode.text()!r}, only constant is supported")
    for key in ("logical_or_val", "add_pix_val", "orientation_agnostic"):
        entry = pad.find(key)
        if entry is not None and entry.value:
            entry.refuse("is not supported; export the model without it")
    width, height = size.size()
    square, target, divisor = (pad.find(key) for key in ("pad_to_square", "size", "size_divisor"))
    if square is not None and square.flag():
        if width != height:
            same = f"{size} is {by((width, height))}"
            square.refuse(f"fills a square, but {same}; give the Pad that size")
        return None if is_full else size
    if target is not None:
        same_size(size, target)
        return None if is_full else target
    step = 1 if divisor is None else divisor.count()
    if is_full and (width % step or height % step):
        pad.refuse(f"would enlarge the input of {by((width, height))} to a multiple of {step}")
    if not is_full and step > 1:
        pad.refuse(
            f"pads to a multiple of {step} only, so that the input's size would depend on the "
            f"image; give it the size {[width, height]}"
        )
    return None


def _pad_value(entry: Json | None) -> int:
    """One grey level for all channels; it is 0 where nothing is said."""
    if entry is None:
        return 0
    inner = entry.at("img") if isinstance(entry.value, dict) else entry
    values = inner.items() if isinstance(inner.value, list) else [inner]
    levels = {value.number() for value in values}
    level = levels.pop() if len(levels) == 1 else math.nan
    if not (0 <= level <= 255 and level == int(level)):
        inner.refuse(f"must be one whole grey level of 0..255, but is {shorten(inner.value)}")
    return int(level)


# --- keypoint sets --------------------------------------------------------------------------------

# Words of mmpose's configuration names, how many points these data sets have, and their names
# here. Sets whose order is not one of ours keep their points unnamed.
_DATA_SETS = (
    *(("wholebody", 133, "coco-wholebody133"), ("ubody", 133, "coco-wholebody133")),
    *(("halpe26", 26, "halpe26"), ("ap10k", 17, "ap10k17"), ("crowdpose", 14, "crowdpose14")),
    *(("h36m", 17, "unnamed-17"), ("posetrack18", 17, "unnamed-17"), ("macaque", 17, "unnamed-17")),
    *(("body7", 17, "coco17"), ("body8", 17, "coco17"), ("humanart", 17, "coco17")),
    *(("humanart", 21, "unnamed-21"), ("coco", 17, "coco17")),
    *(("aic", 14, "unnamed-14"), ("exlpose", 14, "unnamed-14")),
    *(("rhd", 21, "unnamed-21"), ("interhand", 21, "unnamed-21"), ("hand", 21, "hand21")),
    *(("face", 106, "face106"), ("lapa", 106, "face106")),
)


def training_name(detail: Json | None) -> str:
    """The file names of the training configuration and of the weights that ``detail.json`` names.

    Empty where it does not say.
    """
    codebase = detail.value.get("codebase") if detail and isinstance(detail.value, dict) else None
    texts = [codebase.get(key) for key in ("config", "pth")] if isinstance(codebase, dict) else []
    # The folders above are the exporter's own and may be called anything.
    names = [text.replace("\\", "/").rsplit("/")[-1] for text in texts if isinstance(text, str)]
    return " ".join(names).lower()


def keypoint_set_of(count: int | None, name: str) -> tuple[str, str] | None:
    """The set of that many points that the name speaks of, else the usual one of that size.

    With what is to be said of the choice, as `usual_set` has it. None where neither is known.
    """
    for word, size, keypoint_set in _DATA_SETS:
        if word in name and count in (None, size):
            if not keypoint_set.startswith("unnamed-"):
                return keypoint_set, ""
            return keypoint_set, (
                f"by its configuration's name it was trained on {word}, whose {size} points have "
                f"no names here ({keypoint_set})"
            )
    return None if count is None else usual_set(count)
