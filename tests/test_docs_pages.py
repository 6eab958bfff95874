"""The pages of the manual: all are reached, links lead somewhere, commands parse, programs run."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.machinery
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge
from edge.cli import main
from tests.conftest import ROOT

MANUAL = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *MANUAL]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Commands that the text names and does not show.
NAMES = {"edge bench --target", "edge bundle --sdk", "edge info --spec"}
# Of trtexec and systemctl.
FOREIGN = {"--fp16", "--int8", "--now", "--user"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", TEXTS[page])


def links(page: Path) -> list[str]:
    """Where links and pictures of a page point to."""
    return re.findall(r"(?:\]\(|src=\")([^)\s\"]+)", prose(page))


def anchors(page: Path) -> set[str]:
    """What a heading is called in a link, by GitHub's rule."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_page_is_in_the_navigation_once() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"(\S+\.md)$", site[site.index("\nnav:") :], re.MULTILINE)
    assert sorted(named) == [page.name for page in MANUAL]
    # The README's list leads to all of them but the site's own first page.
    assert {Path(link).name for link in links(ROOT / "README.md")} >= set(named) - {"index.md"}


@every_page
def test_what_a_page_takes_from_another_file_is_there(page: Path) -> None:
    for file, section in re.findall(r'^--8<-- "([^":]+):?([^"]*)"$', TEXTS[page], re.MULTILINE):
        if file.startswith("build/"):  # made by `make docs`
            continue
        text = (ROOT / file).read_text(encoding="utf-8")
        begin, end = (f"--8<-- [{word}:{section}]" for word in ("start", "end"))
        assert text.count(begin) == text.count(end) == 1, section
        # It is shown in another folder, where a relative link would lead elsewhere.
        assert "](" not in text[text.index(begin) : text.index(end)], section


@every_page
def test_edge_is_written_in_one_way(page: Path) -> None:
    """After `source .venv/bin/activate`, which README and first steps say once."""
    assert ".venv/bin/edge" not in TEXTS[page] and ".venv/bin/python" not in TEXTS[page]


@every_page
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_picture_is_shown_and_small() -> None:
    pictures = sorted((ROOT / "docs/pictures").iterdir())
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    for picture in pictures:
        assert picture in shown, picture.name
        assert picture.stat().st_size < 150_000, picture.name
    assert sum(picture.stat().st_size for picture in pictures) < 700_000


def test_every_picture_can_be_made_again() -> None:
    from tests.docs_pictures import PICTURES

    assert {picture.stem for picture in (ROOT / "docs/pictures").iterdir()} == set(PICTURES)


