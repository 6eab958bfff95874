"""The torch RTMDet: the real weights' answers, heads of every kind, and the exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from converters.architectures.cspnext import ConvModule  # noqa: E402
from converters.architectures.export import export_onnx, fold_batch_norms  # noqa: E402
from converters.architectures.rtmdet import OUTPUT_NAMES, RTMDet  # noqa: E402
from edge.codecs.rtmdet import decode  # noqa: E402
from edge.detector import detector_feeds  # noqa: E402
from edge.picture import read_image  # noqa: E402
from edge.spec import ModelSpec, TensorSpec  # noqa: E402

Floats = NDArray[np.float32]
CLASSES = 3

pytestmark = pytest.mark.usefixtures("one_thread")


def randomised(model: Any, seed: int) -> Any:
    """Eval mode with random norms, so that none hides behind its default."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif ".bn." in name and value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.5 + 0.5)
    return model.eval()


def random_images(batch: int, height: int, width: int) -> Floats:
    shape = (batch, 3, height, width)
    return np.random.default_rng(batch).standard_normal(shape, dtype=np.float32)


def answers(model: Any, images: Floats) -> dict[str, Floats]:
    with torch.no_grad():
        outputs = model(torch.from_numpy(images))
    return {name: x.numpy() for name, x in zip(OUTPUT_NAMES, outputs, strict=True)}


# --- the real weights -------------------------------------------------------------------------


