"""Named models, and what a MODEL argument means."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from converters import ROOM
from converters.graph.file_kind import Expected, folder_kind, refuse_other_kind
from converters.graph.sized_copy import sized_copy
from converters.source import Source
from converters.zoo.address import file_name
from converters.zoo.entry import NAME, ZooEntry, parse_zoo
from edge import terminal
from edge.errors import EngineMissingError, ModelFileError, SpecError
from edge.files import cache_folder, sha256_of, staged_folder
from edge.spec import ModelSpec
from edge.terminal import CountLine
from edge.texts import nearest, parse_json, parse_toml, read_text

if TYPE_CHECKING:
    from converters.sdk.archive import SdkModel

__all__ = [
    "INSECURE_MIRROR",
    "find_entry",
    "find_source",
    "read_spec_file",
    "zoo_entries",
    "zoo_fetch",
]

INSECURE_MIRROR = "EDGEPOSE_INSECURE_MIRROR"
_SHA256_DIGITS = 64

Say = Callable[[str], None]
Entries = Mapping[str, ZooEntry]

_CHECKPOINTS = (".pth", ".pt", ".ckpt")
_FOLDER = ROOM / "zoo"
_SUFFIXES = (".onnx", ".zip", *_CHECKPOINTS)
_EXPECTED: dict[str, Expected] = {**dict.fromkeys(_CHECKPOINTS, "checkpoint"), ".zip": "zip"}


def zoo_entries(path: Path | None = None) -> Entries:
    """The entries of a zoo file (default: the kit's), name -> entry; SpecError for a bad one."""
    return _read_zoo(path or _FOLDER / "zoo.toml")


@cache
def _read_zoo(path: Path) -> Entries:
    return parse_zoo(path.read_text(encoding="utf-8"), path.name)


def find_source(
    text: str,
    *,
    name: str | None = None,
    spec_file: Path | None = None,
    input_hw: tuple[int, int] | None = None,
    keypoint_set: str | None = None,
    entries: Entries | None = None,
    say: Say = terminal.say,
) -> Source:
    """What a MODEL argument means.

    The name of a zoo model, which is fetched into the cache if need be; or the path of an ONNX
    file, of an mmdeploy SDK model (folder or .zip), or of a checkpoint (.pth), which is exported
    to ONNX in the cache. A file is named after itself, ``end2end.onnx`` (what mmdeploy calls every
    model) after its folder; ``name`` overrides both, and ``keypoint_set`` what its points are.

    Raises SpecError, ModelFileError, DownloadError, or EngineMissingError where a checkpoint is to
    be exported without PyTorch.
    """
    entries = zoo_entries() if entries is None else entries
    spec = read_spec_file(spec_file) if spec_file else None
    path = Path(text)
    if text in entries:
        entry = entries[text]
        chosen = _checked_name(name or text)
        if entry.task == "backbone":
            raise SpecError(
                f"{text} is a backbone: a training starts with it, but it has no answers to "
                f"convert; `edge zoo fetch {text}` downloads it"
            )
        if entry.file is None and entry.archive is None:
            _need_torch(text)
        path = zoo_fetch(text, what=_better_file(entry), entries=entries, say=say)
    else:
        entry = None
        if not path.exists() and path.suffix not in _SUFFIXES and len(path.parts) == 1:
            raise _unknown(text, entries)
        stem = path.resolve().parent.name if path.stem == "end2end" else path.stem
        chosen = _checked_name(name or (path.resolve().name if path.is_dir() else stem))
        if path.is_file():
            refuse_other_kind(path, _EXPECTED.get(path.suffix, "onnx"))
    classes = entry.num_classes if entry else None
    if path.suffix in _CHECKPOINTS and not path.is_dir():
        path, found = _export(path, chosen, entry, input_hw, say)
        # The size that was asked for is the exported file's own now.
        return Source(chosen, path, spec or found, keypoint_set=keypoint_set, class_count=classes)
    if path.suffix == ".zip" or path.is_dir():
        sdk = _read_sdk(path, chosen)
        found, notes = sdk.spec, sdk.notes
        if entry and entry.keypoint_set:
            found, notes = replace(found, keypoint_set=entry.keypoint_set), ()
        if spec or keypoint_set:
            notes = ()
        found = spec or found
        return Source(chosen, sdk.onnx_path, found, input_hw, keypoint_set, notes, classes)
    if input_hw is not None and spec is None:
        path = sized_copy(path, input_hw)
    keypoint_set = keypoint_set or (entry.keypoint_set if entry and not spec else None)
    assured = entry is not None and spec is None
    return Source(chosen, path, spec, input_hw, keypoint_set, (), classes, assured)


def _better_file(entry: ZooEntry) -> Literal["checkpoint"] | None:
    """RTMO's checkpoint before its archive, where PyTorch can export it.

    The archive keeps the suppression and the classifier in the file, which ncnn does not run.
    """
    if entry.architecture == "rtmo" and entry.checkpoint and _has_torch():
        return "checkpoint"
    return None


def find_entry(name: str, entries: Entries | None = None) -> ZooEntry:
    """The zoo's entry of a name; SpecError that offers similar names."""
    entries = zoo_entries() if entries is None else entries
    if name not in entries:
        raise _unknown(name, entries)
    return entries[name]


def zoo_fetch(
    name: str,
    *,
    what: Literal["archive", "checkpoint"] | None = None,
    entries: Entries | None = None,
    say: Say = terminal.say,
) -> Path:
    """A zoo model's file: the one in the kit, else its archive, else its checkpoint.

    ``what`` asks for one of the latter. Downloads go to the cache folder (EDGEPOSE_CACHE) and come
    from EDGEPOSE_MIRROR where that is set. Raises SpecError, ModelFileError or DownloadError.
    """
    entry = find_entry(name, entries)
    if entry.file and what is None:
        path = _FOLDER / entry.file
        if not path.is_file() or sha256_of(path) != entry.sha256:
            raise ModelFileError(
                f"{path}: missing or changed since its release; restore it with git checkout"
            )
        return path
    what = what or ("archive" if entry.archive else "checkpoint")
    url, hashes = (
        (entry.archive, entry.archive_sha256)
        if what == "archive"
        else (entry.checkpoint, entry.checkpoint_sha256)
    )
    if url is None:
        others = [key for key in ("file", "archive", "checkpoint") if getattr(entry, key)]
        raise SpecError(f"{name} has no {what}, only a {' and a '.join(others)}")
    return _fetch(name, url, hashes, say)


def _fetch(name: str, url: str, hashes: tuple[str, ...], say: Say) -> Path:
    from converters.zoo.download import fetch

    folder = cache_folder()
    mirror = os.environ.get("EDGEPOSE_MIRROR")
    line = CountLine(name, "MB", scale=1e6, log_s=10.0)

    def interrupt_line(text: str) -> None:
        line.close()
        say(text)

    if not (folder / file_name(url)).exists():
        _refuse_insecure(mirror)
        origin = f"EDGEPOSE_MIRROR={mirror}, not from " if mirror else ""
        say(f"fetching {name} into {folder} from {origin}{url}")
    doubt = _doubt(hashes)
    if doubt:
        say(f"{file_name(url)}: {doubt}")
    try:
        return fetch(url, folder, sha256=hashes, mirror=mirror, progress=line, say=interrupt_line)
    finally:
        line.close()


def _refuse_insecure(mirror: str | None) -> None:
    """DownloadError for a mirror that anybody on the way can answer for, unless that is allowed."""
    from converters.zoo.download import DownloadError

    allowed = os.environ.get(INSECURE_MIRROR, "") not in ("", "0")
    if mirror and urlsplit(mirror).scheme == "http" and not allowed:
        raise DownloadError(
            f"EDGEPOSE_MIRROR={mirror}: over http anybody on the way can change what comes; name "
            "an https address or a folder, or allow it with --insecure-mirror or "
            f"{INSECURE_MIRROR}=1"
        )


def _doubt(hashes: tuple[str, ...]) -> str:
    """What a download cannot be told by; empty where whole SHA-256 are known."""
    shortest = min(map(len, hashes), default=0)
    if shortest == 0:
        return (
            "its SHA-256 is not known: the checksums inside it find damage, but not a file that "
            "somebody made to look like it"
        )
    if shortest < _SHA256_DIGITS:
        return (
            f"it is told by the first {shortest} of the {_SHA256_DIGITS} digits of its SHA-256, "
            "all that is published: they find damage, but not a file that somebody made to "
            "match them"
        )
    return ""


def _read_sdk(path: Path, name: str) -> SdkModel:
    from converters.sdk.archive import read_sdk

    if path.is_dir() and not (path / "deploy.json").is_file():
        raise ModelFileError(
            f"{path}: a folder without deploy.json, so no SDK model; {folder_kind(path)}"
        )
    return read_sdk(path, name, cache_folder() / "sdk")


def _export(
    checkpoint: Path, name: str, entry: ZooEntry | None, input_hw: tuple[int, int] | None, say: Say
) -> tuple[Path, ModelSpec]:
    """The checkpoint as ONNX in the cache, exported unless it lies there, and its spec."""
    _need_torch(str(checkpoint))
    if not checkpoint.is_file():
        raise ModelFileError(f"{checkpoint}: no such file")
    known: dict[str, Any] = {"input_hw": input_hw or (entry.input_hw if entry else None)}
    if entry:
        known["size"] = entry.size
        known["num_classes"] = entry.num_classes
        known["keypoint_set"] = entry.keypoint_set
    key = json.dumps([sha256_of(checkpoint), name, known, _exporter_sha256()])
    folder = cache_folder() / "exported" / hashlib.sha256(key.encode()).hexdigest()[:16]
    onnx_path, spec_path = folder / f"{name}.onnx", folder / "spec.json"
    if not spec_path.is_file():
        from converters.architectures.official import export_checkpoint

        say(f"exporting {checkpoint} to {onnx_path}")
        with staged_folder(folder) as private:
            spec = export_checkpoint(checkpoint, private / onnx_path.name, name, say=say, **known)
            (private / spec_path.name).write_text(json.dumps(spec.to_json()), encoding="utf-8")
    return onnx_path, read_spec_file(spec_path)


def _exporter_sha256() -> str:
    """Hash of the code that exports: another exporter exports again."""
    digest = hashlib.sha256()
    for path in sorted((ROOM / "architectures").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _need_torch(what: str) -> None:
    if not _has_torch():
        raise EngineMissingError(
            f"{what} is a PyTorch checkpoint, and PyTorch is not installed: run `make setup-torch`"
        )


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} cannot name a model (letters, digits, '.', '_' and '-'); "
            "choose one with --name"
        )
    return name


def _unknown(text: str, entries: Entries) -> SpecError:
    return SpecError(
        f"{text!r} is neither a zoo model nor a file; {nearest(text, entries, 3)}`edge zoo` lists "
        "the models"
    )


def read_spec_file(path: Path) -> ModelSpec:
    """A ModelSpec from a TOML or JSON file; the keys are those of ``spec`` in artifact.json."""
    text = read_text(path)
    read = parse_toml if path.suffix.lower() == ".toml" else parse_json
    data = read(text, str(path))
    if not isinstance(data, dict):
        raise SpecError(f"{path}: a spec is a table of keys")
    return ModelSpec.from_json(data, where=str(path))
