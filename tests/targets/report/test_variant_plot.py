"""The picture of variants: all of them named, the far one in a note, the caption whole."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from targets.report.variant_plot import plot_svg
from targets.report.variants import VariantRow

_SVG = "{http://www.w3.org/2000/svg}"
_ROW = VariantRow("m", "onnx-fp32", "fp32", 1.0, 10.0, None, 1.0, 0.0, "px", "AP", 0.7, 0.0)


def test_every_variant_is_named_and_a_far_one_does_not_squeeze_the_rest() -> None:
    names = [f"{kind}-{p}" for kind in ("onnx", "ncnn", "tflite") for p in ("fp32", "fp16", "int8")]
    rows = [replace(_ROW, variant=name, p50_ms=10 + i / 50) for i, name in enumerate(names)]
    far = replace(_ROW, variant="tflite-w8a16", p50_ms=250.0, loss_points=-0.04)
    caption = "AT&T <board> " + "word " * 60
    root = ElementTree.fromstring(plot_svg([*rows, far], caption))
    texts = [element.text or "" for element in root.iter(f"{_SVG}text")]
    assert set(names) <= set(texts) and "tflite-w8a16" not in texts
    assert "Not drawn, far slower: tflite-w8a16: 250.0 ms, -0.04 points." in texts
    assert " ".join(caption.split()) in " ".join(texts)
    assert all(len(text) <= 115 for text in texts)
    assert any("Lower left is better" in text for text in texts)
    title, desc = root.find(f"{_SVG}title"), root.find(f"{_SVG}desc")
    assert title is not None and desc is not None and title.text and desc.text
    assert all(name in desc.text for name in [*names, "tflite-w8a16"])


def test_one_variant_makes_a_picture_and_the_same_bytes_twice() -> None:
    assert plot_svg([_ROW], "") == plot_svg([_ROW], "")
