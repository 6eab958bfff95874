from __future__ import annotations

from pathlib import Path

import pytest

from converters.convert import CONVERTERS
from edge.errors import SpecError
from targets.profile import load_profile, profile_names, read_profile

GOOD = 'description = "a board"\nvariants = ["ncnn-fp16"]\n'


def test_shipped_profiles_can_be_built() -> None:
    names = profile_names()
    assert names["android"] == "android-sd865"
    for name in set(names.values()):
        for variant in load_profile(name).variants:
            assert str(variant) in CONVERTERS


def test_an_alias_gives_the_profile() -> None:
    assert load_profile("android") == load_profile("android-sd865")
    assert load_profile("android").name == "android-sd865"


def test_an_unknown_target_lists_the_known() -> None:
    with pytest.raises(SpecError, match=r"unknown target 'toaster'.*android.*x86"):
        load_profile("toaster")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "colour = 1\n", "unknown key 'colour'"),
        ('description = "x"\n', "'variants' must name"),
        ('description = "x"\nvariants = "ncnn-fp16"\n', "'variants' must be a list"),
        ('variants = ["ncnn-fp16"]\n', "'description' must be a text"),
        ('description = "x"\nvariants = ["ncnn-fp17"]\n', "unknown variant"),
        ("not toml", "not a readable profile"),
    ],
)
def test_a_bad_profile_names_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=words):
        read_profile(path)


def test_a_good_profile(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(GOOD)
    profile = read_profile(path)
    assert (profile.name, [str(v) for v in profile.variants]) == ("board", ["ncnn-fp16"])
