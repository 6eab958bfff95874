from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge.codecs import heatmap
from edge.image import Normalization, crop
from edge.pose import PoseEstimator
from edge.session import Array
from edge.spec import TensorSpec
from tests.stand_ins.fake_sessions import FakeSession
from tests.stand_ins.specs import heatmap_spec

H, W = 64, 48
PLAIN = Normalization()


def bells(centres_xy: Any, slant: float = 0.0) -> Array:
    """Maps (K, h, w) with a Gaussian of 2 cells about each centre, stretched along a diagonal."""
    y, x = np.mgrid[:H, :W]
    squares = [
        (x - cx) ** 2 + (y - cy) ** 2 - 2 * slant * (x - cx) * (y - cy) for cx, cy in centres_xy
    ]
    return np.exp(-np.array(squares) / 8).astype(np.float32)


def some_maps(seed: int) -> Array:
    """(2, 17, h, w): bells all over and beyond the rim, noise, ties, and a map of nothing."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform((-2, -2), (W + 1, H + 1), (34, 2))
    centres[:4] = ((0, 0), (W - 1, H - 1), (1, 30), (20, 1))
    maps = bells(centres, slant=0.6) * rng.uniform(0.05, 1.2, (34, 1, 1))
    maps += rng.normal(0, 0.004, maps.shape)
    maps[30] = np.round(maps[30], 1)
    maps[31] = -0.5
    maps[32] = 0
    return maps.astype(np.float32).reshape(2, 17, H, W)


# --- the published formulas, one keypoint at a time -----------------------------------------------


def maximum(single: Array) -> tuple[int, int]:
    """The first cell with the largest value, row by row."""
    best = (0, 0)
    for row in range(single.shape[0]):
        for column in range(single.shape[1]):
            if single[row, column] > single[best[1], best[0]]:
                best = (column, row)
    return best


def naive_shift(m: Array, x: int, y: int) -> tuple[float, float]:
    dx = m[y, x + 1] - m[y, x - 1] if 1 < x < W - 1 and 0 < y < H else 0.0
    dy = m[y + 1, x] - m[y - 1, x] if 1 < y < H - 1 and 0 < x < W else 0.0
    return x + 0.25 * float(np.sign(dx)), y + 0.25 * float(np.sign(dy))


def opencv_blur(single: Array, kernel: int) -> Array:
    cv2 = pytest.importorskip("cv2")
    border = (kernel - 1) // 2
    padded = np.pad(single, border).astype(np.float32)
    blurred = cv2.GaussianBlur(padded, (kernel, kernel), 0)[border:-border, border:-border]
    return np.asarray(blurred * (single.max() / blurred.max()), np.float32)


def newton(x: int, y: int, gradient: list[float], hessian: list[list[float]]) -> Any:
    step = np.linalg.solve(np.array(hessian), np.array(gradient))
    return x - step[0], y - step[1]


def naive_dark(m: Array, x: int, y: int, kernel: int) -> Any:
    if not (1 < x < W - 2 and 1 < y < H - 2):
        return x, y
    log = np.log(np.maximum(opencv_blur(m, kernel), 1e-10)).astype(np.float64)
    gradient = [(log[y, x + 1] - log[y, x - 1]) / 2, (log[y + 1, x] - log[y - 1, x]) / 2]
    dxx = (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2]) / 4
    dyy = (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x]) / 4
    dxy = ((log[y + 1, x + 1] - log[y - 1, x + 1]) - (log[y + 1, x - 1] - log[y - 1, x - 1])) / 4
    if dxx * dyy - dxy**2 == 0:
        return x, y
    return newton(x, y, gradient, [[dxx, dxy], [dxy, dyy]])


def naive_dark_udp(m: Array, x: int, y: int, kernel: int) -> Any:
    clipped = np.clip(opencv_blur(m, kernel), 1e-3, 50)
    log = np.pad(np.log(clipped), 1, mode="edge").astype(np.float64)
    i, j = y + 1, x + 1
    gradient = [(log[i, j + 1] - log[i, j - 1]) / 2, (log[i + 1, j] - log[i - 1, j]) / 2]
    eps = np.finfo(np.float32).eps
    dxx = log[i, j + 1] - 2 * log[i, j] + log[i, j - 1] + eps
    dyy = log[i + 1, j] - 2 * log[i, j] + log[i - 1, j] + eps
    plus = log[i + 1, j + 1] - log[i, j + 1] - log[i + 1, j] + log[i, j]
    minus = log[i, j] - log[i, j - 1] - log[i - 1, j] + log[i - 1, j - 1]
    dxy = (plus + minus) / 2
    return newton(x, y, gradient, [[dxx, dxy], [dxy, dyy]])


NAIVE: dict[str, Any] = {
    "none": lambda _, x, y, __: (x, y),
    "shift": lambda m, x, y, _: naive_shift(m, x, y),
    "dark": naive_dark,
    "dark-udp": naive_dark_udp,
}


@pytest.mark.parametrize("udp", [False, True])
@pytest.mark.parametrize(
    ("refinement", "kernel"),
    [("none", 11), ("shift", 11), ("dark", 11), ("dark", 17), ("dark-udp", 11), ("dark-udp", 17)],
)
def test_decoding_equals_the_published_formula(refinement: Any, kernel: int, udp: bool) -> None:
    maps = some_maps(1)
    spec = heatmap_spec(heatmap_refinement=refinement, heatmap_blur_kernel=kernel, udp=udp)
    got = heatmap.decode({"heatmaps": maps}, spec)
    assert got.dtype == np.float32
    assert got.shape == (2, 17, 3)
    scale = np.array([191 / 47, 255 / 63]) if udp else np.array([4.0, 4.0])
    refined = 0
    for n in range(2):
        for k in range(17):
            single = maps[n, k]
            x, y = maximum(single)
            assert got[n, k, 2] == single.max()
            want = (-1.0, -1.0) if single.max() <= 0 else NAIVE[refinement](single, x, y, kernel)
            refined += want != (x, y) and single.max() > 0
            np.testing.assert_allclose(got[n, k, :2], np.array(want) * scale, rtol=0, atol=0.01)
    assert (refined > 15) == (refinement != "none")
    assert (got[1, 14:16, :2] == (-scale).astype(np.float32)).all()


@pytest.mark.parametrize("kernel", [5, 11])
def test_megvii_decoding_equals_the_published_formula(kernel: int) -> None:
    maps = some_maps(2)
    spec = heatmap_spec(heatmap_refinement="megvii", heatmap_blur_kernel=kernel)
    got = heatmap.decode({"heatmaps": maps}, spec)
    moved = 0
    for n in range(2):
        for k in range(17):
            if maps[n, k].max() <= 0:
                assert got[n, k, :2].tolist() == [-4, -4]
                continue
            m = opencv_blur(maps[n, k], kernel)
            x, y = maximum(m)
            want = [float(x), float(y)]
            if 1 < x < W - 1 and 1 < y < H - 1:
                want[0] += 0.5 + 0.25 * float(np.sign(m[y, x + 1] - m[y, x - 1]))
                want[1] += 0.5 + 0.25 * float(np.sign(m[y + 1, x] - m[y - 1, x]))
                moved += 1
            np.testing.assert_allclose(got[n, k, :2], np.array(want) * 4, rtol=0, atol=1e-4)
            assert got[n, k, 2] == pytest.approx(m.max() / 255 + 0.5, rel=1e-5)
    assert moved > 15


@pytest.mark.parametrize("kernel", [3, 5, 7, 11, 13, 17])
def test_the_blur_is_opencvs(kernel: int) -> None:
    maps = some_maps(2)[0]
    got = heatmap.blur(maps[:13], kernel)
    want = np.stack([opencv_blur(single, kernel) for single in maps[:13]])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("refinement", "limit"), [("dark", 2e-3), ("dark-udp", 2e-3)])
def test_dark_finds_the_true_centre_of_a_bell(refinement: Any, limit: float) -> None:
    """The logarithm of a blurred Gaussian is a parabola: the refinement is exact."""
    centres = np.random.default_rng(3).uniform((12, 12), (W - 13, H - 13), (17, 2))
    spec = heatmap_spec(heatmap_refinement=refinement)
    got = heatmap.decode({"heatmaps": bells(centres)[None]}, spec)[0, :, :2] / 4
    assert np.abs(got - centres).max() < limit
    coarse = heatmap.decode({"heatmaps": bells(centres)[None]}, heatmap_spec())[0, :, :2] / 4
    assert 0.1 < np.abs(coarse - centres).max() <= 0.25


def test_ties_go_to_the_first_cell() -> None:
    maps = np.zeros((1, 17, H, W), np.float32)
    maps[..., 20, 30] = maps[..., 20, 31] = maps[..., 40, 5] = 1.0
    got = heatmap.decode({"heatmaps": maps}, heatmap_spec(heatmap_refinement="none"))
    np.testing.assert_array_equal(got, np.broadcast_to([120.0, 80.0, 1.0], (1, 17, 3)))


@pytest.mark.parametrize("refinement", ["shift", "dark", "dark-udp"])
def test_a_single_cell_and_a_plain_map_stay_finite(refinement: Any) -> None:
    maps = np.zeros((1, 17, H, W), np.float32)
    maps[0, 0, 30, 20] = 1
    maps[0, 1] = 1
    maps[0, 2] = -1
    maps[0, 2, 10, 10] = 1e-3
    got = heatmap.decode({"heatmaps": maps}, heatmap_spec(heatmap_refinement=refinement))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[0, 0, :2], (80, 120), atol=1e-3)


def test_shortfall_is_the_loss_at_the_nearest_cell() -> None:
    maps = some_maps(4)
    rng = np.random.default_rng(5)
    points = rng.uniform(-30, 290, (2, 17, 2)).astype(np.float32)
    for udp, scale in ((False, (4.0, 4.0)), (True, (191 / 47, 255 / 63))):
        spec = heatmap_spec(udp=udp)
        got = heatmap.shortfall({"heatmaps": maps}, spec, points)
        for n in range(2):
            for k in range(17):
                column = min(max(round(float(points[n, k, 0]) / scale[0]), 0), W - 1)
                row = min(max(round(float(points[n, k, 1]) / scale[1]), 0), H - 1)
                want = maps[n, k].max() - maps[n, k, row, column]
                assert got[n, k] == pytest.approx(want, abs=1e-6)
        decoded = heatmap.decode({"heatmaps": maps}, spec)
        seen = decoded[..., 2] > 0
        losses = heatmap.shortfall({"heatmaps": maps}, spec, decoded[..., :2])
        np.testing.assert_array_equal(losses[seen], 0)


# --- through the crop and back --------------------------------------------------------------------


@pytest.mark.parametrize("udp", [False, True])
def test_places_in_the_image_are_mmposes(udp: bool) -> None:
    """mmpose: cell / (w, h) or cell / (w - 1, h - 1), times the box's scale, + centre - scale/2."""
    centres = np.random.default_rng(6).uniform((5, 5), (W - 6, H - 6), (17, 2))
    spec = heatmap_spec(udp=udp, heatmap_refinement="dark-udp")
    cells = heatmap.decode({"heatmaps": bells(centres)[None]}, spec)[0, :, :2]
    session = FakeSession(spec, lambda _: [bells(centres)[None]])
    box = np.array([[250, 150, 380, 300]], np.float32)
    got = PoseEstimator(session)(np.zeros((480, 640, 3), np.uint8), box)[0, :, :2]
    scale = np.maximum([162.5, 162.5 / 0.75], [187.5 * 0.75, 187.5])
    ends = np.array([W - 1, H - 1]) if udp else np.array([W, H])
    cells = cells / (np.array([191, 255]) if udp else np.array([192, 256])) * ends
    want = cells / ends * scale + np.array([315.0, 225.0]) - scale / 2
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_an_unbiased_crop_and_its_heatmap_undo_each_other() -> None:
    """A network that returns its own input, each cell the pixel that UDP says it stands for."""
    spec = heatmap_spec(
        udp=True,
        heatmap_refinement="dark-udp",
        keypoint_set="unnamed-1",
        input=TensorSpec("input", (None, 3, 128, 128)),
        outputs=(TensorSpec("heatmaps", (None, 1, 64, 64)),),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    image = bell_image(211.3, 148.6)
    at = np.linspace(0, 127, 64)

    def sample(batch: Array) -> list[Array]:
        low = np.floor(at).astype(int).clip(0, 126)
        part = (at - low).astype(np.float32)
        plane = batch[:, 0] / 255
        plane = plane[:, low] * (1 - part)[:, None] + plane[:, low + 1] * part[:, None]
        plane = plane[:, :, low] * (1 - part) + plane[:, :, low + 1] * part
        return [plane[:, None]]

    session = FakeSession(spec, sample)
    for box in ((180, 110, 250, 190), (160, 120, 260, 170)):
        got = PoseEstimator(session)(image, np.array([box], np.float32))[0, 0, :2]
        assert np.abs(got - (211.3, 148.6)).max() < 0.06


def bell_image(x: float, y: float) -> Any:
    rows, columns = np.mgrid[:300, :400]
    bell = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2))
    return np.repeat(np.rint(255 * bell).astype(np.uint8)[..., None], 3, axis=2)


def test_the_unbiased_crop_is_wider_by_its_last_step() -> None:
    image = bell_image(211.3, 148.6)
    biased = crop(image, (180, 110, 250, 190), (256, 192), PLAIN)[1]
    unbiased = crop(image, (180, 110, 250, 190), (256, 192), PLAIN, udp=True)[1]
    assert biased.offset_xy == unbiased.offset_xy
    assert unbiased.scale_xy[0] / biased.scale_xy[0] == pytest.approx(192 / 191)
    assert unbiased.scale_xy[1] / biased.scale_xy[1] == pytest.approx(256 / 255)
