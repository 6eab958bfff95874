"""Int8 files of OpenVINO: the arithmetic, what stays float, and what the tool must not do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.formats import openvino_ir
from converters.formats.openvino import convert_openvino, read_onnx
from converters.formats.openvino_int8 import open_openvino_quantiser
from converters.formats.openvino_profile import layer_kinds, profile_table
from converters.job import Job
from edge.engines.openvino import import_openvino, keep_signal_stack
from edge.errors import EngineMissingError, SpecError, ToolError
from edge.session import Array, Feeds
from edge.spec import TensorSpec, Variant
from tests.conftest import ROOT
from tests.stand_ins.openvino_jobs import artifact_of
from tests.stand_ins.specs import pose_spec

onnx = pytest.importorskip("onnx")
pytest.importorskip("nncf")
try:
    openvino = import_openvino()
except EngineMissingError:
    pytest.skip("openvino is not installed", allow_module_level=True)

LAYERS = ("Convolution", "GroupConvolution", "MatMul")


def write_network(folder: Path, widths: Sequence[int], kernel: int = 3) -> Path:
    """Convolutions with biases and SiLU between them, each a module ``stage<n>``; fixed weights."""
    helper = onnx.helper
    rng = np.random.default_rng(11)
    nodes, weights, last = [], [], "input"
    for index, (wide, out) in enumerate(pairwise(widths)):
        name, final = f"/stage{index}/conv", index == len(widths) - 2
        weight = rng.normal(0, (wide * kernel**2) ** -0.5, (out, wide, kernel, kernel))
        for key, value in (("w", weight), ("b", rng.uniform(0.5, 1.5, out))):
            array = value.astype(np.float32)
            weights.append(onnx.numpy_helper.from_array(array, f"{key}{index}"))
        result = "output" if final else f"{name}/Conv_output_0"
        nodes.append(
            helper.make_node(
                "Conv", [last, f"w{index}", f"b{index}"], [result], name=f"{name}/Conv",
                pads=[kernel // 2] * 4,
            )
        )  # fmt: skip
        if not final:
            act = f"/stage{index}/act"
            nodes += [
                helper.make_node("Sigmoid", [result], [f"{act}/s"], name=f"{act}/Sigmoid"),
                helper.make_node("Mul", [result, f"{act}/s"], [f"{act}/m"], name=f"{act}/Mul"),
            ]
            last = f"{act}/m"
    graph = helper.make_graph(
        nodes,
        "stages",
        [helper.make_tensor_value_info("input", 1, [1, widths[0], 12, 10])],
        [helper.make_tensor_value_info("output", 1, [1, widths[-1], 12, 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "stages.onnx"))
    return folder / "stages.onnx"


SPEC = replace(
    pose_spec(),
    name="stages",
    codec="heatmap",
    input=TensorSpec("input", (1, 3, 12, 10)),
    outputs=(TensorSpec("output", (1, 17, 12, 10)),),
)


def some_feeds(count: int = 10) -> list[Feeds]:
    rng = np.random.default_rng(4)
    return [{"input": rng.normal(0, 1, (1, 3, 12, 10)).astype(np.float32)} for _ in range(count)]


def run(model: Any, image: Array) -> Array:
    with keep_signal_stack():
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = openvino.Core().compile_model(model, "CPU", options)
    return np.array(next(iter(compiled(image).values())))


def weight_of(layer: Any) -> Any:
    """The constant that a layer's weights come from."""
    node = layer.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A network of three stages and what calibrates it."""
    folder = tmp_path_factory.mktemp("three")
    return Job(write_network(folder, (3, 16, 16, 17)), SPEC, "int8", folder, some_feeds())


@pytest.fixture(scope="module")
def quantiser(three: Job) -> Any:
    return open_openvino_quantiser(three)


def test_one_convolution_is_what_the_formula_says(tmp_path: Path) -> None:
    """Codes of weights and inputs by the definition; the sum over them by numpy, in float64."""
    path = write_network(tmp_path, (3, 17), kernel=1)
    rng = np.random.default_rng(8)
    images = [
        {"input": rng.uniform(-1.0, 1.55, (1, 3, 12, 10)).astype(np.float32)} for _ in range(8)
    ]
    for feeds in images:
        feeds["input"].flat[:2] = -1.0, 1.55  # the same range in each: nothing to be averaged
    job = Job(path, SPEC, "int8", tmp_path, images)
    files = open_openvino_quantiser(job).quantise((), tmp_path)
    model = openvino.Core().read_model(tmp_path / files["model"])
    ops = list(model.get_ops())
    (layer,) = (op for op in ops if op.get_type_name() == "Convolution")
    codes = weight_of(layer).data
    assert codes.dtype == np.int8

    source = {
        tensor.name: onnx.numpy_helper.to_array(tensor).astype(float)
        for tensor in onnx.load(path).graph.initializer
    }
    w, b = source["w0"].reshape(17, 3), source["b0"]
    # Weights: symmetric, a scale a channel; the first layer's use half of the codes.
    scale = np.abs(w).max(1, keepdims=True) / 63.5
    stored = codes.reshape(17, 3) * (scale if np.abs(codes).max() <= 64 else scale / 2)
    assert np.abs(stored - w).max() <= 0.51 * scale.max()
    assert len(np.unique(codes)) > 12
    # Inputs: 256 codes from -1 to 1.55, so that 0 is the hundredth.
    x = images[0]["input"].reshape(3, -1).astype(float)
    rounded = np.clip(np.round((x + 1) * 100), 0, 255) / 100 - 1
    found = run(model, images[0]["input"]).reshape(17, -1)
    (bias_op,) = (op for op in ops if op.get_type_name() == "Add")
    bias = bias_op.input_value(1).get_node().data.reshape(17).astype(float)
    want = stored @ rounded + bias[:, None]
    # A code may fall on either side where float32 puts an input half-way between two.
    assert np.mean(np.abs(found - want) > 1e-4) < 0.01
    assert np.abs(want - (w @ x + b[:, None])).max() > 0.005
    # The bias makes up for what rounding the weights does to the mean answer.
    mean = np.mean([feeds["input"].mean((0, 2, 3)) for feeds in images], 0, dtype=float)
    missing = (w - stored) @ mean
    assert np.abs(bias - b - missing).max() <= 0.5 * 0.01 * np.abs(stored).sum(1).max()


def test_its_answers_are_near_the_float_ones(three: Job, quantiser: Any, tmp_path: Path) -> None:
    files = quantiser.quantise((), tmp_path)
    found = run(openvino.Core().read_model(tmp_path / files["model"]), three.feeds[0]["input"])
    want = run(read_onnx(three.onnx_path, "stages"), three.feeds[0]["input"])
    assert 0 < np.abs(found - want).max() < 0.05 * np.abs(want).max()


def test_parts_are_the_modules_and_hold_all_layers(quantiser: Any) -> None:
    assert list(quantiser.parts) == ["stage0", "stage1", "stage2"]
    assert list(quantiser.fragile_parts) == ["stage2"]


@pytest.mark.parametrize("floats", [(), ("stage0",), ("stage1",), ("stage2", "stage1")], ids=str)
def test_float_parts_stay_float(quantiser: Any, tmp_path: Path, floats: tuple[str, ...]) -> None:
    """Neither weights nor inputs of their layers are quantised, and all others are."""
    files = quantiser.quantise(floats, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files.values())
    model = openvino.Core().read_model(tmp_path / files["model"])
    layers = [op for op in model.get_ordered_ops() if op.get_type_name() in LAYERS]
    assert len(layers) == 3
    for index, layer in enumerate(layers):
        is_float = f"stage{index}" in floats
        assert weight_of(layer).data.dtype == (np.float16 if is_float else np.int8)
        above = layer.input_value(0).get_node().get_type_name()
        assert (above == "FakeQuantize") == (not is_float)


def test_later_choices_equal_nncf_alone(
    three: Job, quantiser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured once and used again is what NNCF's own function measures anew each time."""
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    # Half floats in float parts would move an input of the next part to another code here or there.
    monkeypatch.setattr(openvino_ir, "_SMALLEST_HALF", 10**9)
    image = three.feeds[3]["input"]
    for floats, layer in (((), 0), (("stage1",), 1), (("stage0",), 0), ((), 0)):
        ignored = [f"/stage{layer}/{op}" for op in ("conv/Conv", "conv/Conv/WithoutBiases")]
        want = nncf.quantize(
            read_onnx(three.onnx_path, "stages"),
            nncf.Dataset([dict(feeds) for feeds in three.feeds]),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(three.feeds),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
            ),
            ignored_scope=nncf.IgnoredScope(
                names=[*ignored, f"/stage{layer}/act/Mul"] if floats else []
            ),
        )
        files = quantiser.quantise(floats, tmp_path)
        found = run(openvino.Core().read_model(tmp_path / files["model"]), image)
        assert np.abs(found - run(want, image)).max() <= 1e-6


