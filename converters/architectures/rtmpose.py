"""RTMPose: CSPNeXt and the RTMCC head, whose answers are SimCC coordinate distributions.

Jiang et al., "RTMPose: Real-Time Multi-Person Pose Estimation based on MMPose" (2023), section 3;
the gated attention unit is that of Hua et al., "Transformer Quality in Linear Time" (2022).
Input: (N, 3, H, W) float32, RGB, minus mean [123.675, 116.28, 103.53], over std
[58.395, 57.12, 57.375]. Outputs: raw (no softmax) simcc_x (N, K, 2 W) and simcc_y (N, K, 2 H);
the bin i of either axis is the crop coordinate i / 2 px.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters.architectures.cspnext import CSPNEXT_SIZES, CSPNeXt

STRIDE = 32
SIMCC_SPLIT_RATIO = 2.0
"""Bins per pixel of the crop, both axes."""


class ScaleNorm(nn.Module):
    """y = x / max(|x|_2 * dim ** -0.5, 1e-5) * g over the last axis, g one learnt number.

    The sum of squares leaves the range of FP16 (3.6e6 with official weights); exporting for FP16
    needs a rewrite of this node, which is done on the ONNX graph.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * self.scale
        return x / norm.clamp(min=1e-5) * self.g


class ResidualScale(nn.Module):
    """x * scale, one learnt factor for each of the `dim` channels of the last axis."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return x * self.scale


class GatedAttentionUnit(nn.Module):
    """Self-attention over the keypoints: (N, K, dim) -> (N, K, dim).

    z = ScaleNorm(x); u, v, b = split(SiLU(z Wuv^T)); q, k = b * gamma + beta;
    A = relu(q k^T / sqrt(s))^2; y = res_scale * x + (u * (A v)) Wo^T.
    """

    def __init__(self, dim: int = 256, attention_dim: int = 128) -> None:
        super().__init__()
        self.expanded_dim, self.attention_dim = 2 * dim, attention_dim
        self.gamma = nn.Parameter(torch.rand(2, attention_dim))
        self.beta = nn.Parameter(torch.rand(2, attention_dim))
        self.uv = nn.Linear(dim, 2 * self.expanded_dim + attention_dim, bias=False)
        self.o = nn.Linear(self.expanded_dim, dim, bias=False)
        self.ln = ScaleNorm(dim)
        self.res_scale = ResidualScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, dim) -> (N, K, dim)."""
        gates = functional.silu(self.uv(self.ln(x)))
        u, v, base = torch.split(
            gates, [self.expanded_dim, self.expanded_dim, self.attention_dim], dim=-1
        )
        q = base * self.gamma[0] + self.beta[0]
        k = base * self.gamma[1] + self.beta[1]
        scores = functional.relu(torch.matmul(q, k.transpose(1, 2)) * self.attention_dim**-0.5)
        # A product rather than a power: every engine multiplies, not every one has Pow.
        attention = scores * scores
        return self.res_scale(x) + self.o(u * torch.matmul(attention, v))


class RTMCCHead(nn.Module):
    """Feature map (N, C, H / 32, W / 32) -> simcc_x (N, K, 2 W), simcc_y (N, K, 2 H)."""

    def __init__(
        self,
        in_channels: int,
        keypoints: int,
        input_hw: tuple[int, int],
        hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        height, width = input_hw
        cells = (height // STRIDE) * (width // STRIDE)
        self.map_shape = (keypoints, cells)
        self.final_layer = nn.Conv2d(in_channels, keypoints, 7, padding=3)
        self.mlp = nn.Sequential(ScaleNorm(cells), nn.Linear(cells, hidden_dim, bias=False))
        self.gau = GatedAttentionUnit(hidden_dim)
        self.cls_x = nn.Linear(hidden_dim, int(width * SIMCC_SPLIT_RATIO), bias=False)
        self.cls_y = nn.Linear(hidden_dim, int(height * SIMCC_SPLIT_RATIO), bias=False)

    def coordinates(self, keypoint_maps: Tensor) -> tuple[Tensor, Tensor]:
        """What follows `final_layer`: (N, K, H / 32, W / 32) -> simcc_x, simcc_y."""
        # Constants, and only the batch open: the exported graph then has no shape arithmetic.
        hidden = self.gau(self.mlp(keypoint_maps.reshape(-1, *self.map_shape)))
        return self.cls_x(hidden), self.cls_y(hidden)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H / 32, W / 32) -> simcc_x (N, K, 2 W), simcc_y (N, K, 2 H)."""
        return self.coordinates(self.final_layer(features))


class RTMPose(nn.Module):
    """The whole model: (N, 3, H, W) -> simcc_x (N, K, 2 W), simcc_y (N, K, 2 H).

    Args:
        size: one of t, s, m, l, x.
        input_hw: height and width of the crop in px, multiples of 32.
        keypoints: K.

    Raises:
        ValueError: an unknown size, or an input that the stride does not divide.
    """

    def __init__(
        self, size: str = "t", input_hw: tuple[int, int] = (256, 192), keypoints: int = 17
    ) -> None:
        super().__init__()
        if size not in ("t", "s", "m", "l", "x"):
            raise ValueError(f"RTMPose has the sizes t, s, m, l, x, got {size!r}")
        if any(side <= 0 or side % STRIDE for side in input_hw):
            raise ValueError(f"input_hw must be multiples of {STRIDE}, got {input_hw}")
        self.input_hw = input_hw
        self.backbone = CSPNeXt(CSPNEXT_SIZES[size])
        self.head = RTMCCHead(self.backbone.out_channels[-1], keypoints, input_hw)

    def keypoint_maps(self, images: Tensor) -> Tensor:
        """The coarse map of each keypoint, before the head's coordinates: (N, K, H/32, W/32)."""
        return self.head.final_layer(self.backbone(images)[-1])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) -> simcc_x (N, K, 2 W), simcc_y (N, K, 2 H)."""
        return self.head.coordinates(self.keypoint_maps(images))
