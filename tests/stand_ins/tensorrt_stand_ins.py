"""Stand-ins for TensorRT, CUDA's Python packages and trtexec, after their documentation.

A plan is an ONNX file behind a version, device memory is memory, a stream does its work when
somebody waits for it, and answers are ONNX Runtime's.
"""

from __future__ import annotations

import ctypes
import enum
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge.session import Array

MOST = 4
MAGIC = b"stand-in plan 9.9 "


class Device:
    """Blocks of memory, and a stream that works when it is waited for."""

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.queue: list[Callable[[], None]] = []
        self.streams = 0
        self.depth = 0
        self.allocated_bytes = 0

    def allocate(self, size: int) -> int:
        block = (ctypes.c_char * size)()
        self.allocated_bytes += size
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def copy(self, target: int, source: int, size: int) -> None:
        assert target in self.blocks or source in self.blocks
        for address in (target, source):
            assert size <= ctypes.sizeof(self.blocks.get(address, (ctypes.c_char * size)()))

        def move() -> None:
            ctypes.memmove(target, source, size)

        self.queue.append(move)

    def wait(self) -> None:
        queue, self.queue = self.queue, []
        for work in queue:
            work()


class Errors(enum.IntEnum):
    """``cudaError_t``."""

    cudaSuccess = 0  # noqa: N815 - CUDA's name
    cudaErrorMemoryAllocation = 2  # noqa: N815


def cuda_runtime(device: Device, *, fails: str = "") -> Any:
    """``cuda.bindings.runtime``: every function returns a tuple that begins with an error."""
    runtime: Any = types.ModuleType("cuda.bindings.runtime")
    good = Errors(0)

    def function(name: str, work: Callable[..., Any]) -> None:
        def call(*arguments: Any) -> tuple[Any, ...]:
            if name == fails:
                return (Errors(2), None)
            result = work(*arguments)
            return (good,) if result is None else (good, result)

        setattr(runtime, name, call)

    def stream() -> int:
        device.streams += 1
        return 77

    def destroy(handle: int) -> None:
        assert handle == 77
        device.streams -= 1

    kinds = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    runtime.cudaMemcpyKind = kinds

    def copy(target: int, source: int, size: int, kind: Any, handle: int) -> None:
        on_device = target if kind == kinds.cudaMemcpyHostToDevice else source
        assert on_device in device.blocks
        assert handle == 77
        device.copy(target, source, size)

    function("cudaMalloc", device.allocate)
    function("cudaFree", lambda address: device.blocks.pop(address) and None)
    function("cudaStreamCreate", stream)
    function("cudaStreamDestroy", destroy)
    function("cudaStreamSynchronize", lambda _: device.wait())
    function("cudaMemcpyAsync", copy)
    runtime.cudaGetErrorString = lambda error: (good, Errors(error).name.encode())
    return runtime


def pycuda_driver(device: Device) -> Any:
    """``pycuda.driver``: exceptions, and a context that must be current."""
    driver: Any = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class Context:
        def push(self) -> None:
            device.depth += 1

        def pop(self) -> None:
            device.depth -= 1

    class Stream:
        handle = 77

        def __init__(self) -> None:
            assert device.depth == 1

        def synchronize(self) -> None:
            device.wait()

    class Block:
        def __init__(self, size: int) -> None:
            assert device.depth == 1
            if size > 1 << 30:
                raise Error("out of memory")
            self.address = device.allocate(size)

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            del device.blocks[self.address]

    def htod(target: int, source: Array, stream: Stream) -> None:
        assert isinstance(stream, Stream)
        device.copy(target, source.ctypes.data, source.nbytes)

    def dtoh(target: Array, source: int, stream: Stream) -> None:
        assert isinstance(stream, Stream)
        device.copy(target.ctypes.data, source, target.nbytes)

    driver.Error, driver.Stream, driver.mem_alloc = Error, Stream, Block
    driver.init = lambda: None
    driver.Device = lambda _: types.SimpleNamespace(retain_primary_context=Context)
    driver.memcpy_htod_async, driver.memcpy_dtoh_async = htod, dtoh
    return driver


