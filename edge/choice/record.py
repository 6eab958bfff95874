"""What was chosen, kept as JSON in the cache; and what a choice depends on besides its artifacts.

Nothing is imported to find out which engines are installed: a remembered choice costs no loading.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.files import cache_folder, write_bytes
from edge.spec import Format
from edge.texts import read_json

__all__ = ["installed", "machine", "read_record", "record_path", "write_record"]

# The packages that a format's engine may come in, the first that is there.
_PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnxruntime",),
    "ncnn": ("ncnn",),
    "openvino": ("openvino",),
    "tflite": ("ai_edge_litert", "tflite_runtime", "tensorflow"),
    "tensorrt": ("tensorrt",),
}


def machine() -> dict[str, Any]:
    """What latencies depend on of this machine: architecture, CPU, and how many of them."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cpus = os.cpu_count() or 1
    return {"arch": platform.machine(), "cpu": _cpu(), "cpus": cpus}


def _cpu() -> str:
    """What the CPU calls itself; on ARM its cores' numbers, where it has no name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    lines = re.findall(r"^(?:model name|CPU implementer|CPU part)\s*:\s*(.+)$", text, re.MULTILINE)
    return ", ".join(dict.fromkeys(line.strip() for line in lines)) or platform.machine()


def installed(formats: Iterable[Format]) -> dict[str, str]:
    """What is installed of the formats' engines, with versions; "" where nothing is.

    Told by the names of the records that installers leave beside a package, so that every flavour
    of it (``onnxruntime-gpu``) is found.
    """
    return {name: _installed(name) for name in sorted(set(formats))}


def _installed(name: Format) -> str:
    for package in _PACKAGES[name]:
        spec = find_spec(package)
        places = list(spec.submodule_search_locations or ()) if spec else []
        if spec and spec.origin:
            places.append(str(Path(spec.origin).parent))
        if spec:
            found = {
                path.name.rpartition(".")[0]
                for place in places
                for path in Path(place).parent.glob(f"{package}*-info")
            }
            return ", ".join(sorted(found)) or package
    return ""


def record_path(folder: Path | None, model: str, identity: Mapping[str, Any]) -> Path:
    """The file of a choice: named after the model and a hash of all that it depends on."""
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^\w.-]", "_", model)
    return (folder or cache_folder() / "choices") / f"{name}-{key[:16]}.json"


def read_record(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """A record's content, None where there is none; ValueError where it is damaged."""
    if not path.is_file():
        return None
    try:
        data = read_json(path)
    except EdgeError as error:
        raise ValueError(str(error)) from None
    if not isinstance(data, dict) or data.get("depends_on") != identity:
        raise ValueError("it is of something else than its name says")
    return data


def write_record(path: Path, data: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all; OSError where that cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(data, indent=2) + "\n").encode())
