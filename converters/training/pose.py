"""RTMPose as a training objective: SimCC losses, an auxiliary one, and PCK.

Loss and codec are those of the official recipe (SimCC targets, Kullback-Leibler divergence with
beta 10 and label softmax). Two things differ because a run is short: the attention starts small,
and an auxiliary loss first teaches the coarse maps of two stages where each keypoint is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from converters.architectures.rtmpose import SIMCC_SPLIT_RATIO, RTMPose
from converters.training.loop import Dataset
from converters.training.simcc_loss import pose_loss

BOX_PADDING = 1.25
"""A crop holds the box times this, so an aspect-fixed box has the long side H / 1.25 px."""


@dataclass(frozen=True)
class PoseSettings:
    """What the losses depend on."""

    auxiliary_weight: float = 3.0
    auxiliary_fraction: float = 0.8
    """Of the budget; the auxiliary weight falls linearly to zero until then."""
    sigma_bins: tuple[float, float] = (4.9, 5.66)
    """Deviation of the target Gaussians along x and y, in bins (half pixels)."""
    beta: float = 10.0


@dataclass(frozen=True)
class PoseScores:
    """PCK: the fraction of keypoints within 5 % and 10 % of the box's long side; mean error."""

    pck_05: float
    pck_10: float
    mean_px: float
    keypoints: int

    def __str__(self) -> str:
        return (
            f"PCK@0.05 {self.pck_05:.4f}, PCK@0.1 {self.pck_10:.4f}, mean {self.mean_px:.2f} px "
            f"({self.keypoints} keypoints)"
        )


def initialise(model: RTMPose) -> None:
    """Start the head so that the coordinate losses are felt at once.

    Uniform(0, 1) gamma and beta, the layers' defaults, make the squared attention large and the
    same for every keypoint: training then sits on a plateau for tens of thousands of samples.
    Near zero it is dead, because the gradient of a square vanishes there with the scores. In
    between, with gamma ~ N(0.3, 0.05) and beta 0, the scores of unit-norm inputs are about 0.1
    and all 17 keypoints together add about a quarter of v. With cls_x, cls_y ~ N(0, 0.01) the
    logits, which the loss multiplies by beta = 10, start near zero.
    """
    nn.init.normal_(model.head.gau.gamma, mean=0.3, std=0.05)
    nn.init.zeros_(model.head.gau.beta)
    nn.init.normal_(model.head.cls_x.weight, std=0.01)
    nn.init.normal_(model.head.cls_y.weight, std=0.01)


def auxiliary_weight_at(progress: float, settings: PoseSettings) -> float:
    """The auxiliary loss's weight after the fraction `progress` of the budget."""
    if settings.auxiliary_fraction <= 0:
        return 0.0
    return settings.auxiliary_weight * max(0.0, 1 - progress / settings.auxiliary_fraction)


def evaluate(model: RTMPose, dataset: Dataset, batch: int = 32) -> PoseScores:
    """PCK@0.05, PCK@0.1 and mean error in crop px over the keypoints with visibility > 0.

    Decodes as the device does (first argmax of each axis over 2), in float32, in eval mode.
    Distances are over the long side of an aspect-fixed box, H / 1.25 px.
    """
    was_training = model.training
    model.eval()
    box_px = model.input_hw[0] / BOX_PADDING
    errors = []
    with torch.no_grad():
        for start in range(0, len(dataset), batch):
            stop = min(start + batch, len(dataset))
            images, keypoints = default_collate([dataset[i] for i in range(start, stop)])
            images = images.contiguous(memory_format=torch.channels_last)
            found = torch.stack([axis.argmax(dim=-1) for axis in model(images)], dim=-1)
            gaps = found / SIMCC_SPLIT_RATIO - keypoints[..., :2]
            distances = torch.linalg.vector_norm(gaps, dim=-1)
            errors.append(distances[keypoints[..., 2] > 0])
    model.train(was_training)
    all_px = torch.cat(errors)
    if not len(all_px):
        raise ValueError("the data set has no visible keypoint")
    return PoseScores(
        pck_05=float((all_px < 0.05 * box_px).float().mean()),
        pck_10=float((all_px < 0.1 * box_px).float().mean()),
        mean_px=float(all_px.mean()),
        keypoints=len(all_px),
    )


class FineMaps(nn.Module):
    """Keypoint maps of the third stage, (N, K, H / 16, W / 16), for the auxiliary loss.

    Supervision in the middle of the network: the early layers learn where keypoints are from a
    loss three blocks away, at twice the head's resolution. It belongs to the training, not to
    the model: `detach` leaves that as it was.
    """

    def __init__(self, model: RTMPose) -> None:
        super().__init__()
        channels = model.backbone.stage3[0].conv.out_channels
        self.conv = nn.Conv2d(channels, model.head.final_layer.out_channels, 3, padding=1)
        self.features: Tensor | None = None
        hook = model.backbone.stage3.register_forward_hook(self._keep)
        self.detach: Callable[[], None] = hook.remove

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:  # noqa: ARG002
        self.features = output

    def forward(self) -> Tensor:
        """The maps of the images that the model saw last; each can be had once."""
        features, self.features = self.features, None
        return self.conv(features)


class PoseObjective:
    """SimCC losses on crops with keypoints (K, 3): x, y in px and visibility; scored by PCK."""

    def __init__(self, settings: PoseSettings, held_out: Dataset | None = None) -> None:
        self.settings, self._held_out = settings, held_out
        self._fine_maps: FineMaps | None = None

    def attach(self, model: RTMPose) -> nn.Module:
        """The auxiliary maps of the third stage."""
        self._fine_maps = FineMaps(model)
        return self._fine_maps

    def detach(self) -> None:
        """Take the auxiliary maps off the model."""
        if self._fine_maps is not None:
            self._fine_maps.detach()

    def losses(
        self, model: RTMPose, images: Tensor, targets: Tensor, done: float, bf16: bool
    ) -> dict[str, Tensor]:
        """`loss` and `auxiliary` of a batch, in nats per keypoint."""
        settings = self.settings
        weight = auxiliary_weight_at(done, settings)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            maps = [model.keypoint_maps(images).float()]
            if weight and self._fine_maps is not None:
                maps.append(self._fine_maps().float())
        # The head stays in float32: its norms and squared scores lose too much in bfloat16.
        simcc = model.head.coordinates(maps[0])
        coordinate, auxiliary = pose_loss(
            simcc, maps, targets, settings.sigma_bins, settings.beta, weight
        )
        return {"loss": coordinate, "auxiliary": auxiliary}

    def evaluate(self, model: RTMPose) -> PoseScores | None:
        """PCK of the held-out crops."""
        return None if self._held_out is None else evaluate(model, self._held_out)
