"""What a MODEL argument leads to: files, archives, checkpoints and names of the zoo."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import types
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converters.source import Source
from converters.zoo import models as zoo
from converters.zoo.download import DownloadError
from converters.zoo.entry import ZooEntry
from converters.zoo.models import find_source, zoo_fetch
from edge.errors import EdgeError, EngineMissingError, ModelFileError, SpecError
from edge.spec import ModelSpec
from tests.conftest import ROOT, tiny_simcc_model
from tests.stand_ins.mirror_server import Server, left, server  # noqa: F401
from tests.stand_ins.specs import pose_spec


def sdk_zip(path: Path) -> bytes:
    """A tiny SDK archive, laid out as the official ones are."""
    pytest.importorskip("onnx")
    from tests.stand_ins.sdk_bundles import simcc_files

    with zipfile.ZipFile(path, "w") as archive:
        for name, content in simcc_files([48, 64]).items():
            archive.writestr(f"20230831/tiny/{name}", json.dumps(content))
        archive.writestr("20230831/tiny/end2end.onnx", tiny_simcc_model().SerializeToString())
    return path.read_bytes()


def quiet(_: object) -> None:
    pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGEPOSE_CACHE", str(folder))
    monkeypatch.delenv("EDGEPOSE_MIRROR", raising=False)
    return folder


def entry_of(**values: Any) -> dict[str, ZooEntry]:
    plain: dict[str, Any] = {
        "name": "tiny",
        "description": "a tiny model",
        "task": "pose",
        "input_hw": (64, 48),
        "keypoint_set": "coco17",
    }
    return {"tiny": ZooEntry(**(plain | values))}


def test_an_archive_is_fetched_and_read(
    server: Server,
    cache: Path,
    tmp_path: Path,
) -> None:
    data = sdk_zip(tmp_path / "tiny.zip")
    server.files["/sdk/tiny.zip"] = data
    entries = entry_of(archive=f"{server.url}/sdk/tiny.zip")
    said: list[str] = []
    source = find_source("tiny", entries=entries, say=said.append)
    assert source.name == "tiny"
    assert source.spec is not None
    assert source.spec.codec == "simcc"
    assert source.spec.input_hw == (64, 48)
    assert source.path.read_bytes() == tiny_simcc_model().SerializeToString()
    assert source.path.is_relative_to(cache)
    assert (cache / "tiny.zip").read_bytes() == data
    assert "its SHA-256 is not known" in said[1]
    assert len(said) == 2
    assert f"{server.url}/sdk/tiny.zip" in said[0]
    # Again, and as a file, and unpacked: the same, and nothing is fetched.
    assert find_source("tiny", entries=entries, say=said.append) == source
    # But for the keypoint set, which only the zoo knows.
    by_file = find_source(str(tmp_path / "tiny.zip"), say=said.append)
    assert source.notes == ()
    assert "coco17" in by_file.notes[0]
    assert replace(by_file, notes=()) == source
    with zipfile.ZipFile(tmp_path / "tiny.zip") as archive:
        archive.extractall(tmp_path)
    by_folder = find_source(str(tmp_path / "20230831/tiny"), say=said.append)
    assert by_folder.spec == source.spec
    assert by_folder.path == tmp_path / "20230831/tiny/end2end.onnx"
    assert len(server.seen) == 1
    assert find_source("tiny", name="other", entries=entries).name == "other"


def test_a_spec_file_overrides_what_the_archive_says(cache: Path, tmp_path: Path) -> None:
    sdk_zip(tmp_path / "tiny.zip")
    spec = replace(pose_spec(), name="mine")
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_json()))
    source = find_source(str(tmp_path / "tiny.zip"), spec_file=tmp_path / "spec.json")
    assert source.spec == spec
    assert cache.exists()


def test_a_mirror_is_asked_instead(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    sdk_zip(mirror / "tiny.zip")
    monkeypatch.setenv("EDGEPOSE_MIRROR", str(mirror))
    entries = entry_of(archive="https://models.invalid/sdk/tiny.zip")
    said: list[str] = []
    assert find_source("tiny", entries=entries, say=said.append).path.is_relative_to(cache)
    assert f"EDGEPOSE_MIRROR={mirror}, not from https://models.invalid" in said[0]


def test_a_mirror_over_http_has_to_be_allowed(
    server: Server,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.files["/tiny.zip"] = sdk_zip(tmp_path / "tiny.zip")
    entries = entry_of(archive="https://models.invalid/sdk/tiny.zip")
    monkeypatch.setenv("EDGEPOSE_MIRROR", server.url)
    monkeypatch.delenv("EDGEPOSE_INSECURE_MIRROR", raising=False)
    with pytest.raises(DownloadError, match=r"over http.*https.*--insecure-mirror or EDGEPOSE_INS"):
        find_source("tiny", entries=entries, say=quiet)
    assert not list(cache.glob("*"))
    monkeypatch.setenv("EDGEPOSE_INSECURE_MIRROR", "1")
    assert find_source("tiny", entries=entries, say=quiet).path.is_relative_to(cache)
    monkeypatch.delenv("EDGEPOSE_INSECURE_MIRROR")
    find_source("tiny", entries=entries, say=quiet)  # it lies there


@pytest.mark.parametrize(
    ("digits", "word"), [(0, "is not known"), (8, "first 8 of the 64 digits"), (64, None)]
)
def test_how_well_a_download_is_told_is_said_before_it_is_used(
    server: Server,
    cache: Path,
    tmp_path: Path,
    digits: int,
    word: str | None,
) -> None:
    data = server.files["/sdk/tiny.zip"] = sdk_zip(tmp_path / "tiny.zip")
    hashes = (hashlib.sha256(data).hexdigest()[:digits],) if digits else ()
    entries = entry_of(archive=f"{server.url}/sdk/tiny.zip", archive_sha256=hashes)
    said: list[str] = []
    find_source("tiny", entries=entries, say=quiet)
    find_source("tiny", entries=entries, say=said.append)
    assert len(said) == (word is not None)
    assert word is None or word in said[-1]
    assert cache.exists()


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The calls of an exporter that writes a file at once."""
    calls: list[dict[str, Any]] = []

    def export_checkpoint(
        checkpoint: Path, out: Path, name: str, *, say: Any, **known: Any
    ) -> ModelSpec:
        assert callable(say)
        calls.append({"checkpoint": checkpoint.read_bytes(), "name": name, **known})
        if checkpoint.read_bytes() == b"no checkpoint":
            out.write_bytes(b"half")
            raise ModelFileError("no checkpoint")
        out.write_bytes(b"onnx of " + checkpoint.read_bytes())
        return replace(pose_spec(), name=name)

    official = types.ModuleType("converters.architectures.official")
    official.export_checkpoint = export_checkpoint  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, official.__name__, official)
    monkeypatch.setattr(zoo, "_need_torch", quiet)
    return calls


