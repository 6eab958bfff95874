"""Was the accuracy kept? A quantised artifact against the FP32 reference on the same pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from edge.errors import AccuracyError
from edge.session import Session

__all__ = ["MIN_IMAGES", "AccuracyCheck", "AccuracyReport", "Score", "judge_accuracy"]

# Fewer say little about a loss of one point: one answer among 500 is 0.2 of a point.
MIN_IMAGES = 500
# Who finds next to nothing has nothing to lose: such a pass would mean nothing.
MIN_REFERENCE = 0.1


class Score(Protocol):
    """How good a session's answers are: ``value`` from 0 to 1 of a named metric."""

    @property
    def metric(self) -> str:
        """For example ``AP`` or ``PCK@0.05``."""
        ...

    @property
    def value(self) -> float:
        """The figure, from 0 to 1."""
        ...

    @property
    def images(self) -> int:
        """How many pictures it was measured on."""
        ...


@dataclass(frozen=True)
class AccuracyCheck:
    """The data that accuracy is measured on, how, and how many points may be lost."""

    text: str
    max_loss_points: float
    score: Callable[[Session], Score]


@dataclass(frozen=True)
class AccuracyReport:
    """The accuracy of an artifact beside its FP32 reference's; a point is 0.01 of the metric."""

    metric: str
    value: float
    reference: float
    max_loss_points: float
    images: int
    data: str
    inference_precision: str

    @property
    def loss_points(self) -> float:
        """Points lost; negative where the artifact is better."""
        return 100.0 * (self.reference - self.value)

    @property
    def passed(self) -> bool:
        """Whether there was something to lose, and no more was lost than may be."""
        return self.reference >= MIN_REFERENCE and self.loss_points <= self.max_loss_points

    def summary(self) -> str:
        """The verdict on one line."""
        few = f", fewer than {MIN_IMAGES}" if self.images < MIN_IMAGES else ""
        return (
            f"{'pass' if self.passed else 'FAIL'}: {self.metric} {self.value:.4f}, fp32 "
            f"{self.reference:.4f}: {self.loss_points:+.2f} points lost (limit "
            f"{self.max_loss_points:g}; {self.images} images{few})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``artifact.json``."""
        return {
            "passed": self.passed,
            "summary": self.summary(),
            **asdict(self),
            "loss_points": self.loss_points,
        }

    def raise_if_failed(self) -> None:
        """Raise AccuracyError with the figures and what to do."""
        if self.reference < MIN_REFERENCE:
            raise AccuracyError(
                f"the reference itself has {self.metric} {self.reference:.4f} on {self.data}, "
                "which says nothing of a loss: give pictures that suit the model with --eval-data "
                "FILE.json --eval-images DIR"
            )
        if not self.passed:
            raise AccuracyError(
                f"{self.metric} fell from {self.reference:.4f} to {self.value:.4f}, "
                f"{self.loss_points:.2f} points (limit {self.max_loss_points:g}): take the mixed "
                "variant, let `edge sensitivity` find what must stay float, calibrate with real "
                "images (--calib DIR), or allow more with --max-loss"
            )


def judge_accuracy(session: Session, reference: Score, check: AccuracyCheck) -> AccuracyReport:
    """Score a session and set it beside the reference's score on the same data."""
    score = check.score(session)
    return AccuracyReport(
        metric=score.metric,
        value=score.value,
        reference=reference.value,
        max_loss_points=check.max_loss_points,
        images=score.images,
        data=check.text,
        inference_precision=session.inference_precision,
    )
