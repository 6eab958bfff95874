"""mmdeploy SDK models: a folder or a .zip with deploy.json, pipeline.json and an ONNX file.

These are what mmpose's model zoo offers beside each checkpoint. A folder is read where it is; of an
archive the ONNX file is unpacked, whatever the folders inside are called. ``detail.json`` is
optional and is only asked what the keypoints are called.
"""

from __future__ import annotations

import lzma
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from converters.graph.data_files import data_names
from converters.sdk.decoder import describe
from converters.sdk.pipeline import read_deployed
from converters.sdk.values import Json
from edge.errors import ModelFileError
from edge.files import replacing, sha256_of, staged_folder
from edge.spec import ModelSpec
from edge.texts import decode_text, parse_json

__all__ = ["SdkModel", "read_sdk"]

# Above what protobuf can hold, or what a description can need, a member is a trap.
_ONNX_LIMIT_BYTES = 2 << 30
_JSON_LIMIT_BYTES = 16 << 20

Members = dict[str, list[zipfile.ZipInfo]]


@dataclass(frozen=True)
class SdkModel:
    """The ONNX file of an SDK model, and what its JSON files say of it.

    ``notes`` say what was assumed beyond them.
    """

    onnx_path: Path
    spec: ModelSpec
    notes: tuple[str, ...] = ()


def read_sdk(path: Path, name: str, unpack_to: Path) -> SdkModel:
    """Read an SDK model; ``name`` becomes that of its spec.

    The ONNX file of an archive goes to ``unpack_to/<sha256 of the archive, 16 digits>/`` and is
    used again where it already lies there whole. Flip testing, which some models ask for, is not
    done on devices: ``flip_test`` is ignored.

    Raises ModelFileError, in one line that names the file and the key, for what is missing,
    damaged, unknown or contradicts itself, and SpecError for what no spec can say.
    """
    if path.is_dir():
        texts = {
            file: _read_file(path / file)
            for file in ("deploy.json", "pipeline.json", "detail.json")
            if (path / file).is_file()
        }
        deploy, pipeline, detail = _parse(path, texts)
        deployed = read_deployed(deploy)
        onnx_path = path / deployed.net
        if not onnx_path.is_file():
            raise ModelFileError(
                f"{path}: holds no {deployed.net}, which its deploy.json names; add it or export "
                "the model again"
            )
    else:
        with _opened(path) as archive:
            members = _members(archive, path)
            texts = {
                file: _read_member(archive, _only(members, file, path), path)
                for file in ("deploy.json", "pipeline.json", "detail.json")
                if file in members
            }
            deploy, pipeline, detail = _parse(path, texts)
            deployed = read_deployed(deploy)
            info = _only(members, deployed.net, path)
            _check_member(info, _ONNX_LIMIT_BYTES, path)
            onnx_path = unpack_to / sha256_of(path)[:16] / deployed.net
            if not _is_unpacked(onnx_path, info):
                _unpack(archive, info, onnx_path)
            for name in data_names(onnx_path):
                _unpack_data(archive, members, onnx_path.parent / name, path)
    return SdkModel(onnx_path, *describe(deployed, pipeline, detail, onnx_path, name))


def _parse(path: Path, texts: dict[str, bytes]) -> tuple[Json, Json, Json | None]:
    missing = [file for file in ("deploy.json", "pipeline.json") if file not in texts]
    if missing:
        raise ModelFileError(
            f"{path}: holds no {' and no '.join(missing)}, which an mmdeploy SDK model has; export "
            "it with --dump-info"
        )
    values = {}
    for file, text in texts.items():
        where = f"{path}: {file}"
        data = parse_json(decode_text(text, where, ModelFileError), where, ModelFileError)
        values[file] = Json(data, where)
    return values["deploy.json"], values["pipeline.json"], values.get("detail.json")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from None


# --- archives -------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip for reading; every way in which one can be damaged ends in one line."""
    if not path.exists():
        raise ModelFileError(f"{path}: no such file or folder")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise ModelFileError(
            f"{path}: not a zip archive, or a damaged one ({error}); download or pack it again"
        ) from None
    except OSError as error:
        raise ModelFileError(f"{error.filename or path}: {error.strerror or error}") from None


def _members(archive: zipfile.ZipFile, path: Path) -> Members:
    """The files of an archive by base name."""
    members: Members = {}
    for info in archive.infolist():
        member = PurePosixPath(info.filename.replace("\\", "/"))
        if member.is_absolute() or ".." in member.parts:
            raise ModelFileError(
                f"{path}: its member {info.filename!r} points out of the archive; such an archive "
                "is not read, get it from a source that you trust"
            )
        if not info.is_dir():
            members.setdefault(member.name, []).append(info)
    return members


def _only(members: Members, file: str, path: Path) -> zipfile.ZipInfo:
    found = members.get(file, [])
    if len(found) == 1:
        return found[0]
    if not found:
        raise ModelFileError(
            f"{path}: holds no {file}, which its deploy.json names; download or pack it again"
        )
    names = " and ".join(repr(info.filename) for info in found)
    raise ModelFileError(f"{path}: holds {file} {len(found)} times ({names}); keep one model in it")


def _check_member(info: zipfile.ZipInfo, limit_bytes: int, path: Path) -> None:
    if info.flag_bits & 0x1:
        raise ModelFileError(f"{path}: {info.filename!r} is encrypted; give the unpacked folder")
    if info.file_size > limit_bytes:
        raise ModelFileError(
            f"{path}: {info.filename!r} would unpack to {info.file_size} bytes; at most "
            f"{limit_bytes} are read"
        )


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    _check_member(info, _JSON_LIMIT_BYTES, path)
    return archive.read(info)


def _is_unpacked(onnx_path: Path, info: zipfile.ZipInfo) -> bool:
    """Whether a file of this size and checksum lies there already."""
    if not onnx_path.is_file() or onnx_path.stat().st_size != info.file_size:
        return False
    checksum = 0
    with onnx_path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum == info.CRC


def _unpack_data(archive: zipfile.ZipFile, members: Members, target: Path, path: Path) -> None:
    """Weights that the ONNX file keeps in a file of their own, where the archive holds it."""
    if target.name not in members:
        return  # whoever reads the ONNX file says so
    info = _only(members, target.name, path)
    _check_member(info, _ONNX_LIMIT_BYTES, path)
    if not _is_unpacked(target, info):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as private, archive.open(info) as source, private.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, onnx_path: Path) -> None:
    # zipfile never gives more than the size in the header and checks the sum at the end.
    with (
        staged_folder(onnx_path.parent) as folder,
        archive.open(info) as source,
        (folder / onnx_path.name).open("wb") as target,
    ):
        shutil.copyfileobj(source, target, 1 << 20)
