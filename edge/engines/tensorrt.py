"""TensorRT: an engine that was built on this device, on its GPU."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edge.artifact import Artifact, load_constants
from edge.engines.cuda import DeviceMemory, open_device_memory
from edge.engines.tensorrt_network import BUILT_HERE, Network, load_network
from edge.engines.trtexec import (
    BuildKit,
    find_trtexec,
    load_build_kit,
    trtexec_run_argv,
    trtexec_version,
)
from edge.engines.trtexec_output import read_export_output, trtexec_failure
from edge.errors import ArtifactError, EngineError, EngineMissingError, FeedError
from edge.files import temporary_folder
from edge.session import (
    Array,
    EngineSettings,
    Feeds,
    OpenSession,
    Session,
    check_feeds,
    check_outputs,
    refuse_bf16,
)

__all__ = ["TensorRtSession", "TrtexecSession", "open_engine"]

_RUN_LIMIT_S = 300.0


def open_engine(artifact: Artifact, settings: EngineSettings) -> Session:
    """Load the built engine of a ``tensorrt-*`` artifact, its file with the role ``engine``.

    By TensorRT's Python package with a CUDA package, and where these are missing by a call of
    trtexec for each image: true answers, but each takes seconds and is rounded to six digits.
    Raises EngineMissingError where neither is there, ArtifactError for a kit not built yet.
    """
    refuse_bf16(settings, "TensorRT")
    if "engine" not in artifact.files:
        raise ArtifactError(
            f"{artifact.folder}: this {artifact.variant} artifact is a build kit without an "
            "engine; an engine is built on the device that runs it, with the trtexec commands of "
            f"{artifact.files.get('build', 'its build file')}"
        )
    missing = []
    try:
        tensorrt = importlib.import_module("tensorrt")
    except Exception as error:  # OSError and RuntimeError where its libraries are missing
        missing.append(f"tensorrt ({error})")
    else:
        try:
            return TensorRtSession(artifact, tensorrt, open_device_memory())
        except EngineMissingError as error:
            missing.append(str(error))
    program = find_trtexec()
    if program:
        return TrtexecSession(artifact, program)
    raise EngineMissingError(
        f"TensorRT is not installed: {'; '.join(missing)}; nor is the program trtexec. On a Jetson "
        "`sudo apt install tensorrt` brings both, elsewhere `pip install tensorrt cuda-python`"
    )


class TensorRtSession(Session):
    """A built engine through TensorRT's Python package, 8.2 to 11.

    The types of its layers were decided when it was built, so that the inference precision is the
    artifact's. Memory for the largest batch is taken once.
    """

    def __init__(self, artifact: Artifact, tensorrt: Any, memory: DeviceMemory) -> None:
        self.spec = artifact.spec
        self._state = OpenSession(self.spec, forks=False)  # CUDA's driver does not
        self.engine = f"tensorrt {tensorrt.__version__}"
        self.inference_precision: str = artifact.variant.precision
        self.max_batch = self.spec.input.shape[0]
        self._constants = load_constants(artifact)
        self._memory: DeviceMemory | None = memory
        self._network: Network | None = None
        try:
            with memory.current():
                self._network = load_network(tensorrt, artifact.path("engine"), self.engine)
                self._allocate(memory, self._network)
        except BaseException:
            self.close()
            raise

    def _allocate(self, memory: DeviceMemory, network: Network) -> None:
        spec = self.spec
        wanted = {spec.input.name: True} | {tensor.name: False for tensor in spec.outputs}
        found = network.tensors()
        if found != wanted:
            raise EngineError(
                f"{self.engine}: the engine has inputs {_named(found, True)} and outputs "
                f"{_named(found, False)}, the spec of {spec.name} says {_named(wanted, True)} and "
                f"{_named(wanted, False)}"
            )
        least, most = network.batches(spec.input.name)
        self._batches = range(least, most + 1)
        network.set_shape(spec.input.name, (most, *spec.input.shape[1:]))
        self._types = {name: np.dtype(network.dtype(name)) for name in wanted}
        self._addresses = {
            name: memory.allocate(int(np.prod(network.shape(name))) * self._types[name].itemsize)
            for name in wanted
        }

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, in the order of ``spec.outputs``, and the constants.

        More images than the engine was built for go through it in turns.
        """
        self._state.check()
        array = check_feeds(self.spec, feeds)
        outputs = _in_turns(self._run, array, self._batches)
        return check_outputs(self.spec, outputs, self.engine) | self._constants

    def _run(self, array: Array) -> dict[str, Array]:
        spec, network, memory = self.spec, self._network, self._memory
        assert network is not None and memory is not None
        image = np.ascontiguousarray(array, self._types[spec.input.name])
        with memory.current():
            network.set_shape(spec.input.name, image.shape)
            memory.upload(self._addresses[spec.input.name], image)
            if not network.enqueue(self._addresses, memory.stream):
                raise EngineError(f"{self.engine} failed on {spec.name}: {network.said()}")
            outputs: dict[str, Array] = {}
            for tensor in spec.outputs:
                shape = network.shape(tensor.name)
                outputs[tensor.name] = np.empty(shape, self._types[tensor.name])
                memory.download(outputs[tensor.name], self._addresses[tensor.name])
            memory.wait()
        return outputs

    def close(self) -> None:
        """Free the engine, then the memory that it was given."""
        self._state.close()
        memory, self._memory = self._memory, None
        if memory is not None:
            with memory.current():
                self._network = None
            memory.close()


