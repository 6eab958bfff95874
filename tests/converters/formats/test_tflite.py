"""ONNX -> .tflite: names and axes by values, integers that lose little, one clear line else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.formats import onnx2tf, tflite_float
from converters.formats.onnx2tf import MissingOperatorError, onnx2tf_python, onnx2tf_version
from converters.formats.tflite import convert_tflite
from converters.formats.tflite_float import float_graph
from converters.formats.tflite_graph import (
    builtin_names,
    name_graph,
    read_graph,
    write_graph,
)
from converters.formats.tflite_quantise import open_tflite_quantiser
from converters.graph.prepare import prepare
from converters.job import Job
from edge.artifact import Artifact
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.engines.tflite import open_engine
from edge.errors import ToolError
from edge.spec import Precision, Variant
from tests.conftest import ROOT, tiny_simcc_model
from tests.stand_ins.tflite_convolution import (
    feed,
    formula,
    one_convolution,
    square_spec,
)
from tests.stand_ins.tflite_square import (  # noqa: F401
    ONE,
    job_of,
    made,
    onnx,
    run,
    square_onnx,
    tensor_types,
)
from tests.stand_ins.tiny_artifacts import tiny_artifact

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")
pytest.importorskip("ai_edge_quantizer")

pytestmark = pytest.mark.long
WEIGHT_ONLY: tuple[Precision, ...] = ("fp32", "fp16", "dynamic-range")


def operators(path: Path) -> list[str]:
    model = read_graph(path)
    names = builtin_names(model)
    return [names[operator.opcodeIndex] for operator in model.subgraphs[0].operators]


# --- names and axes -------------------------------------------------------------------------------


def test_axes_of_a_cube_are_told_by_values(tmp_path: Path) -> None:
    path = one_convolution(tmp_path / "square.tflite")
    named = name_graph(path, square_onnx(), square_spec())
    # Sixteen maps of 16x16: any order of axes has this shape.
    assert named.layout == {"input": [0, 2, 3, 1], "heatmaps": [0, 2, 3, 1]}
    assert named.error < 1e-5
    assert named.part_of_operator == ["stem"]
    write_graph(named.model, tmp_path / "named.tflite")
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(str(tmp_path / "named.tflite")).get_signature_list()
    assert signature == {"serving_default": {"inputs": ["input"], "outputs": ["heatmaps"]}}


def test_a_file_that_computes_something_else_has_no_such_output(tmp_path: Path) -> None:
    path = one_convolution(tmp_path / "square.tflite")
    with pytest.raises(ToolError, match="no output with the values of 'heatmaps'"):
        name_graph(path, square_onnx(scale=-1.0), square_spec())


def test_a_small_difference_is_measured(tmp_path: Path) -> None:
    path = one_convolution(tmp_path / "square.tflite")
    named = name_graph(path, square_onnx(scale=1.0005), square_spec())
    assert named.error == pytest.approx(0.0005, rel=0.01)


# --- the float route ------------------------------------------------------------------------------


def test_a_file_is_converted_once(tmp_path: Path, made: list[bool]) -> None:
    for precision in WEIGHT_ONLY:
        job = job_of(tmp_path / precision, precision)
        files = convert_tflite(job)
        assert files == {"model": "square.tflite", "layout": "layout.json"}
        got = run(job.folder, files, job.precision, feed())
        limit = {"fp32": 1e-5, "fp16": 5e-3, "dynamic-range": 0.1}[precision]
        np.testing.assert_allclose(got, formula(feed()), atol=limit, rtol=0)
        left = sorted(path.name for path in job.folder.iterdir())
        assert left == ["layout.json", "prepared.onnx", "square.tflite"]
    assert made == [False]


def test_weights_are_stored_as_the_precision_says(tmp_path: Path, made: list[bool]) -> None:
    from ai_edge_litert.schema_py_generated import TensorType

    types = {}
    for precision in WEIGHT_ONLY:
        job = job_of(tmp_path / precision, precision)
        types[precision] = set(tensor_types(job.folder / convert_tflite(job)["model"]))
    assert types["fp32"] == {TensorType.FLOAT32}
    assert TensorType.FLOAT16 in types["fp16"]
    assert TensorType.INT8 in types["dynamic-range"]
    assert made == [False]


def test_what_fp32_may_change_is_taken(tmp_path: Path, made: list[bool]) -> None:
    """Rounding on noise is no reason: the answers on pictures are judged afterwards."""
    assert float_graph(job_of(tmp_path / "job", "fp32", scale=1.002)).error < 0.0025
    assert made == [False]


def test_what_is_off_is_refused_at_once_and_for_all_variants(
    tmp_path: Path, made: list[bool]
) -> None:
    """Its axes are right, so that no search is begun; the second variant does not try again."""
    job = job_of(tmp_path / "off", "fp32", scale=1.05)
    for precision in ("fp32", "fp16"):
        with pytest.raises(
            ToolError, match=r"square is off by 0\.048 of an output \(limit 0\.0045"
        ):
            float_graph(replace(job, precision=precision))
    assert made == [False]
    assert not (tmp_path / "cache").exists()


def test_other_outputs_are_searched_for_and_then_refused(tmp_path: Path, made: list[bool]) -> None:
    job = job_of(tmp_path / "off", "fp32", scale=-1.0)
    for _ in range(2):
        with pytest.raises(ToolError, match=r"also with its search.*no output with the values of"):
            float_graph(job)
    assert made == [False, True]
    assert not (tmp_path / "cache").exists()


def test_a_failure_of_the_plain_conversion_is_searched_too(
    tmp_path: Path, made: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_first(_path: Path, _model: Any, folder: Path, *, search: bool = False) -> Path:
        made.append(search)
        if not search:
            raise ToolError("`onnx2tf` exited with 1")
        return one_convolution(folder / "model_float32.tflite")

    monkeypatch.setattr(tflite_float, "run_onnx2tf", fails_first)
    assert float_graph(job_of(tmp_path / "once", "fp32")).error < 1e-5
    assert made == [False, True]


def test_a_damaged_cache_is_made_anew(tmp_path: Path, made: list[bool]) -> None:
    job = job_of(tmp_path / "job", "fp32")
    float_graph(job)
    (kept,) = (tmp_path / "cache").rglob("*.tflite")
    good = kept.read_bytes()
    kept.write_bytes(good[: len(good) // 2])
    assert float_graph(job).error < 1e-5
    assert kept.read_bytes() == good
    assert made == [False, False]


# --- operators that TFLite lacks ------------------------------------------------------------------


def test_an_operator_that_onnx2tf_lacks_is_named_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operators = tmp_path / "lib/python3.11/site-packages/onnx2tf/ops"
    operators.mkdir(parents=True)
    (operators / "Conv.py").touch()
    monkeypatch.setattr(onnx2tf, "onnx2tf_python", lambda: tmp_path / "bin/python")
    words = r"no operator for Mul \(node '/head/Mul'\); onnx has it.*--formats"
    with pytest.raises(MissingOperatorError, match=words):
        onnx2tf.run_onnx2tf(tmp_path / "in.onnx", square_onnx(2.0), tmp_path)


def test_an_operator_of_tensorflow_itself_is_named() -> None:
    model = square_onnx(2.0)
    onnx2tf.refuse_flex(["CONV_2D", "MUL"], model)
    with pytest.raises(MissingOperatorError, match=r"for Mul \(node '/head/Mul'\)"):
        onnx2tf.refuse_flex(["CONV_2D", "FlexMul"], model)


# --- onnx2tf's environment ------------------------------------------------------------------------


def test_the_version_is_the_locks() -> None:
    assert f"onnx2tf=={onnx2tf_version()}" in (ROOT / "converters/formats/onnx2tf.lock").read_text()


def test_the_lock_has_hashes_and_no_addresses() -> None:
    text = (ROOT / "converters/formats/onnx2tf.lock").read_text()
    pins = [line for line in text.splitlines() if line and line[0] not in " #"]
    assert len(pins) > 30
    assert all("==" in line and line.endswith("\\") for line in pins)
    assert "://" not in text


@pytest.mark.parametrize("state", ["absent", "half-built", "stale"])
def test_the_environment_is_built_on_first_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    environment = tmp_path / ".venv-onnx2tf"
    python = environment / "bin/python"
    wanted = hashlib.sha256((ROOT / "converters/formats/onnx2tf.lock").read_bytes()).hexdigest()
    calls = []

    def build(argv: Sequence[str], cwd: Path, _timeout_s: float) -> str:
        calls.append((list(argv), cwd))
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        (environment / ".ready").write_text(f"{wanted}\n")
        return ""

    if state != "absent":
        python.parent.mkdir(parents=True)
        python.touch()
    if state == "stale":
        (environment / ".ready").write_text("0" * 64)
    monkeypatch.setattr(onnx2tf, "run_shown", build)
    assert onnx2tf_python(environment) == python
    assert onnx2tf_python(environment) == python
    assert calls == [(["make", "--no-print-directory", "setup-onnx2tf"], ROOT)]


@pytest.mark.parametrize("how", ["fails", "leaves nothing"])
def test_an_environment_that_cannot_be_built_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def build(*_: Any) -> str:
        if how == "fails":
            raise ToolError("`make setup-onnx2tf` exited with 2; the last lines:\n    no network")
        return ""

    monkeypatch.setattr(onnx2tf, "run_shown", build)
    with pytest.raises(ToolError, match="make setup-onnx2tf") as caught:
        onnx2tf_python(tmp_path / "absent")
    assert "\n" not in str(caught.value)
    assert (how == "fails") == ("(no network)" in str(caught.value))


# --- onnx2tf itself -------------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """onnx2tf's environment is there, and whatever would ask the network runs into a wall."""
    mark = ROOT / ".venv-onnx2tf/.ready"
    wanted = hashlib.sha256((ROOT / "converters/formats/onnx2tf.lock").read_bytes()).hexdigest()
    if not mark.is_file() or mark.read_text().strip() != wanted:
        pytest.skip("onnx2tf's environment is not built: make setup-onnx2tf")
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")

    def prepared(path: Path, name: str, spec: Any, precision: Precision, images: Any = ()) -> Job:
        made = prepare(path, name, spec=spec, batch=1)
        folder = tmp_path / f"{name}-{precision}"
        folder.mkdir()
        onnx.save(made.model, str(folder / "prepared.onnx"))
        return Job(folder / "prepared.onnx", made.spec, precision, folder, images)

    return prepared


