"""The engine of a TensorRT kit, built by trtexec on the device that will run it.

An engine belongs to one GPU and one version of TensorRT. Those that were built stay in ``engines/``
of the device's working folder, under a name that holds all that they depend on.
"""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from edge.artifact import Artifact
from edge.engines.trtexec import (
    BuildKit,
    dialect_of,
    load_build_kit,
    parse_version,
    trtexec_build_argv,
    trtexec_version,
)
from edge.engines.trtexec_output import trtexec_failure
from edge.errors import DeviceError, EngineError, SpecError, first_line
from edge.files import sha256_of
from edge.terminal import duration
from targets.devices.readings import DeviceInfo
from targets.devices.state import read_device
from targets.transports.transport import Done, Transport, check, scratch_folder

__all__ = [
    "NO_MEMORY",
    "BuiltEngine",
    "Trtexec",
    "build_engine",
    "failure",
    "find_on_device",
    "kit_for",
]

Version = tuple[int, int, int]
Say = Callable[[str], None]

_CALL_S = 60.0
# Its first start on a board reads some hundred MB of libraries.
_FIRST_CALL_S = 180.0
_BEAT_S = 30.0
_FULL_KB = 16 * 1024
NO_MEMORY = re.compile(r"OutOfMemory|out of memory|bad_alloc|Cannot allocate memory")

# NVIDIA's packages for Jetsons, its containers, its archives: often on no PATH.
_FIND = """command -v trtexec && exit
for path in /usr/src/tensorrt/bin/trtexec /opt/tensorrt/bin/trtexec /usr/local/tensorrt/bin/trtexec
do if [ -x "$path" ]; then echo "$path"; exit; fi; done
exit 1"""
# All of a command's output in a file, whose path is the first argument.
_LOGGED = 'exec "$@" > "$0" 2>&1'


@dataclass(frozen=True)
class Trtexec:
    """The program on a device: its path there and the version of TensorRT that it is of."""

    path: str
    version: Version

    @property
    def dotted(self) -> str:
        """The version as one writes it."""
        return ".".join(map(str, self.version))


@dataclass(frozen=True)
class BuiltEngine:
    """An engine on a device; ``build_s`` is None where it was there already."""

    path: str
    build_s: float | None

    @property
    def name(self) -> str:
        """Its file name without the suffix."""
        return posixpath.basename(self.path).removesuffix(".engine")


def find_on_device(transport: Transport) -> Trtexec:
    """The program on the device; DeviceError where it is missing, broken or says no version."""
    found = transport.run(["sh", "-c", _FIND], timeout_s=_CALL_S)
    path = first_line(found.stdout)
    if found.returncode != 0 or not path.startswith("/"):
        raise DeviceError(
            f"{transport.name}: trtexec is not there, neither on PATH nor in "
            "/usr/src/tensorrt/bin; on a Jetson `sudo apt install tensorrt` brings it, elsewhere "
            "the package libnvinfer-bin of the same version as libnvinfer"
        )
    # The help of some versions ends with an error.
    done = transport.run([path, "--help"], timeout_s=_FIRST_CALL_S)
    output = _text(done)
    version = trtexec_version(output)
    if version is None and done.returncode == 0:
        version = _packaged_version(transport)
    if version is None:
        raise DeviceError(
            f"{transport.name}: {path} does not say which TensorRT it is of: "
            f"{trtexec_failure(output)}"
        )
    return Trtexec(path, version)


def _packaged_version(transport: Transport) -> Version | None:
    done = transport.run(
        ["dpkg-query", "--show", "--showformat=${Version}", "libnvinfer-bin"], timeout_s=_CALL_S
    )
    with suppress(SpecError):
        return parse_version(done.stdout.decode(errors="replace"))
    return None


def kit_for(artifact: Artifact, batch: int | None) -> BuildKit:
    """The artifact's kit, an open batch closed at ``batch``.

    Engines run best at the batch that they were optimised for. Raises ArtifactError for an artifact
    that is no kit, SpecError for a batch that it cannot have.
    """
    kit = load_build_kit(artifact)
    if batch is None or batch == kit.input_shape[0]:
        return kit
    if kit.batches is None:
        raise SpecError(f"{kit.name}: the batch is fixed at {kit.input_shape[0]}, not {batch}")
    if batch < 1:
        raise SpecError(f"{kit.name}: a batch has 1 image or more, got {batch}")
    return replace(kit, batches=(batch, batch, batch))