class Context:
    """What both generations of an execution context share."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set(self, name: str, shape: tuple[int, ...]) -> bool:
        fixed = self.engine.network[name]
        whole = tuple(size if isinstance(size, int) else -1 for size in fixed)
        fits = all(want in (-1, got) for want, got in zip(whole, shape, strict=True))
        if not fits or not 1 <= shape[0] <= MOST:
            self.engine.log(f"Parameter check failed: {name} does not allow {shape}")
            return False
        self.shapes[name] = shape
        return True

    def get(self, name: str) -> tuple[int, ...]:
        shape = [size if isinstance(size, int) else -1 for size in self.engine.network[name]]
        if shape[0] == -1:
            given = next(iter(self.shapes.values()), None)
            shape[0] = given[0] if given else -1
        return tuple(shape)

    def enqueue(self, addresses: Mapping[str, int], stream: int) -> bool:
        assert stream == 77
        shape = self.get("input")

        def view(name: str, shape: tuple[int, ...]) -> Array:
            size = int(np.prod(shape))
            block = (ctypes.c_float * size).from_address(addresses[name])
            return np.ctypeslib.as_array(block).reshape(shape)

        def work() -> None:
            outputs = self.engine.session.run(None, {"input": view("input", shape)})
            for name, value in zip(self.engine.outputs, outputs, strict=True):
                view(name, value.shape)[:] = value

        self.engine.device.queue.append(work)
        return not self.engine.broken


class Engine:
    """What both generations of an engine share; ``network`` is name -> shape, inputs first."""

    def __init__(self, session: Any, device: Device, log: Callable[[str], None]) -> None:
        self.session, self.device, self.log = session, device, log
        self.outputs: list[str] = [value.name for value in session.get_outputs()]
        self.network = {
            value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())
        }
        self.names: list[str] = list(self.network)
        self.broken = False


class Bindings82(Engine):
    num_bindings = property(lambda self: len(self.names))

    def get_binding_name(self, index: int) -> str:
        return self.names[index]

    def get_binding_index(self, name: str) -> int:
        return self.names.index(name)

    def binding_is_input(self, index: int) -> bool:
        return self.names[index] not in self.outputs

    def get_binding_shape(self, index: int) -> tuple[int, ...]:
        return tuple(s if isinstance(s, int) else -1 for s in self.network[self.names[index]])

    def get_profile_shape(self, profile: int, index: int) -> list[tuple[int, ...]]:
        assert profile == 0
        return [(size, *self.get_binding_shape(index)[1:]) for size in (1, 2, MOST)]

    def get_binding_dtype(self, index: int) -> str:
        assert 0 <= index < len(self.names)
        return "FLOAT"

    def create_execution_context(self) -> Any:
        outer = self

        class Context82(Context):
            def set_binding_shape(self, index: int, shape: tuple[int, ...]) -> bool:
                # It refuses one that is fixed already.
                return outer.get_binding_shape(index)[0] == -1 and self.set(
                    outer.names[index], shape
                )

            def get_binding_shape(self, index: int) -> tuple[int, ...]:
                return self.get(outer.names[index])

            def execute_async_v2(self, bindings: list[int], stream_handle: int) -> bool:
                return self.enqueue(dict(zip(outer.names, bindings, strict=True)), stream_handle)

        return Context82(self)


class Tensors10(Engine):
    num_io_tensors = property(lambda self: len(self.names))

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "OUTPUT" if name in self.outputs else "INPUT"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.network[name])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        return [(size, *self.get_tensor_shape(name)[1:]) for size in (1, 2, MOST)]

    def get_tensor_dtype(self, name: str) -> str:
        assert name in self.names
        return "FLOAT"

    def create_execution_context(self) -> Any:
        class Context10(Context):
            def __init__(self, engine: Any) -> None:
                super().__init__(engine)
                self.addresses: dict[str, int] = {}

            def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
                return self.set(name, shape)

            def get_tensor_shape(self, name: str) -> tuple[int, ...]:
                return self.get(name)

            def set_tensor_address(self, name: str, memory: int) -> bool:
                self.addresses[name] = memory
                return True

            def execute_async_v3(self, stream_handle: int) -> bool:
                assert set(self.addresses) == set(self.engine.names)
                return self.enqueue(self.addresses, stream_handle)

        return Context10(self)


def tensorrt_package(device: Device, version: str, engines: list[Any]) -> Any:
    package: Any = types.ModuleType("tensorrt")
    kind = Bindings82 if version.startswith(("8.2", "8.4")) else Tensors10

    class ILogger:
        class Severity(enum.IntEnum):
            INTERNAL_ERROR = 0
            ERROR = 1
            WARNING = 2

        made = False

        def __init__(self) -> None:
            self.made = True

    class Runtime:
        def __init__(self, logger: Any) -> None:
            assert logger.made  # a subclass must call ILogger.__init__
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            severity = ILogger.Severity
            self.logger.log(severity.WARNING, "Using an engine plan file across models of devices")
            if not plan.startswith(MAGIC):
                self.logger.log(
                    severity.ERROR,
                    "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Version tag "
                    "does not match.\nNote: Current Version: 239, Serialized Engine Version: 236)",
                )
                return None
            import onnxruntime

            session = onnxruntime.InferenceSession(
                plan[len(MAGIC) :], providers=["CPUExecutionProvider"]
            )
            engine = kind(session, device, lambda text: self.logger.log(severity.ERROR, text))
            engines.append(engine)
            return engine

    package.__version__ = version
    package.ILogger, package.Runtime = ILogger, Runtime
    package.TensorIOMode = types.SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    package.nptype = {"FLOAT": np.float32}.__getitem__
    return package


STAND_IN = """#!{python}
import json, re, sys
print("&&&& RUNNING TensorRT.trtexec [TensorRT {version}] # " + " ".join(sys.argv))
if sys.argv[1:] == ["--help"]:
    sys.exit(0)
