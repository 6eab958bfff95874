"""One loaded network on one engine: feeds in, outputs out."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from edge.artifact import Artifact
from edge.errors import (
    ArgumentError,
    EdgeError,
    EngineError,
    EngineMissingError,
    FeedError,
    SpecError,
)
from edge.records import check, choice, shown, whole
from edge.spec import QUANTISED, Format, ModelSpec

__all__ = [
    "ENGINES",
    "MOST_THREADS",
    "Array",
    "EngineSettings",
    "Feeds",
    "InferencePrecision",
    "OpenSession",
    "Session",
    "check_feeds",
    "check_outputs",
    "default_threads",
    "import_engine",
    "lower_precisions",
    "open_session",
    "refuse_bf16",
    "shipped_precision",
]

Array = npt.NDArray[Any]
MOST_THREADS = 1024
"""No machine that runs such networks has as many CPUs."""
Feeds = Mapping[str, Array]
InferencePrecision = Literal["fp32", "fp16", "bf16"]

# Format -> module of edge.engines; each has `open_engine(artifact, settings) -> Session`.
ENGINES: dict[Format, str] = {
    "onnx": "onnxruntime",
    "ncnn": "ncnn",
    "openvino": "openvino",
    "tflite": "tflite",
    "tensorrt": "tensorrt",
}


def default_threads() -> int:
    """CPUs this process may use, at most 4: small networks gain nothing beyond."""
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        available = os.cpu_count() or 1
    return max(1, min(4, available))


@dataclass(frozen=True)
class EngineSettings:
    """How an engine runs: CPU threads, and the precision its arithmetic may use.

    ``inference_precision`` is a permission, not a promise: what really holds is in
    ``Session.inference_precision`` (ncnn on x86 computes in fp32 whatever it may do). Nothing
    lowers it unasked: bf16 holds only where it was named, and of the engines OpenVINO knows it; or
    where an ncnn artifact that may compute in fp16 has the record that bf16 is what is safe on ARM.
    """

    threads: int = 0
    inference_precision: InferencePrecision = "fp32"

    def __post_init__(self) -> None:
        check(whole(0, MOST_THREADS), self.threads, "threads", error=ArgumentError)
        words = choice(*get_args(InferencePrecision))
        check(words, self.inference_precision, "inference_precision", error=ArgumentError)

    @property
    def thread_count(self) -> int:
        """The number of threads meant: ``threads``, or the default where that is 0."""
        return self.threads or default_threads()


class Session(Protocol):
    """A loaded network; engines inherit from it what ``with`` does.

    ``max_batch`` is the batch size that one call takes, None where any does; a network with a
    fixed batch takes exactly that. ``engine`` names engine and version. ``inference_precision`` is
    the arithmetic that holds; ``fp16-storage`` is fp32 arithmetic on half floats in memory, as
    ncnn does it on ARM. ``starts_process``: every call does, so that its time says nothing.
    """

    spec: ModelSpec
    engine: str
    inference_precision: str
    max_batch: int | None
    starts_process: bool = False

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """All that a codec needs, by name: ``spec.outputs`` in their order, ``spec.constants``.

        Outputs own their memory; constants are the session's and the same at every call.
        """
        ...

    def close(self) -> None:
        """Free the network; the session cannot run afterwards."""
        ...

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.close()


class OpenSession:
    """Whether a session can run: it is not closed, and in a process where its engine works.

    ``forks``: whether the engine works in a process that was forked from the one that opened it.
    """

    def __init__(self, spec: ModelSpec, *, forks: bool = True) -> None:
        self._name = spec.name
        self._process = None if forks else os.getpid()
        self._open = True

    def check(self) -> None:
        """Raise EngineError that says what to do where the session cannot run."""
        if not self._open:
            raise EngineError(f"the session of {self._name} is closed: open it again to use it")
        if self._process not in (None, os.getpid()):
            raise EngineError(
                f"the session of {self._name} was opened in process {self._process}, and its "
                "engine does not work in one that was forked from it: open it in this process"
            )

    def close(self) -> None:
        """It cannot run any more."""
        self._open = False


def check_feeds(spec: ModelSpec, feeds: Feeds) -> Array:
    """The one input array of a model, C-contiguous; FeedError on a wrong name, shape or dtype.

    Engines differ in what they do to a wrong feed, from a good message to a crash; none sees one.
    """
    want = spec.input
    if not isinstance(feeds, Mapping):
        raise FeedError(
            f"{spec.name} takes a table of arrays, {{{want.name!r}: array}}, got {shown(feeds)}"
        )
    if set(feeds) != {want.name}:
        raise FeedError(f"{spec.name} takes the input {want.name!r}, got {sorted(map(str, feeds))}")
    array = feeds[want.name]
    if not isinstance(array, np.ndarray):
        raise FeedError(f"input {want.name!r} must be a numpy array, got {type(array).__name__}")
    if array.dtype != np.dtype(want.dtype):
        raise FeedError(f"input {want.name!r} must be {want.dtype}, got {array.dtype}")
    if not want.accepts(array.shape):
        shape = tuple("any" if size is None else size for size in want.shape)
        raise FeedError(f"input {want.name!r} must have shape {shape}, got {array.shape}")
    return np.ascontiguousarray(array)


def check_outputs(
    spec: ModelSpec, found: Mapping[str, Any], who: str, error: type[EdgeError] = EngineError
) -> dict[str, Array]:
    """A network's outputs in the order and the types of the spec.

    ``error`` where one is missing or of another shape: a codec would fail on it, or answer from
    the wrong place. Engines of weak typing give halves for floats and int32 for int64.
    """
    outputs: dict[str, Array] = {}
    for tensor in spec.outputs:
        value = found.get(tensor.name)
        if value is None:
            raise error(f"{who} gave no {tensor.name!r} of {spec.name}")
        array = np.asarray(value)
        if not tensor.accepts(array.shape):
            shape = tuple("any" if size is None else size for size in tensor.shape)
            raise error(
                f"{who} gave {tensor.name!r} of {spec.name} as {array.shape}, the spec says {shape}"
            )
        outputs[tensor.name] = array if array.dtype == tensor.dtype else array.astype(tensor.dtype)
    return outputs


def refuse_bf16(settings: EngineSettings, engine: str) -> None:
    """Raise SpecError where bf16 is asked of an engine that does not know it."""
    if settings.inference_precision == "bf16":
        raise SpecError(
            f"{engine} does not compute in bf16; ask for fp32 or fp16, or take an openvino variant"
        )


def import_engine(module: str, extra: str) -> Any:
    """Import an engine's package; EngineMissingError names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EngineMissingError(
            f"{module} is not installed ({error}): pip install 'edgepose[{extra}]'"
        ) from None


