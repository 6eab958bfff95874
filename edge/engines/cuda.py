"""Device memory for the TensorRT engine, through whichever CUDA package is installed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from edge.errors import EngineError, EngineMissingError
from edge.session import Array

__all__ = ["DeviceMemory", "open_device_memory"]


class DeviceMemory(Protocol):
    """Blocks on the first CUDA device, and one stream that copies and computes in order.

    ``stream`` is the stream's handle as a number. Everything but ``close`` happens inside of
    ``current()``. Copies are of whole C-contiguous arrays and are finished only after ``wait``.
    """

    stream: int

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this device the calling thread's."""
        ...

    def allocate(self, size_bytes: int) -> int:
        """A block's address; EngineError where the device has no such room."""
        ...

    def upload(self, address: int, array: Array) -> None:
        """Copy an array to the device."""
        ...

    def download(self, array: Array, address: int) -> None:
        """Copy from the device into an array."""
        ...

    def wait(self) -> None:
        """Wait until the stream has done all that it was given."""
        ...

    def close(self) -> None:
        """Free the stream and all blocks."""
        ...


def open_device_memory() -> DeviceMemory:
    """By cuda-python (12.8 or newer, or older) or else by pycuda.

    Raises EngineMissingError where neither is installed, EngineError where CUDA finds no device.
    """
    for module in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            runtime = importlib.import_module(module)
        except ImportError:
            continue
        return _RuntimeMemory(runtime)
    try:
        driver = importlib.import_module("pycuda.driver")
    except ImportError:
        raise EngineMissingError(
            "no CUDA package is installed: pip install cuda-python (or pycuda)"
        ) from None
    return _PycudaMemory(driver)


class _RuntimeMemory:
    """cuda-python: functions of the CUDA runtime that return an error and their results."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._blocks: list[int] = []
        (self._stream,) = self._call("cudaStreamCreate")
        self.stream = int(self._stream)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        try:
            error, *results = getattr(self._runtime, name)(*arguments)
        except RuntimeError as failure:  # it finds no driver to load
            raise EngineError(f"CUDA does not work here: {failure}") from None
        if int(error) != 0:
            _, text = self._runtime.cudaGetErrorString(error)
            reason = text.decode() if isinstance(text, bytes) else str(text)
            raise EngineError(f"CUDA: {name} failed: {reason}")
        return tuple(results)

    @contextmanager
    def current(self) -> Iterator[None]:
        yield  # the runtime makes the first device every thread's by itself

    def allocate(self, size_bytes: int) -> int:
        (address,) = self._call("cudaMalloc", size_bytes)
        self._blocks.append(int(address))
        return int(address)

    def upload(self, address: int, array: Array) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)

    def download(self, array: Array, address: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind)

    def _copy(self, target: int, source: int, size_bytes: int, kind: Any) -> None:
        self._call("cudaMemcpyAsync", target, source, size_bytes, kind, self._stream)

    def wait(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        blocks, self._blocks = self._blocks, []
        for address in blocks:
            self._call("cudaFree", address)
        if self._stream is not None:
            self._call("cudaStreamDestroy", self._stream)
            self._stream = None


class _PycudaMemory:
    """pycuda, in the device's primary context: the one that TensorRT uses as well."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._blocks: dict[int, Any] = {}
        try:
            driver.init()
            self._context = driver.Device(0).retain_primary_context()
            with self.current():
                self._stream: Any = driver.Stream()
        except driver.Error as failure:
            raise EngineError(f"CUDA does not work here: {failure}") from None
        self.stream = int(self._stream.handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def allocate(self, size_bytes: int) -> int:
        try:
            block = self._driver.mem_alloc(size_bytes)
        except self._driver.Error as failure:
            raise EngineError(f"CUDA: no {size_bytes} bytes of device memory: {failure}") from None
        self._blocks[int(block)] = block
        return int(block)

    def upload(self, address: int, array: Array) -> None:
        self._do("memcpy_htod_async", address, array, self._stream)

    def download(self, array: Array, address: int) -> None:
        self._do("memcpy_dtoh_async", array, address, self._stream)

    def _do(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self._driver, name)(*arguments)
        except self._driver.Error as failure:
            raise EngineError(f"CUDA: {name} failed: {failure}") from None

    def wait(self) -> None:
        try:
            self._stream.synchronize()
        except self._driver.Error as failure:
            raise EngineError(f"CUDA: the stream failed: {failure}") from None

    def close(self) -> None:
        with self.current():
            blocks, self._blocks = self._blocks, {}
            for block in blocks.values():
                block.free()
            self._stream = None
