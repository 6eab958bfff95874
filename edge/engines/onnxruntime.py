"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.artifact import Artifact, load_constants
from edge.errors import EngineError, first_line
from edge.session import (
    Array,
    EngineSettings,
    Feeds,
    OpenSession,
    Session,
    check_feeds,
    check_outputs,
    import_engine,
    refuse_bf16,
)
from edge.spec import ModelSpec

__all__ = ["OnnxRuntimeSession", "open_engine"]


class OnnxRuntimeSession(Session):
    """An ONNX file on ONNX Runtime's CPU provider.

    The CPU provider computes in the types that the file holds and never lowers them, so the
    inference precision is the file's. (Where it has no half-precision kernel it raises the values
    of an fp16 file to fp32 and back: results are rounded to fp16 either way.)

    ``output_names`` asks for other tensors than the spec's outputs. Constants that are not given
    as ``constants`` are outputs of the file, as in an untouched source whose initializers are
    declared as graph outputs.
    """

    def __init__(
        self,
        onnx: Path | bytes,
        spec: ModelSpec,
        settings: EngineSettings,
        precision: str = "fp32",
        output_names: Sequence[str] = (),
        constants: Mapping[str, Array] | None = None,
    ) -> None:
        refuse_bf16(settings, "ONNX Runtime")
        runtime = import_engine("onnxruntime", "onnxruntime")
        # Where somebody imported it before this package, who turns it off from the start.
        if hasattr(runtime, "disable_telemetry_events"):
            runtime.disable_telemetry_events()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = settings.thread_count
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A session's threads otherwise wait for its next call in a loop that keeps their CPUs busy
        # (1.31.1): a detector and a pose model in turn took more than twice their time, and what
        # runs between them took longer too. Alone a session is as fast either way.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        source = onnx if isinstance(onnx, bytes) else str(onnx)
        try:
            self._session: Any = runtime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class but Exception
            raise EngineError(
                f"ONNX Runtime cannot load {spec.name}: {first_line(error)}"
            ) from None
        self.spec = spec
        self._state = OpenSession(spec)
        self._of_spec = not output_names
        self.engine = f"onnxruntime {runtime.__version__}"
        self.inference_precision = precision
        self.max_batch = spec.input.shape[0]
        self._constants = dict(constants or {})
        self._output_names = list(output_names) or [
            tensor.name
            for tensor in (*spec.outputs, *spec.constants)
            if tensor.name not in self._constants
        ]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, in the order of the spec or of ``output_names``, and the constants."""
        self._state.check()
        array = check_feeds(self.spec, feeds)
        try:
            outputs = self._session.run(self._output_names, {self.spec.input.name: array})
        except Exception as error:  # as above
            raise EngineError(
                f"ONNX Runtime failed on {self.spec.name}: {first_line(error)}"
            ) from None
        found = dict(zip(self._output_names, outputs, strict=True))
        if self._of_spec:
            found |= check_outputs(self.spec, found, "ONNX Runtime")
        return found | self._constants

    def close(self) -> None:
        """Free the network."""
        self._state.close()
        self._session = None


def open_engine(artifact: Artifact, settings: EngineSettings) -> OnnxRuntimeSession:
    """Load an ``onnx-*`` artifact."""
    return OnnxRuntimeSession(
        artifact.path("model"),
        artifact.spec,
        settings,
        artifact.variant.precision,
        constants=load_constants(artifact),
    )
