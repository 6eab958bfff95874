"""A network timed on this machine, with what can be known of the run: what the Python runner does.

In scope: a session that is opened here, its answers, its samples, the threads, memory and clocks of
this process. Out of scope: the command line, other machines, and the verdict on the machine's state
(``reasons`` are those that the run itself shows).
"""

from __future__ import annotations

import io
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edge
from edge.errors import FeedError, SpecError
from edge.files import write_bytes
from edge.latency import (
    ColdStart,
    LatencyResult,
    LatencySettings,
    measure,
    measure_cold,
    spread_reasons,
    summarise,
)
from edge.session import Array, Session
from edge.spec import ModelSpec

__all__ = [
    "KIND",
    "SCHEMA",
    "BenchOutput",
    "BenchRun",
    "bench",
    "hold_cpu_mask",
    "mask_reasons",
    "noise",
    "read_image",
    "thread_masks",
]

SCHEMA = 1
KIND = "edgepose-python-runner"

_TASKS = Path("/proc/self/task")
_STATUS = Path("/proc/self/status")
_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class BenchOutput:
    """One output of the network for one image.

    ``non_finite`` values were no finite numbers, in the first inference or the last.
    ``same_in_last`` says that both gave the same bytes (None: there was one alone). ``file`` is
    the name of its ``.npy`` in the dump's folder.
    """

    image: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    non_finite: int
    same_in_last: bool | None
    file: str | None


@dataclass(frozen=True)
class BenchRun:
    """One run; ``result`` is None where only the answers were asked for.

    ``affinity`` and ``affinity_after`` hold one mask a thread (hex, no 0x), after the first
    inference and after the last sample; empty where the system does not tell. The load includes the
    import of the engine's package. ``clocks_khz`` are the CPUs', read before the warm-up,
    ``clocks_khz_after`` right after the last sample.
    """

    model: str
    engine: str
    inference_precision: str
    threads: int
    cpu_mask: str | None
    affinity: tuple[str, ...]
    affinity_after: tuple[str, ...]
    cold: ColdStart
    input_shape: tuple[int, ...]
    result: LatencyResult | None
    peak_memory_kb: int | None
    clocks_khz: dict[str, int]
    clocks_khz_after: dict[str, int]
    outputs: tuple[BenchOutput, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """What makes the figure INVALID, as far as the run itself shows it; none without one.

        The rules are those of a run on a target, which knows more: heat, throttling, power.
        """
        if self.result is None:
            return ()
        reasons = [*self.result.reasons, *mask_reasons(self.cpu_mask, self._masks)]
        for output in self.outputs:
            if output.non_finite:
                reasons.append(
                    f"output {output.name} holds {output.non_finite} values that are not finite"
                )
            elif output.same_in_last is False:
                reasons.append(f"output {output.name} was another one in the last inference")
        reasons += spread_reasons(self.result.samples_ns, self.result.settings.mode)
        return tuple(reasons)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know besides: so far everything that the run shows is a reason."""
        return ()

    @property
    def _masks(self) -> tuple[str, ...]:
        return (*self.affinity, *self.affinity_after)

    def to_json(self) -> dict[str, Any]:
        """The runner's one line as plain values, schema 1."""
        result = self.result
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "edge": edge.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "model": self.model,
            "engine": self.engine,
            "inference_precision": self.inference_precision,
            "threads": self.threads,
            "cpu_mask": self.cpu_mask,
            "affinity": list(self.affinity),
            "affinity_after": list(self.affinity_after),
            "load_ms": self.cold.load_ms,
            "first_inference_ms": self.cold.first_inference_ms,
            "input_shape": list(self.input_shape),
            "settings": asdict(result.settings) if result else None,
            "summary": asdict(summarise(result.samples_ns)) if result else None,
            "valid": not self.reasons,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "peak_memory_kb": self.peak_memory_kb,
            "clocks_khz": self.clocks_khz,
            "clocks_khz_after": self.clocks_khz_after,
            "outputs": [asdict(output) for output in self.outputs],
            "samples_ns": list(result.samples_ns) if result else [],
            "starts_ns": list(result.starts_ns) if result else [],
        }


