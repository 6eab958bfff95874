"""RTMO's backbone, neck and convolutional head against naive numpy forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from converters.architectures.csp_darknet import Focus  # noqa: E402
from converters.architectures.hybrid_encoder import CSPRepLayer, SineCode  # noqa: E402
from converters.architectures.rtmo import OUTPUT_NAMES  # noqa: E402
from tests.stand_ins.random_rtmo import (  # noqa: E402
    HEIGHT,
    WIDTH,
    Array,
    close,
    model,  # noqa: F401
    norm,
    random_images,
    randomise,
    sigmoid,
    weights_of,
)

# --- naive forms, weights by their names in the checkpoint ----------------------------------------


def conv(x: Array, weight: Array, stride: int = 1) -> Array:
    """(N, C, H, W), padding k // 2; the groups follow from the channels."""
    kernel, inside = weight.shape[2], weight.shape[1]
    groups = x.shape[1] // inside
    outside = len(weight) // groups
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height = (x.shape[2] + 2 * pad - kernel) // stride + 1
    width = (x.shape[3] + 2 * pad - kernel) // stride + 1
    out = np.zeros((len(x), len(weight), height, width))
    for group in range(groups):
        rows = slice(group * outside, (group + 1) * outside)
        for u in range(kernel):
            for v in range(kernel):
                seen = padded[
                    :, :, u : u + stride * height : stride, v : v + stride * width : stride
                ]
                seen = seen[:, group * inside : (group + 1) * inside]
                part = np.tensordot(weight[rows, :, u, v], seen, axes=(1, 1))
                out[:, rows] += part.transpose(1, 0, 2, 3)
    return out


def unit(
    x: Array,
    w: dict[str, Array],
    name: str,
    eps: float = 1e-3,
    stride: int = 1,
    activate: bool = True,
) -> Array:
    y = norm(conv(x, w[f"{name}.conv.weight"], stride), w, f"{name}.bn", eps)
    return y * sigmoid(y) if activate else y


def naive_backbone(x: Array, w: dict[str, Array]) -> list[Array]:
    corners = [x[:, :, 0::2, 0::2], x[:, :, 1::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 1::2]]
    x = unit(np.concatenate(corners, axis=1), w, "backbone.stem.conv")
    outputs = []
    for stage, blocks in ((1, 1), (2, 3), (3, 3), (4, 1)):
        name = f"backbone.stage{stage}"
        x = unit(x, w, f"{name}.0", stride=2)
        if stage == 4:
            half = unit(x, w, f"{name}.1.conv1")
            x = unit(np.concatenate([half, *pooled(half)], axis=1), w, f"{name}.1.conv2")
        name = f"{name}.{2 if stage == 4 else 1}"
        main = unit(x, w, f"{name}.main_conv")
        for block in range(blocks):
            inner = unit(main, w, f"{name}.blocks.{block}.conv1")
            inner = unit(inner, w, f"{name}.blocks.{block}.conv2")
            main = inner + main if stage < 4 else inner
        both = np.concatenate([main, unit(x, w, f"{name}.short_conv")], axis=1)
        x = unit(both, w, f"{name}.final_conv")
        outputs.append(x)
    return outputs[1:]


def pooled(x: Array) -> list[Array]:
    height, width = x.shape[2:]
    answers = []
    for reach in (2, 4, 6):
        y = np.empty_like(x)
        for row in range(height):
            for column in range(width):
                rows = slice(max(row - reach, 0), row + reach + 1)
                columns = slice(max(column - reach, 0), column + reach + 1)
                y[:, :, row, column] = x[:, :, rows, columns].max(axis=(2, 3))
        answers.append(y)
    return answers


