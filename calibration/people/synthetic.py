"""Seeded pictures of people with exact COCO keypoints: the embedded data set.

`scene` and `crop_scene` make a picture from a seed and an index alone, so that a data set is two
numbers; `coco_annotations` writes the truth as COCO's evaluation tools read it. See
`figures` for how people are drawn and `backgrounds` for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.people.backgrounds import background, camera_effects, occluder
from calibration.people.figures import Figure, render
from calibration.people.postures import posed_body
from calibration.people.skeleton import Body
from edge.spec import KEYPOINT_SETS

__all__ = ["Person", "Scene", "coco_annotations", "crop_scene", "scene"]

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Person:
    """One annotated person.

    `keypoints_xyv` (17, 3) float32 in COCO's order: x px, y px and visibility, 0 outside the image
    (then x = y = 0), 1 hidden, 2 seen. `box_xyxy` (4,) float32 px: tight about the drawn person,
    hidden parts included, clipped to the image. `area_px`: the silhouette inside the image.
    """

    keypoints_xyv: F32
    box_xyxy: F32
    area_px: float


@dataclass(frozen=True)
class Scene:
    """A picture, (H, W, 3) uint8 in blue, green, red, and its people, nearest last."""

    image_bgr: NDArray[np.uint8]
    people: tuple[Person, ...]


def _generator(seed: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, index, purpose]))


def _light(rng: np.random.Generator) -> tuple[float, float, float]:
    """A unit vector towards the lamp in camera axes: mostly from above, never from behind."""
    x, y, z = rng.random() * 2 - 1, 0.25 - 1.25 * rng.random(), -(0.15 + 0.85 * rng.random())
    size = math.sqrt(x * x + y * y + z * z)
    return x / size, y / size, z / size


def _extent(body: Body, distance: float) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the body in units of focal length, about its pelvis."""
    h = body.size["height"]
    head = body.coco_xyz[3:5].mean(axis=0)
    crown = body.frames[4][:, 1] * body.size["head"]
    feet = body.joints[15:17] + body.frames[15:17, :, 2] * (0.7 * body.size["foot"])
    hands = body.joints[9:11] - body.frames[9:11, :, 1] * (0.8 * body.size["hand"])
    points = np.concatenate([body.joints[5:], feet, hands, [head + crown, head - crown]])
    thick = np.full(len(points), 0.02 * h)
    thick[0:2], thick[6:8] = 0.03 * h, 0.075 * h
    thick[-2:] = 0.5 * body.size["head"]
    depth = np.maximum(points[:, 2] + distance, 0.25)
    low = ((points[:, :2] - thick[:, None]) / depth[:, None]).min(axis=0)
    high = ((points[:, :2] + thick[:, None]) / depth[:, None]).max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _paste(image: NDArray[np.uint8], figure: Figure) -> None:
    x, y = figure.origin_xy
    height, width = figure.mask.shape
    window = image[y : y + height, x : x + width]
    cv2.copyTo(figure.colour_bgr, figure.mask.view(np.uint8), window)


def _person(figure: Figure, covers: list[Mask], image_hw: tuple[int, int]) -> Person:
    """The truth about a figure; `covers` are full-size masks of whatever lies in front."""
    height, width = image_hw
    xy = figure.keypoints_xy
    inside = (xy[:, 0] >= 0) & (xy[:, 0] <= width - 1) & (xy[:, 1] >= 0) & (xy[:, 1] <= height - 1)
    hidden = figure.hidden.copy()
    x, y = np.rint(np.clip(xy, 0, (width - 1, height - 1))).astype(int).T
    for cover in covers:
        hidden |= cover[y, x]
    visibility = np.where(hidden, 1.0, 2.0) * inside
    keypoints = np.concatenate([xy * inside[:, None], visibility[:, None]], axis=1)
    left, top = figure.origin_xy
    rows, columns = figure.mask.shape
    return Person(
        keypoints.astype(np.float32),
        np.array([left, top, left + columns, top + rows], np.float32),
        float(np.count_nonzero(figure.mask)),
    )


def _check_size(image_hw: tuple[int, int]) -> None:
    if min(image_hw) < 32:
        raise ValueError(f"image_hw is {image_hw}: both sides must be 32 px or more")


def _check_variety(variety: float) -> None:
    if not 0 <= variety <= 1:
        raise ValueError(f"variety is {variety}: give 0 (calm) to 1 (everything)")


