"""The Python runner over a transport: its command line, its line, and a session on top of them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import MANIFEST, Artifact
from edge.cli import main
from edge.cli.bench import _settings
from edge.cli.main import parse
from edge.errors import DeviceError, FeedError
from edge.latency import LatencySettings
from edge.runner import noise
from edge.session import EngineSettings, open_session
from targets.runners.placement import place_artifact
from targets.runners.python.call import finished_python_run, parse_python_line, python_argv
from targets.runners.python.session import PythonSession
from targets.transports.fake import FakeTransport
from targets.transports.local import LocalTransport, open_local
from targets.transports.transport import Done
from targets.verdict import mask_held
from tests.stand_ins.python_runners import SPEC, misbehaving_engine, tiny_artifact

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SHORT = LatencySettings(2, 0.0, 30, 0.05, 20.0)
FEEDS = {"input": noise(SPEC)}


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return tiny_artifact(tmp_path / "tiny")


@pytest.fixture
def line(artifact: Artifact, capfd: pytest.CaptureFixture[str]) -> str:
    """What a real run prints."""
    capfd.readouterr()
    command = ["bench", str(artifact.folder), "--json", "--min-seconds", "0", "--min-count", "3"]
    assert main([*command, "--threads", "1", "--warmup-seconds", "0"]) == 0
    return capfd.readouterr().out


def local(tmp_path: Path) -> LocalTransport:
    return open_local(tmp_path / "device")


def opened(transport: Any, artifact: Artifact, **options: Any) -> PythonSession:
    known: dict[str, Any] = {
        "python": (sys.executable,),
        "folder": str(artifact.folder),
        "threads": 1,
    }
    return PythonSession(transport, artifact, **(known | options))


# The command line and the line


def test_the_runner_takes_our_command_line() -> None:
    """Through its own parser: what we ask for is what it reads."""
    settings = LatencySettings(7, 0.25, 40, 65.5, 90.0, mode="sustained")
    argv = python_argv(
        ("/venv/bin/python", "-I"),
        "/a folder/$x",
        ["/in 1.npy"],
        threads=3,
        settings=settings,
        cpu_mask="f0",
        inference_precision="bf16",
        dump="/out",
        allow_failed=True,
    )
    assert argv[:5] == ["/venv/bin/python", "-I", "-m", "edge", "bench"]
    read = parse(argv[4:])
    assert (read.artifacts, read.input) == (["/a folder/$x"], [Path("/in 1.npy")])
    assert (read.threads, read.cpu_mask, read.inference_precision) == (3, "f0", "bf16")
    assert (read.json, read.allow_failed, read.answer_only) == (True, True, False)
    assert read.dump == Path("/out")
    assert _settings(read) == settings
    alone = parse(python_argv(("p",), "/a", [], threads=1)[3:])
    assert alone.answer_only


def test_a_line_as_it_is(line: str) -> None:
    run = parse_python_line(line, "here")
    data = json.loads(line)
    assert list(run.samples_ns) == data["samples_ns"]
    assert len(run.samples_ns) == 3
    assert run.input_shape == (1, 3, 64, 48)
    assert run.masks == (*data["affinity"], *data["affinity_after"])
    assert [output.name for output in run.outputs] == ["simcc_x", "simcc_y"]


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    def apply(line: str) -> str:
        data = json.loads(line)
        change(data)
        return json.dumps(data)

    return apply


SPOILT: dict[str, str | Callable[[str], str]] = {
    "nothing": "",
    "a crash": "Segmentation fault",
    "its first half": lambda line: line[: len(line) // 2],
    "its second half": lambda line: line[len(line) // 2 :],
    "an engine's log": lambda line: "[INFO] using 4 threads\n" + line,
    "two lines": lambda line: line + line,
    "a list": "[]",
    "deep": "[" * 100_000,
    "no number": '{"schema": NaN}',
    "no samples": changed(lambda data: data.pop("samples_ns")),
    "a negative sample": changed(lambda data: data["samples_ns"].append(-1)),
    "more samples than starts": changed(lambda data: data["samples_ns"].append(1)),
    "samples in words": changed(lambda data: data.update(samples_ns="many")),
    "the other runner": changed(lambda data: data.update(kind="edgepose-runner")),
    "its schema a text": changed(lambda data: data.update(schema="1")),
    "threads a flag": changed(lambda data: data.update(threads=True)),
    "a time in words": changed(lambda data: data.update(load_ms="fast")),
    "no mask": changed(lambda data: data.update(affinity=["no mask"])),
    "a path out": changed(lambda data: data["outputs"][0].update(file="../../etc/passwd.npy")),
    "another file": changed(lambda data: data["outputs"][0].update(file="passwd")),
    "less of an output": changed(lambda data: data["outputs"][0].pop("non_finite")),
}


@pytest.mark.parametrize("how", SPOILT)
def test_garbage_is_one_clear_line(line: str, how: str) -> None:
    spoilt = SPOILT[how]
    with pytest.raises(DeviceError) as caught:
        parse_python_line(spoilt if isinstance(spoilt, str) else spoilt(line), "ssh pi@board")
    text = str(caught.value)
    assert text.startswith("ssh pi@board: what the Python runner printed is not its one line")
    assert "\n" not in text
    assert len(text) < 500


def test_a_newer_runner(line: str) -> None:
    newer = changed(lambda data: data.update(schema=2, samples_ns="of another kind"))(line)
    with pytest.raises(DeviceError, match="speaks schema 2, this edgepose reads 1"):
        parse_python_line(newer, "ssh pi@board")


@pytest.mark.parametrize(
    ("code", "stderr", "words"),
    [
        (137, "", "was killed, as the kernel does when memory runs out"),
        (139, "some warning\n", "the engine crashed: some warning"),
        (132, "", "instructions that this CPU lacks"),
        (2, "usage: edge\nedge: error: unrecognized arguments: --input", "another version"),
        (1, "/v/bin/python: No module named edge\n", "failed: /v/bin/python: No module named edge"),
        (
            1,
            "INFO: noise\nedge: onnxruntime is not installed (No module named 'onnxruntime'): pip "
            "install 'edgepose[onnxruntime]'\nlater noise\n",
            "failed: onnxruntime is not installed",
        ),
        (9, "", r"failed \(exit 9\)"),
    ],
)
def test_a_runner_that_fails(code: int, stderr: str, words: str) -> None:
    done = Done(("python",), code, b"", stderr.encode())
    with pytest.raises(DeviceError, match=f"^ssh pi@board: .*{words}") as caught:
        finished_python_run(done, "ssh pi@board")
    assert "\n" not in str(caught.value)


def test_an_invalid_figure_is_a_run(line: str) -> None:
    invalid = changed(lambda data: data.update(reasons=["output x holds 3 values"]))(line)
    run = finished_python_run(Done(("python",), 1, invalid.encode(), b"edge: not valid\n"), "x")
    assert run.reasons == ("output x holds 3 values",)


# On this machine


def test_answers_are_those_of_the_session_here(artifact: Artifact, tmp_path: Path) -> None:
    transport = local(tmp_path)
    with opened(transport, artifact) as session:
        got = session.run(FEEDS)
        engine = session.engine
    with open_session(artifact, EngineSettings(1)) as here:
        want = here.run(FEEDS)
        assert engine == here.engine
    assert list(got) == ["simcc_x", "simcc_y"]
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)
    assert not list((tmp_path / "device/tmp").iterdir())


def test_several_images_at_one_start(artifact: Artifact, tmp_path: Path) -> None:
    images = [{"input": FEEDS["input"] * factor} for factor in (1.0, -1.0, 0.5)]
    images = [{"input": feeds["input"].astype(np.float32)} for feeds in images]
    images.append({"input": np.concatenate([feeds["input"] for feeds in images[:2]])})
    answers = opened(local(tmp_path), artifact).answers(images)
    with open_session(artifact, EngineSettings(1)) as here:
        for feeds, got in zip(images, answers, strict=True):
            for name, array in here.run(feeds).items():
                np.testing.assert_array_equal(got[name], array)


def test_a_timed_run(artifact: Artifact, tmp_path: Path) -> None:
    mask = None
    if hasattr(os, "sched_getaffinity"):
        mask = f"{1 << max(os.sched_getaffinity(0)):x}"
    timed = opened(local(tmp_path), artifact, cpu_mask=mask).measure(FEEDS, SHORT)
    assert timed.runner.name == "python"
    assert timed.engine.startswith("onnxruntime ")
    assert (timed.inference_precision, timed.threads) == ("fp32", 1)
    assert len(timed.samples_ns) == len(timed.starts_ns) >= 30
    assert timed.reasons == ()
    assert timed.outputs_finite
    assert timed.cold.load_ms is not None
    assert timed.cold.load_ms > 1
    assert timed.input_shape == (1, 3, 64, 48)
    if mask:
        assert timed.affinity is not None
        assert mask_held(mask, timed.affinity)
    assert int(str(timed.details["peak_memory_kb"])) > 10_000


def test_a_feed_that_does_not_fit_is_refused_here(artifact: Artifact) -> None:
    transport = FakeTransport()
    with pytest.raises(FeedError, match="must have shape"):
        opened(transport, artifact).run({"input": np.zeros((1, 3, 5, 5), np.float32)})
    assert transport.calls == []


def test_a_failed_artifact_says_so_to_the_runner(artifact: Artifact) -> None:
    from dataclasses import replace

    transport = FakeTransport({("python", ...): Done(("python",), 137, b"", b"")})
    for failed in (False, True):
        with pytest.raises(DeviceError):
            opened(transport, replace(artifact, failed=failed), python=("python",)).run(FEEDS)
    first, second = (argv for argv in transport.ran if argv[0] == "python")
    assert ("--allow-failed" in first, "--allow-failed" in second) == (False, True)


@pytest.fixture
def bad_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.setenv("PYTHONPATH", str(misbehaving_engine(tmp_path / "engine")))
    return lambda mode: monkeypatch.setenv("ENGINE_MODE", mode)


def test_engines_that_misbehave(
    artifact: Artifact, tmp_path: Path, bad_engine: Callable[[str], None]
) -> None:
    session = opened(local(tmp_path), artifact)
    bad_engine("")
    assert session.measure(FEEDS, SHORT).reasons == ()
    bad_engine("nan")
    timed = session.measure(FEEDS, SHORT)
    assert timed.reasons == ("output simcc_x holds 3 values that are not finite",)
    assert timed.outputs_finite is None
    # Answers come back as they are: parity judges them.
    assert np.isnan(session.run(FEEDS)["simcc_x"][0, 0, 0])
    bad_engine("killed")
    with pytest.raises(DeviceError, match="local: the Python runner was killed, as the kernel"):
        session.measure(FEEDS, SHORT)
    bad_engine("fails")
    with pytest.raises(DeviceError, match="local: the Python runner failed: ONNX Runtime cannot"):
        session.run(FEEDS)
    assert not list((tmp_path / "device/tmp").iterdir())


def test_a_runner_that_does_not_end(artifact: Artifact, tmp_path: Path) -> None:
    stuck = tmp_path / "stuck"
    stuck.write_text("#!/bin/sh\necho $$ >$0.pid\nsleep 600\n")
    stuck.chmod(0o755)
    session = opened(local(tmp_path), artifact, python=(str(stuck),), timeout_s=1.0)
    with pytest.raises(DeviceError, match=r"local: .* did not end within [01](\.\d+)? s"):
        session.run(FEEDS)
    pid = int((tmp_path / "stuck.pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIG_DFL)
    assert not list((tmp_path / "device/tmp").iterdir())


def test_no_python_there(artifact: Artifact, tmp_path: Path) -> None:
    session = opened(local(tmp_path), artifact, python=("/nowhere/bin/python", "-I"))
    with pytest.raises(DeviceError, match=r"no Python at /nowhere/bin/python: `edge clean`"):
        session.run(FEEDS)


def test_a_device_that_lies_about_its_answers(artifact: Artifact, line: str) -> None:
    """Dumps that are missing, damaged, of another shape or of another type."""
    data = json.loads(line)
    data.update(samples_ns=[], starts_ns=[])
    for number, output in enumerate(data["outputs"]):
        output["file"] = f"0-{number}.npy"
    good = np.zeros((1, 17, 96), np.float32)
    other = np.zeros((1, 17, 128), np.float32)

    def answer(first: bytes | None) -> str:
        def leave(argv: tuple[str, ...]) -> str:
            folder = argv[argv.index("--dump") + 1]
            if first is not None:
                transport.files[f"{folder}/0-0.npy"] = first
            transport.files[f"{folder}/0-1.npy"] = npy(other)
            return json.dumps(data)

        transport = FakeTransport({("python", ...): leave}, name="ssh pi@board")
        with pytest.raises(DeviceError) as caught:
            opened(transport, artifact, python=("python",)).run(FEEDS)
        assert not [path for path in transport.files if "/tmp/" in path[len("/data/local/tmp") :]]
        return str(caught.value)

    assert "pulling" in answer(None)
    assert "the dump of simcc_x cannot be read" in answer(npy(good)[:-8])
    assert "the dump of simcc_x cannot be read" in answer(b"")
    assert "is (1, 17, 128), the runner said (1, 17, 96)" in answer(npy(other))
    assert "as (1, 17, 96) float64, the spec says" in answer(npy(good.astype(np.float64)))
    data["outputs"].pop(0)
    assert "gave 'simcc_x' of tiny not at all" in answer(npy(good))


def npy(array: Any) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


# Artifacts on a device


def test_an_artifact_is_placed_once(artifact: Artifact) -> None:
    (artifact.folder / "private notes.txt").write_text("not for the device")
    transport = FakeTransport()
    seen: list[tuple[int, int]] = []
    folder = place_artifact(transport, artifact, on_progress=lambda *done: seen.append(done))
    assert folder == f"{transport.work_dir}/artifacts/0123456789abcdef"
    assert {path: transport.files[path] for path in transport.files} == {
        f"{folder}/{name}": (artifact.folder / name).read_bytes()
        for name in (MANIFEST, "tiny.onnx")
    }
    size = sum(len(data) for data in transport.files.values())
    assert seen[-1] == (size, size)
    pushes = [call for call in transport.calls if call.verb == "push"]
    assert place_artifact(transport, artifact) == folder
    assert [call for call in transport.calls if call.verb == "push"] == pushes
    # A check that was repeated rewrites the manifest alone.
    with (artifact.folder / MANIFEST).open("a") as file:
        file.write("\n")
    place_artifact(transport, artifact)
    new = [call for call in transport.calls if call.verb == "push"][len(pushes) :]
    assert [Path(call.argv[1]).name for call in new] == [MANIFEST]


def test_artifacts_without_a_key_do_not_meet(tmp_path: Path) -> None:
    transport = FakeTransport()
    first = tiny_artifact(tmp_path / "first", key="")
    second = tiny_artifact(tmp_path / "second", key="../../escape")
    folders = {place_artifact(transport, one) for one in (first, second)}
    assert len(folders) == 2
    assert all(
        folder.startswith(f"{transport.work_dir}/artifacts/") and ".." not in folder
        for folder in folders
    )


def test_on_this_machine_it_stays_where_it_is(artifact: Artifact, tmp_path: Path) -> None:
    assert place_artifact(local(tmp_path), artifact) == str(artifact.folder.resolve())
    assert not (tmp_path / "device").exists()
