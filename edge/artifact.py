"""An artifact: one folder with a variant's files and ``artifact.json`` that vouches for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import ArtifactError, SpecError
from edge.files import sha256_of, write_bytes
from edge.records import Rule, check, flag, list_of, mapping_of, number, one_of, record, text, whole
from edge.spec import ModelSpec, Variant
from edge.texts import json_text, read_json

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "Artifact",
    "load_artifact",
    "load_constants",
    "read_manifest",
    "sha256_of",
]

MANIFEST = "artifact.json"
SCHEMA = 1
_AGAIN = "; convert it again"

_NULL = Rule("null", lambda value: value is None)
_ANY = Rule("any value", lambda _: True)
_TABLE = mapping_of(_ANY, "a table")
_SOME = one_of(number(), _NULL)
# Of any signs: paths of files are among them.
_TEXT = Rule("a text", lambda value: isinstance(value, str))
_TEXTS = list_of(_TEXT, "a list of texts")
_PARITY = {
    "passed": flag(),
    "summary": _TEXT,
    "reference": _TEXT,
    "engine": _TEXT,
    "inference_precision": _TEXT,
    "machine": _TEXT,
    "images": _TEXT,
    "image_count": whole(),
    "limits": mapping_of(number(), "a table of numbers"),
    "tensors": list_of(
        record(
            {"name": _TEXT, "max_abs": _SOME, "mean_abs": _SOME, "cosine_min": _SOME},
            ("name", "max_abs", "mean_abs", "cosine_min"),
        ),
        "a list of tables",
    ),
    "decoded": mapping_of(_SOME, "a table of numbers"),
    "fp16_peak": one_of(
        record(
            {"tensor": _TEXT, "max_abs": _SOME, "limit": number()}, ("tensor", "max_abs", "limit")
        ),
        _NULL,
    ),
    "failures": _TEXTS,
}
_ARM = {
    "text": _TEXT,
    "checked": flag(),
    "safe": one_of(_TEXT, _NULL),
    "cpu": _TEXT,
    "runner": _TEXT,
    "tried": mapping_of(
        record(
            {"images": whole(), "summary": _TEXT, "failures": _TEXTS},
            ("images", "summary", "failures"),
            other=True,
        ),
        "a table of tries",
    ),
}
_FILE = record({"name": text(most=255), "sha256": text(least=64, most=64)}, ("name", "sha256"))
MANIFEST_KEYS: dict[str, Rule] = {
    "schema": whole(1),
    "model": _TEXT,
    "variant": _TEXT,
    "failed": flag(),
    "key": _TEXT,
    "files": mapping_of(_FILE, "a table of files"),
    "spec": _TABLE,
    "source": record(
        {
            **dict.fromkeys(("file", "path", "sha256", "images"), _TEXT),
            "spec": _TABLE,
            "notes": _TEXTS,
        },
        other=True,
    ),
    "tools": mapping_of(_TEXT, "a table of texts"),
    "parity": record(_PARITY, other=True),
    "quantisation": record(
        {
            "calibration": record({"text": _TEXT, "sha256": _TEXT}, other=True),
            "float_parts": _TEXTS,
            "parts": whole(),
        },
        other=True,
    ),
    "accuracy": record({"passed": flag(), "summary": _TEXT, "data": _TEXT}, other=True),
    "arm": record(_ARM, other=True),
}
"""What each key of ``artifact.json`` may be; those of the spec are in `edge.spec_keys`."""

_REQUIRED = ("variant", "failed", "key", "files", "spec", "source", "tools", "parity")


@dataclass(frozen=True)
class Artifact:
    """A variant of a model in a folder.

    ``files`` maps a role (``model``, ``weights``, ``constants``) to a file name inside
    ``folder``; ``source`` says what it was made of, ``tools`` with which versions, ``parity`` how
    it compared with the ONNX reference, ``key`` is the content address of all that went in.
    Quantised ones also have ``quantisation`` (calibration data, float parts) and ``accuracy``
    (what was lost against FP32). ``arm`` says of an ncnn-fp16 one for ARM which arithmetic keeps
    its answers there (``checked``, ``safe``, ``text``, the tries); empty where that does not apply.
    """

    folder: Path
    variant: Variant
    spec: ModelSpec
    files: dict[str, str]
    sha256: dict[str, str]
    key: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    quantisation: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    arm: dict[str, Any] = field(default_factory=dict)
    failed: bool = False

    def path(self, role: str) -> Path:
        """The file that plays a role; ArtifactError if there is none."""
        if role not in self.files:
            raise ArtifactError(f"{self.folder}: a {self.variant} artifact has no {role!r} file")
        return self.folder / self.files[role]

    @property
    def size_bytes(self) -> int:
        """Total size of the files in bytes, without the manifest."""
        return sum((self.folder / name).stat().st_size for name in self.files.values())

    def to_json(self) -> dict[str, Any]:
        """The content of ``artifact.json``."""
        return {
            "schema": SCHEMA,
            "model": self.spec.name,
            "variant": str(self.variant),
            "failed": self.failed,
            "key": self.key,
            "files": {
                role: {"name": name, "sha256": self.sha256[name]}
                for role, name in self.files.items()
            },
            "spec": self.spec.to_json(),
            "source": self.source,
            "tools": self.tools,
            "parity": self.parity,
            "quantisation": self.quantisation,
            "accuracy": self.accuracy,
            "arm": self.arm,
        }

    def write_manifest(self) -> None:
        """Write ``artifact.json``, or put it in the place of the one that is there."""
        write_bytes(self.folder / MANIFEST, (json_text(self.to_json(), 2) + "\n").encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """``artifact.json`` of a folder as plain values, its schema checked."""
    path = folder / MANIFEST
    if folder.is_file():
        inside = (folder.parent / MANIFEST).is_file()
        fix = f"name its folder, {folder.parent}" if inside else "`edge convert --model` makes one"
        raise ArtifactError(f"{folder}: a file, and an artifact is a folder; {fix}")
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such artifact folder")
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: no {MANIFEST} here; an artifact is what `edge convert` left"
        )
    data: dict[str, Any] = read_json(path, ArtifactError, _AGAIN)
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise ArtifactError(f"{path}: no artifact manifest (its key 'schema' is missing)")
    if schema > SCHEMA:
        raise ArtifactError(
            f"{path}: written by a newer edgepose (schema {schema}, this one reads up to "
            f"{SCHEMA}); upgrade edgepose"
        )
    return data


def load_artifact(folder: str | Path, *, allow_failed: bool = False) -> Artifact:
    """Load an artifact and check the SHA-256 of each of its files.

    Raises ArtifactError when the folder is no artifact, a file is missing or changed, the schema
    is newer, or parity failed and ``allow_failed`` is not set.
    """
    folder = Path(folder)
    data = read_manifest(folder)
    where = str(folder / MANIFEST)
    check(record(MANIFEST_KEYS, _REQUIRED, other=True), data, where=where, error=ArtifactError)
    try:
        artifact = Artifact(
            folder=folder,
            variant=Variant.parse(data["variant"]),
            spec=ModelSpec.from_json(data["spec"], where=where),
            files={role: entry["name"] for role, entry in data["files"].items()},
            sha256={entry["name"]: entry["sha256"] for entry in data["files"].values()},
            key=data["key"],
            source=data["source"],
            tools=data["tools"],
            parity=data["parity"],
            quantisation=data.get("quantisation", {}),
            accuracy=data.get("accuracy", {}),
            arm=data.get("arm", {}),
            failed=data["failed"],
        )
    except SpecError as error:
        raise ArtifactError(str(error)) from None
    if artifact.failed and not allow_failed:
        raise ArtifactError(
            f"{folder}: this artifact failed its checks and was kept for study only; "
            "say --allow-failed to use it all the same"
        )
    for name, want in artifact.sha256.items():
        if Path(name).name != name:
            raise ArtifactError(f"{folder}: file name {name!r} points out of the folder")
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{folder}: {name} is missing; convert it again")
        got = sha256_of(path)
        if got != want:
            raise ArtifactError(
                f"{folder}: {name} was changed since its conversion (sha256 {got[:12]}..., "
                f"expected {want[:12]}...); convert it again"
            )
    return artifact


def load_constants(artifact: Artifact) -> dict[str, npt.NDArray[np.float32]]:
    """The arrays of ``spec.constants`` by name, of the ``.npz`` file with the role ``constants``.

    Empty where the spec names none. Raises ArtifactError unless the file holds exactly these
    arrays, float32 and of these shapes.
    """
    if not artifact.spec.constants:
        return {}
    path = artifact.path("constants")
    try:
        with path.open("rb") as stream:
            arrays = dict(np.load(stream, allow_pickle=False))
    except Exception as error:  # zipfile, zlib and numpy share no base class but Exception
        raise ArtifactError(
            f"{path}: not readable as an archive of arrays ({error}); convert it again"
        ) from None
    want = {tensor.name: (tensor.shape, "float32") for tensor in artifact.spec.constants}
    got = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    wrong = sorted(name for name in {*want, *got} if want.get(name) != got.get(name))
    if wrong:
        raise ArtifactError(
            f"{path}: constant {wrong[0]!r} is {got.get(wrong[0], 'missing')}, the spec says "
            f"{want.get(wrong[0], 'nothing of it')}; convert it again"
        )
    return {name: arrays[name] for name in want}
