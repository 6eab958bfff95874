"""An ncnn artifact through the native runner: what goes over the seam, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import DeviceError, FeedError
from edge.latency import LatencySettings
from targets.runners.native.check import RunnerInfo
from targets.runners.native.session import NativeSession, measure_pipeline, place_runner
from targets.transports.fake import FakeTransport
from targets.transports.transport import Done
from tests.stand_ins.made_artifacts import make_artifact
from tests.stand_ins.native_stand_in import RUNNER, SPEC
from tests.stand_ins.runner_output import LINE

IMAGE = np.arange(3 * 64 * 48, dtype=np.float32).reshape(1, 3, 64, 48)
FEEDS = {"input": IMAGE}
SETTINGS = LatencySettings(2, 0.0, 3, 0.0, 5.0)
MS = 1_000_000


class Phone(FakeTransport):
    """A device whose runner answers with ``line``; what it was fed stays in ``fed``."""

    def __init__(self, **line: Any) -> None:
        super().__init__({(RUNNER, ...): self._answer}, name="adb 1a2b3c")
        self.line = LINE | line
        self.fed: list[bytes] = []
        self.words: dict[str, str] = {}

    def _answer(self, argv: tuple[str, ...]) -> Done:
        inputs = [argv[at + 1] for at, word in enumerate(argv) if word.endswith("input")]
        self.fed += [self.files[text.split("=", 1)[1].rsplit(":", 1)[0]] for text in inputs]
        words = [word for word in argv[1:] if word != "--pipeline"]
        self.words = dict(zip(words[::2], words[1::2], strict=True))
        if "--dump" in self.words:
            for tensor in SPEC.outputs:
                shape = tuple(size or 1 for size in tensor.shape)
                values = np.full(shape, 0.5, "<f4")
                self.files[f"{self.words['--dump']}/{tensor.name}.bin"] = values.tobytes()
        return Done(argv, 0, json.dumps(self.line).encode(), b"")


def outputs(**changes: Any) -> list[dict[str, Any]]:
    plain = {"non_finite": 0, "same_in_last": True}
    return [
        plain | {"name": tensor.name, "shape": tensor.shape, "file": f"{tensor.name}.bin"} | changes
        for tensor in SPEC.outputs
    ]


def session_on(phone: Phone, folder: Path, **changes: Any) -> NativeSession:
    given: dict[str, Any] = {"precision": "fp16", "threads": 2, "cpu_mask": "f0"}
    artifact = make_artifact(folder / "artifact", spec=SPEC)
    return NativeSession(phone, artifact, program=[RUNNER], folder="/w/a", **given | changes)


def test_answers_come_back_and_nothing_stays(tmp_path: Path) -> None:
    phone = Phone(outputs=outputs())
    session = session_on(phone, tmp_path)
    got = session.run(FEEDS)
    assert list(got) == ["simcc_x", "simcc_y"]
    assert got["simcc_y"].shape == (1, 17, 128)
    assert np.all(got["simcc_y"] == 0.5)
    assert phone.fed == [IMAGE.tobytes()]
    assert phone.words["--param"].startswith("/w/a/")
    assert phone.words["--cpu-mask"] == "f0"
    assert not phone.files, "its folder on the device is gone"
    assert (session.engine, session.inference_precision) == ("ncnn 1.0.20261020", "fp16")
    assert session.machine == "adb 1a2b3c"


def test_what_the_cpu_computes_in_is_what_counts(tmp_path: Path) -> None:
    phone = Phone(outputs=outputs(), computes_in="fp16-storage")
    session = session_on(phone, tmp_path)
    session.run(FEEDS)
    assert session.inference_precision == "fp16-storage"


def test_a_wrong_feed_does_not_reach_the_device(tmp_path: Path) -> None:
    phone = Phone()
    with pytest.raises(FeedError, match="shape"):
        session_on(phone, tmp_path).run({"input": IMAGE[:, :, :10]})
    assert not phone.fed


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"outputs": []}, "gave no 'simcc_x'"),
        ({"outputs": outputs(shape=[1, 17, 5])}, "holds 1632 values, not 85"),
    ],
)
def test_answers_that_do_not_fit(tmp_path: Path, line: dict[str, Any], words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        session_on(Phone(**line), tmp_path).run(FEEDS)


def test_a_runner_that_fails_leaves_nothing(tmp_path: Path) -> None:
    phone = Phone()
    phone.answers[(RUNNER, ...)] = Done((), 137, b"", b"")
    with pytest.raises(DeviceError, match=r"adb 1a2b3c: the runner was killed.*memory"):
        session_on(phone, tmp_path).measure(FEEDS, SETTINGS)
    assert not phone.files


def test_a_timed_run(tmp_path: Path) -> None:
    phone = Phone(affinity=["f0", "30"], affinity_after=["f0", "f1"])
    timed = session_on(phone, tmp_path).measure(FEEDS, SETTINGS)
    assert phone.words["--min-iterations"] == "3"
    assert timed.samples_ns == tuple(LINE["samples_ns"])
    assert timed.starts_ns == (0, 9_000_100, 18_100_200), "from the first sample on"
    assert timed.affinity == "f1", "the union of what the threads could run on"
    assert timed.reasons == (), "whether that is the mask that was asked for, the verdict says"
    assert timed.cold.load_ms == 20.0
    assert timed.cold.first_inference_ms == 15.0
    assert [point.clocks_khz for point in timed.points] == [{"cpu1": 1800000}, {"cpu1": 1700000}]
    assert timed.outputs_finite is True
    assert timed.details["cpu_features"] == "asimdhp"
    assert timed.details["openmp_environment"] == "OMP_WAIT_POLICY=active"
    assert timed.runner.name == "native"

    broken = Phone(outputs=outputs(non_finite=3))
    timed = session_on(broken, tmp_path / "broken").measure(FEEDS, SETTINGS)
    assert timed.outputs_finite is None, "the reasons say which output it is"
    assert "output simcc_x holds 3 values that are not finite" in timed.reasons


def test_frames_of_a_pipeline(tmp_path: Path) -> None:
    """Seven frames, the detector in every third: two whole groups and a frame of none."""
    samples = [20 * MS, 5 * MS, 5 * MS, 26 * MS, 5 * MS, 5 * MS, 20 * MS]
    phone = Phone(
        samples_ns=samples,
        starts_ns=[100 * at for at in range(7)],
        pipeline={"interval": 3, "people": 2},
    )
    pose, finder = (session_on(phone, tmp_path / name) for name in ("pose", "finder"))
    people = [FEEDS, {"input": IMAGE + 1}]
    scene = {"input": IMAGE + 2}
    timed = measure_pipeline(pose, finder, people, scene, SETTINGS, interval=3)
    assert timed.samples_ns == (10 * MS, 12 * MS), "the mean frame of three in a row"
    assert timed.starts_ns == (0, 300)
    assert timed.details["detector_frame_ms"] == 23.0
    assert timed.details["other_frame_ms"] == 5.0
    assert (timed.details["interval"], timed.details["people"]) == (3, 2)
    assert phone.words["--min-iterations"] == "9", "three samples of three frames"
    assert phone.fed == [IMAGE.tobytes(), (IMAGE + 1).tobytes(), (IMAGE + 2).tobytes()]
    assert not phone.files


def test_the_runner_is_pushed_once(tmp_path: Path) -> None:
    path = tmp_path / "edgepose-runner-aarch64-0"
    path.write_bytes(b"program")
    info = RunnerInfo(path, "aarch64", None, {}, answered=True)
    phone = FakeTransport()
    remote = place_runner(phone, info)
    assert remote == "/data/local/tmp/edgepose/runner/edgepose-runner-aarch64-0"
    assert phone.programs == {remote}
    place_runner(phone, info)
    assert sum(call.verb == "push" for call in phone.calls) == 1
