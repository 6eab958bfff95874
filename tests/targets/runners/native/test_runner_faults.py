"""What the native runner says of a wrong command line, damaged files and crashes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
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
    read_dump,
    runner_argv,
)
from targets.transports.programs import run_program
from tests.stand_ins.native_networks import network_of
from tests.stand_ins.native_runs import Tiny, run, start, tiny  # noqa: F401
from tests.stand_ins.runner_programs import arm, refused, x86  # noqa: F401

pytest.importorskip("onnx")
pytest.importorskip("ncnn")
if find_spec("pnnx") is None:  # importing it would need PyTorch
    pytest.skip("pnnx is not installed", allow_module_level=True)

pytestmark = pytest.mark.slow

FEW = LatencySettings(1, 0.0, 4, 0.0, 60.0)


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
