"""edgepose.hpp over ncnn, from the assets' own files, beside the Python pipeline."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from calibration.synthetic import scene
from edge.artifact import load_artifact
from edge.cli import main
from edge.detector import Detector
from edge.files import cache_folder
from edge.pipeline import Pipeline, Pose
from edge.pose import PoseEstimator
from edge.session import EngineSettings, open_session
from targets.assets import write_assets
from targets.ncnn_source import NCNN_VERSION
from tests.conftest import ROOT
from tests.test_targets_header import F32, build_header_program

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

MODELS = ("rtmdet-nano-demo", "rtmpose-t-demo")
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


JAVA = """
package edgepose;
class EdgePose {
    static native long open(Object assets, String detector, String pose, int threads);
    static native float[] find(long handle, Object bitmap, float score);
    static native int keypoints(long handle);
    static native void close(long handle);
    static native int held();
    public static void main(String[] words) {
        System.load(words[0]);
        try {
            open(words, "nobody", words[2], 1);
        } catch (IllegalStateException error) {
            System.out.println(error.getMessage());
        }
        long handle = open(words, words[1], words[2], 1);
        System.out.println(keypoints(handle));
        for (float value : find(handle, words, 0.3f)) System.out.print(value + " ");
        System.out.println();
        System.out.println(held());
        close(handle);
        System.out.println(held());
    }
}
"""


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


def jni_example(assets: Path, folder: Path) -> list[str]:
    """Build an app's example for this machine's Java, in a folder; its command line.

    Two models are its last words. The picture and the assets are named in the environment.
    """
    javac, java, compiler = (shutil.which(name) for name in ("javac", "java", "g++"))
    if not (javac and java and compiler):
        pytest.skip("needs javac, java and g++")
    flags = ncnn_flags("x86_64")[1:]
    jni = Path(javac).resolve().parents[1] / "include"
    (folder / "android").mkdir()
    for name in ("asset_manager", "asset_manager_jni", "bitmap"):
        (folder / f"android/{name}.h").write_text('#include "android_stand_ins.h"\n')
    includes = [folder, ROOT / "tests", assets / "include"]
    library = folder / "libedgepose.so"
    # ncnn's own package for Android asks for -fno-rtti.
    options = ["-fPIC", "-shared", "-fno-rtti", "-Wall", "-Wextra", "-Werror"]
    options += [f"-I{path}" for path in includes]
    options += ["-isystem", str(jni), "-isystem", str(jni / "linux")]
    source = assets / "example/edgepose_jni.cpp"
    run([compiler, "-std=c++17", "-O2", *options, str(source), *flags, "-o", str(library)])
    (folder / "edgepose").mkdir()
    (folder / "edgepose/EdgePose.java").write_text(JAVA)
    run([javac, "-d", str(folder), str(folder / "edgepose/EdgePose.java")])
    return [java, "-cp", str(folder), "edgepose.EdgePose", str(library)]


def run(argv: list[str], *, code: int = 0, **environment: str) -> str:
    """Run a program to its end; what it printed, or, of one that fails, what it said."""
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def ncnn_flags(arch: str) -> list[str]:
    """What compiles and links with the native runner's ncnn; skips where it was not built."""
    name = f"ncnn-{NCNN_VERSION}-{arch}-gcc-*"
    for folder in sorted((cache_folder() / "runner").glob(name)):
        for library in sorted(folder.glob("lib*/libncnn.a")):
            include = ["-isystem", str(folder / "include/ncnn")]
            return ["-DEDGEPOSE_NCNN", "-fopenmp", *include, str(library)]
    pytest.skip(f"no ncnn for {arch} here; `make setup-runner` builds it")
