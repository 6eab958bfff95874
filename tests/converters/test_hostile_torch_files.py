"""Checkpoints that are hostile, damaged or no checkpoint: nothing is run, and one line says why."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from converters.architectures.plain_pickle import (  # noqa: E402
    PickleError,
    UnsafePickleError,
    read_pickle,
)
from converters.architectures.reading import CheckpointError, read_checkpoint  # noqa: E402
from tests.stand_ins.torch_files import both, save  # noqa: E402


class Call:
    """Unpickling it would call a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@both
def test_nothing_is_imported_or_called(zipped: bool, tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    made: list[Any] = []

    class Trap:
        def __reduce__(self) -> Any:
            return (made.append, (1,))

    stream = pickle.dumps({"a": Trap()}) if zipped else b"ctrap\nfunction\n(S'x'\ntR."
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        read_pickle(io.BytesIO(stream))
    assert made == []


@pytest.mark.parametrize(
    "function",
    [eval, exec, open, __import__, compile],
    ids=lambda function: function.__name__,
)
def test_calls_that_no_checkpoint_needs_are_refused_by_name(function: Any) -> None:
    text = pickle.dumps([Call(function, "1")])
    with pytest.raises(UnsafePickleError, match=function.__name__):
        read_pickle(io.BytesIO(text))


def zip_of(data_pkl: bytes, path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data_pkl)
        for name, data in files.items():
            archive.writestr(f"a/data/{name}", data)
    return path


def tensor_pickle(offset: int, size: Any, stride: Any, count: int = 4) -> bytes:
    """A pickle of one tensor over the storage `0`, as torch writes it but for these numbers."""

    class Rebuild:
        def __reduce__(self) -> Any:
            return (torch._utils._rebuild_tensor_v2, (None, offset, size, stride, False, {}))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if value is None else None

    stream = io.BytesIO()
    Pickler(stream, 2).dump({"backbone.a": Rebuild()})
    return stream.getvalue()


def test_a_hand_made_tensor_is_read(tmp_path: Path) -> None:
    data = np.arange(4, dtype="<f4").tobytes()
    path = zip_of(tensor_pickle(1, (3,), (1,)), tmp_path / "t.pth", **{"0": data})
    assert read_checkpoint(path).state_dict["backbone.a"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("offset", "size", "stride", "count"),
    [
        (0, (5,), (1,), 4),
        (2, (3,), (1,), 4),
        (0, (2, 2), (3, 1), 4),
        (-1, (2,), (1,), 4),
        (0, (2,), (-1,), 4),
        (0, (10**6, 10**6), (0, 0), 4),
        (0, (2**62,), (1,), 2**62),
        (0, (2,), (1, 1), 4),
        (0, ("2",), (1,), 4),
        (0, (4,), (1,), 8),
    ],
)
def test_a_tensor_that_its_storage_does_not_hold_is_refused(
    offset: int, size: Any, stride: Any, count: int, tmp_path: Path
) -> None:
    pickled = tensor_pickle(offset, size, stride, count)
    path = zip_of(pickled, tmp_path / "t.pth", **{"0": bytes(16)})
    with pytest.raises(CheckpointError, match="not a checkpoint, or a truncated one"):
        read_checkpoint(path)


def test_a_zip_that_claims_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(50_000_000))
    with pytest.raises(CheckpointError, match="claim 50000000 bytes"):
        read_checkpoint(tmp_path / "t.pth")


def _one_line(error: Exception) -> None:
    assert str(error)
    assert "\n" not in str(error)


def nested(depth: int) -> bytes:
    return b"\x80\x02" + b")" + b"\x85" * depth + b"."


@pytest.mark.parametrize(
    "stream",
    [
        nested(100_000).removesuffix(b".") + b"}q\x00.",
        # A deep tuple as a key: hashing it would recurse.
        b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"L" + b"9" * 5000 + b"L\n.",
        b"\x80\x02}]K\x01s.",
        b"\x80\x02h\x05.",
        b"\x80\x02K\x01R.",
        b"\x80\x02\x82\x01.",
        b"",
    ],
)
def test_hostile_streams_end_in_an_answer_or_a_pickle_error(stream: bytes) -> None:
    try:
        read_pickle(io.BytesIO(stream))
    except PickleError as error:
        _one_line(error)


def test_deep_nesting_costs_no_recursion() -> None:
    value = read_pickle(io.BytesIO(nested(100_000)))
    for _ in range(100_000):
        (value,) = value
    assert value == ()


@both
def test_mutated_files_end_in_one_line_or_in_weights(zipped: bool, tmp_path: Path) -> None:
    content = {
        "meta": {"dataset_meta": {"sigmas": np.full(17, 0.05), "dataset_name": "coco"}},
        "state_dict": {f"backbone.{index}": torch.ones(3) for index in range(4)},
    }
    path = save(content, tmp_path / "t.pth", zipped)
    right = path.read_bytes()
    rng = random.Random(0)
    for _ in range(400):
        wrong = bytearray(right)
        for _ in range(rng.choice((1, 1, 3, 20))):
            wrong[rng.randrange(len(wrong))] = rng.randrange(256)
        if rng.random() < 0.3:
            wrong = wrong[: rng.randrange(len(wrong))]
        path.write_bytes(wrong)
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            _one_line(error)


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.pth", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"s/{name}", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_checkpoint(tmp_path / "s.pth")
    (tmp_path / "p.pth").write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(CheckpointError, match=r"torch\.save did not write"):
        read_checkpoint(tmp_path / "p.pth")
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(CheckpointError, match="a zip archive; unpack it"):
        read_checkpoint(tmp_path / "z.pth")
    (tmp_path / "t.pth").write_bytes(bytes(257) + b"ustar" + bytes(500))
    with pytest.raises(CheckpointError, match="tar format"):
        read_checkpoint(tmp_path / "t.pth")


def test_a_legacy_file_whose_weights_are_cut_short(tmp_path: Path) -> None:
    path = save({"backbone.a": torch.ones(9)}, tmp_path / "t.pth", False)
    right = path.read_bytes()
    for lost in (1, 4, 36, 40, 44):
        path.write_bytes(right[:-lost])
        with pytest.raises(CheckpointError, match="ends in the middle of its weights"):
            read_checkpoint(path)
    # A size that is larger than the file.
    path.write_bytes(right[:-44] + struct.pack("<q", 2**60) + right[-36:])
    with pytest.raises(CheckpointError, match="ends in the middle of its weights"):
        read_checkpoint(path)
