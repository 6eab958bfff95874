"""edgepose.hpp over ncnn, from the assets' own files, beside the Python pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from calibration.people.synthetic import scene
from edge.artifact import load_artifact
from edge.cli import main
from edge.detector import Detector
from edge.pipeline import Pipeline, Pose
from edge.pose import PoseEstimator
from edge.session import EngineSettings, open_session
from targets.app.assets import write_assets
from tests.stand_ins.header_app import MODELS, jni_example, ncnn_flags, run
from tests.stand_ins.header_build import F32, build_header_program

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

PICTURE_HW = (480, 640)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo pair in floats: artifacts below ``build``, assets in ``out``."""
    folder = tmp_path_factory.mktemp("shipped")
    options = ["--formats", "ncnn-fp32", "--no-arm-check", "--out", str(folder / "build")]
    assert main(["convert", "--target", "android", *options]) == 0
    found = sorted((folder / "build/android-sd865").iterdir())
    write_assets([load_artifact(path) for path in found], folder / "out")
    return folder


@pytest.fixture(scope="module")
def people(shipped: Path) -> list[Pose]:
    """What the Python pipeline finds in the picture ``image.raw``, RGBA."""
    image = scene(7, 1, image_hw=PICTURE_HW, people=(2, 4), variety=0.0).image_bgr
    alpha = np.full_like(image[:, :, :1], 255)
    (shipped / "image.raw").write_bytes(np.concatenate([image[:, :, ::-1], alpha], 2).tobytes())
    build = shipped / "build/android-sd865"
    settings = EngineSettings(threads=1)
    with (
        open_session(load_artifact(build / "rtmdet-nano-demo-ncnn-fp32"), settings) as detector,
        open_session(load_artifact(build / "rtmpose-t-demo-ncnn-fp32"), settings) as pose,
    ):
        found = Pipeline(PoseEstimator(pose), Detector(detector, label=0))(image)
    assert len(found) > 1
    return found


def assert_same_people(boxes: F32, points: F32, people: list[Pose]) -> None:
    """Boxes (N, 5) and keypoints (N, K, 3) are those of the pipeline."""
    assert len(boxes) == len(people)
    want = np.array([one.keypoints for one in people])
    np.testing.assert_allclose(boxes[:, :4], [one.box_xyxy for one in people], atol=1e-3, rtol=0)
    np.testing.assert_allclose(boxes[:, 4], [one.box_score for one in people], atol=1e-4)
    np.testing.assert_allclose(points[..., 2], want[..., 2], atol=1e-4)
    # Where two bins are within rounding of each other, another build of ncnn may take the other.
    sure = want[..., 2] > 0.3
    assert sure.mean() > 0.5
    np.testing.assert_allclose(points[sure][:, :2], want[sure][:, :2], atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_people_of_a_picture(shipped: Path, people: list[Pose], tmp_path: Path, arch: str) -> None:
    argv = build_header_program(arch, tmp_path / "program", ncnn_flags(arch))
    models = shipped / "out/assets/edgepose"
    argv += ["find", str(models / "rtmdet-nano-demo"), str(models / "rtmpose-t-demo")]
    height, width = PICTURE_HW
    argv += [str(shipped / "image.raw"), "rgba", str(width), str(height), str(4 * width)]
    run([*argv, str(tmp_path / "out.raw")])
    got = np.fromfile(tmp_path / "out.raw", np.float32).reshape(-1, 6 + 17 * 3)
    assert_same_people(got[:, :5], got[:, 6:].reshape(-1, 17, 3), people)


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused(shipped: Path, tmp_path: Path) -> None:
    argv = build_header_program("x86_64", tmp_path / "program", ncnn_flags("x86_64"))
    (tmp_path / "image.raw").write_bytes(bytes(32 * 32 * 3))
    detector = shipped / "out/assets/edgepose/rtmdet-nano-demo"
    damaged = Path(shutil.copytree(detector, tmp_path / "damaged"))
    weights = (detector / "rtmdet-nano-demo.bin").read_bytes()
    given = [str(tmp_path / "image.raw"), "bgr", "32", "32", "96", str(tmp_path / "out.raw")]
    cases = {weights[:-4096]: "ncnn cannot load it", weights + bytes(8): "do not belong together"}
    for data, why in cases.items():
        (damaged / "rtmdet-nano-demo.bin").write_bytes(data)
        assert why in run([*argv, "find", str(damaged), str(detector), *given], code=1)


@pytest.mark.slow
def test_the_jni_example_on_stand_ins_of_android(
    shipped: Path, people: list[Pose], tmp_path: Path
) -> None:
    height, width = PICTURE_HW
    printed = run(
        [*jni_example(shipped / "out", tmp_path), *MODELS],
        ASSETS=str(shipped / "out/assets"),
        BITMAP=str(shipped / "image.raw"),
        BITMAP_WIDTH=str(width),
        BITMAP_HEIGHT=str(height),
    )
    missing, count, values, while_open, after = printed.splitlines()
    assert missing == "edgepose/nobody/manifest.json: no such asset in this app"
    assert (count, while_open, after) == ("17", "2", "0")  # the weights of two networks
    got = np.array(values.split(), np.float32).reshape(-1, 5 + 17 * 3)
    assert_same_people(got[:, :5], got[:, 5:].reshape(-1, 17, 3), people)