def test_a_checkpoint_is_fetched_and_exported_once(
    server: Server,
    cache: Path,
    exports: list[dict[str, Any]],
) -> None:
    data = b"weights"
    file = f"tiny-{hashlib.sha256(data).hexdigest()[:8]}_20230126.pth"
    server.files[f"/{file}"] = data
    entries = entry_of(
        checkpoint=f"{server.url}/{file}",
        checkpoint_sha256=(hashlib.sha256(data).hexdigest()[:8],),
        architecture="rtmpose",
        size="t",
    )
    source = find_source("tiny", entries=entries, say=quiet)
    assert source.path.read_bytes() == b"onnx of weights"
    assert source.path.is_relative_to(cache)
    assert source.spec == replace(pose_spec(), name="tiny")
    known = {"size": "t", "num_classes": None, "input_hw": (64, 48), "keypoint_set": "coco17"}
    assert exports == [{"checkpoint": data, "name": "tiny", **known}]
    assert find_source("tiny", entries=entries) == source
    assert len(exports) == len(server.seen) == 1
    # Another size or name is another export; another file of the same name too.
    find_source("tiny", entries=entries, input_hw=(96, 96), say=quiet)
    assert exports[-1]["input_hw"] == (96, 96)
    find_source("tiny", entries=entries, name="other", say=quiet)
    assert exports[-1]["name"] == "other"
    path = cache / "mine.pth"
    for text in (b"one", b"two"):
        path.write_bytes(text)
        source = find_source(str(path), say=quiet)
        assert source.path.read_bytes() == b"onnx of " + text
        assert source.name == "mine"
    assert len(exports) == 5


def test_a_failed_export_leaves_nothing(
    cache: Path, tmp_path: Path, exports: list[dict[str, Any]]
) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(b"no checkpoint")
    for _ in range(2):
        with pytest.raises(ModelFileError, match="no checkpoint"):
            find_source(str(path), say=quiet)
    assert len(exports) == 2
    assert [file for file in cache.rglob("*") if file.is_file()] == []


def test_the_exporter_takes_what_it_is_given(exports: list[dict[str, Any]], cache: Path) -> None:
    # Read, not imported: PyTorch takes its time.
    text = (ROOT / "converters/architectures/official.py").read_text()
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    real = next(node for node in functions if node.name == "export_checkpoint")
    assert [argument.arg for argument in real.args.args] == ["checkpoint", "out", "name"]
    (cache / "tiny-0123abcd.pth").parent.mkdir()
    (cache / "tiny-0123abcd.pth").write_bytes(b"weights")
    url = "https://models.invalid/tiny-0123abcd.pth"
    entries = entry_of(checkpoint=url, architecture="rtmpose", size="t")
    find_source("tiny", entries=entries, say=quiet)
    given = set(exports[0]) - {"checkpoint", "name"} | {"say"}
    assert given <= {argument.arg for argument in real.args.kwonlyargs}


