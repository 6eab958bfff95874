"""trtexec, the program that comes with TensorRT: what each version is to be told.

A build kit is an artifact whose engine is still to be built on the device that will run it. Its
file with the role ``build`` says what to build; the functions here say how, by version. Options
are those of the program's sources, TensorRT 8.2 to 11.4 (github.com/NVIDIA/TensorRT,
``samples/common/sampleOptions.cpp``). Standard library only.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edge.artifact import Artifact
from edge.errors import ArtifactError, EngineError, SpecError
from edge.records import read_record
from edge.texts import read_json

__all__ = [
    "DIALECTS",
    "BuildKit",
    "Dialect",
    "Timing",
    "find_trtexec",
    "load_build_kit",
    "parse_version",
    "trtexec_build_argv",
    "trtexec_run_argv",
    "trtexec_time_argv",
    "trtexec_version",
]

Version = tuple[int, int, int]
# plain: float32, precisions by flags; strong: every tensor has the type that it is computed in.
Typing = Literal["plain", "strong"]

KIT_SCHEMA = 1
# Where NVIDIA's packages put it on a Jetson, outside of PATH.
_USUAL_PLACE = "/usr/src/tensorrt/bin/trtexec"


@dataclass(frozen=True)
class Dialect:
    """What a range of versions wants to hear, from ``since`` to the next dialect."""

    since: tuple[int, int]
    text: str
    typing: Typing
    workspace: str
    build_only: str
    precision_flags: Mapping[str, tuple[str, ...]]


_FLAGS = {"fp16": ("--fp16",), "int8": ("--int8", "--fp16")}
DIALECTS = (
    Dialect((8, 2), "8.2 to 8.3", "plain", "--workspace={}", "--buildOnly", _FLAGS),
    Dialect((8, 4), "8.4 to 8.5", "plain", "--memPoolSize=workspace:{}", "--buildOnly", _FLAGS),
    Dialect((8, 6), "8.6 to 9.3", "plain", "--memPoolSize=workspace:{}", "--skipInference", _FLAGS),
    Dialect((10, 0), "10", "plain", "--memPoolSize=workspace:{}", "--skipInference", _FLAGS),
    # The precision flags are gone: types are the file's.
    Dialect((11, 0), "11", "strong", "--memPoolSize=workspace:{}", "--skipInference", {}),
)
_LATEST_MAJOR = 11


@dataclass(frozen=True)
class BuildKit:
    """What to build: the content of a kit's ``build`` file.

    ``models`` are file names by typing. ``batches`` is the least, the usual and the largest batch
    of an engine whose batch is open, None where ``input_shape`` is fixed. ``oldest`` is the first
    TensorRT that has all of the network's operators.
    """

    name: str
    precision: str
    input_name: str
    input_shape: tuple[int | None, ...]
    models: Mapping[str, str]
    batches: tuple[int, int, int] | None = None
    oldest: tuple[int, int] = (8, 2)

    def shapes(self, batch: int) -> str:
        """``input:1x3x256x192``, as trtexec writes shapes."""
        sizes = (batch, *self.input_shape[1:])
        return f"{self.input_name}:{'x'.join(str(size) for size in sizes)}"

    def to_json(self) -> dict[str, Any]:
        """The kit as plain values, with the command lines of every dialect for people."""
        engine = f"{self.name}.engine"
        return {
            "schema": KIT_SCHEMA,
            "name": self.name,
            "precision": self.precision,
            "input_name": self.input_name,
            "input_shape": list(self.input_shape),
            "models": dict(self.models),
            "batches": None if self.batches is None else list(self.batches),
            "oldest": list(self.oldest),
            "commands": {
                dialect.text: {
                    "build": trtexec_build_argv(version, self, engine),
                    "time": trtexec_time_argv(version, self, engine, "times.json"),
                }
                for dialect in DIALECTS
                # Those of which some version is new enough, each in its first such version.
                for version in [(*max(dialect.since, self.oldest), 0)]
                if dialect_of(version) is dialect
            },
        }


def load_build_kit(artifact: Artifact) -> BuildKit:
    """The kit of a ``tensorrt-*`` artifact; ArtifactError where its ``build`` file is none."""
    path = artifact.path("build")
    fix = "; convert it again"
    data = read_json(path, ArtifactError, fix)
    schema = data.get("schema") if isinstance(data, dict) else None
    if isinstance(schema, int) and schema > KIT_SCHEMA:
        raise ArtifactError(
            f"{path}: written by a newer edgepose (schema {schema}); upgrade edgepose"
        )
    try:
        return read_record(BuildKit, data, other=True)
    except SpecError as error:
        raise ArtifactError(f"{path}: no build kit ({error}){fix}") from None


# --- versions -------------------------------------------------------------------------------------


def parse_version(text: str) -> Version:
    """``10.3.0.30-1+cuda12.5`` -> (10, 3, 0); SpecError where there is no version in it."""
    found = re.match(r"\s*(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?", text)
    if not found:
        raise SpecError(f"{text!r} is no TensorRT version; one looks like 10.3.0")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def trtexec_version(output: str) -> Version | None:
    """The version in what trtexec printed (any call of it, also ``--help``), None without one.

    Its first line holds ``[TensorRT v8502]``: major x 1000 + minor x 100 + patch below 10,
    ``[TensorRT v100300]``: major x 10000 + minor x 100 + patch from then on.
    """
    found = re.search(r"\[TensorRT v(\d{4,6})\]", output)
    if not found:
        return None
    number = int(found[1])
    major, rest = divmod(number, 10000 if number >= 100000 else 1000)
    return major, rest // 100, rest % 100


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def find_trtexec() -> str | None:
    """The program on PATH or where NVIDIA's packages put it; None where it is not installed."""
    return shutil.which("trtexec") or shutil.which(_USUAL_PLACE)


