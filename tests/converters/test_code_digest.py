"""Keys of conversions: one byte changed in a copy of the tree, and which variants it concerns."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from converters import CHECKOUT
from converters.code_digest import code_digest, modules_below
from converters.convert import CONVERTERS, deciding_modules
from edge.spec import Variant

ALL = set(CONVERTERS)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for room in ("edge", "calibration", "converters"):
        for path in (CHECKOUT / room).rglob("*.py"):
            place = folder / path.relative_to(CHECKOUT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return folder


def digests(checkout: Path) -> dict[str, str]:
    return {
        name: code_digest.__wrapped__(*deciding_modules(Variant.parse(name)), checkout=checkout)
        for name in CONVERTERS
    }


def of(*formats: str) -> set[str]:
    return {name for name in ALL if name.partition("-")[0] in formats}


def made_by(*words: str) -> set[str]:
    return {name for name in ALL if any(word in name for word in words)}


@pytest.mark.parametrize(
    ("path", "concerns"),
    [
        ("edge/cli/options.py", set()),
        ("edge/cli/__init__.py", set()),
        ("edge/__init__.py", set()),
        ("edge/serve.py", set()),
        ("edge/tracking/tracker.py", set()),
        ("converters/training/loop.py", set()),
        ("converters/architectures/rtmpose.py", set()),
        ("converters/zoo/download.py", set()),
        ("converters/sdk/bundle.py", set()),
        ("converters/convert.py", set()),
        ("converters/formats/ncnn.py", of("ncnn")),
        ("converters/formats/tflite_float.py", made_by("tflite")),
        ("converters/formats/tensorrt_int8.py", {"tensorrt-int8"}),
        ("edge/engines/tflite.py", of("tflite")),
        ("converters/graph/ranges.py", {"onnx-int8", "onnx-mixed", "tensorrt-int8"}),
        ("calibration/scores/accuracy.py", made_by("int8", "mixed", "w8a16", "dynamic")),
        ("calibration/people/figures.py", ALL),
        ("converters/conversion.py", ALL),
        ("converters/graph/prepare.py", ALL),
        ("converters/parity/limits.py", ALL),
        ("edge/codecs/simcc.py", ALL),
        ("edge/codecs/__init__.py", ALL),
        ("edge/spec.py", ALL),
        ("edge/pose.py", ALL),
    ],
)
def test_what_a_changed_file_makes_anew(copied: Path, path: str, concerns: set[str]) -> None:
    before = digests(CHECKOUT)
    assert before == digests(copied), "the place of the checkout counts nowhere"
    place = copied / path
    content = place.read_bytes()
    try:
        place.write_bytes(content + b"#")
        after = digests(copied)
    finally:
        place.write_bytes(content)
    assert {name for name in ALL if before[name] != after[name]} == concerns


def test_every_import_is_followed() -> None:
    """Against Python's own parser, with the imports inside functions."""
    found = modules_below(*{one for name in ALL for one in deciding_modules(Variant.parse(name))})
    assert {"converters.formats.onnx2tf", "edge.codecs.rtmdet", "calibration.people.dice"} <= found
    for name in found:
        place = CHECKOUT.joinpath(*name.split("."))
        path = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place
        tree = ast.parse((path / "__init__.py" if path.is_dir() else path).read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        for node in ast.walk(tree):
            wanted = []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module
                inner = [f"{node.module}.{one.name}" for one in node.names]
                wanted = [one if modules_below(one) else node.module for one in inner]
            elif isinstance(node, ast.Import):
                wanted = [one.name for one in node.names]
            missing = {
                one for one in wanted if modules_below(one) and "tracking" not in one
            } - found
            assert not missing, f"{name} imports {missing}"
