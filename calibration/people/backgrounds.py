"""Everything in a synthetic picture that is not a person: places, things in front, the camera.

All images are (H, W, 3) uint8, blue green red; all randomness comes from the generator given.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.people.noise import noise_window

__all__ = ["background", "camera_effects", "occluder"]

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
_SHIFT = 3  # drawing in eighths of a pixel
_ONE = 1 << _SHIFT


def _colour(rng: np.random.Generator) -> tuple[float, float, float]:
    """A colour, mostly of low saturation as in photographs; blue green red, 0..255."""
    value, strength = 20 + 225 * rng.random(), 230 * rng.random() ** 2.5
    b, g, r = (min(max(value + strength * (t - 0.5), 0.0), 255.0) for t in rng.random(3).tolist())
    return b, g, r


def _skin_or_any(rng: np.random.Generator) -> tuple[float, float, float]:
    if rng.random() < 0.3:
        shade = 0.3 + 0.7 * rng.random()
        return 150 * shade, 185 * shade, 230 * shade
    return _colour(rng)


def _corners(
    rng: np.random.Generator, hw: tuple[int, int], reach: float, count: int
) -> NDArray[np.int32]:
    """A random convex-ish polygon, (count, 1, 2) int32 in eighths of a pixel."""
    centre = rng.random(2) * (hw[1], hw[0])
    angle = np.sort(rng.random(count)) * (2 * math.pi)
    size = reach * hw[0] * (0.3 + 0.7 * rng.random((count, 1)))
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) * size * (0.4 + rng.random(2))
    points: NDArray[np.int32] = np.rint((centre + ring) * _ONE).astype(np.int32)[:, None]
    return points


def _box(image: U8, rng: np.random.Generator) -> None:
    """A piece of furniture or a building: a front, a top and a side, perhaps with panes."""
    height, width = image.shape[:2]
    w, h = (0.05 + 0.45 * rng.random(2) ** 1.5) * (width, height)
    x, y = rng.random() * width - w / 2, rng.random() * height - h / 2
    colour = np.array(_colour(rng))
    depth = rng.random() * 0.4 * min(w, h)
    lean = depth if rng.random() < 0.5 else -depth
    front = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    top = [(x, y), (x + w, y), (x + w + lean, y - depth), (x + lean, y - depth)]
    edge = x + w if lean > 0 else x
    side = [(edge, y), (edge + lean, y - depth), (edge + lean, y + h - depth), (edge, y + h)]
    for points, tone in ((top, 1.2), (side, 0.7), (front, 1.0)):
        corners = np.rint(np.array(points) * _ONE).astype(np.int32)
        shade = np.clip(colour * tone, 0, 255).tolist()
        cv2.fillConvexPoly(image, corners, shade, cv2.LINE_AA, _SHIFT)
    if rng.random() < 0.4 and w > 12 and h > 12:
        across, down = 1 + int(rng.random() * 4), 1 + int(rng.random() * 5)
        pane = _colour(rng)
        for i in range(across):
            for j in range(down):
                left, upper = x + w * (i + 0.15) / across, y + h * (j + 0.15) / down
                right, lower = left + 0.7 * w / across, upper + 0.7 * h / down
                cv2.rectangle(image, (int(left), int(upper)), (int(right), int(lower)), pane, -1)


def _clutter(image: U8, rng: np.random.Generator, count: int) -> None:
    """Random shapes; some are limb-like, so that a lone tube is not yet a limb."""
    height, width = hw = image.shape[:2]
    for _ in range(count):
        kind, colour = rng.random(), _colour(rng)
        if kind < 0.30:
            _box(image, rng)
        elif kind < 0.48:
            points = _corners(rng, hw, 0.05 + 0.4 * rng.random() ** 2, 3 + int(rng.random() * 5))
            cv2.fillPoly(image, [points], colour, cv2.LINE_AA, _SHIFT)
        elif kind < 0.63:
            x, y = (rng.random(2) * (width, height)).astype(int).tolist()
            a, b = (2 + rng.random(2) ** 2 * (0.3 * height)).astype(int).tolist()
            thick = -1 if rng.random() < 0.8 else 1 + int(rng.random() * 4)
            turn = 180 * rng.random()
            cv2.ellipse(image, (x, y), (a, b), turn, 0, 360, colour, thick, cv2.LINE_AA)
        elif kind < 0.85:
            ends = (rng.random((2, 2)) * (width, height)).astype(int)
            if rng.random() < 0.4:
                ends[1] = ends[0] + ((rng.random(2) - 0.5) * (0.5 * height)).astype(int)
            thick = 1 + int(rng.random() ** 2 * 0.08 * height)
            a, b = (tuple(end) for end in ends.tolist())
            cv2.line(image, a, b, _skin_or_any(rng), thick, cv2.LINE_AA)
        else:
            # A fence, a shelf, blinds: parallel lines.
            upright = rng.random() < 0.5
            x0, y0 = rng.random(2) * (width, height)
            step, span = 3 + 20 * rng.random(), (0.2 + 0.8 * rng.random()) * height
            thick = 1 + int(rng.random() * 3)
            for i in range(3 + int(rng.random() * 9)):
                x, y = (x0 + i * step, y0) if upright else (x0, y0 + i * step)
                end = (int(x), int(y + span)) if upright else (int(x + span), int(y))
                cv2.line(image, (int(x), int(y)), end, colour, thick)


def _grain(rng: np.random.Generator, hw: tuple[int, int]) -> U8:
    """A window of one of the constant textures, mostly without colour."""
    grain = noise_window(rng, ("white", "cloth", "hair")[int(rng.random() * 3)], hw)
    if rng.random() < 0.1:
        return grain
    plain: U8 = cv2.cvtColor(np.ascontiguousarray(grain[..., 1]), cv2.COLOR_GRAY2BGR)
    return plain


def _smooth_noise(rng: np.random.Generator, hw: tuple[int, int], cells: int, channels: int) -> F32:
    """(h, w, channels) float32 smooth noise about 0, of roughly unit deviation; `cells` across."""
    rows = max(2, round(cells * hw[0] / hw[1] * (0.5 + rng.random())))
    small = rng.standard_normal((rows, max(2, cells), channels), dtype=np.float32)
    out: F32 = cv2.resize(small, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC)
    return out.reshape(*hw, channels)


def background(
    rng: np.random.Generator, image_hw: tuple[int, int], horizon: float | None = None
) -> U8:
    """A random place: (H, W, 3) uint8.

    `horizon`: where a floor, if there is one, meets the wall or the sky, as a share of H.
    """
    height, width = image_hw
    kind = rng.random()
    # Drawn at half size where it ends up blurred: out of focus, and four times as fast.
    blur = kind > 0.7 or rng.random() < 0.5
    step = 2 if blur else 1
    hw = (-(-height // step), -(-width // step))
    first, second = np.array(_colour(rng)), np.array(_colour(rng))
    if kind < 0.45:
        # Wall or sky over a floor.
        ramp = np.linspace(0, 1, hw[0])[:, None, None]
        if horizon is None:
            horizon = 0.15 + 0.75 * rng.random()
        third, fourth = np.array(_colour(rng)), np.array(_colour(rng))
        mix = 0.35 * rng.random(2)
        upper = first + (second - first) * ramp * mix[0]
        lower = third + (fourth - third) * (ramp - horizon) * mix[1] * 2
        column = np.where(ramp < horizon, upper, lower)
        image = np.repeat(np.clip(column, 0, 255).astype(np.uint8), hw[1], axis=1)
    elif kind < 0.70:
        corners = np.array([[_colour(rng), _colour(rng)], [_colour(rng), _colour(rng)]], np.float32)
        spread = np.float32(rng.random())
        corners = corners * spread + corners.mean(axis=(0, 1)) * (1 - spread)
        image = cv2.resize(corners.astype(np.uint8), hw[::-1], interpolation=cv2.INTER_LINEAR)
    else:
        channels = 1 if rng.random() < 0.75 else 3
        tone = _smooth_noise(rng, hw, 2 + int(rng.random() * 10), channels)
        tone += 0.6 * _smooth_noise(rng, hw, 8 + int(rng.random() * 40), channels)
        tone *= 15 + 50 * rng.random()
        image = np.clip(first.astype(np.float32) + tone, 0, 255).astype(np.uint8)
    if rng.random() < 0.9:
        _clutter(image, rng, int(2 + 26 * rng.random() ** 2))
    if rng.random() < 0.5:
        # Leaves, plaster, carpet.
        grain = _grain(rng, hw)
        if rng.random() < 0.5:
            zoom = 1.5 + 4.0 * rng.random()
            part = grain[: max(2, int(hw[0] / zoom)), : max(2, int(hw[1] / zoom))]
            grain = cv2.resize(part, hw[::-1], interpolation=cv2.INTER_LINEAR)
        strength = 0.1 + 0.6 * rng.random() ** 1.5
        image = cv2.addWeighted(image, 1.0, grain, strength, -128.0 * strength)
    if blur:
        sigma = 2.2 * rng.random() ** 1.5
        if sigma > 0.4:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def occluder(
    image: U8, rng: np.random.Generator, near_xy: tuple[float, float], reach: float
) -> NDArray[np.bool_]:
    """Draw a thing in front, about `near_xy` px and `reach` px across; its mask (H, W)."""
    mask = np.zeros(image.shape[:2], np.uint8)
    kind, colour = rng.random(), np.array(_colour(rng))
    x, y = near_xy
    if kind < 0.45:
        w, h = reach * (0.3 + 0.9 * rng.random(2))
        turn = (rng.random() - 0.5) * (0.3 if rng.random() < 0.6 else 3.0)
        half = np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) * 0.5
        c, s = math.cos(turn), math.sin(turn)
        points = half @ np.array([[c, s], [-s, c]]) + (x, y)
        cv2.fillConvexPoly(mask, np.rint(points * _ONE).astype(np.int32), 255, shift=_SHIFT)
    elif kind < 0.65:
        lean = (rng.random(2) - 0.5) * (0.25 * image.shape[0])
        thick = max(3, int(reach * (0.08 + 0.22 * rng.random())))
        far = 2.0 * max(image.shape)
        step = np.array([lean[0], image.shape[0]]) / image.shape[0]
        if rng.random() < 0.25:
            step = np.array([1.0, lean[1] / image.shape[0]])
        a, b = (np.rint(np.array((x, y)) + sign * far * step).astype(int) for sign in (-1, 1))
        cv2.line(mask, tuple(a.tolist()), tuple(b.tolist()), 255, thick)
    elif kind < 0.85:
        angle = np.linspace(0, 2 * math.pi, 9)[:-1]
        ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        points = ring * (reach * (0.3 + 0.35 * rng.random((8, 1)))) + (x, y)
        cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 255)
    else:
        # A table or a counter: everything below a line.
        level = int(y)
        slope = int((rng.random() - 0.5) * 0.3 * image.shape[0])
        right = image.shape[1]
        thick = int(reach * (0.3 + 1.5 * rng.random()))
        corners = [(0, level), (right, level + slope), (right, level + slope + thick),
                   (0, level + thick)]  # fmt: skip
        cv2.fillConvexPoly(mask, np.array(corners, np.int32), 255)
    grain = _grain(rng, (image.shape[0], image.shape[1]))
    strength = 0.5 * rng.random() ** 1.5
    slant = np.linspace(-1, 1, image.shape[1])[:, None] * (35 * (rng.random() - 0.5))
    plain = np.clip(colour + slant, 0, 255).astype(np.uint8)
    plain = np.ascontiguousarray(np.broadcast_to(plain[None], image.shape))
    cv2.copyTo(cv2.addWeighted(plain, 1.0, grain, strength, -128.0 * strength), mask, image)
    covered: NDArray[np.bool_] = mask > 0
    return covered


def camera_effects(image: U8, rng: np.random.Generator, variety: float = 1.0) -> U8:
    """What a camera does: exposure and colour, blur, lost resolution, noise, JPEG.

    `variety` below 1 makes blur, lost resolution and missing colour rarer in proportion.
    """
    height, width = image.shape[:2]
    # Every picture gets a little blur; figures are drawn with hard edges.
    sigma = 0.5 + (2.2 * rng.random() ** 2 if rng.random() < 0.35 * variety else 0.0)
    sigma *= height / 320 if height > 320 else 1.0
    image = cv2.GaussianBlur(image, (0, 0) if sigma > 0.8 else (3, 3), sigma)
    if rng.random() < 0.08 * variety:
        length = 3 + 2 * int(rng.random() * 5)
        angle, middle = rng.random() * math.pi, length // 2
        kernel = np.zeros((length, length), np.float32)
        dx, dy = round(middle * math.cos(angle)), round(middle * math.sin(angle))
        cv2.line(kernel, (middle - dx, middle - dy), (middle + dx, middle + dy), 1.0)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    if rng.random() < 0.30 * variety:
        scale = 0.25 + 0.65 * rng.random()
        size = (max(8, int(width * scale)), max(8, int(height * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        ways = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)
        way = ways[int(rng.random() * 2.15)]
        image = cv2.resize(small, (width, height), interpolation=way)
    # Gain, offset, gamma and a cast, as one table a channel.
    contrast, bright = 1.0 + 0.25 * (rng.random() * 2 - 1), 35 * (rng.random() * 2 - 1)
    gamma = math.exp(0.45 * (rng.random() * 2 - 1))
    cast = 1.0 + 0.10 * rng.standard_normal(3) if rng.random() < 0.6 else np.ones(3)
    ramp = (np.arange(256) / 255.0)[:, None] ** gamma
    table = (ramp * 255.0 - 128.0) * contrast * cast + 128.0 + bright
    image = cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[None])
    if rng.random() < 0.06 * variety:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if rng.random() < 0.5:
        strength = 0.40 * rng.random() ** 1.5
        grain = noise_window(rng, "white", (height, width))
        image = cv2.addWeighted(image, 1.0, grain, strength, -128.0 * strength)
    if rng.random() < 0.20:
        quality = 15 + int(75 * rng.random())
        _, code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
        # None stands for bytes that are no picture, which these cannot be.
        image = image if decoded is None else decoded
    return image
