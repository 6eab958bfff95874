"""``edge zoo`` and ``edge export``, and zoo names in other commands, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

onnx = pytest.importorskip("onnx")
cv2 = pytest.importorskip("cv2")

from converters.commands import conversions  # noqa: E402
from converters.zoo import models as zoo  # noqa: E402
from edge.cli import main  # noqa: E402
from tests.conftest import tiny_simcc_model  # noqa: E402
from tests.stand_ins.command_line import fails  # noqa: E402
from tests.stand_ins.sdk_bundles import in_folder, simcc_files  # noqa: E402

pytestmark = pytest.mark.long

Capture = pytest.CaptureFixture[str]

ZOO = """
[tiny]
description = "A tiny pose model"
task = "pose"
input_hw = [64, 48]
keypoint_set = "coco17"
archive = "https://models.invalid/some/where/tiny.zip"
ap = 12.3
ap_dataset = "nothing"
params_m = 0.01
source = "this test"

[tiny-weights]
description = "The same as a checkpoint"
task = "pose"
architecture = "rtmpose"
size = "t"
input_hw = [256, 192]
keypoint_set = "coco17"
checkpoint = "https://models.invalid/some/where/tiny-0123abcd.pth"
"""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of two models, and a mirror folder that has the first one's archive."""
    room = tmp_path / "room"
    room.mkdir()
    (room / "zoo.toml").write_text(ZOO)
    monkeypatch.setattr(zoo, "_FOLDER", room)
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("EDGEPOSE_MIRROR", str(folder))
    bundle = in_folder(tmp_path / "bundle", simcc_files([48, 64]), tiny_simcc_model())
    with zipfile.ZipFile(folder / "tiny.zip", "w") as archive:
        for path in sorted(bundle.iterdir()):
            archive.write(path, f"20230101/tiny/{path.name}")
    return folder


def printed(capsys: Capture, *argv: Any) -> str:
    capsys.readouterr()
    assert main([str(a) for a in argv]) == 0
    return capsys.readouterr().out


def test_list_and_show(mirror: Path, capsys: Capture) -> None:
    table = printed(capsys, "zoo")
    assert table == printed(capsys, "zoo", "list")
    row = next(line for line in table.splitlines() if line.startswith("tiny "))
    assert row.split() == ["tiny", "64x48", "coco17", "0.01", "-", "12.3", "zip"]
    details = printed(capsys, "zoo", "show", "tiny")
    assert "12.3 on nothing" in details
    assert "https://models.invalid/some/where/tiny.zip" in details
    assert "this test" in details
    both = json.loads(printed(capsys, "zoo", "--json"))
    assert both["tiny"]["params_m"] == 0.01
    assert list(json.loads(printed(capsys, "zoo", "show", "tiny-weights", "--json"))) == [
        "tiny-weights"
    ]
    del mirror


def test_fetch_puts_it_into_the_cache_once(mirror: Path, tmp_path: Path, capsys: Capture) -> None:
    path = Path(printed(capsys, "zoo", "fetch", "tiny").strip())
    assert path == tmp_path / "cache" / "tiny.zip"
    assert path.read_bytes() == (mirror / "tiny.zip").read_bytes()
    row = next(line for line in printed(capsys, "zoo").splitlines() if line.startswith("tiny "))
    assert row.endswith("zip*")
    (mirror / "tiny.zip").unlink()
    assert Path(printed(capsys, "zoo", "fetch", "tiny").strip()) == path


def test_what_cannot_be_fetched_says_what_to_do(mirror: Path, capsys: Capture) -> None:
    (mirror / "tiny.zip").unlink()
    line = fails_at_last(capsys, "zoo", "fetch", "tiny")
    assert "tiny.zip" in line
    assert "EDGEPOSE_MIRROR" in line
    assert "'tinny' is neither" in fails(capsys, "zoo", "fetch", "tinny")
    assert "edge zoo fetch NAME" in fails(capsys, "zoo", "fetch")
    assert "edge zoo show tiny" in fails(capsys, "zoo", "list", "tiny")
    line = fails(capsys, "zoo", "fetch", "tiny", "--what", "checkpoint")
    assert "tiny has no checkpoint" in line


def fails_at_last(capsys: Capture, *argv: Any) -> str:
    """The last line of a command that must exit 1; before it the kit may say what it is doing."""
    capsys.readouterr()
    assert main([str(a) for a in argv]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.startswith("edge: ") for line in lines].count(True) == 1
    return lines[-1]


