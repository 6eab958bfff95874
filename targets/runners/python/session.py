"""An artifact on a device, through the Python runner: ``python -m edge bench ARTIFACT --json``."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from edge.artifact import Artifact, load_constants
from edge.errors import DeviceError
from edge.files import temporary_folder
from edge.latency import ColdStart, LatencySettings, spread_reasons
from edge.runner import mask_reasons
from edge.session import Array, Feeds, InferencePrecision, Session, check_feeds
from edge.spec import TensorSpec
from targets.device_state import StatePoint
from targets.result import RunnerRecord
from targets.runners.python.call import PythonOutput, PythonRun, finished_python_run, python_argv
from targets.runners.session import TimedRun
from targets.transports.transport import Transport, countdown, scratch_folder

__all__ = ["PythonSession"]

# Starting Python, importing an engine and loading a network take minutes on the slowest boards.
_START_S = 300.0


class PythonSession(Session):
    """An artifact whose files lie in ``folder`` on the device.

    Every call starts the runner anew and loads the network. ``python`` starts an interpreter there
    that has ``edge`` and the engine, as `python_for` gives it. ``inference_precision`` None is the
    artifact's own. ``timeout_s`` is for one start, with its answers. Until the first run tells
    ``engine`` and ``inference_precision``, they say what was asked for.
    """

    def __init__(
        self,
        transport: Transport,
        artifact: Artifact,
        *,
        python: Sequence[str],
        folder: str,
        threads: int,
        cpu_mask: str | None = None,
        inference_precision: InferencePrecision | None = None,
        timeout_s: float = _START_S,
    ) -> None:
        self.spec = artifact.spec
        self.machine = transport.name
        self.engine = f"{artifact.variant.format} through Python"
        self.inference_precision: str = inference_precision or str(artifact.variant.precision)
        fixed = artifact.spec.input.shape[0]
        self.max_batch = 1 if artifact.variant.format == "ncnn" else fixed
        self._on_cpu = artifact.variant.format != "tensorrt"
        self._constants = load_constants(artifact)
        self._transport, self._timeout_s = transport, timeout_s
        self._cpu_mask = cpu_mask
        self._argv = partial(
            python_argv,
            python,
            folder,
            threads=threads,
            cpu_mask=cpu_mask,
            inference_precision=inference_precision,
            allow_failed=artifact.failed,
        )

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, in the order of ``spec.outputs``, and the constants.

        Raises DeviceError where the runner fails, FeedError on a wrong feed.
        """
        return self.answers([feeds])[0]

    def answers(self, images: Sequence[Feeds]) -> list[dict[str, Array]]:
        """`run` on each of several images with one start of the runner."""
        left_s = countdown(self._timeout_s)
        with self._pushed(images) as (inputs, folder):
            dump = posixpath.join(folder, "out")
            run = self._finish(self._argv(inputs, dump=dump), left_s())
            found: dict[tuple[int, str], Array] = {}
            with temporary_folder() as text:
                for output in run.outputs:
                    local = text / (output.file or "none")
                    if output.file:
                        remote = posixpath.join(dump, output.file)
                        self._transport.pull(remote, local, timeout_s=left_s())
                    found[output.image, output.name] = self._read(local, output)
        return [
            {
                tensor.name: self._checked(tensor, found.get((image, tensor.name)))
                for tensor in self.spec.outputs
            }
            | self._constants
            for image in range(len(images))
        ]

    def measure(self, feeds: Feeds, settings: LatencySettings) -> TimedRun:
        """Time the network on one image; DeviceError where the runner fails."""
        # The warm-up keeps to max_duration_s as well.
        limit_s = self._timeout_s + 2 * settings.max_duration_s
        with self._pushed([feeds]) as (inputs, _):
            run = self._finish(self._argv(inputs, settings=settings), limit_s)
        if not run.samples_ns:
            raise DeviceError(f"{self.machine}: the Python runner took no sample")
        held = 0
        for mask in run.masks:
            held |= int(mask, 16)
        # The verdict on the run says these itself, as reasons.
        known = (
            *spread_reasons(run.samples_ns, settings.mode),
            *mask_reasons(self._cpu_mask, run.masks),
        )
        end_s = (run.starts_ns[-1] + run.samples_ns[-1]) / 1e9
        clocks = run.clocks_khz_after
        return TimedRun(
            runner=RunnerRecord("python", run.edge),
            engine=run.engine,
            inference_precision=run.inference_precision,
            threads=run.threads,
            affinity=f"{held:x}" if run.masks else None,
            input_shape=run.input_shape,
            cold=ColdStart(run.load_ms, run.first_inference_ms),
            samples_ns=run.samples_ns,
            starts_ns=run.starts_ns,
            # Where one is not finite, the runner's reasons say which and how many.
            outputs_finite=None if any(output.non_finite for output in run.outputs) else True,
            on_cpu=self._on_cpu,
            points=(StatePoint(end_s, clocks_khz=clocks),) if clocks else (),
            reasons=tuple(reason for reason in run.reasons if reason not in known),
            warnings=tuple(warning for warning in run.warnings if warning not in known),
            details={
                "python": run.python,
                "numpy": run.numpy,
                "peak_memory_kb": run.peak_memory_kb,
            },
        )

    def close(self) -> None:
        """Nothing stays loaded between calls."""

    @contextmanager
    def _pushed(self, images: Sequence[Feeds]) -> Iterator[tuple[list[str], str]]:
        """Paths of the images on the device, and a folder for what the runner leaves."""
        arrays = [check_feeds(self.spec, feeds) for feeds in images]
        with (
            temporary_folder() as text,
            scratch_folder(self._transport) as folder,
        ):
            inputs = []
            for number, array in enumerate(arrays):
                local = text / f"input{number}.npy"
                np.save(local, array)
                inputs.append(posixpath.join(folder, local.name))
                self._transport.push(local, inputs[-1], timeout_s=self._timeout_s)
            yield inputs, folder

    def _finish(self, argv: Sequence[str], timeout_s: float) -> PythonRun:
        done = self._transport.run(argv, timeout_s=timeout_s)
        if done.returncode == 127:
            raise DeviceError(
                f"{self.machine}: there is no Python at {shlex.quote(argv[0])}: `edge clean` and "
                "the next run set it up again"
            )
        run = finished_python_run(done, self.machine)
        self.engine, self.inference_precision = run.engine, run.inference_precision
        return run

    def _read(self, path: Path, output: PythonOutput) -> Array:
        try:
            array: Array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DeviceError(
                f"{self.machine}: the dump of {output.name} cannot be read: {error}"
            ) from None
        if array.shape != output.shape:
            raise DeviceError(
                f"{self.machine}: the dump of {output.name} is {array.shape}, the runner said "
                f"{output.shape}"
            )
        return array

    def _checked(self, tensor: TensorSpec, array: Array | None) -> Array:
        if array is None or not tensor.accepts(array.shape) or str(array.dtype) != tensor.dtype:
            got = "not at all" if array is None else f"as {array.shape} {array.dtype}"
            raise DeviceError(
                f"{self.machine}: the runner gave {tensor.name!r} of {self.spec.name} {got}, the "
                f"spec says {tensor.shape} {tensor.dtype}"
            )
        return array
