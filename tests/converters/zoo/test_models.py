"""The zoo: its facts against their sources, and what a MODEL argument leads to."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converters.job import FeedSource
from converters.model_in_work import ConversionRequest, ModelInWork
from converters.source import Source
from converters.zoo import models as zoo
from converters.zoo.download import DownloadError
from converters.zoo.entry import ZooEntry, parse_zoo
from converters.zoo.models import find_entry, find_source, zoo_entries, zoo_fetch
from converters.zoo.table import zoo_details, zoo_json, zoo_table
from edge.artifact import sha256_of
from edge.errors import EdgeError, EngineMissingError, ModelFileError, SpecError
from edge.keypoints import find_keypoint_set
from edge.spec import ModelSpec
from tests.conftest import ROOT, shared, tiny_simcc_model
from tests.stand_ins.mirror_server import Server, left, server  # noqa: F401
from tests.stand_ins.specs import pose_spec

TEXT = (ROOT / "converters/zoo/zoo.toml").read_text()


# --- the real zoo ---------------------------------------------------------------------------------


def test_every_entry_says_where_its_model_is() -> None:
    entries = zoo_entries()
    assert len(entries) == len(re.findall(r"^\[", TEXT, re.MULTILINE)) >= 68
    for name, entry in entries.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", name), name
        for url in filter(None, (entry.archive, entry.checkpoint)):
            assert url.startswith("https://download.openmmlab.com/mm"), name
            assert " " not in url
        if entry.keypoint_set:
            find_keypoint_set(entry.keypoint_set)  # raises for an unknown one
        if entry.task in ("pose", "one-stage"):
            assert all(side % 32 == 0 for side in entry.input_hw), name
        if entry.file:
            assert sha256_of(ROOT / "converters" / "zoo" / entry.file) == entry.sha256
    urls = [url for e in entries.values() for url in (e.archive, e.checkpoint) if url]
    assert len(set(urls)) == len(urls)


def in_work(source: Source, folder: Path) -> ModelInWork:
    return ModelInWork(source, "", folder, ConversionRequest(FeedSource("", lambda _: ())))


def test_class_counts_are_those_of_the_files(tmp_path: Path) -> None:
    """Of every detector whose file is there: in the kit, or fetched before."""
    entries = zoo_entries()
    cached = {name for name, row in zoo_json(entries.values()).items() if row["cached"]}
    checked = 0
    for name, entry in entries.items():
        if entry.num_classes and (entry.file or (entry.archive and name in cached)):
            model = ModelInWork(
                find_source(name), "", tmp_path, ConversionRequest(FeedSource("", lambda _: ()))
            )
            assert model.prepared(1).spec.class_count == entry.num_classes, name
            checked += 1
    assert checked >= 1


def test_a_zoo_that_miscounts_is_not_believed(tmp_path: Path) -> None:
    source = replace(find_source("rtmdet-nano-demo"), class_count=80)
    model = in_work(source, tmp_path)
    with pytest.raises(ModelFileError, match=r"tells 1 classes apart, and the zoo says .* has 80"):
        model.prepared(1)


def test_hashes_are_those_in_the_file_names() -> None:
    exceptions = {"rtmpose-m-ap10k", "rtmdet-m-person"}
    for name, entry in zoo_entries().items():
        if entry.checkpoint is None:
            assert entry.checkpoint_sha256 == ()
            continue
        stem = entry.checkpoint.rpartition("/")[2].removesuffix(".pth")
        # Not the module's own expression: the last run of hex digits that is no date.
        digits = [word for word in re.split("[-_]", stem) if re.fullmatch("[0-9a-f]{7,8}", word)]
        in_name = [word for word in digits if not re.fullmatch(r"20\d{6}", word)][-1]
        assert entry.checkpoint_sha256[0] == in_name, name
        assert len(in_name) == (7 if name == "rtmpose-m-hand5" else 8), name
        assert (len(entry.checkpoint_sha256) > 1) == (name in exceptions), name


def test_names_and_urls_speak_of_the_same_model() -> None:
    for name, entry in zoo_entries().items():
        for url in filter(None, (entry.archive, entry.checkpoint)):
            file = url.rpartition("/")[2].replace("_coco_2022", "-640x640_2022")
            height, width = entry.input_hw
            family = name.split("-")[0].replace("dwpose", "rtmpose")
            size = re.escape(name.split("-")[1])
            assert re.match(rf"r?{family}[-_]({size}|{size}iny)[-_]", file), (name, file)
            if "x" in (size_in_name := "".join(re.findall(r"\d{3}x\d{3}", file))):
                assert size_in_name == f"{height}x{width}", name
            parts = {"body7", "halpe26", "ap10k", "hand5", "face6", "wholebody", "crowdpose"}
            for part in parts & set(name.split("-")):
                assert part in file, name


# --- against the published tables -----------------------------------------------------------------


def seed_text(start: str) -> str:
    texts = [path.read_text() for path in shared("seeds").glob("*.txt")]
    return next(text for text in texts if text.lstrip("# ").startswith(start))


def rows_with_checkpoints(text: str) -> Iterator[tuple[list[str], ZooEntry]]:
    """The cells of each table row that links one checkpoint, and the zoo's entry of it."""
    by_url = {entry.checkpoint: entry for entry in zoo_entries().values()}
    for line in text.splitlines():
        urls = re.findall(r"https://[^)\s]+\.pth", line)
        if line.startswith("|") and len(urls) == 1:
            yield [cell.strip() for cell in line.strip("|").split("|")], by_url[urls[0]]