@pytest.mark.slow
def test_a_checkpoint_of_a_real_architecture(cache: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from converters.architectures.rtmpose import RTMPose

    torch.manual_seed(0)
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": RTMPose("t").state_dict(), "meta": {}}, path)
    source = find_source(str(path), say=quiet)
    assert source.spec is not None
    assert source.spec.input_hw == (256, 192)
    assert source.spec.keypoint_set == "coco17"
    assert source.path.is_relative_to(cache)
    again = find_source(str(path), say=lambda line: pytest.fail(line))
    assert again == source


def test_without_torch_a_checkpoint_is_not_even_fetched(
    server: Server,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("converters.zoo.models.importlib.util.find_spec", quiet)
    entries = entry_of(checkpoint=f"{server.url}/a-0123abcd.pth", architecture="rtmpose", size="t")
    with pytest.raises(EngineMissingError, match="make setup-torch"):
        find_source("tiny", entries=entries)
    with pytest.raises(EngineMissingError, match="make setup-torch"):
        find_source("mine.pth", entries=entries)
    assert server.seen == []
    assert not cache.exists()


def test_arguments_that_lead_nowhere(cache: Path, tmp_path: Path) -> None:
    cases: list[tuple[str, type[EdgeError], str]] = [
        (
            "rtmpose-xxl",
            SpecError,
            "neither a zoo model nor a file; did you mean rtmpose-",
        ),
        ("cspnext-m-udp", SpecError, "a backbone: .*edge zoo fetch cspnext-m-udp"),
        (str(tmp_path), ModelFileError, "a folder without deploy.json"),
        (str(tmp_path / "absent.zip"), ModelFileError, "absent.zip: no such file"),
        ("absent.zip", ModelFileError, "absent.zip: no such file"),
    ]
    for text, kind, words in cases:
        with pytest.raises(kind, match=words) as caught:
            find_source(text)
        assert "\n" not in str(caught.value)
    with pytest.raises(SpecError, match="cannot name a model"):
        find_source("rtmpose-t-demo", name="my model")
    assert not cache.exists()


def test_a_missing_checkpoint(cache: Path, exports: list[dict[str, Any]]) -> None:
    with pytest.raises(ModelFileError, match=r"absent\.pth: no such file"):
        find_source("absent.pth")
    assert exports == []
    assert not cache.exists()


def test_the_file_in_the_kit(cache: Path) -> None:
    source = find_source("rtmpose-t-demo", input_hw=(256, 192))
    path = ROOT / "converters/zoo/weights/rtmpose-t-demo.onnx"
    want = Source("rtmpose-t-demo", path, None, (256, 192), "coco17", assured=True)
    assert source == want, "the zoo names the points: nothing is assumed"
    assert source.assumed(("a guess",)) == ()
    assert Source("mine", path).assumed(("a guess",)) == ("a guess",)
    assert zoo_fetch("rtmpose-t-demo") == path
    assert not cache.exists()


def test_fetching_one_file_of_a_model(
    server: Server,
    cache: Path,
    tmp_path: Path,
) -> None:
    server.files = {"/a.zip": sdk_zip(tmp_path / "a.zip"), "/b.pth": b"weights"}
    both = entry_of(
        archive=f"{server.url}/a.zip",
        checkpoint=f"{server.url}/b.pth",
        checkpoint_sha256=(hashlib.sha256(b"weights").hexdigest(),),
    )
    say: list[str] = []
    assert zoo_fetch("tiny", entries=both, say=say.append) == cache / "a.zip"
    assert zoo_fetch("tiny", what="checkpoint", entries=both, say=say.append) == cache / "b.pth"
    assert left(cache) == {"a.zip": len(server.files["/a.zip"]), "b.pth": 7}
    one = entry_of(checkpoint=f"{server.url}/b.pth")
    with pytest.raises(SpecError, match="tiny has no archive, only a checkpoint"):
        zoo_fetch("tiny", what="archive", entries=one)
    with pytest.raises(SpecError, match=r"'tinny' is neither a zoo model .*tiny"):
        zoo_fetch("tinny", entries=one)


@pytest.mark.parametrize(
    ("name", "torch", "want"),
    [
        ("rtmo-s-body7", True, "pth"),
        ("rtmo-s-body7", False, "zip"),
        ("rtmpose-s-body7", True, "zip"),
    ],
)
def test_rtmo_comes_from_its_checkpoint_where_that_can_be_exported(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, torch: bool, want: str
) -> None:
    """Its archive holds the suppression, which not every engine runs."""
    del cache
    monkeypatch.setattr(zoo, "_has_torch", lambda: torch)
    asked: list[str] = []

    def refuse(model: str, url: str, *_: Any) -> Path:
        asked.append(url)
        raise ModelFileError(model)

    monkeypatch.setattr(zoo, "_fetch", refuse)
    with pytest.raises(ModelFileError, match=name):
        find_source(name)
    assert [url.rsplit(".", 1)[1] for url in asked] == [want]
