"""RTMO: people and their keypoints in one stage.

Lu et al., "RTMO: Towards High-Performance One-Stage Real-Time Multi-Person Pose Estimation"
(2023), section 3. Input: (N, 3, H, W) float32, BGR, 0 to 255. Outputs are raw maps of the strides
16 and 32; what the cells with a person say of their keypoints is worked out afterwards, by the
Dynamic Coordinate Classifier (DCC), from the pose vectors of those cells alone. Its weights are
`dcc_constants`; the arithmetic is `edge.codecs.rtmo`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_linear_bn_eval

from converters.architectures.csp_darknet import (
    CSPDarknet,
    CSPDarknetSize,
    Focus,
    set_batch_norms,
)
from converters.architectures.cspnext import ConvModule
from converters.architectures.hybrid_encoder import HybridEncoder, SineCode
from converters.architectures.rtmpose import GatedAttentionUnit

STRIDES = (16, 32)
OUTPUT_NAMES = tuple(
    f"{kind}_{stride}" for kind in ("logits", "boxes", "visibility", "pose") for stride in STRIDES
)
FEATURES = 128
"""Channels of a keypoint's features, of the coordinates' sine code and of the attention."""
BINS_XY = (192, 256)
BOX_PADDING = 1.25
"""The bins span the box widened by this factor."""


@dataclass(frozen=True)
class _Size:
    backbone: CSPDarknetSize
    pose_channels: int
    input_hw: tuple[int, int]


RTMO_SIZES = {
    "t": _Size(CSPDarknetSize(0.33, 0.375), 192, (416, 416)),
    "s": _Size(CSPDarknetSize(0.33, 0.5), 256, (640, 640)),
    "m": _Size(CSPDarknetSize(0.67, 0.75), 384, (640, 640)),
    "l": _Size(CSPDarknetSize(1.0, 1.0), 512, (640, 640)),
}


class ConvHead(nn.Module):
    """Per level: the first half of the channels says who is there, the second half how.

    Batch norms have eps 1e-3, momentum 0.03. `out_kpt_reg` serves the choice of training samples
    only; it is here because checkpoints hold it.
    """

    def __init__(self, half: int, pose_branch: int, pose_channels: int, keypoints: int) -> None:
        super().__init__()
        levels = len(STRIDES)

        def out(in_channels: int, out_channels: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(in_channels, out_channels, 1) for _ in range(levels))

        self.half = half
        self.conv_cls = nn.ModuleList(
            nn.Sequential(ConvModule(half, half, 3), ConvModule(half, half, 3))
            for _ in range(levels)
        )
        self.out_cls = out(half, 1)
        self.conv_pose = nn.ModuleList(
            nn.Sequential(
                ConvModule(half, pose_branch, 3),
                *(ConvModule(pose_branch, pose_branch, 3, groups=8) for _ in range(3)),
            )
            for _ in range(levels)
        )
        self.out_bbox = out(pose_branch, 4)
        self.out_kpt_reg = out(pose_branch, 2 * keypoints)
        self.out_kpt_vis = out(pose_branch, keypoints)
        self.out_pose = out(pose_branch, pose_channels)
        set_batch_norms(self, eps=1e-3, momentum=0.03)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps (N, 2 half, h, w) of strides 16, 32 -> the tensors of OUTPUT_NAMES."""
        logits, boxes, visibility, pose = [], [], [], []
        for level, x in enumerate(maps):
            who, how = torch.split(x, self.half, dim=1)
            how = self.conv_pose[level](how)
            logits.append(self.out_cls[level](self.conv_cls[level](who)))
            boxes.append(self.out_bbox[level](how))
            visibility.append(self.out_kpt_vis[level](how))
            pose.append(self.out_pose[level](how))
        return (*logits, *boxes, *visibility, *pose)


