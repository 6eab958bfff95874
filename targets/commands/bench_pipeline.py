"""``edge bench --pipeline``: pictures to people on a device, compared with the Python runtime.

The reference is this package's own letterbox, crops and codecs around the same networks on the
same device, in the same arithmetic. So only what the native runner does around them can differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from calibration.data.images import PARITY_SEED, folder_images
from calibration.people.synthetic import scene
from converters.parity.boxes import BoxJudge, Found
from converters.parity.judges import KeypointJudge
from converters.parity.limits import LIMITS, Limits
from edge.classes import find_labels
from edge.codecs import KEYPOINT_CODECS, KEYPOINT_SHORTFALLS
from edge.detector import Detector
from edge.errors import DeviceError, SpecError
from edge.media.inputs import tell
from edge.pipeline import Pose
from edge.pose import pose_feeds
from targets.result import ParityRecord
from targets.runners.native.pipeline import NativePipeline
from targets.runners.native.session import NativeSession

__all__ = ["Sight", "compare_pipeline", "picture_of", "pictures"]

Image = npt.NDArray[np.uint8]

# As many as the networks alone are compared on: each is some processes on the device.
_PICTURES = 4
# In floats both sides round alike but for the order of a sum. Boxes in image pixels.
_BOX_PX = 0.01


@dataclass(frozen=True)
class Sight:
    """A picture (H, W, 3) uint8 BGR and who the device sees in it."""

    name: str
    image_bgr: Image
    people: tuple[Pose, ...]


def pictures(folder: Path | None, people: int) -> list[tuple[str, Image]]:
    """Pictures of a folder, or rendered scenes of so many people, by name."""
    if folder is not None:
        return [(one.name, one.image_bgr) for one in folder_images(folder, tell)[:_PICTURES]]
    return [
        (
            f"synthetic {PARITY_SEED}/{index}",
            scene(PARITY_SEED, index, people=(people, people), variety=0.0).image_bgr,
        )
        for index in range(_PICTURES)
    ]


def compare_pipeline(
    pipeline: NativePipeline, images: Sequence[tuple[str, Image]]
) -> tuple[list[Sight], ParityRecord]:
    """Who the runner sees in the pictures, and whether the Python runtime sees the same.

    In floats to 0.01 px (image pixels of boxes, input pixels of keypoints), in other arithmetic
    within what the networks' own gate allows for fp16. Raises DeviceError where a run fails.
    """
    assert pipeline.detector is not None
    found = pipeline.find([image for _, image in images])
    exact = {pipeline.pose.inference_precision, pipeline.detector.inference_precision} == {"fp32"}
    limits = Limits(0.99999, 0.01, 0.01, 0.001, 0.999, 0.001) if exact else LIMITS["fp16"]
    labels = find_labels(pipeline.classes, pipeline.detector.spec)
    detector = Detector(pipeline.detector, score_threshold=pipeline.score_threshold, label=labels)
    boxes_judge, judge = BoxJudge(limits), KeypointJudge(limits)
    failures: list[str] = []
    for (name, image), people in zip(images, found, strict=True):
        boxes = detector(image)
        scored = np.concatenate([boxes.boxes_xyxy, boxes.scores[:, None]], axis=1)
        pairs = boxes_judge.compare(
            name,
            # The runner tells of people, not of classes.
            Found(scored, np.zeros(len(boxes), np.int64)),
            Found(_boxes(people), np.zeros(len(people), np.int64)),
        )
        for number, best in pairs:
            box = boxes.boxes_xyxy[number]
            off = float(np.abs(box - people[best].box_xyxy).max())
            if exact and not off <= _BOX_PX:
                failures.append(f"a box of {name} is {off:.3f} px off (limit {_BOX_PX:g})")
            _compare_person(judge, name, pipeline.pose, image, box, people[best])
    failures += boxes_judge.failures + judge.failures
    sights = [Sight(*one, tuple(people)) for one, people in zip(images, found, strict=True)]
    boxes_told, told = boxes_judge.summary(), judge.summary()
    text = (
        f"whole pipeline: {'FAIL' if failures else 'pass'}, {boxes_told['boxes']:.0f} boxes, "
        f"{told['keypoints']:.0f} keypoints {told['max_px']:.2g} px off at most"
    )
    if failures:
        text += f"; {failures[0]}" + (f", and {len(failures) - 1} more" if failures[1:] else "")
    return sights, ParityRecord(not failures, text)


def picture_of(sights: Sequence[Sight], people: int) -> Sight:
    """The picture to time: the first one with as many people. SpecError where there is none."""
    for sight in sights:
        if len(sight.people) >= people:
            return sight
    most = max((len(sight.people) for sight in sights), default=0)
    raise SpecError(
        f"the detector finds {most} people at most in the pictures, not {people}: name a folder of "
        "others with --images, ask for fewer with --people, or add --networks-alone"
    )


def _compare_person(
    judge: KeypointJudge,
    name: str,
    session: NativeSession,
    image: Image,
    box: npt.NDArray[np.float32],
    person: Pose,
) -> None:
    """Keypoints of one box in input pixels, as the networks' own gate has them."""
    spec = session.spec
    feeds, (placement,) = pose_feeds(spec, image, box[None])
    outputs = session.run(feeds)
    reference = KEYPOINT_CODECS[spec.codec](outputs, spec)[0].astype(np.float64)
    answer = person.keypoints.astype(np.float64)
    answer[:, :2] = (answer[:, :2] - placement.offset_xy) / placement.scale_xy
    if not np.isfinite(answer).all():
        raise DeviceError(
            f"{session.machine}: a person of {name} has keypoints that are no numbers"
        )
    points = answer[None, :, :2].astype(np.float32)
    shortfall = KEYPOINT_SHORTFALLS[spec.codec](outputs, spec, points)[0]
    judge.compare(name, spec.keypoints.keypoints, reference, answer, shortfall)


def _boxes(people: Sequence[Pose]) -> npt.NDArray[np.float32]:
    rows = [np.append(one.box_xyxy, np.float32(one.box_score)) for one in people]
    return np.array(rows, np.float32).reshape(-1, 5)
