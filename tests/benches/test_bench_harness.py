"""Our figures against the vendors', but for what takes time: what is read, and when they agree."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from edge.errors import ToolError
from tests.benches.bench_harness import (
    Comparison,
    Pair,
    Timed,
    compare,
    printed_by,
    read_benchmark_app,
    table,
)

pytestmark = pytest.mark.alone

LOOPS = Path(__file__).with_name("vendor_loops.py")

# Lines of OpenVINO 2026.4.1's tool.
PRINTED = """\
[Step 2/11] Loading OpenVINO Runtime
[ INFO ] OpenVINO:
[ INFO ] Build ................................. 2026.4.1-22982-e213a147257-releases/2026/4
[Step 8/11] Querying optimal runtime parameters
[ INFO ]   NUM_STREAMS: 1
[ INFO ]   INFERENCE_NUM_THREADS: 2
[ INFO ]   INFERENCE_PRECISION_HINT: <Type: 'float32'>
[ INFO ] First inference took 42.92 ms
[Step 11/11] Dumping statistics report
[ INFO ] Count:            171 iterations
[ INFO ] Duration:         2010.75 ms
[ INFO ] Latency:
[ INFO ]    Median:        11.31 ms
[ INFO ]    Average:       11.53 ms
"""


def timed(p50_ms: float, precision: str = "fp32", threads: int = 1) -> Timed:
    return Timed(p50_ms, "ncnn 1.0", precision, threads, 50)


def compared(*rounds: tuple[float, float]) -> Comparison:
    ours, theirs = zip(*rounds, strict=True)
    return Comparison("model", "ncnn", "a loop", tuple(map(timed, ours)), tuple(map(timed, theirs)))


def test_what_benchmark_app_prints() -> None:
    found = read_benchmark_app(PRINTED)
    assert found == Timed(found.p50_ms, "openvino 2026.4.1", "fp32", 2, 171, 11.31)
    # A round of its loop takes 2010.75 / 171 = 11.7588 ms, 0.2288 more than its latency.
    assert found.p50_ms == pytest.approx(11.31 + 0.2288, abs=1e-4)
    small = PRINTED.replace("11.31 ms", "475.43 us").replace("11.53 ms", "480.10 us")
    small = small.replace("2010.75 ms", "85.50 ms")
    assert read_benchmark_app(small).p50_ms == pytest.approx(0.47543 + 0.5 - 0.4801)
    other = read_benchmark_app(PRINTED.replace("float32", "bfloat16"))
    assert other.precision == "bf16"
    for gone in ("Median", "Count", "Duration", "INFERENCE_NUM_THREADS", "Build"):
        with pytest.raises(ToolError, match=f"no {gone}"):
            read_benchmark_app(PRINTED.replace(gone, "x"))


def test_the_median_of_the_rounds_decides() -> None:
    # Ratios 1.04, 1.2 and 0.9: neither the mean nor the ratio of the medians is theirs.
    one = compared((10.4, 10), (12, 10), (18, 20))
    assert one.ratio == pytest.approx(1.04)
    assert one.agrees
    assert compared((10.5, 10)).agrees
    assert compared((9.5, 10)).agrees
    assert not compared((10.51, 10)).agrees
    assert not compared((9.49, 10)).agrees


def test_only_like_is_compared() -> None:
    for ours in (timed(10, threads=2), timed(10, precision="bf16")):
        one = Comparison("model", "ncnn", "a loop", (ours, timed(10)), (timed(10), timed(10)))
        assert one.ratio == 1
        assert len(one.differences) == 1
        assert not one.agrees
        assert "NOT COMPARED" in table([one])[1]


def test_sides_take_turns() -> None:
    calls: list[str] = []

    def side(name: str, p50_ms: float) -> Timed:
        calls.append(name)
        return timed(p50_ms)

    pair = Pair("m", "ncnn", "v", lambda: side("a", 2), lambda: side("b", 1))
    found = compare(pair, 5)
    assert "".join(calls) == "abbaabbaab"
    assert found.ratios == [2.0] * 5


def test_table_and_json_say_the_same() -> None:
    found = [compared((10.2, 10), (10.1, 10)), compared((12, 10))]
    head, first, second = table(found)
    assert "10.150 ms" in first
    assert "1.015" in first
    assert first.endswith(" agrees")
    assert second.endswith(" DISAGREES")
    assert head.index("verdict") == first.index("agrees")
    printed = Timed(10, "ncnn 1.0", "fp32", 1, 50, printed_ms=9.5)
    one = Comparison("model", "ncnn", "a tool", (timed(10.1),), (printed,))
    assert one.agrees
    assert table([one])[-1].endswith("the ratio is 1.063")
    read = json.loads(json.dumps([one.to_json() for one in found]))
    assert [one["agrees"] for one in read] == [True, False]
    assert read[0]["ratios"] == pytest.approx([1.02, 1.01])
    assert read[0]["ours"][0]["p50_ms"] == 10.2


def test_a_side_that_fails_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.zeros((1, 3, 8, 8), np.float32))
    (tmp_path / "m.onnx").write_bytes(b"no model")
    argv = [sys.executable, str(LOOPS), "onnxruntime"]
    with pytest.raises(ToolError, match=r"exited with 1: .*Protobuf parsing failed"):
        printed_by([*argv, str(tmp_path / "m.onnx"), str(tmp_path / "image.npy")])


def test_the_vendors_side_has_nothing_of_ours() -> None:
    tree = ast.parse(LOOPS.read_text(encoding="utf-8"))
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {"ncnn", "onnxruntime", "openvino"} <= names
    assert not {name.partition(".")[0] for name in names} & {"edge", "targets", "tests"}
