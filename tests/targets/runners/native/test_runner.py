"""The native runner itself, for x86-64 here and for aarch64 under QEMU.

The first run builds both (minutes); they stay in the kit's cache folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import ToolError
from edge.latency import LatencySettings
from targets.runners.native.build import find_runner
from targets.runners.native.call import (
    NativeNetwork,
    NativePrecision,
    NativeRun,
    finished_run,
    read_dump,
    runner_argv,
)
from targets.transports.programs import run_program
from targets.transports.transport import Done
from tests.conftest import tiny_simcc_model
from tests.stand_ins.native_networks import Array, ncnn_files, network_of, noise, wheel_answers
from tests.stand_ins.runner_programs import arm, refused, x86  # noqa: F401

pytest.importorskip("onnx")
pytest.importorskip("ncnn")
if find_spec("pnnx") is None:  # importing it would need PyTorch
    pytest.skip("pnnx is not installed", allow_module_level=True)

pytestmark = pytest.mark.slow

FEW = LatencySettings(1, 0.0, 4, 0.0, 60.0)


@dataclass(frozen=True)
class Tiny:
    param: Path
    weights: Path
    spec: Any
    image: Array
    network: NativeNetwork


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny SimCC network as ncnn files, with an input."""
    import onnx

    folder = tmp_path_factory.mktemp("tiny")
    onnx.save(tiny_simcc_model(scale_norm=True), str(folder / "tiny.onnx"))
    param, weights, spec = ncnn_files(folder / "tiny.onnx", folder / "ncnn")
    image = noise((1, *spec.input.shape[1:]))
    return Tiny(param, weights, spec, image, network_of(param, weights, spec, image, folder))


def start(program: Sequence[str], network: NativeNetwork, **options: Any) -> Done:
    given: dict[str, Any] = {"precision": "fp32", "threads": 1} | options
    argv = runner_argv(program[-1], network, **given)
    return run_program([*program[:-1], *argv], timeout_s=300.0)


def run(program: Sequence[str], network: NativeNetwork, **options: Any) -> NativeRun:
    done = start(program, network, **options)
    # One line and nothing else, on success also nothing on stderr.
    assert done.stdout.count(b"\n") <= 1 and (done.returncode or not done.stderr), done
    return finished_run(done, "here")


def answers(
    program: Sequence[str], network: NativeNetwork, folder: Path, **options: Any
) -> dict[str, Array]:
    folder.mkdir(exist_ok=True)
    ran = run(program, network, dump=str(folder / "out"), **options)
    arrays = read_dump(ran.outputs, folder / "out", "here")
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(
        output.file or "" for output in ran.outputs
    )
    return {name: found[0] for name, found in arrays.items()}


def cosine(a: Array, b: Array) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


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


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--param, --bin and --input are needed"),
        (["--nonsense", "1"], "unknown option '--nonsense'"),
        (["--threads"], "lacks its value"),
        (["--threads", "0"], "--threads takes a whole number of 1 to 1024, not '0'"),
        (["--threads", "two"], "not 'two'"),
        (["--threads", "99999999999999999999"], "--threads takes"),
        (["--precision", "int8"], "--precision is fp32"),
        (["--cpu-mask", "xyz"], "hexadecimal"),
        (["--cpu-mask", "0"], "at least one"),
        (["--input", "input=x.bin"], "takes NAME=FILE:1x3x256x192"),
        (["--input", "input=x.bin:2x3"], "leading batch of 1"),
        (["--input", "input=x.bin:1x9999999x999"], "beyond a gigabyte"),
        (["--input", "input=x.bin:1x-3"], "whole number"),
        (["--pause-ms", "-1"], "a time of 0 or more"),
        (["--pause-ms", "nan"], "a time of 0 or more"),
        (["--threads", "1", "--threads", "2"], "given twice"),
        (["--outputs", "a,,b"], "names with commas"),
        (["--min-iterations", "1", "--pause-ms", "0"], "are needed"),
    ],
)
def test_a_wrong_command_line(x86: list[str], words: list[str], said: str) -> None:
    refused(run_program([*x86, *words], timeout_s=30.0), 2, said)


