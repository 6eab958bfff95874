"""RTMDet's label assignment and losses.

Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors" (2022), section
3.3: cells are given to boxes by a cost of soft classification, overlap and distance to the centre,
as many a box as its best 13 overlaps add up to (Ge et al., "YOLOX", 2021, SimOTA). The classes are
trained by quality focal loss (Li et al., "Generalized Focal Loss", 2020), the sides by generalised
IoU (Rezatofighi et al., 2019). One class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CANDIDATES = 13
CENTRE_RADIUS = 3.0
"""In strides; the centre's cost is 10 to the power of what lies beyond."""
IOU_WEIGHT = 3.0
GIOU_LOSS_WEIGHT = 2.0


@dataclass(frozen=True)
class Predictions:
    """All cells of all levels of a batch.

    `logits` (N, A) and `boxes_xyxy` (N, A, 4) in input px; `priors_xy` (A, 2) px, the cells'
    corners that distances are measured from, and `strides` (A,) px.
    """

    logits: Tensor
    boxes_xyxy: Tensor
    priors_xy: Tensor
    strides: Tensor


def gather_levels(outputs: Sequence[Tensor], strides: Sequence[int]) -> Predictions:
    """RTMDet's six maps as one row a cell; logits (N, 1, h, w), distances (N, 4, h, w) in px."""
    logits, distances, priors, cell_strides = [], [], [], []
    levels = len(strides)
    for level, stride in enumerate(strides):
        height, width = outputs[level].shape[2:]
        logits.append(outputs[level].flatten(1))
        distances.append(outputs[levels + level].flatten(2).transpose(1, 2))
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        priors.append(torch.stack((x, y), dim=-1).reshape(-1, 2) * float(stride))
        cell_strides.append(torch.full((height * width,), float(stride)))
    priors_xy = torch.cat(priors)
    sides = torch.cat(distances, dim=1)
    boxes = torch.cat((priors_xy - sides[..., :2], priors_xy + sides[..., 2:]), dim=-1)
    return Predictions(torch.cat(logits, dim=1), boxes, priors_xy, torch.cat(cell_strides))


def iou(a: Tensor, b: Tensor, *, generalised: bool = False) -> Tensor:
    """Intersection over union of boxes (..., 4) xyxy that broadcast; `generalised`: in (-1, 1].

    Boxes that a network has not learnt yet may be inside out: their area counts as 0.
    """
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(dim=-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(dim=-1)
    union = area_a + area_b - overlap
    ratio = overlap / union.clamp(min=1e-6)
    if not generalised:
        return ratio
    hull_low = torch.minimum(a[..., :2], b[..., :2])
    hull_high = torch.maximum(a[..., 2:], b[..., 2:])
    hull = (hull_high - hull_low).clamp(min=0).prod(dim=-1).clamp(min=1e-6)
    return ratio - (hull - union) / hull


@torch.no_grad()
def assign(
    logits: Tensor, boxes_xyxy: Tensor, priors_xy: Tensor, strides: Tensor, truth_xyxy: Tensor
) -> tuple[Tensor, Tensor]:
    """Which cells answer for which box, one image.

    Args:
        logits: (A,).
        boxes_xyxy: (A, 4) predicted.
        priors_xy: (A, 2) px.
        strides: (A,) px.
        truth_xyxy: (G, 4), G at least 1.

    Returns:
        Cells (P,) and their boxes (P,), indices into A and G. Each cell answers for one box and
        lies in it.
    """
    inside = (
        (priors_xy[:, None] > truth_xyxy[None, :, :2])
        & (priors_xy[:, None] < truth_xyxy[None, :, 2:])
    ).all(dim=-1)
    cells = inside.any(dim=1).nonzero().squeeze(1)
    if not len(cells):
        return cells, cells
    inside = inside[cells]
    overlaps = iou(boxes_xyxy[cells, None], truth_xyxy[None])
    centres = (truth_xyxy[:, :2] + truth_xyxy[:, 2:]) / 2
    distance = (priors_xy[cells, None] - centres[None]).norm(dim=-1) / strides[cells, None]
    score = logits[cells, None].expand_as(overlaps)
    entropy = functional.binary_cross_entropy_with_logits(score, overlaps, reduction="none")
    cost = (
        entropy * (overlaps - score.sigmoid()).square()
        - IOU_WEIGHT * (overlaps + 1e-7).log()
        + 10.0 ** (distance - CENTRE_RADIUS)
    )
    cost = cost.masked_fill(~inside, torch.inf)
    best = overlaps.masked_fill(~inside, 0).topk(min(CANDIDATES, len(cells)), dim=0).values
    counts = best.sum(dim=0).int().clamp(min=1)
    # A cell is taken where its rank for a box is below the box's count; of several the cheapest.
    rank = cost.argsort(dim=0).argsort(dim=0)
    taken = (rank < counts) & inside
    box = cost.masked_fill(~taken, torch.inf).argmin(dim=1)
    chosen = taken.any(dim=1)
    return cells[chosen], box[chosen]


def detection_loss(predictions: Predictions, truth_xyxy: Sequence[Tensor]) -> dict[str, Tensor]:
    """`class` and `box`, scalars per unit of assigned overlap.

    Args:
        predictions: a batch of N images.
        truth_xyxy: N tensors (G, 4) in input px, G may be 0.
    """
    logits = predictions.logits
    quality = torch.zeros_like(logits)
    losses, weights = [], []
    for image, truth in enumerate(truth_xyxy):
        if not len(truth):
            continue
        boxes = predictions.boxes_xyxy[image]
        cells, owner = assign(
            logits[image], boxes, predictions.priors_xy, predictions.strides, truth
        )
        overlap = iou(boxes[cells].detach(), truth[owner])
        quality[image, cells] = overlap
        losses.append(1 - iou(boxes[cells], truth[owner], generalised=True))
        weights.append(overlap)
    error = (quality - logits.sigmoid()).square().detach()
    entropy = functional.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    total = quality.sum().clamp(min=1.0)
    box = logits.new_zeros(())
    if losses:
        weight = torch.cat(weights)
        # A start from nothing has no overlap yet, and still must learn where the sides are.
        weight = weight.clamp(min=0.1)
        box = GIOU_LOSS_WEIGHT * (torch.cat(losses) * weight).sum() / weight.sum().clamp(min=1.0)
    return {"class": (entropy * error).sum() / total, "box": box}
