"""What files may hold: types and ranges by key, and texts as editors save them."""

from __future__ import annotations

import codecs
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from calibration.data.annotations import read_annotations
from converters.zoo.models import read_spec_file
from edge.artifact import MANIFEST, load_artifact
from edge.cli import main
from edge.errors import ArtifactError, EdgeError, SpecError
from edge.records import check, list_of, number, one_of, record, share, shown, text, whole
from edge.spec import ModelSpec
from edge.spec_keys import SPEC_KEYS
from edge.texts import json_text, parse_json, parse_toml, read_json, read_text
from targets.profile import PROFILE_KEYS, Profile, read_profile
from tests.stand_ins.made_artifacts import edit, make_artifact
from tests.stand_ins.specs import detector_spec, heatmap_spec, pose_spec

MARKS = {
    "utf-8": b"",
    "utf-8 with a mark": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
PROFILE = (
    'description = "ein Brett für alle"\nkind = "linux"\ntransport = "ssh"\narch = "aarch64"\n'
    'variants = ["ncnn-fp16"]\n'
)


def saved(encoding: str, content: str) -> bytes:
    """A text as an editor saves it, its lines ended as on Windows."""
    codec = "utf-8" if encoding.startswith("utf-8") else encoding
    return MARKS[encoding] + content.replace("\n", "\r\n").encode(codec)


def toml(data: dict[str, Any]) -> str:
    """A spec as TOML: JSON's lists and texts are TOML, its inner tables are not."""

    def value(item: Any) -> str:
        if isinstance(item, dict):
            return "{" + ", ".join(f"{key} = {value(one)}" for key, one in item.items()) + "}"
        if isinstance(item, list):
            return "[" + ", ".join(value(one) for one in item) + "]"
        return "-1" if item is None else json.dumps(item)

    return "".join(f"{key} = {value(item)}\n" for key, item in data.items())


@pytest.mark.parametrize("encoding", MARKS)
def test_files_are_read_as_editors_save_them(tmp_path: Path, encoding: str) -> None:
    spec = pose_spec()
    for name, content in (
        ("pose.json", json.dumps(spec.to_json(), indent=2)),
        ("pose.toml", "# für alle\n" + toml(spec.to_json())),
    ):
        (tmp_path / name).write_bytes(saved(encoding, content))
        assert read_spec_file(tmp_path / name) == spec
    (tmp_path / "board.toml").write_bytes(saved(encoding, PROFILE))
    assert read_profile(tmp_path / "board.toml").description == "ein Brett für alle"
    artifact = make_artifact(tmp_path / "a")
    manifest = artifact.folder / MANIFEST
    manifest.write_bytes(saved(encoding, manifest.read_text(encoding="utf-8")))
    assert load_artifact(artifact.folder) == artifact
    coco = {
        "images": [{"id": 1, "file_name": "ä.jpg", "height": 2, "width": 3}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 1, 1], "category_id": 1}],
    }
    (tmp_path / "coco.json").write_bytes(saved(encoding, json.dumps(coco, ensure_ascii=False)))
    assert read_annotations(tmp_path / "coco.json").images[0]["file_name"] == "ä.jpg"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("für".encode("latin-1"), "no text in UTF-8; save it as UTF-8"),
        ("{}".encode("utf-16-le"), "NUL bytes; save it as UTF-8"),
        (b'{"a": 1\x00}', "NUL bytes"),
        (codecs.BOM_UTF16_LE + b"{", "no text in UTF-16-LE"),
    ],
)
def test_other_encodings_are_one_line(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=words) as caught:
        read_text(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 100 + "]" * 100, "nested too deeply"),
        ('{"a": ' * 50_000, "nested too deeply"),
        ("9" * 5000, "a number of 5000 digits"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('"\\ud800"', "half a character"),
        ("{", "no valid JSON"),
        ("", "no valid JSON"),
    ],
)
def test_json_that_is_none_is_one_line(content: str, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        parse_json(content, "file", ArtifactError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "content", ["a = " + "[" * 50_000, "a = " + "9" * 5000, "a = 1\na = 2", "a", "a = '\x01'"]
)
def test_toml_that_is_none_is_one_line(content: str) -> None:
    with pytest.raises(SpecError, match=r"file: no valid TOML") as caught:
        parse_toml(content, "file")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_json_is_always_json() -> None:
    data = {"a": [float("nan"), 1.5, (float("inf"),)], "b": {"c": -float("inf")}}
    assert json.loads(json_text(data)) == {"a": [None, 1.5, [None]], "b": {"c": None}}


# --- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (whole(1, 9), [1, 9], [0, 10, 1.0, True, "1", None, [1], 10**400]),
        (number(0, 1), [0, 0.5, 1], [-0.1, 1.1, True, "0.5", float("nan"), float("inf"), 10**400]),
        (number(above=0), [1e-9, 5], [0, -1, "1", None]),
        (share(), [0, 1, 0.3], [30, "0.3", True]),
        (text(), ["a"], ["", "a\nb", "\x1b[31m", 1, None, "x" * 5000]),
        (list_of(whole(), "a list"), [[], [1], (1, 2)], ["12", [1.5], {"1": 2}, None]),
        (one_of(whole(), text()), [1, "a"], [1.5, None, True]),
        (record({"a": whole()}, ("a",)), [{"a": 1}], [{}, {"a": "1"}, {"a": 1, "b": 2}, [], None]),
    ],
)
def test_a_rule_takes_what_fits_and_nothing_else(rule: Any, good: Any, bad: Any) -> None:
    for value in good:
        check(rule, value)
    for value in bad:
        with pytest.raises(SpecError) as caught:
            check(rule, value, "key", "file")
        message = str(caught.value)
        assert message.startswith("file: ") and "\n" not in message and "\x1b" not in message
        assert len(message) < 300


