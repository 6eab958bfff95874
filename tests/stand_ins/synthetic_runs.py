"""Runs as devices give them, made up: a phone that heats up, boards, an emulated one, an old CPU.

Latencies are a slowly wandering level times noise with a tail, so that samples which follow each
other are alike; clocks fall as the temperature rises.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edge.latency import ColdStart
from targets.device_state import BatteryRecord, DeviceRecord, DeviceState, StatePoint
from targets.result import (
    AccuracyFigure,
    ArtifactRecord,
    ParityRecord,
    PipelineRecord,
    PublishedFigure,
    RunnerRecord,
    RunResult,
    summarise,
)

PHONE = DeviceRecord("adb 1a2b3c4d", "Xiaomi 10", "SM8250", "Android 12", "aarch64", 8)
JETSON = DeviceRecord("orin", "Jetson Orin NX 16GB", "T234", "Ubuntu 22.04, L4T 36.4", "aarch64", 8)
DESKTOP = DeviceRecord("lab-7", "Intel Core i7-11700", None, "Debian 12", "x86_64", 16)
BOARD = DeviceRecord("pi5", "Raspberry Pi 5 Model B", "BCM2712", "Debian 12", "aarch64", 4)

_MMPOSE = "mmpose, RTMPose body8, 256x192"


def latencies_ns(
    count: int, level_ms: float, *, seed: int = 0, rho: float = 0.6, spread: float = 0.015
) -> tuple[int, ...]:
    """An autocorrelated series about a level, with a one-sided tail of preemptions."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, count)
    series = np.empty(count)
    last = rng.normal()
    for i in range(count):
        last = rho * last + np.sqrt(1 - rho * rho) * noise[i]
        series[i] = last
    late = np.where(rng.random(count) < 0.02, rng.exponential(0.25, count), 0.0)
    return tuple(int(v) for v in level_ms * 1e6 * (np.exp(spread * series) + late))


def state(**changes: Any) -> DeviceState:
    """A phone at rest."""
    plain = DeviceState(
        governors={"cpu0": "schedutil", "cpu4": "schedutil", "cpu7": "schedutil"},
        clocks_khz={"cpu0": 1804800, "cpu4": 2419200, "cpu7": 2841600},
        max_clocks_khz={"cpu0": 1804800, "cpu4": 2419200, "cpu7": 2841600},
        thermal_status=0,
        temperatures_c={"cpu": 36.5, "skin": 31.2},
        throttle_bits=None,
        throttle_counts={},
        battery=BatteryRecord(87, True, False),
        power_mode=None,
        power_mw=None,
        load_1m=0.4,
        unreadable=(),
    )
    return replace(plain, **changes)


def with_samples(run: RunResult, samples_ns: tuple[int, ...], **changes: Any) -> RunResult:
    """A run with other samples, back to back, and the summary that goes with them."""
    starts = tuple(int(v) for v in np.cumsum([0, *samples_ns[:-1]])) if samples_ns else ()
    return replace(
        run, samples_ns=samples_ns, starts_ns=starts, summary=summarise(samples_ns), **changes
    )


def phone_run(number: int = 1, *, count: int = 1000, **changes: Any) -> RunResult:
    """A valid burst of RTMPose-t on a phone."""
    run = RunResult(
        run_id=f"20261121T1815{number:02d}Z-android-sd865-rtmpose-t-ncnn-fp16-{number}",
        started_utc=f"2026-11-21T18:15:{number:02d}Z",
        target="android-sd865",
        transport="adb",
        emulated=False,
        device=PHONE,
        artifact=ArtifactRecord(
            "rtmpose-t",
            "ncnn-fp16",
            "4be862d1c0ffee",
            6_712_344,
            AccuracyFigure("AP", 0.6597, 0.02),
        ),
        runner=RunnerRecord("native", "1"),
        engine="ncnn 1.0.20261020",
        inference_precision="fp16",
        threads=4,
        cpu_mask="f0",
        affinity="f0",
        input_shape=(1, 3, 256, 192),
        mode="burst",
        settings={"warmup_count": 5, "warmup_duration_s": 0.5, "min_count": 662},
        cold=ColdStart(31.4, 14.9),
        samples_ns=(1,),
        starts_ns=(),
        summary=summarise((1,)),
        state_before=state(),
        state_after=state(temperatures_c={"cpu": 43.0, "skin": 32.0}, load_1m=3.1),
        state_series=(),
        parity=ParityRecord(True, "2 images, worst keypoint 0.21 px of 1.0 px"),
        published=PublishedFigure(9.02, f"{_MMPOSE}, ncnn-fp16, Snapdragon 865"),
        valid=True,
        reasons=(),
        warnings=(),
    )
    run = with_samples(run, latencies_ns(count, 9.3, seed=number))
    return replace(run, state_series=_series(run, warming=6.5, falls_to=1.0), **changes)


