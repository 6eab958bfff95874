"""What the tests of `edge bench --target android` have at hand: a stand-in phone, a small artifact.

`Studio` is for a module, `Stage` for a test. The phone's folder stays for a module, so that runner
and artifact need not be pushed for each test; its facts are turned back before each.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge.cli import main
from edge.errors import ToolError
from edge.files import cache_folder
from targets.result import RunResult, read_runs
from targets.runners.native.build import find_runner
from tests.conftest import ROOT, heed_interrupts, tiny_simcc_model
from tests.stand_ins import adb_userland
from tests.stand_ins.adb_device import NEW_ANDROID, StandInPhone, adb, connected, own_adb_server
from tests.stand_ins.built_runner import skip_or_raise

WORK = "data/local/tmp/edgepose"
STAY_ON = "stay_on_while_plugged_in"
# The measuring run of the native runner, and a run for its answers alone.
MEASURING, ANSWERING = "--min-iterations 3", "--min-iterations 0"
FEW = (
    *("--min-count", "3", "--min-seconds", "0", "--warmup-count", "1", "--warmup-seconds", "0"),
    *("--cpu-mask", "1", "--threads", "1", "--inference-precision", "fp32"),
)
LONG = ("--min-seconds", "60")


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, lines on standard error, its output, files of runs."""

    code: int
    lines: list[str]
    output: str
    runs: list[RunResult]

    @property
    def error(self) -> str:
        """The one line that says what failed."""
        errors = [line for line in self.lines if line.startswith("edge: ")]
        assert len(errors) == 1, self.lines
        assert self.lines[-1] == errors[0] and "Traceback" not in "".join(self.lines), self.lines
        return errors[0]


@dataclass(frozen=True)
class Stage:
    """A connected phone, an artifact with a picture to compare it on, and a folder for runs."""

    phone: StandInPhone
    artifact: Path
    pictures: Path
    out: Path
    capture: pytest.CaptureFixture[str]

    def argv(self, *more: str, artifacts: tuple[Path, ...] = ()) -> list[str]:
        """The command line of a bench; options in ``more`` win over those of all tests."""
        named = [str(path) for path in artifacts or (self.artifact,)]
        plain = ["--target", "android", "--serial", self.phone.serial, "--repeat", "1", *FEW]
        plain += ["--images", str(self.pictures), "--out", str(self.out)]
        return ["bench", *named, *plain, *more]

    def bench(self, *more: str, artifacts: tuple[Path, ...] = ()) -> Outcome:
        """`edge bench` in this process."""
        return self.outcome(self.argv(*more, artifacts=artifacts))

    def outcome(self, argv: list[str]) -> Outcome:
        """A command in this process."""
        self.capture.readouterr()
        code = main(argv)
        printed = self.capture.readouterr()
        return Outcome(code, printed.err.splitlines(), printed.out, self.runs())

    def process(self, *more: str) -> subprocess.Popen[str]:
        """`edge bench` as a process that takes signals."""
        return subprocess.Popen(
            [sys.executable, "-m", "edge", *self.argv(*more)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
        )

    def runs(self) -> list[RunResult]:
        """The runs that were stored; nothing else lies where they do."""
        folder = self.out / "results"
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        assert all(re.fullmatch(r"[^.].*\.json", name) for name in names), names
        return list(read_runs([str(folder)])) if names else []

    def when_measuring(self, action: Callable[[], object], *, after_s: float = 0.0) -> None:
        """Do something when the next measuring run starts, or so long after that."""
        self.phone.on_command(MEASURING, lambda: (action(), None)[1], after_s=after_s)

    def on_device(self, pattern: str) -> list[Path]:
        """Files below the working folder of the device."""
        return sorted((self.phone.root / WORK).glob(pattern))

    def reconnect(self) -> None:
        """Plug it in again, without waiting for the server, which looks every ten seconds."""
        if not self.phone.is_plugged_in:
            self.phone.plug_in()

        def is_listed() -> object:
            adb("disconnect", self.phone.serial)
            adb("connect", self.phone.serial)
            return re.search(rf"{self.phone.serial}\s+device", adb("devices"))

        wait_until(is_listed, "the phone did not come back")

    def put_back_as_told(self, lines: list[str]) -> int:
        """Type the commands that a bench says put the settings back; how many there were."""
        told = [line.partition("do it with: ")[2] for line in lines]
        for line in filter(None, told):
            subprocess.run(line, shell=True, check=True, capture_output=True, timeout=30)
        return len([line for line in told if line])


def running_on(phone: StandInPhone) -> list[str]:
    """Programs that run on the phone, whoever started them."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "root").readlink() == phone.root:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return [line for line in found if "adb_sync_service" not in line]


def runners_on(phone: StandInPhone) -> list[int]:
    """The process numbers of the native runners there."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or (entry / "root").readlink() != phone.root:
                continue
            if b"edgepose-runner" in (entry / "cmdline").read_bytes().split(b"--param")[0]:
                found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextlib.contextmanager
def at_rest(phone: StandInPhone) -> Iterator[None]:
    """A phone as nobody has touched it, and afterwards again, with nothing left running."""
    knobs, scratch = phone.knobs, phone.root / WORK / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    knobs.battery()
    knobs.battery_saver(on=False)
    knobs.thermal(0)
    knobs.clocks()
    knobs.clock_limits()
    knobs.disk_full_after(None)
    knobs.set_property("ro.kernel.qemu", "1")
    # Awake on a mains charger alone: neither the default nor what a bench sets.
    knobs.set_setting("global", STAY_ON, "1")
    yield
    wait_until(lambda: not running_on(phone), f"left running: {running_on(phone)}", 5.0)
    assert knobs.setting("global", STAY_ON) == "1", "the screen's setting was not put back"
    assert knobs.fixed_performance in (None, "false"), "the fixed-performance mode was not put back"
    assert not scratch.exists() or not list(scratch.iterdir()), "scratch files were left"
    assert not list((phone.root / WORK).rglob("*.part")), "half a file was left"


@dataclass(frozen=True)
class Studio:
    """What the tests of a module share: the folder behind the phone, and models to time."""

    root: Path
    models: Path

    @functools.cached_property
    def artifact(self) -> Path:
        """The tiny pose model."""
        return self.another("tiny")

    def another(self, name: str) -> Path:
        """The same under another name."""
        return converted(tiny_simcc_model(scale_norm=True), name, self.models)

    @functools.cached_property
    def pictures(self) -> Path:
        """A folder with one picture: each is a process on the phone."""
        folder = self.models / "one"
        assert main(["synthetic", "--out", str(folder), "--count", "1", "--crops"]) == 0
        return folder

    @contextlib.contextmanager
    def stage(
        self,
        folder: Path,
        capture: pytest.CaptureFixture[str],
        features: tuple[str, ...] = NEW_ANDROID,
    ) -> Iterator[Stage]:
        """A connected phone at rest; afterwards neither side has anything half-done."""
        artifact, pictures = self.artifact, self.pictures
        own = folder / "host-tmp"
        own.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(own))
            patch.setenv("TMPDIR", str(own))
            phone = StandInPhone(self.root, features=features)
            with connected(phone), at_rest(phone):
                yield Stage(phone, artifact, pictures, folder / "build", capture)
        # ONNX Runtime leaves a file of its own, once a process.
        left = [str(path.relative_to(own)) for path in own.rglob("*") if path.name != ".ses"]
        assert not left, f"scratch files were left on this machine: {left}"