def test_an_error_says_key_value_and_what_it_should_be() -> None:
    rule = record({"a": list_of(record({"b": share()}), "a list")})
    with pytest.raises(SpecError) as caught:
        check(rule, {"a": [{"b": 0.5}, {"b": 60}]}, where="x.toml")
    assert str(caught.value) == (
        "x.toml: 'a[1].b' must be a number from 0 to 1, got 60: a share, not percent, so 0.6 for "
        "60 %"
    )
    with pytest.raises(SpecError, match=r'got "0\.3", a text: write it without quotes'):
        check(share(), "0.3", "score")
    assert shown("x" * 100) == '"' + "x" * 56 + "..."


# --- specs ----------------------------------------------------------------------------------------

WRONG: dict[str, list[Any]] = {
    "name": ["", 1, None, "../up", "a/b", ".", "a\nb", "x" * 200],
    "task": ["Pose", None, 3],
    "codec": ["SimCC", ["simcc"], {}],
    "input": [None, [], {"name": "x"}, {"name": "x", "shape": "1x3x4x4"}],
    "outputs": [[], {}, "out", [1], [{"name": "a b", "shape": [1]}], [{"name": "a", "shape": [0]}]],
    "color_order": ["RGB", "gray", True],
    "mean": ["123", [0.485, 0.456, 0.406], [1, 2], 0, [1, 2, 3, 4], ["1", 2, 3], [True, 2, 3]],
    "std": [[0, 1, 1], [0.229, 0.224, 0.225], ["58", "57", "57"], [1, 1, float("nan")], [-1, 1, 1]],
    "keypoint_set": [17, "coco99", "unnamed-²", "unnamed-" + "9" * 5000, True],
    "class_names": ["person", [1], {"0": "person"}, [""]],
    "pad_value": [1000, -1, 114.5, "114", True, None],
    "letterbox": ["middle", 0],
    "box_padding": [-1, 0, "1.25", 125, float("inf"), True],
    "udp": ["false", 0, 1, None],
    "several_labels": ["true", 1, None],
    "cut_at_rim": ["true", 0, None],
    "simcc_split_ratio": [0, -2, "2", 200],
    "heatmap_refinement": ["DARK", None],
    "heatmap_blur_kernel": [12, 1, 11.0, "11", 10**400],
    "strides": [[8.9, 16, 32], "8", [0, 1], ["8"], [True, 16, 32], 8],
    "score_threshold": ["0.3", 30, -0.1, float("nan"), True, None, 10**400],
    "nms_iou": [60, "0.6", -1],
    "nms_candidates_per_level": [0, -1, 1.5, "1000"],
    "max_boxes": [-5, 0, 1.5, True],
    "own_keypoints": [[], "x", {}, {"keypoints": "abc"}, {"keypoints": ["a"], "sigmas": 3}],
    "constants": ["c", [3], [{"name": "c"}]],
}


