"""Space to depth and a convolution are one convolution: the same values by ONNX Runtime."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from converters.formats.ncnn import convert_ncnn  # noqa: E402
from converters.graph.focus import fold_focus  # noqa: E402
from converters.graph.prepare import prepare, with_batch  # noqa: E402
from converters.job import Job  # noqa: E402
from converters.sdk.archive import read_sdk  # noqa: E402
from edge.errors import ToolError  # noqa: E402
from edge.session import Array  # noqa: E402
from edge.spec import TensorSpec  # noqa: E402
from tests.conftest import shared  # noqa: E402
from tests.stand_ins.specs import pose_spec  # noqa: E402

END = 2**63 - 1
CHANNELS, HW = 3, (12, 18)


def graph(stem: Any, channels: int, kernel: int, **attributes: Any) -> Any:
    """A stem's nodes from ``image`` to ``blocks`` and a convolution of them."""
    rng = np.random.default_rng(4)
    nodes, constants = stem
    weight = rng.normal(0, 1, (5, channels, kernel, kernel)).astype(np.float32)
    bias = rng.normal(0, 1, 5).astype(np.float32)
    nodes = [*nodes, helper.make_node("Conv", ["blocks", "w", "b"], ["out"], **attributes)]
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "focus",
        [info("image", TensorProto.FLOAT, [1, CHANNELS, *HW])],
        [info("out", TensorProto.FLOAT, [1, 5, None, None])],
        [numpy_helper.from_array(value, name) for name, value in (("w", weight), ("b", bias))]
        + [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: Any) -> Array:
    image = np.random.default_rng(5).normal(0, 1, (1, CHANNELS, *HW)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"image": image})[0])


def slices(order: Any, steps: tuple[int, int] = (2, 2), *, at_once: bool = False) -> Any:
    """Blocks of the offsets ``order``, each by one slice an axis or by one of both."""
    nodes: list[Any] = []
    constants: dict[str, list[int]] = {}
    names: list[str] = []
    for place, (row, column) in enumerate(order):
        name = f"p{place}"
        parts = [("rows", "image", [row], [2], [steps[0]])]
        parts.append((name, "rows", [column], [-1], [steps[1]]))
        if at_once:
            parts = [(name, "image", [column, row], [3, 2], [steps[1], steps[0]])]
        for output, source, *values in parts:
            output, source = (f"{name}.rows" if n == "rows" else n for n in (output, source))
            keys = [f"{output}.{kind}" for kind in ("start", "axis", "step")]
            constants |= dict(zip(keys, values, strict=True))
            constants[f"{output}.end"] = [END] * len(values[0])
            inputs = [source, keys[0], f"{output}.end", *keys[1:]]
            nodes.append(helper.make_node("Slice", inputs, [output]))
        names.append(name)
    return [*nodes, helper.make_node("Concat", names, ["blocks"], axis=1)], constants


CORNERS = list(itertools.product((0, 1), (0, 1)))


@pytest.mark.parametrize("order", list(itertools.permutations(CORNERS)), ids=str)
def test_four_slices_in_any_order(order: Any) -> None:
    model = graph(slices(order), 12, 3, pads=[1, 1, 1, 1])
    want = run(model)
    assert fold_focus(model) == 1
    np.testing.assert_allclose(run(model), want, atol=2e-5)
    (conv,) = [node for node in model.graph.node if node.op_type == "Conv"]
    assert conv.input[0] == "image"
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 2, 0, 1]], ids=str)
def test_every_convolution(kernel: int, stride: int, dilation: int, pads: list[int]) -> None:
    """Of blocks of 2 x 3, of which one comes twice and one not at all."""
    order = [(0, 2), (1, 0), (1, 1), (0, 1), (0, 0), (0, 0)]
    options = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": pads}
    model = graph(slices(order, (2, 3), at_once=True), 18, kernel, **options)
    want = run(model)
    assert fold_focus(model) == 1
    np.testing.assert_allclose(run(model), want, atol=2e-5)