class Scale(nn.Module):
    """x * scale, one learnt number."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return x * self.scale


class DynamicCoordinateClassifier(nn.Module):
    """A pose vector and its box -> keypoints, as expectations over bins across the box.

    The bins of an instance are linspace(-0.5, 0.5) over its box widened by 1.25; each is coded by
    its distance from the cell. `sigma_fc` belongs to the training loss.
    """

    def __init__(self, pose_channels: int, keypoints: int) -> None:
        super().__init__()
        self.shape = (keypoints, FEATURES)
        self.spe = SineCode(FEATURES, 300.0)
        self.gau = GatedAttentionUnit(FEATURES, FEATURES)
        self.pos_enc = nn.Parameter(torch.randn(keypoints, FEATURES))
        self.pose_to_kpts: nn.Module = nn.Sequential(
            nn.Linear(pose_channels, keypoints * FEATURES), nn.BatchNorm1d(keypoints * FEATURES)
        )
        self.x_fc = nn.Linear(FEATURES, FEATURES)
        self.y_fc = nn.Linear(FEATURES, FEATURES)
        self.sigma_fc = nn.Sequential(nn.Linear(pose_channels, keypoints), nn.Sigmoid(), Scale(0.1))
        self.register_buffer("y_bins", torch.linspace(-0.5, 0.5, BINS_XY[1]))
        self.register_buffer("x_bins", torch.linspace(-0.5, 0.5, BINS_XY[0]))

    def forward(self, pose: Tensor, boxes_xyxy: Tensor, cells_xy: Tensor) -> Tensor:
        """Pose vectors (M, C), boxes (M, 4), their cells' priors (M, 2) -> keypoints (M, K, 2).

        Boxes, priors and keypoints are in input pixels.
        """
        features = self.pose_to_kpts(pose).reshape(-1, *self.shape)
        # A code of each keypoint, added to query and key, is a beta of each keypoint's own.
        beta = self.gau.beta[:, None] + self.pos_enc
        keypoints = functional_call(self.gau, {"beta": beta}, (features,))
        centre = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2 - cells_xy
        extent = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) * BOX_PADDING
        places = []
        for axis, bins, adapt in ((0, self.x_bins, self.x_fc), (1, self.y_bins, self.y_fc)):
            distance = bins * extent[:, axis, None] + centre[:, axis, None]
            code = adapt(self.spe(distance))
            heat = torch.matmul(keypoints, code.transpose(1, 2)).clamp(-5e4, 5e4)
            weights = (heat - heat.amax(dim=-1, keepdim=True)).exp()
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-8)
            place = torch.matmul(weights, distance.unsqueeze(-1)).squeeze(-1)
            places.append(place + cells_xy[:, axis, None])
        return torch.stack(places, dim=-1)


class KeypointLoss(nn.Module):
    """The keypoints' OKS constants, which checkpoints hold beside the weights."""

    def __init__(self, keypoints: int) -> None:
        super().__init__()
        self.register_buffer("sigmas", torch.ones(keypoints))


