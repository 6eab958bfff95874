"""The spec of a checkpoint's network: what the file says of itself, else the published values.

Everything that neither the weights nor the file tell is said aloud as it is assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converters.architectures.checkpoint import Architecture, Description
from converters.architectures.claims import Claims
from converters.architectures.export import INPUT_NAME, SIMCC_OUTPUT_NAMES
from converters.architectures.rtmdet import OUTPUT_NAMES as RTMDET_OUTPUT_NAMES
from converters.architectures.rtmdet import STRIDES as RTMDET_STRIDES
from converters.architectures.rtmo import OUTPUT_NAMES as RTMO_OUTPUT_NAMES
from converters.architectures.rtmo import STRIDES as RTMO_STRIDES
from converters.graph.recognise import BGR_MEAN, BGR_STD, RGB_MEAN, RGB_STD
from edge.errors import SpecError
from edge.keypoints import KEYPOINT_SETS, KeypointSet, find_keypoint_set, usual_set
from edge.spec import HeatmapRefinement, ModelSpec, TensorSpec

__all__ = ["CODECS", "Say", "spec_of"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Codec:
    """What the specs of an architecture have in common."""

    output_names: Sequence[str]
    fields: Mapping[str, Any]


CODECS: dict[Architecture, _Codec] = {
    "rtmpose": _Codec(
        SIMCC_OUTPUT_NAMES,
        {"task": "pose", "codec": "simcc", "color_order": "rgb", "mean": RGB_MEAN, "std": RGB_STD},
    ),
    "rtmdet": _Codec(
        RTMDET_OUTPUT_NAMES,
        {
            "task": "detection",
            "codec": "rtmdet",
            "strides": RTMDET_STRIDES,
            "cut_at_rim": True,
            "color_order": "bgr",
            "mean": BGR_MEAN,
            "std": BGR_STD,
            "pad_value": 114,
        },
    ),
    "rtmo": _Codec(
        RTMO_OUTPUT_NAMES,
        {
            "task": "one-stage",
            "codec": "rtmo",
            "strides": RTMO_STRIDES,
            "color_order": "bgr",
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "score_threshold": 0.1,
            "nms_iou": 0.65,
            "pad_value": 114,
            "letterbox": "center",
        },
    ),
    "cspnext": _Codec(
        ("heatmaps",),
        {
            "task": "pose",
            "codec": "heatmap",
            "color_order": "rgb",
            "mean": RGB_MEAN,
            "std": RGB_STD,
        },
    ),
}

# test_cfg of the published configurations: whose, score, overlap, candidates a level, boxes.
_PERSONS = ("mmpose's for persons and hands", 0.05, 0.6, 1000, 100)
_COCO = ("mmdet's for COCO", 0.001, 0.65, 30000, 300)
_COCO_CLASSES = 80


def spec_of(
    name: str,
    description: Description,
    output_shapes: Sequence[tuple[int, ...]],
    constants: Mapping[str, tuple[int, ...]],
    claims: Claims,
    keypoint_set: str | None,
    say: Say,
) -> ModelSpec:
    """Describe a network whose outputs, at batch 1, have these shapes.

    ``keypoint_set`` is what the caller asks for and wins over what the file says.

    Raises:
        SpecError: what is asked contradicts the weights; the file's configuration asks for a
            decoding that the kit does not have.
    """
    assert description.input_hw is not None
    codec = CODECS[description.architecture]
    fields = dict(codec.fields) | _pixels(claims)
    if description.keypoints is not None:
        chosen, own = _keypoints(name, description.keypoints, keypoint_set, claims, say)
        fields |= {"keypoint_set": chosen, "own_keypoints": own}
    elif keypoint_set is not None:
        raise SpecError(f"{name}: a detector ({description}) has no keypoint set {keypoint_set!r}")
    if description.architecture == "rtmdet":
        fields |= _suppression(description, claims, say)
        if len(claims.classes) == description.classes:
            fields["class_names"] = claims.classes
    if description.architecture == "cspnext":
        fields |= _heatmap(name, claims, say)
    if description.architecture == "rtmo":
        fields |= _rtmo_suppression(description.input_hw, claims)
        fields["constants"] = tuple(TensorSpec(key, shape) for key, shape in constants.items())
    return ModelSpec(
        name=name,
        input=TensorSpec(INPUT_NAME, (None, 3, *description.input_hw)),
        outputs=tuple(
            TensorSpec(key, (None, *shape[1:]))
            for key, shape in zip(codec.output_names, output_shapes, strict=True)
        ),
        **fields,
    )


def _pixels(claims: Claims) -> dict[str, Any]:
    """Channel order, mean and deviation of the file's own preprocessor."""
    where = "model.data_preprocessor"
    mean, std = claims.triple(f"{where}.mean"), claims.triple(f"{where}.std")
    if mean is None or std is None or min(std) <= 0:
        return {}
    order = "rgb" if claims.config.get(f"{where}.bgr_to_rgb") is True else "bgr"
    return {"mean": mean, "std": std, "color_order": order}


# --- keypoints ------------------------------------------------------------------------------------

