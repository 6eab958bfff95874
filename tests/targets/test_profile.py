from __future__ import annotations

from pathlib import Path

import pytest

from converters.convert import CONVERTERS
from converters.zoo.models import zoo_entries
from edge.errors import SpecError
from targets import profile as module
from targets.profile import Requirements, load_profile, profile_names, profiles, read_profile

GOOD = (
    'description = "a board"\nkind = "linux"\ntransport = "ssh"\narch = "aarch64"\n'
    'variants = ["ncnn-fp16"]\n'
)


def without(key: str) -> str:
    return "".join(line for line in GOOD.splitlines(keepends=True) if not line.startswith(key))


def test_shipped_profiles_can_be_built() -> None:
    names = profile_names()
    assert names["android"] == "android-sd865"
    assert names["jetson"] == "jetson-orin-nx"
    assert names["raspberry-pi"] == "raspberry-pi-5"
    assert {"x86", "x86-i7-11700", "jetson-agx-orin", "raspberry-pi-4"} <= set(names)
    for profile in profiles():
        for variant in profile.variants:
            assert str(variant) in CONVERTERS


def test_an_alias_gives_the_profile() -> None:
    assert load_profile("android") == load_profile("android-sd865")
    assert load_profile("android").name == "android-sd865"


def test_an_unknown_target_lists_the_known() -> None:
    with pytest.raises(SpecError, match=r"unknown target 'toaster'.*android.*x86.*\.toml"):
        load_profile("toaster")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "colour = 1\n", "unknown key 'colour'"),
        (without("variants"), "missing key 'variants'"),
        (
            without("variants") + "variants = []\n",
            "'variants' must be a list of one variant or more",
        ),
        (without("variants") + 'variants = "ncnn-fp16"\n', "'variants' must be a list"),
        (
            without("variants") + 'variants = ["ncnn-fp17"]\n',
            "'variants\\[0\\]' must be FORMAT-PRECISION",
        ),
        (without("description"), "missing key 'description': a text"),
        (without("kind") + 'kind = "toaster"\n', "'kind' must be one of android, jetson"),
        (
            without("transport") + 'transport = "usb"\n',
            "'transport' must be one of adb, ssh, local",
        ),
        (without("arch") + 'arch = "mips"\n', "'arch' must be one of aarch64, x86_64"),
        (GOOD + 'precision = "int4"\n', "'precision' must be one of fp32, fp16"),
        (GOOD + 'threads = "4"\n', "'threads' must be a whole number .*without quotes"),
        (GOOD + "threads = true\n", "'threads' must be a whole number from 0 to 1024, got true"),
        (GOOD + "threads = -1\n", "'threads' must be .* from 0"),
        (GOOD + "min_count = 0\n", "'min_count' must be .* of 1 or more"),
        (GOOD + "warmup_duration_s = -1\n", "'warmup_duration_s' must be a number from 0"),
        (GOOD + "min_duration_s = inf\n", "'min_duration_s' must be a number"),
        (GOOD + "max_duration_s = 1\n", "max_duration_s 1 is below"),
        (GOOD + "sustained_duration_s = 30\n", "'sustained_duration_s' must be a number from 60"),
        (GOOD + "cooldown_timeout_s = -1\n", "'cooldown_timeout_s' must be a number from 0"),
        (GOOD + "require_powered = 1\n", "'require_powered' must be true or false"),
        (GOOD + "require_battery_percent = 101\n", "from 0 to 100"),
        (GOOD + 'cpu_mask = "0xf0"\n', "hexadecimal without 0x"),
        (GOOD + 'cpu_mask = "0"\n', "not 0"),
        (GOOD + "aliases = [1]\n", "'aliases\\[0\\]' must be a text"),
        (
            GOOD + "[published_ms]\n'm/ncnn-fp16' = '3'\n",
            "'published_ms.m/ncnn-fp16' must be a number",
        ),
        (GOOD + "[published_ms]\n'm/ncnn-fp16' = 3\n", "'published_source' must say"),
        (GOOD + "published_source = 'x'\n[published_ms]\n'm' = 3\n", "published latencies are"),
        (
            GOOD + "published_source = 'x'\n[published_ms]\n'm/ncnn-fp16' = 0\n",
            "must be a number above 0",
        ),
        (GOOD + "published_source = 'x'\n[published_ms]\n'm/ncnn' = 3\n", "unknown variant"),
        ("not toml", "no valid TOML"),
    ],
)
def test_a_bad_profile_names_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=words) as caught:
        read_profile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_profile_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(
        GOOD + "threads = 2\ncpu_mask = 'c'\nmin_duration_s = 3\nrequire_battery_percent = 20\n"
        "published_source = 'the maker'\n[published_ms]\n'net-s/onnx-fp32' = 2\n"
    )
    profile = load_profile(str(path))
    assert (profile.name, [str(v) for v in profile.variants]) == ("board", ["ncnn-fp16"])
    assert (profile.threads, profile.cpu_mask, profile.aliases) == (2, "c", ())
    assert profile.published_ms == {"net-s/onnx-fp32": 2}
    assert profile.requirements == Requirements(powered=False, battery_percent=20)
    burst, sustained = profile.latency_settings(), profile.latency_settings("sustained")
    assert (burst.mode, burst.min_duration_s, burst.min_count) == ("burst", 3, 128)
    assert (sustained.mode, sustained.min_duration_s) == ("sustained", 60)
    with pytest.raises(SpecError, match="cannot be read"):
        load_profile(str(tmp_path / "none.toml"))


def test_a_file_beside_the_others_is_a_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FOLDER", tmp_path)
    (tmp_path / "board.toml").write_text(GOOD + 'aliases = ["plank"]\n')
    assert load_profile("plank").name == "board"
    (tmp_path / "plank.toml").write_text(GOOD)
    with pytest.raises(SpecError, match="two profiles are called 'plank': board, plank"):
        profile_names()


@pytest.mark.parametrize(
    ("target", "variant", "figure"),
    [
        ("android-sd865", "ncnn-fp16", "ncnn_fp16_sd865_ms"),
        ("x86-i7-11700", "onnx-fp32", "ort_i7_11700_ms"),
        ("jetson-orin-nx", "tensorrt-fp16", "trt_fp16_orin_nx_ms"),
        ("jetson-agx-orin", "tensorrt-fp16", "trt_fp16_orin_agx_ms"),
    ],
)
def test_published_latencies_are_those_of_the_zoo(target: str, variant: str, figure: str) -> None:
    known = {name: entry.latencies_ms.get(figure) for name, entry in zoo_entries().items()}
    want = {f"{name}/{variant}": value for name, value in known.items() if value is not None}
    assert load_profile(target).published_ms == want


def test_published_pipelines_name_models_of_the_zoo() -> None:
    zoo = zoo_entries()
    for profile in profiles():
        for key in profile.published_pipeline_ms:
            detector, _, pose = key.rpartition("/")[0].partition("+")
            assert (zoo[detector].task, zoo[pose].task) == ("detection", "pose")