class RTMOHead(nn.Module):
    """The convolutional head and the classifier of coordinates."""

    def __init__(self, size: _Size, in_channels: int, keypoints: int) -> None:
        super().__init__()
        # Eight groups of channels, floored each.
        pose_branch = 8 * int(36 * size.backbone.widen)
        self.loss_oks = KeypointLoss(keypoints)
        self.head_module = ConvHead(in_channels // 2, pose_branch, size.pose_channels, keypoints)
        self.dcc = DynamicCoordinateClassifier(size.pose_channels, keypoints)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps of strides 16, 32 -> the tensors of OUTPUT_NAMES."""
        tensors: tuple[Tensor, ...] = self.head_module(maps)
        return tensors


class RTMO(nn.Module):
    """(N, 3, H, W) -> raw maps of the strides 16 and 32, in the order of OUTPUT_NAMES.

    With h = H / stride and w = W / stride: `logits` (N, 1, h, w) of a person; `boxes`
    (N, 4, h, w) as dx, dy, log w, log h in strides; `visibility` (N, K, h, w) logits; `pose`
    (N, C, h, w) pose vectors.

    Args:
        size: one of t, s, m, l.
        keypoints: K.
        input_hw: height and width of the input in px, multiples of 32; that of the official
            checkpoint unless given.

    Raises:
        ValueError: an unknown size, or an input that the stride does not divide.
    """

    def __init__(
        self, size: str, keypoints: int = 17, input_hw: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        if size not in RTMO_SIZES:
            raise ValueError(f"RTMO has the sizes {', '.join(RTMO_SIZES)}, got {size!r}")
        row = RTMO_SIZES[size]
        self.input_hw = row.input_hw if input_hw is None else input_hw
        if any(side <= 0 or side % STRIDES[-1] for side in self.input_hw):
            raise ValueError(f"input_hw must be multiples of {STRIDES[-1]}, got {self.input_hw}")
        factors = row.backbone
        out_channels = int(512 * factors.widen)
        self.backbone = CSPDarknet(factors)
        self.neck = HybridEncoder(
            self.backbone.out_channels, factors.deepen, factors.widen, out_channels
        )
        self.head = RTMOHead(row, out_channels, keypoints)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> the tensors of OUTPUT_NAMES."""
        tensors: tuple[Tensor, ...] = self.head(self.neck(self.backbone(images)))
        return tensors


def switch_to_deploy(model: RTMO) -> RTMO:
    """A copy of `model` in eval mode that every engine runs, for `model.input_hw` alone.

    Focus becomes a 6x6 convolution, each RepVGG block one 3x3 convolution, attention plain matrix
    products, the cells' code a constant; the batch norm after `pose_to_kpts` is merged into it.
    The ConvModules keep their batch norms: `export.fold_batch_norms` merges those.
    """
    deploy: RTMO = copy.deepcopy(model).eval()
    if isinstance(deploy.backbone.stem, Focus):
        deploy.backbone.stem = deploy.backbone.stem.to_plain()
        for layer in (*deploy.neck.fpn_blocks, *deploy.neck.pan_blocks):
            layer.bottlenecks = nn.Sequential(*(block.to_plain() for block in layer.bottlenecks))
        deploy.neck.settle(*(side // STRIDES[-1] for side in model.input_hw))
        deploy.head.dcc.pose_to_kpts = fuse_linear_bn_eval(*deploy.head.dcc.pose_to_kpts)
    return deploy


def dcc_constants(model: RTMO) -> dict[str, NDArray[np.float32]]:
    """What `edge.codecs.rtmo` needs besides the maps: name -> float32 array.

    Matrices are laid out for `features @ matrix`. Merged: the batch norm into `dcc.keypoints`, the
    norm's gain into `dcc.gates`, the keypoints' code and 1 / sqrt(128) into `dcc.query` and
    `dcc.key`.
    """
    dcc = copy.deepcopy(model.head.dcc).eval().to("cpu", torch.float64)
    linear = dcc.pose_to_kpts
    if isinstance(linear, nn.Sequential):
        linear = fuse_linear_bn_eval(*linear)
    gau = dcc.gau
    shrink = FEATURES**-0.5
    values = {
        "keypoints.weight": linear.weight.T,
        "keypoints.bias": linear.bias,
        "gates.weight": gau.uv.weight.T * gau.ln.g,
        "query.scale": gau.gamma[0] * shrink,
        "query.offset": (gau.beta[0] + dcc.pos_enc) * shrink,
        "key.scale": gau.gamma[1],
        "key.offset": gau.beta[1] + dcc.pos_enc,
        "out.weight": gau.o.weight.T,
        "residual.scale": gau.res_scale.scale,
        "x.weight": dcc.x_fc.weight,
        "x.bias": dcc.x_fc.bias,
        "x.bins": dcc.x_bins,
        "y.weight": dcc.y_fc.weight,
        "y.bias": dcc.y_fc.bias,
        "y.bins": dcc.y_bins,
        "periods": dcc.spe.dim_t,
    }
    return {
        f"dcc.{name}": np.ascontiguousarray(value.detach().numpy(), np.float32)
        for name, value in values.items()
    }
