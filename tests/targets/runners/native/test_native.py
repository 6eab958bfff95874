"""The native runner's command line and its line of JSON, without the runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import DeviceError
from edge.latency import LatencySettings
from targets.runners.native.call import (
    NativeInput,
    NativeNetwork,
    NativeOutput,
    finished_run,
    parse_runner_line,
    read_dump,
    runner_argv,
    write_input,
)
from targets.transports.transport import Done
from tests.stand_ins.runner_output import LINE

POSE = NativeNetwork(
    "/d/m.param", "/d/m.bin", (NativeInput("input", "/d/i n.bin", (1, 3, 256, 192)),), ("x", "y")
)


def with_changes(**changes: Any) -> str:
    return json.dumps(LINE | changes)


def flags_of(argv: list[str]) -> dict[str, str]:
    return dict(zip(argv[1::2], argv[2::2], strict=True))


def test_a_command_line_in_full() -> None:
    argv = runner_argv(
        "/d/runner",
        POSE,
        precision="fp16",
        threads=4,
        settings=LatencySettings(5, 0.25, 64, 1.5, 30.0, pause_s=0.0025),
        cpu_mask="f0",
        dump="/d/out",
    )
    assert argv[0] == "/d/runner"
    assert flags_of(argv) == {
        "--param": "/d/m.param",
        "--bin": "/d/m.bin",
        "--input": "input=/d/i n.bin:1x3x256x192",
        "--outputs": "x,y",
        "--precision": "fp16",
        "--threads": "4",
        "--cpu-mask": "f0",
        "--warmup-count": "5",
        "--warmup-ms": "250",
        "--min-iterations": "64",
        "--min-seconds": "1.5",
        "--max-seconds": "30",
        "--pause-ms": "2.5",
        "--dump": "/d/out",
    }


def test_answers_alone_measure_nothing() -> None:
    flags = flags_of(runner_argv("r", POSE, precision="bf16", threads=1))
    assert {name: flags[f"--{name}"] for name in ("warmup-count", "warmup-ms")} == {
        "warmup-count": "0",
        "warmup-ms": "0",
    }
    assert flags["--min-iterations"] == flags["--min-seconds"] == "0"
    assert "--cpu-mask" not in flags and "--dump" not in flags


def test_a_pipeline_names_both_networks() -> None:
    found = NativeNetwork(
        "/d/d.param", "/d/d.bin", (NativeInput("image", "/d/f.bin", (1, 3, 320, 320)),), ("a",)
    )
    people = tuple(NativeInput("input", f"/d/p{i}.bin", (1, 3, 256, 192)) for i in range(2))
    argv = runner_argv(
        "r",
        NativeNetwork(POSE.param, POSE.weights, people, POSE.outputs),
        precision="fp32",
        threads=1,
        detector=found,
        interval=3,
    )
    assert argv.count("--input") == 2 and "--pipeline" in argv
    assert argv[argv.index("--interval") + 1] == "3"
    assert argv[argv.index("--det-input") + 1] == "image=/d/f.bin:1x3x320x320"
    assert argv[argv.index("--det-outputs") + 1] == "a"


@pytest.mark.parametrize("name", ["", "a=b"])
def test_names_that_the_runner_would_misread_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        NativeInput(name, "/d/i.bin", (1, 2)).word()


def test_a_line_becomes_a_run() -> None:
    run = parse_runner_line(with_changes() + "\n", "adb 1")
    assert run.engine == "ncnn 1.0.20261020"
    assert (run.precision, run.computes_in, run.threads) == ("fp16", "fp16", 2)
    assert run.samples_ns == (9_000_000, 9_100_000, 9_050_000)
    assert run.clocks[1].khz == (None, 1700000) and run.clocks[1].samples == 3
    assert run.peak_memory_kb is None and run.pipeline is None
    assert run.outputs == (NativeOutput("x", (1, 17, 384), 0, True, "0-x.bin"),)
    assert run.cpu.features["asimdhp"] and not run.cpu.features["i8mm"]
    assert run.reasons() == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"complete": False}, "time ran out"),
        ({"affinity": ["f0"], "affinity_after": ["f0"]}, "1 of 2 threads ran"),
        ({"outputs": [LINE["outputs"][0] | {"non_finite": 7}]}, "x holds 7 values"),
        ({"outputs": [LINE["outputs"][0] | {"same_in_last": False}]}, "x was another one"),
        ({"samples_ns": [0, 5, 5]}, "too coarse"),
    ],
)
def test_what_the_run_itself_says_against_its_figures(change: dict[str, Any], reason: str) -> None:
    (said,) = parse_runner_line(with_changes(**change), "adb 1").reasons()
    assert reason in said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "WARNING: linker: something\n" + json.dumps(LINE),
        json.dumps(LINE)[:-20],
        json.dumps(LINE) + json.dumps(LINE),
        "[]",
        "null",
        "{}",
        "7",
        "[" * 100_000,
        "\x00\xff",
        with_changes(samples_ns=[1.5, 2, 3]),
        with_changes(samples_ns=[True, 2, 3]),
        with_changes(samples_ns=[-1, 2, 3]),
        with_changes(samples_ns=[1]),
        with_changes(samples_ns="123"),
        with_changes(threads=float("nan")),
        with_changes(precision="fp8"),
        with_changes(complete="yes"),
        with_changes(kind="other"),
        with_changes(outputs=[LINE["outputs"][0] | {"file": "../../etc/passwd"}]),
        with_changes(outputs=[LINE["outputs"][0] | {"file": ".."}]),
        with_changes(clocks=[{"samples": 0}]),
        with_changes(affinity=None),
    ],
)
def test_anything_else_on_stdout_is_one_clear_error(text: str) -> None:
    with pytest.raises(DeviceError, match=r"^adb 1: what the runner printed is not") as error:
        parse_runner_line(text, "adb 1")
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_every_missing_key_is_an_error() -> None:
    for key in LINE:
        with pytest.raises(DeviceError, match="adb 1"):
            parse_runner_line(json.dumps({k: v for k, v in LINE.items() if k != key}), "adb 1")


def test_another_schema_names_the_fix() -> None:
    with pytest.raises(DeviceError, match=r"schema 2.*reads 1.*use the runner that belongs to it"):
        parse_runner_line(with_changes(schema=2), "adb 1")


@pytest.mark.parametrize(
    ("status", "stderr", "said"),
    [
        (2, b"edgepose-runner: unknown option '--x'; see --help\n", "command line: unknown option"),
        (3, b"noise\nedgepose-runner: m.bin: cut off\n", "cannot load the network: m.bin: cut off"),
        (6, b"edgepose-runner: the CPU mask f0 cannot be set\n", "mask does not hold"),
        (137, b"", "memory runs out"),
        (126, b"", "noexec"),
        (127, b"", "is not there"),
        (99, b"\xff", "exited with 99"),
    ],
)
def test_an_exit_code_becomes_its_reason(status: int, stderr: bytes, said: str) -> None:
    with pytest.raises(DeviceError, match=f"^ssh pi@host: .*{said}"):
        finished_run(Done(("r",), status, b"", stderr), "ssh pi@host")


def test_a_finished_run_is_read() -> None:
    done = Done(("r",), 0, with_changes().encode(), b"")
    assert finished_run(done, "local").threads == 2


def test_inputs_and_dumps_are_plain_floats(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float64).reshape(1, 2, 3, 4)
    # The other byte order and strides are the array's own affair.
    write_input(tmp_path / "0-x.bin", array.astype(">f8")[:, ::-1])
    assert (tmp_path / "0-x.bin").read_bytes() == array[:, ::-1].astype("<f4").tobytes()
    output = NativeOutput("x", (1, 2, 3, 4), 0, True, "0-x.bin")
    (back,) = read_dump([output], tmp_path, "local")["x"]
    np.testing.assert_array_equal(back, array[:, ::-1])
    assert back.dtype == np.float32

    with pytest.raises(DeviceError, match="local: the dump of x holds 24 values, not 30"):
        read_dump([NativeOutput("x", (1, 30), 0, True, "0-x.bin")], tmp_path, "local")
    with pytest.raises(DeviceError, match="the dump of y cannot be read"):
        read_dump([NativeOutput("y", (1, 30), 0, True, "1-y.bin")], tmp_path, "local")
    with pytest.raises(DeviceError, match="the dump of z cannot be read"):
        read_dump([NativeOutput("z", (1, 30), 0, True, None)], tmp_path, "local")