def compare(job: Job, files: dict[str, str]) -> float:
    """Largest difference from ONNX Runtime on three pictures of noise, of the largest value."""
    artifact = Artifact(job.folder, Variant("tflite", "fp32"), job.spec, files, {})
    reference = OnnxRuntimeSession(job.onnx_path, job.spec, ONE)
    worst = 0.0
    with open_engine(artifact, ONE) as session, reference:
        for seed in range(3):
            shape = [size or 1 for size in job.spec.input.shape]
            noise = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
            want, got = reference.run({"input": noise}), session.run({"input": noise})
            assert list(got) == list(want)
            for name, value in want.items():
                assert got[name].shape == value.shape
                worst = max(worst, float(np.abs(got[name] - value).max() / np.abs(value).max()))
    return worst


def test_a_tiny_network_goes_the_whole_way_without_a_network(
    tmp_path: Path, offline: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with a relative path, as the kit's own default for artifacts is."""
    artifact = tiny_artifact(tmp_path)
    onnx.save(tiny_simcc_model(scale_norm=True), str(artifact.path("model")))
    job = offline(artifact.path("model"), "tiny", artifact.spec, "fp32")
    monkeypatch.chdir(tmp_path)
    near = {key: getattr(job, key).relative_to(tmp_path) for key in ("onnx_path", "folder")}
    files = convert_tflite(replace(job, **near))
    assert compare(job, files) < 1e-4
    assert json.loads((job.folder / files["layout"]).read_text())["input"] == [0, 2, 3, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rtmpose-t-demo", "rtmdet-nano-demo"])
def test_the_demo_models_keep_their_answers(name: str, offline: Callable[..., Job]) -> None:
    from converters.zoo.models import find_source

    source = find_source(name)
    job = offline(source.path, name, source.spec, "fp32")
    assert compare(job, convert_tflite(job)) < 1e-4


@pytest.mark.slow
def test_the_real_detector_keeps_its_answers(
    rtmdet_file: Path, offline: Callable[..., Job]
) -> None:
    job = offline(rtmdet_file, "rtmdet-nano-person", None, "fp32")
    floats = convert_tflite(job)
    assert compare(job, floats) < 1e-4
    size = (job.folder / floats["model"]).stat().st_size
    noise = np.random.default_rng(0).normal(0, 1, (8, 1, 3, 320, 320)).astype(np.float32)
    images = [{"input": image} for image in noise]
    quantiser = open_tflite_quantiser(replace(job, precision="int8", feeds=images))
    folder = job.folder / "int8"
    folder.mkdir()
    files = quantiser.quantise((), folder)
    assert (folder / files["model"]).stat().st_size < 0.3 * size
    # Not the trunk: the first layers, and what one output alone needs.
    trunk = [part for part in quantiser.parts if part not in quantiser.fragile_parts]
    assert trunk == [*quantiser.parts[2:7], "Conv_299..Conv_336"]
    # The outputs stay six: logits and distances in one tensor would share their steps.
    assert len(read_graph(folder / files["model"]).subgraphs[0].outputs) == 6
    kinds = operators(folder / files["model"])
    assert kinds.count("CONV_2D") > 80
    assert "RELU_0_TO_1" in operators(job.folder / floats["model"])
    assert "RELU_0_TO_1" not in kinds