known = {{"loadEngine", "loadInputs", "exportOutput", "shapes", "warmUp", "duration", "iterations"}}
known |= set("{more}".split())
options = dict(text[2:].partition("=")[::2] for text in sys.argv[1:])
with open({calls!r}, "a") as stream:
    stream.write(json.dumps(sys.argv[1:]) + "\\n")
for name in options:
    if name not in known:
        sys.exit("[11/21/2026-10:00:00] [E] Unknown option: --" + name)
plan = open(options["loadEngine"], "rb").read()
if not plan.startswith({magic!r}):
    print("[11/21/2026-10:00:00] [E] Error[1]: Version tag does not match")
    sys.exit("&&&& FAILED TensorRT.trtexec")
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(plan[len({magic!r}):], providers=["CPUExecutionProvider"])
name, _, file = options["loadInputs"].partition(":")
shape = [int(size) for size in options["shapes"].partition(":")[2].split("x")]
outputs = session.run(None, {{name: np.fromfile(file, np.float32).reshape(shape)}})
sep = "  "
with open(options["exportOutput"], "w") as stream:
    stream.write("[\\n")
    for output, value in zip(session.get_outputs(), outputs):
        stream.write(sep + '{{ "name" : "' + output.name + '"\\n')
        sep = ", "
        stream.write('  , "dimensions" : "' + "x".join(map(str, value.shape)) + '"\\n')
        values = sep.join("%g" % number for number in value.reshape(-1))
        stream.write('  , "values" : [ ' + values + " ]\\n  }}\\n")
    stream.write("]\\n")
print("&&&& PASSED TensorRT.trtexec")
"""


def stand_in(folder: Path, version: str, more: str = "") -> Path:
    program = folder / "trtexec"
    text = STAND_IN.format(
        python=sys.executable,
        version=version,
        more=more,
        calls=str(folder / "calls"),
        magic=MAGIC,
    )
    program.write_text(text)
    program.chmod(0o755)
    return program
