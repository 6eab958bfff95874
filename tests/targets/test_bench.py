"""The order of a bench, what goes into a run's file, and what spoils a run; the device is faked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.errors import DeviceError
from edge.latency import ColdStart, LatencySettings
from edge.spec import Variant
from targets import bench as module
from targets.bench import (
    BenchOptions,
    Candidate,
    TargetDevice,
    artifact_record,
    bench,
    published_figure,
)
from targets.device_state import BatteryRecord, DeviceState, StatePoint
from targets.devices.preparation import Preparation
from targets.devices.readings import DeviceInfo
from targets.devices.state import CoolDown
from targets.profile import load_profile
from targets.result import (
    AccuracyFigure,
    ArtifactRecord,
    ParityRecord,
    RunnerRecord,
    RunResult,
    read_runs,
)
from targets.runners.session import TimedRun
from targets.transports.fake import FakeTransport
from tests.stand_ins.made_artifacts import make_artifact

MS = 1_000_000
CLOCKS = {f"cpu{core}": 2_419_200 for core in range(4, 8)}
STATE = DeviceState(
    governors={"cpu4": "schedutil"},
    clocks_khz=CLOCKS,
    max_clocks_khz=CLOCKS,
    thermal_status=0,
    temperatures_c={"CPU": 40.0},
    battery=BatteryRecord(level_percent=80, powered=True, saver=False),
)
INFO = DeviceInfo("fake", "Mi 10", "SM8250", "Android 12 (API 31)", "aarch64", 8, "android")
SETTINGS = LatencySettings(1, 0.0, 4, 0.0)
GOOD = ParityRecord(True, "pass: 90 keypoints")


def timed(**changes: Any) -> TimedRun:
    plain = TimedRun(
        runner=RunnerRecord("native", "1 (abc)"),
        engine="ncnn 1.0",
        inference_precision="fp16",
        threads=4,
        affinity="f0",
        input_shape=(1, 3, 256, 192),
        cold=ColdStart(30.0, 12.0),
        samples_ns=(10 * MS, 10 * MS, 11 * MS, 10 * MS),
        starts_ns=(0, 12 * MS, 24 * MS, 36 * MS),
        outputs_finite=True,
    )
    return replace(plain, **changes)


def candidate(
    model: str, measure: Callable[[LatencySettings], TimedRun], **changes: Any
) -> Candidate:
    record = ArtifactRecord(model, "ncnn-fp16", "ab" * 32, 1000, None)
    return replace(Candidate(record, measure, GOOD, cpu_mask="f0"), **changes)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A phone whose state is ``device["state"]``; ``device["events"]`` is what happened."""
    found: dict[str, Any] = {"state": STATE, "events": [], "points": []}

    def read_state(*_: object) -> DeviceState:
        state: DeviceState | DeviceError = found["state"]
        if isinstance(state, DeviceError):
            raise state
        return state

    class Sampler:
        def __init__(self, transport: Any, *_: object) -> None:
            found["watched"] = transport
            self.points, self.problem = found["points"], found.get("problem")

        def __enter__(self) -> Sampler:
            return self

        def __exit__(self, *_: object) -> None: ...

    def wait(*_: Any, **more: Any) -> CoolDown:
        found["events"].append("cool down")
        found["tolerance_c"] = more["tolerance_c"]
        return CoolDown(1.0, found.get("still hot"))

    @contextmanager
    def prepared(*_: Any) -> Any:
        found["events"].append("set up")
        try:
            yield Preparation(notes=["fixed-performance mode: set"])
        finally:
            found["events"].append("put back")

    for name, stand_in in (
        ("read_state", read_state),
        ("StateSampler", Sampler),
        ("wait_until_cool", wait),
        ("prepared_device", prepared),
    ):
        monkeypatch.setattr(module, name, stand_in)
    return found


def run(
    folder: Path, candidates: list[Candidate], **more: Any
) -> tuple[list[RunResult], list[str]]:
    runs: list[RunResult] = []
    place = TargetDevice(
        load_profile("android"),
        FakeTransport(),
        FakeTransport(name="watch"),
        more.pop("info", INFO),
    )

    def on_run(_: Candidate, result: RunResult, path: Path) -> None:
        assert read_runs([path]) == (result,)
        runs.append(result)

    failures = bench(
        place, candidates, SETTINGS, folder, BenchOptions(**more), on_run, lambda _: None
    )
    return runs, failures


