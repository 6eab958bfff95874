"""The zoo for reading: a table of all models, and everything of one."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from converters.zoo.address import file_name
from converters.zoo.entry import LATENCIES, ZooEntry
from edge.files import cache_folder
from edge.terminal import columns

__all__ = ["zoo_details", "zoo_json", "zoo_table"]

_TASKS = {
    "pose": "pose, one person a crop",
    "one-stage": "pose, everyone in the picture",
    "detection": "detection",
    "backbone": "backbones, to start a training with",
}
_FILES = (("file", "kit"), ("archive", "zip"), ("checkpoint", "pth"))


def zoo_table(entries: Iterable[ZooEntry], cache: Path | None = None) -> str:
    """One line a model, grouped by task, at most 100 columns wide.

    ``files`` says what there is: ``kit`` a file in the checkout, ``zip`` an SDK archive with an
    ONNX file, ``pth`` a checkpoint; those that the cache folder holds are starred.
    """
    cache = cache_folder() if cache is None else cache
    head = ("name", "input", "finds", "params", "FLOPs", "AP", "files")
    groups = [
        (_TASKS[task], [_row(entry, cache) for entry in group])
        for task, group in groupby(sorted(entries, key=_task_order), key=lambda e: e.task)
    ]
    table = iter(columns([head, *(row for _, rows in groups for row in rows)], right=(3, 4, 5)))
    lines = [next(table)]
    for title, rows in groups:
        lines += ["", title, *(next(table) for _ in rows)]
    lines += [
        "",
        "params in millions, FLOPs in billions of multiply-adds, AP in percent as published on the",
        "data set that `edge zoo show NAME` names. files: kit in the checkout, * in the cache",
    ]
    return "\n".join(lines)


def _task_order(entry: ZooEntry) -> int:
    return list(_TASKS).index(entry.task)


def _row(entry: ZooEntry, cache: Path) -> tuple[str, ...]:
    classes = f"{entry.num_classes} class{'es' if entry.num_classes != 1 else ''}"
    finds = entry.keypoint_set or (classes if entry.num_classes else "-")
    cached = _cached(entry, cache)
    files = [
        short + ("*" if cached.get(key) else "") for key, short in _FILES if getattr(entry, key)
    ]
    return (
        entry.name,
        f"{entry.input_hw[0]}x{entry.input_hw[1]}",
        finds,
        _number(entry.params_m),
        _number(entry.flops_g),
        _number(entry.ap, 1),
        " ".join(files),
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _cached(entry: ZooEntry, cache: Path) -> dict[str, Path]:
    """What the cache folder holds of a model: key of its URL -> file."""
    urls = (("archive", entry.archive), ("checkpoint", entry.checkpoint))
    paths = {key: cache / file_name(url) for key, url in urls if url}
    return {key: path for key, path in paths.items() if path.is_file()}


def zoo_details(entry: ZooEntry, cache: Path | None = None) -> str:
    """All that is known of a model, a line each: figures with their source, URLs, cache state."""
    cache = cache_folder() if cache is None else cache
    cached = _cached(entry, cache)
    height, width = entry.input_hw
    pairs: list[tuple[str, Any]] = [
        ("task", entry.task),
        ("architecture", " ".join(filter(None, (entry.architecture, entry.size))) or None),
        ("input", f"{height}x{width} (height x width)"),
        ("keypoints", entry.keypoint_set),
        ("classes", entry.num_classes),
        ("params", entry.params_m and f"{entry.params_m:g} M"),
        ("FLOPs", entry.flops_g and f"{entry.flops_g:g} G multiply-adds"),
        ("AP", entry.ap and f"{entry.ap:.1f} on {entry.ap_dataset}"),
        ("AP, no flip", entry.ap_no_flip and f"{entry.ap_no_flip:.1f}"),
        ("top-1", entry.top1 and f"{entry.top1:.2f} on ImageNet"),
    ]
    pairs += [
        ("latency", f"{value:g} ms, {LATENCIES[key]}") for key, value in entry.latencies_ms.items()
    ]
    pairs += [("source", entry.source), ("note", entry.note), ("file", entry.file)]
    for key, url, hashes in (
        ("archive", entry.archive, entry.archive_sha256),
        ("checkpoint", entry.checkpoint, entry.checkpoint_sha256),
    ):
        if url:
            pairs.append((key, url))
            pairs.append(("  sha256", " or ".join(f"{h[:8]}..." for h in hashes) or "not known"))
            where = cached.get(key) or f"not there; goes to {cache}"
            pairs.append(("  cached", where))
    lines = [f"{key:<13} {value}" for key, value in pairs if value is not None]
    return "\n".join([entry.name, entry.description, "", *lines])


def zoo_json(entries: Iterable[ZooEntry], cache: Path | None = None) -> dict[str, dict[str, Any]]:
    """The entries as plain JSON values, name -> entry, ``cached`` naming the files in the cache."""
    cache = cache_folder() if cache is None else cache
    return {
        entry.name: {
            **entry.to_json(),
            "cached": {key: str(path) for key, path in _cached(entry, cache).items()},
        }
        for entry in entries
    }