@pytest.mark.parametrize("key", WRONG)
def test_every_key_of_a_spec_refuses_other_values_by_its_name(key: str) -> None:
    makes = {"heatmap_refinement": heatmap_spec, "heatmap_blur_kernel": heatmap_spec}
    whole_images = {"letterbox", "pad_value", "strides", "nms_iou", "class_names", "max_boxes"}
    make = makes.get(key, detector_spec if key in whole_images else pose_spec)
    for value in WRONG[key]:
        data = json.loads(json.dumps(make().to_json())) | {key: value}
        with pytest.raises(SpecError) as caught:
            ModelSpec.from_json(data, where="spec.json")
        message = str(caught.value)
        assert message.startswith("spec.json: ") and "\n" not in message, value
        assert key in message, value
        assert len(message) < 500


def test_the_table_has_every_key_of_a_spec_and_of_a_profile() -> None:
    assert set(WRONG) == set(SPEC_KEYS) == {field.name for field in fields(ModelSpec)}
    assert set(PROFILE_KEYS) == {field.name for field in fields(Profile)} - {"name"}


def test_grey_levels_are_told_from_fractions() -> None:
    with pytest.raises(SpecError, match=r"multiply both by 255 \(mean \[123\.675, 116\.28, 103"):
        pose_spec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with pytest.raises(SpecError, match="for pixels of"):
        pose_spec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    with pytest.raises(SpecError, match="for pixels of"):
        pose_spec(mean=(0, 0, 0), std=(0.00392, 0.00392, 0.00392))
    for mean, std in (
        ((0, 0, 0), (1, 1, 1)),
        ((0, 0, 0), (255, 255, 255)),
        ((127.5,) * 3, (1,) * 3),
    ):
        assert pose_spec(mean=mean, std=std)


_CHANGES: list[Any] = [
    lambda d: d.update(failed="false"),
    lambda d: d.update(failed=0),
    lambda d: d.update(files=[]),
    lambda d: d["files"]["model"].update(sha256="abc"),
    lambda d: d.update(tools={"a": 1}),
    lambda d: d.update(source="x"),
    lambda d: d["spec"].update(std=[10**400, 1, 1]),
    lambda d: d["spec"]["input"].update(shape=[1, 3, float("inf"), 192]),
    lambda d: d.update(parity=[]),
    lambda d: d.update(parity={"tensors": [1]}),
    lambda d: d.update(parity={"tensors": [{"name": "a"}]}),
    lambda d: d.update(parity={"fp16_peak": 3}),
    lambda d: d.update(parity={"failures": 7}),
    lambda d: d.update(arm={"tried": [1]}),
    lambda d: d.update(arm={"tried": {"fp16": 1}}),
    lambda d: d.update(arm={"text": None}),
    lambda d: d.update(accuracy={"summary": 1}),
    lambda d: d.update(quantisation={"float_parts": 1}),
]


@pytest.mark.parametrize("number_of_change", range(len(_CHANGES)))
def test_a_manifest_of_another_shape_is_one_line(
    tmp_path: Path, number_of_change: int, capsys: pytest.CaptureFixture[str]
) -> None:
    make_artifact(tmp_path)
    edit(tmp_path, _CHANGES[number_of_change])
    assert main(["info", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("edge: ") and error.count("\n") == 1 and MANIFEST in error


def test_info_shows_records_of_which_parts_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_artifact(tmp_path, parity={"passed": True}, arm={"checked": True}, accuracy={"a": 1})
    assert main(["info", str(tmp_path)]) == 0
    assert "parity: ?" in capsys.readouterr().out


def test_read_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"none\.json: cannot be read"):
        read_json(tmp_path / "none.json")
