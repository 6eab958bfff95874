"""Tables of the manual against the code: platforms, targets, limits, error texts, words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from converters.convert import CONVERTERS
from converters.parity.limits import LIMITS
from edge.errors import DeviceError
from edge.spec import FORMATS, PRECISIONS
from edge.spec_keys import SPEC_KEYS
from targets.profile import Profile, profiles
from targets.runners.python.setup import python_for
from targets.transports.fake import FakeTransport
from tests.conftest import ROOT


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def table(name: str, head: str) -> list[list[str]]:
    """The cells of the first table whose head begins so, row by row, without backticks."""
    lines = page(name)[page(name).index(f"\n| {head} |") :].strip().splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


def test_what_can_be_made() -> None:
    head, *rows = table("platforms.md", "format")
    assert head[1:] == list(PRECISIONS) and [row[0] for row in rows] == list(FORMATS)
    for row in rows:
        for precision, cell in zip(head[1:], row[1:], strict=True):
            made = f"{row[0]}-{precision}" in CONVERTERS
            assert cell == ("yes" if made else "-"), (row[0], precision)


def test_what_takes_a_batch() -> None:
    (line,) = re.findall(r"`--batch N` works with (.*)\.$", page("platforms.md"), re.MULTILINE)
    named = set(re.findall(r"`([\w-]+)`", line))
    for variant, route in CONVERTERS.items():
        assert route.batches == bool({variant, variant.partition("-")[0]} & named), variant


def runner(kind: list[Profile], name: str) -> str:
    """By which runner a format is timed on devices of a kind."""
    if name == "ncnn":
        return "native"
    if name == "tensorrt":
        has = any(one.format == name for each in kind for one in each.variants)
        return "trtexec" if has or kind[0].transport == "local" else "no"
    return "no" if kind[0].transport == "adb" else "Python"


def test_what_runs_on_which_platform() -> None:
    kinds = ["android", "raspberry-pi", "jetson", "linux"]
    head, *rows = table("platforms.md", "platform")
    order = head[1:]
    assert sorted(order) == sorted(FORMATS) and len(rows) == len(kinds)
    for kind, row in zip(kinds, rows, strict=True):
        of_kind = [one for one in profiles() if one.kind == kind]
        for name, cell in zip(order, row[1:], strict=True):
            assert cell.partition(",")[0] == runner(of_kind, name), (kind, name)
    phone = FakeTransport()
    phone.kind = "adb"
    with pytest.raises(DeviceError, match="needs a target over ssh"):
        python_for(phone, "onnx", say=print)


def test_what_each_target_converts() -> None:
    rows = table("platforms.md", "target")[1:]
    known = {one.name: one for one in profiles()}
    assert {row[0] for row in rows} == set(known)
    for name, aliases, transport, arch, variants, threads, mask in rows:
        own = known[name]
        assert [word for word in aliases.split(", ") if word] == list(own.aliases), name
        assert (transport, arch, mask) == (own.transport, own.arch, own.cpu_mask), name
        assert variants.split(", ") == [str(one) for one in own.variants], name
        assert threads == (str(own.threads) if own.threads else "engine's choice"), name


def test_the_limits() -> None:
    rows = {row[0]: row[1:] for row in table("parity.md", "limits")[1:]}
    assert set(rows) == {"fp32", "fp16", "quantised"}
    for name in ("fp32", "fp16"):
        own = LIMITS[name]
        cosine, keypoints, score, boxes = (
            [float(number) for number in re.findall(r"[\d.]+", cell)] for cell in rows[name]
        )
        assert cosine == [own.cosine_min] and score == [own.keypoint_score]
        assert keypoints == [own.keypoint_mean_px, own.keypoint_max_px]
        assert boxes == [own.box_iou_min, own.box_score]
    own = LIMITS["int8"]
    assert f"IoU {own.box_iou_min:g}, score {own.box_score:g}" == rows["quantised"][3]
    assert rows["quantised"][0].startswith(f"{own.cosine_min:g},")


def texts_of_the_code() -> str:
    """Every text in the code, with ``...`` for what is filled in, a line each."""
    found = []
    for room in ("edge", "converters", "calibration", "targets"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [
                        part.value if isinstance(part, ast.Constant) else "..."
                        for part in node.values
                    ]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_the_errors_are_those_of_the_code() -> None:
    code = texts_of_the_code()
    shown = re.findall(r"^\| `([^|]+?)` \| ", page("troubleshooting.md"), re.MULTILINE)
    assert len(shown) > 35
    missing = []
    for text in shown:
        pattern = ".*?".join(re.escape(part) for part in text.split("..."))
        if "command not found" not in text and not re.search(pattern, code):
            missing.append(text)
    assert missing == []


def test_pages_that_messages_name_are_there() -> None:
    named = set(re.findall(r"\((docs/[\w./-]+)\)", texts_of_the_code()))
    assert named
    assert all((ROOT / path).is_file() for path in named), named


def test_the_glossary_has_the_words_of_the_code() -> None:
    words = {row[0] for row in table("glossary.md", "word")[1:]}
    assert len(words) > 40
    assert {"artifact", "variant", "parity", "target", "profile", "codec", "raw heads"} <= words
    text = page("glossary.md")
    codecs = SPEC_KEYS["codec"].words
    for name in (*FORMATS, *PRECISIONS, *re.findall(r"[a-z]+", codecs.removeprefix("one of "))):
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_a_table_has_as_many_cells_in_every_row(path: Path) -> None:
    width = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = re.sub(r"\\\||`[^`]*`", "", line).count("|") if line.startswith("|") else 0
        assert not width or not cells or cells == width, line
        width = cells
