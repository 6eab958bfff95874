"""The torch definitions against official key lists and naive numpy forms; export; loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import shared

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from converters.architectures.checkpoint import (  # noqa: E402
    CheckpointError,
    load_checkpoint,
    load_state_dict,
)
from converters.architectures.cspnext import CSPNEXT_SIZES, CSPNeXt, CSPNeXtBlock  # noqa: E402
from converters.architectures.rtmpose import GatedAttentionUnit, RTMCCHead, RTMPose  # noqa: E402
from tests.stand_ins.random_weights import model  # noqa: E402, F401

pytestmark = pytest.mark.long

Array = NDArray[np.float64]


def official_shapes(name: str) -> dict[str, list[int]]:
    path = shared(f"reference/state_dict_keys/{name}.json")
    shapes: dict[str, list[int]] = json.loads(path.read_text())
    return shapes


def shapes_of(model: Any) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in model.state_dict().items()}


def randomised(model: Any, seed: int) -> Any:
    """Every parameter and statistic random, so that none hides behind its default."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.is_floating_point():
            fan_in = max(value[0].numel() if value.ndim > 1 else 1, 1)
            value.copy_(torch.randn(value.shape, generator=generator) / fan_in**0.5)
    return model.eval()


def weights_of(model: Any) -> dict[str, Array]:
    return {key: value.numpy().astype(np.float64) for key, value in model.state_dict().items()}


# --- keys, shapes, counts ---------------------------------------------------------------------


def test_backbone_with_depthwise_is_that_of_rtmdet_nano() -> None:
    backbone = CSPNeXt(CSPNEXT_SIZES["nano"], out_stages=(2, 3, 4), use_depthwise=True)
    prefix = "backbone."
    official = official_shapes("rtmdet_nano")
    wanted = {k.removeprefix(prefix): v for k, v in official.items() if k.startswith(prefix)}
    assert shapes_of(backbone) == wanted
    assert backbone.out_channels == (64, 128, 256)


@pytest.mark.parametrize(
    ("size", "input_hw", "keypoints", "count"),
    [
        ("t", (256, 192), 17, 3_337_007),
        ("s", (256, 192), 17, 5_473_251),
        ("m", (256, 192), 17, 13_587_611),
        ("l", (256, 192), 17, 27_660_339),
        ("t", (256, 192), 26, 3_506_360),
        ("m", (256, 192), 133, 17_953_039),
        ("m", (384, 288), 17, 13_717_659),
    ],
)
def test_parameter_count(size: str, input_hw: tuple[int, int], keypoints: int, count: int) -> None:
    model = RTMPose(size, input_hw, keypoints)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_backbone_parameter_counts() -> None:
    def count(model: Any) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    assert count(RTMPose("t").backbone) == 2_348_700
    assert count(CSPNeXt(CSPNEXT_SIZES["nano"], (2, 3, 4), use_depthwise=True)) == 545_128


def test_size_x_has_the_widths_and_depths_of_its_row() -> None:
    backbone = CSPNeXt(CSPNEXT_SIZES["x"], out_stages=(1, 2, 3, 4))
    assert backbone.out_channels == (160, 320, 640, 1280)
    blocks = [len(getattr(backbone, name)[-1].blocks) for name in backbone.stage_names]
    assert blocks == [4, 8, 8, 4]


@pytest.mark.parametrize(
    ("size", "input_hw", "wanted"),
    [
        ("t", (256, 192), ((2, 17, 384), (2, 17, 512))),
        ("t", (384, 288), ((2, 17, 576), (2, 17, 768))),
    ],
)
def test_output_shapes(size: str, input_hw: tuple[int, int], wanted: Any) -> None:
    with torch.no_grad():
        outputs = RTMPose(size, input_hw).eval()(torch.zeros(2, 3, *input_hw))
    assert tuple(tuple(output.shape) for output in outputs) == wanted