def shipped_precision(artifact: Artifact) -> InferencePrecision:
    """What an artifact's arithmetic is meant to be: an fp16 variant's may be half floats."""
    return "fp16" if artifact.variant.precision == "fp16" else "fp32"


def lower_precisions(artifact: Artifact) -> tuple[InferencePrecision, ...]:
    """What an artifact's engine can lower its floats to, unasked by none; of quantised ones none.

    An engine's module says so as ``LOWER_PRECISIONS``.
    """
    if artifact.variant.precision in QUANTISED:
        return ()
    engine = importlib.import_module(f"edge.engines.{ENGINES[artifact.variant.format]}")
    lower: tuple[InferencePrecision, ...] = getattr(engine, "LOWER_PRECISIONS", ())
    return lower


def open_session(artifact: Artifact, settings: EngineSettings | None = None) -> Session:
    """Load an artifact on the engine of its format."""
    if not isinstance(artifact, Artifact):
        raise ArgumentError(
            f"open_session takes an artifact, load_artifact(FOLDER), got {shown(artifact)}"
        )
    if not isinstance(settings, EngineSettings | None):
        raise ArgumentError(f"settings must be EngineSettings(...), got {shown(settings)}")
    engine = importlib.import_module(f"edge.engines.{ENGINES[artifact.variant.format]}")
    session: Session = engine.open_engine(artifact, settings or EngineSettings())
    return session