def test_space_to_depth_is_one() -> None:
    stem = [helper.make_node("SpaceToDepth", ["image"], ["blocks"], blocksize=2)]
    model = graph((stem, {}), 12, 3)
    want = run(model)
    assert fold_focus(model) == 1
    np.testing.assert_allclose(run(model), want, atol=2e-5)


@pytest.mark.parametrize("middle", list(itertools.permutations((1, 3, 5))), ids=str)
def test_reshaping_is_one(middle: tuple[int, ...]) -> None:
    """(1, 3, 5) is PixelUnshuffle's order."""
    height, width = HW[0] // 2, HW[1] // 3
    constants = {
        "split": [1, CHANNELS, height, 2, width, 3],
        "join": [1, CHANNELS * 6, height, width],
    }
    stem = [
        helper.make_node("Reshape", ["image", "split"], ["six"]),
        helper.make_node("Transpose", ["six"], ["turned"], perm=[0, *middle, 2, 4]),
        helper.make_node("Reshape", ["turned", "join"], ["blocks"]),
    ]
    model = graph((stem, constants), CHANNELS * 6, 3, pads=[1, 1, 1, 1])
    want = run(model)
    assert fold_focus(model) == 1
    np.testing.assert_allclose(run(model), want, atol=2e-5)


def test_a_real_file_with_its_suppression_keeps_its_outputs(tmp_path: Path) -> None:
    """YOLOX-Pose as mmdeploy writes it: the stem goes, and the outputs' shapes stay known."""
    model = read_sdk(shared("cases/openmmlab/yoloxpose-tiny_sdk"), "yoloxpose", tmp_path)
    made = prepare(model.onnx_path, "yoloxpose", spec=model.spec, batch=None)
    outputs = [tensor.shape for tensor in made.spec.outputs]
    assert outputs == [(None, None, 5), (None, None, 17, 3)]
    (first,) = [n for n in made.model.graph.node if made.spec.input.name in n.input]
    assert first.op_type == "Conv"
    one = with_batch(made, 1, model.onnx_path).spec.outputs
    assert [tensor.shape for tensor in one] == [(1, *shape[1:]) for shape in outputs]


def test_what_ncnn_lacks_names_the_formats_that_have_it(tmp_path: Path) -> None:
    """Slices with a step and no convolution behind them: OpenVINO takes them."""
    pytest.importorskip("openvino")
    if find_spec("pnnx") is None:
        pytest.skip("pnnx is not installed")
    model = graph(slices(CORNERS), 12, 1)
    model.graph.node[-1].input[0] = "sum"  # the convolution reads something between
    model.graph.node.insert(
        len(model.graph.node) - 1, helper.make_node("Add", ["blocks", "blocks"], ["sum"])
    )
    assert fold_focus(model) == 0
    onnx.save(model, tmp_path / "blocks.onnx")
    spec = pose_spec(
        codec="heatmap",
        input=TensorSpec("image", (1, CHANNELS, *HW)),
        outputs=(TensorSpec("out", (1, 5, 6, 9)),),
        keypoint_set="unnamed-5",
    )
    job = Job(tmp_path / "blocks.onnx", spec, "fp32", tmp_path)
    with pytest.raises(ToolError, match=r"ncnn has no operator .* have it: onnx, openvino$"):
        convert_ncnn(job)


def test_what_is_no_space_to_depth_stays() -> None:
    whole: Any = ([helper.make_node("Concat", ["image", "image"], ["blocks"], axis=1)], {})
    crops = slices([(0, 0), (0, 0)], (1, 1))
    two_sources = slices(CORNERS)
    two_sources[0].insert(0, helper.make_node("Neg", ["image"], ["other"]))
    two_sources[0][1].input[0] = "other"
    for stem, channels in ((whole, 6), (crops, 6), (two_sources, 12)):
        model = graph(stem, channels, 3)
        before = model.SerializeToString()
        assert fold_focus(model) == 0
        assert model.SerializeToString() == before
    grouped = graph(slices(CORNERS), 4, 3, group=3)
    assert fold_focus(grouped) == 0