def crop_scene(
    seed: int, index: int, *, image_hw: tuple[int, int] = (320, 256), variety: float = 1.0
) -> Scene:
    """A picture of one annotated person who fills most of it, for a pose model.

    In about one in six the picture is a close-up that cuts the person off; in about one in five
    a second person, not annotated, is partly in the picture, behind. `variety` from 0 to 1 makes
    all that is hard rarer in proportion: these two, things in front, unusual postures and views,
    camera faults; limbs also move less. The same arguments give the same picture. Raises
    ValueError for sides under 32 px and a variety outside of 0 to 1.
    """
    _check_size(image_hw)
    _check_variety(variety)
    rng = _generator(seed, index, 1)
    height, width = image_hw
    image = background(rng, image_hw)
    light = _light(rng)
    if rng.random() < 0.18 * variety:
        other = posed_body(rng)
        size = height * (0.4 + 0.7 * rng.random())
        distance = 3.0 + 4.0 * rng.random()
        x = width * (-0.15 + 1.3 * rng.random())
        y = height * (0.4 + 0.3 * rng.random())
        focal = size * distance / other.size["height"]
        behind = render(rng, other, image_hw, focal, (x, y), distance, light)
        if behind is not None:
            _paste(image, behind)
    figure = None
    while figure is None:
        body = posed_body(rng, variety=variety)
        distance = body.size["height"] * (1.1 + 4.0 * rng.random() ** 1.5)
        left, top, right, bottom = _extent(body, distance)
        spread_x, spread_y = right - left, bottom - top
        fill = 0.58 + 0.34 * rng.random()
        focal = fill * min(height / spread_y, width / spread_x)
        x = 0.5 * width - focal * 0.5 * (left + right)
        y = 0.5 * height - focal * 0.5 * (top + bottom)
        if rng.random() < 0.17 * variety:
            # A close-up on a stretch of the body, more often its upper end.
            zoom = 1.3 + 1.2 * rng.random()
            at = 0.5 * rng.random() if rng.random() < 0.75 else rng.random()
            focal *= zoom
            x = (0.35 + 0.3 * rng.random()) * width - focal * 0.5 * (left + right)
            y = 0.5 * height - focal * (top + (bottom - top) * (0.15 + 0.7 * at))
        else:
            x += (rng.random() - 0.5) * (width - focal * spread_x) * 0.8
            y += (rng.random() - 0.5) * (height - focal * spread_y) * 0.8
        figure = render(rng, body, image_hw, focal, (x, y), distance, light)
    _paste(image, figure)
    covers = []
    if rng.random() < 0.30 * variety:
        for _ in range(1 if rng.random() < 0.7 else 2):
            aim = figure.keypoints_xy[int(rng.random() * 17)]
            reach = height * (0.08 + 0.30 * rng.random())
            covers.append(occluder(image, rng, (float(aim[0]), float(aim[1])), reach))
    image = camera_effects(image, rng, variety)
    return Scene(image, (_person(figure, covers, image_hw),))


@dataclass(frozen=True)
class _Camera:
    """Where a scene is seen from: the horizon's y, the height over the floor, the lens."""

    horizon_y: float
    height_m: float
    focal_px: float
    roll_deg: float


def _place(
    rng: np.random.Generator, camera: _Camera, image_hw: tuple[int, int], distance: float,
    light: tuple[float, float, float], variety: float,
) -> Figure | None:  # fmt: skip
    """A random person on the floor `distance` metres off; None if hardly in the picture."""
    height, width = image_hw
    down = math.degrees(math.atan2(camera.height_m - 0.9, distance))
    body = posed_body(rng, camera_deg=(down, camera.roll_deg), variety=variety)
    left, top, right, bottom = (camera.focal_px * edge for edge in _extent(body, distance))
    floor_y = camera.horizon_y + camera.focal_px * camera.height_m / distance
    # Mostly whole people; some are cut off by the picture's sides.
    slack = width - (right - left)
    x = -left + slack * (-0.12 + 1.24 * rng.random() if slack > 0 else rng.random())
    # Somebody too close to show below the waist steps up on something.
    y = min(floor_y, height * (0.92 + 0.35 * rng.random())) - bottom
    figure = render(rng, body, image_hw, camera.focal_px, (x, y), distance, light)
    if figure is None:
        return None
    rows, columns = figure.mask.shape
    sliver = columns < 0.4 * (right - left) or rows < 0.5 * (bottom - top)
    return None if sliver else figure


def _full_mask(figure: Figure, image_hw: tuple[int, int]) -> Mask:
    mask = np.zeros(image_hw, np.bool_)
    x, y = figure.origin_xy
    mask[y : y + figure.mask.shape[0], x : x + figure.mask.shape[1]] = figure.mask
    return mask