class TrtexecSession(Session):
    """A built engine through trtexec, which starts anew for every call."""

    starts_process = True

    def __init__(self, artifact: Artifact, program: str) -> None:
        self.spec = artifact.spec
        self._state = OpenSession(self.spec)
        self._constants = load_constants(artifact)
        self._engine_path = artifact.path("engine")
        self._program = program
        self._kit = _kit_of(artifact)
        self.inference_precision: str = artifact.variant.precision
        self.max_batch = self.spec.input.shape[0]
        # A version's help ends with an error in some and without in others.
        _, output = self._call([program, "--help"])
        version = trtexec_version(output)
        if version is None:
            raise EngineError(f"{program} does not say which TensorRT it is of")
        self._version = version
        self.engine = (
            f"trtexec {'.'.join(map(str, version))} (a process for each call, values of six "
            "digits: its latency says nothing)"
        )

    def _call(self, argv: Sequence[str]) -> tuple[int, str]:
        try:
            done = subprocess.run(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_RUN_LIMIT_S,
                check=False,
            )
        except OSError as error:
            raise EngineError(f"{self._program} cannot be started: {error}") from None
        except subprocess.TimeoutExpired:
            raise EngineError(f"{self._program} did not end within {_RUN_LIMIT_S:g} s") from None
        return done.returncode, done.stdout.decode(errors="replace")

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, in the order of ``spec.outputs``, and the constants."""
        self._state.check()
        array = check_feeds(self.spec, feeds)
        least, _, most = self._kit.batches or (len(array),) * 3
        outputs = _in_turns(self._run, array, range(least, most + 1))
        return check_outputs(self.spec, outputs, "trtexec") | self._constants

    def _run(self, array: Array) -> dict[str, Array]:
        with temporary_folder() as folder:
            image, answer = folder / "input.bin", folder / "output.json"
            array.tofile(image)
            argv = trtexec_run_argv(
                self._version,
                self._kit,
                str(self._engine_path),
                str(image),
                str(answer),
                batch=len(array),
                trtexec=self._program,
            )
            code, output = self._call(argv)
            if code != 0:
                raise EngineError(
                    f"{self._program} failed on {self.spec.name}: {trtexec_failure(output)} "
                    f"({BUILT_HERE})"
                )
            return read_export_output(answer)

    def close(self) -> None:
        """Nothing stays loaded between calls."""
        self._state.close()


def _in_turns(
    run: Callable[[Array], dict[str, Array]], array: Array, batches: range
) -> dict[str, Array]:
    """Run an array of any batch on an engine that takes ``batches``."""
    if len(array) < batches[0]:
        raise FeedError(
            f"the engine was built for batches of {batches[0]} and more, got {len(array)}"
        )
    most = batches[-1]
    turns = [run(array[start : start + most]) for start in range(0, len(array), most)]
    if len(turns) == 1:
        return turns[0]
    return {name: np.concatenate([turn[name] for turn in turns]) for name in turns[0]}


def _kit_of(artifact: Artifact) -> BuildKit:
    if "build" in artifact.files:
        return load_build_kit(artifact)
    spec = artifact.spec
    if spec.input.shape[0] is None:
        raise ArtifactError(
            f"{artifact.folder}: without its build file nothing says which batches the engine "
            "takes; convert and build it again"
        )
    return BuildKit(spec.name, artifact.variant.precision, spec.input.name, spec.input.shape, {})


def _named(tensors: Mapping[str, bool], inputs: bool) -> list[str]:
    return sorted(name for name, is_input in tensors.items() if is_input == inputs)
