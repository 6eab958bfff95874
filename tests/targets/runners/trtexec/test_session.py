"""Answers and times of trtexec on a device: a stand-in of several versions, true answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.graph.prepare import prepare
from converters.parity.parity import check_parity
from edge.artifact import Artifact
from edge.errors import ArtifactError, DeviceError, FeedError, SpecError
from edge.latency import LatencySettings
from tests.stand_ins import trtexec_stand_in as stand_in
from tests.stand_ins.trtexec_board import SHORT, VERSIONS, Board, Kits, Version, noise

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Kits:
    return Kits(tmp_path_factory.mktemp("kits"))


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    return Board(tmp_path, monkeypatch)


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_answers_are_the_networks(board: Board, kits: Kits, version: Version) -> None:
    board.install(version)
    session = board.open(kits.one)
    assert session.engine == f"TensorRT {'.'.join(map(str, version))}"
    assert (session.machine, session.max_batch) == ("local", 1)
    assert session.inference_precision == "fp16"
    got = session.run({"input": kits.image})
    want = kits.answers(kits.image)
    assert list(got) == [tensor.name for tensor in kits.one.spec.outputs]
    for name, value in got.items():
        assert value.dtype == np.float32
        # From 11 on the file is one in FP16; before it is float32, printed with six digits.
        limit = 2e-3 if version >= (11,) else 6e-6
        assert np.abs(value - want[name]).max() <= limit * np.abs(want[name]).max()
    assert board.clean()


@pytest.mark.parametrize("version", [(8, 5, 2), (11, 4, 0)], ids=str)
def test_a_session_is_judged_like_any_other(board: Board, kits: Kits, version: Version) -> None:
    board.install(version)
    prepared = prepare(kits.source, "tiny", batch=1)
    session = board.open(kits.one)
    report = check_parity(
        prepared,
        onnx.load(kits.source),
        session,
        "fp16",
        noise(kits.one.spec, 2),
        "noise",
        session.machine,
    )
    assert report.passed, report.failures
    assert report.engine == session.engine


def test_more_images_than_the_engine_takes_go_in_turns(board: Board, kits: Kits) -> None:
    board.install()
    images = np.concatenate([one.feeds["input"] for one in noise(kits.open.spec, 10)])
    session = board.open(kits.open)
    assert session.max_batch is None
    got = session.run({"input": images})
    runs = board.calls("--exportOutput")
    shapes = [word for words in runs for word in words if word.startswith("--shapes=")]
    assert shapes == ["--shapes=input:8x3x64x48", "--shapes=input:2x3x64x48"]
    want = kits.answers(images)["simcc_y"]
    np.testing.assert_allclose(got["simcc_y"], want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_an_open_batch_can_be_closed(board: Board, kits: Kits) -> None:
    board.install()
    session = board.open(kits.open, batch=2)
    assert session.max_batch == 2
    two = np.repeat(kits.image, 2, axis=0)
    assert session.run({"input": two})["simcc_x"].shape[0] == 2
    with pytest.raises(FeedError, match="takes batches of 2, got 1"):
        session.measure({"input": kits.image}, SHORT)
    (words,) = board.calls("--onnx")
    shapes = [word for word in words if "Shapes=" in word]
    assert shapes == [f"--{which}Shapes=input:2x3x64x48" for which in ("min", "opt", "max")]
    with pytest.raises(SpecError, match="the batch is fixed at 1, not 2"):
        board.open(kits.one, batch=2)
    with pytest.raises(SpecError, match="1 image or more, got 0"):
        board.open(kits.open, batch=0)


def test_a_wrong_feed_never_reaches_the_device(board: Board, kits: Kits) -> None:
    board.install()
    session = board.open(kits.one)
    before = len(stand_in.calls(board.program))
    for call in (session.run, lambda feeds: session.measure(feeds, SHORT)):
        with pytest.raises(FeedError, match="must be float32"):
            call({"input": kits.image.astype(np.float64)})
    assert len(stand_in.calls(board.program)) == before


def test_an_artifact_that_is_no_kit_is_refused(board: Board, kits: Kits, tmp_path: Path) -> None:
    board.install()
    built = Artifact(tmp_path, kits.one.variant, kits.one.spec, {"engine": "x.engine"}, {})
    with pytest.raises(ArtifactError, match="has no 'build' file"):
        board.open(built)


# --- command lines --------------------------------------------------------------------------------

# (after --onnx and --saveEngine, of the measurement after --iterations), by the help of each
# version: fp16 by flag and a float32 file up to 10, transfers told to 11 which leaves them out.
WORDS: dict[Version, tuple[str, list[str], list[str]]] = {
    (8, 2, 1): ("plain", ["--workspace=1024", "--fp16", "--buildOnly"], ["--useSpinWait"]),
    (8, 4, 1): (
        "plain",
        ["--memPoolSize=workspace:1024", "--fp16", "--buildOnly"],
        ["--useSpinWait"],
    ),
    (8, 5, 2): (
        "plain",
        ["--memPoolSize=workspace:1024", "--fp16", "--buildOnly"],
        ["--useSpinWait"],
    ),
    (8, 6, 1): (
        "plain",
        ["--memPoolSize=workspace:1024", "--fp16", "--skipInference"],
        ["--useSpinWait"],
    ),
    (10, 3, 0): (
        "plain",
        ["--memPoolSize=workspace:1024", "--fp16", "--skipInference"],
        ["--useSpinWait"],
    ),
    (11, 4, 0): (
        "strong",
        ["--memPoolSize=workspace:1024", "--skipInference"],
        ["--includeDataTransfers", "--noCudaGraph"],
    ),
}


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_each_version_hears_its_own_words(board: Board, kits: Kits, version: Version) -> None:
    typing, build, time = WORDS[version]
    board.install(version)
    session = board.open(kits.one)
    session.measure({"input": kits.image}, LatencySettings(3, 0.25, 40, 2.2, 9.0, pause_s=0.01))
    (built,), (timed,) = board.calls("--onnx"), board.calls("--exportTimes")
    scratch = built[1].removeprefix("--saveEngine=").removesuffix("/network.engine")
    assert Path(scratch).parent == board.work / "tmp"
    assert built == [
        f"--onnx={kits.one.folder}/tiny-fp16.{typing}.onnx",
        f"--saveEngine={scratch}/network.engine",
        *build,
        f"--timingCacheFile={scratch}/timing-cache",
    ]
    (engine,) = (board.work / "engines").glob("*.engine")
    scratch = timed[-1].removeprefix("--exportOutput=").removesuffix("/last.json")
    assert timed == [
        f"--loadEngine={engine}",
        *("--warmUp=250", "--duration=3", "--iterations=45"),
        *time,
        f"--exportTimes={scratch}/times.json",
        f"--loadInputs=input:{scratch}/input.bin",
        "--idleTime=10",
        f"--exportOutput={scratch}/last.json",
    ]


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ((8, 2, 1), "--memPoolSize=workspace:1"),
        ((8, 5, 2), "--skipInference"),
        ((10, 3, 0), "--workspace=1"),
        ((10, 3, 0), "--includeDataTransfers"),
        ((11, 4, 0), "--fp16"),
    ],
)
def test_the_stand_in_knows_no_option_of_another_version(
    board: Board, version: Version, option: str
) -> None:
    board.install(version)
    done = board.transport.run([str(board.program), option], timeout_s=30)
    assert done.returncode == 1
    assert b"[E] Unknown option: " + option.partition("=")[0].encode() in done.stderr


# --- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_times_are_those_that_trtexec_exported(board: Board, kits: Kits, version: Version) -> None:
    board.install(version)
    session = board.open(kits.one)
    run = session.measure({"input": kits.image}, SHORT)
    rows = stand_in.exported_times(board.program)
    warm = [row for row in rows if row["startComputeMs"] < 200]
    timed = [row for row in rows if row["startComputeMs"] >= 200]
    assert bool(warm) == (version < (8, 5))
    assert run.samples_ns == tuple(round(row["latencyMs"] * 1e6) for row in timed)
    assert run.starts_ns[0] == 0
    want = [(row["startH2dMs"] - timed[0]["startH2dMs"]) * 1e6 for row in timed]
    np.testing.assert_allclose(run.starts_ns, want, atol=1)
    # 2 ms of computing between 0.25 ms and 0.125 ms of transfers, one after the other for 1 s.
    assert len(run.samples_ns) == pytest.approx(1000 / 2.385, rel=0.02)
    p50_ms = float(np.percentile(run.samples_ns, 50, method="inverted_cdf")) / 1e6
    assert p50_ms == pytest.approx(2.385, abs=0.01)
    assert run.details["gpu_compute_p50_ms"] == pytest.approx(2.0, rel=0.01)
    assert run.details["h2d_p50_ms"] == pytest.approx(0.255, abs=0.005)
    assert run.details["d2h_p50_ms"] == pytest.approx(0.13, abs=0.005)
    assert (run.runner.name, run.runner.version) == ("trtexec", ".".join(map(str, version)))
    assert (run.on_cpu, run.affinity, run.threads, run.input_shape) == (
        *(False, None, 1),
        (1, 3, 64, 48),
    )
    assert (run.outputs_finite, run.reasons, run.warnings) == (True, (), ())
    # Read and made ready; 8.2 and 8.4 do both in one.
    load_ms = 1617.26 if version < (8, 5) else 36.6376 + 32.6257
    assert run.cold.load_ms == pytest.approx(load_ms)
    assert run.cold.first_inference_ms is None
    assert str(run.details["trtexec_flags"]).startswith("--warmUp=200 --duration=1 --iterations=57")
    assert board.clean()


def test_the_fewest_runs_hold_where_they_take_longer(board: Board, kits: Kits) -> None:
    board.install(compute_ms=40.0)
    session = board.open(kits.one)
    run = session.measure({"input": kits.image}, LatencySettings(20, 0.2, 50, 0.5, 60.0))
    # 200 ms hold 5 runs of 40 ms; 15 more of the measured ones warm up as well.
    assert run.details["warmed_up_count"] == 20
    timed = stand_in.exported_times(board.program)
    assert sum(row["startComputeMs"] < 200 for row in timed) == 0
    assert len(timed) - 15 == len(run.samples_ns) >= 50
    assert run.samples_ns[0] == round(timed[15]["latencyMs"] * 1e6)
    assert run.starts_ns[0] == 0
    assert run.reasons == ()


def test_what_begins_after_the_longest_time_is_left_out(board: Board, kits: Kits) -> None:
    board.install(compute_ms=100.0)
    session = board.open(kits.one)
    run = session.measure({"input": kits.image}, LatencySettings(0, 0.0, 50, 1.0, 2.0))
    assert 19 <= len(run.samples_ns) <= 20
    assert run.starts_ns[-1] < 2e9
    assert run.reasons == (
        f"only {len(run.samples_ns)} of 50 samples within 2 s: raise max_duration_s",
    )


def test_a_sustained_run_lasts_its_minute(board: Board, kits: Kits) -> None:
    board.install()
    session = board.open(kits.one)
    run = session.measure(
        {"input": kits.image}, LatencySettings(5, 1.0, 50, 60.0, 90.0, mode="sustained")
    )
    assert run.starts_ns[-1] + run.samples_ns[-1] >= 60e9
    assert sorted(run.starts_ns) == list(run.starts_ns)


def test_its_warnings_are_told_without_its_advice(board: Board, kits: Kits) -> None:
    board.install((10, 3, 0), jitter=0.04)
    session = board.open(kits.open)
    run = session.measure({"input": kits.image}, SHORT)
    batch, unstable = run.warnings
    assert batch.startswith("the engine is optimised for batches of 4 and was timed with 1")
    assert unstable.startswith("trtexec: GPU compute time is unstable, with coefficient of varia")
    board.install((10, 3, 0), compute_ms=0.2)
    session = board.open(kits.one)
    run = session.measure({"input": kits.image}, SHORT)
    assert [line.partition(" rather")[0] for line in run.warnings] == [
        "trtexec: Throughput may be bound by Enqueue Time",
        "trtexec: Throughput may be bound by host-to-device transfers for the inputs",
    ]


def test_answers_that_are_no_numbers_are_seen(board: Board, kits: Kits) -> None:
    board.install(fault="nan")
    session = board.open(kits.one)
    assert session.measure({"input": kits.image}, SHORT).outputs_finite is False
    assert np.isnan(session.run({"input": kits.image})["simcc_x"]).all()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no times", r"pulling|copy"),
        ("no memory", r"failed on tiny: .*OutOfMemory.*; close what else runs .*run\.log$"),
        ("forgets", r"pulling|copy"),
        ("crash", r"failed on tiny: trtexec was ended by signal 11; all that .*run\.log$"),
    ],
)
def test_a_measurement_that_fails_is_one_line(
    board: Board, kits: Kits, fault: str, message: str
) -> None:
    board.install()
    session = board.open(kits.one)
    board.install(fault=fault)
    with pytest.raises(DeviceError, match=message) as caught:
        session.measure({"input": kits.image}, SHORT)
    assert "\n" not in str(caught.value)
    assert board.clean()
    board.install()
    assert session.run({"input": kits.image})  # the engine is still there
