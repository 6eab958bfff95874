"""The native runner on pictures, for x86-64 here and for aarch64 under QEMU.

The Python pipeline on ncnn's own package says what is right.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from calibration.people.synthetic import scene
from edge.artifact import Artifact, load_artifact
from edge.cli import main
from edge.detector import Detector
from edge.latency import LatencySettings
from edge.pipeline import Pipeline, Pose
from edge.pose import PoseEstimator
from edge.session import EngineSettings, open_session
from targets.app.manifest import manifest_of
from targets.commands import bench_pipeline
from targets.result import RunResult
from targets.runners.native.pipeline import NativePipeline
from targets.runners.native.session import NativeSession
from targets.transports.local import open_local
from targets.transports.programs import run_program
from targets.transports.transport import Done
from tests.stand_ins.runner_programs import arm, refused, x86

__all__ = ["arm", "x86"]  # fixtures of both architectures' runners

pytest.importorskip("ncnn")
if find_spec("pnnx") is None:  # importing it would need PyTorch
    pytest.skip("pnnx is not installed", allow_module_level=True)

pytestmark = pytest.mark.slow

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Models:
    detector: Artifact
    pose: Artifact


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The demo pair in floats."""
    folder = tmp_path_factory.mktemp("models")
    options = ["--formats", "ncnn-fp32", "--no-arm-check", "--out", str(folder)]
    assert main(["convert", "--target", "android", *options]) == 0
    names = ("rtmdet-nano-demo", "rtmpose-t-demo")
    return Models(*(load_artifact(folder / f"android-sd865/{name}-ncnn-fp32") for name in names))


def on(program: Sequence[str], models: Models, *, detects: bool = True) -> NativePipeline:
    """The pipeline that a runner here makes of the models."""
    sessions = [
        NativeSession(
            open_local(),
            artifact,
            program=program,
            folder=str(artifact.folder),
            precision="fp32",
            threads=1,
        )
        for artifact in (models.pose, models.detector)
    ]
    return NativePipeline(sessions[0], sessions[1] if detects else None)


def in_python(models: Models, images: Sequence[Image], *, detects: bool = True) -> list[list[Pose]]:
    settings = EngineSettings(threads=1)
    with (
        open_session(models.detector, settings) as detector,
        open_session(models.pose, settings) as pose,
    ):
        finder = Detector(detector, label=0) if detects else None
        pipeline = Pipeline(PoseEstimator(pose), finder)
        return [pipeline(image) for image in images]


def crowd(index: int) -> Image:
    return scene(7, index, people=(2, 4), variety=0.0).image_bgr


def assert_same(got: list[Pose], want: list[Pose]) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one.box_xyxy, other.box_xyxy, atol=1e-3, rtol=0)
        assert one.box_score == pytest.approx(other.box_score, abs=1e-4)
        np.testing.assert_allclose(one.keypoints[:, 2], other.keypoints[:, 2], atol=1e-4)
        # Where two bins are within rounding of each other, another build of ncnn may take the
        # other: seldom where the model is sure.
        sure = other.keypoints[:, 2] > 0.3
        np.testing.assert_allclose(
            one.keypoints[sure, :2], other.keypoints[sure, :2], atol=1e-3, rtol=0
        )


def test_people_of_pictures(x86: list[str], models: Models) -> None:
    images = [crowd(1), np.full((120, 90, 3), 127, np.uint8), crowd(0)]
    want = in_python(models, images)
    assert [len(people) > 1 for people in want] == [True, False, True] and not want[1]
    got = on(x86, models).find(images)
    for people, wanted in zip(got, want, strict=True):
        assert_same(people, wanted)
    (best,) = on(x86, models).find(images[:1], people=1)
    assert_same(best, want[0][:1])


def test_people_of_a_picture_on_arm(arm: list[str], models: Models) -> None:
    image = crowd(0)
    (want,) = in_python(models, [image])
    assert len(want) > 1
    (got,) = on(arm, models).find([image])
    assert_same(got, want)