class Counted(list[Feeds]):
    """Feeds that count how often they are gone through."""

    times = 0

    def __iter__(self) -> Iterator[Feeds]:
        self.times += 1
        return super().__iter__()


def test_calibration_happens_once(three: Job, tmp_path: Path) -> None:
    feeds = Counted(three.feeds)
    quantiser = open_openvino_quantiser(replace(three, feeds=feeds))
    assert feeds.times == 1
    quantiser.quantise((), tmp_path)
    quantiser.quantise(("stage2",), tmp_path)
    quantiser.quantise((), tmp_path)
    assert feeds.times == 1


def test_it_says_nothing(three: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither bars nor log lines of the tool reach the terminal."""
    open_openvino_quantiser(three).quantise(("stage0",), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_without_feeds_there_is_nothing_to_calibrate_with(three: Job) -> None:
    with pytest.raises(SpecError, match=r"^stages cannot become int8 without calibration images$"):
        open_openvino_quantiser(replace(three, feeds=()))


def test_a_missing_tool_names_the_fix(three: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ToolError, match=r"^nncf is not installed; run `make setup`$"):
        open_openvino_quantiser(three)


_QUANTISE = """
import sys
def heed(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(heed)
from pathlib import Path
import numpy as np
from converters.job import Job
from converters.formats.openvino_int8 import open_openvino_quantiser
from edge.spec import ModelSpec
import json
spec = ModelSpec.from_json(json.loads(Path("spec.json").read_text()))
feeds = [{"input": np.full((1, 3, 12, 10), n, np.float32)} for n in range(3)]
job = Job(Path("stages.onnx"), spec, "int8", Path("."), feeds)
open_openvino_quantiser(job).quantise((), job.folder)
import nncf.telemetry.wrapper
"""


def test_nothing_is_sent(three: Job, tmp_path: Path) -> None:
    """No socket is made, no reporter is loaded, nothing is left in the home folder."""
    import json

    package = tmp_path / "packages" / "openvino_telemetry"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('telemetry was imported')")
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (work / "stages.onnx").write_bytes(three.onnx_path.read_bytes())
    (work / "spec.json").write_text(json.dumps(three.spec.to_json()))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(package.parent), str(ROOT)]),
        "HOME": str(home),
    }
    done = subprocess.run(
        [sys.executable, "-c", _QUANTISE],
        env=environment,
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (work / "stages.xml").is_file()
    assert list(home.iterdir()) == []


def test_the_profile_tells_int8_from_float(three: Job, quantiser: Any, tmp_path: Path) -> None:
    quantised = artifact_of(three, quantiser.quantise((), tmp_path), tmp_path)
    out = tmp_path / "fp32"
    out.mkdir()
    job = replace(three, precision="fp32", folder=out)
    plain = artifact_of(job, convert_openvino(job), out)
    for artifact, arithmetic in ((quantised, "i8"), (plain, "f32")):
        kinds = layer_kinds(artifact, runs=5)
        convolutions = [kind for kind in kinds if kind.kind == "Convolution"]
        assert sum(kind.layers for kind in convolutions) == 3
        assert all(kind.implementation.lower().endswith(arithmetic) for kind in convolutions)
        assert [kind.time_us for kind in kinds] == sorted(
            (kind.time_us for kind in kinds), reverse=True
        )
        assert f"{sum(kind.time_us for kind in kinds):.0f} us  in all" in profile_table(kinds)
    wrong = replace(plain, variant=Variant("onnx", "fp32"))
    with pytest.raises(SpecError, match="is onnx-fp32, no openvino artifact"):
        layer_kinds(wrong)
