"""RTMDet: CSPNeXt, a path-aggregation neck of the same blocks, and one head a level.

Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors" (2022); parameter
names are those of mmdet's ``CSPNeXtPAFPN`` and ``RTMDetSepBNHead``. Input: (N, 3, H, W) float32,
BGR, minus mean [103.53, 116.28, 123.675], over std [57.375, 57.12, 58.395].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters.architectures.cspnext import CSPNEXT_SIZES, ConvModule, CSPLayer, CSPNeXt, conv3x3

STRIDES = (8, 16, 32)
OUTPUT_NAMES = tuple(f"{kind}_{stride}" for kind in ("logits", "distances") for stride in STRIDES)


@dataclass(frozen=True)
class HeadKind:
    """How the heads of a size differ.

    ``share_conv``: the levels share their convolutions and keep batch norms of their own.
    ``exponential``: distances are exp of the network's answer, times the stride.
    """

    share_conv: bool
    exponential: bool


RTMDET_HEADS = {
    "nano": HeadKind(share_conv=False, exponential=False),
    "t": HeadKind(share_conv=True, exponential=False),
    "s": HeadKind(share_conv=True, exponential=False),
    "m": HeadKind(share_conv=True, exponential=True),
    "l": HeadKind(share_conv=True, exponential=True),
}


class CSPNeXtPAFPN(nn.Module):
    """Maps of three strides, (N, C_i, H / s_i, W / s_i), to as many of `out_channels` each.

    Down from the coarsest map (1x1, twice as large by nearest neighbour, joined with the finer
    one) and up again; the reduced maps are those that the way up joins.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, blocks: int, use_depthwise: bool
    ) -> None:
        super().__init__()

        def csp(channels_in: int, channels_out: int) -> CSPLayer:
            return CSPLayer(channels_in, channels_out, blocks, False, use_depthwise, False)

        fine, middle, coarse = in_channels
        self.reduce_layers = nn.ModuleList(
            [ConvModule(coarse, middle, 1), ConvModule(middle, fine, 1)]
        )
        self.top_down_blocks = nn.ModuleList([csp(2 * middle, middle), csp(2 * fine, fine)])
        self.downsamples = nn.ModuleList(
            conv3x3(channels, channels, 2, use_depthwise) for channels in (fine, middle)
        )
        self.bottom_up_blocks = nn.ModuleList([csp(2 * fine, middle), csp(2 * middle, coarse)])
        self.out_convs = nn.ModuleList(
            conv3x3(channels, out_channels, 1, use_depthwise) for channels in in_channels
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Three maps, finest first -> three maps of the same sizes, finest first."""
        high, *lower = maps[::-1]
        reduced = []
        for reduce, block, low in zip(self.reduce_layers, self.top_down_blocks, lower, strict=True):
            narrow = reduce(high)
            reduced.append(narrow)
            up = functional.interpolate(narrow, scale_factor=2.0, mode="nearest")
            high = block(torch.cat((up, low), dim=1))
        outputs = [high]
        for down, block, inner in zip(
            self.downsamples, self.bottom_up_blocks, reduced[::-1], strict=True
        ):
            outputs.append(block(torch.cat((down(outputs[-1]), inner), dim=1)))
        return [conv(output) for conv, output in zip(self.out_convs, outputs, strict=True)]


class RTMDetHead(nn.Module):
    """Class logits (N, classes, h, w) and side distances (N, 4, h, w) in input px, a level."""

    def __init__(self, channels: int, classes: int, kind: HeadKind, use_depthwise: bool) -> None:
        super().__init__()

        def towers() -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(*(conv3x3(channels, channels, 1, use_depthwise) for _ in range(2)))
                for _ in STRIDES
            )

        self.cls_convs, self.reg_convs = towers(), towers()
        self.rtm_cls = nn.ModuleList(nn.Conv2d(channels, classes, 1) for _ in STRIDES)
        self.rtm_reg = nn.ModuleList(nn.Conv2d(channels, 4, 1) for _ in STRIDES)
        self.exponential = kind.exponential
        if kind.share_conv:
            for tower in (self.cls_convs, self.reg_convs):
                for level in tower[1:]:
                    for first, other in zip(tower[0], level, strict=True):
                        other.conv = first.conv

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Three maps -> logits of every stride, then distances of every stride."""
        logits, distances = [], []
        for level, (features, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            logits.append(self.rtm_cls[level](self.cls_convs[level](features)))
            sides = self.rtm_reg[level](self.reg_convs[level](features))
            distances.append((sides.exp() if self.exponential else sides) * stride)
        return (*logits, *distances)


class RTMDet(nn.Module):
    """The whole detector: (N, 3, H, W) -> six raw maps, named by OUTPUT_NAMES.

    Logits (N, classes, H / s, W / s) of the strides 8, 16 and 32, then distances (N, 4, H / s,
    W / s) to the left, top, right and bottom side from the cell's corner (x * s, y * s), input px;
    plain answers (not exponential) may be negative.

    Args:
        size: one of nano, t, s, m, l.
        num_classes: 1 for people and hands, 80 for COCO.

    Raises:
        ValueError: an unknown size or no class.
    """

    def __init__(self, size: str = "nano", num_classes: int = 1) -> None:
        super().__init__()
        if size not in RTMDET_HEADS:
            raise ValueError(f"RTMDet has the sizes {', '.join(RTMDET_HEADS)}, got {size!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be 1 or more, got {num_classes}")
        factors, use_depthwise = CSPNEXT_SIZES[size], size == "nano"
        self.backbone = CSPNeXt(factors, (2, 3, 4), use_depthwise)
        channels = self.backbone.out_channels
        blocks = max(round(3 * factors.deepen), 1)
        self.neck = CSPNeXtPAFPN(channels, channels[0], blocks, use_depthwise)
        self.bbox_head = RTMDetHead(channels[0], num_classes, RTMDET_HEADS[size], use_depthwise)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> logits of every stride, then distances of every stride."""
        outputs: tuple[Tensor, ...] = self.bbox_head(self.neck(self.backbone(images)))
        return outputs
