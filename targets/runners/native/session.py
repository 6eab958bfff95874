"""An ncnn artifact on a device, through the native runner."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from edge.artifact import Artifact, load_constants
from edge.errors import DeviceError
from edge.files import temporary_folder
from edge.latency import ColdStart, LatencySettings
from edge.session import Array, Feeds, Session, check_feeds, check_outputs
from edge.spec import ModelSpec
from targets.device_state import StatePoint
from targets.result import RunnerRecord
from targets.runners.native.call import (
    NativeInput,
    NativeNetwork,
    NativePrecision,
    NativeRun,
    finished_run,
    read_dump,
    runner_argv,
    write_input,
)
from targets.runners.native.check import RunnerInfo
from targets.runners.session import TimedRun
from targets.transports.transport import (
    Progress,
    Transport,
    countdown,
    push_changed,
    scratch_folder,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "NativeSession",
    "frames_of",
    "limit_s",
    "measure_pipeline",
    "place_runner",
    "timed_run",
]

# Loading a network and its first inference, besides what the settings allow for.
_START_S = 120.0
_PUSH_S = 600.0


def place_runner(
    transport: Transport, runner: RunnerInfo, *, on_progress: Progress | None = None
) -> str:
    """The runner's path on the device, pushed where it is not there yet."""
    if transport.kind == "local":
        return str(runner.path.resolve())
    remote = posixpath.join(transport.work_dir, "runner", runner.path.name)
    push_changed(
        transport, runner.path, remote, executable=True, timeout_s=_PUSH_S, on_progress=on_progress
    )
    return remote