def build_engine(
    transport: Transport,
    trtexec: Trtexec,
    artifact: Artifact,
    kit: BuildKit,
    *,
    remote_folder: str,
    log_folder: Path,
    say: Say,
    device: DeviceInfo | None = None,
    workspace_mb: int = 1024,
    timeout_s: float = 3600.0,
) -> BuiltEngine:
    """The engine of a kit whose files lie in ``remote_folder``, built where it is not there yet.

    It is kept by device, version of TensorRT, ONNX file and options, and gets its name when it is
    whole. Beside it lies what TensorRT learnt about this GPU's kernels (its timing cache), which
    makes the next build faster. Raises DeviceError in one line; what trtexec printed is then in
    ``log_folder``.
    """
    try:
        model = kit.models[dialect_of(trtexec.version).typing]
        options = trtexec_build_argv(trtexec.version, kit, "", workspace_mb=workspace_mb)
    except EngineError as error:
        raise DeviceError(f"{transport.name}: {error}") from None
    place = f"{_device_word(transport, device)}-{trtexec.dotted}"
    content = sha256_of(artifact.folder / model)[:16]
    flags = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:8]
    engines = posixpath.join(transport.work_dir, "engines")
    engine = posixpath.join(engines, f"{place}-{content}-{flags}.engine")
    if transport.run(["test", "-s", engine], timeout_s=_CALL_S).returncode == 0:
        return BuiltEngine(engine, None)

    what = f"building the TensorRT {trtexec.dotted} engine of {kit.name} on {transport.name}"
    cache = posixpath.join(engines, f"{place}.timing-cache")
    begin = time.monotonic()
    with scratch_folder(transport) as folder:
        check(transport.run(["mkdir", "-p", engines, folder], timeout_s=_CALL_S), what)
        fresh, fresh_cache, log = (
            posixpath.join(folder, name) for name in ("network.engine", "timing-cache", "build.log")
        )
        # A copy: a build that breaks off may leave it damaged.
        transport.run(["cp", cache, fresh_cache], timeout_s=_CALL_S)
        argv = trtexec_build_argv(
            trtexec.version,
            kit,
            fresh,
            folder=remote_folder,
            workspace_mb=workspace_mb,
            timing_cache_path=fresh_cache,
            trtexec=trtexec.path,
        )
        local_log = log_folder / f"{posixpath.basename(engine)}.build.log"
        try:
            with _heartbeat(what, say):
                done = transport.run(["sh", "-c", _LOGGED, log, *argv], timeout_s=timeout_s)
        except DeviceError as error:
            raise DeviceError(f"{error}{_pulled(transport, log, local_log)}") from None
        whole = transport.run(["test", "-s", fresh], timeout_s=_CALL_S).returncode == 0
        if done.returncode != 0 or not whole:
            where = _pulled(transport, log, local_log)
            reason = failure(done, _read(local_log) if where else _text(done))
            reason += _storage(transport, folder)
            raise DeviceError(f"{what} failed: {reason}{where}")
        check(transport.run(["mv", "-f", fresh, engine], timeout_s=_CALL_S), what)
        transport.run(["mv", "-f", fresh_cache, cache], timeout_s=_CALL_S)
    build_s = time.monotonic() - begin
    say(f"built within {build_s:.0f} s; kept on {transport.name} as {engine}")
    return BuiltEngine(engine, build_s)


def failure(done: Done, output: str) -> str:
    """Why a call of trtexec failed, in a line: its own reason, and what the user can do."""
    if done.returncode == 126:
        return "trtexec may not be executed there"
    if done.returncode == 137:
        return "trtexec was killed, as the kernel does when memory runs out; " + _MEMORY_FIX
    if done.returncode > 128:
        return f"trtexec was ended by signal {done.returncode - 128}"
    if done.returncode == 0:
        return "trtexec said that it passed and left nothing"
    reason = trtexec_failure(output)
    if NO_MEMORY.search(output):
        return f"{reason}; {_MEMORY_FIX}"
    return reason


_MEMORY_FIX = "close what else runs on the device (its desktop first) or give it swap space"


def _device_word(transport: Transport, device: DeviceInfo | None) -> str:
    """What the device is, for a file name: boards share a SoC and differ in what of it is on."""
    info = device or read_device(transport)
    parts = [info.model, info.soc]
    if info.kind != "jetson":
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = transport.run(asked, timeout_s=_CALL_S)
        if done.returncode == 0:
            parts = [first_line(done.stdout)]
    text = " ".join(part for part in parts if part) or "unknown"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80]


@contextmanager
def _heartbeat(what: str, say: Say) -> Iterator[None]:
    """Say that something goes on for as long as the block does."""
    over = threading.Event()
    begin = time.monotonic()

    def tell() -> None:
        while not over.wait(_BEAT_S):
            say(f"{what}: {duration(time.monotonic() - begin)} so far")

    say(f"{what}: takes minutes, and is done once")
    teller = threading.Thread(target=tell, name="trtexec build", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _pulled(transport: Transport, log: str, local: Path) -> str:
    """The end of a message: where the device's log is now; empty where it cannot be had."""
    try:
        transport.pull(log, local, timeout_s=_CALL_S)
    except DeviceError:
        return ""
    return f"; all that trtexec said is in {local}"


def _storage(transport: Transport, folder: str) -> str:
    """What to add to a failure where the storage of the device is full."""
    done = transport.run(["df", "-Pk", folder], timeout_s=_CALL_S)
    fields = done.stdout.decode(errors="replace").strip().splitlines()[-1:]
    numbers = re.findall(r"\s(\d{1,18})(?=\s)", fields[0]) if fields else []
    free_kb = int(numbers[2]) if len(numbers) > 2 else math.inf
    if free_kb > _FULL_KB:
        return ""
    return f"; the storage of {folder} is full ({free_kb / 1024:.0f} MiB free): make room there"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _text(done: Done) -> str:
    return (done.stdout + b"\n" + done.stderr).decode(errors="replace")