def test_contradictions_on_the_command_line(x86: list[str], tiny: Tiny) -> None:
    twice = replace(tiny.network, inputs=tiny.network.inputs * 2)
    refused(start(x86, twice), 2, "the same name")
    short = LatencySettings(0, 0.0, 1, 1.0, 2.0)
    argv = runner_argv(x86[-1], tiny.network, precision="fp32", threads=1, settings=short)
    argv[argv.index("--max-seconds") + 1] = "0.5"
    refused(run_program(argv, timeout_s=30.0), 2, "--max-seconds is below --min-seconds")
    argv = runner_argv(x86[-1], tiny.network, precision="fp32", threads=1)
    refused(run_program([*argv, "--interval", "3"], timeout_s=30.0), 2, "for --pipeline")


def test_help_and_version(x86: list[str], arm: list[str]) -> None:
    text = run_program([*x86, "--help"], timeout_s=30.0).stdout.decode()
    assert "Network time\n                                alone" in text and "128 + N" in text
    for program, arch in ((x86, "x86_64"), (arm, "aarch64")):
        build = json.loads(run_program([*program, "--version"], timeout_s=30.0).stdout)
        assert build["arch"] == arch and build["ncnn"] == "1.0.20261020"


@pytest.mark.parametrize("which", ["x86", "arm"])
def test_damaged_files_are_load_errors(
    request: pytest.FixtureRequest, tiny: Tiny, tmp_path: Path, which: str
) -> None:
    program: list[str] = request.getfixturevalue(which)
    param, weights = tiny.param.read_bytes(), tiny.weights.read_bytes()
    damaged = tmp_path / "damaged"
    lines = param.splitlines(keepends=True)
    cases: list[tuple[str, bytes, str]] = [
        ("param", b"", "no ncnn .param file"),
        ("param", b"7767517\n", "no ncnn .param file"),
        ("param", os.urandom(500), "no ncnn .param file"),
        ("param", b"".join(lines[:-2]), "it is cut off or damaged"),
        ("param", param[: len(param) * 2 // 3], "damaged"),
        ("param", param.replace(b"Reshape ", b"Reshaqe ", 1), "Reshaqe"),
        ("weights", b"", "cannot load it"),
        ("weights", weights[: len(weights) // 2], "cannot load it"),
        ("weights", weights[:-3], ""),
        ("weights", weights + bytes(8), "do not belong together"),
    ]
    for which_file, data, said in cases:
        damaged.write_bytes(data)
        change: dict[str, Any] = {which_file: str(damaged)}
        refused(start(program, replace(tiny.network, **change)), 3, said)
    for name, said in (("none", "No such file"), (".", "not a file")):
        refused(start(program, replace(tiny.network, param=str(tmp_path / name))), 3, said)


def test_param_files_with_any_number_changed_end_in_an_exit_code(
    x86: list[str], tiny: Tiny, tmp_path: Path
) -> None:
    """Whatever a layer's numbers become: an answer or a reason, never a bare crash or a hang."""
    lines = tiny.param.read_text().splitlines()
    damaged, ends = tmp_path / "damaged.param", set()
    for row in range(2, len(lines)):
        words = lines[row].split()
        for column in range(2, len(words)):
            for value in ("-1", "0", "7", "2147483647", "1e30", "x"):
                key, equals, _ = words[column].partition("=")
                changed = [*words[:column], key + equals + value if equals else value]
                changed += words[column + 1 :]
                text = [*lines[:row], " ".join(changed), *lines[row + 1 :]]
                damaged.write_text("\n".join(text) + "\n")
                done = start(x86, replace(tiny.network, param=str(damaged)))
                ends.add(done.returncode)
                assert done.returncode in (0, 3, 4, 5), (changed, done)
                assert done.stderr.count(b"\n") == (done.returncode != 0), (changed, done.stderr)
    assert {0, 3, 4} <= ends


def test_inputs_that_do_not_fit(x86: list[str], tiny: Tiny, tmp_path: Path) -> None:
    (given,) = tiny.network.inputs

    def with_input(**changes: Any) -> NativeNetwork:
        return replace(tiny.network, inputs=(replace(given, **changes),))

    refused(start(x86, with_input(path=str(tmp_path / "none"))), 4, "none: No such file")
    refused(start(x86, with_input(path=str(tmp_path))), 4, "not a file")
    refused(start(x86, with_input(shape=(1, 3, 64, 47))), 4, "its shape needs 36096")
    (tmp_path / "short").write_bytes(b"abc")
    refused(start(x86, with_input(path=str(tmp_path / "short"))), 4, "3 bytes")
    refused(start(x86, with_input(name="other")), 4, "no input 'other'; it has: input")
    other = replace(tiny.network, outputs=("simcc_x", "nothing"))
    refused(start(x86, other), 4, "no output 'nothing'; it has: simcc_x, simcc_y")
    # The file fits this shape, the network does not.
    done = start(x86, with_input(shape=(1, 1, 96, 96)))
    assert done.returncode in (0, 5) and (done.returncode == 0 or done.stderr.count(b"\n") == 1)


def test_values_that_are_not_finite_are_counted(x86: list[str], tiny: Tiny, tmp_path: Path) -> None:
    image = tiny.image.copy()
    image[0, 0, :16, :16] = np.nan
    network = network_of(tiny.param, tiny.weights, tiny.spec, image, tmp_path)
    ran = run(x86, network, settings=FEW, dump=str(tmp_path / "out"))
    dumped = read_dump(ran.outputs, tmp_path / "out", "here")
    for output in ran.outputs:
        assert output.non_finite == (~np.isfinite(dumped[output.name][0])).sum() > 0
        # NaN again, so the same: only the first complaint counts.
        assert output.same_in_last
    assert "not finite" in ran.reasons()[0]


def test_a_mask_that_cannot_hold(x86: list[str], arm: list[str], tiny: Tiny) -> None:
    count = os.cpu_count() or 1
    for program in (x86, arm):
        absent = start(program, tiny.network, cpu_mask=f"{1 << count:x}")
        refused(absent, 6, f"the CPU mask {1 << count:x} cannot be set")
        # Half of it exists: the kernel takes it and keeps to that half.
        more = start(program, tiny.network, cpu_mask=f"{(1 << count) | 1:x}")
        refused(more, 6, "does not hold: it became 1")


def test_a_full_disk_and_a_folder_that_is_a_file(
    x86: list[str], tiny: Tiny, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    refused(start(x86, tiny.network, dump=str(tmp_path / "file")), 7, "file")
    refused(start(x86, tiny.network, dump=str(tmp_path / "no" / "such")), 7, "No such file")
    argv = runner_argv(x86[-1], tiny.network, precision="fp32", threads=1)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 7 and b"stdout: No space left" in done.stderr


@pytest.mark.parametrize("which", ["x86", "arm"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(
    request: pytest.FixtureRequest, tiny: Tiny, tmp_path: Path, which: str, number: signal.Signals
) -> None:
    program: list[str] = request.getfixturevalue(which)
    forever = LatencySettings(0, 0.0, 10**9, 0.0, 600.0, pause_s=60.0)
    argv = runner_argv(
        program[-1],
        tiny.network,
        precision="fp32",
        threads=1,
        settings=forever,
        dump=str(tmp_path / "out"),
    )
    process = subprocess.Popen(
        [*program[:-1], *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for _ in range(600):
        if (tmp_path / "out" / "1-simcc_y.bin").exists():
            break
        time.sleep(0.05)
    time.sleep(0.3)  # into its long rest
    start_s = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - start_s < 10
    assert (process.returncode, out) == (128 + number, b"")
    assert err.decode() == f"edgepose-runner: ended by signal {int(number)}\n"
    assert not list((tmp_path / "out").glob("*.part"))


def test_a_crash_is_one_line_that_says_where(x86: list[str], tiny: Tiny, tmp_path: Path) -> None:
    forever = LatencySettings(0, 0.0, 10**9, 0.0, 600.0, pause_s=60.0)
    argv = runner_argv(
        x86[-1],
        tiny.network,
        precision="fp32",
        threads=1,
        settings=forever,
        dump=str(tmp_path / "out"),
    )
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (tmp_path / "out" / "1-simcc_y.bin").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGSEGV)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (5, b"")
    assert err == b"edgepose-runner: crashed (SIGSEGV) while running the network\n"


def test_the_users_own_runner(x86: list[str], arm: list[str], tmp_path: Path) -> None:
    own = tmp_path / "mine"
    shutil.copy(arm[-1], own)
    assert find_runner("aarch64", own).answered
    with pytest.raises(ToolError, match="is for aarch64, the target is x86_64"):
        find_runner("x86_64", own)
    data = own.read_bytes()
    own.write_bytes(data[: len(data) // 2])
    with pytest.raises(ToolError, match="cut off"):
        find_runner("aarch64", own)
    with pytest.raises(ToolError, match="not edgepose's native runner"):
        find_runner("x86_64", Path("/bin/true"))
    assert find_runner("x86_64", Path(x86[-1])).interpreter is None


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