def scene(
    seed: int, index: int, *, image_hw: tuple[int, int] = (480, 640),
    people: tuple[int, int] = (1, 5), variety: float = 1.0,
) -> Scene:  # fmt: skip
    """A picture of `people` (least, most) people on one floor, near ones in front of far ones.

    Everybody annotated shows at least in part. `variety` from 0 to 1 makes all that is hard rarer
    in proportion: people behind people, things in front, unusual postures and views, camera faults.
    The same arguments give the same picture. Raises ValueError for sides under 32 px, an empty
    range and a variety outside of 0 to 1.
    """
    _check_size(image_hw)
    _check_variety(variety)
    least, most = people
    if not 0 <= least <= most:
        raise ValueError(f"people is {people}: give the least and the most, 0 or more")
    rng = _generator(seed, index, 2)
    height, width = image_hw
    count = least + int(rng.random() * (most - least + 1))
    height_m = 0.8 + 1.4 * rng.random()
    # The lower the camera, the more of a near person is above the horizon.
    above = 0.3 * rng.random() + 0.5 * max(0.0, 1.0 - height_m / 1.6)
    camera = _Camera(
        horizon_y=height * (0.08 + above),
        height_m=height_m,
        focal_px=width * (0.7 + 0.7 * rng.random()),
        roll_deg=4.0 * (rng.random() - 0.5),
    )
    image = background(rng, image_hw, camera.horizon_y / height)
    light = _light(rng)
    # A standing adult's height in the picture; a group spreads over depth.
    tallest = 0.95 if count < 3 else 0.85
    shares = np.sort(0.2 + (tallest - 0.2) * rng.random(count))[::-1].tolist()
    least_free = 0.35 + 0.5 * (1.0 - variety)
    figures: list[Figure] = []
    masks: list[Mask] = []
    taken = np.zeros(image_hw, np.bool_)
    for share in shares:
        distance = max(camera.focal_px * 1.7 / (share * height), 1.2)
        best: tuple[float, Figure, Mask] | None = None
        # Partly hidden is wanted, nearly gone is not; in a dense crowd it will have to do.
        for attempt in range(60):
            figure = _place(rng, camera, image_hw, distance, light, variety)
            if figure is not None:
                mask = _full_mask(figure, image_hw)
                free = np.count_nonzero(mask & ~taken) / np.count_nonzero(mask)
                if free > 0.0 and (best is None or free > best[0]):
                    best = (free, figure, mask)
            if best is not None and (best[0] > least_free or attempt >= 5):
                break
        if best is not None:
            figures.append(best[1])
            masks.append(best[2])
            taken |= best[2]
    for figure in reversed(figures):
        _paste(image, figure)
    things: list[Mask] = []
    if figures and rng.random() < 0.35 * variety:
        for _ in range(1 if rng.random() < 0.7 else 2):
            figure = figures[int(rng.random() * len(figures))]
            aim = figure.keypoints_xy[int(rng.random() * 17)]
            reach = figure.mask.shape[0] * (0.1 + 0.35 * rng.random())
            things.append(occluder(image, rng, (float(aim[0]), float(aim[1])), reach))
    image = camera_effects(image, rng, variety)
    found = [
        _person(figure, masks[:place] + things, image_hw) for place, figure in enumerate(figures)
    ]
    return Scene(image, tuple(reversed(found)))


def coco_annotations(scenes: Iterable[Scene]) -> dict[str, Any]:
    """The truth as a COCO keypoints dictionary, for `json.dump` or pycocotools.

    Image n (from 1) is the n-th scene, named `000001.png` and so on; boxes are x, y, width, height
    in px. There are no segmentations: keypoint evaluation takes `area` as it stands.
    """
    names = KEYPOINT_SETS["coco17"]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, made in enumerate(scenes, start=1):
        height, width = made.image_bgr.shape[:2]
        images.append(
            {"id": image_id, "file_name": f"{image_id:06d}.png", "height": height, "width": width}
        )
        for person in made.people:
            left, top, right, bottom = person.box_xyxy.tolist()
            keypoints: list[float] = []
            for x, y, visibility in person.keypoints_xyv.tolist():
                keypoints += (x, y, int(visibility))
            annotations.append(
                {
                    # COCOeval takes an annotation's id of 0 for "not matched": ids begin at 1.
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": person.area_px,
                    "keypoints": keypoints,
                    "num_keypoints": int(np.count_nonzero(person.keypoints_xyv[:, 2])),
                }
            )
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(names.keypoints),
        # COCO counts keypoints from 1 here.
        "skeleton": [[a + 1, b + 1] for a, b in names.skeleton],
    }
    return {"images": images, "annotations": annotations, "categories": [category]}
