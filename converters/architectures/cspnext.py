"""CSPNeXt, the backbone of RTMDet and RTMPose.

Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors" (2022), section 3.
The tensor layout is (N, C, H, W) float32 everywhere. Sub-module names are those of the official
checkpoints (`backbone.stage1.1.main_conv.conv.weight` and so on).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class CSPNeXtSize:
    """The two factors that scale the base network: depth (blocks) and width (channels)."""

    deepen: float
    widen: float


CSPNEXT_SIZES = {
    "nano": CSPNeXtSize(0.33, 0.25),
    "t": CSPNeXtSize(0.167, 0.375),
    "s": CSPNeXtSize(0.33, 0.5),
    "m": CSPNeXtSize(0.67, 0.75),
    "l": CSPNeXtSize(1.0, 1.0),
    "x": CSPNeXtSize(1.33, 1.25),
}


@dataclass(frozen=True)
class _StageRow:
    in_channels: int
    out_channels: int
    blocks: int
    shortcut: bool
    pyramid_pooling: bool


# The P5 table of the paper at deepen = widen = 1.
_P5_STAGES = (
    _StageRow(64, 128, 3, True, False),
    _StageRow(128, 256, 6, True, False),
    _StageRow(256, 512, 6, True, False),
    _StageRow(512, 1024, 3, False, True),
)


class ConvModule(nn.Module):
    """Convolution without bias, batch norm (eps 1e-5, momentum 0.1), SiLU; padding k // 2."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-5, momentum=0.1)
        self.activate = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.activate(self.bn(self.conv(x)))


class DepthwiseSeparableConv(nn.Module):
    """A depthwise ConvModule k x k, then a pointwise ConvModule 1x1; both with norm and SiLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(
            in_channels, in_channels, kernel, stride, groups=in_channels
        )
        self.pointwise_conv = ConvModule(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.pointwise_conv(self.depthwise_conv(x))


def conv3x3(in_channels: int, out_channels: int, stride: int, use_depthwise: bool) -> nn.Module:
    """A 3x3 ConvModule, or its depthwise-separable form when `use_depthwise`."""
    if use_depthwise:
        return DepthwiseSeparableConv(in_channels, out_channels, 3, stride)
    return ConvModule(in_channels, out_channels, 3, stride)


class CSPNeXtBlock(nn.Module):
    """conv 3x3, then depthwise-separable 5x5; the input is added when `shortcut`."""

    def __init__(self, channels: int, shortcut: bool, use_depthwise: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels, 1, use_depthwise)
        self.conv2 = DepthwiseSeparableConv(channels, channels, 5)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, H, W)."""
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class ChannelAttention(nn.Module):
    """x * hardsigmoid(fc(mean over H, W of x)), hardsigmoid(a) = clip(a / 6 + 0.5, 0, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(channels, channels, 1)
        self.act = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, H, W)."""
        return x * self.act(self.fc(self.global_avgpool(x)))


class CSPLayer(nn.Module):
    """Cross-stage-partial layer: half of the channels go through the blocks, half pass by.

    The two halves are concatenated in the order (blocks, passed by); the backbone weighs the
    channels before the final 1x1 convolution, RTMDet's neck does not (`channel_attention=False`).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: int,
        shortcut: bool,
        use_depthwise: bool,
        channel_attention: bool = True,
    ) -> None:
        super().__init__()
        middle = int(out_channels * 0.5)
        self.main_conv = ConvModule(in_channels, middle, 1)
        self.short_conv = ConvModule(in_channels, middle, 1)
        self.final_conv = ConvModule(2 * middle, out_channels, 1)
        self.blocks = nn.Sequential(
            *(CSPNeXtBlock(middle, shortcut, use_depthwise) for _ in range(blocks))
        )
        if channel_attention:
            self.attention = ChannelAttention(2 * middle)
        self.channel_attention = channel_attention

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H, W)."""
        y = torch.cat((self.blocks(self.main_conv(x)), self.short_conv(x)), dim=1)
        if self.channel_attention:
            y = self.attention(y)
        return self.final_conv(y)


class PyramidPooling(nn.Module):
    """Spatial pyramid pooling: [x, max 5x5, max 9x9, max 13x13] between two 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = channels // 2
        self.conv1 = ConvModule(channels, middle, 1)
        self.poolings = nn.ModuleList(
            nn.MaxPool2d(kernel, stride=1, padding=kernel // 2) for kernel in (5, 9, 13)
        )
        self.conv2 = ConvModule(4 * middle, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, H, W)."""
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(pool(x) for pool in self.poolings)], dim=1))


class CSPNeXt(nn.Module):
    """The P5 backbone: a stem of three convolutions and four stages, strides 4, 8, 16, 32.

    Args:
        size: depth and width factors, a value of CSPNEXT_SIZES.
        out_stages: the stages (1 to 4) whose outputs are returned, in ascending order; (4,) for
            RTMPose, (2, 3, 4) for RTMDet.
        use_depthwise: depthwise-separable down-convolutions and blocks (RTMDet-nano); the stem
            stays plain.

    `forward` takes (N, 3, H, W) and returns a tuple of (N, C_i, H / s_i, W / s_i) with
    s_i = 2 ** (stage + 1) and C_i = out_channels[i]. The stem halves once and each stage once.
    """

    def __init__(
        self,
        size: CSPNeXtSize,
        out_stages: Sequence[int] = (4,),
        use_depthwise: bool = False,
    ) -> None:
        super().__init__()
        if not out_stages or list(out_stages) != sorted(set(out_stages) & {1, 2, 3, 4}):
            raise ValueError(f"out_stages must ascend within 1 to 4, got {tuple(out_stages)}")
        self.out_stages = tuple(out_stages)
        # Floor division happens before the rounding to int, as in the official definition.
        narrow, wide = int(64 * size.widen // 2), int(64 * size.widen)
        self.stem = nn.Sequential(
            ConvModule(3, narrow, 3, stride=2),
            ConvModule(narrow, narrow, 3),
            ConvModule(narrow, wide, 3),
        )
        self.out_channels = tuple(
            int(_P5_STAGES[stage - 1].out_channels * size.widen) for stage in self.out_stages
        )
        self.stage_names = tuple(f"stage{number}" for number in range(1, len(_P5_STAGES) + 1))
        for name, row in zip(self.stage_names, _P5_STAGES, strict=True):
            in_channels = int(row.in_channels * size.widen)
            out_channels = int(row.out_channels * size.widen)
            # Python's round: halves go to the even neighbour.
            blocks = max(round(row.blocks * size.deepen), 1)
            layers = [conv3x3(in_channels, out_channels, 2, use_depthwise)]
            if row.pyramid_pooling:
                layers.append(PyramidPooling(out_channels))
            layers.append(CSPLayer(out_channels, out_channels, blocks, row.shortcut, use_depthwise))
            self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> a map (N, C_i, H / s_i, W / s_i) for each of `out_stages`."""
        outputs = []
        x = self.stem(x)
        for number, name in enumerate(self.stage_names, start=1):
            x = getattr(self, name)(x)
            if number in self.out_stages:
                outputs.append(x)
        return tuple(outputs)
