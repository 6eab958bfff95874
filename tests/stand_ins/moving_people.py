"""A video of bright rectangles for people, and networks that see exactly these.

Where everybody is, is known in closed form; the networks look at their input's pixels alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.session import Array, Feeds, Session
from edge.spec import ModelSpec, TensorSpec
from tests.stand_ins.specs import detector_spec, finished_poses_spec, pose_spec

Image = npt.NDArray[np.uint8]
PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class PixelSession(Session):
    """A network made of a function from its input batch to its outputs; it counts its calls."""

    engine = "pixels"
    inference_precision = "fp32"

    def __init__(
        self,
        spec: ModelSpec,
        answer: Callable[[Array], Sequence[Array]],
        max_batch: int | None = None,
    ) -> None:
        self.spec = spec
        self.answer = answer
        self.max_batch = max_batch
        self.batch_sizes: list[int] = []

    def run(self, feeds: Feeds) -> dict[str, Array]:
        (batch,) = feeds.values()
        self.batch_sizes.append(len(batch))
        names = [tensor.name for tensor in self.spec.outputs]
        return dict(zip(names, self.answer(batch), strict=True))

    def close(self) -> None: ...


def picture(boxes_xywh: Sequence[tuple[int, int, int, int]], image_hw: tuple[int, int]) -> Image:
    """Rectangles on black, (H, W, 3)."""
    image = np.zeros((*image_hw, 3), np.uint8)
    for x, y, width, height in boxes_xywh:
        image[y : y + height, x : x + width] = 250
    return image


def walking(frame: int) -> list[tuple[int, int, int, int]]:
    """Two people of 24 x 60 px, one to the right and one to the left, who do not meet."""
    return [(20 + 3 * frame, 30, 24, 60), (260 - 3 * frame, 130, 24, 60)]


def write_video(path: Path, frames: Sequence[Image], *, code: str = "mp4v", fps: int = 25) -> Path:
    import cv2

    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def walk(path: Path, count: int = 20, **how: Any) -> Path:
    """A video of 240 x 320 px with two people."""
    return write_video(path, [picture(walking(i), (240, 320)) for i in range(count)], **how)


def read_frames(path: Path) -> list[Image]:
    import cv2

    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        done, frame = capture.read()
        if not done:
            break
        frames.append(frame)
    capture.release()
    return frames


def detector_session() -> PixelSession:
    outputs = (TensorSpec("dets", (1, None, 5)), TensorSpec("labels", (1, None), "int64"))
    spec = detector_spec(codec="detections", outputs=outputs, strides=(), pad_value=0, **PLAIN)

    def answer(batch: Array) -> list[Array]:
        found = _rectangles(batch[0])
        dets = np.column_stack([found, np.full(len(found), 0.9)]).astype(np.float32)
        return [dets[None], np.zeros((1, len(found)), np.int64)]

    return PixelSession(spec, answer)


def pose_session(max_batch: int | None = None) -> PixelSession:
    """17 keypoints from the top left to the bottom right of the rectangle in the middle."""

    def answer(batch: Array) -> list[Array]:
        x = np.zeros((len(batch), 17, 384), np.float32)
        y = np.zeros((len(batch), 17, 512), np.float32)
        middle = np.array([96, 128])
        for n, image in enumerate(batch):
            found = _rectangles(image)
            if not len(found):
                continue
            distance = np.abs((found[:, :2] + found[:, 2:]) / 2 - middle).sum(axis=1)
            corners = found[distance.argmin()]
            points = np.rint(2 * np.linspace(corners[:2], corners[2:] - 1, 17)).astype(int)
            x[n, np.arange(17), points[:, 0]] = 0.9
            y[n, np.arange(17), points[:, 1]] = 0.9
        return [x, y]

    return PixelSession(pose_spec(**PLAIN), answer, max_batch)


def one_stage_session() -> PixelSession:
    """Five keypoints from the top left to the bottom right of each rectangle."""
    spec = finished_poses_spec(**PLAIN, pad_value=0)

    def answer(batch: Array) -> list[Array]:
        found = _rectangles(batch[0])
        dets = np.column_stack([found, np.full(len(found), 0.8)]).astype(np.float32)
        points = np.zeros((len(found), 5, 3), np.float32)
        for n, corners in enumerate(found):
            points[n, :, :2] = np.linspace(corners[:2], corners[2:], 5)
        points[..., 2] = 0.9
        return [dets[None], points[None]]

    return PixelSession(spec, answer)


def _rectangles(chw: Array) -> npt.NDArray[np.float64]:
    """Corners (N, 4) of the bright rectangles, from left to right."""
    import cv2

    bright = (chw.mean(axis=0) > 125).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(bright)
    corners = [(x, y, x + w, y + h) for x, y, w, h, area in stats[1:] if area >= 4]
    return np.array(sorted(corners), np.float64).reshape(-1, 4)
