"""Both formats of torch.save against torch's own reader, hostile and damaged files, wrappers."""

from __future__ import annotations

import collections
import datetime
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from converters.architectures.plain_pickle import (  # noqa: E402
    PickledArray,
    Skipped,
    read_pickle,
)
from converters.architectures.reading import CheckpointError, read_checkpoint  # noqa: E402
from converters.architectures.torch_file import StoredTensor, read_torch_file  # noqa: E402
from tests.conftest import shared  # noqa: E402
from tests.stand_ins.torch_files import both, save  # noqa: E402


def loaded(value: Any) -> Any:
    """Plain values of what the reader gives."""
    if isinstance(value, StoredTensor):
        return value.load()
    if isinstance(value, PickledArray):
        return value.value()
    if isinstance(value, dict):
        return {key: loaded(one) for key, one in value.items()}
    return [loaded(one) for one in value] if isinstance(value, list) else value


# --- the formats ------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8],
    ids=str,
)
def test_tensors_are_those_that_torch_reads(dtype: Any, zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(24).reshape(2, 3, 4).to(dtype)
    content = collections.OrderedDict(
        whole=base,
        turned=base.permute(2, 0, 1),
        part=base[1, 1:, ::2],
        empty=torch.empty(0, 3, dtype=dtype),
        scalar=torch.tensor(7).to(dtype),
        parameter=torch.nn.Parameter(base.float()),
        flags=torch.tensor([True, False]),
    )
    path = save(content, tmp_path / "t.pth", zipped)
    found, wanted = read_torch_file(path), torch.load(path, weights_only=True)
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        assert found[key].load().dtype == value.dtype
        assert torch.equal(found[key].load(), value), key


@both
def test_plain_data_and_arrays_beside_the_weights(zipped: bool, tmp_path: Path) -> None:
    content = {
        "texts": ["ä", "", "x" * 70000],
        "numbers": (1, -(2**70), 0.5, None, True, 2**31),
        "bytes": b"\x00\xff",
        "no bytes": b"",
        "no sigmas": np.array([]),
        "bits": {1, 2},
        "nested": {"a": {"b": [{"c": (1, (2, ()))}]}},
        "sigmas": np.linspace(0, 1, 17),
        "colors": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "names": np.array(["nose", "eye"]),
        "objects": np.array(["nose", None], object),
        "big": np.arange(3, dtype=">i4"),
        "scalar": np.float64(0.25),
        "counter": collections.Counter("aab"),
        "default": collections.defaultdict(list, a=[1]),
        "size": torch.Size([1, 2]),
    }
    found = loaded(read_torch_file(save(content, tmp_path / "t.pth", zipped)))
    assert sorted(found.pop("bits")) == [1, 2]
    assert found.pop("objects") == ["nose", None]
    for key in ("sigmas", "colors", "columns", "names", "big", "no sigmas"):
        np.testing.assert_array_equal(found.pop(key), content[key])
    assert found == {key: content[key] for key in found}


@both
@pytest.mark.parametrize("protocol", [1, 2, 3, 4])
def test_every_protocol_of_pickle(protocol: int, zipped: bool, tmp_path: Path) -> None:
    content = {"a": [1, 2.5, "x", b"y", (1,), {}, {"k": None}], "w": torch.ones(3)}
    torch.save(
        content,
        tmp_path / "t.pth",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    found = loaded(read_torch_file(tmp_path / "t.pth"))
    assert torch.equal(found.pop("w"), torch.ones(3))
    assert found == {"a": content["a"]}


def test_numpys_old_and_new_names_are_both_known(tmp_path: Path) -> None:
    path = save({"sigmas": np.full(17, 0.05), "one": np.float32(2)}, tmp_path / "t.pth", False)
    text = path.read_bytes()
    for old, new in ((b"numpy.core.", b"numpy._core."), (b"numpy._core.", b"numpy.core.")):
        path.write_bytes(text.replace(old, new))
        found = loaded(read_torch_file(path))
        assert found["one"] == 2
        np.testing.assert_array_equal(found["sigmas"], np.full(17, 0.05))


def test_the_other_byte_order(tmp_path: Path) -> None:
    little = save({"w": torch.arange(4.0)}, tmp_path / "t.pth", True)
    with zipfile.ZipFile(little) as source, zipfile.ZipFile(tmp_path / "b.pth", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("byteorder"):
                data = b"big"
            elif "/data/" in name:
                data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
            target.writestr(name.replace("t/", "b/"), data)
    found = read_torch_file(tmp_path / "b.pth")
    assert torch.equal(found["w"].load(), torch.arange(4.0))


class Settings:
    """An object of a training program, which is not here when the file is read."""

    def __init__(self) -> None:
        self.rate = 0.1


@both
def test_objects_beside_the_weights_are_skipped(zipped: bool, tmp_path: Path) -> None:
    meta = {
        "when": datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC),
        "took": datetime.timedelta(hours=2),
        "path": tmp_path,
        "settings": Settings(),
        "queue": collections.deque([1, 2]),
        "complex": 1j,
        "function": np.mean,
        "dtype": torch.float16,
        "device": torch.device("cpu"),
    }
    content = {"meta": meta, "state_dict": {"backbone.a": torch.ones(2)}}
    found = read_checkpoint(save(content, tmp_path / "t.pth", zipped))
    assert list(found.state_dict) == ["backbone.a"]


# --- what training tools wrap -----------------------------------------------------------------

WEIGHTS = {"backbone.a": torch.ones(2), "head.b": torch.ones(3)}
OTHER = {key: value + 1 for key, value in WEIGHTS.items()}


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "content",
    [
        {"model": WEIGHTS},
        {"model": OTHER, "ema": WEIGHTS},
        {"model": OTHER, "ema": {"module": WEIGHTS, "updates": 9}},
        {"state_dict": OTHER, "state_dict_ema": WEIGHTS},
        {"model_state_dict": WEIGHTS, "optimizer_state_dict": {"state": {0: torch.ones(2)}}},
        {"net": prefixed("module.", WEIGHTS), "epoch": torch.tensor(3)},
        {"params": OTHER, "params_ema": WEIGHTS},
        prefixed("_orig_mod.", WEIGHTS),
        prefixed("module._orig_mod.", WEIGHTS),
        prefixed("_orig_mod.module.", WEIGHTS),
        {"backbone._orig_mod.a": torch.ones(2), "head._orig_mod.b": torch.ones(3)},
        {"state_dict": {**prefixed("model.", WEIGHTS), "criterion.weight": torch.ones(4)}},
        {"state_dict": prefixed("pose_model.net.", WEIGHTS), "pytorch-lightning_version": "2.4"},
        {"state_dict": {**prefixed("model.", OTHER), **prefixed("ema_model.", WEIGHTS)}},
        {"state_dict": {**prefixed("model.", OTHER), **prefixed("ema.module.", WEIGHTS)}},
    ],
)
def test_the_weights_are_found_whatever_wraps_them(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "t.pth")
    found = read_checkpoint(tmp_path / "t.pth").state_dict
    assert set(found) == set(WEIGHTS)
    assert all(torch.equal(found[key], WEIGHTS[key]) for key in WEIGHTS)


class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        self.head = torch.nn.Linear(2, 1, bias=False)
        self.register_buffer("passing", torch.ones(1), persistent=False)


@both
def test_a_whole_model_that_was_saved_is_read_as_its_weights(zipped: bool, tmp_path: Path) -> None:
    network = Network()
    found = read_checkpoint(save({"model": network}, tmp_path / "t.pth", zipped)).state_dict
    wanted = network.state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "holds no state dict, but an empty dict"),
        ([1], "holds no state dict, but list"),
        ({"epoch": 3, "optimizer": {}}, "but a dict with epoch, optimizer"),
        (Settings(), r"but \S*Settings"),
        ({**prefixed("student.", WEIGHTS), **prefixed("teacher.", OTHER)}, "several networks"),
        ({**WEIGHTS, "backbone.module.a": torch.ones(2)}, "two weights that are called"),
        ({**WEIGHTS, "note": "text"}, "no tensors: note"),
    ],
)
def test_what_is_no_state_dict_is_named(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "t.pth")
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path / "t.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>Not found", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (bytes(4096), "unfinished download"),
        (b"", "an empty file"),
        (b"ftrt" + bytes(99), "a TensorRT engine"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(99), "a TensorFlow Lite network"),
    ],
)
def test_a_file_of_another_kind_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(tmp_path / "t.pth")
    assert "truncated" not in str(caught.value)


def test_a_file_that_mmposes_publishing_tool_wrote() -> None:
    folder = shared("cases/openmmlab")
    (path,) = folder.glob("published-*.pth")
    found = read_checkpoint(path)
    wanted = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    assert set(found.state_dict) == set(wanted)
    assert all(torch.equal(found.state_dict[key], wanted[key]) for key in wanted)
    assert found.claims.data_set == "coco"
    assert found.claims.keypoints is not None
    assert found.claims.keypoints.name == "coco17"
    assert found.claims.config["codec.input_size"] == [192, 256]
    assert found.claims.config["model.head.type"] == "RTMCCHead"


def test_a_skipped_object_keeps_its_name() -> None:
    found = read_pickle(io.BytesIO(pickle.dumps(Settings())))
    assert isinstance(found, Skipped)
    assert found.state == {"rate": 0.1}
