"""A built TensorRT engine through either generation of its Python API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from edge.errors import EngineError

__all__ = ["BUILT_HERE", "Network", "load_network"]

BUILT_HERE = "an engine belongs to one TensorRT version and one GPU: build it again on this device"


class Network(Protocol):
    """An engine with its execution context; names are tensors'."""

    def tensors(self) -> dict[str, bool]:
        """Name -> whether it is an input."""
        ...

    def batches(self, name: str) -> tuple[int, int]:
        """Least and largest batch of an input."""
        ...

    def set_shape(self, name: str, shape: Sequence[int | None]) -> None:
        """Say an input's shape; outputs' shapes follow."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape as it is now."""
        ...

    def dtype(self, name: str) -> Any:
        """A tensor's numpy type."""
        ...

    def enqueue(self, addresses: Mapping[str, int], stream: int) -> bool:
        """Give a stream the work on tensors in these places; whether that was possible."""
        ...

    def said(self) -> str:
        """The last error that TensorRT logged."""
        ...


def load_network(tensorrt: Any, path: Path, engine_name: str) -> Network:
    """Load an engine's file; ``tensorrt`` is the package. EngineError says what TensorRT said."""

    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        """Keeps errors, prints nothing."""

        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            levels = tensorrt.ILogger.Severity
            if severity in (levels.INTERNAL_ERROR, levels.ERROR):
                self.errors.append(str(text).strip().replace("\n", " "))

    logger = Logger()
    runtime = tensorrt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    context = None if engine is None else engine.create_execution_context()
    if context is None:
        reason = logger.errors[0] if logger.errors else "it does not say why"
        raise EngineError(f"{engine_name} cannot load {path}: {reason} ({BUILT_HERE})")
    kind = _NamedTensors if hasattr(engine, "num_io_tensors") else _NumberedBindings
    return kind(tensorrt, runtime, engine, context, logger.errors)


class _NamedTensors:
    """TensorRT 8.5 and newer: tensors go by their names."""

    def __init__(
        self, tensorrt: Any, runtime: Any, engine: Any, context: Any, errors: list[str]
    ) -> None:
        # The runtime lives as long as what it loaded.
        self._tensorrt, self._runtime = tensorrt, runtime
        self._engine, self._context = engine, context
        self._errors = errors

    def tensors(self) -> dict[str, bool]:
        names = [
            self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)
        ]
        an_input = self._tensorrt.TensorIOMode.INPUT
        return {name: self._engine.get_tensor_mode(name) == an_input for name in names}

    def batches(self, name: str) -> tuple[int, int]:
        batch = self._engine.get_tensor_shape(name)[0]
        if batch >= 0:
            return int(batch), int(batch)
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        return int(least[0]), int(most[0])

    def set_shape(self, name: str, shape: Sequence[int | None]) -> None:
        # Not where nothing changes: old versions refuse to set a shape that is fixed.
        if self.shape(name) == tuple(shape):
            return
        if not self._set_shape(name, tuple(shape)):
            raise EngineError(f"TensorRT does not take {name!r} as {tuple(shape)}: {self.said()}")

    def _set_shape(self, name: str, shape: tuple[int | None, ...]) -> bool:
        return bool(self._context.set_input_shape(name, shape))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._context.get_tensor_shape(name))

    def dtype(self, name: str) -> Any:
        return self._tensorrt.nptype(self._engine.get_tensor_dtype(name))

    def enqueue(self, addresses: Mapping[str, int], stream: int) -> bool:
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        return bool(self._context.execute_async_v3(stream))

    def said(self) -> str:
        return self._errors[-1] if self._errors else "it does not say why"


class _NumberedBindings(_NamedTensors):
    """TensorRT 8.2 and 8.4: tensors are bindings with numbers."""

    def _index(self, name: str) -> int:
        return int(self._engine.get_binding_index(name))

    def tensors(self) -> dict[str, bool]:
        return {
            self._engine.get_binding_name(index): bool(self._engine.binding_is_input(index))
            for index in range(self._engine.num_bindings)
        }

    def batches(self, name: str) -> tuple[int, int]:
        index = self._index(name)
        batch = self._engine.get_binding_shape(index)[0]
        if batch >= 0:
            return int(batch), int(batch)
        least, _, most = self._engine.get_profile_shape(0, index)
        return int(least[0]), int(most[0])

    def _set_shape(self, name: str, shape: tuple[int | None, ...]) -> bool:
        return bool(self._context.set_binding_shape(self._index(name), shape))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._context.get_binding_shape(self._index(name)))

    def dtype(self, name: str) -> Any:
        return self._tensorrt.nptype(self._engine.get_binding_dtype(self._index(name)))

    def enqueue(self, addresses: Mapping[str, int], stream: int) -> bool:
        bindings = [0] * self._engine.num_bindings
        for name, address in addresses.items():
            bindings[self._index(name)] = address
        return bool(self._context.execute_async_v2(bindings, stream))
