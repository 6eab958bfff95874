"""OpenVINO on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge.artifact import Artifact, load_constants
from edge.errors import EngineError, last_line
from edge.session import (
    Array,
    EngineSettings,
    Feeds,
    OpenSession,
    Session,
    check_feeds,
    check_outputs,
    import_engine,
)

__all__ = [
    "LOWER_PRECISIONS",
    "OpenVinoSession",
    "import_openvino",
    "keep_signal_stack",
    "open_engine",
]

# What it computes floats in where it is allowed to, besides their own.
LOWER_PRECISIONS = ("bf16",)
# Ours -> OpenVINO's element type, and the word with which a CPU says that it computes in it.
_TYPES = {"fp32": ("f32", "FP32"), "fp16": ("f16", "FP16"), "bf16": ("bf16", "BF16")}


def import_openvino() -> Any:
    """The package, without its reports over the network.

    On import it sends that it was imported, and writes an identity into the home folder, unless
    ``openvino_telemetry`` is absent (OpenVINO 2026.4.1, ``openvino/tools/ovc/__init__.py``). None
    in ``sys.modules`` makes it so for this process; a program that loaded it before keeps it.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)
    return import_engine("openvino", "openvino")


class _SignalStack(ctypes.Structure):
    """``stack_t`` of signal.h."""

    _fields_ = (
        ("pointer", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size_bytes", ctypes.c_size_t),
    )


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Give this thread its alternate signal stack back when the block ends.

    The CPU plugin replaces it when it is loaded and puts the one before back when it is unloaded
    (OpenVINO 2026.4.1): of two networks, the second then leaves the freed stack of the first, and
    the next signal that Python handles kills the process.
    """
    sigaltstack = (
        getattr(ctypes.CDLL(None), "sigaltstack", None) if sys.platform != "win32" else None
    )
    if sigaltstack is None:
        yield
        return
    stack = _SignalStack()
    sigaltstack(None, ctypes.byref(stack))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(stack), None)


class OpenVinoSession(Session):
    """An ``.xml`` / ``.bin`` pair on OpenVINO's CPU plugin.

    The precision is always stated: left to itself OpenVINO takes bf16 where the CPU has it, and
    also where fp16 was asked of a CPU without that (2026.4.1). What the CPU lacks becomes fp32;
    ``inference_precision`` is what the compiled network says of itself.
    """

    def __init__(self, artifact: Artifact, settings: EngineSettings) -> None:
        with keep_signal_stack():
            self._load(artifact, settings)

    def _load(self, artifact: Artifact, settings: EngineSettings) -> None:
        openvino = import_openvino()
        self._constants = load_constants(artifact)
        spec = artifact.spec
        model, weights = artifact.path("model"), artifact.path("weights")
        # Every other reader would try a text that is no IR, and print what it thinks of it.
        if b"<net " not in model.read_bytes()[:200]:
            raise EngineError(f"OpenVINO cannot load {model}: it is no OpenVINO model")
        core = openvino.Core()
        hint, capability = _TYPES[settings.inference_precision]
        if capability not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            hint = "f32"
        options = {
            "INFERENCE_NUM_THREADS": settings.thread_count,
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            compiled = core.compile_model(core.read_model(model, weights), "CPU", options)
            # By name, so that a file whose names are not the spec's is found out here.
            self._input: Any = compiled.input(spec.input.name)
            self._outputs: dict[str, Any] = {t.name: compiled.output(t.name) for t in spec.outputs}
        except Exception as error:  # its exceptions share no base class but Exception
            raise EngineError(
                f"OpenVINO cannot load {model} with {weights.name}: {last_line(error).strip(' -')}"
            ) from None
        self._request: Any = compiled.create_infer_request()
        self.spec = spec
        self._state = OpenSession(spec)
        self.engine = f"openvino {openvino.__version__.partition('-')[0]}"
        holds = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        names = {theirs: ours for ours, (theirs, _) in _TYPES.items()}
        self.inference_precision = names.get(holds, holds)
        self.max_batch = spec.input.shape[0]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, in the order of ``spec.outputs``, and the constants."""
        self._state.check()
        array = check_feeds(self.spec, feeds)
        try:
            # The outputs are copies: the request writes into the same memory at every call.
            results = self._request.infer(
                {self._input: array}, share_inputs=True, share_outputs=False
            )
        except Exception as error:  # as above
            raise EngineError(
                f"OpenVINO failed on {self.spec.name}: {last_line(error).strip(' -')}"
            ) from None
        found = {name: results[output] for name, output in self._outputs.items()}
        return check_outputs(self.spec, found, "OpenVINO") | self._constants

    def close(self) -> None:
        """Free the network."""
        self._state.close()
        self._request = self._input = None
        self._outputs = {}


def open_engine(artifact: Artifact, settings: EngineSettings) -> OpenVinoSession:
    """Load an ``openvino-*`` artifact."""
    return OpenVinoSession(artifact, settings)
