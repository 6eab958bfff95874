"""A TensorRT kit on a device, through trtexec alone: no Python is needed there.

Every call starts trtexec, which loads the engine that was built on the device. Its answers come
back with six significant digits. Its times are those of `edge.engines.trtexec_output`: a sample is
an image's way to the GPU, its computation and the answers' way back, by the GPU's clock.
"""

from __future__ import annotations

import math
import posixpath
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from edge.artifact import Artifact, load_constants
from edge.engines.trtexec import BuildKit, Timing, trtexec_run_argv, trtexec_time_argv
from edge.engines.trtexec_output import read_export_output, read_export_times, trtexec_warnings
from edge.errors import DeviceError, EngineError, FeedError
from edge.files import temporary_folder
from edge.latency import ColdStart, LatencySettings
from edge.session import Array, Feeds, Session, check_feeds, check_outputs
from targets.devices.readings import DeviceInfo
from targets.result import RunnerRecord
from targets.runners.session import TimedRun
from targets.runners.trtexec.build import (
    NO_MEMORY,
    BuiltEngine,
    Say,
    Trtexec,
    build_engine,
    failure,
    find_on_device,
    kit_for,
)
from targets.transports.transport import Transport, scratch_folder

__all__ = ["RemoteTrtexecSession", "open_trtexec"]

_FILES_S = 600.0
# Up to 8.4 an engine is "loaded", from then on read ("loaded") and then "deserialized".
_LOAD = re.compile(r"Engine (?:loaded|deserialized) in ([\d.e+-]+) sec")
_WARMED = re.compile(r"Warmup completed (\d{1,18}) quer")
# An engine that is damaged or of another GPU or build, told by its errors.
_NOT_OURS = re.compile(r"\[E\] .*(erialization|Engine set up failed|Failed to create engine)")
# It counts as measured the run that its warm-up ends in, and reports it as one of the warm-up.
_MISCOUNTED = 2
# What it advises; here the kit says which options there are, and memory is not measured.
_ADVICE = re.compile(r"If not already in use|Add --|CUDA lazy loading")


def open_trtexec(
    transport: Transport,
    artifact: Artifact,
    *,
    remote_folder: str,
    batch: int | None = None,
    log_folder: Path,
    say: Say,
    device: DeviceInfo | None = None,
    workspace_mb: int = 1024,
    build_timeout_s: float = 3600.0,
    timeout_s: float = 300.0,
) -> RemoteTrtexecSession:
    """A session of a kit whose files lie in ``remote_folder``; the first one builds its engine.

    A kit with an open batch is optimised for batches of 4; ``batch`` closes it, and the engine is
    one for exactly that. ``device`` is what the device is, asked where None. ``timeout_s`` is for
    one image's answers and, besides what the settings allow for, for a measurement. Raises
    DeviceError in one line; what trtexec printed then lies in ``log_folder``.
    """
    kit = kit_for(artifact, batch)
    trtexec = find_on_device(transport)
    engine = build_engine(
        transport,
        trtexec,
        artifact,
        kit,
        remote_folder=remote_folder,
        log_folder=log_folder,
        say=say,
        device=device,
        workspace_mb=workspace_mb,
        timeout_s=build_timeout_s,
    )
    return RemoteTrtexecSession(
        transport, artifact, kit, trtexec, engine, log_folder=log_folder, timeout_s=timeout_s
    )


