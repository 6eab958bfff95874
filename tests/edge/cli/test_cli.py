"""The command line as a user meets it: exit codes, one clear line, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edge.artifact import MANIFEST, load_artifact
from edge.cli import main
from tests.conftest import ROOT, heed_interrupts, tiny_simcc_model
from tests.stand_ins.command_line import (
    fails,
    people,  # noqa: F401
)

cv2 = pytest.importorskip("cv2")
onnx = pytest.importorskip("onnx")
pytest.importorskip("ncnn")
if find_spec("pnnx") is None:
    pytest.skip("pnnx is not installed", allow_module_level=True)


@pytest.fixture
def built(tmp_path: Path, tiny_onnx: Path, people: Path) -> Path:
    """A converted tiny model."""
    command = ["convert", "--model", str(tiny_onnx), "--out", str(tmp_path / "build")]
    assert main([*command, "--images", str(people), "--no-arm-check"]) == 0
    return tmp_path / "build" / "android-sd865" / "tiny-ncnn-fp16"


def test_convert_prints_rows_and_what_comes_next(
    tiny_onnx: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", "--model", str(tiny_onnx), "--out", str(tmp_path / "build")]
    assert main([*command, "--images", str(people), "--no-arm-check"]) == 0
    built = tmp_path / "build" / "android-sd865" / "tiny-ncnn-fp16"
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if not line.startswith("note: ")]
    assert rows[0] == ["model", "step", "time", "size", "verdict"]
    assert [row[1] for row in rows[1:4]] == ["prepare", "ncnn-fp16", "parity"]
    assert "pass: " in out
    assert str(built) in out
    assert " run --model " in out
    assert load_artifact(built).spec.name == "tiny"


def test_convert_json(
    tiny_onnx: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", "--model", str(tiny_onnx), "--out", str(tmp_path / "b"), "--json"]
    assert main([*command, "--images", str(people), "--formats", "onnx-fp32", "--name", "x"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows] == ["prepare", "onnx-fp32", "parity"]
    assert (tmp_path / "b" / "android-sd865" / "x-onnx-fp32" / "x.onnx").is_file()


def test_run_writes_pictures_and_keypoints(
    built: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["run", "--model", str(built), "--out", str(out), str(people)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["0.png", "1.png", "2.png", "poses.json"]
    before, after = cv2.imread(str(people / "0.png")), cv2.imread(str(out / "0.png"))
    assert before.shape == after.shape
    assert (before != after).any()
    data = json.loads((out / "poses.json").read_text())
    assert data["keypoint_set"] == "coco17"
    person = data["pictures"][0]["people"][0]
    assert person["box_xyxy"] == [0, 0, before.shape[1], before.shape[0]]
    assert len(person["keypoints"]) == 17
    assert len(person["keypoints"]["left_wrist"]) == 3
    assert "1 person" in capsys.readouterr().out


def test_run_json_is_what_coco_tools_read(
    built: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    out = tmp_path / "out"
    assert main(["run", "--model", str(built), "--out", str(out), str(people), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((out / "coco_results.json").read_text())
    coco_module = pytest.importorskip("pycocotools.coco")
    coco = coco_module.COCO()
    coco.dataset = {
        "images": [{"id": i, "height": 320, "width": 256} for i in range(4)],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    coco.createIndex()
    loaded = coco.loadRes(results)
    assert len(loaded.getAnnIds()) == 3
    assert [r["image_id"] for r in results] == [0, 1, 2]


def test_run_takes_an_untouched_onnx_file(
    tiny_onnx: Path, built: Path, people: Path, tmp_path: Path
) -> None:
    for name, model in (("a", tiny_onnx), ("b", built)):
        command = ["run", "--model", str(model), "--out", str(tmp_path / name), str(people)]
        assert main(command) == 0
    a, b = (json.loads((tmp_path / n / "poses.json").read_text()) for n in ("a", "b"))
    points = [
        np.array([list(p["people"][0]["keypoints"].values()) for p in poses["pictures"]])
        for poses in (a, b)
    ]
    scale = 320 / 64 * 1.25
    assert np.abs(points[0] - points[1])[..., :2].max() <= 1.0 * scale


def test_info_shows_everything(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(built)]) == 0
    text = capsys.readouterr().out
    artifact = load_artifact(built)
    for word in (*artifact.sha256.values(), artifact.source["sha256"], "simcc", "pnnx", "pass: "):
        assert word in text
    assert main(["info", str(built), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((built / MANIFEST).read_text())


def test_verify_repeats_and_fails_on_wrong_answers(
    built: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(built), "--images", str(people)]) == 0
    assert "parity: pass" in capsys.readouterr().out
    # The same network after a tampering that also mends the hashes.
    from edge.artifact import Artifact, sha256_of

    artifact = load_artifact(built)
    weights = bytearray(artifact.path("weights").read_bytes())
    half = np.frombuffer(weights, np.float16)[2:1000]
    half[:] *= 3
    artifact.path("weights").write_bytes(weights)
    hashes = {name: sha256_of(built / name) for name in artifact.files.values()}
    Artifact(**{**artifact.__dict__, "sha256": hashes}).write_manifest()
    assert main(["verify", str(built), "--images", str(people)]) == 1
    err = capsys.readouterr().err
    assert "the answers changed" in err
    assert " px off" in err


def test_latency_of_an_artifact(
    built: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other work on the machine makes a run INVALID, which is not what is asked here.
    monkeypatch.setattr("edge.runner.spread_reasons", lambda *_: ())
    capsys.readouterr()
    assert main(["bench", str(built), "--min-seconds", "0.05", "--threads", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    figures, samples = row["summary"], len(row["samples_ns"])
    assert figures["count"] == samples >= 50
    assert 0 < figures["min_ms"] <= figures["p50_ms"] <= figures["max_ms"]
    assert (figures["p90_ms"] is None) == (samples < 64)
    assert (figures["p99_ms"] is None) == (samples < 662)
    assert row["inference_precision"] == "fp32" or os.uname().machine == "aarch64"


def test_bf16_is_for_openvino(
    built: Path, tiny_onnx: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = built.parents[1]
    command = ["convert", "--model", str(tiny_onnx), "--formats", "openvino-fp16"]
    assert main([*command, "--images", str(people), "--out", str(out)]) == 0
    artifact = built.with_name("tiny-openvino-fp16")
    short = ["--min-seconds", "0.05", "--threads", "1", "--json"]

    def precision(*more: str) -> str:
        capsys.readouterr()
        main(["bench", str(artifact), *short, *more])  # 1 beside other work, as an INVALID run
        return str(json.loads(capsys.readouterr().out)["inference_precision"])

    assert precision() in ("fp32", "fp16")
    from edge.engines.openvino import import_openvino

    known = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    want = "bf16" if "BF16" in known else "fp32"
    assert precision("--inference-precision", "bf16") == want
    bf16 = ["--inference-precision", "bf16"]
    main(["verify", str(artifact), "--images", str(people), *bf16])
    assert f" computing in {want} on " in capsys.readouterr().out
    for model in (built, tiny_onnx):
        line = fails(capsys, "bench", model, *short, *bf16)
        assert "does not compute in bf16" in line


def test_synthetic_writes_a_coco_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data"
    assert main(["synthetic", "--out", str(out), "--count", "2", "--crops"]) == 0
    data = json.loads((out / "annotations.json").read_text())
    assert len(data["images"]) == 2
    for image in data["images"]:
        assert cv2.imread(str(out / image["file_name"])).shape[:2] == (
            image["height"],
            image["width"],
        )
    assert "2 pictures with 2 people" in capsys.readouterr().out


# --- bad input ------------------------------------------------------------------------------------


def test_bad_models(
    tmp_path: Path, tiny_onnx: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "build"
    cases: list[tuple[str, str]] = []
    (tmp_path / "text.onnx").write_text("hello, this is no model at all")
    cases.append(("text.onnx", "not an ONNX file"))
    data = tiny_onnx.read_bytes()
    (tmp_path / "half.onnx").write_bytes(data[: len(data) // 2])
    cases.append(("half.onnx", "truncated"))
    model = tiny_simcc_model()
    model.graph.node[0].domain = "mmdeploy"
    model.graph.node[0].name = "first"
    onnx.save(model, str(tmp_path / "custom.onnx"))
    cases.append(("custom.onnx", "'first' is the custom operator mmdeploy::Conv"))
    model = tiny_simcc_model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
    onnx.save(model, str(tmp_path / "five.onnx"))
    cases.append(("five.onnx", "the input is not an image"))
    cases.append(("absent.onnx", "no such file"))
    for name, words in cases:
        for command in (["convert", "--out", out], ["run", "--out", out, people]):
            line = fails(capsys, *command, "--model", tmp_path / name)
            assert words in line, line
            assert str(tmp_path / name) in line
            assert not out.exists(), name


def test_unknown_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", tmp_path / "build"]
    line = fails(capsys, "convert", "--target", "toaster", *out)
    assert "unknown target 'toaster'" in line
    line = fails(capsys, "convert", "--model", "rtmpose-xxl", *out)
    assert "'rtmpose-xxl' is neither a zoo model nor a file; did you mean rtmpose-" in line
    line = fails(capsys, "convert", "--formats", "ncnn-fp17", *out)
    assert "unknown variant 'ncnn-fp17'" in line
    assert "unknown variant ''" in fails(capsys, "convert", "--formats", "", *out)
    line = fails(capsys, "convert", "--formats", "tensorrt-fp32", *out)
    assert "tensorrt has tensorrt-fp16, tensorrt-int8" in line
    assert not (tmp_path / "build").exists()


def test_bad_artifacts(
    built: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    commands = (["info", built], ["verify", built], ["run", "--model", built, "--out", out, people])

    def all_fail(words: str) -> None:
        for command in commands:
            assert words in fails(capsys, *command)
        assert not out.exists()

    weights = built / "tiny.bin"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    all_fail("tiny.bin was changed")
    weights.write_bytes(good)
    manifest = json.loads((built / MANIFEST).read_text())
    (built / MANIFEST).write_text(json.dumps(manifest | {"schema": 99}))
    all_fail("newer edgepose (schema 99")
    (built / MANIFEST).write_text(json.dumps(manifest | {"failed": True}))
    all_fail("--allow-failed")
    (built / MANIFEST).unlink()
    all_fail("no artifact.json here")


def test_bad_pictures(
    built: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run = ["run", "--model", built, "--out", out]
    (tmp_path / "no.jpg").write_bytes(b"not a picture")
    assert "no.jpg: not an image" in fails(capsys, *run, tmp_path / "no.jpg")
    (tmp_path / "none.jpg").write_bytes(b"")
    assert "none.jpg: not an image" in fails(capsys, *run, tmp_path / "none.jpg")
    assert "absent.jpg: no such file" in fails(capsys, *run, tmp_path / "absent.jpg")
    (tmp_path / "empty").mkdir()
    assert "no image in this folder" in fails(capsys, *run, tmp_path / "empty")
    assert "two pictures are called 0.png" in fails(capsys, *run, people, people / "0.png")
    line = fails(capsys, "run", "--model", built, "--out", people, people / "0.png")
    assert "would overwrite it" in line
    assert not out.exists()


def test_no_room_to_write(
    tiny_onnx: Path, built: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    line = fails(
        capsys, *("convert", "--model", tiny_onnx, "--images", people, "--out", blocked / "build")
    )
    assert str(blocked) in line
    line = fails(capsys, "run", "--model", built, "--out", blocked / "out", people)
    assert str(blocked) in line


def test_a_write_that_the_system_refuses_half_way(
    tiny_onnx: Path, people: Path, tmp_path: Path
) -> None:
    """A limit on file sizes stands in for a full disk: the same call fails, in the same place."""
    out = tmp_path / "build"
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from edge.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "convert", "--model", str(tiny_onnx)]
    done = subprocess.run(
        [*command, "--images", str(people), "--out", str(out)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == ["edge: File too large"]
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_no_write_permission(
    tiny_onnx: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root may write everywhere, so the command runs with the rights of nobody."""
    command = ["convert", "--model", str(tiny_onnx), "--images", str(people), "--no-arm-check"]
    assert main([*command, "--out", str(tmp_path / "open")]) == 0
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/") and folder.stat().st_uid == 0:
            folder.chmod(0o755)
    os.seteuid(65534)
    try:
        line = fails(capsys, *command, "--out", closed / "build")
    finally:
        os.seteuid(0)
    assert "Permission denied" in line
    assert not list(closed.iterdir())


def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["frobnicate"], ["run"], ["convert", "--size", "320"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
    assert "HxW" in capsys.readouterr().err


def test_a_size_that_the_file_cannot_take_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", "--model", "rtmpose-t-demo", "--size", "320x320"]
    line = fails(capsys, *command, "--out", tmp_path / "build")
    assert "fixed at 256x192" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(
    tiny_onnx: Path, people: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """A real process, stopped while a converter that never ends is running."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "import converters.convert as convert\n"
        "def slow(job):\n"
        "    (job.folder / 'half').write_text('half')\n"
        "    print('working', flush=True)\n"
        "    time.sleep(60)\n"
        "convert.CONVERTERS['ncnn-fp16'] = convert.Route(slow)\n"
        "from edge.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out = tmp_path / "build"
    command = [sys.executable, str(script), "convert", "--model", str(tiny_onnx)]
    with subprocess.Popen(
        [*command, "--images", str(people), "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    ) as process:
        assert process.stdout is not None
        assert any("working" in line for line in process.stdout)
        time.sleep(0.2)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "edge: interrupted; nothing half-written was left"
    assert [p for p in out.rglob("*") if p.is_file()] == []