@functools.cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, as the command line's reference has them."""
    path = str(ROOT / ".ci/cli_reference")
    loader = importlib.machinery.SourceFileLoader("cli_reference", path)
    spec = importlib.util.spec_from_loader("cli_reference", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    found: dict[str, argparse.ArgumentParser] = module.parsers()
    return found


def shell_lines(text: str) -> Iterator[str]:
    """The commands of the fenced blocks, those of several lines in one."""
    for language, block in FENCE.findall(text):
        if language in ("", "sh"):
            yield from block.replace("\\\n", " ").splitlines()


@every_page
def test_commands_of_blocks_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in shell_lines(TEXTS[page]):
        check_command(line, capsys)


def check_command(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line that begins with edge is one that the parsers take; another is none of ours."""
    if not line.startswith("edge "):
        return
    # What may be left out stands in brackets.
    words = shlex.split(re.sub(r"[\[\]]", " ", line.partition(" #")[0]))
    known = parsers()
    assert words[1] in known, line
    try:
        known[words[1]].parse_args([word for word in words[2:] if word != "..."])
    except SystemExit:
        pytest.fail(f"{line}\n{capsys.readouterr().err}")


@every_page
def test_commands_in_the_text_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for code in re.findall(r"`(edge [a-z][^`\n]+ [^`\n]+)`", prose(page)):
        if code not in NAMES:
            check_command(code, capsys)


@every_page
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    known = parsers()
    options = {option for parser in known.values() for option in parser._option_string_actions}
    assert "--keypoint-score" in options
    # What the native runner and the benches among the tests take has no parser here.
    for file in (
        *ROOT.glob("targets/runners/native/cpp/*.cpp"),
        *ROOT.glob("tests/benches/bench_*.py"),
    ):
        options |= set(OPTION.findall(file.read_text(encoding="utf-8")))
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        named = set(OPTION.findall(code)) - FOREIGN
        command = re.match(r"edge ([a-z]+)", code)
        if command:
            assert command[1] in known, code
            assert named <= {*known[command[1]]._option_string_actions}, code
        elif re.match(r"-", code):
            assert named <= options, code
        for goal in re.findall(r"^make ([a-z0-9-]+)", code):
            assert re.search(rf"^{goal}:", (ROOT / "Makefile").read_text(), re.MULTILINE), code
        for path in re.findall(
            r"^((?:edge|converters|calibration|targets|tests|docs)/[\w./-]*)$", code
        ):
            assert (ROOT / path).exists() or "NAME" in path, path


def test_the_reference_has_every_command_and_option(tmp_path: Path) -> None:
    out = tmp_path / "folder/cli.md"
    subprocess.run([sys.executable, ROOT / ".ci/cli_reference", out], check=True)
    sections = dict(re.findall(r"^## edge (\S+)\n(.*?)(?=^## |\Z)", out.read_text(), re.S | re.M))
    known = parsers()
    assert list(sections) == list(known)
    for name, parser in known.items():
        shown = set(re.findall(r"(?<=[`(])--?[a-z][a-z0-9-]*", sections[name]))
        hidden = {
            option
            for action in parser._actions
            if action.help is argparse.SUPPRESS or "--help" in action.option_strings
            for option in action.option_strings
        }
        assert shown >= {*parser._option_string_actions} - hidden, name
        assert not shown & hidden, name


def test_the_reference_of_python_has_all_of_edge() -> None:
    shown = re.findall(r"^::: (\S+)$", TEXTS[ROOT / "docs/api.md"], re.MULTILINE)
    for name in shown:
        module, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(module), last), name
    # EdgeError is among edge.errors.
    wanted = {f"edge.{name}" for name in edge.__all__} - {"edge.__version__", "edge.EdgeError"}
    assert set(shown) >= wanted | {"edge.errors"}


@every_page
def test_what_python_blocks_import_of_edge_is_there(page: Path) -> None:
    for language, block in FENCE.findall(TEXTS[page]):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "edge":
                module = importlib.import_module(str(node.module))
                for name in node.names:
                    assert hasattr(module, name.name), f"{node.module}.{name.name}"


@pytest.fixture(scope="module")
def beside_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as docs/python.md has it: ``models`` and ``people.jpg``."""
    for name in ("cv2", "onnx", "onnxruntime", "onnxslim"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("library")
    words = ["--target", "x86", "--formats", "onnx-fp32", "--out", str(folder)]
    assert main(["convert", *words]) == 0
    (folder / "x86").rename(folder / "models")
    shutil.copy(ROOT / "docs/pictures/people.jpg", folder)
    return folder


def python_blocks() -> list[str]:
    blocks = FENCE.findall(TEXTS[ROOT / "docs/python.md"])
    return [block for language, block in blocks if language == "python"]


@pytest.mark.long
def test_the_readme_s_python_runs(
    beside_models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ((_, code),) = (found for found in FENCE.findall(TEXTS[PAGES[0]]) if found[0] == "python")
    monkeypatch.chdir(beside_models)
    exec(code, {})
    assert len(re.findall(r"^\[[\d. ]+\] \[\[", capsys.readouterr().out, re.MULTILINE)) == 4


@pytest.mark.long
def test_the_program_prints_what_the_page_says(beside_models: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", python_blocks()[0]],
        cwd=beside_models,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (said,) = re.findall(
        r"^It prints\n\n```\n(.*?)```", TEXTS[ROOT / "docs/python.md"], re.S | re.M
    )
    got, want = done.stdout.splitlines(), said.splitlines()
    assert len(got) == len(want) == 4
    figure = r"-?\d+(?:\.\d+)?"
    for mine, other in zip(got, want, strict=True):
        assert re.sub(figure, "N", mine) == re.sub(figure, "N", other)
        # Another engine's last digits may round to the neighbour.
        tolerance = (0.011, 1.1, 1.1, 0.011)
        for a, b, limit in zip(
            re.findall(figure, mine), re.findall(figure, other), tolerance, strict=True
        ):
            assert abs(float(a) - float(b)) < limit, mine
    assert (beside_models / "drawn.jpg").is_file()


@pytest.mark.long
def test_the_loop_over_a_video_follows_people(
    beside_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edge import load_artifact, open_session
    from edge.picture import read_image

    finder = load_artifact(beside_models / "models/rtmdet-nano-demo-onnx-fp32")
    poser = load_artifact(beside_models / "models/rtmpose-t-demo-onnx-fp32")
    frames = [read_image(beside_models / "people.jpg")] * 2
    with open_session(finder) as detector, open_session(poser) as pose:
        exec(python_blocks()[1], {"finder": detector, "poser": pose, "frames": frames})
    numbers = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert numbers == ["0", "1", "2", "3"] * 2
