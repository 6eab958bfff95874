"""What an Android app ships: the folder, the archive, and what is refused."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edge.artifact import Artifact
from edge.errors import ArtifactError, SpecError
from targets.app.assets import MARKER, weight_table, write_assets
from targets.app.manifest import arithmetic_of, manifest_of
from tests.conftest import ROOT
from tests.stand_ins.asset_artifacts import SAFE, data_offset, make_artifact
from tests.stand_ins.command_line import run_edge
from tests.stand_ins.header_build import POSE


@pytest.fixture
def pair(tmp_path: Path) -> list[Artifact]:
    return [make_artifact(tmp_path / "in", name=name) for name in ("people", "pose")]


def all_files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_folder_holds_what_an_app_needs(pair: list[Artifact], tmp_path: Path) -> None:
    out = tmp_path / "dist" / "android"
    weights = write_assets(pair, out)
    files = all_files(out)
    marker = json.loads((out / MARKER).read_text())
    assert marker["files"] == {name: sha for name, sha in files.items() if name != MARKER}
    shipped = {name for name in files if name.startswith("assets/")}
    assert shipped == {
        *(f"assets/edgepose/people/{name}" for name in ("manifest.json", "people.param")),
        *("assets/edgepose/people/people.bin", "assets/edgepose/pose/pose.bin"),
        *(f"assets/edgepose/pose/{name}" for name in ("manifest.json", "pose.param")),
        "assets/edgepose/licences.txt",
    }
    assert weights == {name: (out / name).stat().st_size for name in shipped}
    assert files["assets/edgepose/pose/pose.bin"] == pair[1].sha256["pose.bin"]
    header = (ROOT / "targets/app/android/edgepose.hpp").read_bytes()
    assert (out / "include/edgepose.hpp").read_bytes() == header
    assert {"example/edgepose_jni.cpp", "example/EdgePose.kt"} < set(files)
    gradle = (out / "gradle/edgepose.gradle.kts").read_text()
    assert 'noCompress += listOf("bin", "json", "param", "txt")' in gradle
    licences = (out / "assets/edgepose/licences.txt").read_text(encoding="utf-8")
    for text in ("- people (ncnn-fp16), made of m.onnx", "Apache License", "BSD 3-Clause"):
        assert text in licences
    assert list((tmp_path / "dist").iterdir()) == [out]


def test_a_manifest_says_all_and_names_no_path_of_this_machine(pair: list[Artifact]) -> None:
    manifest = manifest_of(pair[1])
    assert manifest["spec"] == POSE.to_json()
    assert manifest["arithmetic"] == "fp16-storage"
    assert manifest["arm"] == {"checked": True, "text": "ARM: uses fp16-storage"}
    assert manifest["files"]["weights"] == {
        "name": "pose.bin",
        "sha256": pair[1].sha256["pose.bin"],
        "bytes": 3 * 9999,
    }
    assert manifest["keypoints"]["names"][0] == "nose"
    assert [3, 5] in manifest["keypoints"]["skeleton"]  # left ear and shoulder
    assert "/home" not in json.dumps(manifest)
    assert "keypoints" not in manifest_of(pair[0])


@pytest.mark.parametrize(
    ("variant", "arm", "want"),
    [
        ("ncnn-fp16", SAFE, "fp16-storage"),
        ("ncnn-fp16", {"checked": True, "safe": "fp16"}, "fp16"),
        ("ncnn-fp16", {}, "fp32"),
        ("ncnn-fp16", {"checked": False, "safe": None, "reason": "no QEMU"}, "fp32"),
        ("ncnn-fp32", {}, "fp32"),
        ("tflite-int8", {}, None),
    ],
)
def test_the_arithmetic_is_what_was_found_safe(
    tmp_path: Path, variant: str, arm: dict[str, Any], want: str | None
) -> None:
    assert arithmetic_of(make_artifact(tmp_path, variant=variant, arm=arm)) == want


def test_the_archive_is_stored_aligned_and_the_same_each_time(
    pair: list[Artifact], tmp_path: Path
) -> None:
    for out in ("a", "b"):
        write_assets(pair, tmp_path / out)
    first, second = (tmp_path / out / "edgepose-assets.aar" for out in "ab")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.testzip() is None
        entries = archive.infolist()
        content = {entry.filename: archive.read(entry) for entry in entries}
        with zipfile.ZipFile(archive.open("classes.jar")) as jar:
            assert not [name for name in jar.namelist() if name.endswith(".class")]
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    raw = first.read_bytes()
    want = {
        path.relative_to(tmp_path / "a").as_posix(): path.read_bytes()
        for path in (tmp_path / "a/assets").rglob("*")
        if path.is_file()
    }
    assert {name: data for name, data in content.items() if name.startswith("assets/")} == want
    assert {"AndroidManifest.xml", "R.txt", "classes.jar"} < set(content)
    for name, data in want.items():
        at = data_offset(first, name)
        assert at % 16384 == 0
        assert raw[at : at + len(data)] == data


def test_too_heavy_says_what_weighs_what_and_leaves_the_old_folder(
    pair: list[Artifact], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    weights = write_assets(pair, out)
    before = all_files(out)
    total = sum(weights.values()) / 1e6
    with pytest.raises(ArtifactError, match=r"more than the 0\.05 MB of --max-mb") as raised:
        write_assets(pair, out, max_mb=0.05)
    lines = str(raised.value).splitlines()
    assert len(lines) == 1 + len(weights) + 1
    assert f"{total:.3f} MB" in lines[-1]
    assert "people.bin" in lines[1]
    assert "pose.bin" in lines[2]
    assert all_files(out) == before
    write_assets(pair, out, max_mb=total + 1e-6)


def test_the_table_sums_up() -> None:
    assert weight_table({"b": 250_000, "a": 750_000}).splitlines() == [
        "    0.750 MB   75%  a",
        "    0.250 MB   25%  b",
        "    1.000 MB        in all",
    ]


def test_an_own_folder_is_written_anew(pair: list[Artifact], tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_assets(pair, out)
    write_assets(pair[:1], out)
    assert not (out / "assets/edgepose/pose").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda out: (out / MARKER).unlink(), "was not written by"),
        (lambda out: (out / "mine.txt").write_text("x"), "mine.txt is yours"),
        (lambda out: (out / "link").symlink_to(out.parent), "link is yours"),
        (lambda out: (out / "example/EdgePose.kt").write_text("x"), "EdgePose.kt is yours or was"),
        (lambda out: (out / MARKER).write_text("{"), "is damaged"),
        (lambda out: (out / MARKER).write_text('{"files": 3}'), f"its {MARKER} is damaged"),
    ],
)
def test_what_is_somebody_elses_stays(
    pair: list[Artifact], tmp_path: Path, spoil: Any, why: str
) -> None:
    out = tmp_path / "out"
    write_assets(pair, out)
    spoil(out)
    before = all_files(out)
    with pytest.raises(ArtifactError, match=why):
        write_assets(pair, out)
    assert all_files(out) == before


def test_a_file_or_a_link_is_no_folder_to_write(pair: list[Artifact], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for name in ("file", "link"):
        with pytest.raises(ArtifactError, match="exists and is no folder"):
            write_assets(pair, tmp_path / name)
    write_assets(pair, tmp_path / "there")  # an empty one is


def test_an_interrupted_write_leaves_nothing(
    pair: list[Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_assets(pair, out)
    before = all_files(out)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("targets.app.assets._write_marker", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_assets(pair, out)
    assert all_files(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(
    pair: list[Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_assets(pair, out)
    before = all_files(out)
    rename = Path.rename

    def refuse_new(self: Path, target: Path) -> Path:
        if target == out:
            asked.append(self)
            if len(asked) == 1:
                raise OSError(28, "No space left on device")
        return rename(self, target)

    asked: list[Path] = []
    monkeypatch.setattr("edge.files._exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(OSError, match="No space left"):
        write_assets(pair, out)
    assert all_files(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_artifacts_that_cannot_ship_are_refused(tmp_path: Path) -> None:
    cases = {
        "no artifacts": [],
        "openvino-fp16 does not run in an app": [
            make_artifact(tmp_path / "1", variant="openvino-fp16", arm={})
        ],
        "are both pose": [
            make_artifact(tmp_path / "2"),
            make_artifact(tmp_path / "2", variant="tflite-int8", arm={}),
        ],
        "cannot be an asset's name": [make_artifact(tmp_path / "3", name="_pose")],
        "no arithmetic keeps its answers": [
            make_artifact(tmp_path / "4", arm={"checked": True, "safe": None, "reason": "NaN"})
        ],
    }
    for why, artifacts in cases.items():
        with pytest.raises(ArtifactError, match=why):
            write_assets(artifacts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def run_command(*arguments: str) -> int:
    return run_edge("assets", *arguments)


def test_the_command_takes_what_convert_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="make them with `edge convert --target android`"):
        run_command()
    make_artifact(Path("build/android-sd865"), name="people", arm={})
    make_artifact(Path("build/android-sd865"))
    make_artifact(Path("build/android-sd865"), variant="tflite-int8", arm={})
    assert run_command() == 0
    printed = capsys.readouterr().out
    assert "people: computes in fp32 (ARM: not checked)" in printed
    assert "pose: computes in fp16-storage (ARM: uses fp16-storage)" in printed
    assert "in all" in printed
    folders = sorted(path.name for path in Path("dist/android/assets/edgepose").iterdir())
    assert folders == ["licences.txt", "people", "pose"]
    manifest = json.loads(Path("dist/android/assets/edgepose/pose/manifest.json").read_text())
    assert manifest["variant"] == "ncnn-fp16"

    assert run_command("build/android-sd865/pose-tflite-int8", "-o", "other") == 0
    assert Path("other/assets/edgepose/pose/pose.bin").is_file()
    with pytest.raises(SpecError, match="x86 is no Android target"):
        run_command("--target", "x86")
    with pytest.raises(ArtifactError, match="--max-mb"):
        run_command("--max-mb", "0.01")


@pytest.mark.parametrize("text", ["0", "-3", "nan", "much"])
def test_a_limit_is_a_positive_number(text: str) -> None:
    with pytest.raises(SystemExit):
        run_command("--max-mb", text)
