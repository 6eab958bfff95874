"""What trtexec is told and what it answers, against the options and formats of its versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact
from edge.engines.trtexec import (
    DIALECTS,
    BuildKit,
    Timing,
    load_build_kit,
    parse_version,
    trtexec_build_argv,
    trtexec_run_argv,
    trtexec_time_argv,
    trtexec_version,
)
from edge.engines.trtexec_output import (
    read_export_output,
    read_export_times,
    trtexec_failure,
    trtexec_warnings,
)
from edge.errors import ArtifactError, EngineError, SpecError
from edge.spec import Variant
from tests.stand_ins.specs import pose_spec

MODELS = {"plain": "p.onnx", "strong": "s.onnx"}
FP16 = BuildKit("pose-fp16", "fp16", "input", (1, 3, 256, 192), MODELS)
INT8 = BuildKit("pose-int8", "int8", "input", (1, 3, 256, 192), MODELS)
OPEN = BuildKit("pose-fp16", "fp16", "input", (None, 3, 256, 192), MODELS, (1, 4, 8))


# --- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8201] # trtexec --help", (8, 2, 1)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # /usr/src/x", (8, 5, 2)),
        ("noise\n&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # x\nmore", (8, 6, 1)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v9300] # x", (9, 3, 0)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b46] # x", (10, 3, 0)),
        ("&&&& FAILED TensorRT.trtexec [TensorRT v101602] [b10] # x", (10, 16, 2)),
        ("&&&& PASSED TensorRT.trtexec [TensorRT v110400] # x", (11, 4, 0)),
        ("bash: trtexec: command not found", None),
    ],
)
def test_trtexec_says_its_version(banner: str, version: Any) -> None:
    assert trtexec_version(banner) == version


def test_versions_are_read() -> None:
    assert parse_version("10.3.0.30-1+cuda12.5") == (10, 3, 0)
    assert parse_version("8.6") == (8, 6, 0)
    with pytest.raises(SpecError, match=r"'R36' is no TensorRT version"):
        parse_version("R36")


@pytest.mark.parametrize("version", [(7, 1, 3), (8, 0, 1), (12, 0, 0)])
def test_versions_beyond_those_known_are_refused(version: Any) -> None:
    with pytest.raises(EngineError, match=r"is not known here; build kits are for 8.2 to 11.x"):
        trtexec_build_argv(version, FP16, "e")


# --- building -------------------------------------------------------------------------------------

# By the help texts of 8.2.1, 8.4.3, 8.5.2, 8.6.1, 10.3 and 11.4.
BUILD: dict[tuple[int, int, int], dict[str, list[str]]] = {
    (8, 2, 1): {
        "fp16": ["p.onnx", "--workspace=512", "--fp16", "--buildOnly"],
        "int8": ["p.onnx", "--workspace=512", "--int8", "--fp16", "--buildOnly"],
    },
    (8, 4, 3): {
        "fp16": ["p.onnx", "--memPoolSize=workspace:512", "--fp16", "--buildOnly"],
        "int8": ["p.onnx", "--memPoolSize=workspace:512", "--int8", "--fp16", "--buildOnly"],
    },
    (8, 5, 2): {
        "fp16": ["p.onnx", "--memPoolSize=workspace:512", "--fp16", "--buildOnly"],
        "int8": ["p.onnx", "--memPoolSize=workspace:512", "--int8", "--fp16", "--buildOnly"],
    },
    (8, 6, 1): {
        "fp16": ["p.onnx", "--memPoolSize=workspace:512", "--fp16", "--skipInference"],
        "int8": ["p.onnx", "--memPoolSize=workspace:512", "--int8", "--fp16", "--skipInference"],
    },
    (10, 3, 0): {
        "fp16": ["p.onnx", "--memPoolSize=workspace:512", "--fp16", "--skipInference"],
        "int8": ["p.onnx", "--memPoolSize=workspace:512", "--int8", "--fp16", "--skipInference"],
    },
    (11, 4, 0): {
        "fp16": ["s.onnx", "--memPoolSize=workspace:512", "--skipInference"],
        "int8": ["s.onnx", "--memPoolSize=workspace:512", "--skipInference"],
    },
}


@pytest.mark.parametrize("version", BUILD, ids=lambda version: ".".join(map(str, version)))
@pytest.mark.parametrize("kit", [FP16, INT8], ids=["fp16", "int8"])
def test_each_version_is_told_to_build_in_its_own_words(
    version: tuple[int, int, int], kit: BuildKit
) -> None:
    model, *flags = BUILD[version][kit.precision]
    got = trtexec_build_argv(version, kit, "e.engine", folder="/kit/", workspace_mb=512)
    assert got == ["trtexec", f"--onnx=/kit/{model}", "--saveEngine=e.engine", *flags]


def test_an_open_batch_gets_a_profile() -> None:
    argv = trtexec_build_argv(
        (10, 3, 0), OPEN, "e", timing_cache_path="/c/cache", trtexec="/opt/trtexec"
    )
    assert argv[0] == "/opt/trtexec"
    assert argv[-4:] == [
        "--minShapes=input:1x3x256x192",
        "--optShapes=input:4x3x256x192",
        "--maxShapes=input:8x3x256x192",
        "--timingCacheFile=/c/cache",
    ]


def test_what_a_kit_cannot_be_built_with_is_refused() -> None:
    newer = BuildKit("pose", "fp16", "input", (1, 3, 64, 48), MODELS, oldest=(8, 5))
    with pytest.raises(EngineError, match=r"pose needs TensorRT 8\.5 or newer .* is 8\.4\.3"):
        trtexec_build_argv((8, 4, 3), newer, "e")
    assert trtexec_build_argv((8, 5, 0), newer, "e")
    with pytest.raises(SpecError, match="1 MiB or more"):
        trtexec_build_argv((10, 3, 0), FP16, "e", workspace_mb=0)


# --- timing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "wanted", "flags"),
    [
        ((8, 2, 1), (True, True, False), ["--useSpinWait"]),
        ((10, 3, 0), (True, False, False), []),
        (
            (10, 16, 2),
            (False, True, True),
            ["--noDataTransfers", "--useSpinWait", "--useCudaGraph"],
        ),
        ((11, 0, 0), (True, True, False), ["--includeDataTransfers", "--noCudaGraph"]),
        ((11, 4, 0), (False, True, True), []),
        (
            (11, 4, 0),
            (True, False, False),
            ["--includeDataTransfers", "--noSpinWait", "--noCudaGraph"],
        ),
    ],
)
def test_the_same_measurement_is_meant_whatever_the_defaults(
    version: Any, wanted: tuple[bool, bool, bool], flags: list[str]
) -> None:
    argv = trtexec_time_argv(version, FP16, "e", "t.json", timing=Timing(300, 5, 50, *wanted))
    assert argv == [
        *("trtexec", "--loadEngine=e", "--warmUp=300", "--duration=5", "--iterations=50"),
        *flags,
        "--exportTimes=t.json",
    ]


def test_a_batch_is_said_where_it_is_open_and_checked_where_not() -> None:
    assert "--shapes=input:4x3x256x192" in trtexec_time_argv((10, 3, 0), OPEN, "e", "t")
    assert "--shapes=input:2x3x256x192" in trtexec_time_argv((10, 3, 0), OPEN, "e", "t", batch=2)
    with pytest.raises(SpecError, match="batches of 1 to 8, not 9"):
        trtexec_time_argv((10, 3, 0), OPEN, "e", "t", batch=9)
    with pytest.raises(SpecError, match="fixed at 1, not 2"):
        trtexec_time_argv((10, 3, 0), FP16, "e", "t", batch=2)


def test_one_run_on_given_bytes() -> None:
    assert trtexec_run_argv((11, 4, 0), OPEN, "e", "i.bin", "o.json", batch=3, trtexec="x") == [
        *("x", "--loadEngine=e", "--warmUp=0", "--duration=0", "--iterations=1"),
        *("--includeDataTransfers", "--noSpinWait", "--noCudaGraph"),
        *("--shapes=input:3x3x256x192", "--loadInputs=input:i.bin", "--exportOutput=o.json"),
    ]


# --- kits as files --------------------------------------------------------------------------------


def kit_artifact(folder: Path, data: Any) -> Artifact:
    (folder / "k.build.json").write_text(json.dumps(data))
    return Artifact(folder, Variant("tensorrt", "fp16"), pose_spec(), {"build": "k.build.json"}, {})


@pytest.mark.parametrize("kit", [FP16, OPEN])
def test_a_kit_survives_its_file_and_holds_the_commands(tmp_path: Path, kit: BuildKit) -> None:
    data = kit.to_json()
    assert load_build_kit(kit_artifact(tmp_path, data)) == kit
    assert list(data["commands"]) == [dialect.text for dialect in DIALECTS]
    assert data["commands"]["10"]["build"] == trtexec_build_argv(
        (10, 9, 0), kit, "pose-fp16.engine"
    )
    assert data["commands"]["11"]["time"] == trtexec_time_argv(
        (11, 2, 0), kit, "pose-fp16.engine", "times.json"
    )


def test_a_kit_for_newer_versions_has_no_commands_for_old_ones() -> None:
    kit = BuildKit("pose", "fp16", "input", (1, 3, 64, 48), MODELS, oldest=(8, 5))
    assert list(kit.to_json()["commands"]) == ["8.4 to 8.5", "8.6 to 9.3", "10", "11"]


def test_a_file_that_is_no_kit_is_one_line(tmp_path: Path) -> None:
    data = FP16.to_json()
    with pytest.raises(ArtifactError, match=r"schema 2\); upgrade edgepose"):
        load_build_kit(kit_artifact(tmp_path, data | {"schema": 2}))
    others: list[Any] = [data | {"models": None}, {"schema": 1}, []]
    for broken in others:
        with pytest.raises(ArtifactError, match=r"k\.build\.json: no build kit .*convert it again"):
            load_build_kit(kit_artifact(tmp_path, broken))


# --- answers --------------------------------------------------------------------------------------


def times_file(path: Path, rows: list[tuple[float, float, float, float]], *, old: bool) -> Path:
    """(start, h2d, compute, d2h) in the layout of ``exportJSONTrace``; 8.2 adds a key."""
    texts = []
    for start, h2d, compute, d2h in rows:
        begin, end, total = start - h2d, start + compute, h2d + compute + d2h
        values = [begin, begin + 0.1, begin, start, start, end, end, end + d2h]
        keys = "startEnq endEnq startH2d endH2d startCompute endCompute startD2h endD2h"
        values += [h2d, compute, d2h, total, *([total] if old else [])]
        names = [*keys.split(), *["h2d", "compute", "d2h", "latency"], "endToEnd"]
        pairs = [f'"{name}Ms" : {value:g}' for name, value in zip(names, values, strict=False)]
        texts.append("{ " + ", ".join(pairs) + " }")
    path.write_text("[\n  " + "\n, ".join(texts) + "\n]\n")
    return path


@pytest.mark.parametrize("old", [True, False])
def test_times_are_those_after_the_warm_up(tmp_path: Path, old: bool) -> None:
    rows = [(5.0, 0.5, 90.0, 0.25), (199.0, 0.5, 80.0, 0.25)]
    rows += [(200.0 + 10 * i, 0.25, 2.0 + i, 0.125) for i in range(5)]
    path = times_file(tmp_path / "t.json", rows, old=old)
    times = read_export_times(path, warmup_ms=200)
    np.testing.assert_allclose(times.compute_ms, [2, 3, 4, 5, 6])
    np.testing.assert_allclose(times.latency_ms, [2.375, 3.375, 4.375, 5.375, 6.375])
    np.testing.assert_allclose(times.h2d_ms, 0.25)
    np.testing.assert_allclose(times.d2h_ms, 0.125)
    assert len(read_export_times(path).compute_ms) == 7


@pytest.mark.parametrize("text", ["", "[", "{}", '[{"latencyMs": 1}]', "[1]", "[]"])
def test_files_without_times_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(EngineError, match=r"t\.json: "):
        read_export_times(path)
    with pytest.raises(EngineError, match=r"none\.json: not the times"):
        read_export_times(tmp_path / "none.json")


def test_output_tensors_are_read_as_cpp_prints_them(tmp_path: Path) -> None:
    path = tmp_path / "o.json"
    path.write_text(
        '[\n  { "name" : "simcc_x"\n  , "dimensions" : "1x2x3"\n'
        '  , "values" : [ 0.5, -1.25e-05, nan, inf, -inf, -nan ]\n  }\n'
        ', { "name" : "infinite"\n  , "dimensions" : "2"\n  , "values" : [ 3, 4 ]\n  }\n]\n'
    )
    outputs = read_export_output(path)
    assert list(outputs) == ["simcc_x", "infinite"]
    want = np.array([0.5, -1.25e-05, np.nan, np.inf, -np.inf, np.nan]).reshape(1, 2, 3)
    np.testing.assert_array_equal(outputs["simcc_x"], want)
    np.testing.assert_array_equal(outputs["infinite"], [3, 4])


@pytest.mark.parametrize("values", ["[ 1, 2 ]", "[ 1, x, 3 ]", '"no"'])
def test_output_files_of_another_kind_are_refused(tmp_path: Path, values: str) -> None:
    path = tmp_path / "o.json"
    path.write_text(f'[ {{ "name" : "a", "dimensions" : "1x3", "values" : {values} }} ]')
    with pytest.raises(EngineError, match=r"o\.json: not the tensors"):
        read_export_output(path)


LOG = """&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --onnx=x
[11/21/2026-10:00:00] [I] === Model Options ===
[11/21/2026-10:00:00] [W] [TRT] onnx2trt_utils.cpp:377: Your ONNX model has INT64 weights.
[11/21/2026-10:00:01] [W] * GPU compute time is unstable, with coefficient of variance = 4.1%.
[11/21/2026-10:00:01] [W]   If not already in use, locking GPU clock frequency may help.
[11/21/2026-10:00:02] [W] [TRT] onnx2trt_utils.cpp:377: Your ONNX model has INT64 weights.
[11/21/2026-10:00:03] [E] Error[9]: Skipping tactic 0x0
[11/21/2026-10:00:03] [E] Engine set up failed
&&&& FAILED TensorRT.trtexec [TensorRT v8502] # trtexec --onnx=x
"""


def test_warnings_and_the_reason_of_a_failure_come_out_of_the_log() -> None:
    assert trtexec_warnings(LOG) == [
        "onnx2trt_utils.cpp:377: Your ONNX model has INT64 weights.",
        "* GPU compute time is unstable, with coefficient of variance = 4.1%.",
        "If not already in use, locking GPU clock frequency may help.",
    ]
    assert trtexec_warnings("[I] fine\nnothing") == []
    assert trtexec_failure(LOG) == "Engine set up failed"
    assert trtexec_failure("=== Help ===\n[E] Unknown option: --int8\n") == "Unknown option: --int8"
    assert trtexec_failure("Killed\n\n") == "Killed"
    assert trtexec_failure("") == "it printed nothing"
