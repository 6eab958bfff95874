"""What the Python runner knows of a run, against an engine whose answers and times are scripted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import FeedError, SpecError
from edge.latency import LatencySettings, spread_reasons
from edge.runner import bench, hold_cpu_mask, mask_reasons, noise, read_image
from edge.session import Session
from tests.stand_ins.python_runners import SPEC

SHORT = LatencySettings(
    warmup_count=2, warmup_duration_s=0, min_count=5, min_duration_s=0, max_duration_s=60
)
IMAGE = np.zeros((1, 3, 64, 48), np.float32)
MS = 1_000_000


class Clock:
    """A clock that stands still but for what the engine takes."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


class Scripted(Session):
    """Every answer is the image's mean plus ``add`` of the call's number; a call takes 2 ms."""

    def __init__(self, clock: Clock, add: Any = None, max_batch: int | None = None):
        clock.now += 30 * MS
        self.spec, self.engine, self.inference_precision = SPEC, "scripted 1", "fp32"
        self.max_batch = max_batch
        self.calls, self.closed = 0, False
        self._clock, self._add = clock, add or (lambda _: 0.0)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self.calls += 1
        self._clock.now += 7 * MS if self.calls == 1 else 2 * MS
        (image,) = feeds.values()
        value = image.mean() + self._add(self.calls)
        return {
            tensor.name: np.full((len(image), *tensor.shape[1:]), value, np.float32)
            for tensor in SPEC.outputs
        }

    def close(self) -> None:
        self.closed = True


def run(add: Any = None, **options: Any) -> tuple[Any, Scripted]:
    clock = Clock()
    sessions: list[Scripted] = []

    def load() -> Scripted:
        sessions.append(Scripted(clock, add))
        return sessions[0]

    known: dict[str, Any] = {"threads": 3, "settings": SHORT, "clock_ns": clock}
    images = options.pop("images", [IMAGE])
    return bench(load, images, **(known | options)), sessions[0]


def test_times_and_samples() -> None:
    done, session = run()
    assert (done.cold.load_ms, done.cold.first_inference_ms) == (30.0, 7.0)
    assert done.result.samples_ns == (2 * MS,) * 5
    assert done.result.starts_ns == (0, 2 * MS, 4 * MS, 6 * MS, 8 * MS)
    # the first, two to warm up, five samples, the last
    assert session.calls == 9
    assert session.closed
    assert (done.reasons, done.warnings) == ((), ())
    assert [output.same_in_last for output in done.outputs] == [True, True]


def test_answers_alone(tmp_path: Path) -> None:
    images = [IMAGE + 1, IMAGE + 2, IMAGE + 3]
    done, session = run(images=images, settings=None, dump=tmp_path / "out")
    assert session.calls == 3
    assert done.result is None
    line = json.loads(json.dumps(done.to_json(), allow_nan=False))
    assert (line["samples_ns"], line["starts_ns"], line["summary"]) == ([], [], None)
    assert [(o["image"], o["name"], o["same_in_last"]) for o in line["outputs"]] == [
        (image, name, None) for image in range(3) for name in ("simcc_x", "simcc_y")
    ]
    for output in line["outputs"]:
        array = np.load(tmp_path / "out" / output["file"])
        assert list(array.shape) == output["shape"]
        assert (array == output["image"] + 1).all()
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_answers_that_make_a_figure_invalid() -> None:
    broken, _ = run(add=lambda _: np.nan)
    assert [output.non_finite for output in broken.outputs] == [17 * 96, 17 * 128]
    assert len(broken.reasons) == 2
    assert "simcc_x holds 1632 values that are not finite" in broken.reasons[0]
    assert not broken.to_json()["valid"]
    late, _ = run(add=lambda call: np.inf if call == 9 else 0.0)
    assert [output.non_finite for output in late.outputs] == [17 * 96, 17 * 128]
    fickle, _ = run(add=float)
    assert "simcc_y was another one in the last inference" in fickle.reasons[1]
    # Without a figure nothing is invalid: the answers speak for themselves.
    alone, _ = run(add=lambda _: np.nan, settings=None)
    assert alone.reasons == ()
    assert alone.outputs[0].non_finite == 17 * 96
    json.dumps(alone.to_json(), allow_nan=False)


def test_too_few_samples_and_a_disturbed_run() -> None:
    settings = LatencySettings(0, 0.0, 50, 0.0, 0.02)
    done, _ = run(settings=settings)
    assert "only 10 of 50 samples" in done.reasons[0]
    slow = dict.fromkeys(range(10, 60, 10), 50)
    clock = Clock()

    class Jumpy(Scripted):
        def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
            clock.now += slow.get(self.calls, 0) * MS
            return super().run(feeds)

    jumpy = bench(
        lambda: Jumpy(clock),
        [IMAGE],
        threads=1,
        settings=LatencySettings(0, 0.0, 60, 0.0, 60.0),
        clock_ns=clock,
    )
    # The rule of a run on a target, by the same function.
    assert jumpy.result is not None
    assert jumpy.reasons == spread_reasons(jumpy.result.samples_ns)
    assert "something else was running" in jumpy.reasons[0]
    assert not jumpy.to_json()["valid"]