def test_a_zoo_name_is_a_model_in_every_command(
    mirror: Path, tmp_path: Path, capsys: Capture
) -> None:
    from calibration.people.synthetic import crop_scene

    people = tmp_path / "people"
    people.mkdir()
    for index in range(3):
        cv2.imwrite(str(people / f"{index}.png"), crop_scene(3, index).image_bgr)
    build = tmp_path / "build"
    command = ["convert", "--model", "tiny", "--images", people, "--out", build, "--no-arm-check"]
    capsys.readouterr()
    assert main([str(a) for a in command]) == 0
    streams = capsys.readouterr()
    assert "fetching" in streams.err
    assert "tiny.zip" in streams.err
    assert "pass: " in streams.out
    artifact = build / "android-sd865" / "tiny-ncnn-fp16"
    assert "simcc" in printed(capsys, "info", artifact)
    run = ["run", "--model", "tiny", "--out", tmp_path / "run", people / "0.png"]
    assert "1 person" in printed(capsys, *run)
    main(["bench", "tiny", "--min-seconds", "0.05"])  # INVALID beside other work, and timed
    assert "p50_ms" in capsys.readouterr().out
    # The archive itself, and the folder that it was packed from, are models too.
    for model in (mirror / "tiny.zip", tmp_path / "bundle"):
        out = tmp_path / f"build-{model.name}"
        command = ["convert", "--model", model, "--images", people, "--out", out]
        assert "pass: " in printed(capsys, *command, "--no-arm-check")


def test_the_default_is_the_demo_pair(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    """Without --model both demo models; whoever names a model gets that one alone."""
    asked: list[str] = []

    class AskedError(Exception):
        """The names are all that this test is after."""

    def note(text: str, **options: Any) -> Any:
        del options
        asked.append(text)
        if text != "rtmpose-t-demo":
            raise AskedError
        return zoo_source(text)

    zoo_source: Callable[[str], Any] = zoo.find_source
    monkeypatch.setattr(conversions, "find_source", note)
    with pytest.raises(AskedError):
        main(["convert", "--out", str(tmp_path)])
    assert asked == ["rtmpose-t-demo", "rtmdet-nano-demo"]
    asked.clear()
    with pytest.raises(AskedError):
        main(["convert", "--model", "other", "--out", str(tmp_path)])
    assert asked == ["other"]
    capsys.readouterr()


def test_listing_loads_nothing_heavy() -> None:
    """What keeps it under 0.3 s: no tool, no engine and no torch is imported."""
    code = (
        "import sys\nfrom edge.cli import main\nmain(['zoo', 'list'])\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'cv2', 'ncnn', 'onnxslim', 'pnnx'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert "rtmpose-m " in done.stdout


# --- with PyTorch ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    from converters.architectures.rtmpose import RTMPose

    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.manual_seed(0)
    torch.save({"state_dict": RTMPose("t", (256, 192), 21).state_dict(), "meta": {}}, path)
    return path


def test_export_says_what_it_found(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "hand.onnx"
    text = printed(capsys, "export", checkpoint, "-o", out)
    assert f"pose, codec simcc, 256x192, hand21 -> {out}" in text
    model = onnx.load(out)
    assert [value.name for value in model.graph.output] == ["simcc_x", "simcc_y"]
    # A converted file knows what it is without being told.
    spec = json.loads(next(p.value for p in model.metadata_props if p.key == "edgepose.spec"))
    assert (spec["name"], spec["keypoint_set"]) == ("hand", "hand21")


def test_export_refuses_contradictions(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "x.onnx"
    for options, words in (
        (["--keypoints", 17], ("21", "17")),
        (["--variant", "m"], ("RTMPose-t", "m")),
        (["--size", "384x288"], ("256x192", "384x288")),
        (["--keypoint-set", "coco17"], ("21", "17")),
        (["--backbone"], ("whole model", "--backbone")),
    ):
        line = fails(capsys, "export", checkpoint, "-o", out, *options)
        assert all(word in line for word in words), line
        assert not list(tmp_path.iterdir())
    absent = fails(capsys, "export", tmp_path / "absent.pth")
    assert "neither a checkpoint file nor a zoo model" in absent
    assert ".onnx" in fails(capsys, "export", checkpoint, "-o", tmp_path / "x.bin")
    (tmp_path / "cut.pth").write_bytes(checkpoint.read_bytes()[:100_000])
    assert "cut.pth" in fails(capsys, "export", tmp_path / "cut.pth", "-o", out)
    assert not out.exists()


def test_counts_stand_beside_the_published_ones(capsys: Capture) -> None:
    pytest.importorskip("torch")
    rows = {row["name"]: row for row in json.loads(printed(capsys, "zoo", "--counts", "--json"))}
    assert rows["rtmpose-m"]["params_equal"] is rows["rtmpose-m"]["flops_equal"] is True
    assert rows["rtmpose-m-wholebody"]["parameters"] == 17_953_039
    assert rows["rtmpose-m-wholebody"]["flops_g"] == 2.22
    assert "2.2045" in rows["rtmpose-m-wholebody"]["note"]
    assert len(rows) > 50