@pytest.mark.parametrize("size", [(300, 1), (1, 1), (1, 300), (97, 61)])
def test_a_pose_model_on_the_whole_picture(
    x86: list[str], models: Models, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    got = on(x86, models, detects=False).find([image])
    ((want,),) = in_python(models, [image], detects=False)
    assert_same(got[0], [want])
    assert got[0][0].box_xyxy.tolist() == [0, 0, size[1], size[0]]


def test_pictures_one_pixel_wide(x86: list[str], models: Models) -> None:
    narrow = np.full((300, 1, 3), 90, np.uint8)
    assert on(x86, models).find([narrow]) == in_python(models, [narrow]) == [[]]


def test_timed_frames(x86: list[str], models: Models) -> None:
    settings = LatencySettings(2, 0.0, 6, 0.0, 60.0)
    pipeline = on(x86, models)
    timed = pipeline.measure(crowd(1), settings, interval=3, people=2)
    assert timed.reasons == () and timed.outputs_finite
    assert len(timed.samples_ns) == len(timed.starts_ns) == 6
    details = timed.details
    assert (details["interval"], details["people"]) == (3, 2)
    assert details["detector_inference_precision"] == timed.inference_precision == "fp32"
    with_detector, others = details["detector_frame_ms"], details["other_frame_ms"]
    assert isinstance(with_detector, float) and isinstance(others, float)
    assert with_detector > others > 0, "the detector is in the first of three frames"
    networks, share = details["networks_ms"], details["networks_share"]
    assert isinstance(networks, float) and isinstance(share, float)
    assert 0.3 < share < 1 and networks < sum(timed.samples_ns) / 6e6 * 2
    nobody = pipeline.measure(np.full((60, 80, 3), 127, np.uint8), settings, interval=1)
    assert nobody.details["people"] == 0 and nobody.reasons == ()
    alone = on(x86, models, detects=False).measure(crowd(1), settings, interval=3)
    assert (alone.details["interval"], alone.details["people"]) == (1, 1)


# --- the gate -------------------------------------------------------------------------------------


def test_the_runner_passes_the_gate_and_a_wrong_one_does_not(
    x86: list[str], models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = on(x86, models)
    images = bench_pipeline.pictures(None, 2)[:2]
    sights, parity = bench_pipeline.compare_pipeline(pipeline, images)
    assert parity.passed and re.search(r"pass, \d boxes, [6-9]\d keypoints", parity.summary)
    assert bench_pipeline.picture_of(sights, 2).name == "synthetic 7/0"

    right = [list(sight.people) for sight in sights]

    def judged(change: Callable[[Pose], Pose | None]) -> str:
        first = change(right[1][0])
        found = [right[0], [*([first] if first else []), *right[1][1:]]]
        monkeypatch.setattr(pipeline, "find", lambda _: found)
        report = bench_pipeline.compare_pipeline(pipeline, images)[1]
        return report.summary if not report.passed else ""

    def moved(pose: Pose, **change: Any) -> Pose:
        keypoints = pose.keypoints.copy()
        keypoints[np.argmax(keypoints[:, 2]), 0] += change.pop("x", 0)
        return replace(pose, keypoints=keypoints, **change)

    assert judged(lambda pose: pose) == ""
    assert "is gone" in judged(lambda _: None)
    assert "px off" in judged(lambda pose: replace(pose, box_xyxy=pose.box_xyxy + 0.05))
    assert "score" in judged(lambda pose: replace(pose, box_score=pose.box_score - 0.01))
    assert "px off" in judged(lambda pose: moved(pose, x=30))


def test_bench_times_whole_frames_here(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["bench", str(models.pose.folder), str(models.detector.folder), "--target", "x86"]
    argv += ["--pipeline", "--people", "2", "--interval", "2", "--repeat", "1", "--threads", "1"]
    argv += ["--min-count", "64", "--min-seconds", "0", "--warmup-seconds", "0", "--no-cooldown"]
    argv += ["--out", str(tmp_path), "--json"]
    main(argv)  # whether the machine was at rest meanwhile is no matter of this test
    told = capsys.readouterr()
    (run,) = (RunResult.from_json(one) for one in json.loads(told.out))
    assert run.artifact.model == "rtmdet-nano-demo+rtmpose-t-demo"
    pipeline = run.artifact.pipeline
    assert pipeline and (pipeline.interval, pipeline.people, pipeline.whole) == (2, 2, True)
    assert run.parity and run.parity.passed and "whole pipeline: pass" in run.parity.summary
    assert len(run.samples_ns) == 64 and run.settings["people"] == 2
    assert "frames of synthetic 7/0" in told.err

    assert main([*argv, "--people", "40"]) == 1
    assert "people at most in the pictures, not 40" in capsys.readouterr().err


# --- faults ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """The runner's command line by option, with a picture of 6x4."""

    program: list[str]
    folder: Path
    flags: dict[str, str]

    def run(self, *words: str, **changes: str | None) -> Done:
        flags = self.flags | {f"--{key.replace('_', '-')}": text for key, text in changes.items()}
        given = [word for key, text in flags.items() if text is not None for word in (key, text)]
        return run_program([*self.program, *given, *words], timeout_s=60.0)

    def file(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return str(self.folder / name)


@pytest.fixture
def given(x86: list[str], models: Models, tmp_path: Path) -> Given:
    flags = {}
    for prefix, artifact in (("--", models.pose), ("--det-", models.detector)):
        manifest = tmp_path / f"{artifact.spec.name}.json"
        manifest.write_text(json.dumps(manifest_of(artifact)))
        flags[f"{prefix}param"] = str(artifact.path("model"))
        flags[f"{prefix}bin"] = str(artifact.path("weights"))
        flags[f"{prefix}manifest"] = str(manifest)
    (tmp_path / "p.bgr").write_bytes(bytes(6 * 4 * 3))
    flags["--picture"] = f"{tmp_path / 'p.bgr'}:6x4"
    return Given(x86, tmp_path, flags)


def test_pictures_that_do_not_fit(given: Given) -> None:
    path = str(given.folder / "p.bgr")
    assert given.run("--find").returncode == 0
    cases = {
        f"{path}:6x5": "72 bytes, a picture of 6x5 (height x width) has 90",
        f"{path}:4x4": "72 bytes, a picture of 4x4 (height x width) has 48",
        given.file("cut.bgr", bytes(71)) + ":6x4": "71 bytes",
        given.file("empty.bgr", b"") + ":6x4": "0 bytes",
        f"{given.folder / 'none.bgr'}:6x4": "No such file",
        f"{given.folder}:6x4": "not a file",
        given.file("thin.bgr", bytes(3 * 700)) + ":700x1": "leaves nothing of a side in the input",
    }
    for picture, said in cases.items():
        for words in (["--find"], []):
            refused(given.run(*words, picture=picture), 4, said)


def test_models_that_do_not_fit(given: Given, models: Models) -> None:
    pose = manifest_of(models.pose)
    spec = pose["spec"]
    heatmap = json.dumps(pose | {"spec": spec | {"codec": "heatmap"}}).encode()
    weights = models.pose.path("weights").read_bytes()
    lines = models.pose.path("model").read_bytes().splitlines(keepends=True)
    assert (given.folder / "p.bgr").exists()
    cases: list[tuple[dict[str, str | None], str]] = [
        ({"manifest": given.flags["--det-manifest"]}, "has the codec 'rtmdet', here it must be"),
        ({"manifest": given.file("h.json", heatmap)}, "'heatmap' is not in this header"),
        ({"manifest": given.file("c.json", heatmap[:90])}, "not readable as JSON"),
        ({"manifest": str(given.folder / "none.json")}, "none.json: No such file"),
        ({"bin": given.file("cut.bin", weights[:-4096])}, "ncnn cannot load it"),
        ({"bin": given.file("more.bin", weights + bytes(8))}, "do not belong together"),
        ({"param": given.file("cut.param", b"".join(lines[:-2]))}, "it is cut off or damaged"),
    ]
    for changes, said in cases:
        refused(given.run("--find", **changes), 3, said)
    # Files of another network: it has none of the outputs that the manifest names.
    other = {"det_param": given.flags["--param"], "det_bin": given.flags["--bin"]}
    refused(given.run("--find", **other), 5, "rtmdet-nano-demo: ncnn failed on the output")


@pytest.mark.parametrize(
    ("words", "changes", "said"),
    [
        ([], {"picture": "p.bgr"}, "--picture takes FILE:480x640 (height x width)"),
        ([], {"picture": "p.bgr:6"}, "--picture takes FILE:480x640"),
        ([], {"picture": "p.bgr:0x4"}, "height takes a whole number of 1"),
        ([], {"picture": "p.bgr:6x40000"}, "width takes a whole number of 1"),
        ([], {"manifest": None}, "--manifest are needed"),
        ([], {"det_bin": None}, "--det-param, --det-bin and --det-manifest belong together"),
        (["--picture", "other:6x4"], {}, "one --picture is measured"),
        (["--precision", "fp16"], {}, "--precision is not for --picture"),
        (["--pipeline"], {}, "--pipeline is not for --picture"),
        (["--input", "input=x.bin:1x3x256x192"], {}, "--input is not for --picture"),
        (["--score", "1.5"], {}, "--score takes a score of 0 to 1"),
        (["--score", "nan"], {}, "--score takes a score of 0 to 1"),
        (["--people", "0"], {}, "--people takes a whole number of 1"),
        (["--find", "--find"], {}, "--find is given twice"),
        (["--find"], {"picture": None}, "are needed"),
    ],
)
def test_contradictions(
    given: Given, words: list[str], changes: dict[str, str | None], said: str
) -> None:
    refused(given.run(*words, **changes), 2, said)


def test_choices_that_need_a_detector(given: Given) -> None:
    none: dict[str, str | None] = dict.fromkeys(("det_param", "det_bin", "det_manifest"))
    assert given.run("--find", **none).returncode == 0
    for option in ("--people", "--interval", "--score"):
        refused(given.run("--find", option, "1", **none), 2, f"{option} needs a detector")


def test_a_picture_whose_name_holds_a_colon(given: Given) -> None:
    path = given.folder / "a:b:3x3"
    shutil.copyfile(given.folder / "p.bgr", path)
    line = json.loads(given.run("--find", picture=f"{path}:6x4").stdout)
    assert line == {"schema": 1, "kind": "edgepose-people", "picture": str(path), "people": []}