def numbers(cells: list[str]) -> list[float | None]:
    return [None if cell == "-" else float(cell) for cell in cells]


def test_figures_of_the_rtmpose_readme() -> None:
    readme = seed_text("RTMPose: Real-Time Multi-Person")
    seen = set()
    for cells, entry in rows_with_checkpoints(readme):
        seen.add(entry.name)
        height, width = entry.input_hw
        assert cells[1] == f"{height}x{width}"
        latencies = [entry.ort_i7_11700_ms, entry.trt_fp16_gtx1660ti_ms]
        if entry.name.endswith("-coco"):
            # The README prints the AP of the AIC+COCO file beside this one.
            other = find_entry(entry.name.removesuffix("-coco"))
            for same in (entry, other):
                got = [same.params_m, same.flops_g, same.ort_i7_11700_ms]
                got += [same.trt_fp16_gtx1660ti_ms, same.ncnn_fp16_sd865_ms]
                assert got == numbers(cells[3:8]), same.name
            assert other.ap == float(cells[2])
        elif entry.keypoint_set == "coco-wholebody133":
            assert [entry.ap, entry.flops_g, *latencies] == numbers([cells[2], *cells[4:7]])
        elif entry.keypoint_set == "ap10k17":
            assert [entry.ap, entry.flops_g, *latencies] == numbers(cells[2:6])
        else:
            score = entry.top1 if entry.name.endswith("imagenet") else entry.ap
            assert [entry.params_m, entry.flops_g, score] == numbers(cells[2:5]), entry.name
    assert len(seen) == 4 + 3 + 1 + 4 + 4


def test_figures_of_the_pipelines_table() -> None:
    readme = seed_text("RTMPose: Real-Time Multi-Person")
    by_url = {entry.checkpoint: entry for entry in zoo_entries().values()}
    rows = 0
    for line in readme.splitlines():
        urls = re.findall(r"https://[^)\s]+\.pth", line)
        if len(urls) != 2:
            continue
        rows += 1
        detector, pose = (by_url[url] for url in urls)
        cells = [re.split("<br/?>", cell) for cell in line.strip("|").split("|")]
        pairs = [[float(text) for text in cell] for cell in (cells[3], cells[5], cells[6])]
        assert pairs == [
            [detector.ap, pose.ap_no_flip],
            [detector.params_m, pose.params_m],
            [detector.flops_g, pose.flops_g],
        ]
    assert rows == 6


def test_figures_of_the_rtmo_readme() -> None:
    seen = []
    for cells, entry in rows_with_checkpoints(seed_text("RTMO")):
        seen.append(entry.name)
        crowdpose = entry.keypoint_set == "crowdpose14"
        ap = float(cells[2 if crowdpose else 3])
        assert entry.ap == pytest.approx(100 * ap, abs=1e-9)
        if not crowdpose:
            assert [entry.ort_v100_ms] == numbers([cells[2]])
        links = re.findall(r"https://[^)\s]+\.zip", cells[-1] + cells[-2])
        assert links == ([entry.archive] if entry.archive else [])
    assert len(seen) == len(set(seen)) == 11