def test_backbone_strides() -> None:
    backbone = CSPNeXt(CSPNEXT_SIZES["nano"], out_stages=(2, 3, 4), use_depthwise=True).eval()
    with torch.no_grad():
        shapes = [tuple(x.shape) for x in backbone(torch.zeros(1, 3, 320, 320))]
    assert shapes == [(1, 64, 40, 40), (1, 128, 20, 20), (1, 256, 10, 10)]


@pytest.mark.parametrize("out_stages", [(), (4, 2), (2, 2), (5,)])
def test_bad_out_stages_are_refused(out_stages: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="out_stages"):
        CSPNeXt(CSPNEXT_SIZES["t"], out_stages)


def test_bad_model_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="'nano'"):
        RTMPose("nano")
    with pytest.raises(ValueError, match="multiples of 32"):
        RTMPose("t", (250, 192))


# --- naive forms ------------------------------------------------------------------------------


def silu(x: Array) -> Array:
    result: Array = x / (1 + np.exp(-x))
    return result


def naive_conv(x: Array, weight: Array) -> Array:
    """Stride 1, 'same' padding, one group or as many as channels: (C, H, W) -> (O, H, W)."""
    out_channels, in_channels, kernel, _ = weight.shape
    _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (kernel // 2,) * 2, (kernel // 2,) * 2))
    result = np.zeros((out_channels, height, width))
    for o in range(out_channels):
        source = padded if in_channels > 1 or len(x) == 1 else padded[o : o + 1]
        for row in range(height):
            for column in range(width):
                window = source[:, row : row + kernel, column : column + kernel]
                result[o, row, column] = np.sum(window * weight[o])
    return result


def naive_conv_module(x: Array, weights: dict[str, Array], prefix: str) -> Array:
    x = naive_conv(x, weights[f"{prefix}.conv.weight"])
    norm = {key: weights[f"{prefix}.bn.{key}"][:, None, None] for key in ("weight", "bias")}
    mean = weights[f"{prefix}.bn.running_mean"][:, None, None]
    var = weights[f"{prefix}.bn.running_var"][:, None, None]
    return silu((x - mean) / np.sqrt(var + 1e-5) * norm["weight"] + norm["bias"])


@pytest.mark.parametrize("use_depthwise", [False, True])
@pytest.mark.parametrize("shortcut", [False, True])
def test_block_is_the_naive_form(shortcut: bool, use_depthwise: bool) -> None:
    block = randomised(CSPNeXtBlock(4, shortcut, use_depthwise), seed=1)
    weights = weights_of(block)
    x = np.random.default_rng(0).standard_normal((4, 6, 7))
    y = x
    first = ["conv1.depthwise_conv", "conv1.pointwise_conv"] if use_depthwise else ["conv1"]
    for prefix in [*first, "conv2.depthwise_conv", "conv2.pointwise_conv"]:
        y = naive_conv_module(y, weights, prefix)
    wanted = x + y if shortcut else y
    with torch.no_grad():
        found = block(torch.from_numpy(x[None]).float())[0].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def naive_scale_norm(x: Array, g: Array) -> Array:
    norm = np.sqrt(np.sum(x**2, axis=-1, keepdims=True)) * x.shape[-1] ** -0.5
    result: Array = x / np.maximum(norm, 1e-5) * g
    return result


def naive_gau(x: Array, weights: dict[str, Array], prefix: str = "") -> Array:
    """One person: (K, dim) -> (K, dim), a loop over pairs of keypoints."""
    keypoints, dim = x.shape
    gates = silu(naive_scale_norm(x, weights[f"{prefix}ln.g"]) @ weights[f"{prefix}uv.weight"].T)
    gamma, beta = weights[f"{prefix}gamma"], weights[f"{prefix}beta"]
    s, e = gamma.shape[1], 2 * dim
    u, v, base = gates[:, :e], gates[:, e : 2 * e], gates[:, 2 * e :]
    mixed = np.zeros((keypoints, e))
    for i in range(keypoints):
        for j in range(keypoints):
            q, k = base[i] * gamma[0] + beta[0], base[j] * gamma[1] + beta[1]
            mixed[i] += max(float(q @ k) / np.sqrt(s), 0.0) ** 2 * v[j]
    result: Array = x * weights[f"{prefix}res_scale.scale"]
    return result + (u * mixed) @ weights[f"{prefix}o.weight"].T


def test_gated_attention_is_the_naive_form() -> None:
    gau = randomised(GatedAttentionUnit(dim=16, attention_dim=8), seed=2)
    x = np.random.default_rng(1).standard_normal((2, 5, 16))
    with torch.no_grad():
        found = gau(torch.from_numpy(x).float()).numpy()
    wanted = np.stack([naive_gau(person, weights_of(gau)) for person in x])
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_head_is_the_naive_form() -> None:
    head = randomised(RTMCCHead(3, keypoints=5, input_hw=(96, 64), hidden_dim=16), seed=3)
    weights = weights_of(head)
    features = np.random.default_rng(2).standard_normal((3, 3, 2))
    maps = naive_conv(features, weights["final_layer.weight"])
    maps += weights["final_layer.bias"][:, None, None]
    hidden = naive_scale_norm(maps.reshape(5, 6), weights["mlp.0.g"]) @ weights["mlp.1.weight"].T
    hidden = naive_gau(hidden, weights, "gau.")
    with torch.no_grad():
        simcc_x, simcc_y = head(torch.from_numpy(features[None]).float())
    assert simcc_x.shape == (1, 5, 128)
    assert simcc_y.shape == (1, 5, 192)
    np.testing.assert_allclose(simcc_x[0].numpy(), hidden @ weights["cls_x.weight"].T, atol=1e-4)
    np.testing.assert_allclose(simcc_y[0].numpy(), hidden @ weights["cls_y.weight"].T, atol=1e-4)


def test_scale_norm_survives_zeros() -> None:
    gau = GatedAttentionUnit(dim=16, attention_dim=8).eval()
    with torch.no_grad():
        assert torch.isfinite(gau(torch.zeros(1, 5, 16))).all()


# --- loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoint_round_trip(model: Any, tmp_path: Path, wrapped: bool, prefix: str) -> None:
    state = {prefix + key: value for key, value in model.state_dict().items()}
    path = tmp_path / "t.pth"
    torch.save({"meta": {"epoch": 1}, "state_dict": state} if wrapped else state, path)
    other = RTMPose("t")
    load_checkpoint(other, path)
    loaded = other.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in model.state_dict().items())


