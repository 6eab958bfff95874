"""edgepose.hpp gives the numbers of the Python runtime, on x86-64 and (under QEMU) on aarch64."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge.codecs import rtmdet, simcc
from edge.codecs.nms import suppress
from edge.detector import boxes_in_image, detector_feeds
from edge.image import Placement
from edge.pose import pose_feeds
from edge.spec import ModelSpec
from tests.stand_ins.header_build import F32, POSE, build_header_program, detector_spec

# Half a grey level's rounding lies far above this, a float32's far below.
INPUT_LIMIT = 2e-5
Run = Callable[..., str]


@pytest.fixture(scope="module", params=["x86_64", "aarch64"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the test program of one architecture and returns what it printed."""
    arch: str = request.param
    program = tmp_path_factory.mktemp("header") / f"program-{arch}"
    return_argv = build_header_program(arch, program)

    def run_program(*arguments: object, fails: bool = False) -> str:
        argv = [*return_argv, *map(str, arguments)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == (1 if fails else 0), done.stderr
        return done.stderr if fails else done.stdout

    return run_program


def write_manifest(folder: Path, spec: ModelSpec, **changes: Any) -> Path:
    manifest = {
        "schema": 1,
        "variant": "ncnn-fp16",
        "arithmetic": "fp32",
        "files": {"model": {"name": "m.param"}, "weights": {"name": "m.bin"}},
        "spec": spec.to_json(),
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest | changes, indent=2))
    return path


def to_input(
    run: Run,
    folder: Path,
    spec: ModelSpec,
    image_bgr: npt.NDArray[np.uint8],
    box: F32 | None = None,
    pixels: str = "bgr",
) -> tuple[F32, Placement]:
    """The header's network input of an image, handed over in a layout of its own."""
    rgb = np.ascontiguousarray(image_bgr[:, :, ::-1])
    alpha = np.full_like(rgb[:, :, :1], 200)
    values = {"bgr": image_bgr, "rgb": rgb, "rgba": np.concatenate([rgb, alpha], 2)}[pixels]
    rows = values.reshape(len(values), -1)
    padded = np.concatenate([rows, np.full((len(rows), 5), 251, np.uint8)], axis=1)
    (folder / "image.raw").write_bytes(padded.tobytes())
    height, width = image_bgr.shape[:2]
    given = (folder / "image.raw", pixels, width, height, padded.shape[1], folder / "out.raw")
    manifest = write_manifest(folder, spec)
    if box is None:
        printed = run("letterbox", manifest, *given)
    else:
        printed = run("crop", manifest, *given, *(repr(float(value)) for value in box))
    scale_x, scale_y, offset_x, offset_y = map(float, printed.split())
    out = np.fromfile(folder / "out.raw", np.float32).reshape(3, *spec.input_hw)
    return out, Placement((scale_x, scale_y), (offset_x, offset_y))


def assert_same_placement(got: Placement, want: Placement) -> None:
    np.testing.assert_allclose(got.scale_xy, want.scale_xy, rtol=1e-14)
    np.testing.assert_allclose(got.offset_xy, want.offset_xy, rtol=1e-13, atol=1e-10)


@pytest.mark.parametrize("letterbox", ["top-left", "center"])
@pytest.mark.parametrize(
    ("size", "pixels"),
    [
        *(((480, 640), "bgr"), ((853, 480), "bgr"), ((320, 320), "bgr"), ((3, 700), "bgr")),
        *(((97, 61), "bgr"), ((97, 61), "rgb"), ((97, 61), "rgba")),
    ],
)
def test_a_letterboxed_image(
    run: Run, tmp_path: Path, size: tuple[int, int], letterbox: Any, pixels: str
) -> None:
    rng = np.random.default_rng(sum(size))
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    spec = detector_spec((320, 320), letterbox=letterbox)
    feeds, placement = detector_feeds(spec, image)
    got, at = to_input(run, tmp_path, spec, image, pixels=pixels)
    np.testing.assert_allclose(got, feeds["in"][0], atol=INPUT_LIMIT, rtol=0)
    assert_same_placement(at, placement)


@pytest.mark.parametrize("udp", [False, True])
def test_crops_inside_across_and_beside_the_image(run: Run, tmp_path: Path, udp: bool) -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (240, 330, 3), np.uint8)
    spec = replace(POSE, udp=udp)
    boxes = np.array(
        [
            [20.25, 30.5, 180.75, 215.5],
            [-60, -80, 90.5, 120.125],
            [250, 190, 420, 600],
            [100, 100, 103, 140],
            [-900, -900, -700, -650],
            [0, 0, 330, 240],
        ],
        np.float32,
    )
    boxes = np.concatenate([boxes, random_boxes(rng, 6)])
    feeds, placements = pose_feeds(spec, image, boxes)
    for index, box in enumerate(boxes):
        got, at = to_input(run, tmp_path, spec, image, box)
        np.testing.assert_allclose(got, feeds["input"][index], atol=INPUT_LIMIT, rtol=0)
        assert_same_placement(at, placements[index])


