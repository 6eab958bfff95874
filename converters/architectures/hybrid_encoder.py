"""The hybrid encoder: self-attention on the coarsest map, then a pyramid in both directions.

Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection" (RT-DETR), section 4.2; the
re-parameterised blocks are those of Ding et al., "RepVGG". Maps are (N, C, H, W) float32. Every
batch norm has eps 1e-5, momentum 0.1. Sub-module names are those of the official RTMO checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from converters.architectures.cspnext import ConvModule

HIDDEN = 256
HEADS = 8


def linear_conv(in_channels: int, out_channels: int, kernel: int) -> ConvModule:
    """A ConvModule without its activation: convolution and batch norm."""
    module = ConvModule(in_channels, out_channels, kernel)
    module.activate = nn.Identity()
    return module


class SineCode(nn.Module):
    """Sine code of a coordinate p: [cos(p / t_i) | sin(p / t_i)], t_i = temperature ** (i / n).

    `channels` = 2 n; the periods t are a buffer, because official checkpoints hold them.
    """

    def __init__(self, channels: int, temperature: float) -> None:
        super().__init__()
        half = channels // 2
        periods = temperature ** (torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("dim_t", periods)

    def forward(self, position: Tensor) -> Tensor:
        """(...) -> (..., channels)."""
        angle = position.unsqueeze(-1) / self.dim_t
        return torch.cat((angle.cos(), angle.sin()), dim=-1)

    def grid(self, height: int, width: int) -> Tensor:
        """The cells of a map, row by row: (1, height * width, 2 channels), [row | column]."""
        rows = self(torch.arange(height, dtype=torch.float32, device=self.dim_t.device))
        columns = self(torch.arange(width, dtype=torch.float32, device=self.dim_t.device))
        channels = rows.shape[-1]
        code = torch.cat(
            (
                rows[:, None].expand(height, width, channels),
                columns[None].expand(height, width, channels),
            ),
            dim=-1,
        )
        return code.reshape(1, height * width, 2 * channels)


class SelfAttention(nn.Module):
    """x + multi-head attention with queries and keys x + code and values x, 8 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """(N, T, 256), (1, T, 256) -> (N, T, 256)."""
        placed = x + code
        return x + self.attn(placed, placed, x, need_weights=False)[0]


class PlainSelfAttention(nn.Module):
    """SelfAttention's function for `tokens` tokens in matrix products that every engine has.

    Constants in place of shape arithmetic; the scale 1 / sqrt(32) is in the query's weights.
    """

    def __init__(self, attention: SelfAttention, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.query, self.key, self.value = (nn.Linear(HIDDEN, HIDDEN) for _ in range(3))
        self.out = attention.attn.out_proj
        weights = attention.attn.in_proj_weight.chunk(3)
        biases = attention.attn.in_proj_bias.chunk(3)
        scales = ((HIDDEN // HEADS) ** -0.5, 1.0, 1.0)
        layers = (self.query, self.key, self.value)
        for layer, weight, bias, scale in zip(layers, weights, biases, scales, strict=True):
            layer.weight = nn.Parameter(weight.detach() * scale)
            layer.bias = nn.Parameter(bias.detach() * scale)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """(N, T, 256), (1, T, 256) -> (N, T, 256)."""
        placed = x + code
        query, key, value = (
            layer(tokens).reshape(-1, self.tokens, HEADS, HIDDEN // HEADS).transpose(1, 2)
            for layer, tokens in ((self.query, placed), (self.key, placed), (self.value, x))
        )
        weights = torch.matmul(query, key.transpose(2, 3)).softmax(dim=-1)
        mixed = torch.matmul(weights, value).transpose(1, 2).reshape(-1, self.tokens, HIDDEN)
        return x + self.out(mixed)


class FeedForward(nn.Module):
    """x + linear(gelu(linear(x))), 256 -> 1024 -> 256, GELU in its exact form."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(HIDDEN, 4 * HIDDEN), nn.GELU()), nn.Linear(4 * HIDDEN, HIDDEN)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, 256) -> (N, T, 256)."""
        return x + self.layers(x)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each followed by a layer norm (eps 1e-5)."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn: nn.Module = SelfAttention()
        self.ffn = FeedForward()
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(2))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """(N, T, 256), (1, T, 256) -> (N, T, 256)."""
        return self.norms[1](self.ffn(self.norms[0](self.self_attn(x, code))))


class Encoder(nn.Module):
    """One encoder layer, under the name that checkpoints give it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EncoderLayer()])

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """(N, T, 256), (1, T, 256) -> (N, T, 256)."""
        return self.layers[0](x, code)


class RepVGGBlock(nn.Module):
    """SiLU(bn(conv 3x3) + bn(conv 1x1)); no identity branch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch_3x3 = linear_conv(channels, channels, 3)
        self.branch_1x1 = linear_conv(channels, channels, 1)
        self.activate = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, H, W)."""
        return self.activate(self.branch_3x3(x) + self.branch_1x1(x))

    def to_plain(self) -> nn.Sequential:
        """The same function in eval mode as one 3x3 convolution with bias and SiLU."""
        wide = fuse_conv_bn_eval(self.branch_3x3.conv, self.branch_3x3.bn)
        point = fuse_conv_bn_eval(self.branch_1x1.conv, self.branch_1x1.bn)
        with torch.no_grad():
            wide.weight[:, :, 1, 1] += point.weight[:, :, 0, 0]
            wide.bias += point.bias
        return nn.Sequential(wide, nn.SiLU())


class CSPRepLayer(nn.Module):
    """conv3(blocks(conv1(x)) + conv2(x)), all 1x1; conv3 is absent where hidden is 256."""

    def __init__(self, hidden: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = ConvModule(2 * HIDDEN, hidden, 1)
        self.conv2 = ConvModule(2 * HIDDEN, hidden, 1)
        self.bottlenecks = nn.Sequential(*(RepVGGBlock(hidden) for _ in range(blocks)))
        self.conv3 = nn.Identity() if hidden == HIDDEN else ConvModule(hidden, HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 512, H, W) -> (N, 256, H, W)."""
        return self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))


