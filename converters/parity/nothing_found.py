"""What to say where the reference finds nothing: what it did find, and what that looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from converters.parity.limits import KEPT_BOX_SCORE, KEPT_KEYPOINT_SCORE
from edge.codecs import BOX_CODECS, KEYPOINT_CODECS, POSE_CODECS
from edge.session import Array
from edge.spec import ModelSpec

__all__ = ["NothingFound"]

# Sums of a distribution in half floats are this far from 1.
_SUM = 0.02


class NothingFound:
    """The largest score of the reference over the images, and whether it comes out of a softmax."""

    def __init__(self) -> None:
        self._largest: float | None = None
        self._softmax = True

    def add(self, spec: ModelSpec, outputs: Mapping[str, Array]) -> None:
        """Take in the reference's outputs for one image."""
        scores = _scores(spec, outputs)
        if scores.size:
            best = float(scores.max())
            self._largest = best if self._largest is None else max(best, self._largest)
        self._softmax &= _sums_to_one(spec, outputs)

    def text(self, spec: ModelSpec, images: str) -> str:
        """One line: what was found in the images, what it may be and what to do."""
        kind = "keypoint" if spec.task == "pose" else "box"
        least = KEPT_KEYPOINT_SCORE if spec.task == "pose" else KEPT_BOX_SCORE
        text = f"the reference finds nothing in {images}: "
        if self._largest is None:
            return (
                f"{text}no {kind} at all, so that there is no answer to compare; give pictures "
                "that suit the model with --images DIR, or check its mean, std and channel order"
            )
        text += f"its largest {kind} score is {self._largest:.2g}, and {least:g} is asked"
        if self._softmax:
            return (
                f"{text}. Its outputs sum to 1 as behind a softmax, which leaves the places and "
                "makes all scores small: export the model without it"
            )
        return (
            f"{text}, so that there is no answer to compare; give pictures that suit the model "
            "with --images DIR; if these do, its mean, std or channel order are others (--spec)"
        )


def _scores(spec: ModelSpec, outputs: Mapping[str, Array]) -> Array:
    if spec.task == "pose":
        return np.asarray(KEYPOINT_CODECS[spec.codec](outputs, spec)[..., 2])
    anything = replace(spec, score_threshold=0.0, max_boxes=1)
    codecs = BOX_CODECS if spec.task == "detection" else POSE_CODECS
    return np.asarray(codecs[spec.codec](outputs, anything)[0][0][:, 4])


def _sums_to_one(spec: ModelSpec, outputs: Mapping[str, Array]) -> bool:
    """Whether each point's map or distribution is one of probabilities."""
    if spec.task != "pose":
        return False
    axes = -1 if spec.codec == "simcc" else (-2, -1)
    values = [outputs[tensor.name].astype(np.float64) for tensor in spec.outputs]
    return all(
        bool((value >= 0).all() and (np.abs(value.sum(axis=axes) - 1) < _SUM).all())
        for value in values
    )