def _series(run: RunResult, *, warming: float, falls_to: float) -> tuple[StatePoint, ...]:
    assert run.state_before
    total_s = (run.starts_ns[-1] + run.samples_ns[-1]) / 1e9
    series = []
    for part in np.linspace(0, 1, 40):
        heat = 1 - np.exp(-3 * part)
        scale = 1.0 if part < 0.45 else max(falls_to, 1 - (part - 0.45) * 1.2)
        series.append(
            StatePoint(
                t_s=round(float(part) * total_s, 3),
                temperatures_c={
                    name: round(float(value + warming * heat * (1 if i == 0 else 0.3)), 1)
                    for i, (name, value) in enumerate(run.state_before.temperatures_c.items())
                },
                clocks_khz={
                    name: int(round(value * scale / 76800) * 76800) if scale < 1 else value
                    for name, value in run.state_before.clocks_khz.items()
                },
                power_mw=None,
            )
        )
    return tuple(series)


def hot_phone_run(count: int = 5000) -> RunResult:
    """A sustained run in which the phone throttles, and is called invalid for it."""
    run = phone_run(7, count=count, mode="sustained")
    slow = 1 + 0.55 * np.clip((np.linspace(0, 1, count) - 0.45) * 2.2, 0, 1)
    samples = tuple(int(v) for v in np.asarray(latencies_ns(count, 9.3, seed=7)) * slow)
    run = with_samples(
        run,
        samples,
        run_id="20261121T182207Z-android-sd865-rtmpose-t-ncnn-fp16-sustained-1",
        valid=False,
        reasons=(
            "thermal status rose from 0 to 2",
            "clock of cpu7 fell from 2842 MHz to 1843 MHz (35 %, allowed are 10 %)",
        ),
        state_after=state(thermal_status=2, temperatures_c={"cpu": 71.0, "skin": 41.5}),
    )
    return replace(run, state_series=_series(run, warming=36, falls_to=0.65))


def jetson_run(variant: str = "tensorrt-fp16", level_ms: float = 1.42) -> RunResult:
    """TensorRT by trtexec, which says nothing of starts; with power."""
    before = state(
        governors={f"cpu{i}": "schedutil" for i in range(8)},
        clocks_khz={f"cpu{i}": 1984000 for i in range(8)},
        max_clocks_khz={f"cpu{i}": 1984000 for i in range(8)},
        temperatures_c={"cpu": 48.6, "gpu": 47.1, "tj": 48.6},
        thermal_status=None,
        battery=None,
        power_mode="MAXN",
    )
    loss = {"tensorrt-fp16": 0.01, "tensorrt-int8": 0.9, "onnx-fp32": 0.0}[variant]
    run = phone_run(
        3,
        run_id=f"20261121T190000Z-jetson-orin-nx-rtmpose-m-{variant}-1",
        target="jetson-orin-nx",
        transport="ssh",
        device=JETSON,
        artifact=ArtifactRecord(
            "rtmpose-m",
            variant,
            "77aa01",
            27_100_000,
            AccuracyFigure("AP", 0.7487 - loss / 100, loss),
        ),
        runner=RunnerRecord("trtexec", "10.3.0"),
        engine="TensorRT 10.3.0",
        inference_precision=variant.partition("-")[2],
        threads=1,
        cpu_mask=None,
        affinity=None,
        cold=ColdStart(None, None),
        published=None,
        state_before=before,
        state_after=before,
        warnings=("trtexec: GPU compute time is unstable, with coefficient of variance = 2.7%.",),
    )
    run = with_samples(run, latencies_ns(2100, level_ms, seed=3, rho=0.2))
    series = tuple(
        replace(sample, power_mw=11800 + 900 * (i % 3))
        for i, sample in enumerate(_series(run, warming=4, falls_to=1.0))
    )
    return replace(run, starts_ns=(), state_series=series)


def desktop_run(variant: str, level_ms: float, loss: float, model: str = "rtmpose-t") -> RunResult:
    """On a desktop CPU, with many cores."""
    before = state(
        governors={f"cpu{i}": "performance" for i in range(16)},
        clocks_khz={f"cpu{i}": 4_400_000 + 7000 * i for i in range(16)},
        max_clocks_khz={f"cpu{i}": 4_900_000 for i in range(16)},
        temperatures_c={"x86_pkg_temp": 52.0},
        thermal_status=None,
        battery=None,
    )
    accuracy = {"rtmpose-t": 0.6597, "rtmpose-s": 0.6968, "rtmpose-m": 0.7487}[model]
    published = {"rtmpose-t": 3.20, "rtmpose-s": 4.48, "rtmpose-m": 11.06}[model]
    run = phone_run(
        5,
        run_id=f"20261121T193000Z-x86-i7-11700-{model}-{variant}-1",
        target="x86-i7-11700",
        transport="local",
        device=DESKTOP,
        artifact=ArtifactRecord(
            model, variant, "99ff", 13_000_000, AccuracyFigure("AP", accuracy - loss / 100, loss)
        ),
        runner=RunnerRecord("python", "0.1.0"),
        engine={"onnx": "onnxruntime 1.31.1", "openvino": "openvino 2026.4.1"}[
            variant.partition("-")[0]
        ],
        inference_precision=variant.partition("-")[2],
        threads=8,
        cpu_mask=None,
        affinity="ffff",
        cold=ColdStart(112.0, 6.1),
        published=PublishedFigure(published, f"{_MMPOSE}, ONNX Runtime 1.12.1, i7-11700")
        if variant == "onnx-fp32"
        else None,
        state_before=before,
        state_after=before,
    )
    run = with_samples(run, latencies_ns(5000, level_ms, seed=len(variant), rho=0.8))
    return replace(run, state_series=_series(run, warming=14, falls_to=0.97))