class Projector(nn.Module):
    """One 1x1 convolution with batch norm for each of the kept maps."""

    def __init__(self, out_channels: int, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(linear_conv(HIDDEN, out_channels, 1) for _ in range(levels))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (N, 256, H_i, W_i) -> maps (N, out_channels, H_i, W_i)."""
        return tuple(conv(x) for conv, x in zip(self.convs, maps, strict=True))


class HybridEncoder(nn.Module):
    """Maps of strides 8, 16, 32 -> maps of strides 16, 32 with `out_channels` channels each.

    Args:
        in_channels: channels of the three maps.
        deepen: depth factor of the RepVGG blocks, three at 1.
        widen: width factor of the layers around them.
        out_channels: channels after the projector.
    """

    cells_hw: tuple[int, int] | None = None

    def __init__(
        self, in_channels: Sequence[int], deepen: float, widen: float, out_channels: int
    ) -> None:
        super().__init__()
        hidden, blocks = int(HIDDEN * widen), round(3 * deepen)
        steps = len(in_channels) - 1
        self.input_proj = nn.ModuleList(linear_conv(count, HIDDEN, 1) for count in in_channels)
        self.encoder = nn.ModuleList([Encoder()])
        self.sincos_pos_enc = SineCode(HIDDEN // 2, 10000.0)
        self.lateral_convs = nn.ModuleList(ConvModule(HIDDEN, HIDDEN, 1) for _ in range(steps))
        self.fpn_blocks = nn.ModuleList(CSPRepLayer(hidden, blocks) for _ in range(steps))
        self.downsample_convs = nn.ModuleList(
            ConvModule(HIDDEN, HIDDEN, 3, stride=2) for _ in range(steps)
        )
        self.pan_blocks = nn.ModuleList(CSPRepLayer(hidden, blocks) for _ in range(steps))
        self.projector = Projector(out_channels, steps)
        # A constant once the input size is settled.
        self.register_buffer("code", None, persistent=False)

    def settle(self, height: int, width: int) -> None:
        """Fix the size of the coarsest map: its code and token count become constants."""
        self.cells_hw = height, width
        self.code = self.sincos_pos_enc.grid(height, width)
        for encoder in self.encoder:
            layer = encoder.layers[0]
            layer.self_attn = PlainSelfAttention(layer.self_attn, height * width)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (N, C_i, H / s_i, W / s_i), s 8, 16, 32 -> (N, out_channels, ...), s 16, 32."""
        inputs = [proj(x) for proj, x in zip(self.input_proj, maps, strict=True)]
        inputs[-1] = self._attend(inputs[-1])

        finest_first = [inputs[-1]]
        for lateral, block, low in zip(
            self.lateral_convs, self.fpn_blocks, reversed(inputs[:-1]), strict=True
        ):
            high = lateral(finest_first[0])
            raised = functional.interpolate(high, scale_factor=2.0, mode="nearest")
            finest_first[0] = high
            finest_first.insert(0, block(torch.cat((raised, low), dim=1)))

        outputs = [finest_first[0]]
        for down, block, high in zip(
            self.downsample_convs, self.pan_blocks, finest_first[1:], strict=True
        ):
            outputs.append(block(torch.cat((down(outputs[-1]), high), dim=1)))
        projected: tuple[Tensor, ...] = self.projector(outputs[1:])
        return projected

    def _attend(self, x: Tensor) -> Tensor:
        """(N, 256, H, W) -> (N, 256, H, W), tokens row by row."""
        height, width = self.cells_hw or x.shape[2:]
        code = self.sincos_pos_enc.grid(height, width) if self.code is None else self.code
        tokens = x.reshape(-1, HIDDEN, height * width).transpose(1, 2)
        attended = self.encoder[0](tokens, code)
        return attended.transpose(1, 2).reshape(-1, HIDDEN, height, width)
