"""torch.save's two file formats, read without torch's unpickler and without running code.

- zip, of torch 1.6 and newer: ``NAME/data.pkl`` and ``NAME/data/KEY``, a file a storage;
  ``NAME/byteorder``.
- legacy, which publishing tools still write: five pickles one behind the other (a magic number, a
  version, facts of the machine, the content, the keys of the storages), then the storages in the
  order of their keys, each behind its number of elements (int64).

Either way a tensor is a reference to a storage with an offset, a size and strides (torch
``serialization.py``, ``_utils._rebuild_tensor_v2``). A tensor becomes a `StoredTensor`, whose data
are read when they are asked for: an optimiser's are never.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from converters.architectures.plain_pickle import Global, PickleError, Skipped, read_pickle

__all__ = ["StoredTensor", "read_torch_file"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# An archive whose entries claim far more than its own bytes is none that torch wrote.
_MOST_GROWTH = 4
_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "Untyped": torch.uint8,
}


class _Storages:
    """The storages of a file by key, each read once."""

    def __init__(self, read: Callable[[str, int], bytes], swap: bool) -> None:
        self._read, self._swap = read, swap
        self._known: dict[tuple[str, torch.dtype], Tensor] = {}

    def elements(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        """The flat tensor of a storage."""
        if (key, dtype) not in self._known:
            data = bytearray(self._read(key, count * dtype.itemsize))
            if self._swap and dtype.itemsize > 1:
                data = bytearray(np.frombuffer(data, f"u{dtype.itemsize}").byteswap().tobytes())
            flat = torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)
            self._known[key, dtype] = flat
        return self._known[key, dtype]


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    count: int
    storages: _Storages


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose data still lie in the file."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self) -> Tensor:
        """The tensor; PickleError where the file does not hold its data."""
        one = self.storage
        flat = one.storages.elements(one.key, one.dtype, one.count)
        return flat.as_strided(self.shape, self.stride, self.offset)


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
    if not isinstance(storage, _Storage):
        return Skipped("tensor")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(one) is int and one >= 0 for one in numbers):
        raise PickleError("a tensor of an impossible shape")
    elements = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # A stride of 0 makes a huge tensor of a small storage; weights are none of that kind.
    if elements and (last >= storage.count or elements > storage.count):
        raise PickleError("a tensor beyond its storage")
    return StoredTensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_typed(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> Any:
    """`_rebuild_tensor_v3`: the storage is bytes, the element type comes beside it."""
    known = {f"torch.{str(one).removeprefix('torch.')}": one for one in _DTYPES.values()}
    real = known.get(str(dtype))
    if not isinstance(storage, _Storage) or real is None:
        return Skipped("tensor")
    count = storage.count * storage.dtype.itemsize // real.itemsize
    return _rebuild(_Storage(storage.key, real, count, storage.storages), offset, size, stride)


def _rebuild_subclass(function: Any, _kind: Any, arguments: Any, *_: Any) -> Any:
    builder = _BUILDERS.get(str(function)) if isinstance(function, Global) else None
    return builder(*arguments) if builder else Skipped("tensor")


_BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "torch._tensor._rebuild_from_type": _rebuild_subclass,
}


def _storage_of(reference: Any, storages: _Storages) -> Any:
    """The storage that a persistent id names: kind, element type, key, device, size, view."""
    if isinstance(reference, tuple) and len(reference) > 1 and reference[0] == "module":
        # The legacy format keeps the source of a saved model's class beside its name.
        return reference[1]
    if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
        raise PickleError(f"a reference to {type(reference).__name__}")
    kind = reference[1]
    name = kind.name.removesuffix("Storage") if isinstance(kind, Global) else ""
    key, count = str(reference[2]), reference[4]
    if type(count) is not int or count < 0:
        raise PickleError("a storage of an impossible size")
    dtype = _DTYPES.get(name)
    is_view = len(reference) > 5 and reference[5] is not None
    return Skipped("storage") if dtype is None or is_view else _Storage(key, dtype, count, storages)


def read_torch_file(path: Path) -> Any:
    """The content of a file of torch.save: plain data, `StoredTensor` and `Skipped`.

    Raises:
        OSError: it cannot be read.
        PickleError: it is damaged, truncated, or no such file; the text says what was found.
        UnsafePickleError: it asks for a call that starts programs or touches files.
    """
    with path.open("rb") as file:
        start = file.read(262)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(path)
    if start[257:262] == b"ustar":
        raise PickleError("the tar format of torch 0.1, which nothing writes since 2017")
    return _read_legacy(path)


def _read_zip(path: Path) -> Any:
    try:
        archive = zipfile.ZipFile(path)
    except OSError:
        raise
    # What a damaged directory raises depends on the byte that is wrong.
    except Exception as error:
        raise PickleError(str(error) or type(error).__name__) from error
    entries = {info.filename: info for info in archive.infolist()}
    claimed = sum(info.file_size for info in entries.values())
    if claimed > _MOST_GROWTH * path.stat().st_size + (1 << 20):
        raise PickleError(f"its entries claim {claimed} bytes")
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PickleError("a zip without one data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in entries:
        raise PickleError("a TorchScript archive, which is a program and not a state dict")

    def content(name: str, size: int | None = None) -> bytes:
        if name not in entries or size not in (None, entries[name].file_size):
            raise PickleError(f"its entry {name} is missing or of another size")
        try:
            return archive.read(name)
        except OSError:
            raise
        except Exception as error:  # as above
            raise PickleError(str(error) or type(error).__name__) from error

    mark = f"{root}byteorder"  # absent before torch 2.1
    order = content(mark).decode("ascii", "replace").strip() if mark in entries else "little"
    storages = _Storages(
        lambda key, size: content(f"{root}data/{key}", size), swap=order != sys.byteorder
    )
    stream = io.BytesIO(content(pickles[0]))
    return read_pickle(stream, _BUILDERS, lambda reference: _storage_of(reference, storages))


def _read_legacy(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise PickleError("an empty file") from error
    places: dict[str, tuple[int, int]] = {}

    def data(key: str, size: int) -> bytes:
        start, length = places.get(key, (0, -1))
        if length != size:
            raise PickleError(f"its storage {key} is missing or of another size")
        return view[start : start + length]

    sizes: dict[str, torch.dtype] = {}
    # An mmap reads like a file, and no more than there is.
    stream = cast(Any, view)
    if read_pickle(stream) != _MAGIC or read_pickle(stream) != _PROTOCOL:
        raise PickleError("a pickle that torch.save did not write")
    machine = read_pickle(stream)
    little = machine.get("little_endian", True) if isinstance(machine, dict) else True
    storages = _Storages(data, bool(little) != (sys.byteorder == "little"))

    def storage(reference: Any) -> Any:
        one = _storage_of(reference, storages)
        if isinstance(one, _Storage):
            sizes[one.key] = one.dtype
        elif isinstance(one, Skipped):
            raise PickleError("a storage of an unknown kind")
        return one

    content = read_pickle(stream, _BUILDERS, storage)
    keys = read_pickle(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
        raise PickleError("no list of storages")
    for key in keys:
        head = view.read(8)
        if len(head) != 8 or str(key) not in sizes:
            raise PickleError("it ends in the middle of its weights")
        (count,) = struct.unpack("<q" if little else ">q", head)
        length = count * sizes[str(key)].itemsize
        if count < 0 or length > len(view) - view.tell():
            raise PickleError("it ends in the middle of its weights")
        places[str(key)] = (view.tell(), length)
        view.seek(length, 1)
    return content
