"""Detector and pose model behind each other on a device, all of it in the native runner.

Pictures go in and people come out; everything around the networks is ``edgepose.hpp``'s, as in an
app. ``session`` beside it has the networks alone.
"""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import numpy.typing as npt

from edge.errors import DeviceError, ImageError, SpecError
from edge.files import temporary_folder
from edge.latency import LatencySettings
from edge.pipeline import Pose
from edge.records import Rule, list_of, number, one_of
from edge.spec import ModelSpec
from targets.app.manifest import manifest_of
from targets.runners.line import read_line
from targets.runners.native.call import check_done, finished_run, mask_flags, timing_flags
from targets.runners.native.session import NativeSession, frames_of, limit_s, timed_run
from targets.runners.session import TimedRun
from targets.transports.transport import scratch_folder

__all__ = ["NativeModel", "NativePicture", "NativePipeline", "check_codecs", "pipeline_argv"]

Image = npt.NDArray[np.uint8]

_KIND = "edgepose-people"
_SCHEMA = 1
_PUSH_S = 120.0
# Of the codecs, those that edgepose.hpp has.
_DETECTORS, _POSES = ("rtmdet",), ("simcc",)


@dataclass(frozen=True)
class NativeModel:
    """A model's files on the device, with the ``manifest.json`` that says how it is run."""

    param: str
    weights: str
    manifest: str

    def flags(self, prefix: str) -> list[str]:
        """The runner's options for it."""
        flags = [f"{prefix}param", self.param, f"{prefix}bin", self.weights]
        return [*flags, f"{prefix}manifest", self.manifest]


@dataclass(frozen=True)
class NativePicture:
    """A picture on the device: raw uint8 BGR (height, width, 3)."""

    path: str
    height: int
    width: int


def pipeline_argv(
    runner: str,
    pose: NativeModel,
    detector: NativeModel | None,
    pictures: Sequence[NativePicture],
    *,
    threads: int,
    cpu_mask: str | None = None,
    score: float = 0.3,
    people: int | None = None,
    interval: int = 1,
    settings: LatencySettings | None = None,
) -> list[str]:
    """The command line that finds people in pictures, or with ``settings`` times it on one.

    ``score`` is a box's least, ``people`` the most of them. Without a detector there are neither,
    nor an ``interval``: a picture is one box.
    """
    argv = [runner, *pose.flags("--"), "--threads", str(threads), *mask_flags(cpu_mask)]
    for picture in pictures:
        argv += ["--picture", f"{picture.path}:{picture.height}x{picture.width}"]
    if detector is not None:
        argv += [*detector.flags("--det-"), "--score", f"{score:.9g}", "--interval", str(interval)]
        argv += [] if people is None else ["--people", str(people)]
    if settings is None:
        return [*argv, "--find"]
    return argv + timing_flags(settings)


def check_codecs(pose: ModelSpec, detector: ModelSpec | None) -> None:
    """Raise SpecError unless the C++ header runs these models."""
    for spec, codecs in ((pose, _POSES), (detector, _DETECTORS)):
        if spec is not None and spec.codec not in codecs:
            raise SpecError(
                f"{spec.name} has the codec {spec.codec!r}, of which the native runner knows the "
                f"network alone (it has {', '.join((*_DETECTORS, *_POSES))}): add --networks-alone"
            )