def test_figures_of_the_model_zoo_page() -> None:
    page = seed_text("RTMPose\n\nRecent").split("### MPII")[0]
    found = re.findall(r"\|\s+RTMPose-(\w)(-aic-coco)?\s+\| +(\d+x\d+) +\| (0\.\d+)", page)
    for size, aic, input_size, ap in found:
        name = f"rtmpose-{size}" + ("" if aic else "-coco")
        name += "-384x288" if input_size == "384x288" else ""
        assert find_entry(name).ap == pytest.approx(100 * float(ap), abs=1e-9)
    assert len(found) == 10


def test_figures_of_the_benchmark() -> None:
    stack = shared("reference/pose-stack.md").read_text()
    keys = [
        *("ort_i7_11700_ms", "trt_fp16_gtx1660ti_ms", "trt_fp16_rtx3090_ms", "ncnn_fp16_sd865_ms"),
        *("trt_fp16_orin_agx_ms", "trt_fp16_orin_nx_ms"),
    ]
    rows = re.findall(r"^\| ([tsml](?:-384)?) \| (\d\d\.\d) \| (.*) \|$", stack, re.MULTILINE)
    assert len(rows) == 6
    for short, ap, cells in rows:
        entry = find_entry(f"rtmpose-{short}" + ("x288" if "384" in short else ""))
        assert entry.ap == float(ap)
        want = [
            None if cell.strip() == "–" or "copy error" in cell else float(cell)  # noqa: RUF001
            for cell in cells.split("|")
        ]
        assert [getattr(entry, key) for key in keys] == want, entry.name


# --- entries that are refused ---------------------------------------------------------------------

GOOD = {
    "description": '"a model"',
    "task": '"pose"',
    "architecture": '"rtmpose"',
    "size": '"t"',
    "input_hw": "[256, 192]",
    "keypoint_set": '"coco17"',
    "checkpoint": '"https://models.invalid/a-0123abcd_20230126.pth"',
}


def entry_text(**changes: str | None) -> str:
    pairs = {key: value for key, value in (GOOD | changes).items() if value is not None}
    return "[mine]\n" + "".join(f"{key} = {value}\n" for key, value in pairs.items())


def test_a_good_entry() -> None:
    entry = parse_zoo(entry_text())["mine"]
    assert entry.input_hw == (256, 192)
    assert entry.checkpoint_sha256 == ("0123abcd",)
    assert entry.latencies_ms == {}
    assert entry.to_json()["input_hw"] == [256, 192]
    assert "archive" not in entry.to_json()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": '"red"'}, "unknown key 'colour'"),
        ({"description": None}, "description missing"),
        ({"description": '" "'}, "description is a text"),
        ({"task": '"dance"'}, "task is one of pose, one-stage, detection, backbone, not 'dance'"),
        ({"task": "[]"}, "task is one of"),
        ({"task": '"detection"'}, "num_classes missing"),
        ({"keypoint_set": None}, "keypoint_set missing"),
        ({"architecture": None}, "architecture missing"),
        ({"size": None}, "size missing"),
        ({"size": '"tiny"'}, "size is one of"),
        ({"input_hw": "[256]"}, r"input_hw is \[height, width\]"),
        ({"input_hw": "[256.0, 192]"}, "input_hw is"),
        ({"input_hw": "[256, 0]"}, "input_hw is"),
        ({"num_classes": "true"}, "num_classes is a whole number"),
        ({"params_m": "-1"}, "params_m is a positive number"),
        ({"params_m": '"3"'}, "params_m is a positive number"),
        ({"params_m": "nan"}, "params_m is a positive number"),
        ({"params_m": "3.3"}, "source missing"),
        ({"ap": "68.5", "source": '"README"'}, "ap_dataset missing"),
        ({"checkpoint": '"https://models.invalid/a.pth"'}, "no hash in the checkpoint's name"),
        ({"checkpoint": '"https://models.invalid/a-0123abcd.zip"'}, "the URL of a .pth file"),
        ({"checkpoint": '"ftp://models.invalid/a-0123abcd.pth"'}, "the URL of a .pth file"),
        ({"checkpoint": '"/tmp/a-0123abcd.pth"'}, "the URL of a .pth file"),
        ({"checkpoint": None}, "no file, no checkpoint and no archive"),
        ({"checkpoint_sha256": '["0123"]'}, "a list of hashes"),
        ({"checkpoint_sha256": '["0123ABCD"]'}, "a list of hashes"),
        ({"checkpoint_sha256": "[]"}, "a list of hashes"),
        ({"archive_sha256": '["0123abcd"]'}, "archive missing"),
        ({"file": '"weights/a.onnx"'}, "sha256 missing"),
        ({"sha256": f'"{"0" * 64}"'}, "file missing"),
        ({"file": '"a.onnx"', "sha256": '"0123abcd"'}, "sha256 is 64 hex digits"),
    ],
)
def test_a_slip_is_named(changes: dict[str, str | None], words: str) -> None:
    with pytest.raises(SpecError, match=f"^zoo.toml: mine: .*{words}"):
        parse_zoo(entry_text(**changes))