def layer_norm(x: Array, w: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return np.asarray(centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"])


def naive_encoder(x: Array, w: dict[str, Array], name: str) -> Array:
    """(N, 256, H, W) -> (N, 256, H, W), one image at a time."""
    images, channels, height, width = x.shape
    code = np.zeros((height * width, channels))
    for row in range(height):
        for column in range(width):
            for i in range(64):
                period = 10000 ** (i / 64)
                token = code[row * width + column]
                token[i], token[64 + i] = math.cos(row / period), math.sin(row / period)
                token[128 + i], token[192 + i] = (
                    math.cos(column / period),
                    math.sin(column / period),
                )
    out = np.zeros_like(x)
    for image in range(images):
        tokens = x[image].reshape(channels, -1).T
        matrices = np.split(w[f"{name}.self_attn.attn.in_proj_weight"], 3)
        biases = np.split(w[f"{name}.self_attn.attn.in_proj_bias"], 3)
        inputs = (tokens + code, tokens + code, tokens)
        query, key, value = (
            x @ matrix.T + bias for x, matrix, bias in zip(inputs, matrices, biases, strict=True)
        )
        mixed = np.zeros_like(tokens)
        for head in range(8):
            part = slice(32 * head, 32 * head + 32)
            scores = np.exp(query[:, part] @ key[:, part].T / math.sqrt(32))
            mixed[:, part] = scores / scores.sum(axis=1, keepdims=True) @ value[:, part]
        mixed = mixed @ w[f"{name}.self_attn.attn.out_proj.weight"].T
        tokens = tokens + mixed + w[f"{name}.self_attn.attn.out_proj.bias"]
        tokens = layer_norm(tokens, w, f"{name}.norms.0")
        wide = tokens @ w[f"{name}.ffn.layers.0.0.weight"].T + w[f"{name}.ffn.layers.0.0.bias"]
        wide = wide * (1 + np.vectorize(math.erf)(wide / math.sqrt(2))) / 2
        narrow = wide @ w[f"{name}.ffn.layers.1.weight"].T + w[f"{name}.ffn.layers.1.bias"]
        tokens = layer_norm(tokens + narrow, w, f"{name}.norms.1")
        out[image] = tokens.T.reshape(channels, height, width)
    return out


def naive_rep_layer(x: Array, w: dict[str, Array], name: str, blocks: int, last: bool) -> Array:
    y: Array = unit(x, w, f"{name}conv1", 1e-5)
    for block in range(blocks):
        branches = [f"{name}bottlenecks.{block}.branch_{kind}" for kind in ("3x3", "1x1")]
        wide, point = (unit(y, w, branch, 1e-5, activate=False) for branch in branches)
        y = (wide + point) * sigmoid(wide + point)
    y = y + unit(x, w, f"{name}conv2", 1e-5)
    return unit(y, w, f"{name}conv3", 1e-5) if last else y


def naive_neck(maps: list[Array], w: dict[str, Array]) -> list[Array]:
    low, middle, high = (
        unit(x, w, f"neck.input_proj.{i}", 1e-5, activate=False) for i, x in enumerate(maps)
    )
    high = naive_encoder(high, w, "neck.encoder.0.layers.0")

    def merge(first: Array, second: Array, name: str) -> Array:
        return naive_rep_layer(np.concatenate([first, second], axis=1), w, f"neck.{name}.", 1, True)

    def twice(x: Array) -> Array:
        return x.repeat(2, axis=2).repeat(2, axis=3)

    high = unit(high, w, "neck.lateral_convs.0", 1e-5)
    middle = merge(twice(high), middle, "fpn_blocks.0")
    middle = unit(middle, w, "neck.lateral_convs.1", 1e-5)
    low = merge(twice(middle), low, "fpn_blocks.1")
    down = unit(low, w, "neck.downsample_convs.0", 1e-5, stride=2)
    middle = merge(down, middle, "pan_blocks.0")
    down = unit(middle, w, "neck.downsample_convs.1", 1e-5, stride=2)
    high = merge(down, high, "pan_blocks.1")
    return [
        unit(x, w, f"neck.projector.convs.{i}", 1e-5, activate=False)
        for i, x in enumerate((middle, high))
    ]


def naive_head(maps: list[Array], w: dict[str, Array]) -> dict[str, Array]:
    answers = {}
    for level, (x, stride) in enumerate(zip(maps, (16, 32), strict=True)):
        who, how = np.split(x, 2, axis=1)
        for i in range(2):
            who = unit(who, w, f"head.head_module.conv_cls.{level}.{i}")
        for i in range(4):
            how = unit(how, w, f"head.head_module.conv_pose.{level}.{i}")
        for kind, part, y in (
            ("logits", "out_cls", who),
            ("boxes", "out_bbox", how),
            ("visibility", "out_kpt_vis", how),
            ("pose", "out_pose", how),
        ):
            name = f"head.head_module.{part}.{level}"
            bias = w[f"{name}.bias"][:, None, None]
            answers[f"{kind}_{stride}"] = conv(y, w[f"{name}.weight"]) + bias
    return answers


# --- tests ----------------------------------------------------------------------------------------


def test_focus_gathers_squares_in_the_published_order() -> None:
    focus = Focus(12)
    focus.conv = torch.nn.Identity()
    # The pixel's value names its colour, row and column.
    image = torch.arange(3)[:, None, None] * 100.0
    image = image + torch.arange(2)[:, None] * 10.0 + torch.arange(4)
    got = focus(image[None])
    first = [0, 100, 200, 10, 110, 210, 1, 101, 201, 11, 111, 211]
    assert got[0, :, 0, 0].tolist() == first
    assert got[0, :, 0, 1].tolist() == [value + 2 for value in first]


def test_sine_code_of_a_map_runs_row_by_row() -> None:
    code = SineCode(8, 100.0).grid(3, 5)[0].reshape(3, 5, 16)
    periods = [100 ** (i / 4) for i in range(4)]
    for row, column in ((0, 0), (2, 1), (1, 4)):
        want = [f(p / t) for p in (row, column) for f in (math.cos, math.sin) for t in periods]
        np.testing.assert_allclose(code[row, column].numpy(), want, atol=1e-5)


def test_backbone_is_the_naive_one(model: Any) -> None:
    images = random_images()
    with torch.no_grad():
        found = model.backbone(images)
    wanted = naive_backbone(images.numpy().astype(np.float64), weights_of(model))
    for got, want in zip(found, wanted, strict=True):
        close(got, want)


def random_maps(channels: list[int], strides: list[int]) -> list[Any]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(2, count, HEIGHT // stride, WIDTH // stride, generator=generator)
        for count, stride in zip(channels, strides, strict=True)
    ]


def test_neck_is_the_naive_one(model: Any) -> None:
    maps = random_maps([96, 192, 384], [8, 16, 32])
    with torch.no_grad():
        found = model.neck(maps)
    wanted = naive_neck([x.numpy().astype(np.float64) for x in maps], weights_of(model))
    for got, want in zip(found, wanted, strict=True):
        close(got, want)


def test_head_is_the_naive_one(model: Any) -> None:
    maps = random_maps([192, 192], [16, 32])
    with torch.no_grad():
        found = model.head(tuple(maps))
    wanted = naive_head([x.numpy().astype(np.float64) for x in maps], weights_of(model))
    for name, got in zip(OUTPUT_NAMES, found, strict=True):
        close(got, wanted[name])


def test_rep_layer_at_full_width_has_no_last_convolution() -> None:
    x = torch.randn(2, 512, 4, 6, generator=torch.Generator().manual_seed(4))
    layer = randomise(CSPRepLayer(256, 3), 5, x)
    wanted = naive_rep_layer(x.numpy().astype(np.float64), weights_of(layer), "", 3, last=False)
    close(layer(x), wanted)
