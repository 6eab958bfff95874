"""Artifacts on a device, for ``edge bench``: pushed, opened by their runner, compared there."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from converters.commands.parity_pictures import parity_images
from converters.convert import judge_answers
from converters.job import FeedSource
from edge.artifact import Artifact
from edge.errors import ArtifactError, DeviceError, SpecError
from edge.latency import LatencySettings
from edge.session import Feeds
from edge.spec import Format
from edge.terminal import CountLine, say
from targets.bench import Candidate, TargetDevice, artifact_record, published_figure
from targets.commands.bench_pipeline import compare_pipeline, picture_of, pictures
from targets.result import ArtifactRecord, ParityRecord, PipelineRecord
from targets.runners.arm_check import safe_arithmetic
from targets.runners.native.build import find_runner
from targets.runners.native.call import NativePrecision
from targets.runners.native.pipeline import NativePipeline
from targets.runners.native.session import NativeSession, measure_pipeline, place_runner
from targets.runners.placement import place_artifact, place_with_engine
from targets.runners.python.session import PythonSession
from targets.runners.python.setup import python_for
from targets.runners.session import DeviceSession, TimedRun
from targets.runners.trtexec.session import RemoteTrtexecSession, open_trtexec

_Measure = Callable[[LatencySettings], TimedRun]

__all__ = ["BenchWork", "progress"]

# Every image is a process on the device: enough to see a wrong answer, few enough to wait for.
_PARITY_IMAGES = 4


@dataclass(frozen=True)
class _Found:
    """An artifact on the device, open and compared."""

    artifact: Artifact
    session: DeviceSession
    candidate: Candidate


@dataclass
class BenchWork:
    """Bringing artifacts to the device; what fails there does not stop the others."""

    arguments: argparse.Namespace
    place: TargetDevice
    stack: ExitStack

    def __post_init__(self) -> None:
        self.failures: list[str] = []
        self.images: FeedSource = parity_images(self.arguments.images)

    def candidates(self, artifacts: Sequence[Artifact]) -> list[Candidate]:
        """All that is to be timed, on the device and compared."""
        found: list[_Found] = []
        for artifact in artifacts:
            name = f"{artifact.spec.name} as {artifact.variant}"
            for label, opener in self._openers(artifact).items():
                try:
                    say(f"{name}: answers on {self.place.info.name}")
                    session = opener(artifact)
                    self.stack.callback(session.close)
                    record = artifact_record(artifact, artifacts)
                    candidate = self._candidate(artifact, record, session, label)
                    found.append(_Found(artifact, session, candidate))
                except DeviceError as error:
                    # Where the device is gone, no other artifact survives it.
                    try:
                        self.place.transport.run(["true"], timeout_s=15.0)
                    except DeviceError:
                        raise error from None
                    self.failures.append(f"{name}: {error}")
        if self.arguments.pipeline:
            return [] if self.failures else [self._pipeline(found)]
        return [one.candidate for one in found]

    def _openers(self, artifact: Artifact) -> dict[str, Callable[[Artifact], DeviceSession]]:
        """What runs it, by the label that tells it apart."""
        own: dict[Format, Callable[[Artifact], DeviceSession]] = {
            "ncnn": self._native,
            "tensorrt": self._trtexec,
        }
        if artifact.variant.format not in own:
            return {"": self._python}
        more = {"python": self._python} if self.arguments.python else {}
        return {"": own[artifact.variant.format], **more}

    def _candidate(
        self, artifact: Artifact, record: ArtifactRecord, session: DeviceSession, label: str
    ) -> Candidate:

        feeds = _whole_batch(artifact, self.images.feeds(artifact.spec)[0].feeds)
        return Candidate(
            record=record,
            measure=lambda settings: session.measure(feeds, settings),
            parity=self._parity(artifact, session),
            published=published_figure(self.place.profile, f"{record.model}/{record.variant}"),
            cpu_mask=self.cpu_mask,
            label=label,
        )

    def _parity(self, artifact: Artifact, session: DeviceSession) -> ParityRecord | None:
        """The device's answers against the reference; None where the reference is not at hand."""
        try:
            report = judge_answers(
                artifact,
                self.images,
                session,
                count=_PARITY_IMAGES,
                machine=session.machine,
            )
        except ArtifactError as error:
            say(f"note: the answers on the device cannot be compared: {error}")
            return None
        summary = report.summary()
        if report.failures:
            more = len(report.failures) - 1
            summary += f"; {report.failures[0]}" + (f", and {more} more" if more else "")
        say(f"  on the device: {summary}")
        return ParityRecord(report.passed, summary)

    # --- the three runners ------------------------------------------------------------------------

    @property
    def threads(self) -> int:
        """Of the engine, where nobody says: as `edge.session.default_threads` has it."""
        cores = self.place.info.cores or 4
        return self.arguments.threads or self.place.profile.threads or min(4, cores)

    @property
    def cpu_mask(self) -> str | None:
        """The cores to keep to (hex), the user's or the profile's."""
        mask: str = self.arguments.cpu_mask or self.place.profile.cpu_mask
        return mask or None

    def _folder(self, artifact: Artifact) -> str:

        return place_artifact(self.place.transport, artifact, on_progress=progress(artifact))

    def _native(self, artifact: Artifact) -> DeviceSession:

        arch: Any = self.place.profile.arch
        runner = find_runner(arch, self.arguments.runner, say)
        return NativeSession(
            self.place.transport,
            artifact,
            program=[place_runner(self.place.transport, runner)],
            folder=self._folder(artifact),
            precision=self._precision(artifact),
            threads=self.threads,
            cpu_mask=self.cpu_mask,
        )

    def _precision(self, artifact: Artifact) -> NativePrecision:
        """What was asked for, else what the check on ARM found safe, else the profile's."""
        asked: NativePrecision | None = self.arguments.inference_precision
        if asked:
            return asked
        if artifact.variant.precision != "fp16":
            return "fp32"
        usual: Any = self.place.profile.precision or "fp16"
        safe = safe_arithmetic(artifact)
        if safe and safe != usual and self.place.profile.arch == "aarch64":
            say(f"  in {safe}: {usual} is beyond the limits on ARM (`edge info` says by how much)")
            return safe
        precision: NativePrecision = usual
        return precision

    def _python(self, artifact: Artifact) -> DeviceSession:

        precision = self.arguments.inference_precision
        if precision == "fp16-storage":
            raise SpecError("fp16-storage is the native runner's alone; choose fp32, fp16 or bf16")
        python = python_for(
            self.place.transport,
            artifact.variant.format,
            wheelhouse=self.arguments.wheelhouse,
            say=say,
        )
        if artifact.variant.format == "tensorrt":
            engine_path = self._trtexec(artifact).engine_path
            folder = place_with_engine(self.place.transport, artifact, engine_path)
        else:
            folder = self._folder(artifact)
        return PythonSession(
            self.place.transport,
            artifact,
            python=python,
            folder=folder,
            threads=self.threads,
            cpu_mask=self.cpu_mask,
            inference_precision=precision,
        )

    def _trtexec(self, artifact: Artifact) -> RemoteTrtexecSession:

        return open_trtexec(
            self.place.transport,
            artifact,
            remote_folder=self._folder(artifact),
            # One image a call, as everything else is timed: an open batch is optimised for more.
            batch=1 if artifact.spec.input.shape[0] is None else None,
            device=self.place.info,
            log_folder=self.arguments.out / "logs",
            say=say,
        )

    # --- the pipeline -----------------------------------------------------------------------------

    def _pipeline(self, found: Sequence[_Found]) -> Candidate:

        native = [one for one in found if isinstance(one.session, NativeSession)]
        poses = [one for one in native if one.artifact.spec.task == "pose"]
        finders = [one for one in native if one.artifact.spec.task == "detection"]
        if len(poses) != 1 or len(finders) != 1:
            raise SpecError(
                "--pipeline takes one pose model and one detector in ncnn variants; name both "
                "artifacts, or --model and --detector with --formats ncnn-fp16"
            )
        (pose,), (finder,) = poses, finders
        alone: bool = self.arguments.networks_alone
        frames = self._networks_alone if alone else self._whole_frames
        measure, more = frames(pose, finder)
        model = f"{finder.artifact.spec.name}+{pose.artifact.spec.name}"
        return replace(
            pose.candidate,
            record=replace(
                pose.candidate.record,
                model=model,
                size_bytes=pose.artifact.size_bytes + finder.artifact.size_bytes,
                pipeline=PipelineRecord(
                    detector=finder.artifact.spec.name,
                    detector_variant=str(finder.artifact.variant),
                    detector_key=finder.artifact.key,
                    interval=self.arguments.interval,
                    people=self.arguments.people,
                    whole=not alone,
                ),
            ),
            measure=measure,
            parity=_all_of([pose.candidate.parity, finder.candidate.parity, *more]),
            published=published_figure(
                self.place.profile, f"{model}/{pose.artifact.variant}", pipeline=True
            ),
        )

    def _whole_frames(self, pose: _Found, finder: _Found) -> tuple[_Measure, list[ParityRecord]]:
        """From a picture's pixels to keypoints, compared with the Python runtime first."""
        assert isinstance(pose.session, NativeSession)
        assert isinstance(finder.session, NativeSession)
        classes = self.arguments.classes
        pipeline = NativePipeline(pose.session, finder.session, classes=classes)
        people: int = self.arguments.people
        sights, parity = compare_pipeline(pipeline, pictures(self.arguments.images, people))
        say(f"  on the device: {parity.summary}")
        sight = picture_of(sights, people)
        say(f"  frames of {sight.name}")

        def measure(settings: LatencySettings) -> TimedRun:
            return pipeline.measure(
                sight.image_bgr, settings, interval=self.arguments.interval, people=people
            )

        return measure, [parity]

    def _networks_alone(self, pose: _Found, finder: _Found) -> tuple[_Measure, list[ParityRecord]]:
        """On prepared inputs."""
        crops = [image.feeds for image in self.images.feeds(pose.artifact.spec)]
        people = [crops[number % len(crops)] for number in range(self.arguments.people)]
        scene = self.images.feeds(finder.artifact.spec)[0].feeds

        def measure(settings: LatencySettings) -> TimedRun:
            assert isinstance(pose.session, NativeSession)
            assert isinstance(finder.session, NativeSession)
            interval = self.arguments.interval
            return measure_pipeline(
                pose.session, finder.session, people, scene, settings, interval=interval
            )

        return measure, []


def _whole_batch(artifact: Artifact, feeds: Feeds) -> Feeds:
    """One image's feeds as many times as the artifact takes in one call."""
    size = artifact.spec.input.shape[0] or 1
    return {name: np.repeat(array, size, axis=0) for name, array in feeds.items()}


def _all_of(parities: Sequence[ParityRecord | None]) -> ParityRecord | None:
    known = [parity for parity in parities if parity is not None]
    if len(known) < len(parities):
        return None
    return replace(
        known[0],
        passed=all(parity.passed for parity in known),
        summary="; ".join(parity.summary for parity in known),
    )


def progress(artifact: Artifact) -> CountLine:
    """How far an artifact is on its way to the device."""
    return CountLine(artifact.spec.name, "MB", scale=1e6)
