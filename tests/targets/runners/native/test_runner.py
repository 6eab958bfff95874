"""The native runner itself, for x86-64 here and for aarch64 under QEMU.

The first run builds both (minutes); they stay in the kit's cache folder.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edge.latency import LatencySettings
from targets.runners.native.call import (
    NativePrecision,
    read_dump,
)
from tests.conftest import tiny_simcc_model
from tests.stand_ins.native_networks import ncnn_files, network_of, noise, wheel_answers
from tests.stand_ins.native_runs import Tiny, answers, cosine, run, tiny  # noqa: F401
from tests.stand_ins.runner_programs import arm, refused, x86  # noqa: F401

pytest.importorskip("onnx")
pytest.importorskip("ncnn")
if find_spec("pnnx") is None:  # importing it would need PyTorch
    pytest.skip("pnnx is not installed", allow_module_level=True)

pytestmark = pytest.mark.slow

FEW = LatencySettings(1, 0.0, 4, 0.0, 60.0)


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_x86_answers_as_the_package_does(
    x86: list[str], tiny: Tiny, tmp_path: Path, threads: int
) -> None:
    got = answers(x86, tiny.network, tmp_path, threads=threads)
    want = wheel_answers(tiny.param, tiny.weights, {"input": tiny.image}, tiny.network.outputs)
    assert list(got) == ["simcc_x", "simcc_y"]
    for name, value in want.items():
        assert got[name].shape == value.shape
        np.testing.assert_allclose(got[name], value, rtol=0, atol=2e-6 * np.abs(value).max())


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("fp32", 2e-6), ("fp16", 2e-2), ("fp16-storage", 5e-3), ("bf16", 4e-2)],
)
def test_arm_answers_as_the_package_does(
    arm: list[str], tiny: Tiny, tmp_path: Path, precision: NativePrecision, tolerance: float
) -> None:
    """FP16 keeps 11 bits of a value and bf16 8; fp16 also adds its 768 products in 11 bits."""
    got = answers(arm, tiny.network, tmp_path, precision=precision, threads=2)
    want = wheel_answers(tiny.param, tiny.weights, {"input": tiny.image}, tiny.network.outputs)
    for name, value in want.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(got[name], value, rtol=0, atol=tolerance * scale)
        if precision != "fp32":
            # It is another arithmetic, not fp32 under another name.
            assert np.abs(got[name] - value).max() > 1e-5 * scale


def test_an_older_arm_core_keeps_fp16_and_computes_in_fp32(
    arm: list[str], tiny: Tiny, tmp_path: Path
) -> None:
    # A Raspberry Pi 4's Cortex-A72 and the little A53 have no half-precision arithmetic.
    if len(arm) == 1:
        pytest.skip("runs natively")
    older = [*arm[:-2], "cortex-a53", arm[-1]]
    ran = run(older, tiny.network, precision="fp16", dump=str(tmp_path))
    assert ran.computes_in == "fp16-storage" and not ran.cpu.features["asimdhp"]
    got = read_dump(ran.outputs, tmp_path, "here")
    want = wheel_answers(tiny.param, tiny.weights, {"input": tiny.image}, tiny.network.outputs)
    for name, value in want.items():
        off = np.abs(got[name][0] - value).max() / np.abs(value).max()
        assert 1e-5 < off < 2e-3


# --- the report -----------------------------------------------------------------------------------


def test_the_report_of_an_x86_run(x86: list[str], tiny: Tiny) -> None:
    settings = LatencySettings(3, 0.01, 200, 0.05, 60.0)
    ran = run(x86, tiny.network, settings=settings, precision="fp16")
    # x86 has no half-precision arithmetic that ncnn would use.
    assert (ran.precision, ran.computes_in) == ("fp16", "fp32")
    assert ran.reasons() == [] and ran.complete
    assert ran.build["arch"] == "x86_64" and {"fma", "avx512"} <= set(ran.build["kernels"])
    assert len(ran.samples_ns) >= 200 and ran.warmup_count >= 3 and ran.warmup_ns >= 10_000_000
    assert ran.starts_ns[-1] + ran.samples_ns[-1] >= 50_000_000
    # Every sample ends before the next begins.
    ends = np.array(ran.starts_ns) + np.array(ran.samples_ns)
    assert (np.array(ran.starts_ns[1:]) >= ends[:-1]).all()
    assert ran.load_ns > 0 and ran.first_inference_ns > 0
    counts = [clock.samples for clock in ran.clocks]
    assert counts[:4] == [0, 64, 128, 192] and counts[-1] == len(ran.samples_ns)
    assert {len(clock.khz) for clock in ran.clocks} == {ran.cpu.count}
    assert ran.peak_memory_kb is not None and 1000 < ran.peak_memory_kb < 1_000_000
    assert ran.usage["user_ns"] > 0.5 * sum(ran.samples_ns)
    assert [output.shape for output in ran.outputs] == [(1, 17, 96), (1, 17, 128)]
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    assert ran.cpu.features["avx2"] == ("avx2" in flags)


def test_the_report_of_an_arm_run(arm: list[str], tiny: Tiny) -> None:
    ran = run(arm, tiny.network, settings=FEW, precision="fp16", threads=2)
    assert (ran.computes_in, len(ran.samples_ns)) == ("fp16", 4)
    assert ran.build["arch"] == "aarch64" and {"arm82", "arm82dot"} <= set(ran.build["kernels"])
    if len(arm) > 1:
        assert (
            ran.cpu.features["asimdhp"]
            and ran.cpu.features["asimddp"]
            and not ran.cpu.features["i8mm"]
        )


def test_pauses_and_the_longest_time(x86: list[str], tiny: Tiny) -> None:
    settings = LatencySettings(0, 0.0, 10_000, 0.0, 0.3)
    ran = run(x86, tiny.network, settings=replace(settings, pause_s=0.02))
    assert not ran.complete and 5 <= len(ran.samples_ns) <= 16
    assert "time ran out" in ran.reasons()[0]
    gaps = np.diff(ran.starts_ns) - np.array(ran.samples_ns[:-1])
    assert gaps.min() >= 20_000_000


def test_the_mask_holds_for_every_thread(x86: list[str], tiny: Tiny) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    last, both = 1 << cpus[-1], (1 << cpus[0]) | (1 << cpus[-1])
    for mask in (last, both):
        ran = run(x86, tiny.network, settings=FEW, threads=2, cpu_mask=f"{mask:x}")
        assert ran.affinity == ran.affinity_after == (f"{mask:x}",) * 2
        assert ran.cpu_mask == f"{mask:x}" and ran.reasons() == []
    free = run(x86, tiny.network, settings=FEW)
    assert free.cpu_mask is None and free.affinity == (f"{sum(1 << c for c in cpus):x}",)


def test_fewer_threads_than_asked_for_are_noticed(
    x86: list[str], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    ran = run(x86, tiny.network, settings=FEW, threads=2)
    assert "OMP_THREAD_LIMIT=1" in ran.openmp_environment
    assert "1 of 2 threads ran" in ran.reasons()[0]


def test_a_pipeline_runs_the_detector_in_every_third_frame(
    x86: list[str], tiny: Tiny, tmp_path: Path
) -> None:
    """The detector is made much slower than the poses, so its frames stand out."""
    import onnx

    onnx.save(tiny_simcc_model(input_hw=(640, 640)), str(tmp_path / "big.onnx"))
    param, weights, spec = ncnn_files(tmp_path / "big.onnx", tmp_path / "big")
    image = noise((1, *spec.input.shape[1:]))
    detector = network_of(param, weights, spec, image, tmp_path, "frame.bin")
    people = [noise(tiny.image.shape, seed) for seed in (1, 2)]
    inputs = tuple(
        network_of(tiny.param, tiny.weights, tiny.spec, person, tmp_path, f"{i}.bin").inputs[0]
        for i, person in enumerate(people)
    )
    ran = run(
        x86,
        replace(tiny.network, inputs=inputs),
        detector=detector,
        interval=3,
        settings=LatencySettings(1, 0.0, 40, 0.0, 60.0),
        dump=str(tmp_path / "out"),
    )
    assert ran.pipeline and (ran.pipeline.interval, ran.pipeline.people) == (3, 2)
    assert len(ran.samples_ns) == 42  # whole intervals
    samples = np.array(ran.samples_ns).reshape(-1, 3)
    assert np.median(samples[:, 0]) > 1.5 * np.median(samples[:, 1:])
    # The detector's two outputs, then each person's.
    dumped = read_dump(ran.outputs, tmp_path / "out", "here")
    assert [len(dumped[name]) for name in ("simcc_x", "simcc_y")] == [3, 3]
    for person, got in zip(people, dumped["simcc_x"][1:], strict=True):
        (want,) = wheel_answers(tiny.param, tiny.weights, {"input": person}, ["simcc_x"]).values()
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


# --- the real networks ----------------------------------------------------------------------------

DEMOS = [("rtmpose-t-demo", (256, 192)), ("rtmdet-nano-demo", (320, 320))]


@pytest.mark.parametrize(("name", "input_hw"), DEMOS)
def test_the_demo_models_on_x86_and_arm(
    x86: list[str], arm: list[str], tmp_path: Path, name: str, input_hw: tuple[int, int]
) -> None:
    source = Path(__file__).resolve().parents[4] / "converters" / "zoo" / "weights" / f"{name}.onnx"
    if not source.is_file():
        pytest.skip(f"{source.name} is not in this checkout")
    param, weights, spec = ncnn_files(source, tmp_path / "ncnn")
    image = noise((1, 3, *input_hw))
    network = network_of(param, weights, spec, image, tmp_path)
    want = wheel_answers(param, weights, {spec.input.name: image}, network.outputs)
    cases: list[tuple[list[str], NativePrecision, float]] = [
        (x86, "fp32", 1 - 1e-10),
        (arm, "fp32", 1 - 1e-10),
        # Half floats in memory lose little; sums in half floats are another matter.
        (arm, "fp16-storage", 1 - 1e-6),
        (arm, "fp16", 0.999),
    ]
    for number, (program, precision, least) in enumerate(cases):
        folder = tmp_path / str(number)
        got = answers(program, network, folder, precision=precision, threads=2)
        for key, value in want.items():
            assert cosine(got[key], value) > least, (program[-1], key)