def test_checkpoint_faults_are_named(model: Any, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    del state["head.mlp.0.g"]
    state["head.extra"] = torch.zeros(1)
    state["head.cls_x.weight"] = torch.zeros(384, 255)
    torch.save(state, tmp_path / "t.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model, tmp_path / "t.pth")
    message = str(caught.value)
    assert "1 missing: head.mlp.0.g" in message
    assert "1 surplus: head.extra" in message
    assert "head.cls_x.weight is (384, 255) and should be (384, 256)" in message


def test_another_size_is_refused_with_a_short_message(tmp_path: Path) -> None:
    torch.save(RTMPose("t").state_dict(), tmp_path / "t.pth")
    with pytest.raises(CheckpointError, match=r"and \d+ more") as caught:
        load_checkpoint(RTMPose("s"), tmp_path / "t.pth")
    assert len(str(caught.value)) < 2000


class Intruder:
    """Unpickling it would call a function."""

    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


@pytest.mark.parametrize("content", [Intruder(), [1, 2], {}, {"state_dict": {"a": 1}}])
def test_what_is_no_state_dict_is_refused(
    content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "t.pth")
    with pytest.raises(CheckpointError, match=r"t\.pth"):
        load_state_dict(tmp_path / "t.pth")
    assert capsys.readouterr().out == ""


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_state_dict(tmp_path / "t.pth")