class NativeSession(Session):
    """An ncnn artifact whose files lie in ``folder`` on the device.

    ``program`` starts the runner there: its path, or an emulator's command line that ends in it.
    ``inference_precision`` is what was asked for until the first run tells what the CPU computes
    in. ``timeout_s`` is for one image's answers.
    """

    def __init__(
        self,
        transport: Transport,
        artifact: Artifact,
        *,
        program: Sequence[str],
        folder: str,
        precision: NativePrecision,
        threads: int,
        cpu_mask: str | None = None,
        timeout_s: float = _START_S,
        machine: str = "",
    ) -> None:
        self.spec = artifact.spec
        self.machine = machine or transport.name
        self.engine = "ncnn"
        self.inference_precision: str = precision
        self.max_batch: int | None = 1
        self._constants = load_constants(artifact)
        self.artifact, self.transport = artifact, transport
        self.program = tuple(program)
        self.model_path = posixpath.join(folder, artifact.files["model"])
        self.weights_path = posixpath.join(folder, artifact.files["weights"])
        self.precision: NativePrecision = precision
        self.threads, self.cpu_mask = threads, cpu_mask
        self._timeout_s = timeout_s

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, in the order of ``spec.outputs``, and the constants.

        Raises DeviceError where the runner fails, FeedError on a wrong feed.
        """
        left_s = countdown(self._timeout_s)
        with self.pushed([feeds]) as (network, folder):
            dump = posixpath.join(folder, "out")
            run = self.finish(network, None, left_s(), dump=dump)
            with temporary_folder() as text:
                for output in run.outputs:
                    if output.file:
                        remote = posixpath.join(dump, output.file)
                        self.transport.pull(remote, text / output.file, timeout_s=left_s())
                found = read_dump(run.outputs, text, self.machine)
        first = {name: arrays[0] for name, arrays in found.items()}
        outputs = check_outputs(self.spec, first, f"{self.machine}: the runner", DeviceError)
        return outputs | self._constants

    def measure(self, feeds: Feeds, settings: LatencySettings) -> TimedRun:
        """Time the network on one image; DeviceError where the runner fails."""
        with self.pushed([feeds]) as (network, _):
            run = self.finish(network, settings, limit_s(settings))
        return timed_run(run, self.spec)

    def close(self) -> None:
        """Nothing stays loaded between calls."""

    @contextmanager
    def pushed(self, images: Sequence[Feeds]) -> Iterator[tuple[NativeNetwork, str]]:
        """The network fed with images (one input each), and a folder for what it leaves."""
        with (
            temporary_folder() as text,
            scratch_folder(self.transport) as folder,
        ):
            inputs = []
            for number, feeds in enumerate(images):
                array = check_feeds(self.spec, feeds)
                local = text / f"input{number}.bin"
                write_input(local, array)
                remote = posixpath.join(folder, local.name)
                self.transport.push(local, remote, timeout_s=_START_S)
                inputs.append(NativeInput(self.spec.input.name, remote, tuple(array.shape)))
            outputs = tuple(tensor.name for tensor in self.spec.outputs)
            yield NativeNetwork(self.model_path, self.weights_path, tuple(inputs), outputs), folder

    def finish(
        self,
        network: NativeNetwork,
        settings: LatencySettings | None,
        timeout_s: float,
        *,
        dump: str | None = None,
        detector: NativeNetwork | None = None,
        interval: int = 1,
        precision: NativePrecision | None = None,
    ) -> NativeRun:
        """One start of the runner on what `pushed` left there; `runner_argv` says the options."""
        argv = runner_argv(
            self.program[-1],
            network,
            precision=precision or self.precision,
            threads=self.threads,
            settings=settings,
            cpu_mask=self.cpu_mask,
            dump=dump,
            detector=detector,
            interval=interval,
        )
        done = self.transport.run([*self.program[:-1], *argv], timeout_s=timeout_s)
        run = finished_run(done, self.machine)
        self.engine, self.inference_precision = run.engine, run.computes_in
        return run


def measure_pipeline(
    pose: NativeSession,
    detector: NativeSession,
    people: Sequence[Feeds],
    scene: Feeds,
    settings: LatencySettings,
    *,
    interval: int,
) -> TimedRun:
    """Time frames of the two networks alone: ``detector`` on ``scene`` in every ``interval``-th
    frame, ``pose`` on each of ``people`` in every frame. Both run with the settings of ``pose``,
    and in fp32 where they were opened in different precisions.

    A sample is the mean frame of ``interval`` frames in a row, of which one has the detector; the
    details have the medians of both kinds of frame.
    """
    frames = replace(settings, min_count=settings.min_count * interval)
    with pose.pushed(people) as (network, _), detector.pushed([scene]) as (finder, _):
        run = pose.finish(
            network,
            frames,
            limit_s(settings),
            detector=finder,
            interval=interval,
            precision=pose.precision if pose.precision == detector.precision else "fp32",
        )
    return frames_of(timed_run(run, pose.spec), run, interval)


def timed_run(run: NativeRun, spec: ModelSpec) -> TimedRun:
    """A run as timing sees it; ``spec`` is the model's, of a pipeline the pose model's."""
    masks = {*run.affinity, *run.affinity_after}
    held = 0
    for mask in masks:
        held |= int(mask, 16)
    first_ns = run.starts_ns[0] if run.starts_ns else 0
    details: dict[str, Any] = {
        "peak_memory_kb": run.peak_memory_kb,
        "warmed_up_count": run.warmup_count,
        "big_cpus": run.cpu.big,
        "cpu_features": " ".join(sorted(name for name, has in run.cpu.features.items() if has)),
        **run.usage,
    }
    if run.pipeline:
        details |= {"interval": run.pipeline.interval, "people": run.pipeline.people}
    if run.openmp_environment:
        details["openmp_environment"] = " ".join(run.openmp_environment)
    return TimedRun(
        runner=RunnerRecord("native", f"{run.build.get('runner')} ({run.build.get('build')})"),
        engine=run.engine,
        inference_precision=run.computes_in,
        threads=run.threads,
        affinity=f"{held:x}" if masks else None,
        input_shape=tuple(1 if size is None else size for size in spec.input.shape),
        cold=ColdStart(run.load_ns / 1e6, run.first_inference_ns / 1e6),
        samples_ns=run.samples_ns,
        starts_ns=tuple(start - first_ns for start in run.starts_ns),
        outputs_finite=None if any(one.non_finite for one in run.outputs) else True,
        points=tuple(
            StatePoint(
                (clocks.t_ns - first_ns) / 1e9,
                clocks_khz={
                    f"cpu{core}": khz for core, khz in enumerate(clocks.khz) if khz is not None
                },
            )
            for clocks in run.clocks
        ),
        reasons=tuple(run.reasons()),
        details=details,
    )


def frames_of(timed: TimedRun, run: NativeRun, interval: int) -> TimedRun:
    """Mean frames of ``interval`` in a row, of which the first has the detector.

    The details have the medians of both kinds of frame and, where the runner told it, what the
    networks alone took of a mean frame.
    """
    whole = len(run.samples_ns) // interval
    groups = [run.samples_ns[start * interval :][:interval] for start in range(whole)]
    others = [sample for group in groups for sample in group[1:]]
    details = {
        **timed.details,
        "detector_frame_ms": median(group[0] for group in groups) / 1e6 if groups else None,
        "other_frame_ms": median(others) / 1e6 if others else None,
    }
    parts = run.pipeline.networks_ns if run.pipeline else ()
    if parts and groups:
        networks = [sum(parts[start * interval :][:interval]) / interval for start in range(whole)]
        frames = [sum(group) / interval for group in groups]
        details["networks_ms"] = median(networks) / 1e6
        details["networks_share"] = round(median(networks) / median(frames), 4)
    if run.pipeline and run.pipeline.detector_computes_in:
        details["detector_inference_precision"] = run.pipeline.detector_computes_in
    return replace(
        timed,
        samples_ns=tuple(round(sum(group) / interval) for group in groups),
        starts_ns=timed.starts_ns[: whole * interval : interval],
        details=details,
    )


def limit_s(settings: LatencySettings | None) -> float:
    """Until when a runner must have ended: its warm-up keeps to ``max_duration_s`` too.

    Without settings it measures nothing.
    """
    return _START_S + (2 * settings.max_duration_s if settings else 0.0)
