"""``edge bench ARTIFACT`` on this machine: one line of JSON whatever the engine does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.cli import main
from edge.runner import noise
from edge.session import EngineSettings, open_session
from tests.stand_ins.python_runners import (
    SPEC,
    misbehaving_engine,
    python_environment,
    tiny_artifact,
)

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.alone

Capture = pytest.CaptureFixture[str]
SHORT = ["--warmup-seconds", "0", "--min-seconds", "0.02", "--min-count", "20", "--threads", "1"]

# Too few to tell other work on the machine by.
FEW = ["--min-seconds", "0"]


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work on the machine makes a run INVALID, which is not what these tests ask."""
    monkeypatch.setattr("edge.runner.spread_reasons", lambda *_: ())


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return tiny_artifact(tmp_path / "tiny").folder


def fails(capsys: Capture, *argv: Any) -> str:
    """Run a command that must exit 1 with one line and print nothing else; the line."""
    capsys.readouterr()
    assert main(["bench", *map(str, argv)]) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    (line,) = streams.err.strip().splitlines()
    assert line.startswith("edge: ")
    return line


def test_one_line_of_json(artifact: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["bench", str(artifact), "--json", *SHORT]) == 0
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    row = json.loads(text)
    assert (row["schema"], row["kind"]) == (1, "edgepose-python-runner")
    assert (row["model"], row["threads"], row["cpu_mask"]) == ("tiny", 1, None)
    assert row["engine"].startswith("onnxruntime ")
    assert row["python"] == ".".join(map(str, sys.version_info[:3]))
    assert row["input_shape"] == [1, 3, 64, 48]
    assert len(row["samples_ns"]) == len(row["starts_ns"]) >= 20
    assert row["starts_ns"][0] == 0
    assert sum(row["samples_ns"]) <= row["starts_ns"][-1] + row["samples_ns"][-1]
    assert row["starts_ns"][-1] + row["samples_ns"][-1] >= 0.02e9
    assert row["summary"]["min_ms"] == min(row["samples_ns"]) / 1e6
    assert row["settings"]["mode"] == "burst"
    assert row["load_ms"] > 0
    assert row["first_inference_ms"] > 0
    assert [output["name"] for output in row["outputs"]] == ["simcc_x", "simcc_y"]
    assert [output["shape"] for output in row["outputs"]] == [[1, 17, 96], [1, 17, 128]]
    assert all(output["same_in_last"] for output in row["outputs"])
    assert row["valid"]


def test_a_table(artifact: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["bench", str(artifact), *SHORT]) == 0
    rows = {line[:21].strip(): line[21:] for line in capsys.readouterr().out.splitlines()}
    assert rows["model"] == "tiny"
    assert rows["verdict"] == "valid" and "not compared" in rows["warnings"]
    assert float(rows["min_ms"]) <= float(rows["p50_ms"]) <= float(rows["max_ms"])
    assert rows["samples"].isdigit()
    assert (rows["p99_ms"] == "too few samples") == (int(rows["samples"]) < 662)
    assert rows["output simcc_x"] == "[1, 17, 96] float32"


def test_answers_are_the_engine_s_own(artifact: Path, tmp_path: Path, capsys: Capture) -> None:
    images = [noise(SPEC), np.flip(noise(SPEC), 3).copy()]
    command = ["bench", str(artifact), "--json", "--answer-only", "--dump", str(tmp_path / "out")]
    for number, image in enumerate(images):
        np.save(tmp_path / f"{number}.npy", image)
        command += ["--input", str(tmp_path / f"{number}.npy")]
    capsys.readouterr()
    assert main(command) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["samples_ns"] == []
    import onnxruntime

    session = onnxruntime.InferenceSession(str(artifact / "tiny.onnx"))
    for output in row["outputs"]:
        (want,) = session.run([output["name"]], {"input": images[output["image"]]})
        got = np.load(tmp_path / "out" / output["file"])
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_disturbed_run_is_invalid_as_on_a_target(
    artifact: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "the samples scatter by 40% of their median (limit 15%): something else was running"
    monkeypatch.setattr("edge.runner.spread_reasons", lambda *_: (why,))
    monkeypatch.setattr("os.getloadavg", lambda: (3.5, 1.0, 1.0))
    capsys.readouterr()
    assert main(["bench", str(artifact), *SHORT]) == 1
    streams = capsys.readouterr()
    assert streams.err == f"edge: INVALID: {why}\n"
    rows = {line[:21].strip(): line[21:] for line in streams.out.splitlines()}
    assert (rows["verdict"], rows["reasons"]) == ("INVALID", str([why]))
    assert "the load before the run was 3.5: something else" in rows["warnings"]


def test_a_model_that_is_no_artifact(tiny_onnx: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["bench", str(tiny_onnx), "--json", *SHORT]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["model"], row["inference_precision"]) == ("tiny", "fp32")


# An engine that misbehaves, in a process of its own


def runner(
    tmp_path: Path, artifact: Path, mode: str, *more: str
) -> subprocess.CompletedProcess[bytes]:
    folder = tmp_path / "engine"
    if not folder.is_dir():
        misbehaving_engine(folder)
    return subprocess.run(
        [sys.executable, "-m", "edge", "bench", str(artifact), "--json", *SHORT, *FEW, *more],
        env=python_environment(mode, folder),
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_nothing_else_gets_to_stdout(artifact: Path, tmp_path: Path) -> None:
    done = runner(tmp_path, artifact, "")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["engine"] == "onnxruntime 0.of-the-test"
    for text in (b"written to the descriptor", b"printed", b"held back by C", b"it computes"):
        assert text in done.stderr
        assert text not in done.stdout


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("nan", "output simcc_x holds 3 values that are not finite"),
        ("fickle", "output simcc_y was another one in the last inference"),
    ],
)
def test_an_invalid_figure_is_told_and_exits_1(
    artifact: Path, tmp_path: Path, mode: str, reason: str
) -> None:
    done = runner(tmp_path, artifact, mode)
    assert done.returncode == 1
    row = json.loads(done.stdout)
    assert not row["valid"]
    assert row["reasons"] == [reason]
    assert len(row["samples_ns"]) >= 20
    last = done.stderr.decode().splitlines()[-1]
    assert last == f"edge: INVALID: {reason}"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinities on this system")
