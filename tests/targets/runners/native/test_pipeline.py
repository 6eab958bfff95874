"""Pictures through the native runner: what goes over the seam, and what is made of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact
from edge.errors import DeviceError, ImageError, SpecError
from edge.latency import LatencySettings
from edge.spec import ModelSpec
from targets.runners.native.pipeline import NativePipeline
from targets.runners.native.session import NativeSession
from targets.transports.fake import FakeTransport
from targets.transports.transport import Done
from tests.stand_ins.header_build import detector_spec
from tests.stand_ins.made_artifacts import make_artifact
from tests.stand_ins.native_stand_in import RUNNER, SPEC
from tests.stand_ins.runner_output import LINE

SETTINGS = LatencySettings(2, 0.0, 3, 0.0, 5.0, pause_s=0.002)
MS = 1_000_000
PICTURES = [np.full((4, 6, 3), 9, np.uint8), np.full((8, 2, 3), 7, np.uint8)]
PERSON: dict[str, Any] = {
    "box_xyxy": [1.5, 2, 30.25, 40],
    "score": 0.75,
    "keypoints": [[k, 2 * k, 0.5] for k in range(17)],
}


class Phone(FakeTransport):
    """A device whose runner finds ``people`` in each picture, or answers with ``line``."""

    def __init__(self, *people: list[dict[str, Any]], **line: Any) -> None:
        super().__init__({(RUNNER, ...): self._answer}, name="adb 1a2b3c")
        self.people = people
        self.line = LINE | line
        self.told: str | None = None
        self.argv: tuple[str, ...] = ()
        self.given: dict[str, bytes] = {}

    def _answer(self, argv: tuple[str, ...]) -> Done:
        self.argv = argv
        self.given = dict(self.files)
        pictures = [argv[at + 1] for at, word in enumerate(argv) if word == "--picture"]
        told = json.dumps(self.line)
        if "--find" in argv:
            told = "\n".join(
                json.dumps(
                    {
                        "schema": 1,
                        "kind": "edgepose-people",
                        "picture": picture.rpartition(":")[0],
                        "people": people,
                    }
                )
                for picture, people in zip(pictures, self.people, strict=False)
            )
        return Done(argv, 0, (told if self.told is None else self.told).encode(), b"")

    def value(self, option: str) -> str:
        return self.argv[self.argv.index(option) + 1]

    def manifest(self, option: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.given[self.value(option)])
        return read


def ncnn_artifact(folder: Path, spec: ModelSpec, **changes: Any) -> Artifact:
    artifact = make_artifact(folder, spec=spec)
    return replace(artifact, **changes)


def session(phone: Phone, folder: Path, spec: ModelSpec, **changes: Any) -> NativeSession:
    given: dict[str, Any] = {"precision": "fp16", "threads": 2, "cpu_mask": "f0"}
    artifact = ncnn_artifact(folder / spec.name, spec)
    return NativeSession(
        phone, artifact, program=[RUNNER], folder=f"/w/{spec.name}", **given | changes
    )


def pipeline(phone: Phone, folder: Path, *, detects: bool = True, **changes: Any) -> NativePipeline:
    pose = session(phone, folder, SPEC, **changes)
    finder = session(phone, folder, detector_spec((320, 320)), precision="bf16")
    return NativePipeline(pose, finder if detects else None, score_threshold=0.4)


def test_people_come_back_and_nothing_stays(tmp_path: Path) -> None:
    phone = Phone([PERSON, PERSON | {"score": None}], [])
    first, second = pipeline(phone, tmp_path).find(PICTURES, people=2)
    assert second == [] and len(first) == 2 and first[0].track_id is None
    np.testing.assert_array_equal(first[0].box_xyxy, np.array([1.5, 2, 30.25, 40], np.float32))
    assert first[0].box_score == 0.75 and np.isnan(first[1].box_score)
    np.testing.assert_array_equal(first[0].keypoints[16], np.array([16, 32, 0.5], np.float32))
    assert not phone.files, "its folder on the device is gone"

    pictures = [phone.argv[at + 1] for at, word in enumerate(phone.argv) if word == "--picture"]
    assert [text.rpartition(":")[2] for text in pictures] == ["4x6", "8x2"]
    for text, image in zip(pictures, PICTURES, strict=True):
        assert phone.given[text.rpartition(":")[0]] == image.tobytes()
    assert phone.value("--param").startswith(f"/w/{SPEC.name}/")
    assert phone.value("--det-bin").startswith("/w/detector/")
    words = ("--threads", "--cpu-mask", "--score", "--people", "--interval")
    assert [phone.value(word) for word in words] == ["2", "f0", "0.4", "2", "1"]
    assert "--find" in phone.argv and "--min-iterations" not in phone.argv
    # Each network in its own arithmetic, with the spec as it is.
    assert phone.manifest("--manifest")["arithmetic"] == "fp16"
    assert phone.manifest("--det-manifest")["arithmetic"] == "bf16"
    assert phone.manifest("--manifest")["spec"] == json.loads(json.dumps(SPEC.to_json()))


def test_a_pose_model_alone_has_no_boxes_to_choose(tmp_path: Path) -> None:
    phone = Phone([PERSON])
    pipeline(phone, tmp_path, detects=False).find(PICTURES[:1], people=3)
    assert not {"--det-param", "--score", "--people", "--interval"} & set(phone.argv)


def test_frames_of_pictures(tmp_path: Path) -> None:
    """Seven frames, the detector in every third: two whole groups and a frame of none."""
    samples = [20 * MS, 5 * MS, 5 * MS, 26 * MS, 5 * MS, 5 * MS, 20 * MS]
    phone = Phone(
        samples_ns=samples,
        starts_ns=[100 * at for at in range(7)],
        pipeline={
            "interval": 3,
            "people": 2,
            "detector_computes_in": "fp16-storage",
            "networks_ns": [sample - MS for sample in samples],
        },
    )
    timed = pipeline(phone, tmp_path).measure(PICTURES[0], SETTINGS, interval=3, people=2)
    assert timed.samples_ns == (10 * MS, 12 * MS), "the mean frame of three in a row"
    assert timed.details["detector_frame_ms"] == 23.0
    assert timed.details["networks_ms"] == 10.0 and timed.details["networks_share"] == 0.9091
    assert timed.details["detector_inference_precision"] == "fp16-storage"
    assert (timed.details["interval"], timed.details["people"]) == (3, 2)
    assert phone.value("--min-iterations") == "9" and phone.value("--pause-ms") == "2"
    assert phone.value("--interval") == "3" and "--find" not in phone.argv
    assert not phone.files


def test_parts_that_do_not_fit_their_samples(tmp_path: Path) -> None:
    phone = Phone(pipeline={"interval": 1, "people": 1, "networks_ns": [1]})
    with pytest.raises(DeviceError, match="the networks' part of 1 samples"):
        pipeline(phone, tmp_path).measure(PICTURES[0], SETTINGS)


@pytest.mark.parametrize(
    ("people", "said"),
    [
        ([PERSON | {"box_xyxy": [1, 2, 3]}], "4 numbers"),
        ([PERSON | {"score": "high"}], 'score\' must be a number or null, got "high"'),
        ([PERSON | {"score": True}], "score' must be a number or null, got true"),
        ([PERSON | {"keypoints": PERSON["keypoints"][:16]}], "17 keypoints a person"),
        ([PERSON | {"keypoints": 17}], "keypoints' must be a list, got 17"),
        ([{"score": 1}], "box_xyxy"),
        (7, "is not its one line"),
    ],
)
def test_a_line_that_makes_no_sense(tmp_path: Path, people: Any, said: str) -> None:
    with pytest.raises(DeviceError, match=said) as error:
        pipeline(Phone(people), tmp_path).find(PICTURES[:1])
    assert str(error.value).startswith("adb 1a2b3c: ") and "\n" not in str(error.value)


def test_lines_that_are_missing_or_of_another_picture(tmp_path: Path) -> None:
    phone = Phone([PERSON], [])
    phone.told = ""
    with pytest.raises(DeviceError, match="told of 0 of 2 pictures"):
        pipeline(phone, tmp_path).find(PICTURES)
    phone.told = json.dumps(
        {"schema": 1, "kind": "edgepose-people", "picture": "/elsewhere", "people": []}
    )
    with pytest.raises(DeviceError, match="told of '/elsewhere'"):
        pipeline(phone, tmp_path).find(PICTURES[:1])


def test_a_runner_that_fails_leaves_nothing(tmp_path: Path) -> None:
    phone = Phone()
    said = b"edgepose-runner: p.bgr: 5 bytes, a picture of 2x3 (height x width) has 18\n"
    phone.answers[(RUNNER, ...)] = Done((), 4, b"", said)
    with pytest.raises(DeviceError, match=r"adb 1a2b3c: the inputs do not fit.*p\.bgr: 5 bytes"):
        pipeline(phone, tmp_path).find(PICTURES)
    assert not phone.files


def test_what_the_header_does_not_have_is_refused(tmp_path: Path) -> None:
    phone = Phone()
    heads = detector_spec((320, 320))
    other = replace(heads, name="x", codec="yolox", strides=(32,), outputs=(
        replace(heads.outputs[0], shape=(1, 100, 6)),
    ))  # fmt: skip
    with pytest.raises(SpecError, match=r"x has the codec 'yolox'.*--networks-alone"):
        NativePipeline(session(phone, tmp_path, SPEC), session(phone, tmp_path, other))


def test_what_is_no_picture_does_not_reach_the_device(tmp_path: Path) -> None:
    phone = Phone()
    wrong: Any
    for wrong in (np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3), np.float32)):
        with pytest.raises(ImageError, match=r"\(H, W, 3\) uint8"):
            pipeline(phone, tmp_path).find([wrong])
    assert not phone.argv and not phone.files
