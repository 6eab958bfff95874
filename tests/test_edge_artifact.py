from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.artifact import MANIFEST, SCHEMA, Artifact, load_artifact, sha256_of
from edge.errors import ArtifactError
from edge.spec import Variant
from tests.test_edge_spec import pose_spec


def make_artifact(folder: Path, **changes: Any) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pose.param").write_bytes(b"7767517\n")
    (folder / "pose.bin").write_bytes(bytes(range(256)))
    files = {"model": "pose.param", "weights": "pose.bin"}
    values: dict[str, Any] = {
        "folder": folder,
        "variant": Variant("ncnn", "fp16"),
        "spec": pose_spec(),
        "files": files,
        "sha256": {name: sha256_of(folder / name) for name in files.values()},
        "key": "k",
        "source": {"file": "pose.onnx"},
        "tools": {"pnnx": "1"},
        "parity": {"passed": True},
    }
    artifact = Artifact(**(values | changes))
    artifact.write_manifest()
    return artifact


def edit(folder: Path, change: Any) -> None:
    path = folder / MANIFEST
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_an_artifact_survives_the_disk(tmp_path: Path) -> None:
    made = make_artifact(tmp_path / "a")
    assert load_artifact(tmp_path / "a") == made
    assert made.path("weights") == tmp_path / "a" / "pose.bin"
    assert made.size_bytes == 8 + 256
    with pytest.raises(ArtifactError, match="no 'engine' file"):
        made.path("engine")


def test_sha256_is_that_of_hashlib(tmp_path: Path) -> None:
    import hashlib

    data = bytes(3_000_001)
    (tmp_path / "f").write_bytes(data)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["pose.bin", "pose.param"])
def test_a_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    make_artifact(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[3] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name} was changed"):
        load_artifact(tmp_path)


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    make_artifact(tmp_path)
    (tmp_path / "pose.bin").unlink()
    with pytest.raises(ArtifactError, match=r"pose\.bin is missing"):
        load_artifact(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(schema=SCHEMA + 1), "newer edgepose"),
        (lambda d: d.pop("schema"), "no artifact manifest"),
        (lambda d: d.update(schema="1"), "key 'schema'"),
        (lambda d: d.pop("files"), "incomplete manifest"),
        (lambda d: d.update(variant="ncnn-fp8"), "unknown variant"),
        (lambda d: d["spec"].update(colour="rgb"), "unknown key 'colour'"),
        (
            lambda d: d["files"]["model"].update(name="../pose.param"),
            "points out of the folder",
        ),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    make_artifact(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ArtifactError, match=words):
        load_artifact(tmp_path)


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such artifact folder"):
        load_artifact(tmp_path / "absent")
    with pytest.raises(ArtifactError, match=r"no artifact\.json"):
        load_artifact(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(ArtifactError, match="not readable as JSON"):
        load_artifact(tmp_path)
    (tmp_path / MANIFEST).write_text("[]")
    with pytest.raises(ArtifactError, match="no artifact manifest"):
        load_artifact(tmp_path)


def test_a_failed_artifact_loads_only_on_demand(tmp_path: Path) -> None:
    make_artifact(tmp_path, failed=True)
    with pytest.raises(ArtifactError, match="--allow-failed"):
        load_artifact(tmp_path)
    assert load_artifact(tmp_path, allow_failed=True).failed
