"""TensorFlow Lite, nowadays LiteRT, on the CPU."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from edge import quiet
from edge.artifact import Artifact, load_constants
from edge.errors import ArtifactError, EngineError, EngineMissingError, first_line
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
from edge.spec import TensorSpec
from edge.texts import read_json

__all__ = ["LAYOUT", "TfliteSession", "import_interpreter", "open_engine", "quietly"]

LAYOUT = "layout"  # the role of the file that says how axes lie
_IDENTIFIER = b"TFL3"
# The module with the interpreter, and the distribution it is of; the first that is there.
_RUNTIMES = (
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite-runtime"),
    ("tensorflow.lite.python.interpreter", "tensorflow"),
)
# Where a float file is stored in halves, its CPU kernels still compute in floats.
_FLOAT_PRECISIONS = ("fp32", "fp16")
_INTEGERS = (np.int8, np.uint8, np.int16)


def import_interpreter() -> tuple[Any, str]:
    """The module with ``Interpreter``, and its distribution with the version.

    Raises EngineMissingError where none of the three runtimes is installed.
    """
    for module, distribution in _RUNTIMES:
        with contextlib.suppress(EngineMissingError):
            interpreter = import_engine(module, "tflite")
            return interpreter, f"{distribution} {_version(module, distribution)}"
    return import_engine(_RUNTIMES[0][0], "tflite"), ""  # raises, and names the usual one


def _version(module: str, distribution: str) -> str:
    """TensorFlow comes as a dozen distributions (``tensorflow-cpu``) and one package."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(sys.modules[module.partition(".")[0]], "__version__", "unknown"))


class _Tensor:
    """One tensor of the file as the spec has it: float32, axes in the spec's order.

    ``axes``: axis i of the file's tensor is axis ``axes[i]`` of the spec's.
    """

    def __init__(
        self, interpreter: Any, detail: Mapping[str, Any], tensor: TensorSpec, axes: list[int]
    ) -> None:
        self.name = tensor.name
        self.axes = axes
        self.dtype = np.dtype(detail["dtype"])
        shape = [int(size) for size in detail["shape"]]
        fits = sorted(axes) == list(range(len(shape)))
        self.back = [axes.index(axis) for axis in range(len(axes))] if fits else []
        if not fits or not tensor.accepts(tuple(shape[axis] for axis in self.back)):
            raise ValueError(
                f"its {tensor.name!r} is {shape} with the axes {axes}, the spec says {tensor.shape}"
            )
        scale, zero = detail["quantization"]
        if self.dtype != np.float32 and (self.dtype not in _INTEGERS or not scale):
            raise ValueError(f"its {tensor.name!r} is {self.dtype} without a scale")
        self.scale, self.zero = np.float32(scale), np.float32(zero)
        self._view = interpreter.tensor(detail["index"])

    def write(self, array: Array) -> None:
        """Copy an array of the spec into the network's memory, quantised where that is integer."""
        if self.dtype != np.float32:
            limits = np.iinfo(self.dtype)
            array = np.rint(array / self.scale + self.zero)
            array = np.clip(array, limits.min, limits.max).astype(self.dtype)
        view = self._view()
        if self.axes == [0, 2, 3, 1]:
            # Channel by channel is four times as fast as one turned copy.
            for channel in range(array.shape[1]):
                view[..., channel] = array[:, channel]
        else:
            view[...] = array.transpose(self.axes)

    def read(self) -> Array:
        """A float32 copy in the spec's order of axes."""
        value = np.array(self._view().transpose(self.back), np.float32, order="C")
        if self.dtype != np.float32:
            value -= self.zero
            value *= self.scale
        return value


class TfliteSession(Session):
    """A ``.tflite`` file on the CPU, through XNNPACK where that knows an operator.

    The file's signature names its inputs and outputs as the spec does, and a JSON file beside it
    says how their axes lie (TFLite keeps images as (N, H, W, C)); feeds and outputs are the spec's
    all the same. Integer inputs and outputs are quantised and dequantised here.
    """

    def __init__(self, artifact: Artifact, settings: EngineSettings) -> None:
        refuse_bf16(settings, "TFLite")
        runtime, self.engine = import_interpreter()
        self._constants = load_constants(artifact)
        spec, path = artifact.spec, artifact.path("model")
        try:
            layout = read_json(artifact.path(LAYOUT), ArtifactError)
            axes = {str(name): [int(axis) for axis in order] for name, order in layout.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise ArtifactError(
                f"{artifact.path(LAYOUT)}: says not how axes lie ({error}); convert the model again"
            ) from None
        with path.open("rb") as file:
            if file.read(8)[4:] != _IDENTIFIER:
                raise EngineError(f"TFLite cannot load {path}: it is no TFLite model")
        try:
            with quietly():
                interpreter = runtime.Interpreter(
                    model_path=str(path), num_threads=settings.thread_count
                )
                interpreter.allocate_tensors()
                runner = interpreter.get_signature_runner()
            inputs, outputs = runner.get_input_details(), runner.get_output_details()
            self._input: Any = _Tensor(
                interpreter, inputs[spec.input.name], spec.input, axes[spec.input.name]
            )
            self._outputs = [
                _Tensor(interpreter, outputs[tensor.name], tensor, axes[tensor.name])
                for tensor in spec.outputs
            ]
        except KeyError as error:
            raise EngineError(f"TFLite cannot use {path}: it has no tensor {error}") from None
        except Exception as error:  # RuntimeError and ValueError, and TensorFlow's own
            raise EngineError(f"TFLite cannot load {path}: {first_line(error)}") from None
        self._interpreter: Any = interpreter
        self.spec = spec
        self._state = OpenSession(spec)
        precision = artifact.variant.precision
        self.inference_precision = "fp32" if precision in _FLOAT_PRECISIONS else str(precision)
        self.max_batch = spec.input.shape[0]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, in the order of ``spec.outputs``, and the constants."""
        self._state.check()
        self._input.write(check_feeds(self.spec, feeds))
        try:
            self._interpreter.invoke()
        except Exception as error:  # as above
            raise EngineError(f"TFLite failed on {self.spec.name}: {first_line(error)}") from None
        found = {output.name: output.read() for output in self._outputs}
        return check_outputs(self.spec, found, "TFLite") | self._constants

    def close(self) -> None:
        """Free the network."""
        self._state.close()
        self._interpreter = self._input = None
        self._outputs = []


def open_engine(artifact: Artifact, settings: EngineSettings) -> TfliteSession:
    """Load a ``tflite-*`` artifact."""
    return TfliteSession(artifact, settings)


def quietly() -> AbstractContextManager[None]:
    """Without the lines of LiteRT's own log, which has no switch in Python (2.3.0)."""
    return quiet.quietly(b"INFO: ", b"WARNING: ")