def test_a_batch_that_the_engine_does_not_take() -> None:
    clock = Clock()
    session = Scripted(clock, max_batch=1)
    with pytest.raises(FeedError, match="takes a batch of 1, got 2"):
        bench(lambda: session, [np.repeat(IMAGE, 2, 0)], threads=1, settings=SHORT, clock_ns=clock)
    assert session.closed


def test_masks_may_be_narrower_than_asked() -> None:
    assert mask_reasons(None, ["ff"]) == ()
    assert mask_reasons("f0", ["f0", "10", "80"]) == ()
    assert mask_reasons("f0", ["f0", "f1", "ff"]) == (
        "the CPU mask f0 did not hold: a thread had f1, ff",
    )


def test_noise_is_the_same_every_time() -> None:
    assert noise(SPEC).shape == (1, 3, 64, 48)
    assert noise(SPEC).dtype == np.float32
    np.testing.assert_array_equal(noise(SPEC), noise(SPEC))
    assert abs(float(noise(SPEC).std()) - 1) < 0.05


def test_files_that_are_no_array(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", IMAGE)
    np.testing.assert_array_equal(read_image(tmp_path / "good.npy"), IMAGE)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npy").touch()
    data = (tmp_path / "good.npy").read_bytes()
    (tmp_path / "half.npy").write_bytes(data[: len(data) // 2])
    np.savez(tmp_path / "many.npy", a=IMAGE)
    (tmp_path / "many.npy.npz").rename(tmp_path / "many.npy")
    np.save(tmp_path / "objects.npy", np.array([{}, None], object), allow_pickle=True)
    for name in ("absent", "text", "empty", "half", "many", "objects"):
        with pytest.raises(FeedError, match=rf"{name}\.npy: "):
            read_image(tmp_path / f"{name}.npy")


# What the process itself is asked, in a process of its own

_AFFINITY = """
import json, os, sys, threading, time
import numpy as np
from edge.runner import hold_cpu_mask, thread_masks
def wait():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
wait()
mask = hold_cpu_mask(sys.argv[1])
wait()
time.sleep(0.1)
# What the kernel says, thread by thread, by another way than the file that is read.
own = [sorted(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")]
print(json.dumps({"mask": mask, "masks": thread_masks(), "own": own}))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinities on this system")
def test_a_mask_holds_for_threads_before_and_after() -> None:
    cpu = max(os.sched_getaffinity(0))
    given = f"0x{1 << cpu:X}"
    done = subprocess.run(
        [sys.executable, "-c", _AFFINITY, given],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said = json.loads(done.stdout)
    assert said["mask"] == f"{1 << cpu:x}"
    assert len(said["own"]) >= 3
    assert all(cpus == [cpu] for cpus in said["own"])
    assert said["masks"] == [f"{1 << cpu:x}"] * len(said["own"])


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinities on this system")
def test_masks_that_cannot_hold() -> None:
    before = os.sched_getaffinity(0)
    for text in ("", "0", "xyz", "-1", "f0 "):
        with pytest.raises(SpecError, match="a CPU mask is hexadecimal"):
            hold_cpu_mask(text)
    # A CPU that is not there, alone and beside those that are.
    beyond = 1 << 1000
    here = sum(1 << cpu for cpu in before)
    for mask in (beyond, beyond | here):
        with pytest.raises(SpecError, match=f"does not hold here: .* CPUs of {here:x}$"):
            hold_cpu_mask(f"{mask:x}")
        assert os.sched_getaffinity(0) == before


_MEMORY = """
import json
import numpy as np
from edge import runner as bench
before = bench._peak_memory_kb()
block = np.ones(200_000_000, np.uint8)
del block
print(json.dumps([before, bench._peak_memory_kb()]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
def test_the_peak_of_memory_outlives_what_was_freed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY], capture_output=True, text=True, timeout=60, check=True
    )
    before, peak = json.loads(done.stdout)
    # The pages of the block, less what the process had at hand anyway.
    assert peak - before == pytest.approx(200_000_000 / 1024, rel=0.05)


def test_clocks_are_read_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, text in {"cpu0": "1800000\n", "cpu10": "2400000\n", "cpu2": "<unknown>\n"}.items():
        (tmp_path / cpu / "cpufreq").mkdir(parents=True)
        (tmp_path / cpu / "cpufreq/scaling_cur_freq").write_text(text)
    (tmp_path / "cpufreq").mkdir()
    (tmp_path / "cpu3").mkdir()
    monkeypatch.setattr("edge.runner._CPUS", tmp_path)
    done, _ = run()
    assert done.clocks_khz == {"cpu0": 1800000, "cpu10": 2400000}
    assert done.to_json()["clocks_khz_after"] == done.clocks_khz
