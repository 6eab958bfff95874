"""RTMO against official key lists and counts; its keypoints; its deploy form; ONNX."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from converters.architectures.export import fold_batch_norms  # noqa: E402
from converters.architectures.rtmo import (  # noqa: E402
    OUTPUT_NAMES,
    RTMO,
    dcc_constants,
    switch_to_deploy,
)
from edge.codecs.rtmo import place_keypoints  # noqa: E402
from tests.conftest import shared  # noqa: E402
from tests.stand_ins.random_rtmo import (  # noqa: E402
    HEIGHT,
    WIDTH,
    Array,
    close,
    random_images,
    random_rtmo,
    sigmoid,
    weights_of,
)


@pytest.fixture(scope="module")
def model() -> Any:
    return random_rtmo()


@pytest.fixture(scope="module")
def images() -> Any:
    return random_images()


# --- keys, shapes, counts, batch norms ------------------------------------------------------------

COUNTS = {
    "t": (6_829_875, 6_787_507),
    "s": (9_868_899, 9_797_475),
    "m": (22_526_307, 22_222_435),
    "l": (44_693_315, 43_893_315),
}


@pytest.mark.parametrize("size", COUNTS)
def test_state_dict_and_parameters_are_the_official_ones(size: str) -> None:
    with torch.device("meta"):
        model = RTMO(size)
    official = json.loads(shared(f"reference/state_dict_keys/rtmo_{size}.json").read_text())
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == official
    assert model.input_hw == ((416, 416) if size == "t" else (640, 640))
    deploy = switch_to_deploy(model)
    assert tuple(sum(p.numel() for p in m.parameters()) for m in (model, deploy)) == COUNTS[size]


def test_batch_norms_are_those_of_the_official_configuration() -> None:
    with torch.device("meta"):
        model = RTMO("m")
    found: dict[tuple[float, float], set[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            part = "dcc" if name.startswith("head.dcc") else name.partition(".")[0]
            found.setdefault((module.eps, module.momentum), set()).add(part)
    assert found == {(1e-3, 0.03): {"backbone", "head"}, (1e-5, 0.1): {"neck", "dcc"}}


def test_constant_buffers_hold_the_published_values() -> None:
    buffers = dict(RTMO("t").named_buffers())
    for name, base in (("neck.sincos_pos_enc.dim_t", 10000), ("head.dcc.spe.dim_t", 300)):
        want = [base ** (i / 64) for i in range(64)]
        np.testing.assert_allclose(buffers[name].numpy(), want, rtol=1e-5)
    for name, bins in (("head.dcc.x_bins", 192), ("head.dcc.y_bins", 256)):
        np.testing.assert_allclose(
            buffers[name].numpy(), [i / (bins - 1) - 0.5 for i in range(bins)], atol=1e-6
        )


def test_another_number_of_keypoints_and_impossible_requests() -> None:
    with torch.device("meta"):
        maps = RTMO("t", keypoints=21, input_hw=(64, 96))(torch.zeros(1, 3, 64, 96))
    assert [maps[i].shape[1] for i in (0, 2, 4, 6)] == [1, 4, 21, 192]
    with pytest.raises(ValueError, match="sizes t, s, m, l"):
        RTMO("x")
    with pytest.raises(ValueError, match="multiples of 32"):
        RTMO("t", input_hw=(100, 96))


# --- keypoints ------------------------------------------------------------------------------------


def naive_keypoints(pose: Array, boxes: Array, cells: Array, w: dict[str, Array]) -> Array:
    """The Dynamic Coordinate Classifier from unmerged weights, one instance at a time."""
    w = {key.removeprefix("head.dcc."): value for key, value in w.items()}
    out = np.zeros((len(pose), 17, 2))
    for m in range(len(pose)):
        flat = w["pose_to_kpts.0.weight"] @ pose[m] + w["pose_to_kpts.0.bias"]
        flat = (flat - w["pose_to_kpts.1.running_mean"]) / np.sqrt(
            w["pose_to_kpts.1.running_var"] + 1e-5
        )
        flat = flat * w["pose_to_kpts.1.weight"] + w["pose_to_kpts.1.bias"]
        x = flat.reshape(17, 128)
        normed = x / np.sqrt((x**2).mean(axis=1, keepdims=True)) * w["gau.ln.g"]
        gates = normed @ w["gau.uv.weight"].T
        gates = gates * sigmoid(gates)
        u, v, base = gates[:, :256], gates[:, 256:512], gates[:, 512:]
        query, key = (base * w["gau.gamma"][i] + w["gau.beta"][i] + w["pos_enc"] for i in range(2))
        attention = np.maximum(query @ key.T / math.sqrt(128), 0) ** 2
        x = x * w["gau.res_scale.scale"] + (u * (attention @ v)) @ w["gau.o.weight"].T
        for axis, (name, bins) in enumerate((("x", 192), ("y", 256))):
            low, high = boxes[m, axis], boxes[m, axis + 2]
            shares = np.array([i / (bins - 1) - 0.5 for i in range(bins)])
            places = (low + high) / 2 + shares * 1.25 * (high - low)
            for k in range(17):
                heat = np.zeros(bins)
                for b in range(bins):
                    angles = (places[b] - cells[m, axis]) / 300 ** (np.arange(64) / 64)
                    code = np.concatenate([np.cos(angles), np.sin(angles)])
                    heat[b] = x[k] @ (w[f"{name}_fc.weight"] @ code + w[f"{name}_fc.bias"])
                parts = np.exp(heat - heat.max())
                out[m, k, axis] = (parts * places).sum() / (parts.sum() + 1e-8)
    return out


def instances() -> tuple[Array, Array, Array]:
    """Three pose vectors, their boxes and cells; some boxes far from their cells."""
    rng = np.random.default_rng(6)
    centre = rng.uniform(20, 300, (3, 2))
    size = rng.uniform(30, 200, (3, 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    return rng.normal(0, 1, (3, 192)), boxes, centre + rng.uniform(-20, 20, (3, 2))


def test_keypoints_are_the_naive_ones_in_torch_and_in_numpy(model: Any) -> None:
    pose, boxes, cells = instances()
    wanted = naive_keypoints(pose, boxes, cells, weights_of(model))
    # Neither at the box's centre nor all in one place.
    assert wanted.std(axis=1).min() > 3

    with torch.no_grad():
        inputs = [torch.from_numpy(value) for value in (pose, boxes, cells)]
        double = RTMO("t", input_hw=(HEIGHT, WIDTH)).eval().double()
        double.load_state_dict(model.state_dict())
        exact = double.head.dcc(*inputs)
        found = model.head.dcc(*(value.float() for value in inputs))
    close(exact, wanted, 1e-3)  # the float32 periods and bins
    close(found, wanted, 2e-3)

    for form in (model, switch_to_deploy(model)):
        constants = dcc_constants(form)
        assert {value.dtype for value in constants.values()} == {np.dtype(np.float32)}
        assert all(value.flags.c_contiguous for value in constants.values())
        floats = [value.astype(np.float32) for value in (pose, boxes, cells)]
        places = place_keypoints(floats[0], floats[1], floats[2], constants)
        assert np.abs(places - wanted).max() <= 2e-3


# --- deploy form, ONNX ----------------------------------------------------------------------------


def test_deploy_form_answers_as_the_model_does(model: Any, images: Any) -> None:
    before = weights_of(model)
    deploy = switch_to_deploy(model)
    with torch.no_grad():
        wanted, found, folded = (m(images) for m in (model, deploy, fold_batch_norms(deploy)))
    for want, got, last in zip(wanted, found, folded, strict=True):
        close(got, want.numpy())
        close(last, want.numpy())
    assert not any(type(module).__name__ == "RepVGGBlock" for module in deploy.modules())
    for key, value in weights_of(model).items():
        np.testing.assert_array_equal(value, before[key])
    twice = switch_to_deploy(deploy)
    with torch.no_grad():
        torch.testing.assert_close(twice(images), found, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_answers_as_the_model_does(model: Any, images: Any, tmp_path: Any) -> None:
    path = tmp_path / "rtmo.onnx"
    with torch.no_grad():
        torch.onnx.export(
            fold_batch_norms(switch_to_deploy(model)),
            (torch.zeros(1, 3, HEIGHT, WIDTH),),
            str(path),
            input_names=["input"],
            output_names=list(OUTPUT_NAMES),
            dynamic_axes={name: {0: "batch"} for name in ("input", *OUTPUT_NAMES)},
            opset_version=17,
            dynamo=False,
        )
    graph = onnx.load(path).graph
    # No choice by value, no shape arithmetic, no strided slices: every engine has these.
    plain = {
        *("Conv", "MaxPool", "Resize", "MatMul", "Softmax", "LayerNormalization", "Erf"),
        *("Sigmoid", "Mul", "Add", "Div", "Concat", "Split", "Reshape", "Transpose"),
        *("Constant", "Identity"),
    }
    assert {node.op_type for node in graph.node} <= plain
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 2):
        with torch.no_grad():
            wanted = model(images[:batch])
        found = session.run(list(OUTPUT_NAMES), {"input": images[:batch].numpy()})
        for want, got in zip(wanted, found, strict=True):
            close(want, got)
