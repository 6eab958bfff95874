"""The entries of zoo.toml: whole, true to the published tables, and refused where they are not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from converters.job import FeedSource
from converters.model_in_work import ConversionRequest, ModelInWork
from converters.source import Source
from converters.zoo.entry import ZooEntry, parse_zoo
from converters.zoo.models import find_entry, find_source, zoo_entries
from converters.zoo.table import zoo_json
from edge.artifact import sha256_of
from edge.errors import ModelFileError, SpecError
from edge.keypoints import find_keypoint_set
from tests.conftest import ROOT, shared

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