def emulated_run() -> RunResult:
    """A board whose processor was emulated; its answers count, its times do not."""
    run = phone_run(
        9,
        run_id="20261121T200000Z-raspberry-pi-5-rtmpose-t-ncnn-fp16-1",
        target="raspberry-pi-5",
        transport="ssh",
        emulated=True,
        device=BOARD,
        cpu_mask=None,
        affinity=None,
        published=None,
        state_before=None,
        state_after=None,
    )
    run = with_samples(run, latencies_ns(12, 6400.0, seed=9))
    return replace(run, state_series=())


def python_run() -> RunResult:
    """The same network and engine on the same phone by the Python runner, which is another one."""
    run = replace(
        phone_run(9),
        run_id="20261121T181909Z-android-sd865-rtmpose-t-ncnn-fp16-python-1",
        runner=RunnerRecord("python", "0.1.0"),
    )
    return with_samples(run, latencies_ns(700, 9.9, seed=19))


def pipeline_run(number: int = 1, *, interval: int = 5, people: int = 1) -> RunResult:
    """A detector every few frames with a pose model; a sample is the mean of these frames."""
    pipeline = PipelineRecord("rtmdet-nano-person", "ncnn-fp16", "de7ec7", interval, people, True)
    run = replace(
        phone_run(number),
        run_id=f"20261121T1830{number:02d}Z-android-sd865-pipeline-{interval}-{people}-{number}",
        artifact=replace(
            phone_run(1, count=1).artifact,
            model="rtmdet-nano-person+rtmpose-t",
            accuracy=None,
            pipeline=pipeline,
        ),
        published=PublishedFigure(18.78, f"{_MMPOSE}, Snapdragon 865, pipeline"),
    )
    level_ms = 9.3 * people + 48.0 / interval
    return with_samples(run, latencies_ns(900, level_ms, seed=number))


def interleaved_runs() -> list[RunResult]:
    """Three variants in turn, A B C A B C A B C, as a session on a desktop leaves them."""
    levels = {"onnx-fp32": 3.05, "openvino-fp16": 2.71, "openvino-int8": 1.64}
    runs = []
    for turn in range(1, 4):
        for place, (variant, level_ms) in enumerate(levels.items()):
            one = desktop_run(variant, level_ms, 0.1 * place)
            drift, seed = 1 + 0.01 * turn, 10 * turn + place
            run = with_samples(one, latencies_ns(2000, level_ms * drift, seed=seed))
            run_id = one.run_id.removesuffix("-1") + f"-{turn}"
            runs.append(replace(run, run_id=run_id, settings={**run.settings, "repeat": turn}))
    return runs


def mixed_runs() -> list[RunResult]:
    """All kinds together, as one folder of results may hold them."""
    phones = [phone_run(1), phone_run(2), phone_run(4)]
    small = with_samples(
        replace(
            phone_run(6),
            run_id="20261121T181906Z-android-sd865-rtmpose-s-ncnn-fp16-1",
            artifact=ArtifactRecord(
                "rtmpose-s", "ncnn-fp16", "51de", 11_400_000, AccuracyFigure("AP", 0.6964, 0.04)
            ),
            published=PublishedFigure(13.89, f"{_MMPOSE}, ncnn-fp16, Snapdragon 865"),
        ),
        latencies_ns(700, 13.1, seed=6),
    )
    few = with_samples(
        replace(
            phone_run(8),
            run_id="20261121T182100Z-android-sd865-rtmpose-m-ncnn-fp16-1",
            artifact=ArtifactRecord(
                "rtmpose-m", "ncnn-fp16", "51df", 27_400_000, AccuracyFigure("AP", 0.7482, 0.05)
            ),
            published=PublishedFigure(26.44, f"{_MMPOSE}, ncnn-fp16, Snapdragon 865"),
            parity=None,
            state_series=(),
        ),
        latencies_ns(50, 29.9, seed=8),
    )
    return [
        *phones,
        small,
        few,
        hot_phone_run(),
        python_run(),
        pipeline_run(),
        pipeline_run(2, people=3),
        jetson_run(),
        jetson_run("tensorrt-int8", 1.05),
        desktop_run("onnx-fp32", 3.05, 0.0),
        desktop_run("openvino-fp16", 2.71, 0.01),
        desktop_run("openvino-int8", 1.64, 1.3),
        desktop_run("onnx-fp32", 4.71, 0.0, "rtmpose-s"),
        desktop_run("onnx-fp32", 11.9, 0.0, "rtmpose-m"),
        desktop_run("openvino-int8", 5.3, 1.0, "rtmpose-m"),
        emulated_run(),
    ]
