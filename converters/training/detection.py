"""RTMDet as a training objective: its assignment and losses, scored by average precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from converters.architectures.rtmdet import OUTPUT_NAMES, STRIDES, RTMDet
from converters.graph.recognise import BGR_MEAN, BGR_STD
from converters.training.detection_loss import detection_loss, gather_levels
from converters.training.loop import Dataset
from edge.codecs import BOX_CODECS
from edge.spec import ModelSpec, TensorSpec

Boxes = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class DetectionSettings:
    """What the losses depend on: nothing that a run would change."""


def initialise(model: RTMDet) -> None:
    """Start with boxes of eight strides and with scores of 0.01.

    The sides of RTMDet-nano are plain answers: from zero they would start as empty boxes, which
    overlap with nothing and teach nothing.
    """
    for level, _ in enumerate(STRIDES):
        nn.init.normal_(model.bbox_head.rtm_cls[level].weight, std=0.01)
        nn.init.normal_(model.bbox_head.rtm_reg[level].weight, std=0.01)
        nn.init.constant_(model.bbox_head.rtm_cls[level].bias, -4.6)
        nn.init.constant_(model.bbox_head.rtm_reg[level].bias, 4.0)


class DetectionObjective:
    """RTMDet's losses on pictures with boxes (M, 5): x1, y1, x2, y2 in input px, 1 or 0 (none).

    `score` gets the boxes of every held-out picture, (G, 4), and the answers, (M, 5) with a score.
    """

    def __init__(
        self,
        held_out: Dataset | None = None,
        score: Callable[[Sequence[Boxes], Sequence[Boxes]], Any] | None = None,
    ) -> None:
        self.settings = DetectionSettings()
        self._held_out, self._score = held_out, score

    def attach(self, model: RTMDet) -> nn.Module:  # noqa: ARG002
        """Nothing is trained along."""
        return nn.Module()

    def detach(self) -> None:
        """Nothing was attached."""

    def losses(
        self,
        model: RTMDet,
        images: Tensor,
        targets: Tensor,
        done: float,  # noqa: ARG002
        bf16: bool,
    ) -> dict[str, Tensor]:
        """`class` and `box` of a batch."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = [output.float() for output in model(images)]
        truth = [boxes[boxes[:, 4] > 0, :4] for boxes in targets]
        return detection_loss(gather_levels(outputs, STRIDES), truth)

    def evaluate(self, model: RTMDet, batch: int = 20) -> Any:
        """What `score` says of the held-out pictures, which the codec of the device decodes."""
        if self._held_out is None or self._score is None:
            return None
        truth, answers = [], []
        for start in range(0, len(self._held_out), batch):
            stop = min(start + batch, len(self._held_out))
            images, targets = default_collate([self._held_out[i] for i in range(start, stop)])
            with torch.no_grad():
                outputs = model(images.contiguous(memory_format=torch.channels_last))
            arrays = dict(zip(OUTPUT_NAMES, (output.numpy() for output in outputs), strict=True))
            spec = _decoding(outputs, tuple(images.shape[2:]))
            answers += [boxes for boxes, _ in BOX_CODECS["rtmdet"](arrays, spec)]
            truth += [boxes[boxes[:, 4] > 0, :4].numpy() for boxes in targets]
        return self._score(truth, answers)


def _decoding(outputs: Sequence[Tensor], input_hw: tuple[int, ...]) -> ModelSpec:
    """What the device's codec needs to know of the outputs."""
    return ModelSpec(
        name="rtmdet",
        task="detection",
        codec="rtmdet",
        input=TensorSpec("input", (None, 3, *input_hw)),
        outputs=tuple(
            TensorSpec(name, (None, *output.shape[1:]))
            for name, output in zip(OUTPUT_NAMES, outputs, strict=True)
        ),
        color_order="bgr",
        mean=BGR_MEAN,
        std=BGR_STD,
        strides=STRIDES,
    )
