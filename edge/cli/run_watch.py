"""A tracker that can say why it has kept nobody."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge.tracking.tracker import PoseTracker, TrackedPose

__all__ = ["WatchedTracker"]


class WatchedTracker(PoseTracker):
    """The people of one video, and how near those came who were never counted as people."""

    found_count = 0
    """People whom a detector or one-stage model has found so far."""
    _kept = False
    _best = 0.0

    def update(
        self, keypoints: npt.ArrayLike, *, image_hw: tuple[int, int] | None = None
    ) -> list[TrackedPose]:
        """End the frame, as every tracker does."""
        tracked = super().update(keypoints, image_hw=image_hw)
        self._kept |= bool(tracked)
        poses: npt.NDArray[Any] = np.asarray(keypoints)
        if len(poses) and not self._kept:
            self.found_count += len(poses)
            least = self._least_keypoints(poses.shape[1])
            # The score that as many keypoints have as are asked for.
            scores = np.sort(np.nan_to_num(poses[..., 2], nan=0.0), axis=1)[:, -max(1, least)]
            self._best = max(self._best, float(scores.max()))
        return tracked

    @property
    def why_nobody(self) -> str:
        """Why nobody was kept of those who were found; empty where somebody was."""
        if self._kept or not self.found_count:
            return ""
        asked = self.params.pose_kpt_thr
        found = f"people were found {self.found_count} times, and nobody was kept"
        if self._best >= asked:
            return f"{found}: their keypoints have no width or no height; --no-track keeps them"
        # Rounded down, for what is named has to do.
        best = int(self._best * 100) / 100
        lower = f"--keypoint-score {best:g} keeps somebody, " if best > 0 else ""
        return (
            f"{found}: half of the keypoints must score {asked:g}, and of the best half scored "
            f"{self._best:.2f} only; {lower}--no-track all"
        )
