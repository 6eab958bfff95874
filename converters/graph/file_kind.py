"""What a file is when it is not what it was given as: told by its first bytes, not by its name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from edge.artifact import MANIFEST
from edge.errors import ModelFileError

__all__ = ["Expected", "folder_kind", "looks_like_onnx", "refuse_other_kind"]

Expected = Literal["onnx", "zip", "checkpoint"]

_HEAD_BYTES = 512
_START = "give the ONNX file or the checkpoint (.pth) that it was made of"

# Offset and bytes that a kind of file has there, what it is, and what to do.
_MAGICS: tuple[tuple[int, bytes, str, str], ...] = (
    (4, b"TFL3", "a TensorFlow Lite network", _START),
    (0, b"7767517", "the layers of an ncnn or pnnx network (.param)", _START),
    (0, b"\xdd\x85\x76\x00", "an ncnn network (.param.bin)", _START),
    (0, b"\x47\x6b\x30\x01", "the weights of an ncnn network (.bin)", _START),
    (4, b"ORTM", "a network in ONNX Runtime's own format (.ort)", "give the .onnx it was made of"),
    (0, b"ftrt", "a TensorRT engine", _START),
    (0, b"ptrt", "a TensorRT engine", _START),
    (0, b"RKNN", "an RKNN network", _START),
    (0, b"IMOD", "an Ascend network (.om)", _START),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes", "export the network to ONNX (tf2onnx)"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file", "run `git lfs pull`"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (0, b"Rar!", "a RAR archive", "unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (257, b"ustar", "a tar archive", "unpack it first"),
    (0, b"\x89PNG", "a picture", "name a model there and the picture behind the options"),
    (0, b"\xff\xd8\xff", "a picture", "name a model there and the picture behind the options"),
    (4, b"ftyp", "a video", "name a model there and the video behind the options"),
    (0, b"\x7fELF", "a program", "give an ONNX file"),
)
# What follows the version in an ONNX file: the tag of one of ModelProto's other fields.
_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42\x72"
_SUFFIXES = {
    ".bin": ("the weights of an ncnn or OpenVINO network, or a checkpoint of another kind", _START),
    ".param": ("the layers of an ncnn network", _START),
    ".tflite": ("a damaged TensorFlow Lite network", _START),
    ".engine": ("a TensorRT engine", _START),
    ".plan": ("a TensorRT engine", _START),
    ".trt": ("a TensorRT engine", _START),
    ".mnn": ("an MNN network", _START),
    ".om": ("an Ascend network", _START),
    ".rknn": ("an RKNN network", _START),
    ".dlc": ("a network for Qualcomm's SNPE", _START),
    ".hef": ("a Hailo network", _START),
    ".ort": ("a network in ONNX Runtime's own format", "give the .onnx it was made of"),
    ".mlmodel": ("a Core ML network", "export the network to ONNX"),
    ".caffemodel": ("a Caffe network", "export the network to ONNX"),
    ".pdmodel": ("a Paddle network", "export it to ONNX with paddle2onnx"),
    ".pdiparams": ("the weights of a Paddle network", "export it to ONNX with paddle2onnx"),
    ".pb": ("a TensorFlow graph", "export it to ONNX with tf2onnx"),
}

# What a folder with such a file holds.
_FOLDERS = {
    ".param": "an ncnn network",
    ".xml": "an OpenVINO network",
    ".tflite": "a TensorFlow Lite network",
    ".engine": "a TensorRT engine",
    ".mlmodel": "a Core ML network",
}


def refuse_other_kind(path: Path, expected: Expected) -> None:
    """Raise ModelFileError, which says what the file is, where it cannot be what was expected.

    A file that may be so passes; whether it is whole is its reader's business. ``expected`` is an
    ONNX file, a zip archive of an SDK model, or a checkpoint.
    """
    if path.is_dir():
        raise ModelFileError(f"{path}: a folder, not a model file; {folder_kind(path)}")
    if not path.is_file():
        raise ModelFileError(
            f"{path}: no such file"
            if not path.exists()
            else f"{path}: not a regular file; give a model file"
        )
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise ModelFileError(
            f"{path}: cannot be read ({error.strerror}); make it readable for yourself"
        ) from None
    if not head:
        raise ModelFileError(f"{path}: an empty file; download or copy it again")
    found = _kind(path, head, expected)
    if found:
        what, fix = found
        near = _artifact_beside(path)
        raise ModelFileError(f"{path}: {what}; {fix}{near}")


def _kind(path: Path, head: bytes, expected: Expected) -> tuple[str, str] | None:
    if not any(head):
        return "it begins with zeros alone, as an unfinished download does", "download it again"
    for offset, magic, what, fix in _MAGICS:
        if head[offset:].startswith(magic) and (expected, magic) != ("checkpoint", b"ustar"):
            return what, fix  # a checkpoint of torch 0.1 is a tar archive; its reader says so
    return (
        _text_kind(head, expected)
        or _pytorch_or_zip(path, head, expected)
        or _onnx_elsewhere(head, expected)
        or _by_suffix(path, head, expected)
    )


def _text_kind(head: bytes, expected: Expected) -> tuple[str, str] | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = start[:200].lower()
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page, not the file itself", "download the file that the page links to"
    if lower.startswith((b"<?xml", b"<net ")):
        if b"<net " in head:
            return "the layers of an OpenVINO network (.xml)", _START
        return "an XML text, as a server's error is one", "download the file again"
    if expected != "onnx":
        return None  # its reader says so
    if start[:1] in (b"{", b"["):
        return "a JSON text", "give the model file; a spec goes behind --spec"
    text = head.rstrip(b"\0")
    if len(text) == len(head) and all(byte >= 32 or byte in b"\t\r\n\f" for byte in text):
        try:
            text[:-4].decode("utf-8")
        except UnicodeDecodeError:
            return None
        return "not an ONNX file but a text", "give the model file"
    return None


def _pytorch_or_zip(path: Path, head: bytes, expected: Expected) -> tuple[str, str] | None:
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path, expected)
    # Protocol 2 to 5 of pickle; a legacy checkpoint begins with its magic number as one.
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and expected != "checkpoint":
        return "a PyTorch checkpoint or another pickle", "name it NAME.pth to convert a checkpoint"
    is_safetensors = head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30
    if is_safetensors:
        return "weights in safetensors' format, without a network", "give the checkpoint (.pth)"
    return None


def _zip_kind(path: Path, expected: Expected) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return None if expected != "onnx" else ("a damaged zip archive", "download it again")
    files = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in files:
        return "a TorchScript program", "export it to ONNX with torch.onnx.export"
    if "data.pkl" in files:
        found = "a PyTorch checkpoint", "name it NAME.pth"
        return None if expected == "checkpoint" else found
    if expected == "zip":
        return None
    if "deploy.json" in files:
        return "a zip archive of an mmdeploy SDK model", "name it NAME.zip"
    if "keras_metadata.pb" in files or "config.json" in files:
        return "a Keras archive", "export the network to ONNX (tf2onnx)"
    models = sorted(name for name in files if name.endswith((".onnx", ".pth")))
    return "a zip archive", f"unpack it and name the file in it ({', '.join(models) or 'the ONNX'})"


def _onnx_elsewhere(head: bytes, expected: Expected) -> tuple[str, str] | None:
    if expected != "onnx" and looks_like_onnx(head):
        return "an ONNX file", "name it NAME.onnx"
    return None


def looks_like_onnx(head: bytes) -> bool:
    """Whether bytes begin as an ONNX file does: with the field ir_version, a small number."""
    return len(head) > 2 and head[0] == 0x08 and 1 <= head[1] < 0x80 and head[2] in _FIELDS


def _by_suffix(path: Path, head: bytes, expected: Expected) -> tuple[str, str] | None:
    if expected != "onnx" or looks_like_onnx(head):
        return None
    return _SUFFIXES.get(path.suffix.lower())


def _artifact_beside(path: Path) -> str:
    if (path.parent / MANIFEST).is_file():
        return f". To run this one, name its folder, {path.parent}"
    return ""


def _holds(names: list[str], suffix: str) -> bool:
    return any(name.endswith(suffix) for name in names)


def folder_kind(path: Path) -> str:
    """What to give in the place of a folder that is no SDK model."""
    names = sorted(child.name for child in path.iterdir())
    networks = [name for name in names if name.endswith((".onnx", ".pth"))]
    if MANIFEST in names:
        return (
            "it is an artifact, which is run and not converted: give the file that it was made of"
        )
    if "saved_model.pb" in names:
        return "it is a TensorFlow model: export it to ONNX with tf2onnx"
    found = next((what for suffix, what in _FOLDERS.items() if _holds(names, suffix)), "")
    if found and not networks:
        return f"it holds {found}: {_START}"
    if networks:
        shown = ", ".join(networks[:3]) + (", ..." if len(networks) > 3 else "")
        return f"name the file in it ({shown})"
    return "name an ONNX file, a checkpoint (.pth) or an SDK model (a folder with deploy.json)"
