"""The flip test: a pose session that also looks at the mirrored crop and averages both.

Formula: mmpose ``models/utils/tta.py`` (``flip_vectors``, ``flip_heatmaps``) as the heads use it:
raw outputs are averaged, decoding comes after.
"""

from __future__ import annotations

import numpy as np

from edge.errors import SpecError
from edge.session import Array, Feeds, Session

__all__ = ["MirrorAveraged"]


class MirrorAveraged(Session):
    """A pose session whose outputs are the mean of those for a crop and for its mirror image.

    Left and right keypoints change places, SimCC's x bins and the columns of heatmaps run
    backwards. Heatmaps are moved by one cell where the official configurations do so: cells of a
    crop that is not the unbiased one (UDP) begin at its pixels 0, 4, 8 ..., and from the
    mirrored side at 3, 7, 11 .... Closing it closes the session.

    Raises SpecError for a model that is no pose model, and for keypoints of which nobody said what
    mirrors what.
    """

    def __init__(self, session: Session) -> None:
        spec = session.spec
        if spec.task != "pose":
            raise SpecError(
                f"{spec.name} is a {spec.task} model: the flip test belongs to pose models that "
                "see one person's crop; leave --flip out"
            )
        names = spec.keypoints
        if names.name.startswith("unnamed-"):
            raise SpecError(
                f"{spec.name} has {len(names.keypoints)} unnamed keypoints: the flip test must "
                "know left from right; give their keypoint_set in a spec"
            )
        self._session = session
        self.spec = spec
        self.engine = session.engine
        self.inference_precision = session.inference_precision
        self.max_batch = session.max_batch
        self._swapped = np.arange(len(names.keypoints))
        for left, right in names.flip_pairs:
            self._swapped[[left, right]] = right, left

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """The averaged outputs; two runs of the session."""
        outputs = self._session.run(feeds)
        mirrored = self._session.run(
            {name: np.ascontiguousarray(batch[..., ::-1]) for name, batch in feeds.items()}
        )
        for index, tensor in enumerate(self.spec.outputs):
            other = mirrored[tensor.name][:, self._swapped]
            if self.spec.codec == "heatmap":
                other = other[..., ::-1].copy()
                if not self.spec.udp and self.spec.heatmap_refinement != "megvii":
                    other[..., 1:] = other[..., :-1].copy()
            elif index == 0:  # simcc_x
                other = other[..., ::-1]
            outputs[tensor.name] = (outputs[tensor.name] + other) * np.float32(0.5)
        return outputs

    def close(self) -> None:
        """Close the session behind it."""
        self._session.close()
