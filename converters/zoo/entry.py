"""What ``zoo.toml`` says of a model, checked: an entry with a slip in it is refused by name."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from edge.errors import SpecError

__all__ = ["LATENCIES", "NAME", "ZooEntry", "parse_zoo"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LATENCIES = {
    "ort_i7_11700_ms": "ONNX Runtime, Core i7-11700",
    "ort_v100_ms": "ONNX Runtime, V100",
    "ncnn_fp16_sd865_ms": "ncnn FP16, Snapdragon 865",
    "trt_fp16_gtx1660ti_ms": "TensorRT FP16, GTX 1660 Ti",
    "trt_fp16_rtx3090_ms": "TensorRT FP16, RTX 3090",
    "trt_fp16_orin_agx_ms": "TensorRT FP16, Jetson AGX Orin",
    "trt_fp16_orin_nx_ms": "TensorRT FP16, Jetson Orin NX",
}

ZooTask = Literal["pose", "one-stage", "detection", "backbone"]
Architecture = Literal["rtmpose", "rtmdet", "rtmo", "cspnext"]
Size = Literal["nano", "t", "s", "m", "l", "x"]

# A published checkpoint carries the start of its hash: NAME-cfc8f33d_20230126.pth.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{7,8})(?:_[0-9]{8})?\.pth$")


@dataclass(frozen=True)
class ZooEntry:
    """A named model: where it comes from, what it is, and what its publisher says of it.

    ``input_hw`` is in pixels, ``ap`` and ``top1`` in percent, ``params_m`` in millions, ``flops_g``
    in billions of multiply-accumulates, latencies in milliseconds. ``checkpoint_sha256`` and
    ``archive_sha256`` hold what a download's hash may start with, in hex.
    """

    name: str
    description: str
    task: ZooTask
    input_hw: tuple[int, int]
    architecture: Architecture | None = None
    size: Size | None = None
    keypoint_set: str | None = None
    num_classes: int | None = None
    file: str | None = None
    sha256: str | None = None
    checkpoint: str | None = None
    checkpoint_sha256: tuple[str, ...] = ()
    archive: str | None = None
    archive_sha256: tuple[str, ...] = ()
    ap: float | None = None
    ap_dataset: str | None = None
    ap_no_flip: float | None = None
    top1: float | None = None
    params_m: float | None = None
    flops_g: float | None = None
    ort_i7_11700_ms: float | None = None
    ort_v100_ms: float | None = None
    ncnn_fp16_sd865_ms: float | None = None
    trt_fp16_gtx1660ti_ms: float | None = None
    trt_fp16_rtx3090_ms: float | None = None
    trt_fp16_orin_agx_ms: float | None = None
    trt_fp16_orin_nx_ms: float | None = None
    source: str | None = None
    note: str | None = None

    @property
    def latencies_ms(self) -> dict[str, float]:
        """The published latencies: key of LATENCIES -> milliseconds."""
        known = {key: getattr(self, key) for key in LATENCIES}
        return {key: value for key, value in known.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON values, without what is unknown."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in pairs
            if value not in (None, ())
        }


def parse_zoo(text: str, where: str = "zoo.toml") -> dict[str, ZooEntry]:
    """The entries of a zoo file, in its order.

    Raises SpecError for TOML that cannot be read, and with the entry's name for a key that is
    unknown, missing, of the wrong type or at odds with another.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{where}: not valid TOML ({error})") from None
    return {name: _entry(name, table, f"{where}: {name}") for name, table in tables.items()}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e6


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _is_prefixes(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_prefix, value))


def _is_prefix(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{7,64}", value) is not None


def _is_sha256(value: Any) -> bool:
    return _is_prefix(value) and len(value) == 64


def _is_link(ending: str) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if not isinstance(value, str) or not value.endswith(ending):
            return False
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.netloc) and not parts.query

    return check


def _one_of(words: Any) -> tuple[Callable[[Any], bool], str]:
    allowed = get_args(words)
    return (lambda value: value in allowed), f"one of {', '.join(allowed)}"


_FIGURES = ("ap", "ap_no_flip", "top1", "params_m", "flops_g", *LATENCIES)
_TEXT = (_is_text, "a text")
_NUMBER = (_is_number, "a positive number")
_PREFIXES = (_is_prefixes, "a list of hashes in hex, 7 to 64 digits each")
_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "task": _one_of(ZooTask),
    "architecture": _one_of(Architecture),
    "size": _one_of(Size),
    "input_hw": (_is_size, "[height, width]"),
    "num_classes": (_is_count, "a whole number above 0"),
    "sha256": (_is_sha256, "64 hex digits"),
    "checkpoint": (_is_link(".pth"), "the URL of a .pth file"),
    "archive": (_is_link(".zip"), "the URL of a .zip file"),
    "checkpoint_sha256": _PREFIXES,
    "archive_sha256": _PREFIXES,
    **dict.fromkeys(("description", "keypoint_set", "file", "ap_dataset", "source", "note"), _TEXT),
    **dict.fromkeys(_FIGURES, _NUMBER),
}


def _entry(name: str, table: Any, where: str) -> ZooEntry:
    if not NAME.fullmatch(name):
        raise SpecError(f"{where}: a name consists of letters, digits, '.', '_' and '-'")
    if not isinstance(table, Mapping):
        raise SpecError(f"{where}: an entry is a table")
    for key, value in table.items():
        if key not in _KEYS:
            raise SpecError(f"{where}: unknown key {key!r}; known: {', '.join(_KEYS)}")
        fits, what = _KEYS[key]
        if not fits(value):
            raise SpecError(f"{where}: {key} is {what}, not {value!r}")
    _check(table, where)
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    if "checkpoint" in values and "checkpoint_sha256" not in values:
        found = _HASH_IN_NAME.search(values["checkpoint"])
        if not found:
            raise SpecError(f"{where}: no hash in the checkpoint's name; add checkpoint_sha256")
        values["checkpoint_sha256"] = (found[1],)
    return ZooEntry(name=name, **values)


def _check(table: Mapping[str, Any], where: str) -> None:
    task = table.get("task")
    needs = {
        "description": True,
        "task": True,
        "input_hw": True,
        "keypoint_set": task in ("pose", "one-stage"),
        "num_classes": task == "detection",
        "architecture": "checkpoint" in table or "size" in table,
        "size": "architecture" in table,
        "sha256": "file" in table,
        "file": "sha256" in table,
        "checkpoint": "checkpoint_sha256" in table,
        "archive": "archive_sha256" in table,
        "ap_dataset": "ap" in table or "ap_no_flip" in table,
        "source": any(key in table for key in _FIGURES),
    }
    missing = [key for key, needed in needs.items() if needed and key not in table]
    if missing:
        raise SpecError(f"{where}: {', '.join(missing)} missing")
    if not any(key in table for key in ("file", "checkpoint", "archive")):
        raise SpecError(f"{where}: no file, no checkpoint and no archive to take the model from")