class NativePipeline:
    """Pictures in, people out, on the device of two sessions there.

    Both run with the threads and the mask of ``pose``, each in its own arithmetic. Without a
    detector a picture is one box; ``classes`` are those of it that count, by number or name. Raises
    SpecError for a codec that the C++ header does not have.
    """

    def __init__(
        self,
        pose: NativeSession,
        detector: NativeSession | None = None,
        *,
        score_threshold: float = 0.3,
        classes: str | None = None,
    ) -> None:
        check_codecs(pose.spec, detector.spec if detector else None)
        self.pose, self.detector = pose, detector
        self.score_threshold = score_threshold
        self.classes = classes

    def find(self, images_bgr: Sequence[Image], *, people: int | None = None) -> list[list[Pose]]:
        """The people in each (H, W, 3) uint8 BGR image, best box first.

        ``people`` is the most of them. Raises DeviceError where the runner fails.
        """
        with self._pushed(images_bgr) as (pose, detector, pictures):
            argv = pipeline_argv(
                self.pose.program[-1],
                pose,
                detector,
                pictures,
                threads=self.pose.threads,
                cpu_mask=self.pose.cpu_mask,
                score=self.score_threshold,
                people=people,
            )
            done = self.pose.transport.run(
                [*self.pose.program[:-1], *argv], timeout_s=limit_s(None) * len(images_bgr)
            )
        check_done(done, self.pose.machine)
        lines = done.stdout.decode(errors="replace").splitlines()
        if len(lines) != len(pictures):
            raise DeviceError(
                f"{self.pose.machine}: the runner told of {len(lines)} of {len(pictures)} pictures"
            )
        count = len(self.pose.spec.keypoints.keypoints)
        return [
            self._people(line, picture, count)
            for line, picture in zip(lines, pictures, strict=True)
        ]

    def measure(
        self,
        image_bgr: Image,
        settings: LatencySettings,
        *,
        interval: int = 1,
        people: int | None = None,
    ) -> TimedRun:
        """Time frames of one image: letterbox, detector, decoding, suppression in every
        ``interval``-th of them, crop, pose model and decoding of each person in all.

        A sample is the mean frame of ``interval`` frames in a row. Between two looks of the
        detector people are sought in the boxes that it gave. The details have what the networks
        alone took of it.
        """
        interval = interval if self.detector else 1
        frames = replace(settings, min_count=settings.min_count * interval)
        with self._pushed([image_bgr]) as (pose, detector, pictures):
            argv = pipeline_argv(
                self.pose.program[-1],
                pose,
                detector,
                pictures,
                threads=self.pose.threads,
                cpu_mask=self.pose.cpu_mask,
                score=self.score_threshold,
                people=people,
                interval=interval,
                settings=frames,
            )
            done = self.pose.transport.run(
                [*self.pose.program[:-1], *argv], timeout_s=limit_s(settings)
            )
        run = finished_run(done, self.pose.machine)
        return frames_of(timed_run(run, self.pose.spec), run, interval)

    @contextmanager
    def _pushed(
        self, images_bgr: Sequence[Image]
    ) -> Iterator[tuple[NativeModel, NativeModel | None, tuple[NativePicture, ...]]]:
        """Both models with their manifests, and the pictures, on the device."""
        transport = self.pose.transport
        with (
            temporary_folder() as text,
            scratch_folder(transport) as folder,
        ):

            def push(name: str, data: bytes) -> str:
                (text / name).write_bytes(data)
                remote = posixpath.join(folder, name)
                transport.push(text / name, remote, timeout_s=_PUSH_S)
                return remote

            def model(session: NativeSession, name: str) -> NativeModel:
                classes = self.classes if session is self.detector else None
                manifest = manifest_of(session.artifact, session.precision, classes)
                path = push(f"{name}.json", json.dumps(manifest).encode())
                return NativeModel(session.model_path, session.weights_path, path)

            pictures = []
            for number, image in enumerate(images_bgr):
                if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                    raise ImageError(
                        f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}"
                    )
                path = push(f"picture{number}.bgr", np.ascontiguousarray(image).tobytes())
                pictures.append(NativePicture(path, image.shape[0], image.shape[1]))
            detector = model(self.detector, "detector") if self.detector else None
            yield model(self.pose, "pose"), detector, tuple(pictures)

    def _people(self, line: str, picture: NativePicture, count: int) -> list[Pose]:
        found = read_line(
            line,
            _People,
            kind=_KIND,
            schema=_SCHEMA,
            device=self.pose.machine,
            runner="the runner",
            fix="use the runner that belongs to it",
        )
        if found.picture != picture.path or any(
            len(one.keypoints) != count for one in found.people
        ):
            raise DeviceError(
                f"{self.pose.machine}: the runner told of {found.picture!r}, not of {picture.path} "
                f"with {count} keypoints a person"
            )
        return [
            Pose(
                _array(one.box_xyxy),
                float(_array([one.score])[0]),
                np.stack([_array(point) for point in one.keypoints]),
            )
            for one in found.people
        ]


def _numbers(count: int) -> Rule:
    """So many numbers; null stands for what is none."""
    value = one_of(number(), Rule("null", lambda item: item is None))
    return list_of(value, f"{count} numbers", least=count, most=count)


@dataclass(frozen=True)
class _Person:
    box_xyxy: Annotated[tuple[float | None, ...], _numbers(4)]
    score: float | None
    keypoints: tuple[Annotated[tuple[float | None, ...], _numbers(3)], ...]


@dataclass(frozen=True)
class _People:
    """The runner's line of a picture."""

    picture: str
    people: tuple[_Person, ...]


def _array(values: Sequence[float | None]) -> npt.NDArray[np.float32]:
    return np.array([math.nan if one is None else one for one in values], np.float32)