# Words of file names that mmpose publishes, the number of points, and the set.
_FILE_WORDS = (
    *(("ap10k", 17, "ap10k17"), ("crowdpose", 14, "crowdpose14")),
    *(("hand5", 21, "hand21"), ("wholebody-hand", 21, "hand21")),
)


def _keypoints(
    name: str, count: int, asked: str | None, claims: Claims, say: Say
) -> tuple[str, KeypointSet | None]:
    """The set's name, and the set itself where it is not just the known one."""
    claimed = claims.keypoints
    if claimed is not None and len(claimed.keypoints) != count:
        say(
            f"the file describes {len(claimed.keypoints)} keypoints ({claimed.name}) and its "
            f"weights give {count}: the description is not used"
        )
        claimed = None
    if claimed is not None and asked in (None, claimed.name):
        return claimed.name, None if claimed == KEYPOINT_SETS.get(claimed.name) else claimed
    if asked is not None:
        known = len(find_keypoint_set(asked).keypoints)
        if known != count:
            raise SpecError(
                f"{name}: the checkpoint has {count} keypoints and the keypoint set {asked!r} "
                f"{known}; name a set of {count}, or unnamed-{count}"
            )
        if claimed is not None:
            say(f"the file says {claimed.name}; {asked} is taken, as asked")
        return asked, None
    if claims.data_set:
        other = f"unnamed-{count}"
        say(
            f"the file was trained on {claims.data_set!r}, which names no known set of {count} "
            f"keypoints: they stay without names ({other}); say which with --keypoint-set NAME"
        )
        return other, None
    for word, size, known_set in _FILE_WORDS:
        if size == count and word in name.lower():
            say(f"{known_set} is taken, by the file's name; --keypoint-set NAME says otherwise")
            return known_set, None
    known_set, note = usual_set(count)
    if note:
        say(note)
    return known_set, None


# --- suppression ----------------------------------------------------------------------------------


def _suppression(description: Description, claims: Claims, say: Say) -> dict[str, Any]:
    """Thresholds of a detector: the configuration's ``test_cfg``, else the published ones."""
    published = _COCO if description.classes == _COCO_CLASSES else _PERSONS
    whose, score, iou, candidates, most = published
    where = "model.test_cfg"
    own_score = claims.number(f"{where}.score_thr", low=0, high=1)
    own_iou = claims.number(f"{where}.nms.iou_threshold", low=0, high=1)
    own_candidates = claims.number(f"{where}.nms_pre", low=1, high=1e6)
    own_most = claims.number(f"{where}.max_per_img", low=1, high=1e6)
    if own_score is None or own_iou is None:
        say(
            f"the file holds no test_cfg: the thresholds are {whose} (score {score:g}, overlap "
            f"{iou:g}, at most {most} boxes)"
        )
    return {
        "score_threshold": score if own_score is None else own_score,
        "nms_iou": iou if own_iou is None else own_iou,
        "nms_candidates_per_level": int(own_candidates or candidates),
        "max_boxes": int(own_most or most),
    }


def _rtmo_suppression(input_hw: tuple[int, int], claims: Claims) -> dict[str, Any]:
    # The published configurations keep every person: as many as there are cells.
    height, width = input_hw
    cells = sum((height // stride) * (width // stride) for stride in RTMO_STRIDES)
    found: dict[str, Any] = {"nms_candidates_per_level": cells, "max_boxes": cells}
    for key, place in (("score_threshold", "score_thr"), ("nms_iou", "nms_thr")):
        value = claims.number(f"model.test_cfg.{place}", low=0, high=1)
        if value is not None:
            found[key] = value
    return found


# --- heatmaps -------------------------------------------------------------------------------------


def _heatmap(name: str, claims: Claims, say: Say) -> dict[str, Any]:
    """Crop and refinement by the configuration's codec; UDP where the file has none."""

    def claimed(key: str) -> Any:
        return next(
            (
                claims.config[place]
                for place in (f"model.head.decoder.{key}", f"codec.{key}")
                if place in claims.config
            ),
            None,
        )

    kind = claimed("type")
    if kind is None:
        say(
            "the file does not say how its heatmaps are decoded: UDP is taken, as every published "
            "CSPNeXt is trained; compare the answers on a picture"
        )
        kind = "UDPHeatmap"
    if kind not in ("UDPHeatmap", "MSRAHeatmap") or claimed("heatmap_type") == "combined":
        raise SpecError(
            f"{name}: its heatmaps are decoded by {kind} {claimed('heatmap_type') or ''}".rstrip()
            + "; of heatmaps only UDPHeatmap (gaussian) and MSRAHeatmap are exported"
        )
    refinement: HeatmapRefinement = "dark-udp"
    if kind == "MSRAHeatmap":
        refinement = "dark" if claimed("unbiased") is True else "shift"
    kernel = claimed("blur_kernel_size")
    return {
        "udp": kind == "UDPHeatmap",
        "heatmap_refinement": refinement,
        **({"heatmap_blur_kernel": kernel} if type(kernel) is int else {}),
    }