def nano_spec() -> ModelSpec:
    """The published test configuration of RTMDet-nano for people."""
    return ModelSpec(
        name="rtmdet-nano-person",
        task="detection",
        codec="rtmdet",
        input=TensorSpec("input", (None, 3, 320, 320)),
        outputs=tuple(
            TensorSpec(f"{kind}_{stride}", (None, channels, 320 // stride, 320 // stride))
            for kind, channels in (("logits", 1), ("distances", 4))
            for stride in (8, 16, 32)
        ),
        color_order="bgr",
        mean=(103.53, 116.28, 123.675),
        std=(57.375, 57.12, 58.395),
        strides=(8, 16, 32),
    )


def convolutions_as_they_run(model: Any, image: Any) -> list[Any]:
    order: list[Any] = []
    convolutions = [part for part in model.modules() if isinstance(part, torch.nn.Conv2d)]
    handles = [c.register_forward_hook(lambda part, *_: order.append(part)) for c in convolutions]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    # A layer of two paths: the file's ran the short one first, ours runs it last.
    names = dict(model.named_modules())
    for name in names:
        if name.endswith(".short_conv.conv"):
            short, main = names[name], names[name.replace(".short_conv.", ".main_conv.")]
            order.remove(short)
            order.insert(order.index(main), short)
    return order


@pytest.fixture(scope="module")
def real_nano(rtmdet_file: Path) -> Any:
    """Our network with the convolutions of the real file, whose norms are folded into them."""
    graph = onnx.load(rtmdet_file).graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    real = [node for node in graph.node if node.op_type == "Conv"]
    model = fold_batch_norms(RTMDet("nano", 1))
    ours = convolutions_as_they_run(model, torch.zeros(1, 3, 320, 320))
    assert len(ours) == len(real) == 123
    names = {module: name for name, module in model.named_modules()}
    named = 0
    for convolution, node in zip(ours, real, strict=True):
        weight, bias = (weights[name] for name in node.input[1:3])
        assert tuple(convolution.weight.shape) == weight.shape, node.name
        attributes = {item.name: list(item.ints) for item in node.attribute if item.ints}
        assert list(convolution.stride) == attributes["strides"], node.name
        assert [*convolution.padding, *convolution.padding] == attributes["pads"], node.name
        # Convolutions without a norm kept their names: the order can be checked by them.
        if not node.input[1].startswith("onnx::"):
            assert node.input[1] == f"{names[convolution]}.weight"
            named += 1
        convolution.weight.data = torch.from_numpy(weight.copy())
        convolution.bias.data = torch.from_numpy(bias.copy())
    # The attention of four stages, and two ends of each of three levels.
    assert named == 4 + 6
    return model


def test_the_real_weights_answer_as_their_own_file_does(
    real_nano: Any, rtmdet_file: Path, photos: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("cv2")
    spec = nano_spec()
    export_onnx(real_nano, tmp_path / "nano.onnx", spec.input_hw, output_names=OUTPUT_NAMES)
    theirs, ours = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for path in (rtmdet_file, tmp_path / "nano.onnx")
    )
    counted = 0
    assert len(photos) == 4
    for photo in photos:
        feeds, _ = detector_feeds(spec, read_image(photo))
        (want,), _ = theirs.run(["dets", "labels"], feeds)
        # The file fills up to 100 with boxes of score 0.
        want = want[want[:, 4] > 0]
        exported = dict(zip(OUTPUT_NAMES, ours.run(list(OUTPUT_NAMES), feeds), strict=True))
        # The same engine finds the same numbers (measured: to the bit). Torch adds in another
        # order; in double precision it differs from the file by as much as in single.
        for maps, limit_px in ((exported, 1e-3), (answers(real_nano, feeds["input"]), 5e-3)):
            boxes, labels = decode(maps, spec)[0]
            assert len(boxes) == len(want), photo.name
            assert not labels.any()
            np.testing.assert_allclose(boxes[:, :4], want[:, :4], rtol=0, atol=limit_px)
            np.testing.assert_allclose(boxes[:, 4], want[:, 4], rtol=0, atol=1e-5)
        counted += int((want[:, 4] > 0.3).sum())
    assert counted >= 12


# --- heads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["nano", "t", "s", "m", "l"])
def test_output_shapes_of_a_rectangle(size: str) -> None:
    with torch.device("meta"):
        outputs = RTMDet(size, CLASSES).eval()(torch.zeros(2, 3, 96, 160))
    cells = [(12, 20), (6, 10), (3, 5)]
    wanted = [(2, channels, *hw) for channels in (CLASSES, 4) for hw in cells]
    assert [tuple(output.shape) for output in outputs] == wanted


@pytest.mark.parametrize(("size", "exponential"), [("nano", False), ("t", False), ("m", True)])
def test_distances_are_the_last_convolutions_answers_in_strides(
    size: str, exponential: bool
) -> None:
    model = randomised(RTMDet(size, CLASSES), seed=1)
    raw: list[Floats] = []
    for layer in model.bbox_head.rtm_reg:
        layer.register_forward_hook(lambda _, __, output: raw.append(output.numpy().copy()))
    found = answers(model, random_images(1, 64, 64))
    for stride, sides in zip((8, 16, 32), raw, strict=True):
        wanted = stride * (np.exp(sides) if exponential else sides)
        np.testing.assert_allclose(found[f"distances_{stride}"], wanted, rtol=1e-5)


@pytest.mark.parametrize(("size", "shared"), [("nano", False), ("t", True), ("m", True)])
def test_levels_share_convolutions_and_never_norms(size: str, shared: bool) -> None:
    with torch.device("meta"):
        head = RTMDet(size, CLASSES).bbox_head
    for towers in (head.cls_convs, head.reg_convs):
        levels = [[part for part in t.modules() if isinstance(part, ConvModule)] for t in towers]
        for first, *others in zip(*levels, strict=True):
            assert all((other.conv is first.conv) == shared for other in others)
            assert all(other.bn is not first.bn for other in others)
    # The ends of the levels are their own everywhere.
    assert len({id(layer.weight) for layer in (*head.rtm_cls, *head.rtm_reg)}) == 6


def test_folding_keeps_levels_apart_that_share_convolutions() -> None:
    model = randomised(RTMDet("t", CLASSES), seed=2)
    images = random_images(1, 64, 64)
    wanted, found = answers(model, images), answers(fold_batch_norms(model), images)
    for name in OUTPUT_NAMES:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-3, atol=1e-3)
    # Without norms of their own the levels would answer alike but for their sizes.
    towers = fold_batch_norms(model).bbox_head.cls_convs
    assert not torch.equal(towers[0][0].conv.bias, towers[1][0].conv.bias)


@pytest.mark.parametrize(("size", "classes"), [("huge", 1), ("x", 80), ("nano", 0)])
def test_bad_arguments_are_refused(size: str, classes: int) -> None:
    with pytest.raises(ValueError, match="num_classes" if classes == 0 else repr(size)):
        RTMDet(size, classes)


# --- export -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["nano", "t"])
def test_exported_maps_are_torchs(size: str, tmp_path: Path) -> None:
    model = randomised(RTMDet(size, CLASSES), seed=3)
    path = tmp_path / "det.onnx"
    export_onnx(model, path, (64, 96), output_names=OUTPUT_NAMES)
    images = random_images(3, 64, 96)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(OUTPUT_NAMES)
    assert session.get_outputs()[0].shape == ["batch", CLASSES, 8, 12]
    found = session.run(None, {"input": images})
    for left, (name, right) in zip(found, answers(model, images).items(), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-4 * np.abs(right).max() + 1e-4)
        assert left.shape == right.shape, name
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert not operators & {"BatchNormalization", "Shape", "Gather", "Slice", "NonMaxSuppression"}
