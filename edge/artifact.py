"""An artifact: one folder with a variant's files and ``artifact.json`` that vouches for them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import ArtifactError, SpecError
from edge.files import sha256_of, write_bytes
from edge.spec import ModelSpec, Variant

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
        text = json.dumps(self.to_json(), indent=2) + "\n"
        write_bytes(self.folder / MANIFEST, text.encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """``artifact.json`` of a folder as plain values, its schema checked."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such artifact folder")
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: no {MANIFEST} here; an artifact is what `edge convert` left"
        )
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: not readable as JSON ({error}); convert it again") from None
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
    try:
        files = {role: str(entry["name"]) for role, entry in data["files"].items()}
        sha256 = {str(entry["name"]): str(entry["sha256"]) for entry in data["files"].values()}
        artifact = Artifact(
            folder=folder,
            variant=Variant.parse(data["variant"]),
            spec=ModelSpec.from_json(data["spec"], where=str(folder / MANIFEST)),
            files=files,
            sha256=sha256,
            key=str(data["key"]),
            source=dict(data["source"]),
            tools=dict(data["tools"]),
            parity=dict(data["parity"]),
            quantisation=dict(data.get("quantisation", {})),
            accuracy=dict(data.get("accuracy", {})),
            arm=dict(data.get("arm", {})),
            failed=bool(data["failed"]),
        )
    except SpecError as error:
        raise ArtifactError(str(error)) from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / MANIFEST}: incomplete manifest ({error!r}); convert it again"
        ) from None
    if artifact.failed and not allow_failed:
        raise ArtifactError(
            f"{folder}: this artifact failed its checks and was kept for study only; "
            "say --allow-failed to use it all the same"
        )
    for name, want in sha256.items():
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
