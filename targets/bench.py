"""Timing artifacts on a device: in turn, under watch, and judged.

What there is to time comes in as `Candidate`s, each already on the device and its answers compared;
what goes out is a `RunResult` a run, written as soon as it is there.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edge.artifact import Artifact
from edge.errors import DeviceError
from edge.latency import LatencySettings
from edge.terminal import duration
from targets.device_state import StatePoint
from targets.devices.preparation import Preparation, PrepareOptions, prepared_device
from targets.devices.state import (
    DeviceInfo,
    StateSampler,
    read_state,
    wait_until_cool,
)
from targets.profile import Profile
from targets.result import (
    AccuracyFigure,
    ArtifactRecord,
    ParityRecord,
    PublishedFigure,
    RunResult,
    summarise,
    write_run,
)
from targets.runners.session import TimedRun
from targets.transports.transport import Transport
from targets.verdict import Evidence, judge, standing_reasons

__all__ = [
    "BenchOptions",
    "Candidate",
    "TargetDevice",
    "artifact_record",
    "bench",
    "published_figure",
]

_LONGEST_INTERVAL_S = 5.0
_SHORTEST_INTERVAL_S = 1.0


@dataclass(frozen=True)
class TargetDevice:
    """A device that was reached: ``watch`` is a connection of its own for what runs beside."""

    profile: Profile
    transport: Transport
    watch: Transport
    info: DeviceInfo


@dataclass(frozen=True)
class Candidate:
    """One thing to time on the device.

    ``measure`` runs it there; ``cpu_mask`` is what it was told to keep to (hex). ``label`` tells
    apart two that time the same artifact.
    """

    record: ArtifactRecord
    measure: Callable[[LatencySettings], TimedRun]
    parity: ParityRecord | None
    published: PublishedFigure | None = None
    cpu_mask: str | None = None
    label: str = ""

    @property
    def name(self) -> str:
        """Model and variant, for messages and file names."""
        return "-".join(filter(None, (self.record.model, self.record.variant, self.label)))


@dataclass(frozen=True)
class BenchOptions:
    """``repeat`` runs a candidate, on a device set up as ``prepare`` says (None: the default).

    With ``cool_down`` the device rests between runs until it is as cool as at the start.
    """

    repeat: int = 3
    prepare: PrepareOptions | None = None
    cool_down: bool = True

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise ValueError(f"repeat must be at least 1, got {self.repeat}")


def bench(
    device: TargetDevice,
    candidates: Sequence[Candidate],
    settings: LatencySettings,
    folder: Path,
    options: BenchOptions,
    on_run: Callable[[Candidate, RunResult, Path], None],
    say: Callable[[str], None],
) -> list[str]:
    """Time the candidates A B C A B C, ``repeat`` times each, and write a file a run.

    The device is set up before and put back after, whatever happens. A candidate whose runner fails
    is told of and left out from then on, its reason is in the answer; where the device itself is
    gone, that is the DeviceError.
    """
    if not candidates:
        return []  # a device is not set up for nothing
    folder.mkdir(parents=True, exist_ok=True)  # told now, not after the first run
    failed: dict[str, str] = {}
    started = time.monotonic()
    info, total, done = device.info, options.repeat * len(candidates), 0
    with prepared_device(device.transport, info.kind, options.prepare, say) as preparation:
        state = read_state(device.transport, info.kind)
        cools = options.cool_down and not info.emulated
        for reason in standing_reasons(state, device.profile.requirements):
            say(f"note: as it is now, every run will be INVALID: {reason}")
        for number in range(1, options.repeat + 1):
            for candidate in candidates:
                done += 1
                if candidate.name in failed:
                    continue
                left_s = (time.monotonic() - started) / max(done - 1, 1) * (total - done + 1)
                left = f", about {duration(left_s)} left" if done > 1 else ""
                say(f"run {done} of {total}{left}: {candidate.name} on {info.name}")
                warnings = []
                try:
                    if cools and done > 1:
                        warnings = _cooled(device, state.temperatures_c, say)
                    run = _run_once(device, candidate, settings, number, preparation, warnings)
                except DeviceError as error:
                    # A runner that failed on a device that still answers spoils its own runs only.
                    try:
                        read_state(device.transport, info.kind)
                    except DeviceError:
                        raise error from None
                    failed[candidate.name] = str(error)
                    say(f"{candidate.name} is left out: {error}")
                    continue
                on_run(candidate, run, write_run(run, folder))
    return [f"{name}: {why}" for name, why in failed.items()]


def artifact_record(artifact: Artifact, others: Sequence[Artifact] = ()) -> ArtifactRecord:
    """What a run's file says of an artifact.

    ``others`` are artifacts beside it: an fp32 one has the accuracy that they measured of their
    common source, for its answers are the source's.
    """
    accuracy = artifact.accuracy
    figure = None
    if accuracy:
        figure = AccuracyFigure(
            str(accuracy["metric"]), float(accuracy["value"]), float(accuracy["loss_points"])
        )
    elif artifact.variant.precision == "fp32":
        for other in others:
            if other.accuracy and other.source.get("sha256") == artifact.source.get("sha256"):
                reference = float(other.accuracy["reference"])
                figure = AccuracyFigure(str(other.accuracy["metric"]), reference, 0.0)
    return ArtifactRecord(
        model=artifact.spec.name,
        variant=str(artifact.variant),
        key=artifact.key,
        size_bytes=artifact.size_bytes,
        accuracy=figure,
    )


def published_figure(
    profile: Profile, name: str, *, pipeline: bool = False
) -> PublishedFigure | None:
    """What others published for ``MODEL/VARIANT`` on such a device, where they did."""
    figures = profile.published_pipeline_ms if pipeline else profile.published_ms
    if name not in figures:
        return None
    return PublishedFigure(figures[name], profile.published_source)


def _cooled(
    device: TargetDevice, baseline_c: Mapping[str, float], say: Callable[[str], None]
) -> list[str]:
    """Wait until the device is as cool as its baseline; a warning where it did not get there."""
    cooled = wait_until_cool(
        device.transport,
        device.info.kind,
        baseline_c,
        timeout_s=device.profile.cooldown_timeout_s,
        tolerance_c=device.profile.cooldown_tolerance_c,
        say=say,
    )
    return [cooled.warning] if cooled.warning else []


def _run_once(
    device: TargetDevice,
    candidate: Candidate,
    settings: LatencySettings,
    number: int,
    preparation: Preparation,
    warnings: list[str],
) -> RunResult:
    """One run, from its start to the verdict; ``warnings`` are those from before it."""
    info = device.info
    before = read_state(device.transport, info.kind)
    started = datetime.now(UTC)
    interval_s = min(_LONGEST_INTERVAL_S, max(_SHORTEST_INTERVAL_S, settings.min_duration_s / 8))
    with StateSampler(device.watch, info.kind, interval_s) as sampler:
        begin_s = time.monotonic()
        timed = candidate.measure(settings)
        took_s = time.monotonic() - begin_s
    after = read_state(device.transport, info.kind)
    points = _under_load(sampler.points, timed, took_s)
    if sampler.problem:
        warnings.append(f"the state during the run is not known: {sampler.problem}")
    evidence = Evidence(
        before=before,
        after=after,
        points=points,
        samples_ns=timed.samples_ns,
        mode=settings.mode,
        required=device.profile.requirements,
        cpu_mask=candidate.cpu_mask,
        affinity=timed.affinity,
        threads=timed.threads,
        parity_passed=candidate.parity.passed if candidate.parity else None,
        outputs_finite=timed.outputs_finite,
        on_cpu=timed.on_cpu,
        harness_reasons=timed.reasons,
    )
    verdict = judge(evidence)
    # Two runs may begin in one second: on two boards of a kind, or of a network that is quick.
    stamp = f"{started:%Y%m%dT%H%M%S}.{started.microsecond // 1000:03}Z"
    asked = dataclasses.asdict(settings)
    mode = asked.pop("mode")
    prepared = {"prepared": "; ".join(preparation.notes)} if preparation.notes else {}
    return RunResult(
        run_id=f"{stamp}-{device.profile.name}-{candidate.name}-{number}".replace("+", "-"),
        started_utc=started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        target=device.profile.name,
        transport=device.transport.kind,
        emulated=info.emulated,
        device=info.record,
        artifact=candidate.record,
        runner=timed.runner,
        engine=timed.engine,
        inference_precision=timed.inference_precision,
        threads=timed.threads,
        cpu_mask=candidate.cpu_mask,
        affinity=timed.affinity,
        input_shape=timed.input_shape,
        mode=mode,
        settings={**asked, "repeat": number, **prepared, **timed.details},
        cold=timed.cold,
        samples_ns=timed.samples_ns,
        starts_ns=timed.starts_ns,
        summary=summarise(timed.samples_ns),
        state_before=before,
        state_after=after,
        state_series=points,
        parity=candidate.parity,
        published=candidate.published,
        valid=verdict.valid,
        reasons=verdict.reasons,
        warnings=tuple(dict.fromkeys([*warnings, *timed.warnings, *verdict.warnings])),
    )


def _under_load(
    points: Sequence[StatePoint], timed: TimedRun, took_s: float
) -> tuple[StatePoint, ...]:
    """The sampler's points and the runner's own on the clock of ``starts_ns``, none before it.

    ``took_s`` is how long the runner's whole call took: its last sample ends with it, but for the
    tail.
    """
    if not timed.starts_ns:
        return tuple(points)
    first_s = took_s - timed.tail_s - (timed.starts_ns[-1] + timed.samples_ns[-1]) / 1e9
    watched = [dataclasses.replace(point, t_s=point.t_s - first_s) for point in points]
    loaded = [point for point in (*watched, *timed.points) if point.t_s >= 0]
    return tuple(sorted(loaded, key=lambda point: point.t_s))
