"""Which variants `--formats` and `--precision` name."""

from __future__ import annotations

import pytest

from converters.commands.conversions import asked_variants
from edge.cli.main import parse
from edge.errors import SpecError
from edge.spec import Variant

ANDROID = (Variant("ncnn", "fp16"),)


def named(*words: str) -> list[str]:
    return [str(one) for one in asked_variants(parse(["convert", *words]), ANDROID)]


def test_a_format_alone_has_the_target_s_precision_or_its_only_one() -> None:
    assert named() == ["ncnn-fp16"]
    assert named("--formats", "ncnn") == ["ncnn-fp16"]
    assert named("--formats", "ncnn-fp32, ncnn,ncnn") == ["ncnn-fp32", "ncnn-fp16"]
    assert named("--formats", "tflite", "--precision", "mixed") == ["tflite-mixed"]


@pytest.mark.parametrize("text", ["tflite", "tflite-int9", "tflite-"])
def test_what_is_not_there_names_what_the_format_has(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        named("--formats", text)
    message = str(caught.value)
    assert message.startswith(f"unknown variant {text!r}: tflite has ")
    assert set(message.partition("tflite has ")[2].split(", ")) == {
        "tflite-fp32",
        "tflite-fp16",
        "tflite-dynamic-range",
        "tflite-int8",
        "tflite-mixed",
        "tflite-w8a16",
    }


def test_another_format_names_the_formats() -> None:
    with pytest.raises(SpecError, match=r"unknown variant 'coreml'.*ncnn.*tflite"):
        named("--formats", "coreml")
