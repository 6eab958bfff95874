"""Weights that lie beside an ONNX file, in files of their own (external data)."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

from converters.graph.walk import all_tensors
from edge.errors import ModelFileError
from edge.files import sha256_of

__all__ = ["data_names", "data_sha256", "read_data", "source_digest"]

# What protobuf can hold: the tools here hand models on as one message.
_MOST_BYTES = (2 << 30) - (1 << 20)


def read_data(model: Any, path: Path) -> None:
    """Fill in, in place, every tensor whose values lie in another file.

    Raises ModelFileError for a companion that is missing, unreadable or too short, one outside the
    model's folder, and for more weights than one message can hold.
    """
    total = 0
    for tensor in _external(model):
        place = _place(tensor, path)
        file = path.parent / place["location"]
        try:
            offset, length = int(place.get("offset", 0)), int(place.get("length", -1))
        except ValueError:
            offset = length = -2
        has = _size_of(file, place["location"], path)
        if length == -1:
            length = has - offset
        if offset < 0 or length < 0:
            raise ModelFileError(
                f"{path}: the place of the weights {tensor.name!r} in {file.name} is no place "
                f"(offset {place.get('offset', 0)}, length {place.get('length', '-')}); export the "
                "model again"
            )
        if offset + length > has:
            raise ModelFileError(
                f"{path}: {file.name}, which holds its weights, has {has} bytes, but the weights "
                f"{tensor.name!r} end at {offset + length}: it is truncated, or of another model; "
                "copy both files again"
            )
        total += length
        if total > _MOST_BYTES:
            raise ModelFileError(
                f"{path}: its weights in {file.name} are more than 2 GB, which the tools here "
                "cannot take; choose a smaller model"
            )
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        del tensor.external_data[:]
        tensor.ClearField("data_location")


def data_sha256(path: Path) -> dict[str, str]:
    """Name -> SHA-256 of each file beside an ONNX file that holds weights of it; empty for none.

    Of a file that is no ONNX there is nothing to say; its reader does.
    """
    names = data_names(path)
    for name in names:
        _size_of(path.parent / name, name, path)
    return {name: sha256_of(path.parent / name) for name in names}


def data_names(path: Path) -> list[str]:
    """The files, by their paths from an ONNX file's folder, that hold weights of it."""
    # Each place of such weights bears this word, and loading onnx takes longer than to look.
    if b"location" not in path.read_bytes():
        return []
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # no ONNX: protobuf's DecodeError and others
        return []
    return sorted({_place(tensor, path)["location"] for tensor in _external(model)})


def source_digest(path: Path) -> str:
    """A hash of every byte that a model file's answers depend on.

    The file's own SHA-256 where its weights are inside; else one of it and of the files beside it.
    """
    own, others = sha256_of(path), data_sha256(path)
    if not others:
        return own
    text = "\n".join([own, *(f"{name} {digest}" for name, digest in others.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def _external(model: Any) -> list[Any]:
    external = 1  # TensorProto.EXTERNAL
    return [one for one in all_tensors(model) if one.data_location == external]


def _place(tensor: Any, path: Path) -> dict[str, str]:
    """Location, offset and length of a tensor; the location lies in the model's folder or below."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    location = place.get("location", "")
    parts = PurePosixPath(location.replace("\\", "/"))
    is_inside = bool(parts.name) and not parts.is_absolute() and ".." not in parts.parts
    if not is_inside or ":" in location[:2] or "\0" in location:
        raise ModelFileError(
            f"{path}: its weights {tensor.name!r} are said to lie at {location!r}, outside its "
            "folder; such a file is not read, export the model again"
        )
    return {**place, "location": str(parts)}


def _size_of(file: Path, name: str, path: Path) -> int:
    if file.is_dir() or not file.exists():
        inner = name.rpartition("/")[0]
        fix = "put both files into one folder, under the names that they were exported with"
        if inner:
            fix = f"copy the folder {inner!r} with it, and keep the names"
        raise ModelFileError(f"{path}: {name}, which holds its weights, is not beside it; {fix}")
    try:
        with file.open("rb"):
            return file.stat().st_size
    except OSError as error:
        raise ModelFileError(
            f"{path}: {name}, which holds its weights, cannot be read ({error.strerror}); make it "
            "readable for yourself"
        ) from None
