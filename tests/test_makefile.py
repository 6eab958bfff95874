"""What a command line may set in `make`, and how a wrong name is refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from edge.cli import main
from tests.conftest import ROOT

if shutil.which("make") is None:
    pytest.skip("make is not installed", allow_module_level=True)

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def make(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A dry run, as from a shell: not from the make that may have started the tests."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    own.pop("MFLAGS", None)
    return subprocess.run(
        ["make", "-n", *words],
        cwd=ROOT,
        env=own | (env or {}),
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["convert", "FORMAT=ncnn-fp16"], "make convert takes no FORMAT=; did you mean FORMATS=?"),
        (["convert", "target=x86"], "make convert takes no target=; did you mean TARGET=?"),
        (["convert", "DETECTR=a"], "make convert takes no DETECTR=; did you mean DETECTOR=?"),
        (["convert", "HOST=pi"], "make convert takes no HOST=; it takes ARGS=, BATCH=, CALIB=,"),
        (["bench", "SIZE=1x1"], "make bench takes no SIZE="),
        (["sensitivity", "FORMATS=onnx"], "did you mean FORMAT=?"),
        (["verify", "info", "MODEL=x"], "make verify info takes no MODEL=; it takes ARTIFACT=."),
        (["clean", "OUT=x"], "make clean takes no OUT=; it takes no values"),
        (["help", "V=1"], "make help takes no V="),
        (["convert", "DET=a", "DETECTOR=b"], "DETECTOR=b and DET=a are two spellings"),
    ],
)
def test_a_value_that_no_goal_knows_is_refused(words: list[str], said: str) -> None:
    done = make(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert said in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["DETECTOR", "DET"])
def test_both_spellings_of_the_detector_reach_edge(name: str) -> None:
    for goal in ("convert", "bench", "deploy", "run"):
        done = make(goal, f"{name}=mine.onnx")
        assert done.returncode == 0, done.stderr
        assert "--detector mine.onnx" in done.stdout
    assert "--detector" not in make("convert", f"{name}=").stdout
    assert "--detector" not in make("convert", "MODEL=rtmpose-m").stdout
    assert "--detector rtmdet-nano-demo" in make("convert").stdout


def test_goals_together_take_what_each_takes() -> None:
    assert make("convert", "bench", "HOST=pi", "SIZE=64x48").returncode == 0


def test_what_programs_read_from_the_environment_goes_through() -> None:
    for word in ("EDGEPOSE_CACHE=/x", "PIP_INDEX_URL=y", "https_proxy=z", "PYTHON=python3"):
        assert make("convert", word).returncode == 0


def test_a_make_that_another_one_started_inherits_its_values() -> None:
    inherited = {"MAKELEVEL": "1", "MAKEFLAGS": " -- TARGET=x86"}
    assert make("setup-onnx2tf", env=inherited).returncode == 0


def test_the_lists_name_what_the_recipes_use() -> None:
    """Not one more, so that no value is taken and does nothing, and not one less."""
    values = set(re.findall(r"^([A-Z]+) \?=", MAKEFILE, re.MULTILINE))
    listed = {
        goal: set(names.split())
        for goal, names in re.findall(r"^uses-([a-z0-9-]+) := (.*)$", MAKEFILE, re.MULTILINE)
    }
    values |= set().union(*listed.values())
    recipes = re.findall(r"^([a-z0-9-]+):.*##.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert len(recipes) > 25
    for goal, text in recipes:
        if goal == "help":
            continue
        names = set(re.findall(r"\$\(([A-Z]+)\)", text)) & values
        names |= {"DET"} if "DETECTOR" in names else set()
        assert names == listed.get(goal, set()), goal


@pytest.mark.parametrize(
    ("goal", "names"),
    [
        ("convert", "TARGET MODEL DETECTOR FORMATS SIZE BATCH CALIB OUT"),
        ("bench", "TARGET MODEL DETECTOR FORMATS HOST SERIAL OUT"),
    ],
)
def test_the_words_are_those_of_edge(
    goal: str, names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([goal, "--help"])
    options = capsys.readouterr().out
    for name in names.split():
        option = f"--{name.lower()}"
        assert option in options
        # A serial may hold blanks and reaches the shell as a variable.
        given = '"$SERIAL"' if name == "SERIAL" else "value"
        assert f"{option} {given}" in make(goal, f"{name}=value").stdout