class RemoteTrtexecSession(Session):
    """A built engine on a device; see ``open_trtexec``."""

    def __init__(
        self,
        transport: Transport,
        artifact: Artifact,
        kit: BuildKit,
        trtexec: Trtexec,
        engine: BuiltEngine,
        *,
        log_folder: Path,
        timeout_s: float,
    ) -> None:
        self.spec = artifact.spec
        self.machine = transport.name
        self.engine = f"TensorRT {trtexec.dotted}"
        self.inference_precision: str = artifact.variant.precision
        least, self._usual, self._most = kit.batches or (self.spec.input.shape[0] or 1,) * 3
        self.max_batch = self._most if least == self._most else None
        self._constants = load_constants(artifact)
        self._transport, self._kit = transport, kit
        self._trtexec, self._built = trtexec, engine
        self._log_folder, self._timeout_s = log_folder, timeout_s

    @property
    def engine_path(self) -> str:
        """The engine's path on the device."""
        return self._built.path

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, in the order of ``spec.outputs``, and the constants.

        More images than the engine takes go through it in turns. Raises DeviceError where trtexec
        fails, FeedError on a wrong feed.
        """
        array = check_feeds(self.spec, feeds)
        turns = []
        for start in range(0, len(array), self._most):
            part = array[start : start + self._most]
            self._check_batch(part)
            with self._fed(part) as (image, folder, local):
                remote = posixpath.join(folder, "output.json")
                argv = trtexec_run_argv(
                    self._trtexec.version,
                    self._kit,
                    self._built.path,
                    image,
                    remote,
                    batch=len(part),
                    trtexec=self._trtexec.path,
                )
                self._call(argv, self._timeout_s)
                turns.append(self._outputs(remote, local))
        outputs = {name: np.concatenate([turn[name] for turn in turns]) for name in turns[0]}
        return outputs | self._constants

    def measure(self, feeds: Feeds, settings: LatencySettings) -> TimedRun:
        """Time the network on these images; DeviceError where trtexec fails.

        trtexec warms up by time alone: measured runs that its warm-up's count falls short of
        ``warmup_count`` are left out, and so are those that began after ``max_duration_s``. It
        works as on a video: while an image is computed, the next one is on its way to the GPU.
        """
        array = check_feeds(self.spec, feeds)
        self._check_batch(array)
        timing = Timing(
            warmup_ms=math.ceil(1000 * settings.warmup_duration_s),
            duration_s=math.ceil(settings.min_duration_s),
            iterations=settings.min_count + settings.warmup_count + _MISCOUNTED,
        )
        pauses = [f"--idleTime={1000 * settings.pause_s:g}"] if settings.pause_s else []
        with self._fed(array) as (image, folder, local):
            times, answers = (posixpath.join(folder, f"{name}.json") for name in ("times", "last"))
            argv = trtexec_time_argv(
                self._trtexec.version,
                self._kit,
                self._built.path,
                times,
                timing=timing,
                batch=len(array),
                input_path=image,
                trtexec=self._trtexec.path,
            )
            # The answers of the last run come out after the clock has stopped.
            argv += [*pauses, f"--exportOutput={answers}"]
            output = self._call(argv, self._timeout_s + 2 * settings.max_duration_s)
            ended_s = time.monotonic()
            self._transport.pull(times, local / "times.json", timeout_s=_FILES_S)
            outputs = self._outputs(answers, local)
            flags = " ".join([*timing.flags(self._trtexec.version), *pauses])
            timed = self._timed(
                local / "times.json", output, outputs, array.shape, timing, flags, settings
            )
            return replace(timed, tail_s=time.monotonic() - ended_s)

    def close(self) -> None:
        """Nothing stays loaded between calls."""

    def _timed(
        self,
        path: Path,
        output: str,
        outputs: dict[str, Array],
        shape: tuple[int, ...],
        timing: Timing,
        flags: str,
        settings: LatencySettings,
    ) -> TimedRun:
        try:
            times = read_export_times(path, timing.warmup_ms)
        except EngineError as error:
            raise self._about(error, path) from None
        starts_ns = [round(1e6 * float(start)) for start in times.start_ms]
        warmed = int(found[1]) if (found := _WARMED.search(output)) else 0
        first = max(0, settings.warmup_count - warmed)
        if first >= len(starts_ns):
            raise DeviceError(
                f"{self.machine}: trtexec measured {len(starts_ns)} runs, and the warm-up alone is "
                f"{settings.warmup_count}"
            )
        kept = [
            index
            for index in range(first, len(starts_ns))
            if starts_ns[index] - starts_ns[first] < settings.max_duration_s * 1e9
        ]
        reasons, warnings = [], []
        if len(kept) < settings.min_count:
            reasons.append(
                f"only {len(kept)} of {settings.min_count} samples within "
                f"{settings.max_duration_s:g} s: raise max_duration_s"
            )
        if shape[0] != self._usual:
            warnings.append(
                f"the engine is optimised for batches of {self._usual} and was timed with "
                f"{shape[0]}; close its batch to compare it with others"
            )
        said = [line for line in trtexec_warnings(output) if not _ADVICE.match(line)]
        warnings += [f"trtexec: {line.removeprefix('*').strip()}" for line in said]
        loads_s = [float(value) for value in _LOAD.findall(output)]
        return TimedRun(
            runner=RunnerRecord("trtexec", self._trtexec.dotted),
            engine=self.engine,
            inference_precision=self.inference_precision,
            threads=1,  # the one that hands the work to the GPU
            affinity=None,
            input_shape=shape,
            cold=ColdStart(1000 * sum(loads_s) if loads_s else None, None),
            samples_ns=tuple(round(1e6 * float(times.latency_ms[index])) for index in kept),
            starts_ns=tuple(starts_ns[index] - starts_ns[first] for index in kept),
            outputs_finite=all(bool(np.isfinite(value).all()) for value in outputs.values()),
            on_cpu=False,
            reasons=tuple(reasons),
            warnings=tuple(warnings),
            details={
                "trtexec_flags": flags,
                "warmed_up_count": warmed + first,
                "h2d_p50_ms": median(times.h2d_ms[kept].tolist()),
                "gpu_compute_p50_ms": median(times.compute_ms[kept].tolist()),
                "d2h_p50_ms": median(times.d2h_ms[kept].tolist()),
                "engine_name": self._built.name,
                "engine_build_s": self._built.build_s,
            },
        )

    def _check_batch(self, array: Array) -> None:
        least = (self._kit.batches or (self._most,))[0]
        if not least <= len(array) <= self._most:
            takes = f"{least}" if least == self._most else f"{least} to {self._most}"
            raise FeedError(
                f"{self.spec.name}: the engine takes batches of {takes}, got {len(array)}"
            )

    @contextmanager
    def _fed(self, array: Array) -> Iterator[tuple[str, str, Path]]:
        """An input file on the device, a folder there and one here for what trtexec leaves."""
        with (
            temporary_folder() as text,
            scratch_folder(self._transport) as folder,
        ):
            local = text
            (local / "input.bin").write_bytes(array.astype("<f4", copy=False).tobytes())
            image = posixpath.join(folder, "input.bin")
            self._transport.push(local / "input.bin", image, timeout_s=_FILES_S)
            yield image, folder, local

    def _call(self, argv: list[str], timeout_s: float) -> str:
        """What trtexec printed, warnings and errors last."""
        done = self._transport.run(argv, timeout_s=timeout_s)
        output = (done.stdout + b"\n" + done.stderr).decode(errors="replace")
        if done.returncode == 0:
            return output
        log = self._log_folder / f"{self._built.name}.run.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(output, encoding="utf-8")
        removed = ""
        if _NOT_OURS.search(output) and not NO_MEMORY.search(output):
            self._transport.run(["rm", "-f", self._built.path], timeout_s=_FILES_S)
            removed = "; the engine was removed there, so that another try builds it anew"
        raise DeviceError(
            f"{self.machine}: {self.engine} failed on {self.spec.name}: {failure(done, output)}"
            f"{removed}; all that trtexec said is in {log}"
        )

    def _about(self, error: EngineError, path: Path) -> DeviceError:
        """What is wrong with a file of trtexec's, without the passing place that it is at here."""
        return DeviceError(f"{self.machine}: {self.engine}: {error}".replace(f"{path}: ", ""))

    def _outputs(self, remote: str, local: Path) -> dict[str, Array]:
        """Outputs in the spec's order and types; int64 comes as int32 from some engines."""
        path = local / posixpath.basename(remote)
        self._transport.pull(remote, path, timeout_s=_FILES_S)
        try:
            found = read_export_output(path)
        except EngineError as error:
            raise self._about(error, path) from None
        return check_outputs(self.spec, found, f"{self.machine}: {self.engine}", DeviceError)