def random_boxes(rng: np.random.Generator, count: int) -> F32:
    corner = rng.uniform(-40, 250, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(2, 200, (count, 2))], 1).astype(np.float32)


def test_an_image_too_narrow_for_the_input_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(bytes(2100))
    manifest = write_manifest(tmp_path, detector_spec((320, 320)))
    given = (manifest, tmp_path / "i", "bgr", 700, 1, 2100, tmp_path / "o")
    assert "leaves nothing of a side" in run("letterbox", *given, fails=True)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 5, 9, 4), ("nan", 0, 1, 1), (0, 0, "inf", 1)])
def test_what_is_no_box_is_refused(run: Run, tmp_path: Path, box: tuple[object, ...]) -> None:
    (tmp_path / "i").write_bytes(bytes(300))
    manifest = write_manifest(tmp_path, POSE)
    given = (manifest, tmp_path / "i", "bgr", 10, 10, 30, tmp_path / "o")
    assert "a box is x1, y1, x2, y2" in run("crop", *given, *box, fails=True)
    assert not (tmp_path / "o").exists()


def decode(run: Run, folder: Path, spec: ModelSpec, outputs: dict[str, F32]) -> F32:
    files = []
    for tensor in spec.outputs:
        files.append(folder / f"{tensor.name}.raw")
        files[-1].write_bytes(outputs[tensor.name][0].tobytes())
    run("decode", write_manifest(folder, spec), folder / "out.raw", *files)
    return np.fromfile(folder / "out.raw", np.float32)