def test_candidates_take_turns_and_the_device_cools_down_between(
    tmp_path: Path, device: dict[str, Any]
) -> None:
    events = device["events"]

    def measured(name: str) -> Callable[[LatencySettings], TimedRun]:
        def measure(settings: LatencySettings) -> TimedRun:
            assert settings == SETTINGS
            events.append(name)
            return timed()

        return measure

    both = [candidate(name, measured(name)) for name in ("a", "b")]
    runs, failures = run(tmp_path, both, repeat=2)
    assert events == [
        *("set up", "a", "cool down", "b", "cool down", "a", "cool down", "b", "put back")
    ]
    assert not failures
    assert [one.artifact.model for one in runs] == ["a", "b", "a", "b"]
    assert [one.settings["repeat"] for one in runs] == [1, 1, 2, 2]
    assert device["watched"].name == "watch", "the sampler asks over a connection of its own"
    assert device["tolerance_c"] == 3.0
    assert len(list(tmp_path.glob("*.json"))) == 4


@pytest.mark.usefixtures("device")
def test_what_a_run_says(tmp_path: Path) -> None:
    profile = load_profile("android")
    name = "rtmpose-t/ncnn-fp16"
    figure = published_figure(profile, name)
    one = candidate("rtmpose-t", lambda _: timed(details={"peak_memory_kb": 4}), published=figure)
    (result,), _ = run(tmp_path, [one], repeat=1)
    assert result.valid, result.reasons
    assert result.published is not None
    assert result.published.latency_ms == 9.02
    assert published_figure(profile, "rtmpose-t/onnx-fp32") is None
    pipeline = "rtmdet-nano-person+rtmpose-t/ncnn-fp16"
    assert published_figure(profile, pipeline) is None
    found = published_figure(profile, pipeline, pipeline=True)
    assert found is not None
    assert found.latency_ms == 18.78
    assert result.target == "android-sd865"
    assert (result.mode, result.threads, result.cpu_mask, result.affinity) == (
        *("burst", 4, "f0", "f0"),
    )
    assert result.settings["peak_memory_kb"] == 4
    assert result.settings["min_count"] == 4
    assert result.settings["prepared"] == "fixed-performance mode: set"
    assert result.summary.p50_ms == 10.0
    assert result.summary.p90_ms is None, "four samples are too few"
    assert result.parity == GOOD
    assert result.run_id.endswith("-android-sd865-rtmpose-t-ncnn-fp16-1")


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("measured", "parity", "reason"),
    [
        ({"reasons": ("output simcc_x holds 3 values that are not finite",)}, GOOD, "not finite"),
        ({"outputs_finite": False}, GOOD, "outputs are not finite"),
        ({"affinity": "ff"}, GOOD, "the cpu mask f0 did not hold"),
        ({"samples_ns": (), "starts_ns": ()}, GOOD, "no samples"),
        ({}, ParityRecord(False, "FAIL: mean 9 px"), "not in parity"),
    ],
)
def test_a_run_that_does_not_count_is_stored_as_such(
    tmp_path: Path,
    measured: dict[str, Any],
    parity: ParityRecord,
    reason: str,
) -> None:
    one = candidate("m", lambda _: timed(**measured), parity=parity)
    (result,), failures = run(tmp_path, [one], repeat=1)
    assert not result.valid
    assert reason in "; ".join(result.reasons)
    assert not failures, "the file says it; nothing broke"


def test_the_state_while_it_ran_decides_too(tmp_path: Path, device: dict[str, Any]) -> None:
    """A point before the first sample (the network was loading) says nothing of the run."""
    slow = dict.fromkeys(CLOCKS, 1_000_000)
    device["points"] = [StatePoint(-5.0, clocks_khz=slow, thermal_status=3)]
    (fair,), _ = run(tmp_path, [candidate("a", lambda _: timed())], repeat=1)
    assert fair.valid, fair.reasons
    assert fair.state_series == ()

    # The fake call takes no time at all, so that its first sample began 46 ms before it.
    device["points"] = [StatePoint(0.0, clocks_khz=CLOCKS), StatePoint(0.01, thermal_status=2)]
    device["problem"] = "the device stopped answering"
    (hot,), _ = run(tmp_path, [candidate("b", lambda _: timed())], repeat=1)
    assert "the thermal status rose from 0 (none) to 2 (moderate)" in hot.reasons
    assert [round(point.t_s, 2) for point in hot.state_series] == [0.05, 0.06]
    assert any("stopped answering" in text for text in hot.warnings)


