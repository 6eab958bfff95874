"""The table of commands: every row loads, and a device loads no row of the host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import edge
from edge.cli.commands import COMMANDS, Command
from edge.cli.main import command_parser, main, parse
from tests.conftest import ROOT

HOST = ("converters", "calibration", "targets")


@pytest.mark.parametrize("command", COMMANDS, ids=[one.name for one in COMMANDS])
def test_every_row_loads_and_says_what_it_takes(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    if command.name == "synthetic":
        pytest.importorskip("cv2")
    help_text = command_parser(command).format_help()
    assert command.text in help_text
    with pytest.raises(SystemExit) as ended:
        main(["help", command.name])
    assert ended.value.code == 0
    assert capsys.readouterr().out == help_text


def test_names_are_told_apart_and_modules_lie_in_rooms_of_commands() -> None:
    assert len({one.name for one in COMMANDS}) == len(COMMANDS)
    for one in COMMANDS:
        path = ROOT / f"{one.module.replace('.', '/')}.py"
        assert path.is_file()
        assert path.parent in {ROOT / "edge/cli", *(ROOT / room / "commands" for room in HOST)}


def test_every_public_name_of_edge_is_there() -> None:
    for name in edge.__all__:
        assert getattr(edge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(edge, "nothing")  # noqa: B009


def modules_after(*words: str) -> set[str]:
    """What is imported once a command line has run."""
    code = (
        "import sys\nfrom edge.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    return set(done.stderr.splitlines())


def test_a_device_s_commands_load_no_room_of_the_host(tmp_path: Path) -> None:
    for words in (["--help"], ["info", str(tmp_path)], ["run", "--help"], ["choose", "--help"]):
        loaded = modules_after(*words)
        assert "edge.cli.main" in loaded
        assert not {name for name in loaded if name.partition(".")[0] in HOST}, words
    assert "numpy" not in modules_after("--help")


def test_another_word_gets_the_nearest_command(capsys: pytest.CaptureFixture[str]) -> None:
    for word, near in (("convrt", "edge convert"), ("evaluate", "edge eval"), ("xyz", "--help")):
        with pytest.raises(SystemExit) as ended:
            main([word])
        assert ended.value.code == 2
        assert near in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["version"])
    assert capsys.readouterr().out == f"edgepose {edge.__version__}\n"


def test_a_part_of_an_option_s_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "--format", "tflite-int8"])
    assert "--format" in capsys.readouterr().err


def test_an_option_s_old_name_works_and_names_the_new_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["--score", "0.4"], ["--score=0.4"]):
        arguments = parse(["run", "--model", "m", "photo.jpg", *words])
        assert arguments.score == 0.4
        assert capsys.readouterr().err == "note: --score is called --conf now\n"
    assert parse(["run", "--model", "m", "photo.jpg", "--conf", "0.4", "-o", "d"]).score == 0.4
    assert capsys.readouterr().err == ""