def test_the_mask_holds_before_the_engine_is_loaded(artifact: Path, tmp_path: Path) -> None:
    """The engine starts a thread when it is imported."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU alone leaves nothing to choose")
    mask = f"{1 << max(os.sched_getaffinity(0)):x}"
    done = runner(tmp_path, artifact, "", "--cpu-mask", mask)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["cpu_mask"] == mask
    assert len(row["affinity"]) >= 2
    assert {*row["affinity"], *row["affinity_after"]} == {mask}
    # An engine that sets its own affinity.
    done = runner(tmp_path, artifact, "pins", "--cpu-mask", mask)
    assert done.returncode == 1
    assert re.search(rf"the CPU mask {mask} did not hold: a thread had \w+", done.stderr.decode())


def test_an_engine_that_fails(artifact: Path, tmp_path: Path) -> None:
    done = runner(tmp_path, artifact, "fails")
    assert (done.returncode, done.stdout) == (1, b"")
    last = done.stderr.decode().splitlines()[-1]
    assert last == "edge: ONNX Runtime cannot load tiny: no kernel for"


# Bad input


def test_bad_input(artifact: Path, tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "wrong.npy", np.zeros((1, 3, 32, 48), np.float32))
    np.save(tmp_path / "double.npy", noise(SPEC).astype(np.float64))
    np.save(tmp_path / "good.npy", noise(SPEC))
    wrong, double, good = (tmp_path / f"{name}.npy" for name in ("wrong", "double", "good"))
    for words, *options in (
        ("must have shape", "--input", wrong),
        ("must be float32", "--input", double),
        ("absent.npy: No such file", "--input", tmp_path / "absent.npy"),
        ("one image is timed", "--input", good, "--input", good),
        ("60 s or more without pauses", "--mode", "sustained", "--min-seconds", "1"),
        ("'min_count' must be a whole number from 1", "--min-count", "0"),
        ("is below min_duration_s", "--min-seconds", "9", "--max-seconds", "8"),
        ("one of fp32, fp16, bf16", "--inference-precision", "fp16-storage"),
        ("does not compute in bf16", "--inference-precision", "bf16"),
    ):
        line = fails(capsys, artifact, "--json", *options)
        assert words in line, line
    with pytest.raises(SystemExit) as usage:
        main(["bench", str(artifact), "--cpu-mask", "0xf0"])
    assert usage.value.code == 2
    assert "'0xf0' is no mask of CPUs in hexadecimal, like f0" in capsys.readouterr().err
    assert "no such file" in fails(capsys, tmp_path / "nothing")
    assert "name one ARTIFACT" in fails(capsys)
    assert not (tmp_path / "out").exists()


def test_a_changed_artifact_is_refused(artifact: Path, capsys: Capture) -> None:
    with (artifact / "tiny.onnx").open("ab") as file:
        file.write(b"x")
    assert "was changed since its conversion" in fails(capsys, artifact)


def test_stdout_is_back_afterwards(artifact: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(artifact), "--json", *SHORT]) == 0
    os.write(1, b"after\n")
    out = capfd.readouterr().out.splitlines()
    assert out[1:] == ["after"]
    with open_session(tiny_artifact(artifact.parent / "again"), EngineSettings(1)) as session:
        assert session.run({"input": noise(SPEC)})["simcc_x"].shape == (1, 17, 96)