@pytest.mark.usefixtures("device")
def test_the_runner_s_own_clocks_are_judged(tmp_path: Path) -> None:
    clocks = (2_419_200, 2_419_200, 2_419_200, 1_800_000, 1_800_000, 1_800_000)
    points = tuple(
        StatePoint(float(at), clocks_khz=dict.fromkeys(CLOCKS, khz))
        for at, khz in enumerate(clocks)
    )
    (result,), _ = run(tmp_path, [candidate("a", lambda _: timed(points=points))], repeat=1)
    assert "the clock of cpu4 fell from 2419 MHz to 1800 MHz" in result.reasons
    assert len(result.state_series) == 6


def test_a_runner_that_fails_spoils_its_own_runs_only(
    tmp_path: Path, device: dict[str, Any]
) -> None:
    def killed(_: LatencySettings) -> TimedRun:
        device["events"].append("killed")
        raise DeviceError("fake: the runner was killed")

    both = [candidate("a", killed), candidate("b", lambda _: timed())]
    runs, failures = run(tmp_path, both, repeat=3)
    assert [one.artifact.model for one in runs] == ["b", "b", "b"]
    assert failures == ["a-ncnn-fp16: fake: the runner was killed"]
    assert device["events"].count("killed") == 1, "it is not tried again"


def test_a_device_that_is_gone_ends_it(tmp_path: Path, device: dict[str, Any]) -> None:
    def pulled(_: LatencySettings) -> TimedRun:
        device["state"] = DeviceError("fake: not connected")
        raise DeviceError("fake: the cable was pulled")

    with pytest.raises(DeviceError, match="the cable was pulled"):
        run(tmp_path, [candidate("a", pulled), candidate("b", lambda _: timed())])
    assert device["events"][-1] == "put back"


def test_a_state_that_spoils_every_run_is_told_first(
    tmp_path: Path, device: dict[str, Any]
) -> None:
    device["state"] = replace(STATE, battery=BatteryRecord(20, powered=True, saver=False))
    said: list[str] = []
    place = TargetDevice(load_profile("android"), FakeTransport(), FakeTransport(), INFO)
    one = candidate("a", lambda _: timed())
    bench(place, [one], SETTINGS, tmp_path, BenchOptions(repeat=1), lambda *_: None, said.append)
    assert "every run will be INVALID: its battery holds 20 %" in said[0]


def test_cooling_down(tmp_path: Path, device: dict[str, Any]) -> None:
    device["still hot"] = "not cooled down within 300 s"
    one = [candidate("a", lambda _: timed())]
    runs, _ = run(tmp_path, one, repeat=2)
    assert "not cooled down within 300 s" in runs[1].warnings
    assert "not cooled down within 300 s" not in runs[0].warnings
    device["events"].clear()
    run(tmp_path / "hot", one, repeat=2, cool_down=False)
    # What a computer plays does not warm up.
    emulated = replace(INFO, emulated=True)
    runs, _ = run(tmp_path / "emulated", one, repeat=2, info=emulated)
    assert "cool down" not in device["events"]
    assert all(one.emulated and not one.comparable for one in runs)
    assert runs[0].verdict == "emulated: not a latency"


def test_an_fp32_artifact_has_the_accuracy_of_its_source(tmp_path: Path) -> None:
    """Measured by a quantised one beside it, of the same source file."""
    measured = {"metric": "AP", "value": 0.7, "reference": 0.71, "loss_points": 1.0}
    int8, fp32, fp16, other = (
        replace(
            make_artifact(tmp_path / name), variant=Variant.parse(name), source={"sha256": source}
        )
        for name, source in (
            ("onnx-int8", "a"), ("openvino-fp32", "a"), ("ncnn-fp16", "a"), ("onnx-fp32", "b"),
        )
    )  # fmt: skip
    int8 = replace(int8, accuracy=measured)
    every = [int8, fp32, fp16, other]
    figures = [artifact_record(one, every).accuracy for one in every]
    assert figures == [AccuracyFigure("AP", 0.7, 1.0), AccuracyFigure("AP", 0.71, 0.0), None, None]


@pytest.mark.usefixtures("device")
def test_repeat_is_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="repeat must be at least 1"):
        run(tmp_path, [], repeat=0)