def test_simcc_with_ties_and_keypoints_that_are_not_there(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    outputs = {
        tensor.name: rng.normal(0, 0.4, (1, *map(int, filter(None, tensor.shape[1:])))).astype(
            np.float32
        )
        for tensor in POSE.outputs
    }
    outputs["x"][0, 3] = np.round(outputs["x"][0, 3] * 4)  # many equal maxima
    outputs["y"][0, 4] = -np.abs(outputs["y"][0, 4])
    outputs["x"][0, 5] = 0
    outputs["x"][0, 6, -1] = outputs["y"][0, 6, -1] = 9
    got = decode(run, tmp_path, POSE, outputs).reshape(17, 3)
    np.testing.assert_array_equal(got, simcc.decode(outputs, POSE)[0])
    assert got[4, 0] == got[5, 1] == -0.5
    assert tuple(got[6]) == (191.5, 255.5, 9)


def raw_heads(spec: ModelSpec, rng: np.random.Generator, level: float) -> dict[str, F32]:
    outputs: dict[str, F32] = {}
    for tensor in spec.outputs:
        shape = tuple(size or 1 for size in tensor.shape)
        values = rng.normal(level, 2, shape) if "logits" in tensor.name else rng.gamma(3, 20, shape)
        outputs[tensor.name] = values.astype(np.float32)
    return outputs


def test_answers_that_are_no_numbers_are_those_of_the_python_runtime(
    run: Run, tmp_path: Path
) -> None:
    rng = np.random.default_rng(8)
    outputs: dict[str, F32] = {
        tensor.name: rng.normal(0, 1, [size or 1 for size in tensor.shape]).astype(np.float32)
        for tensor in POSE.outputs
    }
    for point, (name, place, bad) in enumerate(
        (("x", 7, np.nan), ("y", 0, np.inf), ("x", -1, -np.inf), ("y", 3, np.nan))
    ):
        outputs[name][0, point, place] = bad
    got = decode(run, tmp_path, POSE, outputs).reshape(17, 3)
    np.testing.assert_array_equal(got, simcc.decode(outputs, POSE)[0])
    assert (got[:4, 2] == 0).all() and np.isfinite(got).all()

    spec = detector_spec((320, 320), 2)
    heads = raw_heads(spec, rng, -4.0)
    for tensor, bad in zip(
        spec.outputs, (np.nan, np.inf, -np.inf, np.nan, np.inf, 3e38), strict=True
    ):
        flat = heads[tensor.name].reshape(-1)
        flat[rng.integers(0, len(flat), len(flat) // 8)] = bad
    rows = decode(run, tmp_path, spec, heads).reshape(-1, 6)
    ((boxes, labels),) = rtmdet.decode(heads, spec)
    assert len(boxes) and np.isfinite(rows).all()
    np.testing.assert_array_equal(rows[:, 5], labels)
    np.testing.assert_allclose(rows[:, :4], boxes[:, :4], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("classes", "level", "changes"),
    [
        (1, -5.0, {}),
        (3, -6.0, {}),
        (1, -3.0, {"cut_at_rim": True}),
        (1, 0.0, {}),  # more than 1000 cells of a level
        (2, -2.0, {"nms_candidates_per_level": 40, "max_boxes": 7, "nms_iou": 0.3}),
        (1, -4.0, {"score_threshold": 0.0}),
        (1, -60.0, {}),  # nobody
    ],
)
def test_rtmdets_heads(
    run: Run, tmp_path: Path, classes: int, level: float, changes: dict[str, Any]
) -> None:
    spec = detector_spec((320, 320), classes, **changes)
    outputs = raw_heads(spec, np.random.default_rng(classes), level)
    got = decode(run, tmp_path, spec, outputs).reshape(-1, 6)
    ((boxes, labels),) = rtmdet.decode(outputs, spec)
    assert got.shape == (len(boxes), 6)
    assert (len(boxes) > 0) == (level > -60)
    np.testing.assert_array_equal(got[:, 5], labels)
    np.testing.assert_allclose(got[:, :4], boxes[:, :4], atol=1e-4, rtol=0)
    np.testing.assert_allclose(got[:, 4], boxes[:, 4], atol=1e-6, rtol=0)


def test_suppression_where_boxes_touch_tie_or_have_no_area(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    corner = rng.integers(0, 12, (150, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 9, (150, 2))], 1).astype(np.float32)
    scores = (rng.integers(1, 6, 150) / 8).astype(np.float32)
    labels = rng.integers(0, 2, 150)
    rows = np.concatenate([boxes, scores[:, None], labels[:, None]], 1).astype(np.float32)
    rows.tofile(tmp_path / "boxes.raw")
    # Whole numbers meet 0.25, 0.5 and 0.75 exactly: more is suppressed, as much is not.
    for limit, count in ((0.25, 100), (0.5, 100), (0.6, 9), (0.75, 100)):
        run("suppress", tmp_path / "out.raw", tmp_path / "boxes.raw", limit, count)
        got = np.fromfile(tmp_path / "out.raw", np.float32).reshape(-1, 6)
        np.testing.assert_array_equal(got, rows[suppress(boxes, scores, labels, limit, count)])


def test_boxes_on_their_way_back_to_the_image(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    corner = rng.uniform(-60, 400, (80, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 90, (80, 2))], 1).astype(np.float32)
    scores = rng.uniform(0, 1, 80).astype(np.float32)
    labels = rng.integers(0, 2, 80)
    rows = np.concatenate([boxes, scores[:, None], labels[:, None]], 1).astype(np.float32)
    rows.tofile(tmp_path / "boxes.raw")
    image = np.zeros((427, 640, 3), np.uint8)
    placement = Placement((640 / 320, 427 / 214), (-3.5, 7.25))
    given = (*image.shape[1::-1], 0.3, 1, *placement.scale_xy, *placement.offset_xy)
    run("image", tmp_path / "out.raw", tmp_path / "boxes.raw", *given)
    kept = (scores > 0.3) & (labels == 1)
    want, real = boxes_in_image(boxes[kept], placement, image)
    got = np.fromfile(tmp_path / "out.raw", np.float32).reshape(-1, 6)
    assert 0 < len(want) < kept.sum()
    np.testing.assert_allclose(got[:, :4], want, atol=1e-4, rtol=0)
    np.testing.assert_array_equal(got[:, 4], scores[kept][real])


def test_a_manifest_is_read_to_the_last_digit(run: Run, tmp_path: Path) -> None:
    mean, std = (123.675, 1e-3, 0.1), (58.395, 2.5e2, 57.375)
    spec = replace(POSE, mean=mean, std=std)
    path = write_manifest(tmp_path, spec, arithmetic="bf16", labels=[16, 3])
    first, second, third = run("spec", path).splitlines()
    assert third.split() == ["16", "3"]
    assert first == "pose pose simcc bf16 input 256 192"
    assert tuple(map(float, second.split())) == tuple(
        value for pair in zip(mean, std, strict=True) for value in pair
    )


def test_manifests_that_make_no_sense_are_refused(run: Run, tmp_path: Path) -> None:
    good = write_manifest(tmp_path, POSE).read_text()
    path = tmp_path / "bad.json"
    plain = json.loads(good)
    plain["spec"]["outputs"].pop()
    cases = {
        good[: len(good) // 2]: "not readable as JSON",
        good + "x": "not readable as JSON",
        "[" * 100: "not readable as JSON",
        "": "not readable as JSON",
        good.replace('"schema": 1', '"schema": 2'): "schema 2, this reads 1",
        good.replace("ncnn-fp16", "tflite-int8"): "is tflite-int8, and this header runs ncnn",
        good.replace('"codec": "simcc"', '"codec": "heatmap"'): "'heatmap' is not in this header",
        good.replace('"arithmetic": "fp32"', '"arithmetic": 3'): "'arithmetic' is missing or",
        good.replace('"height"', "").replace("256,", "1.5,"): "a whole number was expected",
        json.dumps(plain): "the outputs do not fit the codec 'simcc'",
    }
    for text, why in cases.items():
        path.write_text(text)
        assert why in run("spec", path, fails=True)