def dialect_of(version: Version) -> Dialect:
    """The dialect of a version; EngineError for one that is too old or not known yet."""
    if version[:2] < DIALECTS[0].since or version[0] > _LATEST_MAJOR:
        raise EngineError(
            f"TensorRT {_dotted(version)} is not known here; build kits are for 8.2 to "
            f"{_LATEST_MAJOR}.x"
        )
    return [dialect for dialect in DIALECTS if dialect.since <= version[:2]][-1]


# --- command lines --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """How trtexec measures.

    Each of the three switches is meant in every version, whatever its default: TensorRT 11 leaves
    transfers out, waits actively and captures a CUDA graph unless it is told not to, and 10 the
    other way round. Here an image goes to the device and the answers come back, the wait is an
    active one, and no graph is captured, which is what the engine of this kit does.
    """

    warmup_ms: int = 500
    duration_s: int = 10
    iterations: int = 200
    transfers: bool = True
    spin_wait: bool = True
    cuda_graph: bool = False

    def flags(self, version: Version) -> list[str]:
        """The options of a version."""
        flags = [
            f"--warmUp={self.warmup_ms}",
            f"--duration={self.duration_s}",
            f"--iterations={self.iterations}",
        ]
        # (said to 8.2..10 where wanted otherwise than by default, said to 11 likewise)
        switches = (
            (self.transfers, "", "--noDataTransfers", "--includeDataTransfers", ""),
            (self.spin_wait, "--useSpinWait", "", "", "--noSpinWait"),
            (self.cuda_graph, "--useCudaGraph", "", "", "--noCudaGraph"),
        )
        for wanted, on_10, off_10, on_11, off_11 in switches:
            on, off = (on_11, off_11) if version[0] >= 11 else (on_10, off_10)
            flags.append(on if wanted else off)
        return [flag for flag in flags if flag]


def trtexec_build_argv(
    version: Version,
    kit: BuildKit,
    engine_path: str,
    *,
    folder: str = "",
    workspace_mb: int = 1024,
    timing_cache_path: str | None = None,
    trtexec: str = "trtexec",
) -> list[str]:
    """The call that builds a kit's engine and measures nothing.

    ``folder`` is where the kit lies on the device, with ``/`` between its parts. ``workspace_mb``
    bounds the scratch memory that a kernel may want; TensorRT 8.2 allows 16 MiB by itself, which
    hides the fast kernels, and later ones take all there is, which a Jetson shares with its CPU.
    """
    dialect = dialect_of(version)
    if version[:2] < kit.oldest:
        raise EngineError(
            f"{kit.name} needs TensorRT {_dotted(kit.oldest)} or newer (its operators or its opset "
            f"do), this is {_dotted(version)}"
        )
    if workspace_mb < 1:
        raise SpecError(f"the workspace must be 1 MiB or more, got {workspace_mb}")
    argv = [
        trtexec,
        f"--onnx={_in(folder, kit.models[dialect.typing])}",
        f"--saveEngine={engine_path}",
        dialect.workspace.format(workspace_mb),
        *dialect.precision_flags.get(kit.precision, ()),
        dialect.build_only,
    ]
    if kit.batches:
        for which, batch in zip(("min", "opt", "max"), kit.batches, strict=True):
            argv.append(f"--{which}Shapes={kit.shapes(batch)}")
    if timing_cache_path:
        argv.append(f"--timingCacheFile={timing_cache_path}")
    return argv


def trtexec_time_argv(
    version: Version,
    kit: BuildKit,
    engine_path: str,
    times_path: str,
    *,
    timing: Timing | None = None,
    batch: int | None = None,
    input_path: str | None = None,
    trtexec: str = "trtexec",
) -> list[str]:
    """The call that measures a built engine and writes every run's times to a JSON file.

    ``batch`` is for an engine whose batch is open, its usual one where None. ``input_path`` holds
    the input's raw float32 bytes (random values without one).
    """
    dialect_of(version)
    argv = [trtexec, f"--loadEngine={engine_path}", *(timing or Timing()).flags(version)]
    argv.append(f"--exportTimes={times_path}")
    return argv + _feed_flags(kit, batch, input_path)


def trtexec_run_argv(
    version: Version,
    kit: BuildKit,
    engine_path: str,
    input_path: str,
    output_path: str,
    *,
    batch: int | None = None,
    trtexec: str = "trtexec",
) -> list[str]:
    """The call that runs an engine once on given bytes and writes its outputs as JSON."""
    once = Timing(0, 0, 1, transfers=True, spin_wait=False, cuda_graph=False)
    argv = [trtexec, f"--loadEngine={engine_path}", *once.flags(version)]
    return [*argv, *_feed_flags(kit, batch, input_path), f"--exportOutput={output_path}"]


def _feed_flags(kit: BuildKit, batch: int | None, input_path: str | None) -> list[str]:
    flags = []
    if kit.batches:
        least, usual, most = kit.batches
        size = usual if batch is None else batch
        if not least <= size <= most:
            raise SpecError(
                f"{kit.name}: the engine takes batches of {least} to {most}, not {size}"
            )
        flags.append(f"--shapes={kit.shapes(size)}")
    elif batch not in (None, kit.input_shape[0]):
        raise SpecError(f"{kit.name}: the batch is fixed at {kit.input_shape[0]}, not {batch}")
    if input_path:
        flags.append(f"--loadInputs={kit.input_name}:{input_path}")
    return flags


def _in(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder else name
