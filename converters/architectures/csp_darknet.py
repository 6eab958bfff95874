"""CSPDarknet, the backbone of YOLOX and RTMO.

Ge et al., "YOLOX: Exceeding YOLO Series in 2021"; the layers are those of YOLOv5's fifth release.
The tensor layout is (N, C, H, W) float32 everywhere. Sub-module names are those of the official
RTMO checkpoints (`backbone.stage1.1.main_conv.conv.weight` and so on).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from converters.architectures.cspnext import ConvModule, CSPLayer, PyramidPooling


@dataclass(frozen=True)
class CSPDarknetSize:
    """The two factors that scale the base network: depth (blocks) and width (channels)."""

    deepen: float
    widen: float


# (in, out, blocks, shortcut, pyramid pooling) of each stage at deepen = widen = 1.
_STAGES = (
    (64, 128, 3, True, False),
    (128, 256, 9, True, False),
    (256, 512, 9, True, False),
    (512, 1024, 3, False, True),
)


def set_batch_norms(module: nn.Module, eps: float, momentum: float) -> None:
    """Give every 2-D batch norm inside `module` this eps and momentum."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps, part.momentum = eps, momentum


class Focus(nn.Module):
    """Space to depth, then a 3x3 ConvModule on 12 channels.

    The four pixels of each 2x2 square become channels in the order top left, bottom left, top
    right, bottom right, three colours each.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvModule(12, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, out_channels, H / 2, W / 2); H and W are even."""
        squares = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(squares, dim=1))

    def to_plain(self) -> ConvModule:
        """The same function as one 6x6 convolution of stride 2 and padding 2.

        Tap (u, v) of the 3x3 kernel reads the pixels (2 u + row, 2 v + column) of a 6x6 window, so
        that the weights are those of `conv` in another order. Strided slices, which ncnn lacks
        and others copy for, are gone.
        """
        weight = self.conv.conv.weight.detach()
        out_channels = len(weight)
        # (out, column, row, colour, u, v) -> (out, colour, u, row, v, column)
        taps = weight.reshape(out_channels, 2, 2, 3, 3, 3).permute(0, 3, 4, 2, 5, 1)
        plain = ConvModule(3, out_channels, 6, stride=2)
        plain.conv = nn.Conv2d(3, out_channels, 6, stride=2, padding=2, bias=False)
        plain.conv.weight = nn.Parameter(taps.reshape(out_channels, 3, 6, 6))
        plain.bn = self.conv.bn
        plain.train(self.training)
        return plain


class DarknetBlock(nn.Module):
    """conv 1x1, then conv 3x3; the input is added when `shortcut`."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = ConvModule(channels, channels, 1)
        self.conv2 = ConvModule(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, H, W)."""
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class DarknetLayer(CSPLayer):
    """CSPNeXt's cross-stage-partial layer around DarknetBlocks, without channel attention."""

    def __init__(self, channels: int, blocks: int, shortcut: bool) -> None:
        super().__init__(
            channels, channels, 0, shortcut, use_depthwise=False, channel_attention=False
        )
        self.blocks = nn.Sequential(*(DarknetBlock(channels // 2, shortcut) for _ in range(blocks)))


class CSPDarknet(nn.Module):
    """The P5 backbone: Focus and four stages; batch norms with eps 1e-3, momentum 0.03.

    `forward` takes (N, 3, H, W) and returns the maps of stages 2, 3 and 4, strides 8, 16 and 32,
    with `out_channels` channels.
    """

    def __init__(self, size: CSPDarknetSize) -> None:
        super().__init__()
        self.stem = Focus(int(_STAGES[0][0] * size.widen))
        self.out_channels = tuple(int(row[1] * size.widen) for row in _STAGES[1:])
        for number, (in_base, out_base, blocks, shortcut, pooling) in enumerate(_STAGES, start=1):
            in_channels, out_channels = int(in_base * size.widen), int(out_base * size.widen)
            layers: list[nn.Module] = [ConvModule(in_channels, out_channels, 3, stride=2)]
            if pooling:
                layers.append(PyramidPooling(out_channels))
            # Python's round: halves go to the even neighbour.
            depth = max(round(blocks * size.deepen), 1)
            layers.append(DarknetLayer(out_channels, depth, shortcut))
            self.add_module(f"stage{number}", nn.Sequential(*layers))
        set_batch_norms(self, eps=1e-3, momentum=0.03)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> the maps (N, C_i, H / s_i, W / s_i) of the strides 8, 16, 32."""
        x = self.stage1(self.stem(x))
        stride_8 = self.stage2(x)
        stride_16 = self.stage3(stride_8)
        return stride_8, stride_16, self.stage4(stride_16)