def test_a_file_that_is_no_zoo() -> None:
    with pytest.raises(SpecError, match="not valid TOML"):
        parse_zoo(entry_text() + entry_text())  # a name twice
    with pytest.raises(SpecError, match="a name consists of"):
        parse_zoo(entry_text().replace("[mine]", '["my model"]'))
    with pytest.raises(SpecError, match="an entry is a table"):
        parse_zoo("mine = 3")


# --- what a MODEL argument leads to ---------------------------------------------------------------


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
            r"neither a zoo model \(rtmpose-t-demo, rtmdet-nano-demo, rtmpose-",
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


# --- for reading ----------------------------------------------------------------------------------


def test_the_table_fits_and_names_everything(tmp_path: Path) -> None:
    entries = zoo_entries()
    text = zoo_table(entries.values(), tmp_path)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    named = [line.split()[0] for line in lines if line and line.split()[0] in entries]
    assert sorted(named) == sorted(entries)
    row = next(line for line in lines if line.startswith("rtmpose-m-body7 "))
    assert row.split() == [
        "rtmpose-m-body7",
        "256x192",
        "coco17",
        "13.59",
        "1.93",
        "74.9",
        *("zip", "pth"),
    ]
    # Columns stand under each other.
    head = lines[0]
    assert row.index("74.9") + 4 == head.index("AP") + 2
    assert row.index("zip") == head.index("files")


def test_what_is_in_the_cache_is_marked(tmp_path: Path) -> None:
    entry = find_entry("rtmpose-m-body7")
    assert entry.archive is not None
    (tmp_path / entry.archive.rpartition("/")[2]).write_bytes(b"")
    assert zoo_table([entry], tmp_path).count("zip* pth") == 1
    assert zoo_json([entry], tmp_path)[entry.name]["cached"] == {
        "archive": str(tmp_path / entry.archive.rpartition("/")[2])
    }
    assert zoo_json([entry], tmp_path / "b")[entry.name]["cached"] == {}


def test_the_details_hold_every_fact(tmp_path: Path) -> None:
    for entry in zoo_entries().values():
        text = zoo_details(entry, tmp_path)
        for key, value in entry.to_json().items():
            shown = {
                "input_hw": f"{entry.input_hw[0]}x{entry.input_hw[1]}",
                "checkpoint_sha256": entry.checkpoint_sha256 and entry.checkpoint_sha256[0][:8],
                "archive_sha256": entry.archive_sha256 and entry.archive_sha256[0][:8],
                "sha256": "",
            }.get(key, f"{value:g}" if isinstance(value, float) else str(value))
            assert str(shown) in text, (entry.name, key)
        assert json.loads(json.dumps(zoo_json([entry], tmp_path)))[entry.name]["task"] == entry.task


def test_naming_a_model_loads_no_tool() -> None:
    code = (
        "import sys, converters.zoo.models, converters.zoo.table as t\n"
        "t.zoo_table(converters.zoo.models.zoo_entries().values())\n"
        "print(*sorted(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    heavy = {"onnx", "onnxruntime", "torch", "cv2", "onnxslim", "ssl", "http.client"}
    assert not heavy & loaded
    assert "converters.convert" not in loaded


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
