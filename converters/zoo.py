"""Named models, and what a MODEL argument means."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from converters.convert import Source
from edge.artifact import sha256_of
from edge.errors import ModelFileError, SpecError
from edge.spec import ModelSpec

__all__ = ["find_source", "read_spec_file", "zoo_entries"]

_ROOM = Path(__file__).resolve().parent
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def zoo_entries() -> dict[str, dict[str, Any]]:
    """The zoo: name -> entry of ``zoo.toml``."""
    entries: dict[str, dict[str, Any]] = tomllib.loads(
        (_ROOM / "zoo.toml").read_text(encoding="utf-8")
    )
    return entries


def find_source(
    text: str,
    *,
    name: str | None = None,
    spec_file: Path | None = None,
    input_hw: tuple[int, int] | None = None,
) -> Source:
    """What a MODEL argument means: the name of a zoo model, or the path of an ONNX file.

    A file is named after itself, ``end2end.onnx`` (what mmdeploy calls every model) after its
    folder; ``name`` overrides both. Raises SpecError or ModelFileError.
    """
    entries = zoo_entries()
    if text in entries:
        entry = entries[text]
        path = _ROOM / entry["file"]
        if not path.is_file() or sha256_of(path) != entry["sha256"]:
            raise ModelFileError(
                f"{path}: missing or changed since its release; restore it with git checkout"
            )
        spec = read_spec_file(spec_file) if spec_file else None
        return Source(name or text, path, spec, input_hw)
    path = Path(text)
    if not path.exists() and path.suffix != ".onnx" and len(path.parts) == 1:
        raise SpecError(
            f"{text!r} is neither a zoo model ({', '.join(entries)}) nor a file; "
            "`edge zoo` lists the models"
        )
    if path.is_dir():
        raise ModelFileError(f"{path}: a folder, not an ONNX file")
    stem = path.resolve().parent.name if path.stem == "end2end" else path.stem
    chosen = name or stem
    if not _NAME.fullmatch(chosen):
        raise SpecError(
            f"{chosen!r} cannot name a model (letters, digits, '.', '_' and '-'); "
            "choose one with --name"
        )
    return Source(chosen, path, read_spec_file(spec_file) if spec_file else None, input_hw)


def read_spec_file(path: Path) -> ModelSpec:
    """A ModelSpec from a TOML or JSON file; the keys are those of ``spec`` in artifact.json."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({error})") from None
    try:
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise SpecError(f"{path}: neither valid TOML nor JSON ({error})") from None
    if not isinstance(data, dict):
        raise SpecError(f"{path}: a spec is a table of keys")
    return ModelSpec.from_json(data, where=str(path))