def bench(
    load: Callable[[], Session],
    images: Sequence[Array],
    *,
    threads: int,
    settings: LatencySettings | None,
    cpu_mask: str | None = None,
    dump: Path | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> BenchRun:
    """Load a network, run it on each of the images once, then time it on the first of them.

    Without ``settings`` nothing is timed. ``threads`` is how many ``load`` asks for and
    ``cpu_mask`` what `hold_cpu_mask` was given: for the record. ``dump`` is a folder for the
    outputs, ``IMAGE-OUTPUT.npy`` by their numbers. Raises what the engine raises, FeedError where
    an image does not fit.
    """
    answers: list[dict[str, Array]] = []
    with ExitStack() as stack:
        session, cold = measure_cold(
            lambda: stack.enter_context(load()),
            lambda session: answers.append(_run(session, images[0])),
            clock_ns,
        )
        answers += [_run(session, image) for image in images[1:]]
        affinity, clocks = thread_masks(), _clocks_khz()
        result, last = None, None
        if settings is not None:
            feeds = {session.spec.input.name: images[0]}
            result = measure(lambda: session.run(feeds), settings, clock_ns)
        clocks_after, affinity_after = _clocks_khz(), thread_masks()
        if result is not None:
            last = _run(session, images[0])
        return BenchRun(
            model=session.spec.name,
            engine=session.engine,
            inference_precision=session.inference_precision,
            threads=threads,
            cpu_mask=cpu_mask,
            affinity=affinity,
            affinity_after=affinity_after,
            cold=cold,
            input_shape=tuple(images[0].shape),
            result=result,
            peak_memory_kb=_peak_memory_kb(),
            clocks_khz=clocks,
            clocks_khz_after=clocks_after,
            outputs=tuple(_outputs(session.spec, answers, last, dump)),
        )


def noise(spec: ModelSpec) -> Array:
    """A seeded input for a network, (N, 3, H, W) with N 1 where it is open.

    Noise, not zeros: denormals and sparse inputs can flatter or slow an engine.
    """
    shape = (spec.input.shape[0] or 1, 3, *spec.input_hw)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def read_image(path: Path) -> Array:
    """The array of a ``.npy`` file; FeedError where it is none."""
    try:
        with path.open("rb") as stream:
            array = np.load(stream, allow_pickle=False)
    except OSError as error:
        raise FeedError(f"{path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise FeedError(f"{path}: not readable as an array ({error})") from None
    if not isinstance(array, np.ndarray):
        raise FeedError(f"{path}: an archive of arrays; give one array, as numpy.save writes it")
    return array


# --- the process ----------------------------------------------------------------------------------


def hold_cpu_mask(text: str) -> str:
    """Keep every thread of this process to the CPUs of a hexadecimal mask; the mask, normalised.

    Threads that are started afterwards inherit it, so an engine must not be loaded before. Raises
    SpecError where it is no mask, or the system does not let it hold.
    """
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]+", text) or int(text, 16) == 0:
        raise SpecError(f"a CPU mask is hexadecimal with a CPU in it, like f0, not {text!r}")
    mask = int(text, 16)
    cpus = {cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1}
    if not hasattr(os, "sched_setaffinity"):
        raise SpecError("this system cannot keep a process to a CPU mask: leave --cpu-mask out")
    threads = [int(folder.name) for folder in _TASKS.iterdir()] if _TASKS.is_dir() else []
    before = os.sched_getaffinity(0)
    try:
        for thread in threads or [0]:
            os.sched_setaffinity(thread, cpus)
        held = os.sched_getaffinity(0)
    except OSError:
        held = set()
    if held != cpus:
        os.sched_setaffinity(0, before)
        raise SpecError(
            f"the CPU mask {mask:x} does not hold here: this process may use the CPUs of "
            f"{_mask(before)}"
        )
    return f"{mask:x}"


def thread_masks() -> tuple[str, ...]:
    """The CPU mask of every thread of this process, hexadecimal; empty where it cannot be read."""
    masks = []
    for status in sorted(_TASKS.glob("*/status")):
        try:
            found = re.search(r"^Cpus_allowed:\s*([0-9a-f,]+)", status.read_text(), re.MULTILINE)
        except OSError:  # it ended meanwhile
            continue
        if found:
            masks.append(f"{int(found[1].replace(',', ''), 16):x}")
    return tuple(masks)


def mask_reasons(cpu_mask: str | None, masks: Sequence[str]) -> tuple[str, ...]:
    """Whether a thread may run outside of the mask that was asked for; inside it may choose."""
    if cpu_mask is None:
        return ()
    outside = sorted({mask for mask in masks if int(mask, 16) & ~int(cpu_mask, 16)})
    if not outside:
        return ()
    return (f"the CPU mask {cpu_mask} did not hold: a thread had {', '.join(outside)}",)


def _mask(cpus: set[int]) -> str:
    return f"{sum(1 << cpu for cpu in cpus):x}"


def _peak_memory_kb() -> int | None:
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def _clocks_khz() -> dict[str, int]:
    clocks = {}
    for folder in sorted(_CPUS.glob("cpu[0-9]*"), key=lambda path: int(path.name[3:])):
        try:
            clocks[folder.name] = int((folder / "cpufreq/scaling_cur_freq").read_text())
        except (OSError, ValueError):
            continue
    return clocks


# --- arrays ---------------------------------------------------------------------------------------


def _run(session: Session, image: Array) -> dict[str, Array]:
    if session.max_batch and len(image) > session.max_batch:
        raise FeedError(
            f"{session.spec.name} takes a batch of {session.max_batch}, got {len(image)}"
        )
    return session.run({session.spec.input.name: image})


def _outputs(
    spec: ModelSpec,
    answers: Sequence[Mapping[str, Array]],
    last: Mapping[str, Array] | None,
    dump: Path | None,
) -> Iterator[BenchOutput]:
    """What there is to say of each image's outputs, which are written on the way."""
    for image, answer in enumerate(answers):
        for number, tensor in enumerate(spec.outputs):
            array, later = answer[tensor.name], None if last is None else last[tensor.name]
            file = None
            if dump is not None:
                file = f"{image}-{number}.npy"
                _write_array(dump / file, array)
            yield BenchOutput(
                image=image,
                name=tensor.name,
                shape=tuple(int(size) for size in array.shape),
                dtype=str(array.dtype),
                non_finite=max(_non_finite(array), 0 if later is None else _non_finite(later)),
                same_in_last=None if later is None else array.tobytes() == later.tobytes(),
                file=file,
            )


def _non_finite(array: Array) -> int:
    return int(np.count_nonzero(~np.isfinite(array)))


def _write_array(path: Path, array: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    np.save(data, np.ascontiguousarray(array))
    write_bytes(path, data.getvalue())