@contextlib.contextmanager
def open_studio(make_folder: Callable[[str], Path]) -> Iterator[Studio]:
    """A studio with an adb server, and the runner in the cache although HOME is another.

    Skips where no phone can be played, or no runner be built.
    """
    if reason := adb_userland.why_not():
        pytest.skip(reason)
    try:
        find_runner("aarch64")
    except ToolError as error:
        skip_or_raise(error)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPOSE_CACHE", str(cache_folder()))
        patch.setenv("OMP_NUM_THREADS", "1")
        with own_adb_server(make_folder("home")):
            adb("start-server")  # its log is none of a bench's files
            yield Studio(make_folder("phone"), make_folder("models"))


def converted(model: Any, name: str, folder: Path, *options: str) -> Path:
    """The ncnn artifact of a model, not checked on ARM: that is another test's matter."""
    import onnx

    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"{name}.onnx"
    onnx.save(model, str(source))
    argv = ["convert", "--target", "x86", "--formats", "ncnn-fp16", "--model", str(source)]
    main([*argv, "--out", str(folder / "build"), *options])
    return folder / "build/x86" / f"{name}-ncnn-fp16"


def overflowing_model() -> Any:
    """A network right in floats that leaves FP16's range in between."""
    from onnx import numpy_helper

    model = tiny_simcc_model()
    for weight in model.graph.initializer:
        if weight.name in ("conv.w", "w_x", "w_y"):
            factor = 1e5 if weight.name == "conv.w" else 1e-5
            array = numpy_helper.to_array(weight) * factor
            weight.CopyFrom(numpy_helper.from_array(array.astype("float32"), weight.name))
    return model


def signal_runner(phone: StandInPhone, number: signal.Signals) -> None:
    """Send a signal to the native runner that runs there, or is about to."""
    wait_until(lambda: runners_on(phone), "there is no runner")
    for pid in runners_on(phone):
        os.kill(pid, number)


def take_mask_away(phone: StandInPhone) -> None:
    """Let the runner, which keeps to CPU 0, use every CPU, as some makers' kernels do."""
    wait_until(
        lambda: {0} in [os.sched_getaffinity(pid) for pid in runners_on(phone)],
        "the runner has set no mask",
    )
    time.sleep(0.3)  # it looks itself, right after it has set it
    for pid in runners_on(phone):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), range(os.cpu_count() or 1))
