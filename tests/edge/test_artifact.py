from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import MANIFEST, SCHEMA, Artifact, load_artifact, load_constants, sha256_of
from edge.errors import ArtifactError
from tests.stand_ins.made_artifacts import edit, make_artifact, some_constants
from tests.stand_ins.specs import rtmo_spec


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
        (lambda d: d.pop("files"), "missing key 'files'"),
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
    (tmp_path / "pose.pth").write_bytes(b"weights")
    with pytest.raises(ArtifactError, match=r"a file, and .* `edge convert --model` makes one"):
        load_artifact(tmp_path / "pose.pth")
    with pytest.raises(ArtifactError, match=r"no artifact\.json"):
        load_artifact(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(ArtifactError, match=r"no valid JSON.*; convert it again"):
        load_artifact(tmp_path)
    with pytest.raises(ArtifactError, match=f"name its folder, {tmp_path}"):
        load_artifact(tmp_path / MANIFEST)
    (tmp_path / MANIFEST).write_text("[]")
    with pytest.raises(ArtifactError, match="no artifact manifest"):
        load_artifact(tmp_path)


def test_a_failed_artifact_loads_only_on_demand(tmp_path: Path) -> None:
    make_artifact(tmp_path, failed=True)
    with pytest.raises(ArtifactError, match="--allow-failed"):
        load_artifact(tmp_path)
    assert load_artifact(tmp_path, allow_failed=True).failed


# --- constants ------------------------------------------------------------------------------------


def with_constants(folder: Path, arrays: dict[str, Any]) -> Artifact:
    np.savez(folder / "pose.npz", **arrays)
    return make_artifact(folder, {"constants": "pose.npz"}, spec=rtmo_spec())


def test_constants_survive_the_disk(tmp_path: Path) -> None:
    arrays = some_constants()
    with_constants(tmp_path, dict(reversed(arrays.items())))
    artifact = load_artifact(tmp_path)
    got = load_constants(artifact)
    assert list(got) == [tensor.name for tensor in artifact.spec.constants]
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array)


def test_most_models_have_no_constants(tmp_path: Path) -> None:
    assert load_constants(make_artifact(tmp_path)) == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("dcc.periods"), "'dcc.periods' is missing"),
        (lambda a: a.update(more=np.zeros(3, np.float32)), "'more' .* the spec says nothing of it"),
        (lambda a: a.update({"dcc.periods": np.zeros(63, np.float32)}), r"is \(\(63,\), 'float32'"),
        (lambda a: a.update({"dcc.periods": np.zeros(64)}), r"is \(\(64,\), 'float64'"),
        (lambda a: a.update({"dcc.periods": np.zeros((64, 1), np.float32)}), r"\(64, 1\)"),
    ],
    ids=["missing", "too many", "short", "float64", "shape"],
)
def test_other_constants_than_the_specs_are_refused(
    tmp_path: Path, change: Any, words: str
) -> None:
    arrays = some_constants()
    change(arrays)
    with pytest.raises(ArtifactError, match=rf"pose\.npz: constant .*{words}.*; convert it again"):
        load_constants(with_constants(tmp_path, arrays))


def test_a_spec_with_constants_needs_their_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no 'constants' file"):
        load_constants(make_artifact(tmp_path, spec=rtmo_spec()))


def damages() -> dict[str, Any]:
    return {
        "truncated": lambda data: data[: len(data) // 2],
        "short": lambda data: data[:-1],
        "empty": lambda _: b"",
        "no archive": lambda _: b"[1, 2, 3]",
        "a flipped byte": lambda data: data[:200] + bytes([data[200] ^ 255]) + data[201:],
    }


@pytest.mark.parametrize("kind", damages())
def test_a_damaged_file_of_constants_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    artifact = with_constants(tmp_path, some_constants())
    path = artifact.path("constants")
    path.write_bytes(damages()[kind](path.read_bytes()))
    with pytest.raises(ArtifactError, match=r"pose\.npz: not readable .*; convert it again"):
        load_constants(artifact)


def test_a_single_array_and_pickled_objects_are_no_constants(tmp_path: Path) -> None:
    artifact = with_constants(tmp_path, some_constants())
    with artifact.path("constants").open("wb") as stream:
        np.save(stream, np.zeros(3, np.float32))
    with pytest.raises(ArtifactError, match="not readable"):
        load_constants(artifact)
    pickled = some_constants() | {"dcc.periods": np.array([{}] * 64)}
    with pytest.raises(ArtifactError, match="not readable"):
        load_constants(with_constants(tmp_path, pickled))
