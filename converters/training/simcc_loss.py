"""RTMPose's loss: Gaussian SimCC targets, Kullback-Leibler divergence, and a coarse auxiliary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from converters.architectures.rtmpose import SIMCC_SPLIT_RATIO

__all__ = ["divergence", "pose_loss", "simcc_targets"]


def simcc_targets(coordinates_px: Tensor, bins: int, sigma_bins: float) -> Tensor:
    """Gaussian targets of one axis: (N, K) px -> (N, K, bins), peak 1 (mmpose's SimCCLabel).

    target[i] = exp(-(i - mu)^2 / (2 sigma^2)), mu = round(2 * coordinate), halves to even.
    """
    mu = torch.round(coordinates_px * SIMCC_SPLIT_RATIO)
    positions = torch.arange(bins, dtype=coordinates_px.dtype, device=coordinates_px.device)
    return torch.exp(-((positions - mu[..., None]) ** 2) / (2 * sigma_bins**2))


def divergence(logits: Tensor, targets: Tensor, beta: float) -> Tensor:
    """KL(softmax(beta targets) || softmax(beta logits)) of each keypoint: (N, K, bins) -> (N, K).

    mmpose's KLDiscretLoss with label_softmax, but for the constant factor 1 / bins.
    """
    wanted = functional.softmax(targets * beta, dim=-1)
    log_found = functional.log_softmax(logits * beta, dim=-1)
    return functional.kl_div(log_found, wanted, reduction="none").sum(dim=-1)


def pose_loss(
    simcc: tuple[Tensor, Tensor],
    maps: Sequence[Tensor],
    keypoints_xyv: Tensor,
    sigma_bins: tuple[float, float],
    beta: float,
    auxiliary_weight: float,
) -> tuple[Tensor, Tensor]:
    """Coordinate loss and auxiliary loss, both scalar, in nats per keypoint.

    Args:
        simcc: simcc_x (N, K, 2 W) and simcc_y (N, K, 2 H), raw.
        maps: each (N, K, rows, columns) over the whole crop; the auxiliary loss is the mean cross
            entropy of asking each, as logits over its cells, for the keypoint's cell.
        keypoints_xyv: (N, K, 3); visibility 0 weighs nothing, hidden (1) and seen (2) the same.
        sigma_bins: deviation of the targets along x and y, in bins.
        beta: what logits and targets are multiplied by before their softmax.
        auxiliary_weight: of the second result, already applied; 0 skips it.
    """
    weights = (keypoints_xyv[..., 2] > 0).float()
    counted = weights.sum().clamp(min=1)
    coordinate = weights.new_zeros(())
    for axis, logits in enumerate(simcc):
        targets = simcc_targets(keypoints_xyv[..., axis], logits.shape[-1], sigma_bins[axis])
        kl = divergence(logits, targets, beta)
        coordinate = coordinate + (kl * weights).sum() / counted
    auxiliary = weights.new_zeros(())
    if auxiliary_weight:
        width, height = (logits.shape[-1] / SIMCC_SPLIT_RATIO for logits in simcc)
        for each in maps:
            rows, columns = each.shape[2:]
            cell_x = (keypoints_xyv[..., 0] * columns / width).long().clamp(0, columns - 1)
            cell_y = (keypoints_xyv[..., 1] * rows / height).long().clamp(0, rows - 1)
            entropy = functional.cross_entropy(
                each.flatten(2).flatten(0, 1),
                (cell_y * columns + cell_x).flatten(),
                reduction="none",
            )
            auxiliary = auxiliary + (entropy * weights.flatten()).sum() / counted / len(maps)
    return coordinate, auxiliary_weight * auxiliary
